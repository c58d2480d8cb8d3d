"""A worker process: takes batches of blocks from its supervisor and records every event itself.

The worker appends to the ledger, so no message stands between a finished block and its record,
and when it dies its records tell which block was running. A number in shared memory says since
when, so that the supervisor can enforce the timeout.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from snakemake_blocks.errors import LedgerError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.plan.paths import rows_beside
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.state.failures import append_failure, failure_of
from snakemake_blocks.state.ledger import Event, Ledger, Measurement
from snakemake_blocks.state.row_files import Rows, append_rows, as_batch, entry_dtype
from snakemake_blocks.system.locks import Lock
from snakemake_blocks.system.processes import MARK
from snakemake_blocks.system.streams import flush, print_to
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.work import client
from snakemake_blocks.work.block_queue import Item, batch_dtype, items_of
from snakemake_blocks.work.block_work import Meter, Work
from snakemake_blocks.work.process_state import Surroundings
from snakemake_blocks.work.rows import number_of_rows

__all__ = [
    "LEDGER_FAILED",
    "SETUP_FAILED",
    "Pulse",
    "Report",
    "WorkerContext",
    "work_blocks",
]

# Exit status of a worker that cannot append to the ledger, or whose job was taken over.
LEDGER_FAILED = 74
# Exit status of a worker whose set-up raised.
SETUP_FAILED = 75
ORDER = b"order"
"""How a message begins that is no batch of blocks, whose first number is small."""

_LOCK_CHECK_SECONDS = 1.0
# After so many failed blocks in a row the rest of a batch goes back.
_MANY_FAILURES = 3
# A failure so soon after SIGTERM is the signal's: schedulers send it to every process of a job.
_SIGNAL_SECONDS = 5.0


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
    """What a worker says of its batch: at the end, or at once when an attempt ended otherwise.

    Parameters
    ----------
    done : int
        Blocks finished since the last report.
    failed, released : int or None
        Position in the batch of an attempt that failed, or that was taken back.
    cause : str
        Of the failure, also of a set-up.
    batch_ended : bool
        Whether the worker waits for the next batch.
    begun : int
        Blocks of the batch that were begun.
    """

    done: int = 0
    failed: int | None = None
    released: int | None = None
    cause: str = ""
    batch_ended: bool = False
    begun: int = 0


@dataclass(slots=True)
class WorkerContext:
    """All that a worker gets from its supervisor: by fork, and what differs per job by orders."""

    task: PlannedTask
    work: Work
    ledger: Ledger
    lock: Lock
    pulse: Pulse
    slots: Path
    failures: Path
    log: str

    def to_order(self, output: str) -> bytes:
        """Return the message that lets a worker of an earlier job go on with this one.

        Parameters
        ----------
        output : str
            File that the job prints to.
        """
        facts = (self.ledger.path, self.lock.path, self.lock.holder, self.failures, self.log)
        return ORDER + pickle.dumps((*facts, output))

    def follow(self, order: bytes) -> None:
        """Go on with another job of the same task, in the worker."""
        ledger, lock, holder, self.failures, self.log, output = pickle.loads(order[len(ORDER) :])
        self.ledger.close()
        self.ledger = Ledger(ledger, self.ledger.first, self.ledger.source)
        self.lock = Lock(lock, holder, self.lock.lease)
        self.mark()
        print_to(Path(output))

    def mark(self) -> None:
        """Let what this process starts tell which job it belongs to."""
        os.environ[MARK] = f"{self.lock.holder.token}.{os.getpid()}"


def work_blocks(context: WorkerContext, inbox: Connection) -> NoReturn:
    """Run a worker until its supervisor closes the connection, in a process of its own.

    Parameters
    ----------
    context : WorkerContext
        The job.
    inbox : Connection
        To and from the supervisor, which forked this process.
    """
    signals, supervisor = _Signals(), os.getppid()
    signals.take()
    context.mark()
    try:
        context.work.set_up()
    except BaseException as error:
        _leave_for_setup(context, inbox, error)
    feed = _WorkerFeed(context, inbox, signals, supervisor)
    context.work.guard = feed.confirm
    context.work.hold()
    status = 0
    try:
        if context.task.operation.call is Call.WORKER:
            _run_worker_function(context, feed)
        else:
            for block in feed:
                _process(context, feed, block)
        context.work.tear_down()
    except BaseException as error:
        if not feed.asked:
            _leave_for_setup(context, inbox, error)
        traceback.print_exception(error)
        status = 1
    _leave(status)


def _leave(status: int) -> NoReturn:
    flush()
    os._exit(status)


def _leave_for_setup(context: WorkerContext, inbox: Connection, error: BaseException) -> None:
    """End, and say why the set-up failed."""
    failure = failure_of(error, (), 0, context.log)
    sys.stderr.write(f"set-up of task {context.task.name} failed:\n{failure.trace}\n")
    append_failure(context.failures, failure)
    inbox.send(Report(cause=f"{failure.cause}: {failure.message}"))
    _leave(SETUP_FAILED)


class _Signals:
    """A worker leaves signals to its supervisor."""

    def __init__(self) -> None:
        self.terminated = -_SIGNAL_SECONDS

    def take(self) -> None:
        # Handlers, not SIG_IGN: what the user's function starts does not inherit them.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._note)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)

    def _note(self, *_: object) -> None:
        self.terminated = time.monotonic()

    @property
    def are_recent(self) -> bool:
        """Whether a signal came so recently that it may have hit what a block started."""
        return time.monotonic() - self.terminated < _SIGNAL_SECONDS


def _process(context: WorkerContext, feed: _WorkerFeed, block: Block) -> None:
    try:
        context.work.process(block)
    except BaseException as error:
        feed.finish(error)
    else:
        feed.finish(None)


def _run_worker_function(context: WorkerContext, feed: _WorkerFeed) -> None:
    """Serve a function that asks for blocks itself, in this process or in one it starts."""
    with client.serving(feed, context.work.context):
        context.work.run_worker_function()
    if feed.is_open:
        feed.finish(RuntimeError("the worker function returned with a block in its hands"))
    if not feed.asked:
        raise RuntimeError(
            f"{context.task.operation.function.name} returned without asking for a block; a "
            "function without arguments has to loop over Client().acquire_block()"
        )


def _stamps() -> Iterator[int]:
    """Yield random stamps, none of them zero; many are drawn at once, for each call costs."""
    while True:
        yield from filter(None, struct.unpack("<128Q", os.urandom(1024)))


class _Held(NamedTuple):
    """A block that is computed, and waits for being stored and recorded."""

    item: Item
    block: Block
    cost: Measurement
    rows: Mapping[str, Rows]


class _WorkerFeed:
    """Blocks for one worker, one at a time, each recorded before it begins and after it ends.

    Where nothing can be recorded any more the process ends on the spot: no function of the user
    could do anything about it.
    """

    def __init__(
        self, context: WorkerContext, inbox: Connection, signals: _Signals, supervisor: int
    ) -> None:
        self.asked = False
        self._context = context
        self._pulse = context.pulse
        self._inbox = inbox
        self._signals = signals
        self._processes = supervisor, os.getpid()
        self._meter = Meter()
        self._batch: list[Item] = []
        self._position = 0
        self._done = 0
        self._current: tuple[Item, Block] | None = None
        self._check_at = 0.0
        self._ended = False
        # Blocks whose results wait to be stored with those of others, and what they cost.
        self._held: list[_Held] = []
        self._failures_in_a_row = 0
        self._stamps = _stamps()
        self._surroundings = Surroundings()
        self._surroundings.note()

    def __iter__(self) -> Iterator[Block]:
        while (block := self._next()) is not None:
            yield block

    @property
    def is_open(self) -> bool:
        """Whether a block is in the worker's hands."""
        return self._current is not None

    def next(self) -> Block | None:
        """Return the next block; None when there is none left."""
        self._refuse_others()
        return self._next()

    def _next(self) -> Block | None:
        self.asked = True
        if self._current is not None:
            self.finish(RuntimeError("another block was asked for with this one not finished"))
        while not self._ended:
            if self._position >= len(self._batch) or self._pulse.draining:
                self._next_batch()
                continue
            item = self._batch[self._position]
            block = self._begin(item)
            try:
                skip = item.ask and self._context.work.is_done(block)
                if not skip:
                    self._context.work.clear(block, again=item.again)
            except BaseException as error:
                self.finish(error)
                continue
            if not skip:
                return block
            self._surroundings.restore()
            self._record(Event.SKIPPED, item)
            self._end_item(done=True)
        return None

    def finish(self, error: BaseException | None) -> None:
        """Record how the block in hand ended; nothing to do if there is none."""
        self._refuse_others()
        if self._current is None:
            return
        self._surroundings.restore()
        item, block = self._current
        if error is None:
            self._failures_in_a_row = 0
            if self._context.work.holds:
                rows, self._context.work.rows = self._context.work.rows, {}
                self._held.append(_Held(item, block, self._meter.end(), rows))
                self._end_item(done=False)
                return
            self._record(Event.DONE, item)
            self._end_item(done=True)
            return
        block.status = block.status.FAILED
        failure = failure_of(error, item.index, item.attempt, self._context.log)
        sys.stderr.write(f"block {item.index}, attempt {item.attempt}:\n{failure.trace}\n")
        position = self._position
        if self._pulse.draining or self._signals.are_recent:
            self._record(Event.RELEASED, item)
            self._end_item(done=False)
            self._send(Report(self._take_done(), released=position, begun=self._position))
            return
        append_failure(self._context.failures, failure)
        self._record(Event.FAILED, item)
        self._end_item(done=False)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _MANY_FAILURES:
            del self._batch[self._position :]  # the supervisor shall see whether to go on
        self._send(
            Report(self._take_done(), failed=position, cause=failure.cause, begun=self._position)
        )

    def _store_held(self) -> None:
        """Store the results that wait, and record their blocks; if that fails, none is done."""
        held, self._held = self._held, []
        if not held:
            return
        work = self._context.work
        stamps = list(itertools.islice(self._stamps, len(held)))
        try:
            work.store_held()
            absent = [work.settle(one.block) for one in held]
            self._store_rows(held, stamps)
        except BaseException as error:
            for one in held:
                self._fail_held(one, error)
            return
        for one, gone, stamp in zip(held, absent, stamps, strict=True):
            self._append_result(Event.DONE, one.item, one.cost, gone, stamp)
        self._done += len(held)

    def _store_rows(self, held: Sequence[_Held], stamps: Sequence[int]) -> None:
        """Store the rows of blocks, with the stamps that their records will have."""
        ledger = self._context.ledger
        for name, table in self._context.task.operation.tables.items():
            parts = [one.rows[name] for one in held]
            entries = np.zeros(len(held), entry_dtype(ledger.ndim))
            entries["index"] = [one.item.index for one in held]
            entries["index"] += np.asarray(ledger.first, np.int32)
            entries["rows"] = list(map(number_of_rows, parts))
            entries["stamp"] = stamps
            append_rows(rows_beside(ledger.path, name), entries, as_batch(table, parts))

    def _fail_held(self, one: _Held, error: BaseException) -> None:
        item, block, cost = one.item, one.block, one.cost
        block.status = block.status.FAILED
        failure = failure_of(error, item.index, item.attempt, self._context.log)
        sys.stderr.write(f"block {item.index}, attempt {item.attempt}:\n{failure.trace}\n")
        append_failure(self._context.failures, failure)
        self._append(Event.FAILED, item, time.monotonic(), cost=cost)
        position = next(n for n, other in enumerate(self._batch) if other is item)
        self._send(
            Report(self._take_done(), failed=position, cause=failure.cause, begun=self._position)
        )

    def _refuse_others(self) -> None:
        """End a process that a function forked and that came back out of it, before it records."""
        if os.getpid() != self._processes[1]:
            os.write(2, b"a process that the function forked returned from it, and is ended\n")
            os._exit(1)

    def accept(self, block: Block) -> None:
        """Raise if a block that a client hands back is not done."""
        self._context.work.accept(block)

    def _begin(self, item: Item) -> Block:
        if self._context.task.operation.call is Call.WORKER:
            self._surroundings.note()  # all between blocks is the function's own affair
        now = time.monotonic()
        block = self._context.task.block(item.index)
        self._current = item, block
        self._append(Event.STARTED, item, now, cost=self._meter.begin())
        self._pulse.begin(now)
        return block

    def _record(self, event: Event, item: Item) -> None:
        cost = self._meter.end()
        if event is Event.DONE or event is Event.SKIPPED:
            self._append_result(event, item, cost, self._context.work.absent, next(self._stamps))
        else:
            self._append(event, item, time.monotonic(), stamp=0, cost=cost)

    def _append_result(
        self, event: Event, item: Item, cost: Measurement, absent: int, stamp: int
    ) -> None:
        """Append that a block is done, and before that which chunks it left out."""
        if absent:
            self._append(Event.EMPTY, item, time.monotonic(), stamp=absent)
        self._append(event, item, time.monotonic(), stamp=stamp, cost=cost)

    def _append(self, event: Event, item: Item, now: float, **more: object) -> None:
        """Append a record, if the job is still ours."""
        context = self._context
        if now >= self._check_at or not context.lock.lease.is_fresh:
            self.confirm()
        try:
            context.ledger.append(
                event,
                item.index,
                fingerprint=item.fingerprint,
                attempt=item.attempt,
                seen=item.seen,
                **more,  # type: ignore[arg-type]
            )
        except OSError as error:
            self._give_up(error)

    def confirm(self) -> None:
        """End the process if the job is no longer ours, or this process not its worker."""
        self._check_at = time.monotonic() + _LOCK_CHECK_SECONDS
        try:
            self._check()
        except (OSError, LedgerError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> NoReturn:
        index = self._current and self._current[0].index
        sys.stderr.write(f"block {index}: cannot be stored or recorded: {error}\n")
        _leave(LEDGER_FAILED)

    def _check(self) -> None:
        self._context.lock.confirm()
        if (os.getppid(), os.getpid()) != self._processes:
            raise LedgerError("the supervisor of this process is gone")

    def _end_item(self, *, done: bool) -> None:
        self._current = None
        self._position += 1
        self._done += done
        self._pulse.begin(0.0)

    def _next_batch(self) -> None:
        """Report the batch and receive the next one, if there is one."""
        self._store_held()
        self._send(Report(self._take_done(), batch_ended=True, begun=self._position))
        while (data := self._receive()).startswith(ORDER):
            self._context.follow(data)
            self._surroundings.note()
            self._check_at = 0.0
        if data:
            self._batch = items_of(np.frombuffer(data, batch_dtype(self._context.ledger.ndim)))
            self._position = 0
        else:
            self._ended = True

    def _receive(self) -> bytes:
        """Return the next message: blocks, an order, or nothing at the end."""
        try:
            return self._inbox.recv_bytes()
        except (EOFError, OSError):
            _leave(1)  # the supervisor is gone

    def _take_done(self) -> int:
        done, self._done = self._done, 0
        return done

    def _send(self, report: Report) -> None:
        try:
            self._inbox.send(report)
        except OSError:
            _leave(1)  # the supervisor is gone
