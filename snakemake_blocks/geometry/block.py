"""The user's unit of work: one read Roi, one write Roi."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import Any

from funlib.geometry import Roi

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Grid

__all__ = ["Block", "BlockStatus", "block_of", "cantor_index", "cantor_number", "daisy_id"]


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

    # A worker makes a block in a microsecond; its Rois and its id, which cost fifty, are made
    # when they are asked for.
    __slots__ = ("_grid", "_id", "_read", "_write", "index", "status", "task_id")

    index: Index
    _grid: Grid | None
    _read: Roi | None
    _write: Roi | None
    _id: tuple[str | None, int] | None

    def __init__(
        self,
        total_roi: Roi,
        read_roi: Roi,
        write_roi: Roi,
        block_id: tuple[str | None, int] | int | None = None,
        task_id: str | None = None,
        index: Index | None = None,
    ) -> None:
        self._grid = None
        self._read = read_roi.copy()
        self._write = write_roi.copy()
        self.task_id = task_id
        if index is None:
            context = write_roi.begin - read_roi.begin
            offset = write_roi.begin - total_roi.begin - context
            index = tuple(o // w for o, w in zip(offset, write_roi.shape, strict=True))
        self.index = index
        if block_id is None:
            lower = write_roi.begin - read_roi.begin
            block_id = daisy_id(index, lower=lower, block_size=write_roi.shape)
        self._id = block_id if isinstance(block_id, tuple) else (task_id, block_id)
        self.status = BlockStatus.CREATED

    @property
    def read_roi(self) -> Roi:
        """What the block reads, in world units."""
        if self._read is None:
            assert self._grid is not None
            self._read = self._grid.read(self.index).to_roi()
        return self._read

    @read_roi.setter
    def read_roi(self, roi: Roi) -> None:
        self._read = roi

    @property
    def write_roi(self) -> Roi:
        """What the block writes, in world units."""
        if self._write is None:
            assert self._grid is not None
            self._write = self._grid.write(self.index).to_roi()
        return self._write

    @write_roi.setter
    def write_roi(self, roi: Roi) -> None:
        self._write = roi

    @property
    def block_id(self) -> tuple[str | None, int]:
        """Task and number, as daisy has them."""
        if self._id is None:
            grid = self._grid
            assert grid is not None
            number = daisy_id(self.index, lower=grid.lower, block_size=grid.block_size)
            self._id = self.task_id, number
        return self._id

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
    block = Block.__new__(Block)
    block._grid, block._read, block._write, block._id = grid, None, None, None
    block.index, block.task_id, block.status = index, task_id, BlockStatus.CREATED
    return block


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
        number += _below(total, n)
        total -= index[n - 1]
    return number


def cantor_index(number: int, ndim: int) -> Index:
    """Return the tuple of ``ndim`` integers with this number, the inverse of `cantor_number`."""
    sums = []
    for n in range(ndim, 0, -1):
        # The numbers of all tuples of one sum follow those of smaller sums.
        low, high = 0, 1
        while _below(high, n) <= number:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _below(middle, n) <= number else (low, middle)
        sums.append(low)
        number -= _below(low, n)
    return tuple(s - rest for s, rest in zip(sums, [*sums[1:], 0], strict=True))[::-1]


def _below(total: int, n: int) -> int:
    """Return how many tuples of ``n`` non-negative integers have a smaller sum."""
    return math.prod(range(total, total + n)) // math.factorial(n)
