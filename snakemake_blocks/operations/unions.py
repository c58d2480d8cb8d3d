"""Union-find over very many things: pairs are joined as they come, some millions at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Sets", "numbers_of"]

# Pairs that are joined at once; each takes some tens of bytes meanwhile.
_AT_ONCE = 1 << 20


def numbers_of(begins: pa.Table, numbers: pa.ChunkedArray, block: int) -> NDArray[np.uint64]:
    """Return the final numbers of what a block has, behind a 0 for the background.

    Parameters
    ----------
    begins : pyarrow.Table
        Columns ``begin`` and ``count``: where those of each block are.
    numbers : pyarrow.ChunkedArray
        Of all blocks; only what the block needs is looked at.
    block : int
        Its number.
    """
    begin, count = (begins.column(name)[block].as_py() for name in ("begin", "count"))
    found = np.zeros(count + 1, np.uint64)
    found[1:] = numbers.slice(begin, count).to_numpy()
    return found


class Sets:
    """Disjoint sets of whole numbers from 0 on; each begins as one of its own.

    Pairs are kept until there are many, then joined by the connected components of the graph of
    their roots. A number takes 4 bytes, or 8 from 2**32 on.

    Parameters
    ----------
    size : int
        How many numbers there are.
    """

    def __init__(self, size: int) -> None:
        self._parents = np.arange(size, dtype=np.uint32 if size < 2**32 else np.uint64)
        self._waiting: list[NDArray[Any]] = []
        self._count = 0

    def join(self, one: NDArray[Any], other: NDArray[Any]) -> None:
        """Join the sets of numbers, pair by pair."""
        for begin in range(0, len(one), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            both = np.stack([self._roots_of(side[part]) for side in (one, other)])
            both = both[:, both[0] != both[1]]
            if not both.size:
                continue
            self._waiting.append(both)
            self._count += both.shape[1]
            if self._count >= _AT_ONCE:
                self._settle()

    def roots(self) -> NDArray[Any]:
        """Return of every number the least one that its set's numbers share; O(size)."""
        self._settle()
        for begin in range(0, len(self._parents), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            self._parents[part] = self._roots_of(self._parents[part])
        return self._parents

    def _roots_of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self._parents[numbers]
        while True:
            above = self._parents[found]
            if np.array_equal(above, found):
                return found
            found = above

    def _settle(self) -> None:
        """Join what waits."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._waiting:
            return
        pairs = self._roots_of(np.concatenate(self._waiting, axis=1))
        self._waiting, self._count = [], 0
        nodes, places = np.unique(pairs, return_inverse=True)
        edges = places.reshape(2, -1).astype(np.int32)
        graph = coo_array((np.ones(edges.shape[1], np.int8), tuple(edges)), (len(nodes),) * 2)
        count, found = connected_components(graph, directed=False)
        least = np.full(count, nodes[-1])
        np.minimum.at(least, found, nodes)
        self._parents[nodes] = least[found]
