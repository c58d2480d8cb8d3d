"""Proof that blocks which conflict, or write a common chunk, have an order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.phases import Phases
from snakemake_blocks.geometry.tiling import Grid
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.proof.conflict_order import classes, is_proper, order_of, pairs
from snakemake_blocks.proof.findings import DEFECT, Subject
from snakemake_blocks.proof.overlaps import as_text
from snakemake_blocks.proof.spans import chunk_extent, context_of, sharing_of
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Call, Read
from snakemake_blocks.tasks.task import Chunks

__all__ = ["check_chunks", "check_order"]


def _conflicts(s: Subject, grid: Grid) -> Index:
    """Return how far apart blocks, or jobs, are of which one reads what the other writes.

    With ``call: arrays`` a block is given of its task's output what is declared; by itself a
    function may read all of its read Roi, unless each such read says how much.
    """
    if not s.declared.read_write_conflict:
        return (0,) * grid.ndim
    own = [r for r in s.task.operation.reads.values() if s.is_own(r.array)]
    if s.task.operation.call is not Call.ARRAYS and not (own and all(r.context for r in own)):
        return context_of(grid)
    reach = (0,) * grid.ndim
    for read in own:
        reach = tuple(map(max, reach, context_of(_seen(grid, read))))
    return reach


def _seen(grid: Grid, read: Read) -> Grid:
    """Return the grid with the context of a read."""
    return grid if read.context is None else grid.with_context(*read.context)


def check_order(s: Subject) -> bool:
    """Prove that conflicting blocks have an order, in jobs by phase, between jobs by inputs."""
    task = s.task
    for grid, phases, what in (
        (task.grid, task.block_phases, "blocks"),
        (task.jobs.jobs, task.phases, "jobs"),
    ):
        for read in _changed_in_place(s):
            array = read.array
            if _exceeds(context_of(_seen(grid, read), array), phases):
                s.refuse(
                    "conflict",
                    f"is false, but {what} read what their neighbours write to {array.path} at "
                    "the same time; set conflict: true or context: 0",
                )
                return False
        needed = _conflicts(s, grid)
        if s.declared.chunks is Chunks.COLOR:
            # Blocks that are stored together are done one after the other, by one worker.
            stored = task.stored_grid if grid is task.grid else grid
            for array in task.operation.written:
                needed = tuple(map(max, needed, sharing_of(stored, array)))
        if _exceeds(needed, phases):
            s.refuse(
                "conflict",
                f"{what} conflict up to {as_text(needed)} {what} away, the plan orders "
                f"{as_text(phases.reach)}; {DEFECT}",
            )
            return False
    if not _holds_groups(task):
        s.refuse("writes", f"jobs share what is stored together; {DEFECT}")
        return False
    if not is_proper(task.block_phases) or not _is_present(task):
        s.refuse("conflict", f"phases do not fit the blocks; {DEFECT}")
        return False
    return _check_inputs(s)


def _changed_in_place(s: Subject) -> list[Read]:
    """Return the reads by which blocks conflict although the task says that none do.

    With ``call: arrays`` a block is given nothing that another one might be writing.
    """
    if s.declared.read_write_conflict or s.task.operation.call is Call.ARRAYS:
        return []
    return [r for r in s.task.operation.reads.values() if s.is_own(r.array)]


def _check_inputs(s: Subject) -> bool:
    phases, most, lower = s.task.phases, 0, 0
    for job in classes(phases) if any(phases.reach) else ():
        inputs, below, loose = order_of(phases, job)
        most, lower = max(most, inputs), lower + below
        if loose is not None:
            s.refuse(
                "conflict",
                f"jobs {as_text(loose)} and {as_text(job)} conflict and are not ordered; {DEFECT}",
            )
            return False
    count = pairs(phases) if phases.table is None else lower
    if count:
        s.prove(
            f"{count:,} pairs of jobs conflict and all are ordered, in {len(phases)} phases; a job "
            f"waits for {most} of its task at most"
        )
    else:
        s.prove(f"no two jobs conflict, all {s.task.num_jobs:,} may run together")
    _count_block_pairs(s)
    return True


def _count_block_pairs(s: Subject) -> None:
    """Say what the order of jobs, and of phases inside a job, means for blocks."""
    grid, batched = s.task.grid, s.task.num_jobs < s.task.num_blocks
    if batched and s.declared.read_write_conflict and s.task.jobs.present is None:
        count = pairs(Phases(grid.shape, _conflicts(s, grid)))
        s.prove(f"{count:,} pairs of blocks conflict and all are ordered, by jobs or inside of one")


def _exceeds(needed: Index, phases: Phases) -> bool:
    return any(x > r for x, r in zip(needed, phases.reach, strict=True))


def _holds_groups(task: PlannedTask) -> bool:
    """Tell whether blocks that are stored together are in one job, and in one phase of it."""
    if not task.group:
        return True
    sides = zip(task.jobs.batch, task.group, task.grid.shape, strict=True)
    return not any(task.reach) and all(b % g == 0 or b >= n for b, g, n in sides)


def _is_present(task: PlannedTask) -> bool:
    """Tell whether exactly the jobs with work have a phase."""
    present, table = task.jobs.job_presence(), task.phases.table
    if present is None or table is None:
        return present is None and table is None
    return bool(np.array_equal(present, table >= 0))


def check_chunks(s: Subject, *, ordered: bool) -> None:
    """Prove that blocks of a task that may run together write no common chunk."""
    task, grid = s.task, s.task.stored_grid
    guilty = [a for a in task.operation.written if any(sharing_of(grid, a))]
    names = ", ".join(a.path for a in task.operation.written)
    call = task.operation.call
    stores_itself = call in (Call.ARRAYS, Call.MERGE) or call.is_once
    if not names and stores_itself:
        s.prove("no block writes an array")
    elif not names:
        s.warn(
            "writes",
            "none are declared, so it is not proved that blocks write no common storage chunk; "
            "declare them",
        )
    elif not guilty and task.group:
        boxes = " x ".join(map(str, task.group))
        s.prove(
            f"boxes of {boxes} blocks are stored together, each by one worker, and no two of them "
            f"write a common chunk or shard of {names}"
        )
    elif not guilty:
        s.prove(f"no two blocks write a common chunk or shard of {names}")
    elif s.declared.chunks is Chunks.REFUSE:
        key, advice = _alignment(s, guilty)
        for array in guilty:
            s.refuse(key, f"chunks: refuse, and {_sharing_text(s, array)}; {advice}")
    else:
        if ordered:
            s.prove(f"blocks that write a common chunk or shard of {names} are ordered")
        _warn_of_phases(s, guilty)


def _warn_of_phases(s: Subject, guilty: list[ArrayInfo]) -> None:
    jobs, phases = s.task.jobs.jobs, len(s.task.phases)
    alone = _conflicts(s, jobs)
    fewer = math.prod(min(n, r + 1) for n, r in zip(jobs.shape, alone, strict=True))
    if fewer < phases:
        key, advice = _alignment(s, guilty)
        text = ", and ".join(_sharing_text(s, array) for array in guilty)
        s.warn(key, f"{text}, so jobs run in {phases} phases, not {fewer}; {advice}")


def _sharing_text(s: Subject, array: ArrayInfo) -> str:
    grid = s.task.grid
    apart = sharing_of(grid, array)
    axes = [a for a, x in enumerate(apart) if x]
    chunks = s.lengths(chunk_extent(array, a) for a in range(grid.ndim))
    begin = s.span(grid.extent).partition(" to ")[0]
    on = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return (
        f"blocks of {s.sizes(grid.block_size)} from {begin} on share "
        f"storage chunks (or shards) of {chunks} of {array.path} on {on}"
    )


def _alignment(s: Subject, guilty: Sequence[ArrayInfo]) -> tuple[str, str]:
    """Return the key to change and the nearest block size, or roi, with which chunks align."""
    sizes, begin, reasons = list(s.task.grid.block_size), list(s.roi.begin), []
    for a, axis in enumerate(s.task.grid.axes):
        sharing = [array for array in guilty if sharing_of(s.task.grid, array)[a]]
        for array in sharing:
            past = (axis.begin - array.offset[a]) % chunk_extent(array, a)
            if past and begin[a] == axis.begin:
                begin[a] -= past
                scale, end = s.task.scale, begin[a] + chunk_extent(array, a)
                reasons.append(
                    f"on axis {a} the roi begins {scale.distance(a, past)} into a chunk, begin it "
                    f"at {scale.at(a, begin[a])} or {scale.at(a, end)}"
                )
        if sharing:
            sizes[a] = _nearest_size(s, a, sharing)
    advice = ", and ".join(reasons)
    if tuple(sizes) != s.task.grid.block_size:
        advice += f"{', and ' if reasons else ''}use block_size {s.sizes(sizes)}"
    return ("roi" if reasons else "block_size"), advice


def _nearest_size(s: Subject, a: int, sharing: Sequence[ArrayInfo]) -> int:
    """Return the multiple of the chunks on an axis that is nearest to the block size."""
    fixed = [a for a in s.task.operation.written if a.exists]
    unit = math.lcm(*(chunk_extent(array, a) for array in (*sharing, *fixed)))
    unit = math.lcm(unit, *(array.steps[a] for array in s.task.operation.inputs))
    step = s.task.grid.axes[a].step
    low = step // unit * unit
    size = low if low and step - low <= low + unit - step else low + unit
    return min(size, s.roi.shape[a])
