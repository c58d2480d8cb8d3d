"""Forgetting work so that it runs again: blocks, and what depends on them inside their task.

Downstream tasks need no record: their blocks have seen stamps that are then gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.forgetting import forget, latest_first
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.moving import changing_state, settle_sentinels
from snakemake_blocks.state.notes import drop_notes
from snakemake_blocks.state.products import lost_outputs
from snakemake_blocks.state.tables import lost_rows
from snakemake_blocks.storage.presence import Loss, losses
from snakemake_blocks.tasks.pipeline import set_up_name

__all__ = ["find_missing", "losses_of", "missing_lines", "reset_blocks", "reset_missing"]


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
    task = _known(plan, name)
    if roi is not None and roi.ndim != task.grid.ndim:
        raise InputError(f"--roi has {roi.ndim} axes, task {name} has {task.grid.ndim}")
    with changing_state(root, plan):
        indices = _chosen(task, Judge(plan, root), roi, only_failed=only_failed)
        forget(task, root, indices)
        settle_sentinels(Judge(plan, root), root)
    if roi is None and not only_failed:
        drop_notes(RunPaths(root).notes(task.slug))
    return len(indices)


def losses_of(judge: Judge, task: PlannedTask, folder: Path) -> Iterator[Loss]:
    """Yield what the done blocks of a task have written and is not there, array by array.

    Raises
    ------
    InputError
        If an array is gone.
    """
    return losses(
        task.operation.written,
        task.grid,
        folder,
        done=judge.judge_all(task).done,
        absent=judge.history(task, task.grid.indices).absent,
    )


def reset_missing(
    plan: Plan, root: Path, folder: Path, *, name: str = ""
) -> dict[str, tuple[int, int]]:
    """Forget results of which chunks are gone from the store; the caller holds the run lock.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    root : Path
        The run directory.
    folder : Path
        The pipeline's folder.
    name : str
        Only of this task.

    Returns
    -------
    dict of str to (int, int)
        Per task with any: chunks that are missing, and blocks that were reset.

    Raises
    ------
    InputError
        If there is no such task, or an array is gone.
    BusyError
        While a job runs.
    """
    if name:
        _known(plan, name)
    found = find_missing(Judge(plan, root), folder, name=name)
    if found:
        with changing_state(root, plan):
            for task_name, (_, indices) in found.items():
                forget(plan.tasks[task_name], root, indices)
            settle_sentinels(Judge(plan, root), root)
    return {task: (count, len(indices)) for task, (count, indices) in found.items()}


def find_missing(
    judge: Judge, folder: Path, *, name: str = ""
) -> dict[str, tuple[int, list[Index]]]:
    """Return per task how much is gone, and the blocks to be done anew, latest first.

    Gone are chunks, rows of a block in a table, and outputs, which are of all blocks; a set-up runs
    before these again.

    Parameters
    ----------
    judge : Judge
        Of the run directory.
    folder : Path
        The pipeline's folder.
    name : str
        Only of this task.

    Raises
    ------
    InputError
        If an array is gone.
    """
    plan = judge.plan
    found: dict[str, tuple[int, list[Index]]] = {}
    for task in [plan.tasks[name]] if name else plan.tasks.values():
        # Of tasks without any record nothing is done, however many blocks they have.
        if not (RunPaths(judge.root).task(task.slug).exists() and judge.judge_all(task).done.any()):
            continue
        lost = list(losses_of(judge, task, folder))
        rows = list(lost_rows(judge, task).values())
        outputs = lost_outputs(judge, task)
        blocks = [*(loss.blocks for loss in lost), *rows]
        chosen = np.any(blocks, axis=0) if blocks else np.zeros(task.grid.shape, bool)
        chosen |= bool(outputs)
        if chosen.any():
            indices = _with_later(task, judge, chosen)
            chunks = sum(len(loss.keys) for loss in lost)
            count = chunks + sum(int(of.sum()) for of in rows) + len(outputs)
            found[task.name] = count, indices
            if outputs and (before := plan.tasks.get(set_up_name(task.name))):
                found[before.name] = len(outputs), list(before.grid)
    return found


def missing_lines(found: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Yield a line per task of what :func:`reset_missing` found."""
    for name, (chunks, blocks) in found.items():
        yield (
            f"{name}: {chunks:,} chunks, rows or files that done blocks made are gone or changed; "
            f"{blocks:,} blocks will run again, and what reads them"
        )


def _known(plan: Plan, name: str) -> PlannedTask:
    if name not in plan.tasks:
        raise InputError(f"there is no task {name!r}; known are {', '.join(plan.tasks)}")
    return plan.tasks[name]


def _with_later(task: PlannedTask, judge: Judge, chosen: NDArray[np.bool_]) -> list[Index]:
    """Return blocks to reset with those that have read their output, if anything is on record."""
    _add_later_neighbours(task, chosen)
    judgement = judge.judge_all(task)
    chosen &= np.isin(judgement.state, (State.RUNNING, State.DONE, State.FAILED)) | judgement.stale
    return latest_first(task, np.argwhere(chosen))


def _chosen(task: PlannedTask, judge: Judge, roi: Box | None, *, only_failed: bool) -> list[Index]:
    """Return the blocks to reset: those with anything on record."""
    judgement = judge.judge_all(task)
    chosen = np.zeros(task.grid.shape, bool)
    box = task.grid.indices if roi is None else task.own_grid.writing(roi)
    chosen[box.slices] = True
    if only_failed:
        chosen &= np.isin(judgement.state, (State.FAILED, State.RUNNING))
        return latest_first(task, np.argwhere(chosen))
    return _with_later(task, judge, chosen)


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
