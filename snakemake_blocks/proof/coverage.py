"""Parts of a region that nothing covers, and a block that meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.dependencies import JobGrid
from snakemake_blocks.plan.plan import PlannedTask

__all__ = ["first_gap"]


def first_gap(
    task: PlannedTask,
    region: Box,
    covers: Sequence[Box],
    touching: Callable[[Box], Box],
) -> tuple[Box, Index] | None:
    """Return a part of ``region`` in none of ``covers``, and a present block that touches it."""
    left = [region] if region else []
    for cover in covers:
        left = [piece for box in left for piece in _minus(box, cover)]
    for piece in sorted(left, key=lambda box: box.begin):
        block = _first_present(task.jobs, touching(piece))
        if block is not None:
            return piece, block
    return None


def _minus(box: Box, other: Box) -> list[Box]:
    """Return disjoint boxes that cover what of ``box`` is not in ``other``."""
    if not box.meets(other):
        return [box]
    pieces = []
    for a in range(box.ndim):
        low, high = list(box.begin), list(box.end)
        cut, rest = max(box.begin[a], other.begin[a]), min(box.end[a], other.end[a])
        pieces.append(Box(box.begin, (*high[:a], cut, *high[a + 1 :])))
        pieces.append(Box((*low[:a], rest, *low[a + 1 :]), box.end))
        box = Box((*low[:a], cut, *low[a + 1 :]), (*high[:a], rest, *high[a + 1 :]))
    return [piece for piece in pieces if piece]


def _first_present(jobs: JobGrid, blocks: Box) -> Index | None:
    if not blocks or jobs.present is None:
        return blocks.begin if blocks else None
    here = jobs.presence(blocks)
    number = int(here.argmax())
    if not here.flat[number]:
        return None
    place = np.unravel_index(number, here.shape)
    return tuple(int(k) + b for k, b in zip(place, blocks.begin, strict=True))
