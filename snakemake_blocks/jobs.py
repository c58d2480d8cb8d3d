"""Running one job: lock it, do what has no counting record, write its sentinel last."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from snakemake_blocks.aggregates import Aggregates
from snakemake_blocks.blockwork import Work
from snakemake_blocks.box import Box
from snakemake_blocks.errors import InputError, LedgerError
from snakemake_blocks.failures import read_failures
from snakemake_blocks.judgement import Judge, Judgement, Progress
from snakemake_blocks.ledger import Event, Ledger
from snakemake_blocks.locks import Lock, held, process_start
from snakemake_blocks.paths import RunPaths, SentinelName, find_run_directory
from snakemake_blocks.plan import Job, Plan, PlannedTask
from snakemake_blocks.pool import Outcome, Pool
from snakemake_blocks.queueing import BlockQueue
from snakemake_blocks.sentinel import Sentinel, digest_of_sentinels, digest_of_stamps
from snakemake_blocks.worker import Pulse, WorkerContext

__all__ = [
    "CONDUCTOR",
    "JobResult",
    "aggregate_inputs",
    "conductor",
    "run_job",
    "sentinel_of",
    "work_sentinel",
]

# Names the Snakemake process that a job belongs to: "pid:start time".
CONDUCTOR = "SNAKEMAKE_BLOCKS_CONDUCTOR"
# A job whose lock is held by an orphan of a killed run waits for it to notice and stop.
_LOCK_PATIENCE = 60.0
_GRACE = 20.0
_DEADLINE_MARGIN = 60.0
_REPEATED_TRACEBACKS = 20


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
    """

    done: int
    total: int
    failed: int = 0
    orphaned: int = 0
    stopped: str = ""

    @property
    def complete(self) -> bool:
        """Every block is done."""
        return self.done == self.total


def work_sentinel(
    path: Path, *, attempt: int, environment: Mapping[str, str], plan: Plan | None = None
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
    plan = plan or Plan.load(root)
    relative = path.relative_to(root)
    if len(relative.parts) > 1 and (
        relative.parts[1:] == ("done.json",) or relative.parts[1] == "tree"
    ):
        return _aggregate(plan, relative.parts, root)
    job = plan.job_at(SentinelName.from_path(path))
    result = run_job(job, root, attempt=attempt, environment=environment)
    if attempt > 1 and result.failed:
        _repeat_tracebacks(job, root)
    print(_summary(job, result), flush=True)
    return 0 if result.complete else 1


def _repeat_tracebacks(job: Job, root: Path) -> None:
    """Print failures of earlier attempts again: a new attempt begins a new log."""
    found = read_failures(RunPaths(root).failures(job.task.slug, job.index))
    for failure in list({f.index: f for f in found}.values())[-_REPEATED_TRACEBACKS:]:
        text = failure.trace or failure.message
        print(f"block {failure.index}, attempt {failure.attempt}, earlier:\n{text}", flush=True)


def _summary(job: Job, result: JobResult) -> str:
    text = f"{job.name}: {result.done} of {result.total} blocks done"
    if result.failed:
        text += f", {result.failed} failed"
    if result.orphaned:
        text += f", {result.orphaned} orphaned"
    return text + (f"; {result.stopped}" if result.stopped else "")


def run_job(job: Job, root: Path, *, attempt: int, environment: Mapping[str, str]) -> JobResult:
    """Do all blocks of a job that have no counting record, then write its sentinel.

    Raises
    ------
    BusyError
        If another living process has the job in hand.
    LedgerError
        If upstream blocks are not done although the job was started.
    """
    paths = RunPaths(root)
    lock_path = paths.job_lock(job.task.slug, job.index)
    with held(lock_path, environment, patience=_LOCK_PATIENCE, what=f"job {job.name}") as lock:
        judge = Judge(job.plan, root)
        members = job.task.jobs.members(job.index)
        judgement = judge.judge(job.task, members)
        todo = (judgement.progress != Progress.MASKED) & ~judgement.done
        outcome, queue = Outcome(), None
        if todo.any():
            _refuse_unready(job, members, judgement, todo)
            queue = _queue(job, members, judgement, root, attempt)
            outcome = _run_pool(job, root, queue, lock, environment)
            judge.forget()
        lock.verify()
        return _conclude(job, root, judge, queue, outcome)


def _refuse_unready(job: Job, members: Box, judgement: Judgement, todo: np.ndarray) -> None:
    missing = np.argwhere(todo & ~judgement.ready)
    if len(missing):
        first = tuple(int(k) + b for k, b in zip(missing[0], members.begin, strict=True))
        raise LedgerError(
            f"job {job.name}: what block {first} reads from {', '.join(job.task.upstream)} is not "
            "done; `snakemake-blocks generate` finds out what is missing"
        )


def _queue(job: Job, members: Box, judgement: Judgement, root: Path, attempt: int) -> BlockQueue:
    """Return the blocks to do; the job's first attempt opens a new budget."""
    if attempt <= 1 and judgement.attempts.any():
        ledger = Ledger(RunPaths(root).ledger(job.task.slug, job.index), members.ndim)
        ledger.append(Event.BUDGET, members.begin, fingerprint=job.task.fingerprint)
        ledger.close()
        judgement.attempts.fill(0)
    return BlockQueue(job.task, members, judgement, job.task.retries + 1)


def _run_pool(
    job: Job, root: Path, queue: BlockQueue, lock: Lock, environment: Mapping[str, str]
) -> Outcome:
    paths = RunPaths(root)
    folder = root / job.plan.base
    ledger = Ledger(paths.ledger(job.task.slug, job.index), job.task.grid.ndim)
    work = Work(job.task, folder, paths.functions.absolute())
    context = WorkerContext(
        task=job.task,
        work=work,
        ledger=ledger,
        lock=lock,
        pulse=Pulse(),
        failures=paths.failures(job.task.slug, job.index),
        log=str(paths.log(job.task.slug, job.index)),
    )
    try:
        with _Stops(paths, environment, _deadline(job, environment)) as stops:
            sys.stdout.flush()
            pool = Pool(context, queue, job.task.workers, stops.reason, stops.grace)
            outcome = pool.run()
            ledger.sync()
            return outcome
    finally:
        ledger.close()


def _conclude(
    job: Job, root: Path, judge: Judge, queue: BlockQueue | None, outcome: Outcome
) -> JobResult:
    """Write the sentinel if every present block is done."""
    judgement = judge.judge(job.task, job.task.jobs.members(job.index))
    total, done = int((judgement.progress != Progress.MASKED).sum()), int(judgement.done.sum())
    sentinel = sentinel_of(job, judge)
    if sentinel is not None:
        sentinel.write(RunPaths(root).sentinel(job.task.slug, job.phase, job.index))
    failed, orphaned = (len(queue.failed), len(queue.orphaned)) if queue else (0, 0)
    return JobResult(done, total, failed, orphaned, outcome.stopped)


def sentinel_of(job: Job, judge: Judge) -> Sentinel | None:
    """Return the sentinel of a job, None if not all of its blocks have a counting record."""
    judgement = judge.judge(job.task, job.task.jobs.members(job.index))
    present = judgement.progress != Progress.MASKED
    if not judgement.done[present].all():
        return None
    return Sentinel(
        task=job.task.name,
        fingerprint=f"{job.task.fingerprint:016x}",
        node="-".join(map(str, job.index)),
        batch=list(job.task.jobs.batch),
        blocks=int(present.sum()),
        digest=digest_of_stamps(judgement.stamp[present]),
    )


def _aggregate(plan: Plan, parts: tuple[str, ...], root: Path) -> int:
    """Write an aggregate from the sentinels that it stands on."""
    task = next((t for t in plan.tasks.values() if t.slug == parts[0]), None)
    if task is None:
        raise InputError(f"{'/'.join(parts)}: the plan has no task {parts[0]}; plan again")
    paths, tree = RunPaths(root), task.aggregates
    below = aggregate_inputs(paths, task, tree, parts)
    contents = []
    blocks = 0
    for path in below:
        try:
            contents.append(path.read_bytes())
        except FileNotFoundError:
            raise LedgerError(f"{path}: is missing; it was to be there first") from None
        blocks += Sentinel(**_json(contents[-1])).blocks
    sentinel = Sentinel(
        task=task.name,
        fingerprint=f"{task.fingerprint:016x}",
        node="/".join(parts[1:]).removesuffix(".json"),
        batch=list(task.jobs.batch),
        blocks=blocks,
        digest=digest_of_sentinels(contents),
    )
    sentinel.write(root.joinpath(*parts))
    return 0


def aggregate_inputs(
    paths: RunPaths, task: PlannedTask, tree: Aggregates, parts: tuple[str, ...]
) -> list[Path]:
    """Return the files that an aggregate, given by its path's parts, stands on."""
    if parts[1:] == ("done.json",):
        level = len(tree.levels) + 1
        numbers = range(tree.levels[-1] if tree.levels else tree.num_jobs)
    else:
        level, node = int(parts[2]), int(parts[3].removesuffix(".json"))
        numbers = tree.children(level, node)
    if level > 1:
        return [paths.tree(task.slug, level - 1, n) for n in numbers]
    jobs = (task.job_index(n) for n in numbers)
    return [paths.sentinel(task.slug, task.phases.of(j), j) for j in jobs]


def _json(content: bytes) -> dict[str, Any]:
    import json

    data: dict[str, Any] = json.loads(content)
    return data


def _deadline(job: Job, environment: Mapping[str, str]) -> float | None:
    """Return the monotonic time at which the scheduler would kill the job, None if unknown."""
    minutes = job.task.resources.get("runtime")
    on_cluster = any(environment.get(k) for k in ("SLURM_JOB_ID", "LSB_JOBID"))
    if not on_cluster or not isinstance(minutes, int | float):
        return None
    return time.monotonic() + float(minutes) * 60


@dataclass(slots=True)
class _Stops:
    """Reasons to start no further block: a signal, `stop`, the walltime, a dead Snakemake."""

    paths: RunPaths
    environment: Mapping[str, str]
    deadline: float | None
    _signal: int = field(default=0, init=False)
    _before: dict[int, object] = field(default_factory=dict, init=False)

    def __enter__(self) -> _Stops:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _frame: object) -> None:
        self._signal = self._signal or number

    def reason(self) -> str:
        """Return why no further block may start; empty if there is no reason."""
        if self._signal:
            return f"stopped by {signal.Signals(self._signal).name}"
        if self.paths.drain.exists():
            return "stopped by `snakemake-blocks stop`"
        if self.deadline is not None and time.monotonic() > self.deadline - _DEADLINE_MARGIN:
            return "stopped before the walltime"
        if self._conductor_is_gone():
            return "stopped because its Snakemake process is gone"
        return ""

    def grace(self) -> float:
        """Return for how many seconds running blocks may go on."""
        if self._signal == signal.SIGINT or self._conductor_is_gone():
            return 0.0
        if self._signal:
            return _GRACE
        if self.paths.drain.exists():
            return float("inf")
        if self.deadline is not None:
            return max(0.0, self.deadline - time.monotonic() - 20.0)
        return _GRACE

    def _conductor_is_gone(self) -> bool:
        pid, _, start = self.environment.get(CONDUCTOR, "").partition(":")
        if not pid.isdigit():
            return False
        now = process_start(int(pid))
        return now is None or (start.isdigit() and now != int(start))


def conductor() -> str:
    """Return the value of the conductor variable for this process."""
    return f"{os.getpid()}:{process_start(os.getpid())}"
