"""The ledgers as a table: one row per finished attempt."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_blocks.plan.job_size import BlockCosts
from snakemake_blocks.plan.paths import RunPaths, index_name
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import Event

__all__ = ["COLUMNS", "attempt_rows", "block_costs", "block_seconds", "write_csv"]

COLUMNS = (
    "task",
    "block",
    "job",
    "event",
    "attempt",
    "start",
    "wall_seconds",
    "cpu_seconds",
    "peak_kib",
    "bytes_read",
    "bytes_written",
    "host",
    "pid",
)
_ENDS = (Event.DONE, Event.FAILED, Event.SKIPPED, Event.RELEASED)


def write_csv(plan: Plan, root: Path, path: Path) -> int:
    """Write every finished attempt on record to a CSV file; return how many there are."""
    count = 0
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in attempt_rows(plan, root):
            writer.writerow(row)
            count += 1
    return count


def attempt_rows(plan: Plan, root: Path) -> Iterator[tuple[Any, ...]]:
    """Yield one tuple per finished attempt, in the order of :data:`COLUMNS`."""
    judge = Judge(plan, root)
    for task in plan.tasks.values():
        for job in plan.jobs(task.name):
            for record in judge.records(task, job.index):
                event = Event(int(record["event"]))
                if event not in _ENDS:
                    continue
                yield (
                    task.name,
                    index_name([int(k) for k in record["index"]]),
                    index_name(job.index),
                    event.name.lower(),
                    int(record["attempt"]),
                    round(float(record["start"]), 3),
                    round(float(record["wall"]), 6),
                    round(float(record["cpu"]), 6),
                    int(record["peak_kib"]),
                    int(record["bytes_read"]),
                    int(record["bytes_written"]),
                    record["host"].decode(errors="replace"),
                    int(record["pid"]),
                )


def block_seconds(plan: Plan, folder: Path) -> dict[str, float]:
    """Return the mean wall time of a done block per task, for tasks with any on record.

    Parameters
    ----------
    plan : Plan
        A plan; its run directory may not exist yet.
    folder : Path
        The pipeline's folder.
    """
    return {
        name: costs.seconds
        for name, costs in block_costs(plan, folder / plan.run_directory).items()
    }


def block_costs(plan: Plan, root: Path) -> dict[str, BlockCosts]:
    """Return what done blocks cost per task, for tasks with any on record.

    Parameters
    ----------
    plan : Plan
        The plan.
    root : Path
        The run directory; may not exist yet.
    """
    judge = Judge(plan, root)
    found = {}
    for name, task in plan.tasks.items():
        if RunPaths(root).task(task.slug).exists() and (costs := _costs(judge, task)):
            found[name] = costs
    return found


def _costs(judge: Judge, task: PlannedTask) -> BlockCosts | None:
    done = [
        (float(record["wall"]), int(record["peak_kib"]))
        for job in judge.plan.jobs(task.name)
        for record in judge.records(task, job.index)
        if record["event"] == Event.DONE
    ]
    if not done:
        return None
    walls = [wall for wall, _ in done]
    return BlockCosts(
        blocks=len(done),
        seconds=sum(walls) / len(done),
        longest=max(walls),
        peak_mb=max(peak for _, peak in done) * 1024 / 1e6,
    )
