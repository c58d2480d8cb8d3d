"""Which block of a job comes next: phase by phase, retries last, orphans never."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.state.judgement import Judgement

__all__ = ["Batch", "BlockQueue", "Item", "batch_dtype", "items_of"]

Batch = NDArray[np.void]
"""Blocks on their way to a worker, one row each; :func:`items_of` reads them."""


@lru_cache
def batch_dtype(ndim: int) -> np.dtype[np.void]:
    """Return the type of one row of a batch of a task with ``ndim`` axes."""
    return np.dtype(
        [
            ("number", "<i8"),
            ("index", "<i4", (ndim,)),
            ("attempt", "<u2"),
            ("ask", "?"),
            ("again", "?"),
            ("seen", "<u8"),
            ("fingerprint", "<u8"),
        ]
    )


@dataclass(slots=True)  # frozen, its making alone would cost a tenth of a tiny block
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
    ask : bool
        Whether the check before the block is to be believed: not where an earlier result is
        known to be out of date.
    again : bool
        Whether it may have run before.
    seen, fingerprint : int
        What its record has to carry to count.
    """

    number: int
    index: Index
    attempt: int
    ask: bool
    again: bool
    seen: int
    fingerprint: int


def items_of(batch: Batch) -> list[Item]:
    """Return the blocks of a batch."""
    # By columns: rows that hold an index would each make an array of it.
    columns = {name: batch[name].tolist() for name in batch.dtype.names or ()}
    columns["index"] = map(tuple, columns["index"])
    return list(map(Item, *columns.values()))


def _groups_of(task: PlannedTask, members: Box) -> NDArray[np.int64]:
    """Return a number per block of a box, the same for those that are stored together."""
    if not task.group:
        return np.zeros(members.size, np.int64)
    boxes = task.stored_grid.shape
    along = [
        np.arange(b, e) // g for b, e, g in zip(members.begin, members.end, task.group, strict=True)
    ]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), boxes).ravel()


@dataclass(slots=True)
class BlockQueue:
    """The blocks of one job that have no counting record.

    Blocks are handed out phase by phase: the next phase begins when the last one has ended. A
    failed block goes to the back of its phase as long as its budget lasts; then it is failed for
    good, and the blocks that conflict with it in later phases are orphaned.

    Blocks that are stored together go to one worker together, and no other one gets any of them
    before the worker is released: at the end of its batch, when all of it is stored, or of itself.

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
    failed: set[int] = field(default_factory=set, init=False)
    orphaned: set[int] = field(default_factory=set, init=False)
    done: int = field(default=0, init=False)
    _order: NDArray[np.int64] = field(init=False, repr=False)
    _ends: list[int] = field(init=False, repr=False)
    _phase: int = field(default=0, init=False)
    _next: int = field(default=0, init=False)
    # Numbers of blocks to hand out again, with the worker that they failed on (-1: none).
    _again: deque[tuple[int, int]] = field(default_factory=deque, init=False, repr=False)
    _out: int = field(default=0, init=False)
    _attempts: NDArray[np.int32] = field(init=False, repr=False)
    _phases: NDArray[np.int32] = field(init=False, repr=False)
    # Which box of blocks that are stored together each block is in, and who has such a box.
    _groups: NDArray[np.int64] = field(init=False, repr=False)
    _taken: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    # Blocks that come after a failed or orphaned one in conflict with them.
    _blocked: NDArray[np.bool_] = field(init=False, repr=False)
    # Blocks that may have run before.
    _began: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        judgement = self.judgement
        self._attempts = judgement.attempts.ravel().copy()
        self._phases = np.broadcast_to(
            self.task.block_phases.all(self.members), self.members.shape
        ).astype(np.int32)
        self._blocked = np.zeros(self.members.shape, bool)
        self._began = judgement.began.ravel().copy()
        self._groups = _groups_of(self.task, self.members)
        todo = judgement.todo
        spent = todo & (judgement.attempts >= self.budget)
        numbers = np.flatnonzero(todo & ~spent)
        of = self._phases.ravel()[numbers]
        self._order = numbers[np.lexsort((self._groups[numbers], of))]
        ends = np.searchsorted(np.sort(of), np.arange(int(of.max(initial=-1)) + 1), side="right")
        self._ends = [int(e) for e in ends] or [0]
        for number in np.flatnonzero(spent):
            self.failed.add(int(number))
            self._block_later(int(number))

    def __len__(self) -> int:
        """Return how many blocks there were to do."""
        return len(self._order)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to hand out, now or later."""
        self._advance()
        return self._next >= len(self._order) and not self._again and not self._out

    def take(self, most: int, worker: int, *, alone: bool) -> Batch:
        """Return up to ``most`` blocks that may run now, possibly none.

        Parameters
        ----------
        most : int
            How many at most, but for blocks that are stored together.
        worker : int
            Who asks; a block that failed there goes to another worker.
        alone : bool
            There is no other worker.
        """
        self._advance()
        numbers = self._fresh(most)
        for _ in range(len(self._again)):
            if len(numbers) >= most:
                break
            number, last = self._again.popleft()
            if (last == worker and not alone) or self._is_taken(number, worker):
                self._again.append((number, last))
            else:
                numbers.append(number)
        self._out += len(numbers)
        if self.task.group:
            self._taken.update((int(g), worker) for g in self._groups[numbers])
        return self._batch(numbers)

    def release(self, worker: int) -> None:
        """Let others have blocks that are stored with those that a worker had."""
        if worker in self._taken.values():
            self._taken = {g: has for g, has in self._taken.items() if has != worker}

    def _is_taken(self, number: int, worker: int) -> bool:
        return self._taken.get(int(self._groups[number]), worker) != worker

    def _fresh(self, most: int) -> list[int]:
        """Return up to ``most`` blocks of the phase that were not handed out yet."""
        found: list[int] = []
        while not found and self._next < self._ends[self._phase]:
            end = self._end_of_group(min(self._next + most, self._ends[self._phase]))
            numbers = self._order[self._next : end]
            self._next = end
            if not self.failed:
                return numbers.tolist()  # type: ignore[no-any-return]
            blocked = self._blocked.ravel()[numbers]
            for number in numbers[blocked].tolist():
                self.orphaned.add(number)
                self._block_later(number)
            found = numbers[~blocked].tolist()
        return found

    def _end_of_group(self, end: int) -> int:
        """Return where the blocks end that are stored with the one before ``end``."""
        if not self.task.group:
            return end
        last = self._ends[self._phase]
        rest = self._groups[self._order[end - 1 : last]]
        return end - 1 + int(np.searchsorted(rest, rest[0], side="right"))

    def succeeded(self, count: int) -> None:
        """Note that blocks are done."""
        self._out -= count
        self.done += count

    def attempt_failed(self, number: int, worker: int) -> bool:
        """Note a failed attempt; true if the block will be tried again."""
        self._out -= 1
        self._attempts[number] += 1
        self._began[number] = True
        if self._attempts[number] >= self.budget:
            self.failed.add(number)
            self._block_later(number)
            return False
        self._again.append((number, worker))
        return True

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take back blocks that were handed out and whose attempt does not count."""
        numbers = list(numbers)
        self._began[numbers] = True
        self._out -= len(numbers)
        self._again.extendleft((number, -1) for number in reversed(numbers))

    def index_of(self, number: int) -> Index:
        """Return the index in the task's grid of the block at a position in the job's box."""
        place = np.unravel_index(number, self.members.shape)
        return tuple(int(k) + b for k, b in zip(place, self.members.begin, strict=True))

    def _advance(self) -> None:
        while (
            self._next >= self._ends[self._phase]
            and self._phase + 1 < len(self._ends)
            and not self._again
            and not self._out
        ):
            self._phase += 1

    def _batch(self, numbers: list[int]) -> Batch:
        batch = np.empty(len(numbers), batch_dtype(self.members.ndim))
        batch["number"] = numbers
        place = np.unravel_index(batch["number"], self.members.shape)
        batch["index"] = np.stack(place, axis=-1) + np.asarray(self.members.begin, np.int64)
        batch["attempt"] = self._attempts[batch["number"]] + 1
        batch["ask"] = ~self.judgement.outdated.ravel()[batch["number"]]
        batch["again"] = self._began[batch["number"]]
        batch["seen"] = self.judgement.seen.ravel()[batch["number"]]
        batch["fingerprint"] = self.judgement.fingerprint.ravel()[batch["number"]]
        return batch

    def _block_later(self, number: int) -> None:
        """Mark the blocks of this job that conflict with a lost one and come after it."""
        index = self.index_of(number)
        box = self.task.block_phases.conflicting(index).intersect(self.members)
        where = box.slices_in(self.members)
        self._blocked[where] |= self._phases[where] > self._phases.ravel()[number]
