"""``run_blockwise``: daisy's call, run by Snakemake, with the truth as its answer."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_blocks.pipeline import Pipeline
from snakemake_blocks.running import Options, run_pipeline
from snakemake_blocks.status import RunStatus, State, TaskStatus
from snakemake_blocks.task import Task

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
    run_directory : Path
        Where ledgers and logs are.
    """

    status: RunStatus
    run_directory: Path

    def __getitem__(self, task_id: str) -> TaskState:
        return TaskState.from_status(self.status.tasks[task_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.status.tasks)

    def __len__(self) -> int:
        return len(self.status.tasks)

    def __bool__(self) -> bool:
        return self.status.complete


def run_blockwise(
    tasks: Sequence[Task] | Task,
    *,
    run_directory: Path | str | None = None,
    cores: int | None = None,
    quiet: bool = True,
    summary: bool = True,
) -> RunResult:
    """Run tasks, and the upstream tasks that they name, to the end.

    Parameters
    ----------
    tasks : Task or sequence of Task
        What to run.
    run_directory : path, optional
        Where state is kept; the same directory again resumes. Default: a new temporary one.
    cores : int, optional
        Local cores; default: what the tasks' ``num_workers`` ask for, at most those there are.
    quiet : bool
        Only errors of Snakemake are shown.
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
    """
    listed = [tasks] if isinstance(tasks, Task) else list(tasks)
    if run_directory is None:
        root = Path(tempfile.mkdtemp(prefix="blocks-"))
    else:
        root = Path(run_directory).absolute()
    pipeline = Pipeline.from_tasks(listed, folder=Path.cwd(), run_directory=root)
    options = Options(cores=cores or _cores(pipeline), quiet=quiet, python_path=tuple(_own_path()))
    _, status = run_pipeline(pipeline, options)
    if summary:
        from rich.console import Console

        from snakemake_blocks.report import print_status

        print_status(status, Console())
    return RunResult(status, root)


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
    """Return how many cores the tasks can use, at most those that this process may use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = sum((task.most_workers or here) * task.threads for task in pipeline.tasks)
    return max(1, min(here, wanted))
