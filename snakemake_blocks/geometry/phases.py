"""Conflicts between blocks of one task, and their colouring into phases.

Two blocks conflict when their indices differ by at most ``reach`` on every axis. On a dense
grid the colouring is a closed form: the digit of an axis is the index modulo
``min(n, reach + 1)``, and a phase is the rank of the digits in the reflected mixed-radix Gray
order. Any window of that shape is a clique, so the number of phases is minimal; in Gray order
neighbouring phases differ by one step on one axis, which keeps the inputs of a job few.

The relation holds for jobs as it does for blocks: a job is a bigger block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index, points
from snakemake_blocks.geometry.tiling import Axis, Grid

__all__ = ["Phases", "colour", "context_reach", "largest_near", "sharing_reach"]

# Above these sizes the exact colouring (a MILP) and DSATUR cost more than the phases they save.
_EXACT_NODES = 24
_DSATUR_NODES = 4096


def context_reach(grid: Grid) -> Index:
    """Return how many blocks away, per axis, a block still reads what another one writes.

    ``ceil(max(lower, upper) / block size)``, as in daisy.
    """
    return tuple(-(-max(a.lower, a.upper) // a.step) for a in grid.axes)


def sharing_reach(axis: Axis, *, chunk: int, origin: int) -> int:
    """Return how many blocks apart two blocks can be and still write the same storage chunk.

    Parameters
    ----------
    axis : Axis
        The tiling along one axis, in world units.
    chunk : int
        Extent of a storage chunk (or shard), in world units.
    origin : int
        World coordinate at which chunk 0 begins.

    Notes
    -----
    The pattern repeats after ``lcm(step, chunk)``; one period is looked at, so the cost is
    ``O(min(n, chunk / gcd(step, chunk)))``.
    """
    n = len(axis)
    if n < 2:
        return 0
    period = chunk // math.gcd(axis.step, chunk)
    k = np.arange(min(n - 1, period), dtype=np.int64)
    last_voxel = axis.begin + (k + 1) * axis.step - 1
    chunk_end = (last_voxel - origin) // chunk * chunk + chunk + origin
    last_block = np.minimum((chunk_end - 1 - axis.begin) // axis.step, n - 1)
    return int((last_block - k).max())


@dataclass(frozen=True, slots=True)
class Phases:
    """Phase of every node of a grid of blocks or jobs.

    Parameters
    ----------
    shape : tuple of int
        Number of nodes per axis.
    reach : tuple of int
        Conflict reach per axis; all zero where nothing conflicts.
    table : ndarray of int32, optional
        Phase per node, -1 where a node is absent (masked). Without it every node is present and
        has its closed-form phase.
    """

    shape: Index
    reach: Index
    table: NDArray[np.int32] | None = None
    _classes: dict[tuple[Index, ...], list[Index]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def moduli(self) -> Index:
        """Number of digits per axis, ``min(n, reach + 1)``."""
        return tuple(max(1, min(n, r + 1)) for n, r in zip(self.shape, self.reach, strict=True))

    def __len__(self) -> int:
        """Return the number of phases."""
        if self.table is not None:
            return int(self.table.max(initial=-1)) + 1
        return math.prod(self.moduli) if math.prod(self.shape) else 0

    def of(self, index: Sequence[int]) -> int:
        """Return the phase of a node; -1 if it is absent."""
        if self.table is not None:
            return int(self.table[tuple(index)])
        return _gray_rank([k % m for k, m in zip(index, self.moduli, strict=True)], self.moduli)

    def all(self, window: Box | None = None) -> NDArray[np.int32]:
        """Return the phases of all nodes in ``window`` (default: the whole grid), vectorised."""
        box = window or Box.from_shape(self.shape)
        if self.table is not None:
            return self.table[box.slices]
        rank = np.zeros((1,) * box.ndim, dtype=np.int32)
        for axis, m in enumerate(self.moduli):
            digit = np.arange(box.begin[axis], box.end[axis], dtype=np.int32) % m
            digit = digit.reshape([-1 if a == axis else 1 for a in range(box.ndim)])
            rank = rank * m + np.where(rank % 2 == 1, m - 1 - digit, digit)
        return rank

    def nodes(self, phase: int) -> list[Index] | _Lattice:
        """Return the nodes of a phase, last axis fastest; lazy on a dense grid."""
        if self.table is not None:
            return [tuple(map(int, i)) for i in np.argwhere(self.table == phase)]
        return _Lattice(_gray_digits(phase, self.moduli), self.moduli, self.shape)

    def conflicting(self, index: Sequence[int]) -> Box:
        """Return the box of all nodes in conflict with ``index``, itself included."""
        return (
            Box(tuple(index), tuple(k + 1 for k in index))
            .grow(self.reach, self.reach)
            .intersect(Box.from_shape(self.shape))
        )

    def predecessors(self, index: Index) -> list[Index]:
        """Return the nodes that ``index`` must wait for; the order of all others follows.

        A conflicting node ``u`` of lower phase is listed unless a present node ``w`` of a phase
        strictly between is in conflict with both. By induction on the difference of phases
        every conflicting pair is then joined by a path, for any mask and any colouring.

        On a dense grid the answer depends only on the digits and on the nearness of the border,
        so it is computed once per such class.
        """
        if not any(self.reach):
            return []
        if self.table is not None:
            return self._predecessors(index)
        key = tuple(
            (k % m, min(k, r), min(n - 1 - k, r))
            for k, m, n, r in zip(index, self.moduli, self.shape, self.reach, strict=True)
        )
        offsets = self._classes.get(key)
        if offsets is None:
            offsets = [
                tuple(u - v for u, v in zip(node, index, strict=True))
                for node in self._predecessors(index)
            ]
            self._classes[key] = offsets
        return [tuple(v + o for v, o in zip(index, offset, strict=True)) for offset in offsets]

    def _predecessors(self, index: Index) -> list[Index]:
        box = self.conflicting(index)
        phases = self.all(box)
        lower = np.where(phases < self.of(index), phases, -1)
        # Phases of conflicting nodes differ: a node is listed iff it is the largest near it.
        listed = (lower >= 0) & (lower == largest_near(lower, self.reach))
        return [
            tuple(int(k) + b for k, b in zip(node, box.begin, strict=True))
            for node in np.argwhere(listed)
        ]


def largest_near(values: NDArray[np.int32], reach: Index) -> NDArray[np.int32]:
    """Return for every place the largest value at most ``reach`` away, axis by axis."""
    for a, r in enumerate(reach):
        along = values.swapaxes(0, a)
        found = along.copy()
        for d in range(1, min(r, len(along) - 1) + 1):
            np.maximum(found[d:], along[:-d], out=found[d:])
            np.maximum(found[:-d], along[d:], out=found[:-d])
        values = found.swapaxes(0, a)
    return values


@dataclass(frozen=True, slots=True)
class _Lattice:
    """Indices with given residues: the nodes of one phase of a dense grid."""

    digits: Index
    moduli: Index
    shape: Index

    def __len__(self) -> int:
        return math.prod(len(r) for r in self._ranges())

    def __iter__(self) -> Iterator[Index]:
        return points(self._ranges())

    def _ranges(self) -> list[range]:
        return [
            range(d, n, m) for d, m, n in zip(self.digits, self.moduli, self.shape, strict=True)
        ]


def _gray_rank(digits: Sequence[int], moduli: Sequence[int]) -> int:
    """Return the rank of ``digits`` in reflected mixed-radix Gray order."""
    rank = 0
    for digit, m in zip(digits, moduli, strict=True):
        rank = rank * m + (m - 1 - digit if rank % 2 else digit)
    return rank


def _gray_digits(rank: int, moduli: Sequence[int]) -> Index:
    """Return the digits at a rank (inverse of :func:`_gray_rank`)."""
    plain = []
    for m in reversed(moduli):
        rank, digit = divmod(rank, m)
        plain.append((rank, digit, m))
    return tuple(m - 1 - d if prefix % 2 else d for prefix, d, m in reversed(plain))


def colour(present: NDArray[np.bool_], reach: Index) -> Phases:
    """Return phases for the nodes of a masked grid, never more than the closed form has.

    Where the closed form needs more phases than the largest clique has members, an exact
    colouring is tried on small graphs and DSATUR on larger ones.

    Parameters
    ----------
    present : ndarray of bool
        True where a node takes part.
    reach : tuple of int
        Conflict reach per axis.
    """
    closed = np.where(present, Phases(present.shape, reach).all(), -1).astype(np.int32)
    used = np.unique(closed[present])
    table = np.where(present, np.searchsorted(used, closed), -1).astype(np.int32)
    count = len(used)
    clique = _largest_clique(present, reach)
    if count > clique:
        better = _colour_graph(present, reach, count, clique)
        if better is not None:
            table = better
    return Phases(present.shape, reach, table)


def _largest_clique(present: NDArray[np.bool_], reach: Index) -> int:
    """Return the largest number of present nodes in any window of ``reach + 1``."""
    window = [min(n, r + 1) for n, r in zip(present.shape, reach, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(present, window)
    return int(views.sum(axis=tuple(range(-len(window), 0))).max(initial=0))


def _colour_graph(
    present: NDArray[np.bool_], reach: Index, count: int, clique: int
) -> NDArray[np.int32] | None:
    """Return a table with ``clique`` to ``count - 1`` phases, or None if none was found."""
    nodes = [tuple(map(int, i)) for i in np.argwhere(present)]
    if len(nodes) > _DSATUR_NODES:
        return None
    import networkx as nx

    position = {node: i for i, node in enumerate(nodes)}
    graph = nx.Graph()
    graph.add_nodes_from(range(len(nodes)))
    dense = Phases(present.shape, reach)
    for i, node in enumerate(nodes):
        for other in dense.conflicting(node):
            j = position.get(other, -1)
            if j > i:
                graph.add_edge(i, j)
    colours: dict[int, int] = nx.greedy_color(graph, strategy="DSATUR")
    best = min(count, max(colours.values()) + 1)
    if best > clique and len(nodes) <= _EXACT_NODES:
        colours = _exact_colouring(graph, best - 1) or colours
    if max(colours.values()) + 1 >= count:
        return None
    table = np.full(present.shape, -1, dtype=np.int32)
    for i, node in enumerate(nodes):
        table[node] = colours[i]
    return table


def _exact_colouring(graph: Any, most: int) -> dict[int, int] | None:
    """Return a colouring with the fewest colours, at most ``most``; None if there is none."""
    import pulp

    # The CBC inside PuLP 3, by the one class that PuLP 4 keeps.
    solver = pulp.COIN_CMD(path=pulp.PULP_CBC_CMD.pulp_cbc_path, msg=False)
    if not solver.available():
        return None
    problem = pulp.LpProblem("phases", pulp.LpMinimize)
    used = [problem.add_variable(f"used_{c}", cat="Binary") for c in range(most)]
    takes = {
        (v, c): problem.add_variable(f"takes_{v}_{c}", cat="Binary")
        for v in graph.nodes
        for c in range(most)
    }
    problem += pulp.lpSum(used)
    for v in graph.nodes:
        problem += pulp.lpSum(takes[v, c] for c in range(most)) == 1
    for u, v in graph.edges:
        for c in range(most):
            problem += takes[u, c] + takes[v, c] <= used[c]
    for v in graph.nodes:
        for c in range(most):
            problem += takes[v, c] <= used[c]
    for c in range(most - 1):
        problem += used[c] >= used[c + 1]
    if pulp.LpStatus[problem.solve(solver)] != "Optimal":
        return None
    return {v: next(c for c in range(most) if takes[v, c].value() > 0.5) for v in graph.nodes}
