"""All blocks of a plan in this process, one after the other: for debugging.

No Snakemake, no worker, no pickle and no record: the first exception goes up as it was raised,
so that a debugger stops in the user's function. A block that only says that it failed is tried
again, and counted, as everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.block import Block, BlockStatus
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.failures import BlockFailedError, Failure, failure_of
from snakemake_blocks.state.status import RunStatus, TaskStatus, mark_orphans
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.work import client
from snakemake_blocks.work.block_work import Work
from snakemake_blocks.work.table_input import RowsInMemory, TableInput

__all__ = ["run_serially"]


def run_serially(plan: Plan, folder: Path) -> RunStatus:
    """Run every block, upstream tasks first and phase by phase; return what came of them.

    Parameters
    ----------
    plan : Plan
        What to run; outputs that it declares have to be there.
    folder : Path
        The pipeline's folder.

    Raises
    ------
    Exception
        The first one that a function raises.
    """
    states = {name: _states_of(task) for name, task in plan.tasks.items()}
    found, kept = {}, RowsInMemory()
    for name, task in plan.tasks.items():
        mark_orphans(plan, states)
        work = Work(task, folder, folder, tables=TableInput(plan, task, kept))
        feed = _SerialFeed(work, _in_order(plan, task), states[name], plan, states, kept)
        _run_task(work, feed)
        found[name] = feed
    return RunStatus({name: feed.status() for name, feed in found.items()})


def _states_of(task: PlannedTask) -> NDArray[np.uint8]:
    states = np.full(task.grid.shape, State.PENDING, np.uint8)
    states[~task.jobs.presence(task.grid.indices)] = State.MASKED
    return states


def _run_task(work: Work, feed: _SerialFeed) -> None:
    with work:
        if work.task.operation.call is Call.WORKER:
            with client.serving(feed, work.context):
                work.run_worker_function()
        else:
            while (block := feed.next()) is not None:
                try:
                    work.process(block)
                except BlockFailedError as error:
                    feed.finish(error)
                else:
                    feed.finish(None)
        feed.end()


def _in_order(plan: Plan, task: PlannedTask) -> Iterator[Block]:
    """Yield the blocks in an order in which none comes before one that it waits for."""
    for job in plan.jobs(task.name):
        yield from sorted(job.blocks(), key=lambda block: task.block_phases.of(block.index))


@dataclass(slots=True)
class _SerialFeed:
    """Hands out blocks, also to a ``Client``; after an exception there are none left.

    Parameters
    ----------
    work : Work
        The task's functions.
    blocks : iterator of Block
        In the order to run.
    states : ndarray of uint8
        Of the task's blocks, as :class:`State`.
    plan, everything
        To find out what a failed block makes impossible.
    rows : RowsInMemory
        Takes the rows that blocks make.
    """

    work: Work
    blocks: Iterator[Block]
    states: NDArray[np.uint8]
    plan: Plan
    everything: dict[str, NDArray[np.uint8]]
    rows: RowsInMemory
    skipped: int = field(default=0, init=False)
    failures: list[Failure] = field(default_factory=list, init=False)
    _again: Index | None = field(default=None, init=False)
    _attempt: int = field(default=1, init=False)
    _asked: bool = field(default=False, init=False)
    _open: Index | None = field(default=None, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def next(self) -> Block | None:
        """Return the next block that is not done, None when there is none left."""
        self._asked = True
        while self._error is None and (block := self._candidate()) is not None:
            if not self.work.is_done(block):
                self.work.clear(block, again=self._attempt > 1)
                block.status = BlockStatus.PROCESSING
                self._open = block.index
                return block
            self.skipped += 1
            self.states[block.index] = State.DONE
        return None

    def _candidate(self) -> Block | None:
        """Return the block that has to be tried again, else the next one that is no orphan."""
        if self._again is not None:
            index, self._again = self._again, None
            self._attempt += 1
            return self.work.task.block(index)
        self._attempt = 1
        pending = State.PENDING
        return next((b for b in self.blocks if self.states[b.index] == pending), None)

    def finish(self, error: BaseException | None) -> None:
        """Take in how the block in hand ended."""
        index, self._open = self._open, None
        if index is None:
            return
        if error is None:
            self.rows.keep(self.work.task, index, self.work.rows)
            self.states[index] = State.DONE
        elif not isinstance(error, BlockFailedError):
            self._error = self._error or error
        elif self._attempt <= self.work.task.budget.retries:
            self._again = index
        else:
            self.failures.append(failure_of(error, index, self._attempt, ""))
            self.states[index] = State.FAILED
            mark_orphans(self.plan, self.everything)

    def accept(self, block: Block) -> None:
        """Raise if the block is not done."""
        self.work.accept(block)

    def end(self) -> None:
        """Raise what a client said, and refuse a worker function that left blocks behind."""
        if self._error is not None:
            raise self._error
        if (left := self._candidate()) is not None:
            how = "ended before the last block" if self._asked else "never asked for a block"
            raise RuntimeError(
                f"{self.work.task.operation.function.name} {how}, {left} is left; "
                "a function without arguments has to loop over Client().acquire_block()"
            )

    def status(self) -> TaskStatus:
        """Return what came of the task."""
        orphans = np.argwhere(self.states == State.ORPHANED)
        return TaskStatus(
            self.work.task.name,
            {state: int((self.states == state).sum()) for state in State},
            skipped=self.skipped,
            failures=tuple(self.failures),
            orphans=tuple(tuple(map(int, index)) for index in orphans),
        )
