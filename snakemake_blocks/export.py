"""The ledgers as a table: one row per finished attempt."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakemake_blocks.judgement import Judge
from snakemake_blocks.ledger import Event
from snakemake_blocks.paths import RunPaths, index_name
from snakemake_blocks.plan import Plan

__all__ = ["COLUMNS", "attempt_rows", "block_seconds", "write_csv"]

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
    with open(path, "w", newline="", encoding="utf-8") as file:
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
    judge = Judge(plan, folder / plan.run_directory)
    found = {}
    for name, task in plan.tasks.items():
        if not RunPaths(judge.root).task(task.slug).exists():
            continue
        walls = [
            float(record["wall"])
            for job in plan.jobs(name)
            for record in judge.records(task, job.index)
            if record["event"] == Event.DONE
        ]
        if walls:
            found[name] = sum(walls) / len(walls)
    return found
