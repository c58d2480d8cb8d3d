"""A pilot: the same pipeline, on the same grids, with only the blocks of one region to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snakemake_blocks.box import Box, Index
from snakemake_blocks.errors import InputError
from snakemake_blocks.pipeline import Pipeline
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.task import Task

__all__ = ["pilot"]


def pilot(pipeline: Pipeline, plan: Plan, roi: Box) -> Pipeline:
    """Return the pipeline with all blocks masked but those that ``roi`` needs.

    These are, in every task, the blocks that write into ``roi``, the conflicting blocks that
    run before those in the full run, and the upstream blocks that any of them reads. So the
    results are those of the full run, in which they count.

    Parameters
    ----------
    pipeline : Pipeline
        The whole pipeline.
    plan : Plan
        Its plan, for the order of conflicting blocks.
    roi : Box
        World units, one interval per axis of every task.

    Raises
    ------
    InputError
        If the region has other axes than a task, or no task writes anything there.
    """
    boxes: dict[str, list[Box]] = {task.task_id: [] for task in pipeline.tasks}
    for task in reversed(pipeline.tasks):
        grid = task.grid
        if roi.ndim != grid.ndim:
            raise InputError(f"--roi has {roi.ndim} axes, task {task.task_id} has {grid.ndim}")
        boxes[task.task_id].append(grid.writing(roi))
        boxes[task.task_id] += _earlier(plan.tasks[task.task_id], boxes[task.task_id])
        for name in pipeline.upstream[task.task_id]:
            up = next(t for t in pipeline.tasks if t.task_id == name).grid
            boxes[name] += [
                up.writing(grid.read(b.begin).union(grid.read(tuple(e - 1 for e in b.end))))
                for b in boxes[task.task_id]
                if b
            ]
    if not any(box for found in boxes.values() for box in found):
        raise InputError(f"--roi {roi.begin} to {roi.end} lies outside of what every task writes")
    return replace(pipeline, tasks=tuple(_only(t, boxes[t.task_id]) for t in pipeline.tasks))


def _earlier(task: PlannedTask, boxes: list[Box]) -> list[Box]:
    """Return the conflicting blocks that run before blocks of ``boxes``, transitively."""
    if not any(task.reach):
        return []
    inner = [b.grow([-r for r in task.reach], [-r for r in task.reach]) for b in boxes]
    frontier = [i for b, core in zip(boxes, inner, strict=True) for i in b if not core.contains(i)]
    found: set[Index] = set()
    while frontier:
        index = frontier.pop()
        for other in task.ordered_with(index)[0]:
            if other not in found and not any(b.contains(other) for b in boxes):
                found.add(other)
                frontier.append(other)
    return [Box(i, tuple(k + 1 for k in i)) for i in sorted(found)]


def _only(task: Task, boxes: list[Box]) -> Task:
    present = np.zeros(task.grid.shape, bool)
    for box in boxes:
        where = tuple(slice(b, e) for b, e in zip(box.begin, box.end, strict=True))
        present[where] = True
    if task.present is not None:
        present &= task.present
    return replace(task, present=present)
