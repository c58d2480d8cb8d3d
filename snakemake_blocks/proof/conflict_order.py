"""Tells whether phases, and the inputs made from them, order every conflicting pair of nodes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases, largest_near

__all__ = ["classes", "is_proper", "order_of", "pairs"]


def is_proper(phases: Phases) -> bool:
    """Tell whether conflicting nodes of a dense grid differ in phase.

    Their digits differ if an axis has as many digits as nodes in reach; phases differ where
    digits do if no two sets of digits have one phase.
    """
    enough = [min(n, r + 1) for n, r in zip(phases.shape, phases.reach, strict=True)]
    if any(m < x for m, x in zip(phases.moduli, enough, strict=True)):
        return False
    window = phases.all(Box.from_shape(phases.moduli))
    return len(np.unique(window)) == math.prod(phases.moduli)


def classes(phases: Phases) -> Iterator[Index]:
    """Yield a node of every class: all of them when masked, else by digits and near borders."""
    if phases.table is not None:
        return (tuple(map(int, node)) for node in np.argwhere(phases.table >= 0))
    per_axis = []
    for n, r, m in zip(phases.shape, phases.reach, phases.moduli, strict=True):
        near = min(r, n)
        found = {*range(min(n, near + m)), *range(max(0, n - near), n)}
        per_axis.append(sorted(found))
    return itertools.product(*per_axis)


def order_of(phases: Phases, node: Index) -> tuple[int, int, Index | None]:
    """Return inputs, conflicting nodes of lower phase, and one that is not ordered, of a node.

    A lower node is ordered before this one if it is an input, or if a node of a phase strictly
    between conflicts with both: by induction on the difference of phases all pairs are, when
    this holds for every node.
    """
    box = phases.conflicting(node)
    ranks = np.broadcast_to(phases.all(box), box.shape)
    mine = phases.of(node)
    inputs = phases.predecessors(node)
    is_input = np.zeros(box.shape, dtype=bool)
    for u in inputs:
        if not box.contains(u) or not 0 <= phases.of(u) < mine:
            return len(inputs), 0, u
        is_input[tuple(x - b for x, b in zip(u, box.begin, strict=True))] = True
    lower = np.where(ranks < mine, ranks, -1)
    between = largest_near(lower, phases.reach) > lower
    loose = (ranks == mine) | ((lower >= 0) & ~is_input & ~between)
    loose[tuple(x - b for x, b in zip(node, box.begin, strict=True))] = False
    first = np.argwhere(loose)[:1]
    bad = [tuple(int(x) + b for x, b in zip(u, box.begin, strict=True)) for u in first]
    return len(inputs), int((lower >= 0).sum()), bad[0] if bad else None


def pairs(phases: Phases) -> int:
    """Return the number of conflicting pairs of nodes of a dense grid."""
    ordered = 1
    for n, r in zip(phases.shape, phases.reach, strict=True):
        r = min(r, n - 1)
        ordered *= n + 2 * r * n - r * (r + 1)
    return (ordered - math.prod(phases.shape)) // 2
