"""The supervisor of a job: forks workers, hands out blocks, survives what happens to them.

Every attempt runs in a worker process, also with one worker: a segmentation fault, an
OOM kill or a timeout inside C code then costs one attempt and not the job. The price is one
fork per worker and one message per batch; batches grow until they last about 20 ms, so tiny
blocks do not pay for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Protocol

import numpy as np

from snakemake_blocks.state.failures import Failure, append_failure
from snakemake_blocks.state.ledger import Event, read_records
from snakemake_blocks.system.locks import TIMING
from snakemake_blocks.system.processes import end_marked, end_tree, how_it_ended
from snakemake_blocks.work.block_queue import Batch, BlockQueue, Item, items_of
from snakemake_blocks.work.worker import LEDGER_FAILED, Report, WorkerContext
from snakemake_blocks.work.worker_pool import CLOSING_SECONDS, WorkerPool, WorkerProcess

__all__ = ["Outcome", "Stops", "Supervisor"]

_BATCH_SECONDS = 0.02
_LARGEST_BATCH = 1024
_SYNC_SECONDS = 1.0
_LISTEN_SECONDS = 0.5
# A worker is replaced if so many blocks in a row fail as, by how often blocks fail otherwise,
# happens once in a thousand times: a new one has to import and set up everything again, but one
# whose device is broken fails every block from then on.
_LEAST_FAILURES = 3
_UNLIKELY = 1e-3
_CANARY_BLOCKS = 16
# Set-ups that fail, or workers that die without having begun a block, one after the other.
_BARREN_WORKERS = 2


class Stops(Protocol):
    """Says when to start no further block."""

    def reason(self) -> str:
        """Return why, an empty string if there is no reason."""

    def grace(self) -> float:
        """Return for how many seconds from now running blocks may go on."""

    @property
    def wake(self) -> int | None:
        """A file descriptor that can be read when there may be a new reason."""


@dataclass(slots=True)
class Outcome:
    """How a job ended.

    Parameters
    ----------
    done : int
        Blocks finished in this run of the job.
    stopped : str
        Why it ended early; empty if nothing was left to do.
    interrupted : bool
        It was asked to stop.
    """

    done: int = 0
    stopped: str = ""
    interrupted: bool = False


@dataclass(slots=True)
class Supervisor:
    """Runs the blocks of a queue in ``num_workers`` processes.

    Parameters
    ----------
    context : WorkerContext
        What workers get by fork; each gets a pulse of its own.
    queue : BlockQueue
        The blocks.
    num_workers : int
        Processes.
    stops : Stops
        When to stop early.
    pool : WorkerPool
        Where workers come from that did another job, and where they go at the end.
    """

    context: WorkerContext
    queue: BlockQueue
    num_workers: int
    stops: Stops
    pool: WorkerPool = field(default_factory=WorkerPool)
    _workers: list[WorkerProcess] = field(default_factory=list, init=False)
    _outcome: Outcome = field(default_factory=Outcome, init=False)
    _causes: set[str] = field(default_factory=set, init=False)
    _canaries: set[int] = field(default_factory=set, init=False)
    _barren: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _renewed: float = field(default=0.0, init=False)
    _synced: float = field(default=0.0, init=False)

    def run(self) -> Outcome:
        """Run until nothing is left to do or a reason to stop appears.

        Raises
        ------
        OSError
            If the ledger cannot be written.
        LedgerError
            If the job was taken over.
        """
        self._renewed = self._synced = time.monotonic()
        try:
            while not self.queue.exhausted and not self._outcome.stopped:
                self._fill()
                self._feed()
                self._listen(min(_LISTEN_SECONDS, TIMING.heartbeat))
                self._tend()
            if not self._outcome.stopped:
                self._await_ends()
                self._workers = self.pool.keep(self._workers, self.context.task)
            self._drain()
            self.context.ledger.sync()
        finally:
            for worker in self._workers:
                worker.end()
            if self._workers:
                end_marked(f"{self.context.lock.holder.token}.")
        self._outcome.done = self.queue.done
        return self._outcome

    def _await_ends(self) -> None:
        """Let workers say that their batch is at its end: only then can they go on with a job."""
        give_up = time.monotonic() + _LISTEN_SECONDS
        while any(m.served and not m.waiting and not m.closed for m in self._workers):
            if not self.pool.lasting or time.monotonic() >= give_up:
                return
            self._listen(_LISTEN_SECONDS)

    def _fill(self) -> None:
        """Have as many workers as there is work for, and as the task may have."""
        while len(self._workers) < self._most:
            worker = self.pool.get(self.context, self._workers)
            if worker is None:
                return
            self._workers.append(worker)

    @property
    def _most(self) -> int:
        """How many workers there are when none is being replaced."""
        return min(self.num_workers, max(1, len(self.queue)))

    def _feed(self) -> None:
        """Give every waiting worker its next batch."""
        for worker in self._workers:
            if not worker.waiting or worker.closed:
                continue
            batch = self.queue.take(worker.size, worker.number, alone=self._most == 1)
            if len(batch):
                self._send(worker, batch)
            elif self.queue.exhausted:
                return
        busy = [m for m in self._workers if not m.waiting]
        assert busy or not self._workers, "blocks are left, and nobody has them"

    def _send(self, worker: WorkerProcess, batch: Batch) -> None:
        worker.batch, worker.waiting, worker.reported = batch, False, 0
        worker.settled.clear()
        worker.ledger_end = self.context.ledger.end
        worker.since = time.monotonic()
        worker.served = True
        worker.tell(batch.tobytes())

    def _listen(self, seconds: float) -> None:
        """Take reports, notice deaths."""
        timeout = self.context.task.budget.timeout
        channels: list[Connection | int] = [m.channel for m in self._workers if not m.closed]
        channels += [m.ended for m in self._workers if m.ended is not None]
        if self.stops.wake is not None:
            channels.append(self.stops.wake)
        ready = wait(channels, min(seconds, timeout / 4) if timeout else seconds)
        for worker in list(self._workers):
            if worker.channel in ready:
                self._take_reports(worker)
            if worker.child.has_ended:
                self._bury(worker)

    def _take_reports(self, worker: WorkerProcess) -> None:
        try:
            while not worker.closed and worker.channel.poll():
                self._take(worker, worker.channel.recv())
        except (EOFError, OSError):
            worker.closed = True

    def _take(self, worker: WorkerProcess, report: Report) -> None:
        self.queue.succeeded(report.done)
        worker.reported += report.done
        if report.done:
            worker.failures_in_a_row = 0
            self._canaries.clear()
            self._causes.clear()
        if report.failed is not None:
            worker.settled.add(report.failed)
            self._note_failure(worker, worker.batch[report.failed], report.cause)
        elif report.released is not None:
            worker.settled.add(report.released)
            self.queue.give_back([int(worker.batch["number"][report.released])])
        elif report.cause:
            worker.cause = report.cause
        if report.batch_ended:
            self.queue.release(worker.number)
            self.queue.give_back(worker.batch["number"][report.begun :].tolist())
            self._grow(worker)
            worker.batch = worker.batch[:0]
            worker.waiting = True
            if self._has_gone_bad(worker):
                self._retire(worker)

    def _has_gone_bad(self, worker: WorkerProcess) -> bool:
        """Tell whether a worker fails more blocks in a row than chance explains."""
        others = self._failures - worker.failures_in_a_row
        rate = (others + 1) / (others + self.queue.done + 2)  # rule of succession
        row = worker.failures_in_a_row
        return row >= _LEAST_FAILURES and rate**row < _UNLIKELY

    def _grow(self, worker: WorkerProcess) -> None:
        """Let batches grow while they are short."""
        if len(worker.batch):
            self._barren = 0
            lasted = time.monotonic() - worker.since
            if lasted < _BATCH_SECONDS:
                worker.size = min(worker.size * 2, _LARGEST_BATCH)
            elif lasted > 4 * _BATCH_SECONDS:
                worker.size = max(1, worker.size // 2)

    def _note_failure(self, worker: WorkerProcess, row: np.void, cause: str) -> None:
        worker.failures_in_a_row += 1
        self._failures += 1
        number = int(row["number"])
        self.queue.attempt_failed(number, worker.number)
        if self.queue.done == 0:
            self._canaries.add(number)
            self._causes.add(cause)
            if len(self._canaries) >= _CANARY_BLOCKS and len(self._causes) == 1:
                self._stop(
                    f"the first {len(self._canaries)} blocks all failed alike ({cause}); "
                    "the job stops early"
                )

    def _stop(self, reason: str) -> None:
        self._outcome.stopped = self._outcome.stopped or reason

    def _retire(self, worker: WorkerProcess) -> None:
        """Let a worker go whose blocks keep failing; a new one takes its place."""
        print(
            f"worker {worker.number} (pid {worker.pid}) failed "
            f"{worker.failures_in_a_row} blocks in a row and is replaced",
            flush=True,
        )
        worker.dismiss()

    def _bury(self, worker: WorkerProcess, *, how: str = "", blame: bool = True) -> None:
        """End what is left of a worker, and settle what it had in hand."""
        end_tree(worker.pid)
        self._take_reports(worker)
        self._workers.remove(worker)
        code = worker.end()
        if code:
            end_marked(f"{self.context.lock.holder.token}.{worker.pid}")
        if worker.was_fenced:
            how, blame = "was ended, for the lock of its job was not renewed in time", False
            print(f"worker {worker.number} {how}", flush=True)
        how = how or how_it_ended(code)
        settled = self._settle(worker, how, blame=blame)
        self.queue.release(worker.number)
        if not (settled or worker.retiring or worker.was_fenced):
            self._note_barren(worker, code, how)

    def _note_barren(self, worker: WorkerProcess, code: int, how: str) -> None:
        """A worker ended by itself that had begun no block."""
        if code == LEDGER_FAILED:
            self._stop("a worker could not record a block, see the log")
        elif worker.served and code == 0:
            return
        elif any(m.served and not m.retiring for m in self._workers) and not worker.served:
            # The task can be set up, only not once more: go on with those who have.
            self.num_workers = len(self._workers)
            print(f"worker {worker.number} {how}; {self.num_workers} go on without it", flush=True)
        else:
            self._barren += 1
            if self._barren >= _BARREN_WORKERS:
                why = worker.cause or f"worker {how}"
                what = "workers end without having begun a block"
                self._stop(f"{what if worker.served else 'the set-up failed'}: {why}")

    def _settle(self, worker: WorkerProcess, how: str, *, blame: bool) -> bool:
        """Account for the batch of a dead worker, as the ledger tells it; true if it had begun."""
        if not len(worker.batch):
            return False
        events = self._events_of(worker)
        running = next(reversed(events), None)
        done, never_begun = 0, []
        for position, row in enumerate(worker.batch):
            event = events.get(int(row["number"]))
            if event is None:
                never_begun.append(int(row["number"]))
            elif event in (Event.DONE, Event.SKIPPED):
                done += 1
            elif position in worker.settled:
                continue
            elif event is Event.STARTED:
                # Of blocks that wait to be stored together, the one that was running is to blame.
                is_running = int(row["number"]) == running
                self._end_attempt(worker, row, how, blame=blame and is_running)
            elif event is Event.RELEASED:
                self.queue.give_back([int(row["number"])])
            else:
                self._note_failure(worker, row, how)
        self.queue.succeeded(done - worker.reported)
        self.queue.give_back(never_begun)
        return bool(events)

    def _events_of(self, worker: WorkerProcess) -> dict[int, Event]:
        """Return the last event that a worker recorded for each block of its batch, in order."""
        ledger = self.context.ledger
        numbers = {tuple(row["index"].tolist()): int(row["number"]) for row in worker.batch}
        records = read_records(ledger.path, ledger.first, start=worker.ledger_end)
        records = records[records["event"] != Event.EMPTY]
        found: dict[int, Event] = {}
        for record in records[records["pid"] == worker.pid]:
            number = numbers.get(tuple(record["index"].tolist()))
            if number is not None:
                found.pop(number, None)  # in the order of the last events
                found[number] = Event(int(record["event"]))
        return found

    def _end_attempt(self, worker: WorkerProcess, row: np.void, how: str, *, blame: bool) -> None:
        """Record how the attempt ended that was running when its worker was."""
        (item,) = items_of(row.reshape(1))
        event = Event.FAILED if blame else Event.RELEASED
        self.context.lock.verify()
        self.context.ledger.append(
            event, item.index, fingerprint=item.fingerprint, attempt=item.attempt, seen=item.seen
        )
        if blame:
            self._report(item, how)
            self._note_failure(worker, row, f"worker {how}")
        else:
            self.queue.give_back([item.number])

    def _report(self, item: Item, how: str) -> None:
        print(f"block {item.index}, attempt {item.attempt}: worker {how}", flush=True)
        append_failure(
            self.context.failures,
            Failure(item.index, item.attempt, f"worker {how}", how, "", self.context.log),
        )

    def _tend(self) -> None:
        """Enforce timeouts, renew the lock, sync the ledger, look for reasons to stop."""
        now = time.monotonic()
        for worker in list(self._workers):
            self._tend_worker(worker, now)
        if now - self._renewed > TIMING.heartbeat:
            self.context.lock.renew()
            self._renewed = now
            if self._workers:
                self.pool.fence.start()
        if now - self._synced > _SYNC_SECONDS:
            self.context.ledger.sync()
            self._synced = now
        reason = self.stops.reason()
        if reason and not self._outcome.interrupted:
            self._outcome.interrupted = True
            self._stop(reason)

    def _tend_worker(self, worker: WorkerProcess, now: float) -> None:
        timeout = self.context.task.budget.timeout
        since = worker.pulse.since
        if timeout and since and now - since > timeout:
            end_tree(worker.pid)
            # The block may have ended in the last moment; the one after it is not to blame.
            how = f"took longer than the timeout of {timeout:g} s and was killed"
            self._bury(worker, how=how, blame=worker.pulse.since == since)
        elif worker.retiring and now - worker.retiring > CLOSING_SECONDS:
            print(f"worker {worker.number} does not end and is killed", flush=True)
            self._bury(worker)

    def _drain(self) -> None:
        """Let running blocks finish within the grace, then end all workers."""
        began = time.monotonic()
        for worker in list(self._workers):
            worker.pulse.drain()
            if not worker.served and not worker.waiting:
                self._abandon(worker)  # it is still being set up, for nothing
        while self._workers:
            for worker in self._workers:
                if worker.waiting:
                    worker.dismiss()
            left = self._time_left(began)
            if left <= 0:
                break
            self._listen(min(left, _LISTEN_SECONDS))
            self._tend()
        for worker in list(self._workers):
            self._abandon(worker)

    def _abandon(self, worker: WorkerProcess) -> None:
        """End a worker at once and take its running attempt back."""
        worker.retiring = time.monotonic()
        self._bury(worker, blame=False)

    def _time_left(self, began: float) -> float:
        if self._outcome.interrupted:
            return self.stops.grace()
        if any(len(worker.batch) for worker in self._workers):
            return float("inf")
        return began + CLOSING_SECONDS - time.monotonic()
