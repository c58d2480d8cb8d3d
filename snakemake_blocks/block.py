"""The user's unit of work: one read Roi, one write Roi."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

from funlib.geometry import Coordinate, Roi

from snakemake_blocks.box import Index
from snakemake_blocks.tiling import Grid

__all__ = ["Block", "BlockStatus", "block_of", "cantor_number", "daisy_id"]


class BlockStatus(Enum):
    """What a worker says of the block in its hands (names as in daisy)."""

    CREATED = 0
    PROCESSING = 1
    SUCCESS = 2
    FAILED = 3


class Block:
    """One block of a task.

    Parameters
    ----------
    total_roi : Roi
        The region that all blocks of the task read, context included, in world units.
    read_roi, write_roi : Roi
        What this block reads and writes, half-open, in world units.
    block_id : tuple (str, int) or int, optional
        daisy's id; computed from the Rois when not given.
    task_id : str, optional
        The task that the block belongs to.
    index : tuple of int, optional
        Index in the task's grid, zero-based; computed from the Rois when not given.
    """

    __slots__ = ("block_id", "index", "read_roi", "status", "task_id", "write_roi")

    def __init__(
        self,
        total_roi: Roi,
        read_roi: Roi,
        write_roi: Roi,
        block_id: tuple[str | None, int] | int | None = None,
        task_id: str | None = None,
        index: Index | None = None,
    ) -> None:
        self.read_roi = read_roi.copy()
        self.write_roi = write_roi.copy()
        self.task_id = task_id
        if index is None:
            context = write_roi.begin - read_roi.begin
            offset = write_roi.begin - total_roi.begin - context
            index = tuple(o // w for o, w in zip(offset, write_roi.shape, strict=True))
        self.index = index
        if block_id is None:
            lower = write_roi.begin - read_roi.begin
            block_id = daisy_id(index, lower=lower, block_size=write_roi.shape)
        self.block_id = block_id if isinstance(block_id, tuple) else (task_id, block_id)
        self.status = BlockStatus.CREATED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (self.task_id, self.index, self.block_id)

    def __repr__(self) -> str:
        return (
            f"Block({self.task_id!r}, index={self.index}, read_roi={self.read_roi}, "
            f"write_roi={self.write_roi}, status={self.status.name})"
        )


def block_of(grid: Grid, index: Index, *, task_id: str) -> Block:
    """Return the block at ``index`` of a task's grid."""
    read, write = grid.read(index), grid.write(index)
    number = daisy_id(index, lower=grid.lower, block_size=grid.block_size)
    return Block(
        total_roi=Roi(Coordinate(read.begin), Coordinate(read.shape)),
        read_roi=read.to_roi(),
        write_roi=write.to_roi(),
        block_id=(task_id, number),
        task_id=task_id,
        index=index,
    )


def daisy_id(index: Sequence[int], *, lower: Sequence[int], block_size: Sequence[int]) -> int:
    """Return daisy's spatial id of the block at ``index``, in exact integers.

    daisy counts from the begin of the total read Roi, so ids start at ``lower // block_size``.
    """
    return cantor_number([k + c // w for k, c, w in zip(index, lower, block_size, strict=True)])


def cantor_number(index: Sequence[int]) -> int:
    """Return the generalised Cantor pairing of a tuple of non-negative integers.

    ``C(x1..xn) = P(n, x1+...+xn) + C(x1..x(n-1))`` with ``P(n, e) = e (e+1) ... (e+n-1) / n!``.
    """
    total, number = sum(index), 0
    for n in range(len(index), 0, -1):
        number += math.prod(range(total, total + n)) // math.factorial(n)
        total -= index[n - 1]
    return number
