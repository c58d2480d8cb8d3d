"""Which block of a job comes next: phase by phase, retries last, orphans never."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.box import Box, Index
from snakemake_blocks.judgement import Judgement, Progress, block_fingerprints
from snakemake_blocks.plan import PlannedTask

__all__ = ["BlockQueue", "Item"]


@dataclass(frozen=True, slots=True)
class Item:
    """A block on its way to a worker.

    Parameters
    ----------
    number : int
        Position in the job's box, last axis fastest.
    index : tuple of int
        Index in the task's grid.
    attempt : int
        Counted from 1 in the open budget.
    seen, fingerprint : int
        What its record has to carry to count.
    """

    number: int
    index: Index
    attempt: int
    seen: int
    fingerprint: int


@dataclass(slots=True)
class BlockQueue:
    """The blocks of one job that have no counting record.

    Blocks are handed out phase by phase: the next phase begins when the last one has ended. A
    failed block goes to the back of its phase as long as its budget lasts; then it is failed for
    good, and the blocks that conflict with it in later phases are orphaned.

    Parameters
    ----------
    task : PlannedTask
        The task.
    members : Box
        The blocks of the job.
    judgement : Judgement
        What its ledger says.
    budget : int
        Attempts that a block has.
    """

    task: PlannedTask
    members: Box
    judgement: Judgement
    budget: int
    failed: set[Index] = field(default_factory=set, init=False)
    orphaned: set[Index] = field(default_factory=set, init=False)
    done: int = field(default=0, init=False)
    _order: NDArray[np.int64] = field(init=False, repr=False)
    _ends: list[int] = field(init=False, repr=False)
    _phase: int = field(default=0, init=False)
    _next: int = field(default=0, init=False)
    _retries: deque[tuple[int, int]] = field(default_factory=deque, init=False, repr=False)
    _out: int = field(default=0, init=False)
    _attempts: NDArray[np.int32] = field(init=False, repr=False)
    _seen: NDArray[np.uint64] = field(init=False, repr=False)
    _fingerprints: NDArray[np.uint64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        judgement = self.judgement
        self._attempts = judgement.attempts.ravel().copy()
        self._seen = judgement.seen.ravel()
        self._fingerprints = block_fingerprints(self.task, self.members).ravel()
        phases = np.broadcast_to(self.task.block_phases.all(self.members), self.members.shape)
        todo = (judgement.progress != Progress.MASKED) & ~judgement.done
        spent = todo & (judgement.attempts >= self.budget)
        self.failed.update(self._index(int(n)) for n in np.flatnonzero(spent))
        numbers = np.flatnonzero(todo & ~spent)
        of = phases.ravel()[numbers]
        self._order = numbers[np.argsort(of, kind="stable")]
        ends = np.searchsorted(np.sort(of), np.arange(int(of.max(initial=-1)) + 1), side="right")
        self._ends = [int(e) for e in ends] or [0]

    def __len__(self) -> int:
        """Return how many blocks there were to do."""
        return len(self._order)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out, now or later."""
        self._advance()
        return self._next >= len(self._order) and not self._retries and not self._out

    def take(self, most: int, worker: int, *, alone: bool) -> list[Item]:
        """Return up to ``most`` blocks that may run now, possibly none.

        Parameters
        ----------
        most : int
            How many at most.
        worker : int
            Who asks; a block that failed there goes to another worker.
        alone : bool
            There is no other worker.
        """
        self._advance()
        items: list[Item] = []
        while len(items) < most and self._next < self._ends[self._phase]:
            number = int(self._order[self._next])
            self._next += 1
            if self._is_orphan(number):
                self.orphaned.add(self._index(number))
            else:
                items.append(self._item(number))
        for _ in range(len(self._retries)):
            if len(items) >= most:
                break
            number, last = self._retries.popleft()
            if last == worker and not alone:
                self._retries.append((number, last))
            else:
                items.append(self._item(number))
        self._out += len(items)
        return items

    def succeeded(self, count: int) -> None:
        """Note that blocks are done."""
        self._out -= count
        self.done += count

    def attempt_failed(self, item: Item, worker: int) -> bool:
        """Note a failed attempt; true if the block will be tried again."""
        self._out -= 1
        self._attempts[item.number] = item.attempt
        if item.attempt >= self.budget:
            self.failed.add(item.index)
            return False
        self._retries.append((item.number, worker))
        return True

    def give_back(self, items: list[Item]) -> None:
        """Take back blocks that were handed out and not begun."""
        self._out -= len(items)
        self._retries.extendleft((item.number, -1) for item in reversed(items))

    def _advance(self) -> None:
        while (
            self._next >= self._ends[self._phase]
            and self._phase + 1 < len(self._ends)
            and not self._retries
            and not self._out
        ):
            self._phase += 1

    def _item(self, number: int) -> Item:
        return Item(
            number,
            self._index(number),
            int(self._attempts[number]) + 1,
            int(self._seen[number]),
            int(self._fingerprints[number]),
        )

    def _index(self, number: int) -> Index:
        place = np.unravel_index(number, self.members.shape)
        return tuple(int(k) + b for k, b in zip(place, self.members.begin, strict=True))

    def _is_orphan(self, number: int) -> bool:
        """Tell whether a conflicting block of a lower phase in this job failed for good."""
        if not self.failed and not self.orphaned:
            return False
        index = self._index(number)
        phases = self.task.block_phases
        mine = phases.of(index)
        return any(
            (u in self.failed or u in self.orphaned) and phases.of(u) < mine
            for u in phases.conflicting(index).intersect(self.members)
        )
