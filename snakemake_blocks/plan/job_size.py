"""Jobs of a good size for a cluster, proposed from what blocks cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snakemake_blocks.geometry.batching import Target, batch_shape
from snakemake_blocks.plan.plan import PlannedTask

__all__ = ["BlockCosts", "JobSize", "job_size"]

# So long that starting a job (seconds) and waiting for it cost a percent, and so short that a lost
# node costs little.
_TARGET_SECONDS = 600.0
# Snakemake itself, once or twice per job, and the process that supervises the workers.
_BASE_MB = 500.0
_MEMORY_ROOM = 1.3
# Twice the time that was measured, for slower nodes and busy file systems.
_TIME_ROOM = 2.0
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class BlockCosts:
    """What done blocks of a task cost.

    Parameters
    ----------
    blocks : int
        How many were measured.
    seconds, longest : float
        Wall time: mean, and of the slowest.
    peak_mb : float
        Largest resident memory of a worker.
    """

    blocks: int
    seconds: float
    longest: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class JobSize:
    """A proposal for one task.

    Parameters
    ----------
    blocks_per_job : int
        Blocks of a job at most.
    mem_mb : int
        Memory of a job.
    runtime : int
        Walltime of a job in minutes.
    jobs : int
        How many jobs that makes.
    job_seconds : float
        What a full job takes by the costs measured.
    """

    blocks_per_job: int
    mem_mb: int
    runtime: int
    jobs: int
    job_seconds: float


def job_size(task: PlannedTask, costs: BlockCosts) -> JobSize:
    """Return jobs of about ten minutes with room for memory and time.

    Parameters
    ----------
    task : PlannedTask
        The task.
    costs : BlockCosts
        What its blocks cost.
    """
    wanted = _TARGET_SECONDS * task.budget.workers / max(costs.seconds, 1e-6)
    blocks = _round_down(min(wanted, task.num_blocks))
    shape = batch_shape(
        task.grid,
        blocks,
        reach=task.reach,
        has_setup=False,
        max_workers=task.budget.max_workers,
        target=Target.CLUSTER,
    )
    in_job = min(math.prod(shape), task.num_blocks)
    # The slowest block may come last, when the other workers are done.
    seconds = costs.seconds * in_job / task.budget.workers + costs.longest - costs.seconds
    minutes = (_TIME_ROOM * seconds + _START_SECONDS) / 60
    memory = _BASE_MB + _MEMORY_ROOM * task.budget.workers * costs.peak_mb
    return JobSize(
        blocks_per_job=blocks,
        mem_mb=_round_up(memory, 100),
        runtime=_round_up(minutes, 5),
        jobs=math.prod(-(-n // k) for n, k in zip(task.grid.shape, shape, strict=True)),
        job_seconds=seconds,
    )


def _round_down(value: float) -> int:
    """Return a number of two digits and zeros behind them, at least 1."""
    whole = max(1, int(value))
    step = int(10 ** max(0, len(str(whole)) - 2))
    return whole // step * step


def _round_up(value: float, step: int) -> int:
    return math.ceil(value / step) * step
