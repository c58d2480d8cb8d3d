"""Half-open boxes of integers, in world units, voxels or block indices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from funlib.geometry import Roi

__all__ = ["Box", "Index", "points"]

Index = tuple[int, ...]


def points(ranges: Sequence[range]) -> Iterator[Index]:
    """Yield the product of ``ranges``, last one fastest; itertools.product would store them."""
    if not ranges:
        yield ()
        return
    for head in points(ranges[:-1]):
        for last in ranges[-1]:
            yield (*head, last)


@dataclass(frozen=True, slots=True)
class Box:
    """Product of half-open integer intervals, one per axis.

    Parameters
    ----------
    begin, end : tuple of int
        First and one-past-last coordinate of every axis. A box with ``end <= begin`` on any
        axis is empty.
    """

    begin: Index
    end: Index

    def __post_init__(self) -> None:
        if len(self.begin) != len(self.end):
            raise ValueError(
                f"box begins with {len(self.begin)} axes and ends with {len(self.end)}"
            )

    @classmethod
    def from_roi(cls, roi: Roi) -> Box:
        """Return the box of a bounded Roi."""
        return cls(tuple(int(x) for x in roi.begin), tuple(int(x) for x in roi.end))

    @classmethod
    def from_shape(cls, shape: Sequence[int]) -> Box:
        """Return the box from the origin to ``shape``."""
        return cls((0,) * len(shape), tuple(shape))

    def to_roi(self) -> Roi:
        """Return a new Roi with the same bounds."""
        return Roi(self.begin, self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.begin)

    @property
    def shape(self) -> Index:
        """Extent per axis, never negative."""
        return tuple(max(0, e - b) for b, e in zip(self.begin, self.end, strict=True))

    @property
    def size(self) -> int:
        """Number of integer points inside."""
        return math.prod(self.shape)

    def __bool__(self) -> bool:
        return all(b < e for b, e in zip(self.begin, self.end, strict=True))

    def __iter__(self) -> Iterator[Index]:
        """Yield every point, last axis fastest; lazy, however long an axis is."""
        return points([range(b, e) for b, e in zip(self.begin, self.end, strict=True)])

    def contains(self, point: Sequence[int]) -> bool:
        """Tell whether ``point`` lies inside."""
        return all(b <= x < e for b, x, e in zip(self.begin, point, self.end, strict=True))

    def covers(self, other: Box) -> bool:
        """Tell whether every point of ``other`` lies inside; an empty box is covered by any."""
        return not other or self.intersect(other) == other

    def intersect(self, other: Box) -> Box:
        """Return the common part, possibly empty."""
        return Box(
            tuple(map(max, self.begin, other.begin)),
            tuple(map(min, self.end, other.end)),
        )

    def meets(self, other: Box) -> bool:
        """Tell whether the two boxes share a point."""
        return bool(self.intersect(other))

    def union(self, other: Box) -> Box:
        """Return the smallest box around both; an empty box adds nothing."""
        if not self:
            return other
        if not other:
            return self
        return Box(
            tuple(map(min, self.begin, other.begin)),
            tuple(map(max, self.end, other.end)),
        )

    @property
    def slices(self) -> tuple[slice, ...]:
        """What selects the box in an array that begins at the origin."""
        return tuple(slice(b, e) for b, e in zip(self.begin, self.end, strict=True))

    def slices_in(self, whole: Box) -> tuple[slice, ...]:
        """Return what selects the box in an array of the values of a box around it."""
        return self.shift([-b for b in whole.begin]).slices

    def grow(self, lower: Sequence[int], upper: Sequence[int]) -> Box:
        """Return the box moved outward by ``lower`` at its begin and ``upper`` at its end."""
        return Box(
            tuple(b - x for b, x in zip(self.begin, lower, strict=True)),
            tuple(e + x for e, x in zip(self.end, upper, strict=True)),
        )

    def shift(self, by: Sequence[int]) -> Box:
        """Return the box moved by ``by``."""
        return self.grow([-x for x in by], by)
