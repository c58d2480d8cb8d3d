"""Running one block in the foreground."""

from __future__ import annotations

import os
import re
from pathlib import Path

from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.geometry.block import cantor_index
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.system.locks import Watch, held, in_hand_of, is_taken
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.work.block_work import Work
from snakemake_blocks.work.job import neighbours
from snakemake_blocks.work.table_input import TableInput

__all__ = ["find_block", "run_one_block"]


def find_block(task: PlannedTask, text: str) -> Index:
    """Return the grid index that ``1-2`` (an index) or ``7`` (daisy's id) names.

    A plain number is an index on a 1-D grid, daisy's id on any other.

    Raises
    ------
    InputError
        If the task has no such block, or it is masked.
    """
    numbers = text.split("-")
    if not all(re.fullmatch("[0-9]{1,100}", n) for n in numbers):
        raise InputError(f"{text!r:.60} names no block; write an index like 1-2, or daisy's id")
    index = tuple(int(n) for n in numbers)
    if len(index) == 1 and task.grid.ndim > 1:
        first = (low // w for low, w in zip(task.grid.lower, task.grid.block_size, strict=True))
        counted = cantor_index(index[0], task.grid.ndim)
        index = tuple(k - f for k, f in zip(counted, first, strict=True))
        if not task.grid.indices.contains(index):
            raise InputError(f"task {task.name} has no block with the id {text}")
    if len(index) != task.grid.ndim or not task.grid.indices.contains(index):
        raise InputError(f"task {task.name} has blocks 0 to {task.grid.shape}, none is {text}")
    if task.jobs.present is not None and not task.jobs.present[index]:
        raise InputError(f"block {text} of task {task.name} is masked")
    return index


def run_one_block(plan: Plan, root: Path, name: str, block: str, *, debugger: bool) -> None:
    """Run one block in this process, without timeout, retries or record.

    Parameters
    ----------
    plan, root
        The plan in place, and its run directory.
    name, block : str
        Task, and block as in :func:`find_block`.
    debugger : bool
        Enter pdb where an exception is raised.

    Raises
    ------
    InputError
        If there is no such block, or its task is a worker loop.
    BusyError
        If its job, one that conflicts with it, or the state as a whole is in somebody's hands.
    """
    if name not in plan.tasks:
        raise InputError(f"there is no task {name!r}; known are {', '.join(plan.tasks)}")
    task = plan.tasks[name]
    if task.operation.call is Call.WORKER:
        raise InputError(f"task {name}: is a worker loop (call: worker); start the script instead")
    index = find_block(task, block)
    paths = RunPaths(root)
    lock = paths.job_lock(task.slug, task.job_of(index))
    with held(lock, os.environ, what=f"the job of block {block}") as mine:
        _refuse_neighbours(Job(plan, task, task.job_of(index)), paths)
        work = Work(
            task,
            plan.folder(root),
            paths.functions.absolute(),
            logs=paths.logs(task.slug).absolute(),
            guard=lambda: mine.confirm(),
            tables=TableInput.of_task(plan, root, task),
        )
        try:
            work.set_up()
            work.clear(task.block(index), again=True)
            work.process(task.block(index))
        except Exception:
            if debugger:
                import pdb
                import sys

                pdb.post_mortem(sys.exc_info()[2])
            raise
        finally:
            work.tear_down()


def _refuse_neighbours(job: Job, paths: RunPaths) -> None:
    """Refuse while somebody is at work who would read or write what the block does.

    Whoever begins later sees the lock of the block's job, and waits.
    """
    others = {f"job {n.name}": paths.job_lock(n.task.slug, n.index) for n in neighbours(job)}
    for what, lock in {"the state": paths.moving, **others}.items():
        if is_taken(lock, Watch()):
            raise BusyError(f"{what} is {in_hand_of(lock)}; wait for it")
