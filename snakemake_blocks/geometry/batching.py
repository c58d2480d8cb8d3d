"""How many blocks make a job."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from enum import StrEnum

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Grid

__all__ = ["Target", "batch_shape"]


class Target(StrEnum):
    """Where the jobs will run."""

    LOCAL = "local"
    CLUSTER = "cluster"


# Snakemake pays milliseconds for a local job and 2-6 s for one on a cluster; below these many
# jobs per task one block per job is kept, above them about so many boxes are made.
_FEW_JOBS = {Target.LOCAL: 400, Target.CLUSTER: 200}
_MANY_BLOCKS_JOBS = {Target.LOCAL: 128, Target.CLUSTER: 200}
# Jobs of a phase when a task has set-up and the user gave no max_workers.
_SETUP_JOBS = {Target.LOCAL: 4, Target.CLUSTER: 16}


def batch_shape(
    grid: Grid,
    blocks_per_job: int | Sequence[int] | str,
    *,
    reach: Sequence[int],
    has_setup: bool,
    max_workers: int | None,
    target: Target,
    group: Sequence[int] = (),
) -> Index:
    """Return the blocks per job along each axis.

    Parameters
    ----------
    grid : Grid
        The blocks.
    blocks_per_job : int, sequence of int or "auto"
        A number is filled with a near-cubic box of at most so many blocks.
    reach : sequence of int
        Conflict reach, in blocks.
    has_setup : bool
        Something is set up once per worker; then a phase gets at most ``max_workers`` jobs.
    max_workers : int or None
        Processes of the task over all jobs.
    target : Target
        Where the jobs will run.
    group : sequence of int
        Blocks per axis that are stored together: jobs are made of whole boxes of them, unless
        their shape is given. A job has one such box at least.
    """
    if any(g > 1 for g in group) and isinstance(blocks_per_job, str | int):
        most = blocks_per_job
        boxes = batch_shape(
            grid.coarsen(group),
            max(1, most // math.prod(group)) if isinstance(most, int) else most,
            reach=[-(-r // g) for r, g in zip(reach, group, strict=True)],
            has_setup=has_setup,
            max_workers=max_workers,
            target=target,
        )
        return tuple(min(b * g, n) for b, g, n in zip(boxes, group, grid.shape, strict=True))
    if isinstance(blocks_per_job, str):
        if has_setup:
            most = max_workers or _SETUP_JOBS[target]
            return _for_phase_width(grid.shape, reach, most)
        if len(grid) <= _FEW_JOBS[target]:
            return (1,) * grid.ndim
        return _for_jobs(grid, _MANY_BLOCKS_JOBS[target])
    if isinstance(blocks_per_job, int):
        return _for_blocks(grid, blocks_per_job)
    return tuple(min(int(b), n) for b, n in zip(blocks_per_job, grid.shape, strict=True))


def _for_blocks(grid: Grid, most: int) -> Index:
    """Return the largest near-cubic box of at most ``most`` blocks.

    It is what comes of growing the shortest axis by one block as long as there is room.
    """
    batch = [1] * grid.ndim
    growing = set(range(grid.ndim))
    while growing:
        batch = _grown(grid, batch, growing, most)
        shortest = min(growing, key=lambda a: (batch[a] * grid.axes[a].step, a))
        larger = [b + (a == shortest) for a, b in enumerate(batch)]
        if larger[shortest] <= grid.shape[shortest] and math.prod(larger) <= most:
            batch = larger
        else:
            growing.remove(shortest)  # the others only leave it less room
    return tuple(batch)


def _grown(grid: Grid, batch: Sequence[int], growing: Collection[int], most: int) -> list[int]:
    """Return the batch with some axes grown to a common extent, the largest with room for it."""

    def reaching(extent: int) -> list[int]:
        return [
            min(n, max(b, -(-extent // axis.step))) if a in growing else b
            for a, (b, n, axis) in enumerate(zip(batch, grid.shape, grid.axes, strict=True))
        ]

    low, high = 0, max(n * axis.step for n, axis in zip(grid.shape, grid.axes, strict=True)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if math.prod(reaching(middle)) <= most else (low, middle)
    return reaching(low)


def _for_jobs(grid: Grid, most: int) -> Index:
    """Return near-cubic boxes, as small as ``most`` jobs allow."""
    counts = list(grid.shape)
    while math.prod(counts) > most:
        widest = min(
            (a for a in range(grid.ndim) if counts[a] > 1),
            key=lambda a: (-(-grid.shape[a] // counts[a]) * grid.axes[a].step, a),
        )
        counts[widest] = _fewer(counts[widest])
    return _evenly(grid.shape, counts)


def _for_phase_width(shape: Index, reach: Sequence[int], most: int) -> Index:
    """Return boxes such that at most ``most`` jobs share a phase."""
    counts = list(shape)
    while _widest_phase(shape, counts, reach) > most:
        axis = max(range(len(counts)), key=lambda a: (counts[a], -a))
        counts[axis] = _fewer(counts[axis])
    return _evenly(shape, counts)


def _fewer(count: int) -> int:
    """Return an eighth less: it lands near the goal, in few steps from any size."""
    return min(count - 1, count * 7 // 8 + 1)


def _widest_phase(shape: Index, counts: Sequence[int], reach: Sequence[int]) -> int:
    """Return the number of jobs in the largest phase, for ``counts`` jobs per axis."""
    width = 1
    for n, count, r in zip(shape, counts, reach, strict=True):
        per_job = -(-n // count)
        width *= -(-count // min(count, -(-r // per_job) + 1))
    return width


def _evenly(shape: Index, counts: Sequence[int]) -> Index:
    return tuple(-(-n // count) for n, count in zip(shape, counts, strict=True))
