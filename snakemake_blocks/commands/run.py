"""Run a pipeline through Snakemake, stop it, take results back: for CLI and ``run_blockwise``."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from snakemake_blocks.commands.generate import (
    Description,
    Draft,
    Options,
    make_plan,
    preview,
    run_lock,
    to_pipeline,
    working_folder,
)
from snakemake_blocks.engine.import_check import ImportCheck
from snakemake_blocks.engine.launch import INTERRUPTED, run_snakemake, start_import_check
from snakemake_blocks.engine.profiles import resolve_profile
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.pilot import pilot, probe
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.moving import refuse_running
from snakemake_blocks.state.reset import missing_lines, reset_blocks, reset_missing
from snakemake_blocks.state.status import RunStatus, read_status
from snakemake_blocks.system.files import write_atomically
from snakemake_blocks.system.location import way_to
from snakemake_blocks.system.locks import holder_of, is_alive
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.view.preview import TaskPreview
from snakemake_blocks.work.context_check import SAMPLES, ContextReport, check_context

__all__ = [
    "asks_for_dry_run",
    "check_task_context",
    "exit_status",
    "import_problems",
    "preview_run",
    "reset_lost",
    "reset_run",
    "run_pipeline",
    "stop_run",
]


def run_pipeline(description: Description, options: Options) -> tuple[int, RunStatus]:
    """Generate, run Snakemake, and tell the truth about what came of it.

    Returns
    -------
    tuple of (int, RunStatus)
        Snakemake's exit status (130 if interrupted), and the state of all blocks (in a pilot, of
        its blocks, the others shown as masked), read from ledgers. Success is what the status
        says, not what the exit status says.
    """
    pipeline = to_pipeline(description)
    asked = _asked(pipeline, options)
    draft = Draft.of(asked, options)
    root = pipeline.run_directory
    path, folder = root / "Snakefile", working_folder(pipeline)
    arguments = _arguments(options, folder, path)
    with run_lock(root, folder):
        plan = draft.write_all(path, folder)
        RunPaths(root).drain.unlink(missing_ok=True)
        status = run_snakemake(
            arguments,
            folder=folder,
            root=root,
            environment=_environment(options),
            check=_import_check(plan, pipeline.folder, options),
        )
        state = replace(read_status(plan, root), ended=_how_it_ended(status, root, options))
        if asked is not pipeline:  # the whole plan comes back; what the pilot did counts in it
            Draft.of(pipeline, options).write_all(path, folder)
        return status, state


def _import_check(plan: Plan, folder: Path, options: Options) -> ImportCheck | None:
    """Return who imports the functions while Snakemake starts, where jobs run on this host.

    The host that submits to a cluster may lack what its nodes have.
    """
    elsewhere = {"--executor", "-e", "--profile"} & set(options.snakemake_arguments)
    if options.profile or elsewhere:
        return None
    return start_import_check(plan, folder, environment=_environment(options))


def import_problems(description: Description) -> list[str]:
    """Return which functions of a pipeline cannot be imported here, a line each."""
    pipeline = to_pipeline(description)
    check = start_import_check(make_plan(pipeline), pipeline.folder)
    return check.problems() if check is not None else []


def preview_run(description: Description, options: Options) -> dict[str, TaskPreview]:
    """Return what :func:`run_pipeline` would do, by task; writes nothing and starts nothing.

    Raises
    ------
    SpecError, PlanError
        As :func:`run_pipeline`.
    """
    pipeline = to_pipeline(description)
    asked = _asked(pipeline, options)
    return preview(asked, Draft.of(asked, options).plan)


def asks_for_dry_run(arguments: Sequence[str]) -> bool:
    """Tell whether arguments for Snakemake ask it for a dry run; ours tells of blocks instead."""
    return any(re.fullmatch(r"--dry-?run|-[kpqF]*n[kpqF]*", argument) for argument in arguments)


def _how_it_ended(status: int, root: Path, options: Options) -> str:
    """Return what left blocks pending, as far as Snakemake tells."""
    if status == INTERRUPTED:
        return "the run was interrupted"
    if RunPaths(root).drain.exists():
        return "the run was stopped"
    if status:
        return f"Snakemake ended with exit status {status}, see above"
    asked = " ".join(options.snakemake_arguments)
    return "Snakemake did all that it was asked for" + (f" with {asked}" if asked else "")


def _asked(pipeline: Pipeline, options: Options) -> Pipeline:
    """Return the pipeline with the blocks that are asked for."""
    if options.roi is not None:
        return pilot(pipeline, Draft.of(pipeline, options).plan, options.roi)
    if options.probe:
        return probe(pipeline, Draft.of(pipeline, options).plan)
    return pipeline


def exit_status(snakemake: int, state: RunStatus) -> int:
    """Return the exit status of `run`: what the ledgers say, not what Snakemake says."""
    if snakemake == INTERRUPTED:
        return snakemake
    return 0 if state.complete else 1


def _environment(options: Options) -> dict[str, str]:
    """Return the environment of Snakemake and its jobs."""
    path = [*options.python_path, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def _arguments(options: Options, folder: Path, path: Path) -> list[str]:
    """Return Snakemake's arguments: those of a profile, `local` unless another one is asked for."""
    profile = resolve_profile(options.profile or "local", folder)
    name = os.path.join(way_to(path.parent, folder), path.name)
    arguments = ["--snakefile", name, "--profile", profile]
    arguments += ["--rerun-incomplete", "--keep-going"]
    if not options.profile:
        arguments += ["--cores", str(options.cores)]
        if options.quiet:
            arguments.append("--logger-blocks-quiet")
    elif options.quiet:
        arguments += ["--quiet", "all"]
    return arguments + list(options.snakemake_arguments)


def stop_run(root: Path) -> str:
    """Let running blocks finish and start nothing new; return what was done."""
    write_atomically(RunPaths(root).drain, b"")
    holder = holder_of(RunPaths(root).lock)
    if holder is None or is_alive(holder) is False:
        return f"{root}: nothing runs; jobs that start nevertheless will stop at once"
    if is_alive(holder):
        os.kill(holder.pid, signal.SIGTERM)
        return f"{root}: {holder} was told to stop; running blocks finish"
    return f"{root}: running blocks finish; stop Snakemake there ({holder}) with SIGTERM"


def reset_lost(plan: Plan, root: Path, task: str = "") -> list[str]:
    """Forget results whose chunks are gone, of one task or all; return a line per task with any.

    Raises
    ------
    BusyError
        While anything runs in this run directory.
    """
    folder = plan.folder(root)
    with run_lock(root, folder):
        refuse_running(root)
        return list(missing_lines(reset_missing(plan, root, folder, name=task)))


def reset_run(
    plan: Plan, root: Path, task: str, *, roi: Box | None = None, only_failed: bool = False
) -> int:
    """Forget results, see :func:`snakemake_blocks.state.reset.reset_blocks`.

    Raises
    ------
    BusyError
        While anything runs in this run directory.
    """
    with run_lock(root, plan.folder(root)):
        refuse_running(root)
        return reset_blocks(plan, root, task, roi=roi, only_failed=only_failed)


def check_task_context(
    description: Description,
    task: str,
    *,
    context: Sequence[int] = (),
    samples: int = SAMPLES,
    tolerance: float = 1e-5,
) -> ContextReport:
    """Tell whether a context is enough, see :func:`.work.context_check.check_context`.

    ``context`` is one number for all axes, one per axis, or nothing for the declared one.
    """
    pipeline = to_pipeline(description)
    plan = make_plan(pipeline)
    asked = None
    if context and task in plan.tasks:
        ndim = plan.tasks[task].grid.ndim
        asked = tuple(context) * ndim if len(context) == 1 else tuple(context)
    return check_context(
        plan, pipeline.folder, task, context=asked, samples=samples, tolerance=tolerance
    )
