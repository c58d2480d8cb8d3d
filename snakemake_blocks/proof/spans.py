"""What nodes of a grid read and write of an array, along an axis: for many nodes at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Axis, Grid, Integers, Spans
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = [
    "chunk_extent",
    "clip",
    "context_of",
    "sharing_of",
    "telling",
    "whole_chunks",
]


def context_of(grid: Grid, array: ArrayInfo | None = None) -> Index:
    """Return how far apart nodes can be of which one reads what the other writes (to an array)."""
    return _farthest(
        grid,
        array,
        lambda axis, k, a: clip(axis.reads(k), array, a) if array else axis.reads(k),
    )


def sharing_of(grid: Grid, array: ArrayInfo) -> Index:
    """Return how far apart nodes can be that write a storage chunk, or shard, in common."""
    return _farthest(grid, array, lambda axis, k, a: whole_chunks(axis.writes(k), array, a))


def _farthest(
    grid: Grid, array: ArrayInfo | None, used: Callable[[Axis, Integers, int], Spans]
) -> Index:
    """Return how far, per axis, the nodes can be that write what a node uses."""
    reach = []
    for a, axis in enumerate(grid.axes):
        chunk = chunk_extent(array, a) if array else 1
        ends = (array.roi.begin[a], array.roi.end[a]) if array else ()
        k = telling(axis, period=chunk, margin=axis.lower + axis.upper + chunk, marks=ends)
        first, last = axis.all_writing(used(axis, k, a))
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


def chunk_extent(array: ArrayInfo, a: int) -> int:
    """Return the extent of a storage chunk, or shard, on a spatial axis, in world units."""
    return array.tile_chunk(a) * array.voxel_size[a]
