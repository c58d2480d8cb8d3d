"""Is the context of a task enough? Sample blocks are computed with more of it and compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.work.block_work import Work

__all__ = ["SAMPLES", "ContextReport", "check_context"]

# The reference context is doubled until a further doubling changes nothing, at most so often.
_DOUBLINGS = 4
_LEAST_GROWTH = 4

SAMPLES = 16
"""Blocks to look at: seams differ, and of the demo's 64 blocks 5 show little more than half."""


@dataclass(frozen=True, slots=True)
class ContextReport:
    """What more context changes.

    Parameters
    ----------
    context : tuple of int
        The context that was asked about, in the task's own numbers, per axis (the larger side).
    reference : tuple of int
        The larger context that it was compared with.
    difference : float
        Largest difference inside the write Rois: of values, or for integer results the share
        of voxels that differ.
    tolerance : float
        Differences up to this are taken for none.
    enough : tuple of int or None
        Smallest context per axis that is enough; None if even the reference is not stable.
    samples, blocks : int
        Blocks that were looked at, and blocks of the task: where some were not, the difference
        may be larger and the smallest context that is enough wider.
    """

    context: Index
    reference: Index
    difference: float
    tolerance: float
    enough: Index | None
    samples: int
    blocks: int

    @property
    def is_enough(self) -> bool:
        """Whether the context that was asked about is enough."""
        return self.enough is not None and self.difference <= self.tolerance


def check_context(
    plan: Plan,
    folder: Path,
    name: str,
    *,
    context: Sequence[int] | None = None,
    samples: int = SAMPLES,
    tolerance: float = 1e-5,
) -> ContextReport:
    """Compare results of sample blocks with those under larger contexts.

    Every sample costs three calls of the function or more, and at most about ``axes *
    log2(reference)``. Reads of the task's own output see the fill value, as the first block would;
    where an array that is read without fill ends, contexts end as well.

    Parameters
    ----------
    plan : Plan
        The plan of the pipeline; nothing of it has to have run but what the task reads.
    folder : Path
        The pipeline's folder.
    name : str
        A task with ``call: arrays``.
    context : sequence of int, optional
        The task's own numbers per axis, in place of the declared one.
    samples : int
        Blocks to look at, spread over the region.
    tolerance : float
        Largest difference that counts as none, relative to the largest absolute result.

    Raises
    ------
    InputError
        If there is no such task, it does not work on arrays, a number makes no sense, or something
        that it reads is missing.
    """
    if name not in plan.tasks:
        raise InputError(f"there is no task {name!r}; known are {', '.join(plan.tasks)}")
    task = replace(plan.tasks[name], operation=plan.tasks[name].operation.with_one_context())
    if task.operation.call is not Call.ARRAYS:
        raise InputError(
            f"task {name}: check-context needs call: arrays, it has call: {task.operation.call}"
        )
    one = task.scale.one or (1,) * task.grid.ndim
    declared = tuple(map(max, task.grid.lower, task.grid.upper))
    if context is not None and len(context) != task.grid.ndim:
        raise InputError(f"{len(context)} contexts for {task.grid.ndim} axes; give one per axis")
    asked = declared
    if context is not None:
        asked = tuple(c * n for c, n in zip(context, one, strict=True))
    if samples < 1 or not 0 <= tolerance < math.inf:
        raise InputError(
            f"{samples} samples, tolerance {tolerance}: look at one block or more, "
            "with a tolerance from 0 on"
        )
    step = tuple(map(math.lcm, _steps(task), one))
    if any(c % s for c, s in zip(asked, step, strict=True)):
        sizes = (task.scale.sizes(numbers) for numbers in (asked, step))
        raise InputError("context {} is not a multiple of the voxel size {}".format(*sizes))
    with Work(task, folder, RunPaths(folder).functions, stores=False) as work:
        found = _compare(_Sampler(work, _samples(task, samples)), asked, step, tolerance)
    return replace(
        found,
        context=_divided(found.context, one),
        reference=_divided(found.reference, one),
        enough=found.enough and _divided(found.enough, one),
    )


def _divided(numbers: Index, one: Index) -> Index:
    """Return lengths of the plan in a task's own numbers, of which they are multiples."""
    return tuple(n // v for n, v in zip(numbers, one, strict=True))


def _compare(sampler: _Sampler, asked: Index, step: Index, tolerance: float) -> ContextReport:
    reference = tuple(c + max(c, _LEAST_GROWTH * s) for c, s in zip(asked, step, strict=True))
    limit = tolerance * sampler.scale(reference)
    enough = None
    for _ in range(_DOUBLINGS):
        larger = tuple(2 * r for r in reference)
        if sampler.agree(reference, larger, limit):
            enough = _smallest(sampler, reference, step, limit)
            break
        reference = larger
    difference = sampler.difference(asked, reference)
    return ContextReport(
        asked, reference, difference, limit, enough, sampler.count, sampler.num_blocks
    )


def _smallest(sampler: _Sampler, reference: Index, step: Index, limit: float) -> Index:
    """Return the smallest context that is enough on every axis, and on all of them at once."""
    found = tuple(
        _smallest_on(sampler, reference, axis, step[axis], limit) for axis in range(len(step))
    )
    while not sampler.agree(found, reference, limit):  # small differences of axes add up
        found = tuple(min(f + s, r) for f, s, r in zip(found, step, reference, strict=True))
    return found


def _smallest_on(sampler: _Sampler, reference: Index, axis: int, step: int, limit: float) -> int:
    """Return the smallest context on one axis that is enough, the others at the reference."""
    low, high = -1, reference[axis] // step
    while high - low > 1:
        middle = (low + high) // 2
        candidate = (*reference[:axis], middle * step, *reference[axis + 1 :])
        if sampler.agree(candidate, reference, limit):
            high = middle
        else:
            low = middle
    return high * step


def _steps(task: PlannedTask) -> Index:
    """Return the least common multiple of the voxel sizes of all arrays, per axis."""
    arrays = (*task.operation.inputs, *task.operation.written)
    return tuple(math.lcm(*sizes) for sizes in zip(*(a.steps for a in arrays), strict=True))


def _samples(task: PlannedTask, count: int) -> list[Index]:
    """Return the middle one of the present blocks, and others that share few rows and columns.

    Every n-th block would be in the same column each time; steps of the golden ratio are in all.
    """
    present = task.jobs.present
    there = None if present is None else np.flatnonzero(present.ravel())
    total = task.num_blocks
    step = max(1, round(total * (5**0.5 - 1) / 2))
    while math.gcd(step, total) != 1:
        step += 1
    places = [(total // 2 + i * step) % total for i in range(min(count, total))]
    numbers = places if there is None else there[places].tolist()
    return [tuple(map(int, np.unravel_index(n, task.grid.shape))) for n in numbers]


class _Sampler:
    """Results of the sample blocks under a context, each computed once."""

    def __init__(self, work: Work, blocks: Sequence[Index]) -> None:
        self._work = work
        self._task = task = work.task
        self._blocks = blocks
        self._ends = [read.array.roi for read in task.operation.reads.values() if read.fill is None]
        self._known: dict[tuple[Index, Index], dict[str, NDArray[Any]]] = {}

    @property
    def count(self) -> int:
        """Number of sample blocks."""
        return len(self._blocks)

    def scale(self, context: Index) -> float:
        """Return the largest absolute result, 1 for integers."""
        largest = 0.0
        for block in self._blocks:
            for values in self._results(block, context).values():
                if values.dtype.kind in "biu":
                    return 1.0
                largest = max(largest, float(np.abs(values).max(initial=0.0)))
        return largest

    @property
    def num_blocks(self) -> int:
        """Number of blocks of the task."""
        return self._task.num_blocks

    def difference(self, one: Index, other: Index) -> float:
        """Return the largest difference between two contexts inside the write Rois."""
        return max(self._differences(one, other))

    def agree(self, one: Index, other: Index, limit: float) -> bool:
        """Tell whether no difference is above the limit; ends at the first one that is."""
        return all(difference <= limit for difference in self._differences(one, other))

    def _differences(self, one: Index, other: Index) -> Iterator[float]:
        """Yield the largest difference of each block and result."""
        for block in self._blocks:
            theirs = self._results(block, other)
            for name, mine in self._results(block, one).items():
                yield _difference(mine, theirs[name])

    def _results(self, block: Index, context: Index) -> dict[str, NDArray[Any]]:
        key = (block, context)
        if key not in self._known:
            self._known[key] = self._compute(block, context)
        return self._known[key]

    def _compute(self, index: Index, context: Index) -> dict[str, NDArray[Any]]:
        task = self._task
        region = task.grid.write(index).grow(context, context)
        for end in self._ends:
            region = region.intersect(end)
        block = task.block(index)
        block.read_roi = task.scale.own(region).to_roi()
        return self._work.compute(block, visible=())


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.dtype.kind in "biu":
        return float(np.mean(one != other))
    wide = np.result_type(one, other, np.float64)
    return float(np.abs(one.astype(wide) - other.astype(wide)).max(initial=0.0))
