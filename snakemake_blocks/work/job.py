"""Running one job: lock it, do what has no counting record, write its sentinel last."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import BusyError, LedgerError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.paths import RunPaths, SentinelName, find_run_directory, index_name
from snakemake_blocks.plan.plan import Job, Plan
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.completion import (
    is_sentinel_of,
    sentinel_for,
    sentinel_of,
    write_aggregate,
)
from snakemake_blocks.state.failures import Failure, append_failure, read_failures
from snakemake_blocks.state.judgement import Judge, Judgement
from snakemake_blocks.state.ledger import Event, Ledger, first_block, source_mark
from snakemake_blocks.state.sentinel import read_sentinel
from snakemake_blocks.system.files import read_file
from snakemake_blocks.system.locks import TIMING, Holder, Lock, Watch, in_hand_of, is_taken
from snakemake_blocks.system.processes import end_marked
from snakemake_blocks.work.block_queue import BlockQueue
from snakemake_blocks.work.block_work import Work
from snakemake_blocks.work.script_pipes import remove_pipes
from snakemake_blocks.work.stop_reasons import StopReasons, deadline_of
from snakemake_blocks.work.supervisor import Outcome, Supervisor
from snakemake_blocks.work.table_input import TableInput
from snakemake_blocks.work.worker import Pulse, WorkerContext
from snakemake_blocks.work.worker_numbers import slot_folder
from snakemake_blocks.work.worker_pool import WorkerPool

__all__ = [
    "JobResult",
    "NotReadyError",
    "PlanChangedError",
    "job_summary",
    "neighbours",
    "run_job",
    "work_sentinel",
]

_REPEATED_TRACEBACKS = 20


class NotReadyError(LedgerError):
    """What a job needs is not done."""


class PlanChangedError(LedgerError):
    """Another plan has taken the place of the one that a job was started with."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    Parameters
    ----------
    done, total : int
        Blocks with a counting record, and blocks of the job.
    failed, orphaned : int
        Blocks failed for good, and blocks that only wait for those.
    stopped : str
        Why it ended early, empty otherwise.
    interrupted, by_keyboard : bool
        It was asked to stop; by Ctrl-C.
    """

    done: int
    total: int
    failed: int = 0
    orphaned: int = 0
    stopped: str = ""
    interrupted: bool = False
    by_keyboard: bool = False

    @property
    def complete(self) -> bool:
        """Every block is done."""
        return self.done == self.total


def work_sentinel(
    path: Path,
    *,
    attempt: int,
    environment: Mapping[str, str],
    plan: Plan | None = None,
    pool: WorkerPool | None = None,
) -> int:
    """Make one sentinel: run its job, or aggregate; what the generated rules call.

    Parameters
    ----------
    path : Path
        ``RUN_DIR/<task>/p<phase>/<shard>/<i>-<j>.json``, or an aggregate's path.
    attempt : int
        Snakemake's attempt of this job; 1 opens a new budget of attempts per block.
    environment : mapping
        The process environment.
    plan : Plan, optional
        The plan in place, where the caller has read it already.
    pool : WorkerPool, optional
        Workers of earlier jobs.

    Returns
    -------
    int
        Exit status: 0 if the sentinel was written.

    Raises
    ------
    InputError
        If the plan has no such sentinel.
    """
    root = find_run_directory(path)
    while True:
        plan = plan or Plan.load(root)
        relative = path.relative_to(root)
        if relative.parts[1:] == ("done.json",) or relative.parts[1:2] == ("tree",):
            write_aggregate(plan, relative, root)
            return 0
        job = plan.job_at(SentinelName.from_path(path))
        try:
            result = run_job(
                job,
                root,
                attempt=attempt,
                environment=environment,
                runtime=job.task.budget.resources.get("runtime"),
                pool=pool,
            )
            break
        except PlanChangedError:
            plan = None
    if attempt > 1 and result.failed:
        _repeat_tracebacks(job, root)
    print(job_summary(job, result), flush=True)
    if result.complete:
        return 0
    return 130 if result.by_keyboard else 1


def _repeat_tracebacks(job: Job, root: Path) -> None:
    """Print failures of earlier attempts again: a new attempt begins a new log."""
    found = read_failures(RunPaths(root).failures(job.task.slug, job.index))
    for failure in list({f.index: f for f in found}.values())[-_REPEATED_TRACEBACKS:]:
        text = failure.trace or failure.message
        print(f"block {failure.index}, attempt {failure.attempt}, earlier:\n{text}", flush=True)


def job_summary(job: Job, result: JobResult) -> str:
    """Return in one line what came of a job."""
    text = f"{job.name}: {result.done} of {result.total} blocks done"
    if result.failed:
        text += f", {result.failed} failed"
    if result.orphaned:
        text += f", {result.orphaned} orphaned"
    return text + (f"; {result.stopped}" if result.stopped else "")


def run_job(
    job: Job,
    root: Path,
    *,
    attempt: int,
    environment: Mapping[str, str],
    patience: float = math.inf,
    runtime: object = None,
    watch: Watch | None = None,
    pool: WorkerPool | None = None,
) -> JobResult:
    """Do all blocks of a job that have no counting record, then write its sentinel.

    Parameters
    ----------
    job : Job
        The job.
    root : Path
        The run directory.
    attempt : int
        1 opens a new budget of attempts per block.
    environment : mapping
        The process environment.
    patience : float
        Seconds to wait for a living process that has the job in hand.
    runtime : object
        For how long the scheduler lets the job run at its first attempt, as the resource says.
    watch : Watch, optional
        What the caller saw of the job's lock earlier.
    pool : WorkerPool, optional
        Workers of earlier jobs.

    Raises
    ------
    BusyError
        If another living process has the job in hand.
    PlanChangedError
        If another plan has taken the place of the job's.
    NotReadyError
        If upstream blocks, or conflicting ones of lower phases, are not done.
    LedgerError
        If the run directory cannot be written, or the job was taken over.
    """
    paths = RunPaths(root)
    deadline = deadline_of(runtime, attempt=attempt, environment=environment)
    pool, is_last = pool or WorkerPool(), pool is None
    holder = Holder.this_process(environment)
    lock = Lock(paths.job_lock(job.task.slug, job.index), holder, pool.lease)
    with StopReasons(paths, environment, deadline) as stops:
        run = _Run(job, root, attempt, lock, stops, patience, watch, pool)
        _acquire(run)
        try:
            _end_leftovers(lock)
            _refuse_other_plan(job, paths)
            return _run(run)
        except OSError as error:
            raise LedgerError(
                f"job {job.name}: {error.filename or root}: {os.strerror(error.errno or 0)}; "
                "what is recorded is safe, and the next attempt goes on from there"
            ) from error
        finally:
            lock.release()
            if is_last:
                pool.close()


def _acquire(run: _Run) -> None:
    """Take the job's lock at a time when nobody is at what it stands on.

    That is who changes the state between jobs, and who has a conflicting job of a lower phase in
    hand, which may be done: `block` runs blocks of it. All take their own lock first and look for
    others then; to wait, this one lets go, for a job of a lower phase holds its lock as it waits.
    """
    watch = Watch()
    while True:
        run.lock.acquire(
            patience=run.patience,
            what=f"job {run.job.name}",
            stop=run.stops.reason,
            watch=run.watch,
        )
        why = _hindrance(run, watch)
        if not why:
            return
        run.lock.release()
        run.wait(why)


def _hindrance(run: _Run, watch: Watch) -> str:
    """Return who has to end before the job may begin, empty if nobody has."""
    moving = run.paths.moving
    if is_taken(moving, watch):
        return f"{run.root}: its state is {in_hand_of(moving)}"
    for other in neighbours(run.job):
        lock = run.paths.job_lock(other.task.slug, other.index)
        if other.phase < run.job.phase and is_taken(lock, watch):
            return f"job {run.job.name}: its neighbour {other.name} is {in_hand_of(lock)}"
    return ""


def neighbours(job: Job) -> Iterator[Job]:
    """Yield the jobs that conflict with a job."""
    for other in job.task.phases.conflicting(job.index):
        if other != job.index and job.task.phases.of(other) >= 0:
            yield Job(job.plan, job.task, other)


def _end_leftovers(lock: Lock) -> None:
    """End what workers of a dead holder started on this host, and remove what they left."""
    dead = lock.taken_over_from
    if dead is not None:
        found = end_marked(f"{dead.token}.")
        remove_pipes(f"{dead.token}.*")
        left = f"; {found} processes that it left were ended" if found else ""
        print(f"{lock.path}: taken over from {dead}, which is dead{left}", flush=True)


def _refuse_other_plan(job: Job, paths: RunPaths) -> None:
    digest = job.plan.digest
    if digest and hashlib.sha256(read_file(paths.plan)).hexdigest() != digest:
        raise PlanChangedError(f"job {job.name}: there is another plan now; start it again")


@dataclass(slots=True)
class _Run:
    """One run of a job by this process, which holds its lock."""

    job: Job
    root: Path
    attempt: int
    lock: Lock
    stops: StopReasons
    patience: float
    watch: Watch | None
    pool: WorkerPool

    def wait(self, why: str) -> None:
        """Wait a little for somebody else.

        Raises
        ------
        BusyError
            If the caller does not want to wait, or was asked to stop.
        """
        if self.patience == 0 or self.stops.reason():
            raise BusyError(why)
        time.sleep(TIMING.poll)

    @property
    def paths(self) -> RunPaths:
        """Files of the run directory."""
        return RunPaths(self.root)

    @property
    def members(self) -> Box:
        """Blocks of the job."""
        return self.job.task.jobs.members(self.job.index)

    def ledger(self) -> Ledger:
        """Return a new appender to the job's ledger."""
        task = self.job.task
        path = self.paths.ledger(task.slug, self.job.index)
        return Ledger(path, first_block(task.own_grid), source_mark(task.source))


def _run(run: _Run) -> JobResult:
    """Do what there is to do, and write the sentinel if every present block is done."""
    job = run.job
    judge = Judge(job.plan, run.root)
    judgement = judge.judge(job.task, run.members)
    todo = judgement.todo
    outcome = Outcome()
    failed = orphaned = 0
    if todo.any():
        _refuse_unready(job, run.members, judgement, todo)
        _refuse_disorder(run, judge)
        outcome, failed, orphaned = _run_pool(run, judgement)
        judge.forget(job.task, job.index)
        judgement = judge.judge(job.task, run.members)
    run.lock.assure()
    sentinel = sentinel_for(job, judgement)
    if sentinel is not None:
        sentinel.write(run.paths.sentinel(job.task.slug, job.phase, job.index))
    return JobResult(
        done=int(judgement.done.sum()),
        total=int((judgement.state != State.MASKED).sum()),
        failed=failed,
        orphaned=orphaned,
        stopped=outcome.stopped,
        interrupted=outcome.interrupted,
        by_keyboard=outcome.interrupted and run.stops.by_keyboard,
    )


def _refuse_unready(job: Job, members: Box, judgement: Judgement, todo: NDArray[np.bool_]) -> None:
    missing = np.argwhere(todo & ~judgement.ready)
    if len(missing):
        first = tuple(int(k) + b for k, b in zip(missing[0], members.begin, strict=True))
        raise NotReadyError(
            f"job {job.name}: what block {first} reads from {', '.join(job.task.upstream)} is not "
            "done; `snakemake-blocks generate` finds out what is missing"
        )


def _refuse_disorder(run: _Run, judge: Judge) -> None:
    """See to it that conflicting jobs of lower phases are done, and those of higher ones rest.

    Snakemake orders jobs through their inputs. But of three jobs in a row it lets the last one
    run beside the first, if only the first has lost its results and the second has not. Each
    looks for the other after it has taken its own lock, so one of them sees the other.
    """
    task, watch = run.job.task, Watch()
    for neighbour in neighbours(run.job):
        phase, index = neighbour.phase, neighbour.index
        if phase < run.job.phase:
            path = run.paths.sentinel(task.slug, phase, index)
            told = is_sentinel_of(task, index_name(index), read_sentinel(path))
            if not told and sentinel_of(neighbour, judge) is None:
                raise NotReadyError(
                    f"job {run.job.name}: its neighbour {neighbour.name} has to be done first; "
                    "`snakemake-blocks run` keeps the order"
                )
        lock = run.paths.job_lock(task.slug, index)
        while phase > run.job.phase and is_taken(lock, watch):
            run.wait(f"job {run.job.name}: its neighbour {neighbour.name} still runs")


def _run_pool(run: _Run, judgement: Judgement) -> tuple[Outcome, int, int]:
    """Return how its supervisor ended, and how many blocks failed for good or are orphaned."""
    job, paths = run.job, run.paths
    ledger = run.ledger()
    try:
        queue = _queue(run, judgement, ledger)
        context = WorkerContext(
            task=job.task,
            work=Work(
                job.task,
                job.plan.folder(run.root),
                paths.functions.absolute(),
                notes=paths.notes(job.task.slug).absolute(),
                logs=paths.logs(job.task.slug).absolute(),
                tables=TableInput.of_task(job.plan, run.root, job.task),
                has_leftovers=paths.leftovers(job.task.slug).exists(),
            ),
            ledger=ledger,
            lock=run.lock,
            pulse=Pulse(),
            slots=slot_folder(run.root, job.task.slug),
            failures=paths.failures(job.task.slug, job.index),
            log=str(paths.log(job.task.slug, job.index)),
        )
        outcome = Supervisor(context, queue, job.task.budget.workers, run.stops, run.pool).run()
        return outcome, len(queue.failed), len(queue.orphaned)
    finally:
        ledger.close()


def _queue(run: _Run, judgement: Judgement, ledger: Ledger) -> BlockQueue:
    """Return the blocks to do; the job's first attempt opens a new budget."""
    task, members = run.job.task, run.members
    if run.attempt <= 1 and judgement.attempts.any():
        ledger.append(Event.BUDGET, members.begin, fingerprint=task.fingerprint)
        judgement.attempts.fill(0)
    queue = BlockQueue(task, members, judgement, task.budget.retries + 1)
    for number in sorted(queue.failed):
        if judgement.state.flat[number] == State.RUNNING:
            _blame_for_the_job(run, queue, number, ledger)
    return queue


def _blame_for_the_job(run: _Run, queue: BlockQueue, number: int, ledger: Ledger) -> None:
    """Record that a block's last attempt ended with the whole job, so that it is failed."""
    task, index = run.job.task, queue.index_of(number)
    attempt = int(queue.judgement.attempts.flat[number])
    how = (
        "the whole job was killed while the block ran, or could record no more, and the block has "
        "no attempt left"
    )
    paths = run.paths
    log = str(paths.log(task.slug, run.job.index))
    print(f"block {index}, attempt {attempt}: {how}", flush=True)
    append_failure(
        paths.failures(task.slug, run.job.index), Failure(index, attempt, how, how, "", log)
    )
    fingerprint = int(queue.judgement.fingerprint.flat[number])
    ledger.append(Event.FAILED, index, fingerprint=fingerprint, attempt=attempt)
