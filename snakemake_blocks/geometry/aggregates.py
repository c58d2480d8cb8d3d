"""The tree of sentinels above the jobs of a task, so that no fan-in exceeds 128.

Jobs are numbered in enumeration order. Level 1 holds one aggregate per 128 jobs, level 2 one per
128 of level 1, and so on; above the last level stands one for the whole task, ``done``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FAN_IN", "Aggregate", "Aggregates"]

# Snakemake's cost is quadratic in the number of inputs of any one job (measured).
FAN_IN = 128
_NUMBER = "(0|[1-9][0-9]{0,17})"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One of them: its level, from 1 on, and its number on that level."""

    level: int
    number: int


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Tree over ``num_jobs`` jobs; its iterator goes from level 1 to the top."""

    num_jobs: int

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of aggregates on levels 1, 2, ... below the top; empty if that stands on jobs."""
        counts = []
        below = self.num_jobs
        while below > FAN_IN:
            below = -(-below // FAN_IN)
            counts.append(below)
        return tuple(counts)

    @property
    def top(self) -> Aggregate:
        """The one for the whole task."""
        return Aggregate(len(self.levels) + 1, 0)

    def __iter__(self) -> Iterator[Aggregate]:
        for level, count in enumerate(self.levels, start=1):
            yield from (Aggregate(level, number) for number in range(count))
        yield self.top

    def name(self, aggregate: Aggregate) -> str:
        """Return ``done`` or ``tree/<level>/<number>``."""
        if aggregate == self.top:
            return "done"
        return f"tree/{aggregate.level}/{aggregate.number}"

    def named(self, name: str) -> Aggregate | None:
        """Return the aggregate of a name (inverse of :meth:`name`), None if there is none."""
        if name == "done":
            return self.top
        match = re.fullmatch(f"tree/{_NUMBER}/{_NUMBER}", name)
        level, number = (int(match[1]), int(match[2])) if match else (0, 0)
        inside = 1 <= level <= len(self.levels) and number < self.levels[level - 1]
        return Aggregate(level, number) if inside else None

    def below(self, aggregate: Aggregate) -> range:
        """Return the numbers of what an aggregate stands on: jobs, or those a level below."""
        count = (self.num_jobs, *self.levels)[aggregate.level - 1]
        first = aggregate.number * FAN_IN
        return range(first, min(first + FAN_IN, count))

    def cover(self, jobs: list[int]) -> tuple[int, list[int]]:
        """Return (level, numbers): the lowest level on which at most 128 stand above ``jobs``.

        Level 0 are the jobs themselves.
        """
        level, numbers = 0, sorted(set(jobs))
        while len(numbers) > FAN_IN and level < len(self.levels):
            level += 1
            numbers = sorted({n // FAN_IN for n in numbers})
        return level, numbers
