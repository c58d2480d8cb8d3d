"""Tiling of a region by equal blocks: one axis first, then the product over axes.

A fit decides where the write extent of an axis ends (:meth:`Axis.from_extent`); after that
the three fits are one structure: steps from ``begin``, the last one cut off at ``end``. A box
of neighbouring blocks is a bigger block of the same structure (:meth:`Axis.coarsen`), so jobs
are tiled by the code that tiles blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import TilingError
from snakemake_blocks.geometry.box import Box, Index

__all__ = ["Axis", "Fit", "Grid", "Integers", "Spans", "any_in_boxes"]

Integers = NDArray[np.int64]
Spans = tuple[Integers, Integers]
"""Begins and ends of half-open intervals, many at once."""


class Fit(StrEnum):
    """What to do where the extent is not a multiple of the block size."""

    VALID = "valid"
    OVERHANG = "overhang"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class Axis:
    """Equal write steps along one axis, each read with context.

    Parameters
    ----------
    begin, end : int
        Half-open write extent, in world units.
    step : int
        Write size of one block, in world units; the last block may be shorter.
    lower, upper : int
        Context read before and after the write interval, in world units.

    Raises
    ------
    TilingError
        If ``step`` is not positive, the context or the extent is negative.
    """

    begin: int
    end: int
    step: int
    lower: int = 0
    upper: int = 0

    def __post_init__(self) -> None:
        if self.step <= 0:
            raise TilingError(f"block size must be positive, got {self.step}")
        if self.end < self.begin:
            raise TilingError(f"extent ends at {self.end}, before it begins at {self.begin}")
        if self.lower < 0 or self.upper < 0:
            raise TilingError(
                f"context must not be negative, got {self.lower} below and {self.upper} above; "
                "the read Roi has to contain the write Roi"
            )

    @classmethod
    def from_extent(
        cls, begin: int, end: int, *, step: int, lower: int = 0, upper: int = 0, fit: Fit
    ) -> Axis:
        """Return the tiling of the write extent ``[begin, end)`` under ``fit``.

        ``valid`` keeps whole blocks inside the extent, ``overhang`` whole blocks that cover it,
        ``shrink`` cuts the last block off at ``end`` (facts of daisy's grid).
        """
        exact = cls(begin, max(begin, end), step, lower, upper)
        length = exact.end - begin
        if fit is Fit.VALID:
            return replace(exact, end=begin + length // step * step)
        if fit is Fit.OVERHANG:
            return replace(exact, end=begin + -(-length // step) * step)
        return exact

    def __len__(self) -> int:
        return -(-(self.end - self.begin) // self.step)

    def write(self, k: int) -> tuple[int, int]:
        """Return the half-open write interval of block ``k``, in world units."""
        low = self.begin + k * self.step
        return low, min(low + self.step, self.end)

    def read(self, k: int) -> tuple[int, int]:
        """Return the half-open read interval of block ``k``, in world units."""
        low, high = self.write(k)
        return low - self.lower, high + self.upper

    def writing(self, low: int, high: int) -> tuple[int, int]:
        """Return the half-open range of blocks whose write interval meets ``[low, high)``."""
        low, high = max(low, self.begin), min(high, self.end)
        if low >= high:
            return 0, 0
        return (low - self.begin) // self.step, -(-(high - self.begin) // self.step)

    def reading(self, low: int, high: int) -> tuple[int, int]:
        """Return the half-open range of blocks whose read interval meets ``[low, high)``."""
        if low >= high:
            return 0, 0
        return self.writing(low - self.upper, high + self.lower)

    def writes(self, k: Integers) -> Spans:
        """Return the write intervals of many blocks, in world units."""
        low = self.begin + k * self.step
        return low, np.minimum(low + self.step, self.end)

    def reads(self, k: Integers) -> Spans:
        """Return the read intervals of many blocks, in world units."""
        low, high = self.writes(k)
        return low - self.lower, high + self.upper

    def all_writing(self, spans: Spans) -> Spans:
        """Return the half-open ranges of blocks whose write intervals meet many intervals."""
        low, high = np.maximum(spans[0], self.begin), np.minimum(spans[1], self.end)
        first, last = (low - self.begin) // self.step, -((self.begin - high) // self.step)
        return np.where(low < high, first, 0), np.where(low < high, last, 0)

    def all_reading(self, spans: Spans) -> Spans:
        """Return the half-open ranges of blocks whose read intervals meet many intervals."""
        low, high = spans
        first, last = self.all_writing((low - self.upper, high + self.lower))
        return np.where(low < high, first, 0), np.where(low < high, last, 0)

    def coarsen(self, factor: int) -> Axis:
        """Return the axis whose blocks are ``factor`` neighbouring blocks of this one."""
        return replace(self, step=self.step * factor)

    @property
    def shortfall(self) -> int:
        """World units that the last block lacks to the full block size."""
        return len(self) * self.step - (self.end - self.begin)


@dataclass(frozen=True, slots=True)
class Grid:
    """Lazy n-D tiling: the product of its axes.

    ``len(grid)``, ``grid.write(index)`` and the range queries cost O(axes); nothing here ever
    holds all blocks. Indices are zero-based tuples, enumerated with the last axis fastest.
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        if not self.axes:
            raise TilingError("a grid needs at least one axis")

    @classmethod
    def from_write_extent(
        cls,
        extent: Box,
        *,
        block_size: Sequence[int],
        lower: Sequence[int],
        upper: Sequence[int],
        fit: Fit,
    ) -> Grid:
        """Return the tiling of the write extent, all arguments in world units, one per axis."""
        return cls(
            tuple(
                Axis.from_extent(b, e, step=w, lower=low, upper=up, fit=fit)
                for b, e, w, low, up in zip(
                    extent.begin, extent.end, block_size, lower, upper, strict=True
                )
            )
        )

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def shape(self) -> Index:
        """Number of blocks along each axis."""
        return tuple(len(axis) for axis in self.axes)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[Index]:
        return iter(Box.from_shape(self.shape))

    @property
    def extent(self) -> Box:
        """The region that the blocks write, in world units."""
        return Box(tuple(a.begin for a in self.axes), tuple(a.end for a in self.axes))

    @property
    def indices(self) -> Box:
        """All indices, as a box."""
        return Box.from_shape(self.shape)

    @property
    def block_size(self) -> Index:
        """Write size of a full block, in world units."""
        return tuple(a.step for a in self.axes)

    @property
    def lower(self) -> Index:
        """Context below the write region, in world units."""
        return tuple(a.lower for a in self.axes)

    @property
    def upper(self) -> Index:
        """Context above the write region, in world units."""
        return tuple(a.upper for a in self.axes)

    def write(self, index: Index) -> Box:
        """Return the write region of a block, in world units."""
        low, high = zip(*(a.write(k) for a, k in zip(self.axes, index, strict=True)), strict=True)
        return Box(low, high)

    def read(self, index: Index) -> Box:
        """Return the read region of a block, in world units."""
        low, high = zip(*(a.read(k) for a, k in zip(self.axes, index, strict=True)), strict=True)
        return Box(low, high)

    def writing(self, region: Box) -> Box:
        """Return the indices of the blocks whose write region meets ``region``."""
        return self._ranges([a.writing(b, e) for a, b, e in self._per_axis(region)])

    def reading(self, region: Box) -> Box:
        """Return the indices of the blocks whose read region meets ``region``."""
        return self._ranges([a.reading(b, e) for a, b, e in self._per_axis(region)])

    def _per_axis(self, region: Box) -> Iterator[tuple[Axis, int, int]]:
        return zip(self.axes, region.begin, region.end, strict=True)

    @staticmethod
    def _ranges(ranges: Sequence[tuple[int, int]]) -> Box:
        return Box(tuple(low for low, _ in ranges), tuple(high for _, high in ranges))

    def number(self, index: Sequence[int]) -> int:
        """Return the position of ``index`` in the enumeration."""
        position = 0
        for k, n in zip(index, self.shape, strict=True):
            position = position * n + k
        return position

    def index(self, number: int) -> Index:
        """Return the index at a position of the enumeration (inverse of :meth:`number`)."""
        digits = []
        for n in reversed(self.shape):
            number, k = divmod(number, n)
            digits.append(k)
        return tuple(reversed(digits))

    def with_context(self, lower: Sequence[int], upper: Sequence[int]) -> Grid:
        """Return the same blocks with another context, in world units, one size per axis."""
        per_axis = zip(self.axes, lower, upper, strict=True)
        return Grid(tuple(replace(axis, lower=low, upper=up) for axis, low, up in per_axis))

    def coarsen(self, factors: Sequence[int]) -> Grid:
        """Return the grid whose blocks are boxes of ``factors`` blocks of this one."""
        return Grid(tuple(a.coarsen(f) for a, f in zip(self.axes, factors, strict=True)))

    def members(self, coarse: Sequence[int], factors: Sequence[int]) -> Box:
        """Return the indices of the blocks inside block ``coarse`` of ``self.coarsen(factors)``."""
        begin = tuple(k * f for k, f in zip(coarse, factors, strict=True))
        end = tuple(min(b + f, n) for b, f, n in zip(begin, factors, self.shape, strict=True))
        return Box(begin, end)


def any_in_boxes(blocks: NDArray[np.bool_], factors: Sequence[int]) -> NDArray[np.bool_]:
    """Return which boxes of ``factors`` blocks, of ``coarsen``, have a chosen one; O(blocks)."""
    found = blocks
    for axis, factor in enumerate(factors):
        starts = np.arange(0, found.shape[axis], factor)
        found = np.logical_or.reduceat(found, starts, axis=axis)
    return found
