"""Where the blocks of an operation are, counted in voxels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["VoxelGrid", "later_neighbours"]


class VoxelGrid:
    """Where the blocks of a volume are.

    Parameters
    ----------
    shape, size : sequence of int
        Of the volume and of a block, in voxels; the last blocks may be smaller.
    """

    def __init__(self, shape: Sequence[int], size: Sequence[int]) -> None:
        self.shape, self.size = tuple(shape), tuple(size)
        self.counts = tuple(-(-n // w) for n, w in zip(shape, size, strict=True))

    def __contains__(self, index: Sequence[int]) -> bool:
        return all(0 <= k < n for k, n in zip(index, self.counts, strict=True))

    def number(self, index: Sequence[int]) -> int:
        """Return the number of a block, in C order."""
        return int(np.ravel_multi_index(tuple(index), self.counts))

    def begin(self, index: Sequence[int]) -> tuple[int, ...]:
        """Return the first voxel of a block."""
        return tuple(k * w for k, w in zip(index, self.size, strict=True))

    def extent(self, index: Sequence[int]) -> tuple[int, ...]:
        """Return how large a block is."""
        sides = zip(index, self.size, self.shape, strict=True)
        return tuple(min(w, n - k * w) for k, w, n in sides)

    def global_index(self, index: Sequence[int], local: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return flat indices in the volume of flat indices in a block."""
        places = np.unravel_index(local, self.extent(index))
        whole = [p + b for p, b in zip(places, self.begin(index), strict=True)]
        found = np.zeros(len(local), np.uint64)
        for place, n in zip(whole, self.shape, strict=True):
            found = found * np.uint64(n) + place.astype(np.uint64)
        return found


def later_neighbours(ndim: int, most: int) -> Iterator[tuple[int, ...]]:
    """Yield the offsets of neighbours that come later in C order.

    Parameters
    ----------
    ndim : int
        Number of axes.
    most : int
        Along how many of them they may differ.
    """
    for offset in itertools.product((-1, 0, 1), repeat=ndim):
        if offset > (0,) * ndim and sum(map(abs, offset)) <= most:
            yield offset
