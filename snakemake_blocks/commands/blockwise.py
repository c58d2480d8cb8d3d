"""``run_blockwise``: daisy's call, run by Snakemake, with the truth as its answer."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from snakemake_blocks.commands.generate import Options, check_pipeline
from snakemake_blocks.commands.run import run_pipeline
from snakemake_blocks.engine.launch import INTERRUPTED
from snakemake_blocks.errors import SpecError
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.status import RunStatus, TaskStatus
from snakemake_blocks.storage.creation import create_all
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.work.serial import run_serially

__all__ = ["RunResult", "TaskState", "run_blockwise"]


@dataclass(frozen=True, slots=True)
class TaskState:
    """Blocks of one task, counted as daisy counts them.

    Parameters
    ----------
    total_block_count : int
        Blocks to do; masked ones are not among them.
    ready_count, processing_count, pending_count : int
        Not done and not failed: waiting or running.
    completed_count : int
        Done, skipped ones included.
    skipped_count : int
        Done because the check before them said so.
    failed_count, orphaned_count : int
        Failed for good, and what needs those.
    masked_count : int
        Left out by the mask.
    """

    total_block_count: int
    ready_count: int
    processing_count: int
    pending_count: int
    completed_count: int
    skipped_count: int
    failed_count: int
    orphaned_count: int
    masked_count: int

    @classmethod
    def from_status(cls, status: TaskStatus) -> TaskState:
        """Return the counters of a task's status."""
        counts = status.counts
        return cls(
            total_block_count=status.total - counts[State.MASKED],
            ready_count=0,
            processing_count=counts[State.RUNNING],
            pending_count=counts[State.PENDING],
            completed_count=counts[State.DONE],
            skipped_count=status.skipped,
            failed_count=counts[State.FAILED],
            orphaned_count=counts[State.ORPHANED],
            masked_count=counts[State.MASKED],
        )

    def is_done(self) -> bool:
        """Tell whether every block is done (unlike daisy, where a failed one counts)."""
        return self.completed_count == self.total_block_count


@dataclass(frozen=True, slots=True)
class RunResult(Mapping[str, TaskState]):
    """What came of a run: task id to counters; true only if every block of every task is done.

    Parameters
    ----------
    status : RunStatus
        The full state, with failures and their causes.
    run_directory : Path or None
        Where ledgers and logs are; None if nothing was kept.
    interrupted : bool
        It was stopped before its end.
    """

    status: RunStatus
    run_directory: Path | None = None
    interrupted: bool = False

    def __getitem__(self, task_id: str) -> TaskState:
        return TaskState.from_status(self.status.tasks[task_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.status.tasks)

    def __len__(self) -> int:
        return len(self.status.tasks)

    def __bool__(self) -> bool:
        return self.status.complete

    def __str__(self) -> str:
        return "\n".join(
            f"{comment(name)}: {task.completed_count:,} of {task.total_block_count:,} blocks done, "
            f"{task.failed_count:,} failed, {task.orphaned_count:,} orphaned"
            for name, task in self.items()
        )


def run_blockwise(
    tasks: Sequence[Task] | Task,
    *,
    multiprocessing: bool = True,
    resources: Mapping[str, int] | None = None,
    run_directory: Path | str | None = None,
    cores: int | None = None,
    progress: bool = True,
    summary: bool = True,
) -> RunResult:
    """Run tasks, and the upstream tasks that they name, to the end.

    Parameters
    ----------
    tasks : Task or sequence of Task
        What to run.
    multiprocessing : bool
        False, for debugging: all blocks in this process, one after the other. The first exception
        goes up as it was raised; a block that sets its status to FAILED, or that the check after it
        refuses, is tried again and counted, as with True. Nothing is pickled or recorded.
    resources : mapping of str to int, optional
        Budgets over all tasks, of which ``Task(requires=...)`` takes: Snakemake's ``--resources``.
    run_directory : path, optional
        Where state is kept; the same directory again resumes. Default: a new temporary one, which
        is removed when every block is done.
    cores : int, optional
        Local cores; default: as many as the tasks' ``num_workers`` ask for.
    progress : bool
        Show a bar per task on standard error.
    summary : bool
        Print the execution summary at the end.

    Returns
    -------
    RunResult
        True only if every block of every task is done or masked.

    Raises
    ------
    SpecError
        With everything that is wrong with the tasks.
    BusyError
        If another run has the run directory in hand.
    KeyboardInterrupt
        If it was interrupted; what is done is on record.
    """
    listed = [tasks] if isinstance(tasks, Task) else list(tasks)
    budgets = dict(resources or {})
    if not multiprocessing:
        result = _in_this_process(listed)
    elif run_directory is not None:
        root = Path(run_directory).absolute()
        result = _with_snakemake(listed, root, _Asked(cores, budgets, progress))
    else:
        result = _in_temporary(listed, _Asked(cores, budgets, progress))
    if summary:
        from rich.console import Console

        from snakemake_blocks.view.report import print_status

        print_status(result.status, Console())
    if result.interrupted:
        raise KeyboardInterrupt
    return result


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller says of the run, beside its tasks."""

    cores: int | None
    budgets: Mapping[str, int]
    progress: bool
    more: tuple[str, ...] = ()


def _in_temporary(tasks: Sequence[Task], asked: _Asked) -> RunResult:
    """Run in a new directory, of which nothing is left unless its logs tell of failures."""
    root = Path(tempfile.mkdtemp(prefix="blocks-"))
    kept = False
    try:
        # Snakemake's own notes on files that will be gone are of no use to anybody.
        result = _with_snakemake(tasks, root, replace(asked, more=("--drop-metadata",)))
        kept = not result
    finally:
        if not kept:
            shutil.rmtree(root, ignore_errors=True)
    return result if kept else replace(result, run_directory=None)


def _with_snakemake(tasks: Sequence[Task], root: Path, asked: _Asked) -> RunResult:
    pipeline = Pipeline.from_tasks(tasks, folder=Path.cwd(), run_directory=root)
    problems = [p for task in pipeline.tasks for p in _budget_problems(task, asked.budgets)]
    if problems:
        raise SpecError(problems)
    budgets = [f"{name}={amount}" for name, amount in asked.budgets.items()]
    options = Options(
        cores=asked.cores or _cores(pipeline),
        quiet=not asked.progress,
        python_path=tuple(_own_path()),
        snakemake_arguments=(*asked.more, *(["--resources", *budgets] if budgets else [])),
    )
    code, status = run_pipeline(pipeline, options)
    return RunResult(status, root, interrupted=code == INTERRUPTED)


def _in_this_process(tasks: Sequence[Task]) -> RunResult:
    folder = Path.cwd()
    pipeline = Pipeline.from_tasks(tasks, folder=folder, run_directory=folder / "blocks")
    plan, proof = check_pipeline(pipeline, pickling=False)
    if proof.violations:
        raise SpecError(proof.violations)
    arrays = (array for planned in plan.tasks.values() for array in planned.operation.written)
    for line in create_all((a for a in arrays if not (folder / a.path).exists()), folder):
        print(line, file=sys.stderr, flush=True)
    return RunResult(run_serially(plan, folder))


def _budget_problems(task: Task, budgets: Mapping[str, int]) -> Iterator[str]:
    """Yield what a job of the task needs more of than there is: it would never start."""
    for name in task.requires:
        needed, given = task.budget.resources[name], budgets.get(name, 0)
        if int(needed) > given:
            yield (
                f"task {comment(task.task_id)}: requires.{name}: a job takes {needed}, the budget "
                f"is {given}; raise it with run_blockwise(..., resources={{{name!r}: {needed}}})"
            )


def _own_path() -> Iterator[str]:
    """Yield the folders from which this program imports and another Python would not.

    Functions with an import path travel by name, so jobs have to find their modules.
    """
    python = [Path(prefix).resolve() for prefix in {sys.prefix, sys.base_prefix}]
    for entry in map(Path, sys.path):
        folder = entry.resolve()  # "" is the working directory
        if folder.is_dir() and not any(folder.is_relative_to(p) for p in python):
            yield str(folder)


def _cores(pipeline: Pipeline) -> int:
    """Return how many cores the tasks ask for: a worker may wait for a cluster, or for disks."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sum(
        max(task.budget.max_workers or here, task.budget.workers) * task.budget.threads
        for task in pipeline.tasks
    )
