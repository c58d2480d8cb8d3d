"""What a job waits for: jobs of upstream tasks whose results it reads.

Job ``D`` needs job ``U`` iff a present block of ``U`` writes what a present block of ``D``
reads. On dense grids that is a box of jobs, found in O(axes); where blocks are masked, the
box is thinned block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Grid, any_in_boxes

__all__ = ["JobGrid", "needed_blocks", "needed_jobs"]


@dataclass(frozen=True, slots=True, eq=False)
class JobGrid:
    """Blocks of a task and the boxes of blocks that are its jobs.

    Parameters
    ----------
    grid : Grid
        The blocks.
    batch : tuple of int
        Blocks per job along each axis.
    present : ndarray of bool, optional
        False for masked blocks; without it every block is present.
    """

    grid: Grid
    batch: Index
    present: NDArray[np.bool_] | None = None

    @property
    def jobs(self) -> Grid:
        """The grid of jobs."""
        return self.grid.coarsen(self.batch)

    def members(self, job: Index) -> Box:
        """Return the block indices of a job, masked ones included."""
        return self.grid.members(job, self.batch)

    def presence(self, blocks: Box) -> NDArray[np.bool_]:
        """Return which blocks of a box are present, shaped like the box."""
        if self.present is None:
            return np.ones(blocks.shape, dtype=bool)
        return self.present[blocks.slices]

    def job_presence(self) -> NDArray[np.bool_] | None:
        """Return which jobs have a present block; None when nothing is masked."""
        return None if self.present is None else self.with_any(self.present)

    def with_any(self, blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which jobs have a block among the chosen ones, given for the whole grid."""
        return any_in_boxes(blocks, self.batch)

    def jobs_of(self, blocks: Box) -> Box:
        """Return the smallest box of jobs that contains a box of blocks."""
        begin = tuple(b // f for b, f in zip(blocks.begin, self.batch, strict=True))
        end = tuple(-(-e // f) for e, f in zip(blocks.end, self.batch, strict=True))
        return Box(begin, end) if blocks else Box(begin, begin)


def needed_blocks(down: Grid, index: Index, up: Grid) -> Box:
    """Return the blocks of ``up`` that write what block ``index`` of ``down`` reads."""
    return up.writing(down.read(index))


def needed_jobs(down: JobGrid, job: Index, up: JobGrid) -> list[Index]:
    """Return the present jobs of ``up`` that a job of ``down`` waits for, last axis fastest."""
    candidates = up.jobs_of(up.grid.writing(down.jobs.read(job)))
    if down.present is None and up.present is None:
        return list(candidates)
    read = _read_blocks(down, job, up, candidates)
    return [
        node
        for node in candidates
        if np.any(read[up.members(node).shift([-b for b in _origin(up, candidates)]).slices])
    ]


def _origin(up: JobGrid, jobs: Box) -> Index:
    return tuple(b * f for b, f in zip(jobs.begin, up.batch, strict=True))


def _read_blocks(down: JobGrid, job: Index, up: JobGrid, jobs: Box) -> NDArray[np.bool_]:
    """Return which blocks of the job box ``jobs`` are present and read by a present block."""
    begin = _origin(up, jobs)
    end = tuple(min(e * f, n) for e, f, n in zip(jobs.end, up.batch, up.grid.shape, strict=True))
    blocks = Box(begin, end)
    read = np.zeros(blocks.shape, dtype=bool)
    members = down.members(job)
    for index, here in zip(members, down.presence(members).ravel(), strict=True):
        if here:
            read[needed_blocks(down.grid, index, up.grid).slices_in(blocks)] = True
    return read & up.presence(blocks)
