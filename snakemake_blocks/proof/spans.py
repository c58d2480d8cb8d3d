"""Spans of world units, and of nodes, along an axis: for many nodes at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = [
    "Integers",
    "Spans",
    "chunk_extent",
    "clip",
    "context_of",
    "reading",
    "reads",
    "sharing_of",
    "telling",
    "whole_chunks",
    "writes",
    "writing",
]

Integers = NDArray[np.int64]
Spans = tuple[Integers, Integers]


def context_of(grid: Grid, array: ArrayInfo | None = None) -> Index:
    """Return how far apart nodes can be of which one reads what the other writes (to an array)."""
    return _farthest(
        grid,
        array,
        lambda axis, k, a: clip(reads(axis, k), array, a) if array else reads(axis, k),
    )


def sharing_of(grid: Grid, array: ArrayInfo) -> Index:
    """Return how far apart nodes can be that write a storage chunk, or shard, in common."""
    return _farthest(grid, array, lambda axis, k, a: whole_chunks(writes(axis, k), array, a))


def _farthest(
    grid: Grid, array: ArrayInfo | None, used: Callable[[Axis, Integers, int], Spans]
) -> Index:
    """Return how far, per axis, the nodes can be that write what a node uses."""
    reach = []
    for a, axis in enumerate(grid.axes):
        chunk = chunk_extent(array, a) if array else 1
        ends = (array.roi.begin[a], array.roi.end[a]) if array else ()
        k = telling(axis, period=chunk, margin=axis.lower + axis.upper + chunk, marks=ends)
        first, last = writing(axis, used(axis, k, a))
        if not np.any(first < last):
            return (0,) * grid.ndim
        reach.append(int(np.where(first < last, np.maximum(last - 1 - k, k - first), 0).max()))
    return tuple(reach)


def telling(axis: Axis, *, period: int = 1, margin: int = 0, marks: Sequence[int] = ()) -> Integers:
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


def writes(axis: Axis, k: Integers) -> Spans:
    """Return what nodes write."""
    low = axis.begin + k * axis.step
    return low, np.minimum(low + axis.step, axis.end)


def reads(axis: Axis, k: Integers) -> Spans:
    """Return what nodes read."""
    low, high = writes(axis, k)
    return low - axis.lower, high + axis.upper


def clip(span: Spans, array: ArrayInfo, a: int) -> Spans:
    """Return the parts of spans that lie in an array."""
    roi = array.roi
    return np.maximum(span[0], roi.begin[a]), np.minimum(span[1], roi.end[a])


def whole_chunks(span: Spans, array: ArrayInfo, a: int) -> Spans:
    """Return the parts of the array in the chunks that the spans touch."""
    low, high = clip(span, array, a)
    chunk, origin = chunk_extent(array, a), array.offset[a]
    wide = clip(
        ((low - origin) // chunk * chunk + origin, -((origin - high) // chunk) * chunk + origin),
        array,
        a,
    )
    return wide[0], np.where(low < high, wide[1], wide[0])


def writing(axis: Axis, span: Spans) -> Spans:
    """Return the half-open ranges of nodes whose write interval meets a span."""
    low, high = np.maximum(span[0], axis.begin), np.minimum(span[1], axis.end)
    first, last = (low - axis.begin) // axis.step, -((axis.begin - high) // axis.step)
    return np.where(low < high, first, 0), np.where(low < high, last, 0)


def reading(axis: Axis, span: Spans) -> Spans:
    """Return the half-open ranges of nodes whose read interval meets a span."""
    first, last = writing(axis, (span[0] - axis.upper, span[1] + axis.lower))
    return np.where(span[0] < span[1], first, 0), np.where(span[0] < span[1], last, 0)


def chunk_extent(array: ArrayInfo, a: int) -> int:
    """Return the extent of a storage chunk, or shard, on a spatial axis, in world units."""
    return array.chunks[len(array.channels) + a] * array.voxel_size[a]
