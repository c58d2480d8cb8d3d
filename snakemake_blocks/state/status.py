"""The state of a run directory, read from ledgers and sentinels and never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths, index_name, index_of
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.failures import Failure, grouped, read_failures
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.notes import read_notes
from snakemake_blocks.state.products import lacking_products
from snakemake_blocks.state.reasons import blocks_of_other_source, jobs_without_sentinel, reasons_of
from snakemake_blocks.system.locks import holder_of, is_alive

__all__ = ["RunStatus", "TaskStatus", "mark_orphans", "read_status"]


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """Blocks of one task per state.

    Parameters
    ----------
    name : str
        The task.
    counts : dict of State to int
        They sum up to ``total``.
    skipped : int
        Blocks among the done ones that a check found done.
    stale : int
        Blocks among the pending ones with a result that no longer counts.
    reasons : dict of str to int
        Why pending blocks that were done, or begun, will run again, with their number.
    other_source : int
        Blocks among the done ones whose results another source of the function made.
    lost_sentinels : int
        Jobs of which every block is done and no sentinel says so; the next run writes it.
    lacking : tuple of str
        Files that a task is to leave, all of whose blocks are done, and that are not there or of
        which it was not noted what they hold; the next run does that.
    notes : tuple of str
        What workers had to say once of the task, e.g. that fractions are cut off.
    failures : tuple of Failure
        The last failure of every failed block, and failed set-ups.
    orphans : tuple of tuple of int
        Indices of the orphaned blocks.
    seconds : float
        Wall time of the done blocks, summed.
    held : dict of str to int
        Pending blocks that wait for other blocks of a failed job, by job.
    waiting : dict of str to int
        Of the other pending blocks those that wait for an upstream task, by its name.
    """

    name: str
    counts: dict[State, int]
    skipped: int = 0
    stale: int = 0
    failures: tuple[Failure, ...] = ()
    orphans: tuple[Index, ...] = ()
    seconds: float = 0.0
    held: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    other_source: int = 0
    lost_sentinels: int = 0
    lacking: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All blocks of the grid."""
        return sum(self.counts.values())

    @property
    def complete(self) -> bool:
        """Every block is done or masked, and the files that the task leaves are there."""
        done = self.counts[State.DONE] + self.counts[State.MASKED] == self.total
        return done and not self.lacking

    @property
    def not_begun(self) -> int:
        """Pending blocks that wait for no other task and for no failed job."""
        others = sum(self.held.values()) + sum(self.waiting.values())
        return self.counts[State.PENDING] - others

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "total": self.total,
            **{str(state): count for state, count in self.counts.items()},
            "skipped": self.skipped,
            "stale": self.stale,
            "reasons": self.reasons,
            "other_source": self.other_source,
            "lost_sentinels": self.lost_sentinels,
            "lacking": list(self.lacking),
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
            "held": self.held,
            "waiting": self.waiting,
            "not_begun": self.not_begun,
            "orphaned_blocks": [list(i) for i in self.orphans],
            "failures": [
                {
                    "cause": cause,
                    "message": found[-1].message,
                    "blocks": [list(f.index) for f in found],
                    "log": found[-1].log,
                }
                for cause, found in grouped(self.failures).items()
            ],
        }


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Status of all tasks of a plan.

    Parameters
    ----------
    tasks : dict of str to TaskStatus
        By name.
    ended : str
        Why blocks that could run do not, empty while something runs.
    """

    tasks: dict[str, TaskStatus]
    ended: str = ""

    @property
    def complete(self) -> bool:
        """Every block of every task is done or masked."""
        return all(task.complete for task in self.tasks.values())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "complete": self.complete,
            "ended": self.ended,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
        }


def read_status(plan: Plan, root: Path) -> RunStatus:
    """Return the state of every task.

    Costs about a microsecond per ledger record, and O(blocks) memory.
    """
    judge = Judge(plan, root)
    paths = RunPaths(root)
    states = {name: _states(judge, task, paths) for name, task in plan.tasks.items()}
    mark_orphans(plan, states)
    free = {name: found == State.PENDING for name, found in states.items()}
    held = _all_held(plan, states, free)
    tasks = {
        name: _task_status(judge, task, states[name], free[name], held[name], paths)
        for name, task in plan.tasks.items()
    }
    return RunStatus(tasks, _why_idle(tasks, paths))


def _why_idle(tasks: dict[str, TaskStatus], paths: RunPaths) -> str:
    """Return why nothing more happens, empty if something does."""
    run = holder_of(paths.lock)
    if run is not None and is_alive(run) is not False:
        return ""
    if any(task.counts[State.RUNNING] for task in tasks.values()):
        return ""
    if paths.drain.exists():
        return f"{paths.drain} says that none may begin; `snakemake-blocks run` removes it"
    return "no run goes on"


def _states(judge: Judge, task: PlannedTask, paths: RunPaths) -> NDArray[np.uint8]:
    """Return the state of every block, orphans not yet told apart from pending ones.

    A job that nobody has in hand is over: what it began runs no more, and what failed stays so.
    """
    judgement = judge.judge_all(task)
    begun, failed = judgement.state == State.RUNNING, judgement.state == State.FAILED
    states = np.where(begun | failed, np.uint8(State.PENDING), judgement.state)
    budget = task.budget.retries + 1
    for job in _jobs_of(task, begun | failed):
        where = task.jobs.members(job).slices
        spent = judgement.attempts[where] >= budget
        if _is_held(paths, task, job):
            states[where][begun[where]] = State.RUNNING
            states[where][failed[where] & spent] = State.FAILED
        else:
            states[where][failed[where] | (begun[where] & spent)] = State.FAILED
    return states


def _jobs_of(task: PlannedTask, chosen: NDArray[np.bool_]) -> Iterator[Index]:
    """Yield the jobs that have a chosen block."""
    found = np.argwhere(chosen) // np.asarray(task.jobs.batch)
    for job in np.unique(found, axis=0) if len(found) else ():
        yield tuple(int(k) for k in job)


def _is_held(paths: RunPaths, task: PlannedTask, job: Index) -> bool:
    """Tell whether somebody who may be alive has the job in hand."""
    holder = holder_of(paths.job_lock(task.slug, job))
    return holder is not None and is_alive(holder) is not False


def mark_orphans(plan: Plan, states: dict[str, NDArray[np.uint8]]) -> None:
    """Mark what cannot be done because of a failed block: in later phases, and downstream.

    Parameters
    ----------
    plan : Plan
        The plan.
    states : dict
        Per task an array of :class:`State`; pending blocks become orphaned ones.
    """
    lost: dict[str, set[Index]] = {}
    for name, task in plan.tasks.items():
        found = {tuple(map(int, i)) for i in np.argwhere(states[name] == State.FAILED)}
        found |= _below_lost(plan, task, states[name], lost)
        _spread_in_task(task, states[name], found)
        for index in found:
            if states[name][index] == State.PENDING:
                states[name][index] = State.ORPHANED
        lost[name] = found


def _below_lost(
    plan: Plan, task: PlannedTask, states: NDArray[np.uint8], lost: dict[str, set[Index]]
) -> set[Index]:
    """Return the pending blocks that read what a lost upstream block was to write."""
    found: set[Index] = set()
    for name in task.upstream:
        up = plan.tasks[name]
        # Whoever waits for all of a task waits for each of its blocks: one of them tells.
        for index in list(lost[name])[: 1 if name in task.whole else None]:
            found.update(
                block for block in task.blocks_below(up, index) if states[block] == State.PENDING
            )
    return found


def _spread_in_task(task: PlannedTask, states: NDArray[np.uint8], found: set[Index]) -> None:
    """Add the pending blocks that conflict with a lost one and come after it."""
    if not any(task.reach):
        return
    frontier = list(found)
    while frontier:
        index = frontier.pop()
        for other in task.ordered_with(index)[1]:
            if states[other] == State.PENDING and other not in found:
                found.add(other)
                frontier.append(other)


def _task_status(
    judge: Judge,
    task: PlannedTask,
    states: NDArray[np.uint8],
    free: NDArray[np.bool_],
    held: dict[str, int],
    paths: RunPaths,
) -> TaskStatus:
    judgement = judge.judge_all(task)
    pending = states == State.PENDING
    counts = np.bincount(states.ravel(), minlength=len(State))
    failed = states == State.FAILED
    return TaskStatus(
        name=task.name,
        counts={state: int(counts[state]) for state in State},
        skipped=int(judgement.skipped.sum()),
        stale=int((judgement.stale & pending).sum()),
        reasons=reasons_of(judge, task, pending),
        other_source=blocks_of_other_source(judge, task),
        lost_sentinels=jobs_without_sentinel(judge, task),
        lacking=tuple(lacking_products(judge, task)),
        notes=tuple(read_notes(paths.notes(task.slug), task.fingerprint)),
        failures=tuple(_failures(task, failed, paths)),
        orphans=tuple(tuple(int(k) for k in i) for i in np.argwhere(states == State.ORPHANED)),
        seconds=judge.seconds(task),
        held=held,
        waiting=_waiting(judge, task, free),
    )


def _waiting(judge: Judge, task: PlannedTask, left: NDArray[np.bool_]) -> dict[str, int]:
    """Return how many of the blocks wait for each upstream task, the first that they wait for."""
    found = {}
    for name, lacking in judge.lacking(task).items() if left.any() else ():
        if (left & lacking).any():
            found[name] = int((left & lacking).sum())
            left = left & ~lacking
    return found


def _failures(task: PlannedTask, failed: NDArray[np.bool_], paths: RunPaths) -> Iterator[Failure]:
    """Yield the last failure of every failed block, and set-ups that failed."""
    folder = paths.logs(task.slug)
    last: dict[tuple[Index, str], Failure] = {}
    for path in sorted(folder.glob("*/*.failures.jsonl")):
        stem = path.name.removesuffix(".failures.jsonl")
        log = str(path.with_name(f"{stem}.log"))  # as seen from here, not from where it ran
        for failure in read_failures(path):
            last[failure.index, "" if failure.index else stem] = replace(failure, log=log)
    for (index, job), failure in last.items():
        inside = len(index) == failed.ndim and task.grid.indices.contains(index)
        if failed[index] if inside else not index and not _has_sentinel(task, job, paths):
            yield failure


def _has_sentinel(task: PlannedTask, name: str, paths: RunPaths) -> bool:
    job = index_of(name) or ()
    if len(job) != task.grid.ndim or not task.jobs.jobs.indices.contains(job):
        return True
    return paths.sentinel(task.slug, task.phases.of(job), job).exists()


def _all_held(
    plan: Plan, states: dict[str, NDArray[np.uint8]], free: dict[str, NDArray[np.bool_]]
) -> dict[str, dict[str, int]]:
    """Return per task how many pending blocks a failed job holds up, by that job's name.

    A job that waits for a failed job does not start, also for blocks that need none of the
    failed ones. Blocks that are held are taken out of ``free``.
    """
    found: dict[str, dict[str, int]] = {name: {} for name in plan.tasks}
    if not any((s == State.FAILED).any() for s in states.values()):
        return found
    blocked: dict[str, dict[Index, str]] = {}
    for name, task in plan.tasks.items():
        failed = _jobs_of(task, states[name] == State.FAILED)
        blocked[name] = {job: f"{name}/{index_name(job)}" for job in failed}
        for job in plan.jobs(name):  # phase by phase, so what it waits for comes first
            holder = _holder(plan, task, job.index, blocked)
            if holder is None or job.index in blocked[name]:
                continue
            blocked[name][job.index] = holder
            part = free[name][task.jobs.members(job.index).slices]
            waiting = int(part.sum())
            part[...] = False
            if waiting:
                found[name][holder] = found[name].get(holder, 0) + waiting
    return found


def _holder(
    plan: Plan, task: PlannedTask, job: Index, blocked: dict[str, dict[Index, str]]
) -> str | None:
    """Return the failed job that a job waits for, directly or not."""
    for other in task.phases.predecessors(job):
        if other in blocked[task.name]:
            return blocked[task.name][other]
    for name in task.upstream:
        if blocked[name]:
            for other in task.needed_jobs(job, plan.tasks[name]):
                if other in blocked[name]:
                    return blocked[name][other]
    return None
