"""Tasks, arrays and plans made by hand, in one line each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from funlib.geometry import Roi
from strategies import FUNCTION

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths, SentinelName
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.state.judgement import block_fingerprints
from snakemake_blocks.state.ledger import Event, Ledger, first_block
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

Node = tuple[str, Index]


def roi(offset: int, shape: int, ndim: int = 1) -> Roi:
    return Roi((offset,) * ndim, (shape,) * ndim)


def make_task(**more: Any) -> Task:
    """Return a task of blocks that write 6 and read 4 before and after, changed."""
    known = {
        "task_id": "smooth",
        "total_roi": roi(0, 29),
        "read_roi": roi(0, 14),
        "write_roi": roi(4, 6),
        "process_function": FUNCTION,
        **more,
    }
    return Task(**known)


def array(ndim: int = 1, **more: Any) -> ArrayInfo:
    """Return an array of 40 voxels per axis, changed."""
    known = {
        "path": "sample.zarr/raw",
        "offset": (0,) * ndim,
        "voxel_size": (1,) * ndim,
        "shape": (40,) * ndim,
        "channels": (),
        "dtype": "uint8",
        "chunks": (10,) * ndim,
        **more,
    }
    return ArrayInfo(**known)


def plan_of(*tasks: Task, **more: Any) -> Plan:
    """Return the plan of tasks, by planning alone."""
    found = Pipeline.from_tasks(tasks, folder=Path("."), run_directory=Path("blocks"))
    return plan_pipeline(found, facts={}, **more)


def line(name: str = "smooth", *, blocks: int = 4, context: int = 4, **more: Any) -> Task:
    """Return a task of blocks of ten on a line from zero on."""
    return make_task(
        task_id=name,
        total_roi=roi(-context, blocks * 10 + 2 * context),
        read_roi=roi(-context, 10 + 2 * context),
        write_roi=roi(0, 10),
        **more,
    )


def waits(plan: Plan) -> dict[Node, list[Node]]:
    """Return the jobs that every job waits for, as its sentinels say."""
    names = {t.slug: t.name for t in plan.tasks.values()}
    found: dict[Node, list[Node]] = {}
    for name in plan.tasks:
        for job in plan.jobs(name):
            sentinels = [SentinelName.from_path(Path(path)) for path in job.inputs]
            found[name, job.index] = [(names[s.task_slug], s.index) for s in sentinels]
    return found


@dataclass
class Field:
    """Blocks written straight into ledgers, for laws that try many plans."""

    plan: Plan
    root: Path

    def do(self, index: Index, stamp: int) -> None:
        task = self.plan.tasks["task"]
        ledger = Ledger(
            RunPaths(self.root).ledger("task", task.job_of(index)), first_block(task.own_grid)
        )
        print_ = int(block_fingerprints(task, task.grid.indices)[index])
        ledger.append(Event.STARTED, index, fingerprint=print_, attempt=1)
        ledger.append(Event.DONE, index, fingerprint=print_, attempt=1, stamp=stamp)
        ledger.close()
