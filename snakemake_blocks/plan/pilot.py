"""A pilot: the same pipeline, on the same grids, with only some blocks to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

__all__ = ["pilot", "probe"]


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
        In numbers of the first task: world units, or voxels of its array. One interval per axis of
        every task.

    Raises
    ------
    InputError
        If the region has other axes than a task, or no task writes anything there.
    """
    blockwise = [t for t in pipeline.tasks if not t.operation.call.is_once]
    for task in blockwise:
        if roi.ndim != task.grid.ndim:
            raise InputError(
                f"--roi has {roi.ndim} axes, task {comment(task.task_id)} has {task.grid.ndim}"
            )
    world = blockwise[0].scale.world(roi) if blockwise else []
    wanted = {t.task_id: [t.grid.writing(t.scale.around(world))] for t in blockwise}
    boxes = _needed(pipeline, plan, wanted)
    if not any(box for found in boxes.values() for box in found):
        raise InputError(f"--roi {roi.begin} to {roi.end} lies outside of what every task writes")
    return replace(pipeline, tasks=tuple(_only(t, boxes[t.task_id]) for t in pipeline.tasks))


def probe(pipeline: Pipeline, plan: Plan, *, samples: int = 4, most: int = 256) -> Pipeline:
    """Return the pipeline with all blocks masked but a few of each task, and the tasks left out.

    The few are spread over the grid, and moved to blocks near by that wait for none of their own
    task. What they read of upstream tasks comes along and counts as sample of those.

    Parameters
    ----------
    pipeline : Pipeline
        The whole pipeline.
    plan : Plan
        Its plan, for the order of conflicting blocks.
    samples : int
        Blocks of each task.
    most : int
        A task one of whose blocks needs more blocks than this, itself included, is left out.
    """
    boxes: dict[str, list[Box]] = {task.task_id: [] for task in pipeline.tasks}
    for task in reversed(pipeline.tasks):
        name = task.task_id
        for index in _leading_blocks(plan.tasks[name], samples):
            if sum(box.size for box in boxes[name]) >= samples:
                break
            found = _needed(pipeline, plan, {name: [_box_of(index)]})
            if sum(box.size for boxes_ in found.values() for box in boxes_) > most:
                break
            for other, more in found.items():
                boxes[other] += more
    return replace(pipeline, tasks=tuple(_only(t, boxes[t.task_id]) for t in pipeline.tasks))


def _leading_blocks(task: PlannedTask, count: int) -> list[Index]:
    """Return at most so many blocks, spread over the grid, that no block has to run before."""
    found: dict[Index, None] = {}
    for number in range(4 * count):
        # The additive recurrence of the golden ratio and its kin: any first few are well spread.
        place = tuple(
            int((0.5 + number * ratio) % 1 * n)
            for n, ratio in zip(task.grid.shape, _ratios(task.grid.ndim), strict=True)
        )
        index = _present_near(task, place)
        while index is not None and (before := task.ordered_with(index)[0]):
            index = before[0]
        if index is not None and len(found) < count:
            found[index] = None
    return list(found)


def _ratios(ndim: int) -> list[float]:
    """Return the powers of the inverse root of x ** (ndim + 1) = x + 1."""
    root = 2.0
    for _ in range(64):
        root = (1 + root) ** (1 / (ndim + 1))
    return [root ** -(axis + 1) for axis in range(ndim)]


def _present_near(task: PlannedTask, place: Index) -> Index | None:
    """Return the unmasked block that is nearest to a place, None if there is none."""
    present = task.jobs.present
    if present is None or present[place]:
        return place
    where = np.argwhere(present)
    if not len(where):
        return None
    distances = ((where - np.asarray(place)) ** 2).sum(axis=1)
    return tuple(int(k) for k in where[int(distances.argmin())])


def _needed(
    pipeline: Pipeline, plan: Plan, wanted: Mapping[str, list[Box]]
) -> dict[str, list[Box]]:
    """Return blocks, as boxes of indices, and all that have to be done before them."""
    everything = {task.task_id: task.grid.indices for task in pipeline.tasks}
    boxes = {task.task_id: list(wanted.get(task.task_id, [])) for task in pipeline.tasks}
    for task in reversed(pipeline.tasks):
        boxes[task.task_id] += _earlier(plan.tasks[task.task_id], boxes[task.task_id])
        for name in pipeline.upstream[task.task_id]:
            if name in plan.tasks[task.task_id].whole:
                boxes[name] += [everything[name]] if any(boxes[task.task_id]) else []
                continue
            grid, up = plan.tasks[task.task_id].toward(plan.tasks[name]).grid, plan.tasks[name].grid
            boxes[name] += [
                up.writing(grid.read(b.begin).union(grid.read(tuple(e - 1 for e in b.end))))
                for b in boxes[task.task_id]
                if b
            ]
    return boxes


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
    return [_box_of(index) for index in sorted(found)]


def _box_of(index: Index) -> Box:
    return Box(index, tuple(k + 1 for k in index))


def _only(task: Task, boxes: list[Box]) -> Task:
    present = np.zeros(task.grid.shape, bool)
    for box in boxes:
        present[box.slices] = True
    if task.present is not None:
        present &= task.present
    return task.changed(present=present)
