"""Forgetting work so that it runs again: blocks, and what depends on them inside their task.

Downstream tasks need no record: their blocks have seen stamps that are then gone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.box import Box, Index
from snakemake_blocks.errors import InputError
from snakemake_blocks.forgetting import forget, latest_first
from snakemake_blocks.judgement import Judge, Progress
from snakemake_blocks.moving import changing_state, settle_sentinels
from snakemake_blocks.plan import Plan, PlannedTask

__all__ = ["reset_blocks"]


def reset_blocks(
    plan: Plan, root: Path, name: str, *, roi: Box | None = None, only_failed: bool = False
) -> int:
    """Forget results of a task; the caller holds the run lock and no job runs.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    root : Path
        The run directory.
    name : str
        The task.
    roi : Box, optional
        Only blocks whose write Roi meets it, in world units; and those that conflict with them
        in later phases, which have read their output.
    only_failed : bool
        Only failed blocks.

    Returns
    -------
    int
        Blocks that were reset.

    Raises
    ------
    InputError
        If there is no such task, or the roi has other axes.
    BusyError
        While a job runs.
    """
    if name not in plan.tasks:
        raise InputError(f"there is no task {name!r}; known are {', '.join(plan.tasks)}")
    task = plan.tasks[name]
    if roi is not None and roi.ndim != task.grid.ndim:
        raise InputError(f"--roi has {roi.ndim} axes, task {name} has {task.grid.ndim}")
    with changing_state(root):
        indices = _chosen(task, Judge(plan, root), roi, only_failed=only_failed)
        forget(task, root, indices)
        settle_sentinels(Judge(plan, root), root)
    return len(indices)


def _chosen(task: PlannedTask, judge: Judge, roi: Box | None, *, only_failed: bool) -> list[Index]:
    """Return the blocks to reset: those with anything on record."""
    judgement = judge.judge_all(task)
    chosen = np.zeros(task.grid.shape, bool)
    box = task.grid.indices if roi is None else task.grid.writing(roi)
    chosen[tuple(slice(b, e) for b, e in zip(box.begin, box.end, strict=True))] = True
    if only_failed:
        chosen &= np.isin(judgement.progress, (Progress.FAILED, Progress.STARTED))
    else:
        _add_later_neighbours(task, chosen)
    chosen &= (judgement.progress >= Progress.STARTED) | judgement.stale
    return latest_first(task, np.argwhere(chosen))


def _add_later_neighbours(task: PlannedTask, chosen: NDArray[np.bool_]) -> None:
    """Add, transitively, the blocks that conflict with a chosen one and come after it."""
    if not any(task.reach) or chosen.all():
        return
    frontier = [tuple(int(k) for k in i) for i in np.argwhere(chosen)]
    while frontier:
        index = frontier.pop()
        for other in task.ordered_with(index)[1]:
            if not chosen[other]:
                chosen[other] = True
                frontier.append(other)
