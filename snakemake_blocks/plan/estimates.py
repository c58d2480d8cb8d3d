"""What a plan will cost: inputs, path lengths, memory, files, CPU hours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.tasks.operation import Call

__all__ = ["Estimate", "estimate_plan"]

# Masked or small tasks: at most so many jobs, spread over the grid, are asked for their inputs.
_ASKED_JOBS = 512


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
        Bytes of the arrays that a job has in memory (``call: arrays`` only, else 0); the function's
        own temporaries come on top.
    files : int
        Files that running the task makes in the run directory.
    cpu_hours : float or None
        Work left over all blocks, None until block times are known.
    """

    inputs: int
    path: int
    memory: int
    files: int
    cpu_hours: float | None


def estimate_plan(plan: Plan, seconds: Mapping[str, float] | None = None) -> dict[str, Estimate]:
    """Return estimates per task.

    Parameters
    ----------
    plan : Plan
        The plan.
    seconds : mapping of str to float, optional
        Mean wall time of a block per task, where it is known.
    """
    path: dict[str, int] = {}
    found = {}
    for name, task in plan.tasks.items():
        path[name] = task.num_phases + max((path[up] for up in task.upstream), default=0)
        known = (seconds or {}).get(name)
        found[name] = Estimate(
            inputs=_most_inputs(plan, task),
            path=path[name],
            memory=_memory(task),
            # A job has a sentinel, a ledger and a log.
            files=3 * task.num_jobs + 2 * (sum(task.aggregates.levels) + 1),
            cpu_hours=None if known is None else known * task.num_blocks / 3600,
        )
    return found


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


def _memory(task: PlannedTask) -> int:
    if task.operation.call is not Call.ARRAYS:
        return 0
    middle = tuple(n // 2 for n in task.grid.shape)
    write, whole = task.grid.write(middle), task.grid.read(middle)
    held = [(array, whole) for array in task.operation.outputs]
    held += [(read.array, read.region(write, whole)) for read in task.operation.reads.values()]
    return task.budget.workers * sum(a.itemsize * a.voxels(box).size for a, box in held)
