"""Proof of completeness: every planned block has a counting record, and what it wrote exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snakemake_blocks.arrays import missing_chunks
from snakemake_blocks.box import Box
from snakemake_blocks.completion import sentinel_of
from snakemake_blocks.files import read_file
from snakemake_blocks.judgement import Judge, Progress
from snakemake_blocks.paths import RunPaths
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.task import Call

__all__ = ["Verification", "verify_run"]

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at and what is missing.

    Parameters
    ----------
    missing : tuple of str
        One line per thing that is not as it has to be; empty for a complete run.
    proved : tuple of str
        One line per task.
    """

    missing: tuple[str, ...]
    proved: tuple[str, ...]


def verify_run(plan: Plan, root: Path) -> Verification:
    """Compare planned blocks with records, sentinels with records, and chunks with the store.

    Chunks are asked for where our worker writes them (``call: arrays``); it writes all of them,
    those that hold only the fill value included.
    """
    judge = Judge(plan, root)
    missing: list[str] = []
    proved: list[str] = []
    for task in plan.tasks.values():
        problems = [*_records(judge, task), *_sentinels(judge, task, root)]
        chunks = 0
        if task.call is Call.ARRAYS and not problems:
            found, chunks = _chunks(task, plan.folder(root))
            problems += found
        missing += problems
        if not problems:
            text = f"{task.name}: {task.num_blocks:,} blocks planned, all with a counting record"
            proved.append(text + (f"; {chunks:,} chunks exist" if chunks else ""))
    return Verification(tuple(missing), tuple(proved))


def _records(judge: Judge, task: PlannedTask) -> Iterator[str]:
    judgement = judge.judge_all(task)
    lacking = np.argwhere((judgement.progress != Progress.MASKED) & ~judgement.done)
    if len(lacking):
        names = ["-".join(str(int(k)) for k in index) for index in lacking[:_LISTED]]
        more = f" and {len(lacking) - _LISTED:,} more" if len(lacking) > _LISTED else ""
        yield (
            f"{task.name}: {len(lacking):,} of {task.num_blocks:,} blocks have no counting "
            f"record: {', '.join(names)}{more}"
        )


def _sentinels(judge: Judge, task: PlannedTask, root: Path) -> Iterator[str]:
    """Yield the sentinels that say something else than the ledgers."""
    paths = RunPaths(root)
    for job in judge.plan.jobs(task.name):
        path = paths.sentinel(task.slug, job.phase, job.index)
        wanted = sentinel_of(job, judge)
        if wanted is None:
            if path.exists():
                yield f"{path}: is there although blocks of the job are not done"
        elif not path.exists():
            yield f"{path}: is missing although all blocks of the job are done"
        elif read_file(path) != wanted.to_bytes():
            yield f"{path}: does not agree with the ledger"


def _chunks(task: PlannedTask, folder: Path) -> tuple[list[str], int]:
    problems: list[str] = []
    count = 0
    for write in task.writes.values():
        array = write.array
        written = (task.grid.write(index) for index in _present(task))
        lost, seen = missing_chunks(array, folder, _regions(task, written))
        count += seen
        if lost:
            more = f" and {len(lost) - _LISTED:,} more" if len(lost) > _LISTED else ""
            problems.append(
                f"{task.name}: {len(lost):,} of {seen:,} chunks of {array.path} are missing: "
                f"{', '.join(lost[:_LISTED])}{more}; "
                "`snakemake-blocks reset` has the blocks made anew"
            )
    return problems, count


def _present(task: PlannedTask) -> Iterator[tuple[int, ...]]:
    if task.jobs.present is None:
        return iter(task.grid)
    return (tuple(int(k) for k in i) for i in np.argwhere(task.jobs.present))


def _regions(task: PlannedTask, written: Iterator[Box]) -> Iterator[Box]:
    """Return the regions that were written: one where nothing is masked, else block by block."""
    return iter([task.grid.extent]) if task.jobs.present is None else written
