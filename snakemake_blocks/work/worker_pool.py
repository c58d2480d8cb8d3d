"""Worker processes as their supervisor sees them, and where they wait between two jobs.

A worker that has been set up for a task can do another job of that task: it is told where to
record and whose lock that is. So a model is loaded once per worker and not once per job, and a
job of one small block costs no fork.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import NoReturn

import numpy as np

from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.system.child import Child
from snakemake_blocks.system.locks import Lease
from snakemake_blocks.work.block_queue import Batch, batch_dtype
from snakemake_blocks.work.fence import Fence
from snakemake_blocks.work.script_pipes import remove_pipes
from snakemake_blocks.work.worker import Pulse, WorkerContext, work_blocks
from snakemake_blocks.work.worker_numbers import Numbers, Slot

__all__ = ["CLOSING_SECONDS", "WorkerPool", "WorkerProcess"]

CLOSING_SECONDS = 20.0
"""For closing what was set up, once all blocks are done or a worker is replaced."""


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One worker process, as the supervisor sees it."""

    number: int
    child: Child
    # What it was marked with when it was forked, as are the pipes to its scripts.
    mark: str
    pulse: Pulse
    batch: Batch
    fence: Fence
    slot: Slot
    ledger_end: int = 0
    size: int = 1
    since: float = 0.0
    waiting: bool = False
    reported: int = 0
    settled: set[int] = field(default_factory=set)
    failures_in_a_row: int = 0
    served: bool = False
    closed: bool = False
    retiring: float = 0.0
    cause: str = ""
    # It was ended because its job's lock had not been renewed in time.
    was_fenced: bool = False
    # Readable when the process has ended, where the system has such a thing.
    ended: int | None = None

    def __post_init__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self.ended = os.pidfd_open(self.pid)  # type: ignore[attr-defined, unused-ignore]

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.child.pid

    @property
    def channel(self) -> Connection:
        """To the process."""
        return self.child.channel

    @property
    def can_go_on(self) -> bool:
        """Whether it waits for blocks, or will once it is set up."""
        idle = self.waiting or not self.served
        return idle and not (self.closed or self.retiring or self.child.has_ended)

    def dismiss(self) -> None:
        """Tell a waiting worker that there is nothing more."""
        self.waiting = False
        self.retiring = time.monotonic()
        self.tell(b"")

    def tell(self, message: bytes) -> None:
        """Send a message; that it could not be sent shows when the worker's end is noticed."""
        with contextlib.suppress(OSError):
            self.channel.send_bytes(message)

    def end(self) -> int:
        """End the process and its group; return its exit status, negative for a signal."""
        self.was_fenced = self.fence.remove(self.pid)
        status = self.child.kill()
        self.slot.release()
        if self.ended is not None:
            os.close(self.ended)
        if status:
            remove_pipes(self.mark)
        return status


@dataclass(slots=True)
class WorkerPool:
    """Where the workers of a job come from, and where they wait for the next job.

    Parameters
    ----------
    lasting : bool
        Whether there will be a next job in this process.
    output : str
        File that the present job prints to; for workers that were forked earlier.
    private : tuple of Connection
        Of this process; workers must not keep them open.
    """

    lasting: bool = False
    output: str = ""
    private: tuple[Connection, ...] = ()
    lease: Lease = field(default_factory=Lease, init=False)
    fence: Fence = field(init=False)
    _idle: list[WorkerProcess] = field(default_factory=list, init=False)
    _task: PlannedTask | None = field(default=None, init=False)
    _numbers: Numbers | None = field(default=None, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.fence = Fence(self.lease)

    def get(self, context: WorkerContext, others: list[WorkerProcess]) -> WorkerProcess | None:
        """Return a worker for a job: one that waited, else a new one.

        None while the task has as many as it may have; who needs one asks again soon.

        Parameters
        ----------
        context : WorkerContext
            The job.
        others : list of WorkerProcess
            Who works on it already.
        """
        if self._task is not context.task:
            self._let_go()
        if self._numbers is None or self._numbers.folder != context.slots:
            self._numbers = Numbers(context.slots, _most_workers(context.task))
        while self._idle:
            worker = self._idle.pop()
            if worker.can_go_on:
                worker.tell(context.to_order(self.output))
                return worker
            worker.end()
        slot = self._numbers.take({m.slot.number for m in others})
        return self._start(context, others, slot) if slot is not None else None

    def keep(self, workers: list[WorkerProcess], task: PlannedTask) -> list[WorkerProcess]:
        """Let workers wait for the next job of a task; return those that cannot."""
        if self._numbers is not None:
            self._numbers.stop_asking()
        if not self.lasting:
            return workers
        self._task = task
        self._idle += [m for m in workers if m.can_go_on]
        return [m for m in workers if m not in self._idle]

    def make_room(self) -> None:
        """Let those who wait go if another process needs their numbers."""
        if self._idle and self._numbers is not None and self._numbers.are_wanted:
            self._let_go()

    def close(self) -> None:
        """End those who wait, which close what they have set up, and what watches them."""
        self._let_go()
        if self._numbers is not None:
            self._numbers.stop_asking()
        self.fence.close()

    def _let_go(self) -> None:
        for worker in self._idle:
            worker.dismiss()
        give_up = time.monotonic() + CLOSING_SECONDS
        for worker in self._idle:
            while not worker.child.has_ended and time.monotonic() < give_up:
                wait([worker.ended] if worker.ended is not None else [], 0.1)
            worker.end()
        self._idle.clear()

    def _start(
        self, context: WorkerContext, others: list[WorkerProcess], slot: Slot
    ) -> WorkerProcess:
        context = replace(context, pulse=Pulse())

        def work(inbox: Connection) -> NoReturn:
            context.work.worker_id = slot.number
            for held in (slot, *(other.slot for other in others)):
                held.release()
            work_blocks(context, inbox)

        private = (*(other.child.channel for other in others), *self.private)
        child = Child.fork(work, private=private, leads=True)
        self._count += 1
        self.fence.add(child.pid)
        mark = f"{context.lock.holder.token}.{child.pid}"
        batch = np.empty(0, batch_dtype(context.ledger.ndim))
        return WorkerProcess(self._count, child, mark, context.pulse, batch, self.fence, slot)


def _most_workers(task: PlannedTask) -> int | None:
    """Return how many workers a task may have; None if one job has more than that already."""
    most = task.budget.max_workers
    return most if most is not None and most >= task.budget.workers else None
