"""The proof, before anything runs, that a plan misses no voxel and lets no two jobs meet.

Everything is decided from geometry, one axis first and then the product over axes. Along an axis
blocks fall into classes: away from the few places where a region or an array begins or ends, the
pattern of blocks, chunks and upstream blocks repeats. One block of every class is looked at, so
on dense grids the cost does not depend on the number of blocks. Where blocks are masked, the
tables that the plan holds anyway are gone through as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.box import Box, Index
from snakemake_blocks.dependencies import JobGrid
from snakemake_blocks.errors import PlanError
from snakemake_blocks.meetings import as_span, as_text, common_arrays, path_of, paths_of, writers_of
from snakemake_blocks.ordering import classes, is_proper, order_of, pairs
from snakemake_blocks.phases import Phases
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.spans import chunk_extent, context_of, sharing_of
from snakemake_blocks.task import Call, Chunks, Task
from snakemake_blocks.tiling import Axis, Fit, Grid

__all__ = ["Proof", "check_plan"]

_DEFECT = "this is a defect of snakemake-blocks, please report it"


@dataclass(frozen=True, slots=True)
class Proof:
    """What is wrong with a plan, and what has been proved of it.

    Parameters
    ----------
    violations : tuple of str
        Reasons not to run it, each ``tasks.NAME.key: what is wrong; next step``.
    warnings : tuple of str
        What costs time, leaves voxels out or cannot be known, in the same form.
    proved : tuple of str
        One line per fact, each ``NAME: fact``.
    """

    violations: tuple[str, ...]
    warnings: tuple[str, ...]
    proved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Nothing speaks against running the plan."""
        return not self.violations


def check_plan(plan: Plan, tasks: Iterable[Task]) -> Proof:
    """Return the proof that a plan does what its tasks declare, or what stands against it.

    Proved are, for every task: each voxel of the region to write is written exactly once; any
    two conflicting blocks are ordered, in a job and between jobs; all that is read inside the
    region is existing data or written by a task that it waits for; blocks that may run together
    write no common storage chunk or shard, be they of one task or of two.

    Parameters
    ----------
    plan : Plan
        The plan.
    tasks : iterable of Task
        What it was made from, e.g. ``pipeline.tasks``.

    Raises
    ------
    PlanError
        If the plan was made from other tasks.

    Notes
    -----
    To read a chunk while another process replaces it is no violation: zarr replaces local chunks
    atomically since 3.1.3, and the voxels that are read do not change then.
    """
    declared = {task.task_id: task for task in tasks}
    if declared.keys() != plan.tasks.keys():
        raise PlanError(
            f"the plan has the tasks {', '.join(plan.tasks)}, declared are "
            f"{', '.join(declared)}; plan again"
        )
    findings = _Findings()
    for task in plan.tasks.values():
        subject = _Subject(plan, task, declared, findings)
        _check_writing(subject)
        _check_chunks(subject, ordered=_check_order(subject))
        _check_reading(subject)
        _check_after(subject)
    violations, warnings = common_arrays(plan)
    findings.violations += violations
    findings.warnings += warnings
    return findings.proof()


@dataclass(slots=True)
class _Findings:
    violations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    proved: list[str] = field(default_factory=list)

    def proof(self) -> Proof:
        lines = (self.violations, self.warnings, self.proved)
        return Proof(*(tuple(dict.fromkeys(x)) for x in lines))


@dataclass(frozen=True, slots=True)
class _Subject:
    """A planned task beside its declaration, and where findings about it go."""

    plan: Plan
    task: PlannedTask
    tasks: Mapping[str, Task]
    findings: _Findings

    @property
    def declared(self) -> Task:
        """What the task was planned from."""
        return self.tasks[self.task.name]

    @property
    def roi(self) -> Box:
        """The region to write, as declared."""
        return self.declared.write_extent

    @property
    def in_place(self) -> set[str]:
        """Paths of the arrays that the task both reads and writes."""
        return paths_of(self.task.reads.values()) & paths_of(self.task.writes.values())

    @property
    def refused(self) -> int:
        """Number of violations so far."""
        return len(self.findings.violations)

    def refuse(self, key: str, text: str) -> None:
        self.findings.violations.append(f"tasks.{self.task.name}.{key}: {text}")

    def warn(self, key: str, text: str) -> None:
        self.findings.warnings.append(f"tasks.{self.task.name}.{key}: {text}")

    def prove(self, text: str) -> None:
        self.findings.proved.append(f"{self.task.name}: {text}")


def _check_writing(s: _Subject) -> None:
    """Prove that blocks and jobs tile the region, and that what they write has a place."""
    task, grid = s.task, s.task.grid
    if grid != s.declared.grid:
        s.refuse("block_size", "the plan is for another tiling; plan again")
        return
    if not all(_tiles(axis) for axis in grid.axes) or not _partitions(task.jobs):
        s.refuse("block_size", f"blocks or jobs miss a part of the roi or overlap; {_DEFECT}")
        return
    _warn_of_fit(s)
    before = s.refused
    paths = [path_of(w.array) for w in task.writes.values()]
    for name, write in task.writes.items():
        array, place = write.array, f"writes.{name}"
        if paths.count(path_of(array)) > 1:
            s.refuse(place, f"every block writes {array.path} twice; name it once")
        if _cuts_voxels(grid, array):
            s.refuse(
                place,
                f"blocks cut voxels of {array.path}, so two blocks would write the same voxel; let "
                f"roi and block_size be multiples of its voxel size {as_text(array.voxel_size)}",
            )
        lost = _first_gap(task, grid.extent.intersect(s.roi), [array.roi], grid.writing)
        if lost is not None:
            s.refuse(
                place,
                f"{as_span(lost[0])} is written by block {as_text(lost[1])} and lies outside "
                f"of {array.path}, which covers {as_span(array.roi)}; write to another array or "
                "make the roi smaller",
            )
    if s.refused == before:
        masked = f", {task.num_masked:,} masked blocks apart" if task.num_masked else ""
        s.prove(
            f"{task.num_blocks:,} blocks in {task.num_jobs:,} jobs write every voxel of "
            f"{as_span(grid.extent.intersect(s.roi))} exactly once{masked}"
        )


def _tiles(axis: Axis) -> bool:
    """Tell whether the write intervals of an axis follow one another from begin to end.

    Both ends of an interval are linear in the index, but for the cut of the last one: what holds
    for the first two and for the last two holds for all.
    """
    n = len(axis)
    spans = {k: axis.write(k) for k in (0, 1, n - 2, n - 1) if 0 <= k < n}
    return (
        n > 0
        and (spans[0][0], spans[n - 1][1]) == (axis.begin, axis.end)
        and all(low < high for low, high in spans.values())
        and all(spans[k][1] == spans[k + 1][0] for k in spans if k + 1 in spans)
    )


def _partitions(jobs: JobGrid) -> bool:
    """Tell whether every block is in exactly one job, and what the job writes is its blocks'."""
    shape, coarse = jobs.grid.shape, jobs.jobs
    if not all(_tiles(axis) for axis in coarse.axes):
        return False
    corners = [tuple(min(k, n - 1) for n in coarse.shape) for k in (0, 1)]
    corners += [tuple(max(0, n - k) for n in coarse.shape) for k in (2, 1)]
    for job in corners:
        members = jobs.members(job)
        last = tuple(e - 1 for e in members.end)
        hull = jobs.grid.write(members.begin).union(jobs.grid.write(last))
        if hull != coarse.write(job):
            return False
    return jobs.members(corners[0]).begin == (0,) * len(shape) and members.end == shape


def _warn_of_fit(s: _Subject) -> None:
    roi, extent = s.roi, s.task.grid.extent
    short = tuple(r - e for r, e in zip(roi.end, extent.end, strict=True))
    if any(x > 0 for x in short):
        s.warn(
            "fit",
            f"valid leaves {as_text(max(0, x) for x in short)} world units at the upper end of "
            f"the roi unwritten: the roi is {as_span(roi)}, written is {as_span(extent)}; use fit: "
            "shrink to write all",
        )
    if any(x < 0 for x in short):
        s.warn(
            "fit",
            f"overhang writes {as_text(max(0, -x) for x in short)} world units beyond the roi: "
            f"the roi is {as_span(roi)}, written is {as_span(extent)}, and what lies outside of an "
            "array is dropped; use fit: shrink to write the roi alone",
        )


def _cuts_voxels(grid: Grid, array: ArrayInfo) -> bool:
    return any(
        (axis.begin - o) % v or (axis.end - o) % v or (len(axis) > 1 and axis.step % v)
        for axis, o, v in zip(grid.axes, array.offset, array.voxel_size, strict=True)
    )


def _warn_of_conflict(s: _Subject) -> None:
    """With ``call: arrays`` all that a task reads is declared, so a needless order is seen."""
    is_known = s.task.call is Call.ARRAYS and not s.in_place
    if is_known and s.declared.read_write_conflict and any(context_of(s.task.grid)):
        s.warn(
            "conflict",
            "is true, so neighbours wait for one another, but the task does not read what it "
            "writes; conflict: false lets them run at the same time",
        )


def _check_order(s: _Subject) -> bool:
    """Prove that conflicting blocks have an order, in jobs by phase, between jobs by inputs."""
    task = s.task
    _warn_of_conflict(s)
    for grid, phases, what in (
        (task.grid, task.block_phases, "blocks"),
        (task.jobs.jobs, task.phases, "jobs"),
    ):
        for array in _changed_in_place(s):
            if _exceeds(context_of(grid, array), phases):
                s.refuse(
                    "conflict",
                    f"is false, but {what} read what their neighbours write to {array.path} at "
                    "the same time; set conflict: true or context: 0",
                )
                return False
        needed = (0,) * grid.ndim
        if s.declared.read_write_conflict:
            needed = context_of(grid)
        if s.declared.chunks is Chunks.COLOR:
            for write in task.writes.values():
                needed = tuple(map(max, needed, sharing_of(grid, write.array)))
        if _exceeds(needed, phases):
            s.refuse(
                "conflict",
                f"{what} conflict up to {as_text(needed)} {what} away, the plan orders "
                f"{as_text(phases.reach)}; {_DEFECT}",
            )
            return False
    if not is_proper(task.block_phases) or not _is_present(task):
        s.refuse("conflict", f"phases do not fit the blocks; {_DEFECT}")
        return False
    return _check_inputs(s)


def _changed_in_place(s: _Subject) -> list[ArrayInfo]:
    """Return the arrays whose blocks conflict although the task says that none do.

    With ``call: arrays`` a block is given nothing that another one might be writing.
    """
    if s.declared.read_write_conflict or s.task.call is Call.ARRAYS:
        return []
    return [w.array for w in s.task.writes.values() if path_of(w.array) in s.in_place]


def _check_inputs(s: _Subject) -> bool:
    phases, most, lower = s.task.phases, 0, 0
    for job in classes(phases) if any(phases.reach) else ():
        inputs, below, loose = order_of(phases, job)
        most, lower = max(most, inputs), lower + below
        if loose is not None:
            s.refuse(
                "conflict",
                f"jobs {as_text(loose)} and {as_text(job)} conflict and are not ordered; {_DEFECT}",
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


def _count_block_pairs(s: _Subject) -> None:
    """Say what the order of jobs, and of phases inside a job, means for blocks."""
    grid, batched = s.task.grid, s.task.num_jobs < s.task.num_blocks
    if batched and s.declared.read_write_conflict and s.task.jobs.present is None:
        count = pairs(Phases(grid.shape, context_of(grid)))
        s.prove(f"{count:,} pairs of blocks conflict and all are ordered, by jobs or inside of one")


def _exceeds(needed: Index, phases: Phases) -> bool:
    return any(x > r for x, r in zip(needed, phases.reach, strict=True))


def _is_present(task: PlannedTask) -> bool:
    """Tell whether exactly the jobs with work have a phase."""
    present, table = task.jobs.job_presence(), task.phases.table
    if present is None or table is None:
        return present is None and table is None
    return bool(np.array_equal(present, table >= 0))


def _check_chunks(s: _Subject, *, ordered: bool) -> None:
    """Prove that blocks of a task that may run together write no common chunk."""
    task, grid = s.task, s.task.grid
    guilty = [w.array for w in task.writes.values() if any(sharing_of(grid, w.array))]
    names = ", ".join(w.array.path for w in task.writes.values())
    if not names:
        s.warn(
            "writes",
            "none are declared, so it is not proved that blocks write no common storage chunk; "
            "declare them",
        )
    elif not guilty:
        s.prove(f"no two blocks write a common chunk or shard of {names}")
    elif s.declared.chunks is Chunks.REFUSE:
        key, advice = _alignment(s, guilty)
        for array in guilty:
            s.refuse(key, f"chunks: refuse, and {_sharing_text(grid, array)}; {advice}")
    else:
        if ordered:
            s.prove(f"blocks that write a common chunk or shard of {names} are ordered")
        _warn_of_phases(s, guilty)


def _warn_of_phases(s: _Subject, guilty: list[ArrayInfo]) -> None:
    jobs, phases = s.task.jobs.jobs, len(s.task.phases)
    alone = context_of(jobs) if s.declared.read_write_conflict else (0,) * jobs.ndim
    fewer = math.prod(min(n, r + 1) for n, r in zip(jobs.shape, alone, strict=True))
    if fewer < phases:
        key, advice = _alignment(s, guilty)
        text = ", and ".join(_sharing_text(s.task.grid, array) for array in guilty)
        s.warn(key, f"{text}, so jobs run in {phases} phases, not {fewer}; {advice}")


def _sharing_text(grid: Grid, array: ArrayInfo) -> str:
    apart = sharing_of(grid, array)
    axes = [a for a, x in enumerate(apart) if x]
    chunks = as_text(chunk_extent(array, a) for a in range(grid.ndim))
    on = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return (
        f"blocks of {as_text(grid.block_size)} from {as_text(grid.extent.begin)} on share "
        f"storage chunks (or shards) of {chunks} world units of {array.path} on {on}"
    )


def _alignment(s: _Subject, guilty: Sequence[ArrayInfo]) -> tuple[str, str]:
    """Return the key to change and the nearest block size, or roi, with which chunks align."""
    sizes, begin, reasons = list(s.task.grid.block_size), list(s.roi.begin), []
    for a, axis in enumerate(s.task.grid.axes):
        sharing = [array for array in guilty if sharing_of(s.task.grid, array)[a]]
        for array in sharing:
            past = (axis.begin - array.offset[a]) % chunk_extent(array, a)
            if past and begin[a] == axis.begin:
                begin[a] -= past
                reasons.append(
                    f"on axis {a} the roi begins {past} world units into a chunk, begin it at "
                    f"{axis.begin - past} or {axis.begin - past + chunk_extent(array, a)}"
                )
        if sharing:
            sizes[a] = _nearest_size(s, a, sharing)
    advice = ", and ".join(reasons)
    if tuple(sizes) != s.task.grid.block_size:
        advice += f"{', and ' if reasons else ''}use block_size {as_text(sizes)}"
    return ("roi" if reasons else "block_size"), advice


def _nearest_size(s: _Subject, a: int, sharing: Sequence[ArrayInfo]) -> int:
    """Return the multiple of the chunks on an axis that is nearest to the block size."""
    fixed = [w.array for w in s.task.writes.values() if w.array.exists]
    unit = math.lcm(*(chunk_extent(array, a) for array in (*sharing, *fixed)))
    unit = math.lcm(unit, *(r.array.voxel_size[a] for r in s.task.reads.values()))
    step = s.task.grid.axes[a].step
    low = step // unit * unit
    size = low if low and step - low <= low + unit - step else low + unit
    return min(size, s.roi.shape[a])


def _check_reading(s: _Subject) -> None:
    """Prove that declared reads find what they need."""
    task = s.task
    reach = task.grid.extent.grow(task.grid.lower, task.grid.upper)
    for name, read in task.reads.items():
        array, key = read.array, f"reads.{name}"
        if read.fill is None:
            outside = _first_gap(task, reach, [array.roi], task.grid.reading)
            if outside is not None:
                s.refuse(
                    key,
                    f"{as_span(outside[0])} is read by block {as_text(outside[1])} and lies "
                    f"outside of {array.path}, which covers {as_span(array.roi)}; declare a fill, "
                    "or make roi or context smaller",
                )
        if path_of(array) in s.in_place:
            _check_in_place(s, key, array)
        else:
            _check_read(s, key, array, reach)


def _check_read(s: _Subject, key: str, array: ArrayInfo, reach: Box) -> None:
    writers = writers_of(s.plan, array)
    waited = [w for w in writers if w.name in s.task.upstream]
    if not writers and not array.exists:
        s.refuse(key, f"{array.path} is missing and no task writes it; make it first")
        return
    sources = [w.grid.extent.intersect(array.roi) for w in waited] if writers else [array.roi]
    gap = _first_gap(s.task, reach.intersect(s.roi), sources, s.task.grid.reading)
    if gap is None:
        by = f"written by {', '.join(w.name for w in waited)}" if writers else "existing data"
        s.prove(f"all that it reads of {array.path} inside its roi is {by}")
        return
    where = f"{as_span(gap[0])} of {array.path} is read by block {as_text(gap[1])}"
    if not writers:
        s.refuse(
            key,
            f"{where}, but the array covers {as_span(array.roi)} only; make the roi, "
            f"{as_span(s.roi)}, smaller",
        )
    else:
        s.refuse(key, f"{where}, but {_writers_text(s, waited, gap[0])}")


def _writers_text(s: _Subject, waited: Sequence[PlannedTask], gap: Box) -> str:
    """Return who does not write a region that is read, and what to do about it."""
    if not waited:
        return "no task that this one waits for writes it; name its writer in after"
    wrote = ", ".join(f"{up.name} writes {as_span(up.grid.extent)}" for up in waited)
    for up in waited:
        if up.fit == Fit.VALID and s.tasks[up.name].write_extent.meets(gap):
            return f"{wrote} and leaves the rest out by fit: valid; use fit: shrink in {up.name}"
    return f"{wrote} only; give {waited[0].name} a larger roi, or this task a smaller one"


def _check_in_place(s: _Subject, key: str, array: ArrayInfo) -> None:
    """Say what a task finds in an array that it writes itself."""
    others = [w.name for w in writers_of(s.plan, array) if w.name != s.task.name]
    if s.task.call is not Call.ARRAYS:
        s.prove(f"it changes {array.path} in place, conflicting blocks one after the other")
    elif others:
        s.refuse(
            key,
            f"with call: arrays a task that writes {array.path} sees only what its own blocks "
            f"wrote there, never what {', '.join(others)} wrote; write to another array",
        )
    elif not any(s.task.phases.reach) and any(s.task.grid.lower + s.task.grid.upper):
        s.warn(
            key,
            f"conflict: false, so a block sees of {array.path} only the fill, never what "
            "neighbours wrote; set conflict: true or do not read it",
        )
    else:
        s.prove(
            f"of {array.path}, which it writes itself, a block sees what conflicting blocks of "
            "earlier phases wrote, and fill elsewhere"
        )


def _check_after(s: _Subject) -> None:
    """Prove for upstream tasks without a declared array in common that blocks wait for all."""
    task = s.task
    reach = task.grid.extent.grow(task.grid.lower, task.grid.upper).intersect(s.roi)
    read = paths_of(task.reads.values())
    for up in (s.plan.tasks[name] for name in task.upstream):
        if read & paths_of(up.writes.values()):
            continue
        if up.grid.ndim != task.grid.ndim:
            s.refuse(
                "after",
                f"{up.name} has {up.grid.ndim} axes and this task {task.grid.ndim}; give both "
                "rois the same number of axes",
            )
            continue
        gap = _first_gap(task, reach, [up.grid.extent], task.grid.reading)
        if gap is None:
            s.prove(f"every block waits for all that {up.name} does in its read Roi")
            continue
        text = f"{as_span(gap[0])} is read by block {as_text(gap[1])}, but "
        text += _writers_text(s, [up], gap[0])
        if task.reads:
            s.warn("after", f"{text}; or ignore this if what it reads there is not from {up.name}")
        else:
            s.refuse("after", f"{text}, or declare reads and writes")


def _first_gap(
    task: PlannedTask,
    region: Box,
    sources: Sequence[Box],
    touching: Callable[[Box], Box],
) -> tuple[Box, Index] | None:
    """Return a part of ``region`` in no source, and a present block that touches it."""
    left = [region] if region else []
    for source in sources:
        left = [piece for box in left for piece in _minus(box, source)]
    for piece in sorted(left, key=lambda box: box.begin):
        block = _first_present(task.jobs, touching(piece))
        if block is not None:
            return piece, block
    return None


def _minus(box: Box, other: Box) -> list[Box]:
    """Return disjoint boxes that cover what of ``box`` is not in ``other``."""
    if not box.meets(other):
        return [box]
    pieces = []
    for a in range(box.ndim):
        low, high = list(box.begin), list(box.end)
        cut, rest = max(box.begin[a], other.begin[a]), min(box.end[a], other.end[a])
        pieces.append(Box(box.begin, (*high[:a], cut, *high[a + 1 :])))
        pieces.append(Box((*low[:a], rest, *low[a + 1 :]), box.end))
        box = Box((*low[:a], cut, *low[a + 1 :]), (*high[:a], rest, *high[a + 1 :]))
    return [piece for piece in pieces if piece]


def _first_present(jobs: JobGrid, blocks: Box) -> Index | None:
    if not blocks or jobs.present is None:
        return blocks.begin if blocks else None
    here = jobs.presence(blocks)
    number = int(here.argmax())
    if not here.flat[number]:
        return None
    place = np.unravel_index(number, here.shape)
    return tuple(int(k) + b for k, b in zip(place, blocks.begin, strict=True))
