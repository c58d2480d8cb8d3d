"""The proof, before anything runs, that a plan misses no voxel and lets no two jobs meet.

Everything is decided from geometry, one axis first and then the product over axes. Along an axis
blocks fall into classes: away from the few places where a region or an array begins or ends, the
pattern of blocks, chunks and upstream blocks repeats. One block of every class is looked at, so
on dense grids the cost does not depend on the number of blocks. Where blocks are masked, the
tables that the plan holds anyway are gone through as a whole.
"""

from __future__ import annotations

import itertools
import math
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.box import Box, Index
from snakemake_blocks.dependencies import JobGrid
from snakemake_blocks.errors import PlanError
from snakemake_blocks.phases import Phases
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.task import Call, Chunks, Read, Task, Write
from snakemake_blocks.tiling import Axis, Fit, Grid

__all__ = ["Proof", "check_plan"]

_DEFECT = "this is a defect of snakemake-blocks, please report it"
# Pairs of blocks of two masked tasks are counted in tables of at most so many entries.
_LARGEST_TABLE = 1 << 27

Integers = NDArray[np.int64]
Spans = tuple[Integers, Integers]


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
    _check_common_arrays(plan, findings)
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
        return _paths(self.task.reads.values()) & _paths(self.task.writes.values())

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


# --- every voxel is written exactly once


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
    paths = [_path(w.array) for w in task.writes.values()]
    for name, write in task.writes.items():
        array, place = write.array, f"writes.{name}"
        if paths.count(_path(array)) > 1:
            s.refuse(place, f"every block writes {array.path} twice; name it once")
        if _cuts_voxels(grid, array):
            s.refuse(
                place,
                f"blocks cut voxels of {array.path}, so two blocks would write the same voxel; let "
                f"roi and block_size be multiples of its voxel size {_text(array.voxel_size)}",
            )
        lost = _first_gap(task, grid.extent.intersect(s.roi), [array.roi], grid.writing)
        if lost is not None:
            s.refuse(
                place,
                f"{_span(lost[0])} is written by block {_text(lost[1])} and lies outside "
                f"of {array.path}, which covers {_span(array.roi)}; write to another array or "
                "make the roi smaller",
            )
    if s.refused == before:
        masked = f", {task.num_masked:,} masked blocks apart" if task.num_masked else ""
        s.prove(
            f"{task.num_blocks:,} blocks in {task.num_jobs:,} jobs write every voxel of "
            f"{_span(grid.extent.intersect(s.roi))} exactly once{masked}"
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
            f"valid leaves {_text(max(0, x) for x in short)} world units at the upper end of "
            f"the roi unwritten: the roi is {_span(roi)}, written is {_span(extent)}; use fit: "
            "shrink to write all",
        )
    if any(x < 0 for x in short):
        s.warn(
            "fit",
            f"overhang writes {_text(max(0, -x) for x in short)} world units beyond the roi: "
            f"the roi is {_span(roi)}, written is {_span(extent)}, and what lies outside of an "
            "array is dropped; use fit: shrink to write the roi alone",
        )


def _cuts_voxels(grid: Grid, array: ArrayInfo) -> bool:
    return any(
        (axis.begin - o) % v or (axis.end - o) % v or (len(axis) > 1 and axis.step % v)
        for axis, o, v in zip(grid.axes, array.offset, array.voxel_size, strict=True)
    )


# --- conflicting blocks are ordered


def _check_order(s: _Subject) -> bool:
    """Prove that conflicting blocks have an order, in jobs by phase, between jobs by inputs."""
    task = s.task
    for grid, phases, what in (
        (task.grid, task.block_phases, "blocks"),
        (task.jobs.jobs, task.phases, "jobs"),
    ):
        for array in _changed_in_place(s):
            if _exceeds(_context(grid, array), phases):
                s.refuse(
                    "conflict",
                    f"is false, but {what} read what their neighbours write to {array.path} at "
                    "the same time; set conflict: true or context: 0",
                )
                return False
        needed = (0,) * grid.ndim
        if s.declared.read_write_conflict:
            needed = _context(grid)
        if s.declared.chunks is Chunks.COLOR:
            for write in task.writes.values():
                needed = tuple(map(max, needed, _sharing(grid, write.array)))
        if _exceeds(needed, phases):
            s.refuse(
                "conflict",
                f"{what} conflict up to {_text(needed)} {what} away, the plan orders "
                f"{_text(phases.reach)}; {_DEFECT}",
            )
            return False
    if not _is_proper(task.block_phases) or not _is_present(task):
        s.refuse("conflict", f"phases do not fit the blocks; {_DEFECT}")
        return False
    return _check_inputs(s)


def _changed_in_place(s: _Subject) -> list[ArrayInfo]:
    """Return the arrays whose blocks conflict although the task says that none do.

    With ``call: arrays`` a block is given nothing that another one might be writing.
    """
    if s.declared.read_write_conflict or s.task.call is Call.ARRAYS:
        return []
    return [w.array for w in s.task.writes.values() if _path(w.array) in s.in_place]


def _check_inputs(s: _Subject) -> bool:
    phases, most, lower = s.task.phases, 0, 0
    for job in _classes(phases) if any(phases.reach) else ():
        inputs, below, loose = _order_of(phases, job)
        most, lower = max(most, inputs), lower + below
        if loose is not None:
            s.refuse(
                "conflict",
                f"jobs {_text(loose)} and {_text(job)} conflict and are not ordered; {_DEFECT}",
            )
            return False
    pairs = _pairs(phases) if phases.table is None else lower
    if pairs:
        s.prove(
            f"{pairs:,} conflicting pairs of jobs are ordered in {len(phases)} phases, by "
            f"{most} inputs at most"
        )
    else:
        s.prove("no two jobs conflict, all may run together")
    _count_block_pairs(s)
    return True


def _count_block_pairs(s: _Subject) -> None:
    """Say what the order of jobs, and of phases inside a job, means for blocks."""
    grid, batched = s.task.grid, s.task.num_jobs < s.task.num_blocks
    if batched and s.declared.read_write_conflict and s.task.jobs.present is None:
        pairs = _pairs(Phases(grid.shape, _context(grid)))
        s.prove(f"{pairs:,} conflicting pairs of blocks are in ordered jobs or phases of a job")


def _exceeds(needed: Index, phases: Phases) -> bool:
    return any(x > r for x, r in zip(needed, phases.reach, strict=True))


def _context(grid: Grid, array: ArrayInfo | None = None) -> Index:
    """Return how far apart nodes can be of which one reads what the other writes (to an array)."""
    return _farthest(
        grid,
        array,
        lambda axis, k, a: _clip(_reads(axis, k), array, a) if array else _reads(axis, k),
    )


def _sharing(grid: Grid, array: ArrayInfo) -> Index:
    """Return how far apart nodes can be that write a storage chunk, or shard, in common."""
    return _farthest(grid, array, lambda axis, k, a: _whole_chunks(_writes(axis, k), array, a))


def _farthest(
    grid: Grid, array: ArrayInfo | None, used: Callable[[Axis, Integers, int], Spans]
) -> Index:
    """Return how far, per axis, the nodes can be that write what a node uses."""
    reach = []
    for a, axis in enumerate(grid.axes):
        chunk = _chunk(array, a) if array else 1
        ends = (array.roi.begin[a], array.roi.end[a]) if array else ()
        k = _telling(axis, period=chunk, margin=axis.lower + axis.upper + chunk, marks=ends)
        first, last = _writing(axis, used(axis, k, a))
        if not np.any(first < last):
            return (0,) * grid.ndim
        reach.append(int(np.where(first < last, np.maximum(last - 1 - k, k - first), 0).max()))
    return tuple(reach)


def _is_proper(phases: Phases) -> bool:
    """Tell whether conflicting nodes of a dense grid differ in phase.

    Their digits differ if an axis has as many digits as nodes in reach; phases differ where
    digits do if no two sets of digits have one phase.
    """
    enough = [min(n, r + 1) for n, r in zip(phases.shape, phases.reach, strict=True)]
    if any(m < x for m, x in zip(phases.moduli, enough, strict=True)):
        return False
    window = phases.all(Box.from_shape(phases.moduli))
    return len(np.unique(window)) == math.prod(phases.moduli)


def _is_present(task: PlannedTask) -> bool:
    """Tell whether exactly the jobs with work have a phase."""
    present, table = task.jobs.job_presence(), task.phases.table
    if present is None or table is None:
        return present is None and table is None
    return bool(np.array_equal(present, table >= 0))


def _classes(phases: Phases) -> Iterator[Index]:
    """Yield a node of every class: all of them when masked, else by digits and near borders."""
    if phases.table is not None:
        return (tuple(map(int, node)) for node in np.argwhere(phases.table >= 0))
    per_axis = []
    for n, r, m in zip(phases.shape, phases.reach, phases.moduli, strict=True):
        near = min(r, n)
        found = {*range(min(n, near + m)), *range(max(0, n - near), n)}
        per_axis.append(sorted(found))
    return itertools.product(*per_axis)


def _order_of(phases: Phases, node: Index) -> tuple[int, int, Index | None]:
    """Return inputs, conflicting nodes of lower phase, and one that is not ordered, of a node.

    A lower node is ordered before this one if it is an input, or if a node of a phase strictly
    between conflicts with both: by induction on the difference of phases all pairs are, when
    this holds for every node.
    """
    box = phases.conflicting(node)
    ranks = np.broadcast_to(phases.all(box), box.shape)
    mine = phases.of(node)
    inputs = phases.predecessors(node)
    is_input = np.zeros(box.shape, dtype=bool)
    for u in inputs:
        if not box.contains(u) or not 0 <= phases.of(u) < mine:
            return len(inputs), 0, u
        is_input[tuple(x - b for x, b in zip(u, box.begin, strict=True))] = True
    lower = np.where(ranks < mine, ranks, -1)
    between = _largest_near(lower, phases.reach) > lower
    loose = (ranks == mine) | ((lower >= 0) & ~is_input & ~between)
    loose[tuple(x - b for x, b in zip(node, box.begin, strict=True))] = False
    first = np.argwhere(loose)[:1]
    bad = [tuple(int(x) + b for x, b in zip(u, box.begin, strict=True)) for u in first]
    return len(inputs), int((lower >= 0).sum()), bad[0] if bad else None


def _largest_near(values: NDArray[np.int32], reach: Index) -> NDArray[np.int32]:
    """Return for every place the largest value at most ``reach`` away, axis by axis."""
    for a, r in enumerate(reach):
        source = values.swapaxes(0, a)
        found = source.copy()
        for d in range(1, min(r, len(source) - 1) + 1):
            np.maximum(found[d:], source[:-d], out=found[d:])
            np.maximum(found[:-d], source[d:], out=found[:-d])
        values = found.swapaxes(0, a)
    return values


def _pairs(phases: Phases) -> int:
    """Return the number of conflicting pairs of nodes of a dense grid."""
    ordered = 1
    for n, r in zip(phases.shape, phases.reach, strict=True):
        r = min(r, n - 1)
        ordered *= n + 2 * r * n - r * (r + 1)
    return (ordered - math.prod(phases.shape)) // 2


# --- blocks share storage chunks only in order


def _check_chunks(s: _Subject, *, ordered: bool) -> None:
    """Prove that blocks of a task that may run together write no common chunk."""
    task, grid = s.task, s.task.grid
    guilty = [w.array for w in task.writes.values() if any(_sharing(grid, w.array))]
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
    alone = _context(jobs) if s.declared.read_write_conflict else (0,) * jobs.ndim
    fewer = math.prod(min(n, r + 1) for n, r in zip(jobs.shape, alone, strict=True))
    if fewer < phases:
        key, advice = _alignment(s, guilty)
        text = ", and ".join(_sharing_text(s.task.grid, array) for array in guilty)
        s.warn(key, f"{text}, so jobs run in {phases} phases, not {fewer}; {advice}")


def _sharing_text(grid: Grid, array: ArrayInfo) -> str:
    apart = _sharing(grid, array)
    axes = [a for a, x in enumerate(apart) if x]
    chunks = _text(_chunk(array, a) for a in range(grid.ndim))
    on = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return (
        f"blocks of {_text(grid.block_size)} from {_text(grid.extent.begin)} on share "
        f"storage chunks (or shards) of {chunks} world units of {array.path} on {on}"
    )


def _alignment(s: _Subject, guilty: Sequence[ArrayInfo]) -> tuple[str, str]:
    """Return the key to change and the nearest block size, or roi, with which chunks align."""
    sizes, begin, reasons = list(s.task.grid.block_size), list(s.roi.begin), []
    for a, axis in enumerate(s.task.grid.axes):
        sharing = [array for array in guilty if _sharing(s.task.grid, array)[a]]
        for array in sharing:
            past = (axis.begin - array.offset[a]) % _chunk(array, a)
            if past and begin[a] == axis.begin:
                begin[a] -= past
                reasons.append(
                    f"on axis {a} the roi begins {past} world units into a chunk, begin it at "
                    f"{axis.begin - past} or {axis.begin - past + _chunk(array, a)}"
                )
        if sharing:
            sizes[a] = _nearest_size(s, a, sharing)
    advice = ", and ".join(reasons)
    if tuple(sizes) != s.task.grid.block_size:
        advice += f"{', and ' if reasons else ''}use block_size {_text(sizes)}"
    return ("roi" if reasons else "block_size"), advice


def _nearest_size(s: _Subject, a: int, sharing: Sequence[ArrayInfo]) -> int:
    """Return the multiple of the chunks on an axis that is nearest to the block size."""
    fixed = [w.array for w in s.task.writes.values() if w.array.exists]
    unit = math.lcm(*(_chunk(array, a) for array in (*sharing, *fixed)))
    unit = math.lcm(unit, *(r.array.voxel_size[a] for r in s.task.reads.values()))
    step = s.task.grid.axes[a].step
    low = step // unit * unit
    size = low if low and step - low <= low + unit - step else low + unit
    return min(size, s.roi.shape[a])


# --- what is read is there


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
                    f"{_span(outside[0])} is read by block {_text(outside[1])} and lies "
                    f"outside of {array.path}, which covers {_span(array.roi)}; declare a fill, "
                    "or make roi or context smaller",
                )
        if _path(array) in s.in_place:
            _check_in_place(s, key, array)
        else:
            _check_read(s, key, array, reach)


def _check_read(s: _Subject, key: str, array: ArrayInfo, reach: Box) -> None:
    writers = _writers(s.plan, array)
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
    where = f"{_span(gap[0])} of {array.path} is read by block {_text(gap[1])}"
    if not writers:
        s.refuse(
            key,
            f"{where}, but the array covers {_span(array.roi)} only; make the roi, "
            f"{_span(s.roi)}, smaller",
        )
    else:
        s.refuse(key, f"{where}, but {_writers_text(s, waited, gap[0])}")


def _writers_text(s: _Subject, waited: Sequence[PlannedTask], gap: Box) -> str:
    """Return who does not write a region that is read, and what to do about it."""
    if not waited:
        return "no task that this one waits for writes it; name its writer in after"
    wrote = ", ".join(f"{up.name} writes {_span(up.grid.extent)}" for up in waited)
    for up in waited:
        if up.fit == Fit.VALID and s.tasks[up.name].write_extent.meets(gap):
            return f"{wrote} and leaves the rest out by fit: valid; use fit: shrink in {up.name}"
    return f"{wrote} only; give {waited[0].name} a larger roi, or this task a smaller one"


def _check_in_place(s: _Subject, key: str, array: ArrayInfo) -> None:
    """Say what a task finds in an array that it writes itself."""
    others = [w.name for w in _writers(s.plan, array) if w.name != s.task.name]
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
    read = _paths(task.reads.values())
    for up in (s.plan.tasks[name] for name in task.upstream):
        if read & _paths(up.writes.values()):
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
        text = f"{_span(gap[0])} is read by block {_text(gap[1])}, but "
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


# --- tasks that use one array


@dataclass(frozen=True, slots=True)
class _Use:
    task: PlannedTask
    kind: str
    name: str
    array: ArrayInfo

    @property
    def writes(self) -> bool:
        return self.kind == "writes"

    def __str__(self) -> str:
        return f"tasks.{self.task.name}.{self.kind}.{self.name}"


def _check_common_arrays(plan: Plan, findings: _Findings) -> None:
    """Prove that tasks that use one array, of which one writes it, do not meet there."""
    uses: defaultdict[str, list[_Use]] = defaultdict(list)
    for task in plan.tasks.values():
        declared: tuple[tuple[str, Mapping[str, Read | Write]], ...]
        declared = (("writes", task.writes), ("reads", task.reads))
        for kind, arrays in declared:
            for name, found in arrays.items():
                uses[_path(found.array)].append(_Use(task, kind, name, found.array))
    for path, here in uses.items():
        _check_same(path, here, findings)
        for one, other in itertools.combinations(here, 2):
            if one.task is not other.task and (one.writes or other.writes):
                _check_pair(one, other, findings)
    for task in plan.tasks.values():
        for use in uses.get(posixpath.normpath(task.mask), []) if task.mask else []:
            if use.writes:
                findings.warnings.append(
                    f"tasks.{task.name}.mask: {task.mask} is read when the plan is made, and "
                    f"{use.task.name} writes it later; run {use.task.name} in a pipeline of its own"
                )


def _check_same(path: str, uses: Sequence[_Use], findings: _Findings) -> None:
    """Refuse an array that two declarations describe differently."""
    first = uses[0]
    for use in uses[1:]:
        if replace(use.array, path=path, exists=True, units=()) != replace(
            first.array, path=path, exists=True, units=()
        ):
            findings.violations.append(
                f"{use}: describes {use.array.path} otherwise than {first} does; plan again"
            )


def _check_pair(one: _Use, other: _Use, findings: _Findings) -> None:
    late, early, waits = other, one, one.task.name in other.task.upstream
    if other.task.name in one.task.upstream:
        late, early, waits = one, other, True
    if waits and not late.writes:
        return  # a job waits for all that is written where it reads
    node = _meeting(late, early, waits=waits)
    if node is None:
        return
    if not late.writes:
        late, early = early, late
    both = "and so does" if early.writes else "which is read by"
    text = f"{late}: writes {late.array.path}, {both} {early.task.name} ({early.kind}.{early.name})"
    if not waits:
        first, second = (early, late) if early.writes else (late, early)
        text += (
            f", and neither waits for the other where they meet; add after: [{first.task.name}] "
            f"to {second.task.name} or the reverse, or write to another array"
        )
    elif early.writes:
        chunks = _text(_chunk(late.array, a) for a in range(late.array.ndim))
        text += (
            f", and a storage chunk that {_text(node)} writes is still being written there; "
            f"let its blocks be whole chunks of {chunks} world units, or write to another array"
        )
    else:
        text += f" while {_text(node)} overwrites it; write to another array"
    findings.violations.append(text)


def _meeting(late: _Use, early: _Use, *, waits: bool) -> Index | None:
    """Return a node of ``late`` that meets an unordered one of ``early`` in the array, or None.

    Dense tasks are compared job by job where one waits for the other. A mask can take from a job
    the block for which another job waited, so then blocks are compared with blocks.
    """
    masked = late.task.jobs.present is not None or early.task.jobs.present is not None
    grids = [u.task.grid if masked or not waits else u.task.jobs.jobs for u in (late, early)]
    axes = list(zip(*(grid.axes for grid in grids), strict=True))
    found = _Relation(
        [_along(late, early, pair, a, waits=waits) for a, pair in enumerate(axes)]
    ).first()
    if found is None or not masked or len(grids[0]) > _LARGEST_TABLE:
        return found
    every = [np.arange(n) for n in grids[0].shape]
    relation = _Relation(
        [_along(late, early, pair, a, waits=waits, k=every[a]) for a, pair in enumerate(axes)]
    )
    return relation.first_present(late.task.jobs, early.task.jobs)


@dataclass(frozen=True, slots=True)
class _Along:
    """Along one axis: nodes, the nodes of another grid that they meet, and those they wait for."""

    k: Integers
    meets: Spans
    waits: Spans


def _along(
    late: _Use,
    early: _Use,
    axes: tuple[Axis, Axis],
    a: int,
    *,
    waits: bool,
    k: Integers | None = None,
) -> _Along:
    mine, theirs = axes
    array = late.array
    chunk = _chunk(array, a)
    if k is None:
        k = _telling(
            mine,
            period=math.lcm(theirs.step, chunk),
            margin=chunk + mine.lower + mine.upper + theirs.lower + theirs.upper,
            marks=(theirs.begin, theirs.end, array.roi.begin[a], array.roi.end[a]),
        )
    used = _clip(_writes(mine, k) if late.writes else _reads(mine, k), array, a)
    if late.writes and early.writes:
        used = _whole_chunks(used, array, a)
    meets = (_writing if early.writes else _reading)(theirs, used)
    none = np.zeros_like(k)
    return _Along(k, meets, _writing(theirs, _reads(mine, k)) if waits else (none, none))


@dataclass(frozen=True, slots=True)
class _Relation:
    """Pairs of nodes of two grids: the product of what holds along each axis."""

    axes: Sequence[_Along]

    def first(self) -> Index | None:
        """Return a node that meets one for which it does not wait, all nodes being there."""
        meeting = [x.meets[0] < x.meets[1] for x in self.axes]
        if not all(m.any() for m in meeting):
            return None
        node = [int(x.k[m.argmax()]) for x, m in zip(self.axes, meeting, strict=True)]
        for a, (x, m) in enumerate(zip(self.axes, meeting, strict=True)):
            loose = m & ((x.meets[0] < x.waits[0]) | (x.meets[1] > x.waits[1]))
            if loose.any():
                node[a] = int(x.k[loose.argmax()])
                return tuple(node)
        return None

    def first_present(self, mine: JobGrid, theirs: JobGrid) -> Index | None:
        """Return the same among the blocks that are not masked; needs all nodes in ``k``."""
        both = [
            (np.maximum(x.meets[0], x.waits[0]), np.minimum(x.meets[1], x.waits[1]))
            for x in self.axes
        ]
        loose = _counts([x.meets for x in self.axes], theirs) - _counts(both, theirs)
        here = np.argwhere((loose > 0) & mine.presence(mine.grid.indices))
        return tuple(map(int, here[0])) if len(here) else None


def _counts(spans: Sequence[Spans], jobs: JobGrid) -> Integers:
    """Return the number of present blocks in every product of spans."""
    if jobs.present is None:
        counts = np.ones((1,) * len(spans), dtype=np.int64)
        for a, (first, last) in enumerate(spans):
            shape = [-1 if b == a else 1 for b in range(len(spans))]
            counts = counts * np.maximum(0, last - first).reshape(shape)
        return counts
    counts = jobs.present.astype(np.int64)
    for a, (first, last) in enumerate(spans):
        zero = np.zeros_like(counts.take([0], a))
        sums = np.concatenate([zero, np.cumsum(counts, a)], axis=a)
        counts = sums.take(np.maximum(first, last), a) - sums.take(first, a)
    return counts


# --- spans of world units and of nodes along an axis, for many nodes at once


def _telling(
    axis: Axis, *, period: int = 1, margin: int = 0, marks: Sequence[int] = ()
) -> Integers:
    """Return nodes of an axis such that all others behave as one of them, moved.

    Parameters
    ----------
    axis : Axis
        The axis.
    period : int
        World units after which all that stands beside the axis repeats.
    margin : int
        World units that a node looks beyond its write interval.
    marks : sequence of int
        World coordinates, beside both ends of the axis, at which the pattern changes.

    Notes
    -----
    A node further from all marks than it looks can be moved by a period without a change, until
    it is within one period and its looks from a mark.
    """
    n = len(axis)
    width = math.lcm(axis.step, period) // axis.step + margin // axis.step + 2
    places = {(mark - axis.begin) // axis.step for mark in (axis.begin, axis.end, *marks)}
    if n <= 2 * width * len(places):
        return np.arange(n)
    spans = [np.arange(max(0, p - width), max(0, min(n, p + width + 1))) for p in places]
    return np.unique(np.concatenate(spans))


def _writes(axis: Axis, k: Integers) -> Spans:
    """Return what nodes write."""
    low = axis.begin + k * axis.step
    return low, np.minimum(low + axis.step, axis.end)


def _reads(axis: Axis, k: Integers) -> Spans:
    """Return what nodes read."""
    low, high = _writes(axis, k)
    return low - axis.lower, high + axis.upper


def _clip(span: Spans, array: ArrayInfo, a: int) -> Spans:
    """Return the parts of spans that lie in an array."""
    roi = array.roi
    return np.maximum(span[0], roi.begin[a]), np.minimum(span[1], roi.end[a])


def _whole_chunks(span: Spans, array: ArrayInfo, a: int) -> Spans:
    """Return the parts of the array in the chunks that the spans touch."""
    low, high = _clip(span, array, a)
    chunk, origin = _chunk(array, a), array.offset[a]
    wide = _clip(
        ((low - origin) // chunk * chunk + origin, -((origin - high) // chunk) * chunk + origin),
        array,
        a,
    )
    return wide[0], np.where(low < high, wide[1], wide[0])


def _writing(axis: Axis, span: Spans) -> Spans:
    """Return the half-open ranges of nodes whose write interval meets a span."""
    low, high = np.maximum(span[0], axis.begin), np.minimum(span[1], axis.end)
    first, last = (low - axis.begin) // axis.step, -((axis.begin - high) // axis.step)
    return np.where(low < high, first, 0), np.where(low < high, last, 0)


def _reading(axis: Axis, span: Spans) -> Spans:
    """Return the half-open ranges of nodes whose read interval meets a span."""
    first, last = _writing(axis, (span[0] - axis.upper, span[1] + axis.lower))
    return np.where(span[0] < span[1], first, 0), np.where(span[0] < span[1], last, 0)


# --- words


def _chunk(array: ArrayInfo, a: int) -> int:
    """Return the extent of a storage chunk, or shard, on a spatial axis, in world units."""
    return array.chunks[len(array.channels) + a] * array.voxel_size[a]


def _path(array: ArrayInfo) -> str:
    """Return the one name of an array that may be written in several ways."""
    return posixpath.normpath(array.path)


def _paths(uses: Iterable[Read | Write]) -> set[str]:
    """Return the names of the arrays that are read or written."""
    return {_path(use.array) for use in uses}


def _writers(plan: Plan, array: ArrayInfo) -> list[PlannedTask]:
    """Return the tasks that write an array."""
    return [t for t in plan.tasks.values() if _path(array) in _paths(t.writes.values())]


def _text(numbers: Iterable[int]) -> str:
    """Return ``(1, 2)``."""
    return "(" + ", ".join(str(int(n)) for n in numbers) + ")"


def _span(box: Box) -> str:
    """Return ``(0, 0) to (1, 2)``."""
    return f"{_text(box.begin)} to {_text(box.end)}"
