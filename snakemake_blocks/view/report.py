"""Status and plans as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.estimates import Estimate
from snakemake_blocks.plan.job_size import BlockCosts, JobSize
from snakemake_blocks.plan.paths import index_name
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.proof.findings import Proof
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.failures import grouped
from snakemake_blocks.state.status import RunStatus, TaskStatus
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.view.preview import TaskPreview
from snakemake_blocks.work.context_check import ContextReport

__all__ = [
    "ProbeReport",
    "context_text",
    "plan_to_json",
    "print_plan",
    "print_proof",
    "print_status",
    "probe_text",
]

_LISTED_BLOCKS = 5
_STYLES = {State.DONE: "green", State.FAILED: "bold red", State.ORPHANED: "yellow"}


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found.

    Parameters
    ----------
    snakemake : int
        Snakemake's exit status.
    state : RunStatus
        The blocks of the probe.
    costs : mapping of str to BlockCosts
        What blocks cost, by task; tasks without a done block are missing.
    sizes : mapping of str to JobSize
        What is proposed, for the same tasks.
    resources : mapping of str to mapping of str to int
        The same as resources, under the names that the tasks use.
    """

    snakemake: int
    state: RunStatus
    costs: Mapping[str, BlockCosts]
    sizes: Mapping[str, JobSize]
    resources: Mapping[str, Mapping[str, int]]


def print_plan(plan: Plan, estimates: Mapping[str, Estimate], console: Console) -> None:
    """Print a plan as a table, a line per task; without estimates where there are none."""
    table = Table(title=escape(f"{plan.name}, plan {plan.fingerprint}"), title_justify="left")
    for name in ("task", "after"):
        table.add_column(name)
    numbers = ("blocks", "masked", "jobs", "blocks/job", "phases", "inputs", "path", "memory")
    hours = any(costs.cpu_hours is not None for costs in estimates.values())
    for name in (*numbers, "files", *(["CPU h"] if hours else [])):
        table.add_column(name, justify="right")
    for task in plan.tasks.values():
        costs = estimates.get(task.name)
        table.add_row(
            escape(comment(task.name)),
            escape(comment(", ".join(_waits(task)))) or "-",
            f"{task.num_blocks:,}",
            f"{task.num_masked:,}",
            f"{task.num_jobs:,}",
            "x".join(map(str, task.jobs.batch)),
            str(task.num_phases),
            str(costs.inputs) if costs else "-",
            str(costs.path) if costs else "-",
            _bytes(costs.memory) if costs and costs.memory else "-",
            f"{costs.files:,}" if costs else "-",
            *([_hours(costs.cpu_hours)] if costs and hours else []),
        )
    console.print(table)
    for task in plan.tasks.values():
        line = _sizes_line(task, estimates.get(task.name))
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not estimates:
        return
    text = (
        "inputs: most files that a job waits for; path: most jobs that wait for one another; "
        "memory: arrays and rows of a job, where the function gets them; files: about so many in "
        f"{plan.run_directory}"
    )
    text += "; CPU h: hours of all blocks, by the block times on record" if hours else ""
    console.print(text, highlight=False, markup=False)


def _sizes_line(task: PlannedTask, costs: Estimate | None) -> str:
    """Return in words how large blocks are, in voxels and world units, and what they store."""
    grid = task.grid
    around = tuple(map(max, grid.lower, grid.upper))
    if task.operation.call.is_once:
        text = f"{comment(task.name)}: runs once"
    else:
        text = f"{comment(task.name)}: blocks of {_both(task, grid.block_size)}"
    if any(around):
        text += f", with a context of {_both(task, around)}"
    stored = [
        f"{o.path} ({o.files:,} file{'s' if o.files != 1 else ''}, {_bytes(o.bytes)} before "
        "compression)"
        for o in (costs.outputs if costs else ())
    ]
    return comment(f"{text}; writes {', '.join(stored)}" if stored else text)


def _both(task: PlannedTask, sizes: Index) -> str:
    """Return sizes of the plan in voxels, and in world units where these are others."""
    scale, arrays = task.scale, [*task.operation.inputs, *task.operation.written]
    if scale.array:
        world = [n * size for n, size in zip(scale.length(sizes), scale.size, strict=True)]
        return f"{_times(scale.length(sizes))} voxels ({_times(world)}{_units(scale.units)})"
    own = scale.length(sizes)
    steps = arrays[0].steps if arrays else (1,) * len(sizes)
    voxels = [Fraction(n, step) for n, step in zip(sizes, steps, strict=True)]
    units = _units(arrays[0].units) if arrays else ""
    if voxels == list(own) and not units:
        return _times(own)
    return f"{_times(voxels)} voxels ({_times(own)}{units or ' world units'})"


def _times(numbers: Sequence[Fraction]) -> str:
    return " x ".join(f"{float(n):.6g}" if n.denominator > 1 else f"{int(n)}" for n in numbers)


def _units(units: Sequence[str]) -> str:
    known = list(dict.fromkeys(unit for unit in units if unit))
    return f" {', '.join(known)}" if known else ""


def _waits(task: PlannedTask) -> list[str]:
    return [f"all of {up}" if up in task.whole else up for up in task.upstream]


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.2f}"


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def print_proof(name: str, proof: Proof, console: Console, *, proved: bool = True) -> None:
    """Print what stands against a plan and, if asked for, what is proved; a line each.

    With what is proved the last line says that the plan holds, if it does.
    """
    for line in proof.proved if proved else ():
        console.print(comment(line), highlight=False, markup=False, soft_wrap=True)
    for word, style, lines in (
        ("warning", "yellow", proof.warnings),
        ("refused", "bold red", proof.violations),
    ):
        for line in lines:
            console.print(f"{word}: ", style=style, end="")
            console.print(comment(f"{name}: {line}"), highlight=False, markup=False, soft_wrap=True)
    if proved and proof.holds:
        count = len(proof.warnings)
        seen = f", with {count} warning{'s' if count > 1 else ''} to look at" if count else ""
        console.print(
            f"{name}: proved, it can be run{seen}",
            style="bold green",
            highlight=False,
            markup=False,
        )


def plan_to_json(
    plan: Plan,
    proof: Proof,
    estimates: Mapping[str, Estimate],
    previews: Mapping[str, TaskPreview],
) -> dict[str, Any]:
    """Return the numbers of a plan, and what stands against it, as a JSON-ready mapping."""
    return {
        "name": plan.name,
        "fingerprint": plan.fingerprint,
        "violations": list(proof.violations),
        "warnings": list(proof.warnings),
        "tasks": {
            task.name: {
                "after": list(task.upstream),
                "whole": sorted(task.whole),
                "blocks": task.num_blocks,
                "masked": task.num_masked,
                "jobs": task.num_jobs,
                "blocks_per_job": list(task.jobs.batch),
                "phases": task.num_phases,
                "grid": list(task.grid.shape),
                **(asdict(estimates[task.name]) if task.name in estimates else {}),
                **({"run": previews[task.name].to_json()} if task.name in previews else {}),
            }
            for task in plan.tasks.values()
        },
    }


def context_text(report: ContextReport) -> str:
    """Return what a comparison of contexts says, as one paragraph."""
    verdict = "is enough" if report.is_enough else "is NOT enough"
    text = (
        f"a context of {_per_axis(report.context)} {verdict}: with {_per_axis(report.reference)} "
        f"the results of {report.samples:,} of {report.blocks:,} blocks differ by "
        f"{report.difference:.1e} at most (limit {report.tolerance:.1e}; for labels, the share of "
        "voxels that differ)"
    )
    if report.enough is None:
        return text + "; they keep changing with the context, so no context in reach is enough"
    return text + f"; the smallest that is enough for them is {_per_axis(report.enough)}"


def probe_text(report: ProbeReport) -> str:
    """Return what a probe proposes, as YAML with comments."""
    lines = ["tasks:"]
    for name, size in report.sizes.items():
        costs = report.costs[name]
        resources = ", ".join(f"{key}: {value}" for key, value in report.resources[name].items())
        lines += [
            f"  {name}:",
            f"    # {costs.blocks:,} blocks: {costs.seconds:.3g} s each, {costs.longest:.3g} s at "
            f"most, {costs.peak_mb:,.0f} MB per worker",
            f"    # jobs: {size.jobs:,}; a full one takes {size.job_seconds / 60:.1f} minutes",
            f"    blocks_per_job: {size.blocks_per_job}",
            f"    resources: {{{resources}}}",
        ]
    missing = [name for name in report.state.tasks if name not in report.sizes]
    lines += [
        f"  # {name}: no block was done, or one needs too many others; try `run --roi`"
        for name in missing
    ]
    return "\n".join(lines if report.sizes else lines[1:])


def _per_axis(sizes: tuple[int, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else " x ".join(map(str, sizes))


def print_status(status: RunStatus, console: Console) -> None:
    """Print blocks per state and task, then failures by cause and what they hold up."""
    table = Table(title="blocks", title_justify="left")
    table.add_column("task", overflow="fold")  # a name that is cut off could be another task's
    for state in State:
        table.add_column(str(state), justify="right")
    table.add_column("total", justify="right")
    for task in status.tasks.values():
        cells = [_cell(state, task.counts[state]) for state in State]
        table.add_row(escape(comment(task.name)), *cells, f"{task.total:,}")
    console.print(table)
    for task in status.tasks.values():
        _print_task(task, console, status.ended)


def _cell(state: State, count: int) -> str:
    style = _STYLES.get(state)
    return f"[{style}]{count:,}[/]" if style and count else f"{count:,}"


def _print_task(task: TaskStatus, console: Console, ended: str) -> None:
    def say(text: str, style: str = "") -> None:
        text = "\n".join(comment(row) for row in text.expandtabs().split("\n"))
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    name = comment(task.name)
    if task.skipped:
        say(f"{name}: {task.skipped:,} of the done blocks were skipped by their check")
    if task.other_source:
        say(
            f"{name}: {task.other_source:,} done blocks were made when the function's source was "
            "another; they count (`source: rerun` or `snakemake-blocks reset` makes them anew)",
            "yellow",
        )
    for note in task.notes:
        say(f"{name}: {note}", "yellow")
    for reason, count in task.reasons.items():
        say(f"{name}: {count:,} blocks will run again: {reason}")
    if task.lost_sentinels:
        say(
            f"{name}: {task.lost_sentinels:,} complete jobs have no sentinel; the next run writes "
            "it again and does no block"
        )
    if task.lacking:
        say(
            f"{name}: all blocks are done, and {', '.join(task.lacking)}, which it is to leave, "
            "is not there or was not looked at; the next run does that",
            "bold red",
        )
    for cause, failures in grouped(task.failures).items():
        blocks = [index_name(f.index) for f in failures if f.index]
        last = failures[-1]
        what = f"{len(blocks):,} failed: {_listed(blocks)}" if blocks else "set-up failed"
        say(f"{name}: {what}", "bold red")
        say(f"  cause: {cause}")
        if last.message not in cause:
            say(f"  {last.message}")
        if last.log:
            say(f"  log: {last.log}")
    if task.orphans:
        orphans = [index_name(i) for i in task.orphans]
        reason = "orphaned (they need a failed block)"
        say(f"{name}: {len(orphans):,} {reason}: {_listed(orphans)}", "yellow")
    for job, count in task.held.items():
        say(f"{name}: {count:,} pending blocks are held by the failed job {job}")
    for up, count in task.waiting.items():
        say(f"{name}: {count:,} pending blocks wait for what is not done of {comment(up)}")
    if ended and task.not_begun:
        say(f"{name}: {task.not_begun:,} pending blocks were not begun: {ended}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED_BLOCKS:,} more" if len(names) > _LISTED_BLOCKS else ""
    return ", ".join(names[:_LISTED_BLOCKS]) + more
