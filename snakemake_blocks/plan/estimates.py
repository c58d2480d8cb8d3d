"""What a plan will cost: inputs, path lengths, memory, files, CPU hours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.dependencies import needed_blocks
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Call

__all__ = ["Estimate", "Output", "estimate_plan", "files_of", "outputs_of"]

# Masked or small tasks: at most so many jobs, spread over the grid, are asked for their inputs.
_ASKED_JOBS = 512


@dataclass(frozen=True, slots=True)
class Output:
    """What a task stores in an array.

    Parameters
    ----------
    path : str
        The array.
    files : int
        Chunks, or shards, that its blocks write; masked ones counted as well.
    bytes : int
        Their values, before compression.
    """

    path: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one task will cost.

    Parameters
    ----------
    inputs : int
        Largest number of inputs of a job.
    path : int
        Jobs that wait for one another at most, upstream tasks included.
    memory : int
        Bytes of the arrays (with ``call: arrays``) and of the rows that a job has in memory; the
        function's own temporaries come on top. Rows are known once there are some of the task that
        makes them.
    files : int
        Files that running the task makes in the run directory.
    cpu_hours : float or None
        Work left over all blocks, None until block times are known.
    outputs : tuple of Output
        What it stores.
    """

    inputs: int
    path: int
    memory: int
    files: int
    cpu_hours: float | None
    outputs: tuple[Output, ...] = ()


def estimate_plan(
    plan: Plan,
    seconds: Mapping[str, float] | None = None,
    rows: Mapping[tuple[str, str], float] | None = None,
) -> dict[str, Estimate]:
    """Return estimates per task.

    Parameters
    ----------
    plan : Plan
        The plan.
    seconds : mapping of str to float, optional
        Mean wall time of a block per task, where it is known.
    rows : mapping of (str, str) to float, optional
        Mean bytes of a block's rows by task and table, where they are known.
    """
    path: dict[str, int] = {}
    found = {}
    for name, task in plan.tasks.items():
        path[name] = task.num_phases + max((path[up] for up in task.upstream), default=0)
        known = (seconds or {}).get(name)
        found[name] = Estimate(
            inputs=_most_inputs(plan, task),
            path=path[name],
            memory=_memory(task) + _memory_of_rows(plan, task, rows or {}),
            files=files_of(task),
            outputs=outputs_of(task),
            cpu_hours=None if known is None else known * task.num_blocks / 3600,
        )
    return found


def files_of(task: PlannedTask) -> int:
    """Return about how many files a task makes in the run directory."""
    # A job has a sentinel, a ledger and a log.
    return 3 * task.num_jobs + 2 * (sum(task.aggregates.levels) + 1)


def outputs_of(task: PlannedTask) -> tuple[Output, ...]:
    """Return what a task stores in each of its arrays."""
    return tuple(_output(array, task) for array in task.operation.written)


def _output(array: ArrayInfo, task: PlannedTask) -> Output:
    voxels = array.voxels(task.grid.extent).intersect(Box.from_shape(array.shape))
    if not voxels:
        return Output(array.path, 0, 0)
    return Output(array.path, array.files(array.stored(voxels)).size, array.itemsize * voxels.size)


def _most_inputs(plan: Plan, task: PlannedTask) -> int:
    """Return the largest number of inputs; on dense grids jobs in the middle have the most."""
    shape = task.jobs.jobs.shape
    if task.jobs.present is None and math.prod(shape) > _ASKED_JOBS:
        middle = [range(max(0, n // 2 - 1), min(n, n // 2 + 3)) for n in shape]
        jobs = [Job(plan, task, index) for index in itertools.product(*middle)]
    else:
        step = -(-task.num_jobs // _ASKED_JOBS)
        numbers = range(0, task.num_jobs, step or 1)
        jobs = [Job(plan, task, task.job_index(number)) for number in numbers]
    return max((len(job.inputs) for job in jobs), default=0)


def _memory_of_rows(plan: Plan, task: PlannedTask, rows: Mapping[tuple[str, str], float]) -> int:
    """Return the bytes of the rows that the workers of a job are given for a block each."""
    middle, total = tuple((n - 1) // 2 for n in task.grid.shape), 0.0
    for read in task.operation.table_reads.values():
        up = plan.tasks[read.task]
        count = up.num_blocks
        if up.name not in task.whole:
            count = needed_blocks(task.toward(up).grid, middle, up.grid).size
        total += count * rows.get((read.task, read.table), 0.0)
    return task.budget.workers * int(total)


def _memory(task: PlannedTask) -> int:
    if task.operation.call is not Call.ARRAYS:
        return 0
    middle = tuple((n - 1) // 2 for n in task.grid.shape)
    write, whole = task.grid.write(middle), task.grid.read(middle)
    held = [(array, whole) for array in task.operation.written]
    if task.group:  # what waits to be stored together, by itself and put together
        box = task.stored_grid.write((0,) * task.grid.ndim)
        held += [(array, box) for array in task.operation.written] * 2
    held += [(read.array, read.region(write, whole)) for read in task.operation.reads.values()]
    return task.budget.workers * sum(a.itemsize * a.voxels(box).size for a, box in held)
