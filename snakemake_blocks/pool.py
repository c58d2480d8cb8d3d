"""The supervisor of a job: forks workers, hands out blocks, survives what happens to them.

Every attempt runs in a process of its own pool, also with one worker: a segmentation fault, an
OOM kill or a timeout inside C code then costs one attempt and not the job. The price is one
fork per worker and one message per batch; batches grow until they last about 20 ms, so tiny
blocks do not pay for it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess

from snakemake_blocks.box import Index
from snakemake_blocks.failures import Failure, append_failure
from snakemake_blocks.ledger import Event, read_records
from snakemake_blocks.queueing import BlockQueue, Item
from snakemake_blocks.worker import SETUP_FAILED, Pulse, Report, WorkerContext, work_blocks

__all__ = ["Outcome", "Pool"]

_BATCH_SECONDS = 0.02
_LARGEST_BATCH = 1024
_HEARTBEAT_SECONDS = 5.0
_SYNC_SECONDS = 1.0
_REPLACE_AFTER_FAILURES = 3
_CANARY_BLOCKS = 16
_SETUP_ATTEMPTS = 2

_fork = multiprocessing.get_context("fork")


@dataclass(slots=True)
class Outcome:
    """How a pool ended.

    Parameters
    ----------
    done : int
        Blocks finished in this run of the job.
    stopped : str
        Why it ended early; empty if nothing was left to do.
    """

    done: int = 0
    stopped: str = ""


@dataclass(slots=True, eq=False)
class _Member:
    """One worker process, as the supervisor sees it."""

    number: int
    process: ForkProcess
    outbox: Connection
    pulse: Pulse
    batch: list[Item] = field(default_factory=list)
    size: int = 1
    since: float = 0.0
    waiting: bool = False
    reported: int = 0
    failed: set[int] = field(default_factory=set)
    failures_in_a_row: int = 0
    served: bool = False
    closed: bool = False


@dataclass(slots=True)
class Pool:
    """Runs the blocks of a queue in ``workers`` processes.

    Parameters
    ----------
    context : WorkerContext
        What workers get by fork; each gets a pulse of its own.
    queue : BlockQueue
        The blocks.
    workers : int
        Processes.
    stop : callable
        Asked often; returns why no further block may start, or an empty string.
    grace : callable
        Seconds that running blocks may go on after that.
    """

    context: WorkerContext
    queue: BlockQueue
    workers: int
    stop: Callable[[], str]
    grace: Callable[[], float]
    _members: list[_Member] = field(default_factory=list, init=False)
    _numbers: int = field(default=0, init=False)
    _outcome: Outcome = field(default_factory=Outcome, init=False)
    _causes: set[str] = field(default_factory=set, init=False)
    _canaries: set[int] = field(default_factory=set, init=False)
    _setup_failures: int = field(default=0, init=False)
    _renewed: float = field(default=0.0, init=False)
    _synced: float = field(default=0.0, init=False)

    def run(self) -> Outcome:
        """Run until nothing is left to do or a reason to stop appears."""
        try:
            while not self.queue.exhausted and not self._outcome.stopped:
                self._fill()
                self._feed()
                self._listen()
                self._tend()
            self._drain()
        finally:
            self._kill_all()
        self._outcome.done = self.queue.done
        return self._outcome

    def _fill(self) -> None:
        """Have as many workers as there is work for."""
        while len(self._members) < min(self.workers, max(1, len(self.queue))):
            self._members.append(self._start())

    def _start(self) -> _Member:
        ours, theirs = _fork.Pipe()
        pulse = Pulse()
        mine = self.context
        context = WorkerContext(
            mine.task, mine.work, mine.ledger, mine.lock, pulse, mine.failures, mine.log
        )
        inherited = [m.outbox for m in self._members]
        process = _fork.Process(target=_child, args=(context, theirs, ours, inherited))
        process.start()
        theirs.close()
        self._numbers += 1
        return _Member(self._numbers, process, ours, pulse)

    def _feed(self) -> None:
        """Give every waiting worker its next batch."""
        for member in self._members:
            if not member.waiting or member.closed:
                continue
            alone = len(self._members) == 1
            batch = self.queue.take(member.size, member.number, alone=alone)
            if batch:
                self._send(member, batch)
            elif self.queue.exhausted:
                return

    def _send(self, member: _Member, batch: list[Item]) -> None:
        member.batch, member.waiting, member.reported = batch, False, 0
        member.failed.clear()
        member.since = time.monotonic()
        member.served = True
        try:
            member.outbox.send(batch)
        except BrokenPipeError:
            pass  # it died meanwhile; its process is buried with the batch

    def _listen(self, seconds: float = 0.5) -> None:
        """Take reports, notice deaths."""
        sources: list[object] = [m.outbox for m in self._members if not m.closed]
        sources += [m.process.sentinel for m in self._members]
        ready = wait(sources, timeout=self._patience(seconds))  # type: ignore[arg-type]
        for member in list(self._members):
            if member.outbox in ready:
                self._take_reports(member)
            if member.process.sentinel in ready:
                self._take_reports(member)
                self._bury(member)

    def _patience(self, seconds: float) -> float:
        timeout = self.context.task.timeout
        return min(seconds, timeout / 4) if timeout else seconds

    def _take_reports(self, member: _Member) -> None:
        try:
            while not member.closed and member.outbox.poll():
                self._take(member, member.outbox.recv())
        except (EOFError, ConnectionResetError):
            member.closed = True

    def _take(self, member: _Member, report: Report) -> None:
        self.queue.succeeded(report.done)
        member.reported += report.done
        if report.done:
            member.failures_in_a_row = 0
            self._canaries.clear()
            self._causes.clear()
        if report.failed is not None:
            member.failed.add(report.failed)
            self._note_failure(member, member.batch[report.failed], report.cause)
        if report.batch_ended:
            self.queue.give_back(member.batch[report.begun :])
            self._grow(member)
            member.batch = []
            member.waiting = True
            if member.failures_in_a_row >= _REPLACE_AFTER_FAILURES:
                self._retire(member)

    def _grow(self, member: _Member) -> None:
        """Let batches grow while they are short."""
        if member.batch:
            lasted = time.monotonic() - member.since
            if lasted < _BATCH_SECONDS:
                member.size = min(member.size * 2, _LARGEST_BATCH)
            elif lasted > 4 * _BATCH_SECONDS:
                member.size = max(1, member.size // 2)

    def _note_failure(self, member: _Member, item: Item, cause: str) -> None:
        member.failures_in_a_row += 1
        self.queue.attempt_failed(item, member.number)
        if self.queue.done == 0:
            self._canaries.add(item.number)
            self._causes.add(cause)
            if len(self._canaries) >= _CANARY_BLOCKS and len(self._causes) == 1:
                self._outcome.stopped = (
                    f"the first {len(self._canaries)} blocks all failed alike ({cause}); "
                    "the job stops early"
                )

    def _retire(self, member: _Member) -> None:
        """Let a worker go whose blocks keep failing; a new one takes its place."""
        print(
            f"worker {member.number} (pid {member.process.pid}) failed "
            f"{member.failures_in_a_row} blocks in a row and is replaced",
            flush=True,
        )
        member.failures_in_a_row = 0
        self._dismiss(member)

    def _dismiss(self, member: _Member) -> None:
        """Tell a waiting worker that there is nothing more."""
        member.waiting = False
        try:
            member.outbox.send(None)
        except BrokenPipeError:
            member.closed = True

    def _bury(self, member: _Member) -> None:
        """Settle what a worker that ended had in hand."""
        member.process.join()
        self._members.remove(member)
        member.outbox.close()
        code = member.process.exitcode or 0
        _kill_group(member.process.pid)
        if code == SETUP_FAILED:
            self._setup_failures += 1
            if self._setup_failures >= _SETUP_ATTEMPTS:
                self._outcome.stopped = "the task's set-up failed, see the log"
        elif not member.served and not member.batch and code:
            self._setup_failures += 1
            if self._setup_failures >= _SETUP_ATTEMPTS:
                self._outcome.stopped = f"workers die while being set up ({_death(code)})"
        self._settle(member, _death(code))

    def _settle(self, member: _Member, how: str) -> None:
        """Account for the batch of a dead worker, as the ledger tells it."""
        if not member.batch:
            return
        events = self._events_of(member)
        done, never_begun = 0, []
        for position, item in enumerate(member.batch):
            event = events.get(item.index)
            if event in (Event.DONE, Event.SKIPPED):
                done += 1
            elif event is Event.STARTED:
                self._blame(member, item, how)
            elif event is None:
                never_begun.append(item)
            elif position not in member.failed:
                self._note_failure(member, item, how)
        self.queue.succeeded(done - member.reported)
        self.queue.give_back(never_begun)

    def _events_of(self, member: _Member) -> dict[Index, Event]:
        """Return the last event that a worker recorded for each block of its batch."""
        ledger = self.context.ledger
        attempts = {item.index: item.attempt for item in member.batch}
        records = read_records(ledger.path, ledger.ndim)
        found: dict[Index, Event] = {}
        for record in records[records["pid"] == member.process.pid]:
            index = tuple(int(k) for k in record["index"])
            if attempts.get(index) == record["attempt"]:
                found[index] = Event(int(record["event"]))
        return found

    def _blame(self, member: _Member, item: Item, how: str) -> None:
        """Record that an attempt killed its worker."""
        failure = Failure(item.index, item.attempt, f"worker {how}", how, "", self.context.log)
        print(f"block {item.index}, attempt {item.attempt}: worker {how}", flush=True)
        append_failure(self.context.failures, failure)
        self.context.ledger.append(
            Event.FAILED, item.index, fingerprint=item.fingerprint, attempt=item.attempt
        )
        self._note_failure(member, item, failure.cause)

    def _tend(self) -> None:
        """Enforce timeouts, renew the lock, sync the ledger, look for reasons to stop."""
        now = time.monotonic()
        timeout = self.context.task.timeout
        if timeout:
            for member in list(self._members):
                since = member.pulse.since
                if since and now - since > timeout:
                    self._kill_late(member, timeout)
        if now - self._renewed > _HEARTBEAT_SECONDS:
            self.context.lock.renew()
            self._renewed = now
        if now - self._synced > _SYNC_SECONDS:
            self.context.ledger.sync()
            self._synced = now
        self._outcome.stopped = self._outcome.stopped or self.stop()

    def _kill_late(self, member: _Member, timeout: float) -> None:
        _kill_group(member.process.pid)
        member.process.join()
        self._take_reports(member)
        self._members.remove(member)
        member.outbox.close()
        self._settle(member, f"took longer than the timeout of {timeout:g} s and was killed")

    def _drain(self) -> None:
        """Let running blocks finish within the grace, then end all workers."""
        for member in self._members:
            member.pulse.drain()
            if member.waiting:
                self._dismiss(member)
        give_up = time.monotonic() + self.grace()
        while self._members and time.monotonic() < give_up:
            self._listen(0.1)
            for member in self._members:
                if member.waiting:
                    self._dismiss(member)
        for member in list(self._members):
            self._abandon(member)
        self.context.ledger.sync()

    def _abandon(self, member: _Member) -> None:
        """Kill a worker and take its running attempt back without blame."""
        _kill_group(member.process.pid)
        member.process.join()
        self._take_reports(member)
        self._members.remove(member)
        events = self._events_of(member)
        for item in member.batch:
            if events.get(item.index) is Event.STARTED:
                self.context.ledger.append(
                    Event.RELEASED, item.index, fingerprint=item.fingerprint, attempt=item.attempt
                )

    def _kill_all(self) -> None:
        for member in self._members:
            _kill_group(member.process.pid)
            member.process.join()


def _child(
    context: WorkerContext, inbox: Connection, other: Connection, inherited: list[Connection]
) -> None:
    """Close the ends that belong to the supervisor, so that its death is seen, and work."""
    other.close()
    for connection in inherited:
        connection.close()
    work_blocks(context, inbox)


def _kill_group(pid: int | None) -> None:
    """Kill a worker and what it started; nothing to do where it is gone."""
    if pid is None:
        return
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _death(code: int) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit status {code}"
