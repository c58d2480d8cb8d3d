"""Where two tasks use one array, of which one writes it, and neither block waits for the other."""

from __future__ import annotations

import itertools
import math
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Axis, Grid, Integers, Spans
from snakemake_blocks.plan.dependencies import JobGrid
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.proof.spans import (
    chunk_extent,
    clip,
    telling,
    whole_chunks,
)
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Context, Read, Write

__all__ = ["as_text", "common_arrays", "path_of", "writers_of"]

# Pairs of blocks of two masked tasks are counted in tables of at most so many entries.
_LARGEST_TABLE = 1 << 27


@dataclass(frozen=True, slots=True)
class _Use:
    task: PlannedTask
    kind: str
    name: str
    array: ArrayInfo
    context: Context | None = None

    @property
    def writes(self) -> bool:
        return self.kind == "writes"

    def seen(self, grid: Grid) -> Grid:
        """Return the task's grid, of blocks or jobs, with the context of this read."""
        return grid if self.context is None else grid.with_context(*self.context)

    def __str__(self) -> str:
        return f"tasks.{self.task.name}.{self.kind}.{self.name}"


def common_arrays(plan: Plan) -> tuple[list[str], list[str]]:
    """Return violations and warnings about arrays that several tasks use and one writes."""
    findings: tuple[list[str], list[str]] = ([], [])
    uses: defaultdict[str, list[_Use]] = defaultdict(list)
    for task in plan.tasks.values():
        declared: tuple[tuple[str, Mapping[str, Read | Write]], ...]
        declared = (("writes", task.operation.writes), ("reads", task.operation.reads))
        for kind, arrays in declared:
            for name, found in arrays.items():
                own = found.context if isinstance(found, Read) else None
                uses[path_of(found.array)].append(_Use(task, kind, name, found.array, own))
    for path, here in uses.items():
        _check_same(path, here, findings)
        for one, other in itertools.combinations(here, 2):
            both = one.writes and other.writes
            meet = one.array.shares_files(other.array) if both else one.array.meets(other.array)
            if one.task is not other.task and (one.writes or other.writes) and meet:
                _check_pair(one, other, findings)
    return findings


def _check_same(path: str, uses: Sequence[_Use], findings: tuple[list[str], list[str]]) -> None:
    """Refuse an array that two declarations describe differently."""
    first = uses[0]
    for use in uses[1:]:
        if not use.array.agrees_with(first.array):
            findings[0].append(
                f"{use}: describes {use.array.path} otherwise than {first} does; plan again"
            )


def _check_pair(one: _Use, other: _Use, findings: tuple[list[str], list[str]]) -> None:
    late, early, waits = other, one, one.task.name in other.task.upstream
    if other.task.name in one.task.upstream:
        late, early, waits = one, other, True
    if early.task.name in late.task.whole:
        return  # a job waits for every block
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
        scale = late.task.scale
        chunks = scale.sizes([chunk_extent(late.array, a) for a in range(late.array.ndim)])
        chunks += "" if scale.array else " world units"
        text += (
            f", and a storage chunk that {as_text(node)} writes is still being written there; "
            f"let its blocks be whole chunks of {chunks}, or write to another array"
        )
    else:
        text += f" while {as_text(node)} overwrites it; write to another array"
    findings[0].append(text)


def _meeting(late: _Use, early: _Use, *, waits: bool) -> Index | None:
    """Return a node of ``late`` that meets an unordered one of ``early`` in the array, or None.

    Dense tasks are compared job by job where one waits for the other. A mask can take from a job
    the block for which another job waited, so then blocks are compared with blocks.
    """
    masked = late.task.jobs.present is not None or early.task.jobs.present is not None
    by_jobs = waits and not masked
    grids = [u.task.jobs.jobs if by_jobs else u.task.grid for u in (late, early)]
    seen = [use.seen(grid).axes for use, grid in zip((late, early), grids, strict=True)]
    waited = late.task.toward(early.task) if waits else late.task.jobs
    axes = list(zip(*seen, (waited.jobs if by_jobs else waited.grid).axes, strict=True))
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
    axes: tuple[Axis, Axis, Axis],
    a: int,
    *,
    waits: bool,
    k: Integers | None = None,
) -> _Along:
    mine, theirs, waiting = axes
    array = late.array
    chunk = chunk_extent(array, a)
    if k is None:
        k = telling(
            mine,
            period=math.lcm(theirs.step, chunk),
            margin=chunk + sum(axis.lower + axis.upper for axis in axes),
            marks=(theirs.begin, theirs.end, array.roi.begin[a], array.roi.end[a]),
        )
    used = clip(mine.writes(k) if late.writes else mine.reads(k), array, a)
    if late.writes and early.writes:
        used = whole_chunks(used, array, a)
    meets = theirs.all_writing(used) if early.writes else theirs.all_reading(used)
    none = np.zeros_like(k)
    return _Along(k, meets, theirs.all_writing(waiting.reads(k)) if waits else (none, none))


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


def path_of(array: ArrayInfo) -> str:
    """Return the one name of an array that may be written in several ways."""
    return posixpath.normpath(array.path)


def writers_of(plan: Plan, array: ArrayInfo) -> list[PlannedTask]:
    """Return the tasks that write an array."""
    return [t for t in plan.tasks.values() if any(map(array.meets, t.operation.written))]


def as_text(numbers: Iterable[int]) -> str:
    """Return ``(1, 2)``."""
    return "(" + ", ".join(str(int(n)) for n in numbers) + ")"
