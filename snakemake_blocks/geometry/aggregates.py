"""The tree of sentinels above the jobs of a task, so that no fan-in exceeds 128.

Jobs are numbered in enumeration order. Level 1 holds one node per 128 jobs, level 2 one per
128 nodes of level 1, and so on; ``done.json`` stands on the last level.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAN_IN", "Aggregates"]

# Snakemake's cost is quadratic in the number of inputs of any one job (measured).
FAN_IN = 128


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Tree over ``num_jobs`` jobs."""

    num_jobs: int

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of nodes on levels 1, 2, ...; empty when ``done.json`` can stand on the jobs."""
        counts = []
        below = self.num_jobs
        while below > FAN_IN:
            below = -(-below // FAN_IN)
            counts.append(below)
        return tuple(counts)

    def holds(self, level: int, node: int) -> bool:
        """Tell whether there is such a node."""
        return 1 <= level <= len(self.levels) and 0 <= node < self.levels[level - 1]

    def children(self, level: int, node: int) -> range:
        """Return the numbers of the jobs (level 1) or nodes below that a node stands on."""
        below = self.num_jobs if level == 1 else self.levels[level - 2]
        return range(node * FAN_IN, min((node + 1) * FAN_IN, below))

    def cover(self, jobs: list[int]) -> tuple[int, list[int]]:
        """Return (level, nodes): the lowest level on which at most 128 nodes cover ``jobs``."""
        level, nodes = 0, sorted(set(jobs))
        while len(nodes) > FAN_IN and level < len(self.levels):
            level += 1
            nodes = sorted({n // FAN_IN for n in nodes})
        return level, nodes
