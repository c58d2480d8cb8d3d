"""Proof of completeness: every planned block has a counting record, and what it wrote exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.completion import sentinel_of
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.products import lacking_products, lost_outputs, lost_parquet
from snakemake_blocks.state.reset import losses_of
from snakemake_blocks.state.tables import lost_rows
from snakemake_blocks.storage.arrays import open_array
from snakemake_blocks.system.files import read_file

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

    Chunks are asked for where blocks are done that write a declared array: all of them, but for
    those that were not there either when the block ended.
    """
    judge = Judge(plan, root)
    missing: list[str] = []
    proved: list[str] = []
    for task in plan.tasks.values():
        problems = [*_records(judge, task), *_sentinels(judge, task, root)]
        found, chunks = _chunks(judge, task, plan.folder(root))
        problems += found
        problems += [*_rows(judge, task), *_products(judge, task)]
        missing += problems
        if not problems:
            text = f"{task.name}: {task.num_blocks:,} blocks planned, all with a counting record"
            text += f"; {chunks:,} chunks exist" if chunks else ""
            names = ", ".join(task.operation.tables)
            text += f"; rows of all are in {names}" if names else ""
            outputs = ", ".join(task.operation.outputs)
            proved.append(text + (f"; {outputs} as they left it" if outputs else ""))
    return Verification(tuple(missing), tuple(proved))


def _records(judge: Judge, task: PlannedTask) -> Iterator[str]:
    judgement = judge.judge_all(task)
    lacking = np.argwhere(judgement.todo)
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


def _rows(judge: Judge, task: PlannedTask) -> Iterator[str]:
    """Yield the tables of which rows are lost."""
    for name, lost in lost_rows(judge, task).items():
        if lost.any():
            yield (
                f"{task.name}: rows of {int(lost.sum()):,} blocks of table {name} are lost; "
                "`snakemake-blocks run` (or `reset --missing` before it) makes the blocks anew"
            )


def _products(judge: Judge, task: PlannedTask) -> Iterator[str]:
    """Yield the outputs and Parquet files that are not what they were when the task was done."""
    lost = lost_outputs(judge, task, deep=True)
    for name, why in lost.items():
        yield (
            f"{task.name}: {name} {why}; `snakemake-blocks run` (or `reset --missing` before it) "
            "makes all blocks anew"
        )
    written = lost_parquet(judge, task, deep=True)
    for name, why in written.items():
        yield f"{task.name}: {name} {why}; `snakemake-blocks run` writes it anew"
    for name in lacking_products(judge, task):
        if name not in (*lost, *written):
            yield f"{task.name}: nothing is noted of {name}; `snakemake-blocks run` does that"


def _chunks(judge: Judge, task: PlannedTask, folder: Path) -> tuple[list[str], int]:
    problems: list[str] = []
    count = 0
    try:
        for array in task.operation.written:
            open_array(array, folder, writable=False)  # is it what was planned?
        for loss in losses_of(judge, task, folder):
            count += loss.wanted
            if loss.keys:
                more = f" and {len(loss.keys) - _LISTED:,} more" if len(loss.keys) > _LISTED else ""
                problems.append(
                    f"{task.name}: {len(loss.keys):,} of {loss.wanted:,} chunks of "
                    f"{loss.array.path} are missing: {', '.join(loss.keys[:_LISTED])}{more}; "
                    "`snakemake-blocks run` (or `reset --missing` before it) makes the blocks anew"
                )
    except InputError as error:
        problems.append(f"{task.name}: {error}")
    return problems, count
