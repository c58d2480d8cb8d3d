"""The command line: parses, calls one public function, prints."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from snakemake_blocks.errors import BlocksError
from snakemake_blocks.system.quoting import comment

__all__ = ["main"]

_EXISTING = click.Path(path_type=Path)
_CORES = click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default=True,
    help="Local cores.",
)


class _Group(click.Group):
    """Turns our errors into one clear message and exit status 2, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BlocksError as error:
            click.echo(f"{error}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.filename is None:
                raise
            in_the_way = isinstance(error, (IsADirectoryError, NotADirectoryError))
            hint = "; move it away" if in_the_way else ""
            click.echo(f"{error.filename}: {error.strerror}{hint}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="snakemake-blocks", prog_name="snakemake-blocks")
def main() -> None:
    """Process huge volumes block by block, run by Snakemake.

    \b
    snakemake-blocks demo                 # see it work
    snakemake-blocks run pipeline.yaml    # plan, run, and report the truth
    """  # noqa: D301 - click wants the character itself


def _command(example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator for a verb whose help ends with an example."""
    return main.command(epilog=f"Example: {example}")


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(width=width, soft_wrap=False)


@_command("snakemake-blocks demo my-demo")
@click.argument("folder", default="blocks-demo", type=_EXISTING)
@_CORES
def demo(folder: Path, cores: int) -> None:
    """Write the demo pipeline (a real image) to FOLDER, run it and check the result."""
    from snakemake_blocks.demo import run_demo

    sys.exit(run_demo(folder, cores=cores, echo=click.echo))


@_command("snakemake-blocks plan pipeline.yaml --json")
@click.argument("pipeline", type=_EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--picture", type=_EXISTING, help="Draw the tiling into this PNG.")
@click.option("--target", type=click.Choice(["local", "cluster"]), default="local")
def plan(pipeline: Path, as_json: bool, picture: Path | None, target: str) -> None:
    """Show what would be made of PIPELINE; writes no state."""
    from snakemake_blocks.commands.generate import check_pipeline, preview, to_pipeline
    from snakemake_blocks.plan.estimates import estimate_plan
    from snakemake_blocks.state.tables import row_bytes
    from snakemake_blocks.view.export import block_seconds
    from snakemake_blocks.view.preview import preview_text
    from snakemake_blocks.view.report import plan_to_json, print_plan, print_proof

    described = to_pipeline(pipeline)
    made, proof = check_pipeline(described, target=target)
    previews = preview(described, made) if proof.holds else {}
    # Of a plan that does not hold some numbers have no meaning, e.g. inputs from other axes.
    estimates = {}
    if proof.holds:
        rows = row_bytes(made, pipeline.parent / made.run_directory)
        estimates = estimate_plan(made, block_seconds(made, pipeline.parent), rows)
    if picture is not None:
        from snakemake_blocks.view.plots import draw_plan

        draw_plan(made, picture)
    if as_json:
        click.echo(json.dumps(plan_to_json(made, proof, estimates, previews), indent=2))
    else:
        print_plan(made, estimates, _console())
        click.echo(preview_text(previews))
        print_proof(made.name, proof, _console(), proved=False)
    sys.exit(2 if proof.violations else 0)


@_command("snakemake-blocks init sample.zarr/raw")
@click.argument("arrays", nargs=-1, required=True, metavar="ARRAY...")
@click.option("-o", "--output", type=_EXISTING, default=Path("pipeline.yaml"), show_default=True)
def init(arrays: tuple[str, ...], output: Path) -> None:
    """Write a pipeline to start from, with the sizes, axes and units of each ARRAY."""
    from snakemake_blocks.commands.init import init_pipeline

    for line in init_pipeline(arrays, output):
        click.echo(comment(line))


@_command("snakemake-blocks check pipeline.yaml")
@click.argument("pipeline", type=_EXISTING)
@click.option("--target", type=click.Choice(["local", "cluster"]), default="local")
@click.option("--import", "imports", is_flag=True, help="Import the functions, too.")
def check(pipeline: Path, target: str, imports: bool) -> None:
    """Prove that PIPELINE misses no voxel and that no two jobs meet; exit status 2 if not."""
    from snakemake_blocks.commands.generate import check_pipeline, to_pipeline
    from snakemake_blocks.commands.run import import_problems
    from snakemake_blocks.view.report import print_proof

    described = to_pipeline(pipeline)
    made, proof = check_pipeline(described, target=target)
    print_proof(made.name, proof, _console())
    problems = import_problems(described) if imports else []
    for line in problems:
        click.echo(comment(f"{made.name}: {line}"), err=True)
    sys.exit(2 if proof.violations or problems else 0)


@_command("snakemake-blocks generate pipeline.yaml -o Snakefile && snakemake --cores 4")
@click.argument("pipeline", type=_EXISTING)
@click.option("-o", "--output", type=_EXISTING, help="The Snakefile.  [default: beside PIPELINE]")
@click.option("--explicit", is_flag=True, help="One literal rule per job, up to 2,000 jobs.")
@click.option("--target", type=click.Choice(["local", "cluster"]), default="local")
@click.option("--rebatch", is_flag=True, help="Resolve `blocks_per_job: auto` anew.")
def generate(
    pipeline: Path, output: Path | None, explicit: bool, target: str, rebatch: bool
) -> None:
    """Write the Snakefile and the plan of PIPELINE, and bring its state under that plan."""
    from snakemake_blocks.commands.generate import Options
    from snakemake_blocks.commands.generate import generate as make
    from snakemake_blocks.geometry.batching import Target

    options = Options(explicit=explicit, target=Target(target), rebatch=rebatch)
    made, path = make(pipeline, output=output, options=options)
    jobs = sum(task.num_jobs for task in made.tasks.values())
    click.echo(f"{path}: {len(made.tasks)} tasks, {jobs:,} jobs, plan {made.fingerprint}")


@_command("snakemake-blocks run pipeline.yaml --cores 8 -- --printshellcmds")
@click.argument("pipeline", type=_EXISTING)
@_CORES
@click.option("--profile", default="", help="Snakemake profile: name or path.")
@click.option("--roi", default="", help="A pilot: only blocks needed here, begin:end per axis.")
@click.option("--probe", is_flag=True, help="Only a few blocks per task; propose sizes of jobs.")
@click.option("--write", is_flag=True, help="With --probe: write the sizes into PIPELINE.")
@click.option("-n", "--dry-run", is_flag=True, help="Tell in blocks what would run, and why.")
@click.option("-q", "--quiet", is_flag=True, help="No output of Snakemake but errors.")
@click.option("--target", type=click.Choice(["local", "cluster"]), default=None)
@click.argument("snakemake_args", nargs=-1)
def run(
    pipeline: Path,
    cores: int,
    profile: str,
    roi: str,
    probe: bool,
    write: bool,
    dry_run: bool,
    quiet: bool,
    target: str | None,
    snakemake_args: tuple[str, ...],
) -> None:
    """Plan and run PIPELINE; ends with a summary. Exit status 0 only if every block is done."""
    from snakemake_blocks.commands.generate import Options
    from snakemake_blocks.commands.run import (
        asks_for_dry_run,
        exit_status,
        preview_run,
        run_pipeline,
    )
    from snakemake_blocks.engine.launch import INTERRUPTED
    from snakemake_blocks.geometry.batching import Target
    from snakemake_blocks.view.preview import preview_text
    from snakemake_blocks.view.report import print_status, probe_text

    options = Options(
        cores=cores,
        profile=profile,
        target=Target(target or ("cluster" if profile else "local")),
        roi=_box(roi),
        quiet=quiet,
        snakemake_arguments=snakemake_args,
    )
    if (write and not probe) or (probe and roi):
        raise click.UsageError("--write goes with --probe, and --roi without it")
    if dry_run or asks_for_dry_run(snakemake_args):
        click.echo(preview_text(preview_run(pipeline, replace(options, probe=probe))))
        return
    if probe:
        from snakemake_blocks.commands.probe import probe_run

        report = probe_run(pipeline, options, write=write)
        status, state = report.snakemake, report.state
    else:
        status, state = run_pipeline(pipeline, options)
    if status == INTERRUPTED:
        click.echo("interrupted; what is done is recorded, and the same command goes on", err=True)
    print_status(state, _console())
    if probe:
        click.echo(probe_text(report))
    sys.exit(exit_status(status, state))


@_command("snakemake-blocks work blocks/smooth/p0/0-0/3-4.json")
@click.argument("sentinel", type=_EXISTING)
@click.option("--attempt", default=1, help="Snakemake's attempt; 1 opens a new budget of retries.")
def work(sentinel: Path, attempt: int) -> None:
    """Run the job of SENTINEL, or make an aggregate; the generated rules call this.

    With RUN_DIR/TASK instead of a sentinel, run jobs of that task until none is left: on any host
    that shares the file system, beside a running Snakemake or without one.
    """
    from snakemake_blocks.work.claims import is_task_folder, work_task
    from snakemake_blocks.work.job import work_sentinel

    if is_task_folder(sentinel):
        sys.exit(work_task(sentinel, environment=os.environ))
    sys.exit(work_sentinel(sentinel, attempt=attempt, environment=os.environ))


@_command("snakemake-blocks status blocks --watch")
@click.argument("run_directory", default=".", type=_EXISTING)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--watch", is_flag=True, help="Follow the ledgers until every block is done.")
@click.option("--csv", "table", type=_EXISTING, help="Write every finished attempt to this file.")
def status(run_directory: Path, as_json: bool, watch: bool, table: Path | None) -> None:
    """Show the state of all blocks: read from ledgers, never guessed."""
    from snakemake_blocks.commands.generate import load_plan
    from snakemake_blocks.state.status import read_status
    from snakemake_blocks.view.report import print_status

    made, root = load_plan(run_directory)
    if watch:
        from snakemake_blocks.view.progress import watch_run

        watch_run(made, root, sys.stderr)
    if table is not None:
        from snakemake_blocks.view.export import write_csv

        click.echo(f"{table}: {write_csv(made, root, table):,} attempts", err=True)
    state = read_status(made, root)
    if as_json:
        click.echo(json.dumps(state.to_json(), indent=2))
    else:
        print_status(state, _console())
    sys.exit(0 if state.complete else 1)


@_command("snakemake-blocks check-context pipeline.yaml smooth --context 10")
@click.argument("pipeline", type=_EXISTING)
@click.argument("task")
@click.option(
    "--context",
    multiple=True,
    type=int,
    help="Try this one; once, or once per axis: --context 40 --context 8.",
)
@click.option("--samples", default=16, show_default=True, help="Blocks to look at.")
@click.option("--tolerance", default=1e-5, show_default=True, help="Relative to the results.")
def check_context(
    pipeline: Path, task: str, context: tuple[int, ...], samples: int, tolerance: float
) -> None:
    """Tell whether the context of TASK is enough, that is, whether blocks leave seams.

    What the task reads has to be there. Exit status 1 if the context is not enough.
    """
    from snakemake_blocks.commands.run import check_task_context
    from snakemake_blocks.view.report import context_text

    report = check_task_context(
        pipeline, task, context=context, samples=samples, tolerance=tolerance
    )
    click.echo(f"{comment(task)}: {context_text(report)}")
    sys.exit(0 if report.is_enough else 1)


@_command("snakemake-blocks verify blocks")
@click.argument("run_directory", default=".", type=_EXISTING)
def verify(run_directory: Path) -> None:
    """Prove that nothing is missing: planned blocks = counting records, and chunks exist."""
    from snakemake_blocks.commands.generate import load_plan
    from snakemake_blocks.view.verify import verify_run

    made, root = load_plan(run_directory)
    found = verify_run(made, root)
    for line in found.proved:
        click.echo(comment(line))
    for line in found.missing:
        click.echo(comment(line), err=True)
    sys.exit(1 if found.missing else 0)


@_command("snakemake-blocks stop blocks")
@click.argument("run_directory", default=".", type=_EXISTING)
def stop(run_directory: Path) -> None:
    """Drain: running blocks finish, nothing new starts. The next `run` goes on."""
    from snakemake_blocks.commands.generate import load_plan
    from snakemake_blocks.commands.run import stop_run

    _, root = load_plan(run_directory)
    click.echo(stop_run(root))


@_command("snakemake-blocks reset blocks smooth --roi 0:128,0:256")
@click.argument("run_directory", type=_EXISTING)
@click.argument("task", default="")
@click.option("--roi", default="", help="Only blocks that write here: begin:end per axis.")
@click.option("--failed", is_flag=True, help="Only failed blocks.")
@click.option(
    "--missing", is_flag=True, help="Only done blocks whose chunks are gone; without TASK, of all."
)
def reset(run_directory: Path, task: str, roi: str, failed: bool, missing: bool) -> None:
    """Forget results of TASK so that they run again, what depends on them included."""
    from snakemake_blocks.commands.generate import load_plan
    from snakemake_blocks.commands.run import reset_lost, reset_run

    if missing and (roi or failed):
        raise click.UsageError("--missing chooses the blocks; leave out --roi and --failed")
    if not (missing or task):
        raise click.UsageError("name a TASK; only --missing goes without")
    made, root = load_plan(run_directory)
    if missing:
        for line in reset_lost(made, root, task) or ["no chunk of a done block is missing"]:
            click.echo(comment(line))
        return
    count = reset_run(made, root, task, roi=_box(roi), only_failed=failed)
    name = comment(task)
    click.echo(f"{name}: {count:,} blocks reset; the next run does them, and what reads them")


@_command("snakemake-blocks block blocks segment 1-2 --pdb")
@click.argument("run_directory", type=_EXISTING)
@click.argument("task")
@click.argument("block_id", metavar="ID")
@click.option("--pdb", is_flag=True, help="Enter the debugger where an exception is raised.")
def block(run_directory: Path, task: str, block_id: str, pdb: bool) -> None:
    """Run one block in the foreground; ID is an index like 1-2, or daisy's id."""
    from snakemake_blocks.commands.debug import run_one_block
    from snakemake_blocks.commands.generate import load_plan

    made, root = load_plan(run_directory)
    run_one_block(made, root, task, block_id, debugger=pdb)
    click.echo(f"{comment(task)}: block {block_id} ran; its state is as before")


def _box(text: str) -> Any:
    """Return the box that ``0:128,0:256`` means, None for an empty text."""
    from snakemake_blocks.geometry.box import Box

    if not text:
        return None
    try:
        pairs = [tuple(int(x) for x in part.split(":")) for part in text.split(",")]
        begin, end = zip(*pairs, strict=True)
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{text!r}: write begin:end per axis, e.g. 0:128,0:256") from None
    return Box(begin, end)


@main.group()
def profile() -> None:
    """Shipped Snakemake profiles: list, show, install."""


@profile.command("list", epilog="Example: snakemake-blocks profile list")
def profile_list() -> None:
    """List the shipped profiles."""
    from snakemake_blocks.engine.profiles import shipped_profiles

    for name in shipped_profiles():
        click.echo(name)


_SET = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value.")


@profile.command("show", epilog="Example: snakemake-blocks profile show slurm")
@click.argument("name")
@_SET
def profile_show(name: str, settings: tuple[str, ...]) -> None:
    """Print the profile NAME, with the reason of every setting."""
    from snakemake_blocks.engine.profiles import profile_text

    click.echo(profile_text(name, _settings(settings)), nl=False)


@profile.command(
    "install", epilog="Example: snakemake-blocks profile install lsf --set lsf_queue=short"
)
@click.argument("name")
@_SET
@click.option("--force", is_flag=True, help="Replace an installed profile that differs.")
def profile_install(name: str, settings: tuple[str, ...], force: bool) -> None:
    """Install the profile NAME, so that `snakemake --profile NAME` works."""
    from snakemake_blocks.engine.profiles import install_profile

    folder = install_profile(name, _settings(settings), force=force)
    click.echo(f"{folder}; use it with: snakemake --profile {name}")


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r}: write KEY=VALUE", param_hint="--set")
        found[key] = value
    return found
