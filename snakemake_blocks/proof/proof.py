"""The proof, before anything runs, that a plan misses no voxel and lets no two jobs meet.

Everything is decided from geometry, one axis first and then the product over axes. Along an axis
blocks fall into classes: away from the few places where a region or an array begins or ends, the
pattern of blocks, chunks and upstream blocks repeats. One block of every class is looked at, so
on dense grids the cost does not depend on the number of blocks. Where blocks are masked, the
tables that the plan holds anyway are gone through as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from snakemake_blocks.errors import PlanError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.proof.findings import Findings, Proof, Subject
from snakemake_blocks.proof.order import check_chunks, check_order
from snakemake_blocks.proof.overlaps import common_arrays
from snakemake_blocks.proof.reading import check_after, check_reading
from snakemake_blocks.proof.writing import check_writing
from snakemake_blocks.tasks.task import Task

__all__ = ["check_plan"]


def check_plan(plan: Plan, tasks: Iterable[Task]) -> Proof:
    """Return the proof that a plan does what its tasks declare, or what stands against it.

    Proved are, for every task: each voxel of the region to write is written exactly once; any
    two conflicting blocks are ordered, in a job and between jobs; all that is read inside the
    region is existing data or written by a task that it waits for; blocks that may run together
    write no common storage chunk or shard, be they of one task or of two.

    Parameters
    ----------
    plan : Plan
        The plan.
    tasks : iterable of Task
        What it was made from, e.g. ``pipeline.tasks``.

    Raises
    ------
    PlanError
        If the plan was made from other tasks.

    Notes
    -----
    To read a chunk while another process replaces it is no violation: zarr replaces local chunks
    atomically since 3.1.3, and the voxels that are read do not change then.
    """
    declared = {task.task_id: task for task in tasks}
    if declared.keys() != plan.tasks.keys():
        raise PlanError(
            f"the plan has the tasks {', '.join(plan.tasks)}, declared are "
            f"{', '.join(declared)}; plan again"
        )
    findings = Findings()
    for task in plan.tasks.values():
        subject = Subject(plan, task, declared, findings)
        check_writing(subject)
        check_chunks(subject, ordered=check_order(subject))
        check_reading(subject)
        check_after(subject)
    violations, warnings = common_arrays(plan)
    findings.violations += violations
    findings.warnings += warnings
    return findings.proof()
