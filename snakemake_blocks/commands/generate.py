"""From a description to a plan in place and a Snakefile: plan, prove, move state, write."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from snakemake_blocks.commands.place_check import place_problems
from snakemake_blocks.commands.room_check import room_findings
from snakemake_blocks.engine.snakefile import (
    MADE_BY,
    conda_environment,
    explicit_snakefile,
    snakefile,
)
from snakemake_blocks.engine.stale_locks import unlock, unmark
from snakemake_blocks.errors import BusyError, InputError, SpecError
from snakemake_blocks.geometry.batching import Target
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.operations.registry import load_pipeline
from snakemake_blocks.plan.identity import differences
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import DamagedPlanError, Plan, PlannedTask
from snakemake_blocks.plan.planning import pickles, pickling_problems, plan_pipeline
from snakemake_blocks.proof.findings import Proof
from snakemake_blocks.proof.proof import check_plan
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.moving import move_state, refuse_running
from snakemake_blocks.state.products import note_leftovers, reopen
from snakemake_blocks.state.reasons import SOURCE_CHANGED
from snakemake_blocks.state.reset import missing_lines, reset_blocks, reset_missing
from snakemake_blocks.storage.creation import create_all
from snakemake_blocks.system.files import is_writable, read_file, write_atomically
from snakemake_blocks.system.location import (
    is_same,
    make_target,
    way_to,
)
from snakemake_blocks.system.locks import held
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.sources import facts_of
from snakemake_blocks.tasks.task import SourceChange, Task
from snakemake_blocks.view.preview import TaskPreview, preview_tasks

__all__ = [
    "Description",
    "Draft",
    "Options",
    "check_pipeline",
    "generate",
    "load_plan",
    "make_plan",
    "prepare",
    "preview",
    "run_lock",
    "snakefile_path",
    "to_pipeline",
    "working_folder",
]

Description = Pipeline | Path | str | Task | Sequence[Task]


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate and run.

    Parameters
    ----------
    cores : int
        Local cores; ignored with a profile that sets them.
    profile : str
        Name or path of a Snakemake profile, empty for none.
    target : Target
        Where jobs run; decides ``blocks_per_job: auto``.
    rebatch : bool
        Resolve ``auto`` anew instead of keeping what the plan in place has.
    explicit : bool
        One literal rule per job.
    roi : Box, optional
        A pilot: only the blocks that this region, in world units, needs.
    probe : bool
        Only a few blocks of each task, and what they need.
    quiet : bool
        Only errors from Snakemake.
    snakemake_arguments : tuple of str
        Passed on as they are.
    python_path : tuple of str
        Folders in which jobs look for modules first.
    """

    cores: int = 1
    profile: str = ""
    target: Target = Target.LOCAL
    rebatch: bool = False
    explicit: bool = False
    roi: Box | None = None
    probe: bool = False
    quiet: bool = False
    snakemake_arguments: tuple[str, ...] = ()
    python_path: tuple[str, ...] = ()


def to_pipeline(description: Description) -> Pipeline:
    """Return the pipeline of a YAML file, of tasks, or the pipeline itself.

    Raises
    ------
    SpecError
        With every problem of the description.
    """
    if isinstance(description, Pipeline):
        return description
    if isinstance(description, str | Path):
        return load_pipeline(description)
    tasks = [description] if isinstance(description, Task) else list(description)
    folder = Path.cwd()
    return Pipeline.from_tasks(tasks, folder=folder, run_directory=folder / "blocks")


def make_plan(
    description: Description,
    *,
    target: Target | str = Target.LOCAL,
    before: Plan | None = None,
    pickling: bool = True,
) -> Plan:
    """Return the plan of a pipeline, of tasks, or of a pipeline.yaml; writes nothing.

    Parameters
    ----------
    description : Pipeline, Task, sequence of Task, or path of a pipeline.yaml
        What to plan.
    target : {"local", "cluster"}
        Where jobs will run; decides ``blocks_per_job: auto``.
    before : Plan, optional
        A plan whose resolved batches are kept.
    pickling : bool
        Whether functions without an import path will be sent to other processes.

    Raises
    ------
    SpecError
        With every problem of the description.
    PlanError
        If the tasks cannot be planned together.
    """
    pipeline = to_pipeline(description)
    problems = place_problems(pipeline)
    for task in pipeline.tasks:
        problems += pickling_problems(task) if pickling else []
    if problems:
        raise SpecError(problems)
    return plan_pipeline(
        pipeline,
        facts={t.task_id: facts_of(t.operation.function, pipeline.folder) for t in pipeline.tasks},
        target=Target(target),
        run_directory=way_to(pipeline.run_directory, pipeline.folder),
        base=way_to(pipeline.folder, pipeline.run_directory),
        before=before,
        pickling=pickling,
    )


def check_pipeline(
    description: Description, *, target: Target | str = Target.LOCAL, pickling: bool = True
) -> tuple[Plan, Proof]:
    """Return the plan of a pipeline, and what is proved of it or stands against it.

    Raises
    ------
    SpecError, PlanError
        As :func:`make_plan`.
    """
    pipeline = to_pipeline(description)
    plan = make_plan(pipeline, target=target, pickling=pickling)
    return plan, _proof_of(plan, pipeline)


def _proof_of(plan: Plan, pipeline: Pipeline) -> Proof:
    """Return what is proved of a plan, and whether what it makes has room where it goes."""
    proof = check_plan(plan, pipeline.tasks)
    violations, warnings = room_findings(plan, pipeline.folder, pipeline.run_directory)
    return replace(
        proof,
        violations=(*proof.violations, *violations),
        warnings=(*proof.warnings, *warnings),
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A proved plan that may take the place of the one in the run directory; not written yet.

    Parameters
    ----------
    pipeline : Pipeline
        What was planned.
    plan : Plan
        The plan.
    text : str
        The Snakefile, for the pipeline's folder.
    layout : callable
        Makes it for another one.
    old : Plan or None
        The plan in place, if any.
    in_place : bytes
        Its file.
    damage : str
        Why that cannot be read, empty if it can.
    """

    pipeline: Pipeline
    plan: Plan
    text: str
    layout: Callable[..., str]
    old: Plan | None
    in_place: bytes
    damage: str = ""

    @classmethod
    def of(cls, pipeline: Pipeline, options: Options) -> Draft:
        """Plan, and refuse what is not proved.

        Raises
        ------
        SpecError
            With every violation.
        """
        root = pipeline.run_directory
        in_place = _content(RunPaths(root).plan)
        old, damage = _plan_in(root) if in_place else (None, "")
        if old is not None:
            _refuse_other_pipeline(old, pipeline)
        before = None if options.rebatch else old
        plan = make_plan(pipeline, target=options.target, before=before)
        violations = _proof_of(plan, pipeline).violations
        if violations:
            raise SpecError([f"{pipeline.name}: {violation}" for violation in violations])
        layout = explicit_snakefile if options.explicit else snakefile
        text = layout(plan, version=_version())
        return cls(pipeline, plan, text, layout, old, in_place, damage)

    def write(self) -> Plan:
        """Make missing outputs and move state under the plan; the caller holds the run lock.

        Raises
        ------
        BusyError
            While a job of this run directory is going on, or if it was planned anew meanwhile.
        """
        root = self.pipeline.run_directory
        refuse_running(root)
        if _content(RunPaths(root).plan) != self.in_place:
            raise BusyError(f"{root}: somebody else planned here just now; try again")
        missing = _missing_arrays(self.pipeline, self.plan)
        if self.damage:
            print(f"{self.damage}: that is done now, {_WHAT_FITS}", file=sys.stderr, flush=True)
        for line in self.changes():
            print(comment(line), file=sys.stderr, flush=True)
        note_leftovers(self.old, self.plan, root)
        move_state(self.old, self.plan, root, pickles(self.pipeline))
        for name in missing if self.old else ():
            reset_blocks(self.plan, root, name)  # what was done is gone with the array
        arrays = (a for arrays in missing.values() for a in arrays)
        for line in create_all(arrays, self.pipeline.folder):
            print(line, file=sys.stderr, flush=True)
        for line in missing_lines(reset_missing(self.plan, root, self.pipeline.folder)):
            print(comment(line), file=sys.stderr, flush=True)
        for line in reopen(Judge(self.plan, root)):
            print(comment(line), file=sys.stderr, flush=True)
        return self.plan

    def changes(self) -> Iterator[str]:
        """Yield why earlier results of a task will not count: what of it is another now."""
        for name, task in self.plan.tasks.items():
            before = self.old.tasks.get(name) if self.old else None
            if before is not None and before.fingerprint != task.fingerprint:
                what = "; ".join(differences(before.identity, task.identity))
                yield f"{name}: {what}; earlier results do not count"
            elif before is not None and _source_has_changed(before, task):
                yield f"{name}: {SOURCE_CHANGED}; earlier results do not count"

    def write_all(self, path: Path, folder: Path) -> Plan:
        """Do the same, and write the Snakefile to ``path``; the caller holds the run lock.

        Parameters
        ----------
        path : Path
            The Snakefile.
        folder : Path
            Where Snakemake will run.
        """
        if path.is_dir():
            raise InputError(f"{path}: is a folder, not a file; move it away")
        plan = self.write()
        text = self.text
        if folder == self.pipeline.run_directory:
            text = self.layout(plan, version=_version(), at=".")
        write_atomically(path, text.encode())
        environment = path.parent / "envs" / "blocks.yaml"
        if not environment.exists():
            write_atomically(environment, conda_environment(_version()).encode())
        return plan


def preview(pipeline: Pipeline, plan: Plan) -> dict[str, TaskPreview]:
    """Return what a run of a plan of a pipeline would do, by task; writes nothing.

    Raises
    ------
    InputError
        If the run directory is another pipeline's.
    """
    root = pipeline.run_directory
    old, damage = _plan_in(root) if _content(RunPaths(root).plan) else (None, "")
    if damage:
        print(f"{damage}: a run does that, {_WHAT_FITS}", file=sys.stderr, flush=True)
    if old is not None:
        _refuse_other_pipeline(old, pipeline)
    lost = _missing_arrays(pipeline, plan) if old else ()
    return preview_tasks(plan, old, root, pipeline.folder, lost=lost)


def _missing_arrays(pipeline: Pipeline, plan: Plan) -> dict[str, list[ArrayInfo]]:
    """Return the arrays to be written that are not there, by task."""
    found: dict[str, list[ArrayInfo]] = {}
    for task in plan.tasks.values():
        for array in task.operation.written:
            if not (pipeline.folder / array.path).exists():
                found.setdefault(task.name, []).append(array)
    return found


def _source_has_changed(before: PlannedTask, task: PlannedTask) -> bool:
    """Tell whether results are made anew because of the source of the function."""
    known = bool(before.source and task.source)
    rerun = task.source_change is SourceChange.RERUN
    return rerun and known and before.source != task.source


_WHAT_FITS = "with the records that still fit"


def _plan_in(root: Path) -> tuple[Plan | None, str]:
    """Return the plan in place, or None and why it cannot be read."""
    try:
        return Plan.load(root), ""
    except DamagedPlanError as error:
        return None, str(error)


def _refuse_other_pipeline(old: Plan, pipeline: Pipeline) -> None:
    """Refuse a run directory that holds the state of a pipeline which is still there.

    Raises
    ------
    InputError
        With where the other one is. If it is gone, it was moved here.
    """
    folder = old.folder(pipeline.run_directory)
    if is_same(folder, pipeline.folder) and old.name in (pipeline.name, "python"):
        return
    there = folder.is_dir() if old.name == "python" else (folder / old.name).exists()
    if there:
        other = os.path.join(os.path.realpath(folder), comment(old.name))
        raise InputError(
            f"{pipeline.run_directory}: is the run directory of {other}; name another one in "
            f"{comment(pipeline.name)}, or remove it if that pipeline needs it no more"
        )


def _content(path: Path) -> bytes:
    """Return what a file holds, nothing if there is none."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return b""


def generate(
    description: Description, *, output: Path | None = None, options: Options | None = None
) -> tuple[Plan, Path]:
    """Plan, make missing outputs, move state under the plan and write the Snakefile.

    Parameters
    ----------
    description : as for :func:`make_plan`
    output : Path, optional
        The Snakefile; default: ``Snakefile`` beside the pipeline.yaml, or in the run directory of
        tasks of a Python program.
    options : Options, optional
        Layout and target.

    Returns
    -------
    tuple of (Plan, Path)
        The plan, and the Snakefile that was written.

    Raises
    ------
    BusyError
        While a job of this run directory, or another `run`, is going on.
    """
    pipeline, options = to_pipeline(description), options or Options()
    path = snakefile_path(pipeline, output)
    draft = Draft.of(pipeline, options)
    with run_lock(pipeline.run_directory, pipeline.folder):
        return draft.write_all(path, pipeline.folder), path


def working_folder(pipeline: Pipeline) -> Path:
    """Return where Snakemake runs: in the pipeline's folder, or if that is read-only in its own."""
    return pipeline.folder if is_writable(pipeline.folder) else pipeline.run_directory


def snakefile_path(pipeline: Pipeline, output: Path | None = None) -> Path:
    """Return where the Snakefile goes, unless somebody else's stands there."""
    default = pipeline.folder if pipeline.name != "python" else pipeline.run_directory
    path = output or default / "Snakefile"
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name a file")
    if path.parent.is_dir() and not is_writable(path.parent):
        raise InputError(
            f"{path}: its folder is not ours to write to; use `snakemake-blocks generate -o`, or "
            "`run`, which keeps its Snakefile in the run directory"
        )
    first = _content(path).partition(b"\n")[0].decode(errors="replace")
    whose = re.fullmatch(rf"{MADE_BY} \S+ from (.*), plan \w+\.", first)
    if path.exists() and (whose is None or whose[1] != comment(pipeline.name)):
        by = f"was made from {whose[1]}" if whose else "was not made by snakemake-blocks"
        raise InputError(
            f"{path}: {by}; move it, or write to another file with `snakemake-blocks generate -o`"
        )
    return path


@contextmanager
def run_lock(root: Path, folder: Path) -> Iterator[None]:
    """Hold the run directory, and clear Snakemake's books in ``folder`` of a run that was killed.

    It is done at once: who takes the lock of a dead run over is the only one to know of it.
    """
    make_target(root)
    with held(RunPaths(root).lock, os.environ, what=f"run directory {root}") as lock:
        if lock.taken_over_from is not None:
            unlock(folder, root)
        unmark(folder, root)
        yield


def prepare(pipeline: Pipeline) -> Plan:
    """Plan, make missing outputs and move state, without a Snakefile: what a module needs.

    Raises
    ------
    BusyError
        While a job of this run directory is going on.
    """
    draft = Draft.of(pipeline, Options())
    with run_lock(pipeline.run_directory, pipeline.folder):
        return draft.write()


def _version() -> str:
    return version("snakemake-blocks")


def load_plan(path: Path) -> tuple[Plan, Path]:
    """Return the plan of a run directory, and the directory.

    Raises
    ------
    InputError
        If there is none.
    """
    root = path if RunPaths(path).plan.exists() else path / "blocks"
    if not RunPaths(root).plan.exists():
        raise InputError(
            f"{path}: no plan.json here or in {root}; generate or run a pipeline first"
        )
    return Plan.load(root), root
