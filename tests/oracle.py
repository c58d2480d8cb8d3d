"""What planning promises, found by looking at every coordinate and every pair: slow, but plain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

Region = tuple[frozenset[int], ...]
Block = tuple[Region, Region]
"""What a block writes and what it reads: the coordinates along every axis."""


def axis_blocks(
    begin: int, end: int, *, step: int, lower: int, upper: int, fit: str
) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Return what every block along an axis writes and reads, by daisy's rules."""
    blocks = []
    for low in range(begin, end, step):
        high = min(low + step, end) if fit == "shrink" else low + step
        if fit != "valid" or high <= end:
            write, read = range(low, high), range(low - lower, high + upper)
            blocks.append((frozenset(write), frozenset(read)))
    return blocks


def grid_blocks(axes: Sequence[Sequence[Any]]) -> dict[tuple[int, ...], Block]:
    """Return the blocks of a grid by index, last axis fastest."""
    found = {}
    for index in itertools.product(*(range(len(axis)) for axis in axes)):
        write, read = zip(*(axis[k] for axis, k in zip(axes, index, strict=True)), strict=True)
        found[index] = (write, read)
    return found


def meet(one: Region, other: Region) -> bool:
    """Tell whether two regions share a point."""
    return all(a & b for a, b in zip(one, other, strict=True))


def conflict(one: Block, other: Block) -> bool:
    """Tell whether one block writes what the other reads."""
    return meet(one[0], other[1]) or meet(one[1], other[0])


def ancestors(inputs: Mapping[Any, Iterable[Any]]) -> dict[Any, set[Any]]:
    """Return all that each node waits for, directly or not; what it waits for comes before it."""
    found: dict[Any, set[Any]] = {}
    for node, direct in inputs.items():
        found[node] = set(direct).union(*(found[u] for u in direct))
    return found


def fewest_colours(nodes: Collection[Any], clash: Callable[[Any, Any], bool]) -> int:
    """Return how few colours suffice, so that no two nodes that clash share one."""

    def works(nodes: Sequence[Any], classes: list[list[Any]]) -> bool:
        return not nodes or any(
            works(nodes[1:], [*classes[:c], [*classes[c], nodes[0]], *classes[c + 1 :]])
            for c in range(len(classes))
            # of the colours that are not used yet, one is as good as another
            if (c == 0 or classes[c - 1]) and not any(clash(nodes[0], n) for n in classes[c])
        )

    return next(most for most in itertools.count() if works(list(nodes), [[]] * most))
