"""What stands outside of an array: one value, or the array continued in one of four ways.

The words are those of ``numpy.pad``; ``scipy.ndimage`` calls ``edge`` nearest, ``reflect`` mirror
and ``symmetric`` reflect.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Axis, Grid, Integers

__all__ = ["Border", "inner", "stays_within"]


class Border(StrEnum):
    """How an array goes on beyond its ends, here ``a b c d``."""

    EDGE = "edge"
    """``a a a|a b c d|d d d``"""
    REFLECT = "reflect"
    """``d c b|a b c d|c b a``"""
    SYMMETRIC = "symmetric"
    """``c b a|a b c d|d c b``"""
    WRAP = "wrap"
    """``b c d|a b c d|a b c``"""


def inner(begin: int, end: int, size: int, border: Border) -> Integers:
    """Return which voxels of an axis of an array are seen at the places of ``[begin, end)``.

    Parameters
    ----------
    begin, end : int
        Voxels, counted from the array's first one; may be negative or beyond its last one.
    size : int
        Voxels of the array along the axis, at least one.
    border : Border
        How it goes on.
    """
    place = np.arange(begin, end, dtype=np.int64)
    if border is Border.EDGE:
        return np.clip(place, 0, size - 1)
    if border is Border.WRAP:
        return place % size
    twice = border is Border.SYMMETRIC  # the outermost voxel is seen twice
    period = max(1, 2 * size if twice else 2 * size - 2)
    place %= period
    return np.where(place < size, place, period - twice - place)


def stays_within(grid: Grid, roi: Box, voxel_size: tuple[int, ...], border: Border) -> bool:
    """Tell whether no block sees a voxel of an array, beyond its ends, that it does not read.

    Parameters
    ----------
    grid : Grid
        The blocks; context and blocks are whole voxels.
    roi : Box
        Of the array, in world units, not empty.
    voxel_size : tuple of int
        World units.
    border : Border
        How the array goes on.
    """
    sides = zip(grid.axes, roi.begin, roi.end, voxel_size, strict=True)
    return all(_stays(axis, begin, end, voxel, border) for axis, begin, end, voxel in sides)


def _stays(axis: Axis, begin: int, end: int, voxel: int, border: Border) -> bool:
    """Tell the same along an axis: the first and the last block reach furthest beyond the ends."""
    for k in {0, len(axis) - 1}:
        low, high = axis.read(k)
        first, last = (low - begin) // voxel, -((begin - high) // voxel)
        seen = inner(first, last, (end - begin) // voxel, border)
        if seen.min() < first or seen.max() >= last:
            return False
    return True
