"""Workers started by hand: each claims ready jobs of a task by their locks until none is left.

Any number of them, on any hosts that share the file system, work beside each other and beside a
running Snakemake: a job belongs to who holds its lock, and is done when its sentinel says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.plan.paths import RunPaths, find_run_directory, index_name
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.completion import is_sentinel_of
from snakemake_blocks.state.ledger import Event, first_block, read_records
from snakemake_blocks.state.sentinel import read_sentinel
from snakemake_blocks.system.locks import TIMING, Watch, is_taken
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.system.streams import printing_to
from snakemake_blocks.work.job import (
    JobResult,
    NotReadyError,
    PlanChangedError,
    job_summary,
    run_job,
)
from snakemake_blocks.work.stop_reasons import StopReasons

__all__ = ["is_task_folder", "work_task"]

# With nothing to claim, a worker waits for as long as others have jobs in hand that could make
# one ready, and for this long in between.
_POLL_SECONDS = 1.0


def is_task_folder(path: Path) -> bool:
    """Tell whether a path names a task of a run directory, and not a sentinel."""
    return path.suffix != ".json" and RunPaths(path.parent).plan.is_file()


def work_task(path: Path, *, environment: Mapping[str, str]) -> int:
    """Run jobs of a task until none is left that is ready or could become so.

    Parameters
    ----------
    path : Path
        ``RUN_DIR/TASK``.
    environment : mapping
        The process environment.

    Returns
    -------
    int
        Exit status: 0 if all jobs of the task are done, 130 after Ctrl-C, else 1.

    Raises
    ------
    InputError
        If there is no such run directory or task.
    LedgerError
        If the run directory cannot be written.
    """
    root = find_run_directory(path.parent)
    with StopReasons(RunPaths(root), environment) as stops:
        claimer = _Claimer(root, path.name, environment, stops)
        outcome = claimer.run()
        print(comment(outcome), flush=True)
        if claimer.left == 0:
            return 0
        return 130 if claimer.by_keyboard or stops.by_keyboard else 1


@dataclass(slots=True)
class _Claimer:
    """One worker started by hand."""

    root: Path
    name: str
    environment: Mapping[str, str]
    stops: StopReasons
    left: int = field(default=0, init=False)
    by_keyboard: bool = field(default=False, init=False)
    # Whether there are jobs left that this worker has not tried in vain.
    _hopes: bool = field(default=False, init=False)
    # Why the last job that could not be claimed is in other hands.
    _busy: str = field(default="", init=False)
    _plan: Plan = field(init=False)
    _watch: Watch = field(default_factory=Watch, init=False)
    # Sentinels that were valid, by what they were in the file system.
    _valid: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False)
    # Jobs that this worker has tried in vain; somebody else may still do them.
    _failed: set[str] = field(default_factory=set, init=False)
    # How long ledgers were when this worker began: who opened a budget since then, did so for it.
    _sizes: dict[Path, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._read_plan()
        for job in self._jobs():
            ledger = self._ledger(job)
            if ledger.exists():
                self._sizes[ledger] = ledger.stat().st_size

    def run(self) -> str:
        """Claim jobs until there is a reason to end; return it."""
        idle_since = time.monotonic()
        while True:
            claimed = self._claim_all()
            if isinstance(claimed, str):
                return claimed
            if self.left == 0:
                return f"{self._task.name}: all jobs are done"
            if claimed or self._others_work():
                idle_since = time.monotonic()
            elif not self._hopes or time.monotonic() - idle_since > TIMING.idle:
                return self._why_idle()
            if not claimed:
                time.sleep(_POLL_SECONDS)

    def _read_plan(self) -> None:
        self._plan = Plan.load(self.root)
        if not any(self.name in (t.name, t.slug) for t in self._plan.tasks.values()):
            raise InputError(
                f"{self.root}: the plan has no task {self.name}; known are "
                f"{', '.join(self._plan.tasks)}"
            )

    @property
    def _task(self) -> PlannedTask:
        tasks = self._plan.tasks.values()
        return next(t for t in tasks if self.name in (t.name, t.slug))

    @property
    def _paths(self) -> RunPaths:
        return RunPaths(self.root)

    def _jobs(self) -> Iterator[Job]:
        return self._plan.jobs(self._task.name)

    def _ledger(self, job: Job) -> Path:
        return self._paths.ledger(job.task.slug, job.index)

    def _claim_all(self) -> bool | str:
        """Go through the jobs once; tell whether one was done, or why to end."""
        claimed, self.left, self._hopes, self._busy = False, 0, False, ""
        for job in self._jobs():
            if self._is_done(job):
                continue
            self.left += 1
            self._hopes |= job.name not in self._failed
            if reason := self.stops.reason():
                return reason
            if job.name in self._failed or self._is_taken(job) or not self._is_ready(job):
                continue
            log = self._paths.log(job.task.slug, job.index)
            try:
                with printing_to(log):
                    result = run_job(
                        job,
                        self.root,
                        attempt=self._attempt(job),
                        environment=self.environment,
                        patience=0,
                        watch=self._watch,
                    )
            except BusyError as error:
                self._busy = str(error)
                continue
            except NotReadyError:
                continue
            except PlanChangedError:
                self._read_plan()
                return True
            hint = "" if result.complete else f"; log: {log}"
            print(job_summary(job, result) + hint, flush=True)
            if result.interrupted:
                self.by_keyboard = result.by_keyboard
                return result.stopped
            claimed |= self._settle(job, result)
        return claimed

    def _settle(self, job: Job, result: JobResult) -> bool:
        if not result.complete:
            self._failed.add(job.name)
            return False
        self.left -= 1
        return True

    def _is_done(self, job: Job) -> bool:
        """Tell whether a job's sentinel is there and valid; looked at again when it changes."""
        path = self._paths.sentinel(job.task.slug, job.phase, job.index)
        try:
            facts = path.stat()
        except FileNotFoundError:
            return False
        key = (facts.st_ino, facts.st_mtime_ns)
        if self._valid.get(path) == key:
            return True
        if not is_sentinel_of(job.task, index_name(job.index), read_sentinel(path)):
            return False
        self._valid[path] = key
        return True

    def _is_ready(self, job: Job) -> bool:
        """Tell whether what a job waits for is done: conflicting jobs, and upstream ones."""
        return all(self._is_done(other) for other in self._needed(job))

    def _needed(self, job: Job) -> Iterator[Job]:
        for index in job.task.phases.predecessors(job.index):
            yield Job(self._plan, job.task, index)
        for name in job.task.upstream:
            up = self._plan.tasks[name]
            for index in job.task.needed_jobs(job.index, up):
                yield Job(self._plan, up, index)

    def _attempt(self, job: Job) -> int:
        """Return 1 unless somebody has tried the job since this worker began.

        Many workers that are started together so give a block one budget of attempts, and not
        one each; workers that are started later, after a repair, give it a new one.
        """
        path, first = self._ledger(job), first_block(job.task.own_grid)
        tried = read_records(path, first, start=self._sizes.get(path, 0))
        return 2 if (tried["event"] == Event.STARTED).any() else 1

    def _others_work(self) -> bool:
        """Tell whether somebody has a job in hand that could make one of ours ready."""
        lock = self._paths.lock
        if is_taken(lock, self._watch):
            return True
        names = self._upstream(self._task)
        return any(self._is_taken(job) for name in names for job in self._plan.jobs(name))

    def _is_taken(self, job: Job) -> bool:
        """Tell whether somebody who may be alive has a job in hand."""
        path = self._paths.job_lock(job.task.slug, job.index)
        return is_taken(path, self._watch)

    def _upstream(self, task: PlannedTask) -> set[str]:
        """Return the task and all that it depends on."""
        found = {task.name}
        for name in task.upstream:
            found |= self._upstream(self._plan.tasks[name])
        return found

    def _why_idle(self) -> str:
        waiting = sum(not self._is_done(job) and not self._is_ready(job) for job in self._jobs())
        text = f"{self._task.name}: {self.left} of {self._task.num_jobs} jobs are left"
        if self._failed:
            text += f", {len(self._failed)} failed here"
        if waiting:
            text += f", {waiting} wait for jobs that nobody runs"
        return f"{text}; {self._busy}" if self._busy else text
