"""A worker process: takes batches of blocks from its supervisor and records every event itself.

The worker appends to the ledger, so no message stands between a finished block and its record,
and when it dies its records tell which block was running. A number in shared memory says since
when, so that the supervisor can enforce the timeout.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from snakemake_blocks import client
from snakemake_blocks.block import Block
from snakemake_blocks.blockwork import Meter, Work
from snakemake_blocks.failures import append_failure, failure_of
from snakemake_blocks.ledger import Event, Ledger
from snakemake_blocks.locks import Lock
from snakemake_blocks.plan import PlannedTask
from snakemake_blocks.queueing import Item
from snakemake_blocks.task import Call

__all__ = ["SETUP_FAILED", "Pulse", "Report", "WorkerContext", "work_blocks"]

# Exit status of a worker whose set-up raised.
SETUP_FAILED = 75
_LOCK_CHECK_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Pulse:
    """Shared memory between a worker and its supervisor.

    ``since`` is the monotonic time at which the running block began (0 while there is none),
    ``draining`` tells the worker to take no further block.
    """

    _memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 16), repr=False)

    def begin(self, since: float) -> None:
        """Worker: say since when a block is running, 0 for none."""
        struct.pack_into("<d", self._memory, 0, since)

    @property
    def since(self) -> float:
        """Supervisor: since when a block is running, 0 for none."""
        since: float = struct.unpack_from("<d", self._memory, 0)[0]
        return since

    def drain(self) -> None:
        """Supervisor: ask the worker to stop after the running block."""
        self._memory[8] = 1

    @property
    def draining(self) -> bool:
        """Worker: whether it was asked to stop."""
        return self._memory[8] == 1


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker says of its batch: at the end, or at once when an attempt failed.

    Parameters
    ----------
    done : int
        Blocks finished since the last report.
    failed : int or None
        Position in the batch of a failed attempt.
    cause : str
        Of the failure.
    batch_ended : bool
        Whether the worker waits for the next batch.
    begun : int
        Blocks of the batch that were begun.
    """

    done: int
    failed: int | None = None
    cause: str = ""
    batch_ended: bool = False
    begun: int = 0


@dataclass(slots=True)
class WorkerContext:
    """All that a worker gets from its supervisor, by fork."""

    task: PlannedTask
    work: Work
    ledger: Ledger
    lock: Lock
    pulse: Pulse
    failures: Path
    log: str


def work_blocks(context: WorkerContext, inbox: Connection) -> None:
    """Run a worker until its supervisor closes the connection. Never returns normally."""
    _detach()
    try:
        context.work.set_up()
    except BaseException as error:
        traceback.print_exception(error)
        append_failure(context.failures, failure_of(error, (), 0, context.log))
        _leave(SETUP_FAILED)
    source = _Source(context, inbox)
    status = 0
    try:
        if context.task.call is Call.WORKER:
            _run_worker_function(context, source)
        else:
            for block in source:
                _process(context, source, block)
        context.work.tear_down()
    except EOFError:
        status = 1  # the supervisor is gone
    except BaseException as error:
        traceback.print_exception(error)
        status = 1
    _leave(status)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _detach() -> None:
    """Lead an own process group, die with the supervisor, leave signals to it."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Handlers, not SIG_IGN: what the user's function starts does not inherit them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def _process(context: WorkerContext, source: _Source, block: Block) -> None:
    try:
        context.work.process(block)
    except (Exception, SystemExit) as error:
        source.finish(error)
    else:
        source.finish(None)


def _run_worker_function(context: WorkerContext, source: _Source) -> None:
    """Serve a function that asks for blocks itself, in this process or in one it starts."""
    with client.serving(source, context.task.name):
        context.work.run_worker_function()
    if source.is_open:
        source.finish(RuntimeError("the worker function returned with a block in its hands"))
    if not source.asked:
        raise RuntimeError(
            f"{context.task.function.name} returned without asking for a block; a function "
            "without arguments has to loop over Client().acquire_block()"
        )


class _Source:
    """Blocks for one worker, one at a time, each recorded before it begins and after it ends."""

    def __init__(self, context: WorkerContext, inbox: Connection) -> None:
        self.asked = False
        self._context = context
        self._inbox = inbox
        self._meter = Meter()
        self._batch: list[Item] = []
        self._position = 0
        self._done = 0
        self._current: tuple[Item, Block] | None = None
        self._checked = 0.0
        self._ended = False

    def __iter__(self) -> Iterator[Block]:
        while (block := self.next()) is not None:
            yield block

    @property
    def is_open(self) -> bool:
        """Whether a block is in the worker's hands."""
        return self._current is not None

    def next(self) -> Block | None:
        """Return the next block; None when there is none left."""
        self.asked = True
        while not self._ended:
            if self._position >= len(self._batch) or self._context.pulse.draining:
                if not self._next_batch():
                    return None
                continue
            item = self._batch[self._position]
            block = self._begin(item)
            try:
                skip = self._context.work.is_done(block)
            except (Exception, SystemExit) as error:
                self.finish(error)
                continue
            if not skip:
                return block
            self._record(Event.SKIPPED, item)
            self._end_item(done=True)
        return None

    def finish(self, error: BaseException | None) -> None:
        """Record how the block in hand ended."""
        assert self._current is not None, "no block is in hand"
        item, block = self._current
        if error is None:
            self._record(Event.DONE, item)
            self._end_item(done=True)
            return
        block.status = block.status.FAILED
        failure = failure_of(error, item.index, item.attempt, self._context.log)
        sys.stderr.write(f"block {item.index}, attempt {item.attempt}:\n{failure.trace}\n")
        append_failure(self._context.failures, failure)
        self._record(Event.FAILED, item)
        position = self._position
        self._end_item(done=False)
        self._report(Report(self._take_done(), position, failure.cause, begun=self._position))

    def accept(self, block: Block) -> None:
        """Raise if a block that a client hands back is not done."""
        self._context.work.accept(block)

    def _begin(self, item: Item) -> Block:
        self._check_lock()
        block = self._context.task.block(item.index)
        self._current = item, block
        self._context.ledger.append(
            Event.STARTED, item.index, fingerprint=item.fingerprint, attempt=item.attempt
        )
        self._context.pulse.begin(time.monotonic())
        self._meter.begin()
        return block

    def _record(self, event: Event, item: Item) -> None:
        self._check_lock()
        self._context.ledger.append(
            event,
            item.index,
            fingerprint=item.fingerprint,
            attempt=item.attempt,
            stamp=0 if event is Event.FAILED else _new_stamp(),
            seen=item.seen,
            cost=self._meter.end(),
        )

    def _end_item(self, *, done: bool) -> None:
        self._current = None
        self._position += 1
        self._done += done
        self._context.pulse.begin(0.0)

    def _check_lock(self) -> None:
        """Once a second, make sure that the job is still ours before appending."""
        now = time.monotonic()
        if now - self._checked > _LOCK_CHECK_SECONDS:
            self._context.lock.verify()
            self._checked = now

    def _next_batch(self) -> bool:
        """Report the batch and receive the next one; false when there is none."""
        self._report(Report(self._take_done(), batch_ended=True, begun=self._position))
        batch: list[Item] | None = self._inbox.recv()
        if batch is None:
            self._ended = True
            return False
        self._batch, self._position = batch, 0
        return True

    def _take_done(self) -> int:
        done, self._done = self._done, 0
        return done

    def _report(self, report: Report) -> None:
        self._inbox.send(report)


def _new_stamp() -> int:
    """Return a random stamp, never 0."""
    return int.from_bytes(os.urandom(8), "little") or 1
