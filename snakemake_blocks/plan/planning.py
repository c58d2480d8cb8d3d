"""From a pipeline to a plan: batch, colour, wire, fingerprint. Reads no file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_blocks.errors import InputError, PlanError
from snakemake_blocks.geometry.batching import Target, batch_shape
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.phases import Phases, colour, context_reach, sharing_reach
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.plan.dependencies import JobGrid
from snakemake_blocks.plan.identity import fingerprint_of
from snakemake_blocks.plan.paths import slug
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.sources import FunctionFacts
from snakemake_blocks.tasks.task import Chunks, Task

__all__ = ["pickles", "pickling_problems", "plan_pipeline"]

# Snakemake fails on dependency paths of more than about 480 jobs (measured on 9.27).
_LONGEST_PATH = 400


def plan_pipeline(
    pipeline: Pipeline,
    *,
    facts: Mapping[str, FunctionFacts],
    target: Target = Target.LOCAL,
    run_directory: str = "blocks",
    base: str = "..",
    before: Plan | None = None,
    pickling: bool = True,
) -> Plan:
    """Return the plan of a pipeline.

    Parameters
    ----------
    pipeline : Pipeline
        What the user declared.
    facts : mapping of str to FunctionFacts
        By task name.
    target : Target
        Where jobs will run; decides ``blocks_per_job: auto``.
    run_directory, base : str
        As in :class:`Plan`.
    before : Plan, optional
        The plan in place; ``auto`` batches that it resolved are kept.
    pickling : bool
        Whether functions without an import path will be loaded by other processes.

    Raises
    ------
    PlanError
        If the chain of phases is longer than Snakemake can follow.
    """
    tasks: dict[str, PlannedTask] = {}
    declared = {task.task_id: task for task in pipeline.tasks}
    for task in pipeline.tasks:
        old = before.tasks.get(task.task_id) if before else None
        tasks[task.task_id] = _plan_task(
            task,
            [declared[name] for name in pipeline.upstream[task.task_id]],
            facts.get(task.task_id, FunctionFacts()),
            target,
            old,
            below=tasks,
            pickling=pickling,
        )
    _refuse_deep(tasks)
    return Plan(pipeline.name, tasks, run_directory, base)


def _plan_task(
    task: Task,
    upstream: Sequence[Task],
    facts: FunctionFacts,
    target: Target,
    old: PlannedTask | None,
    *,
    below: Mapping[str, PlannedTask],
    pickling: bool,
) -> PlannedTask:
    grid, operation = task.grid, task.operation
    batching = f"{task.blocks_per_job} for {target}" if task.blocks_per_job == "auto" else "set"
    keep = old is not None and old.batching == batching != "set" and old.grid.ndim == grid.ndim
    group = _group(task, grid)
    reach = tuple(map(max, _conflict_reach(task, grid), _sharing(task, grid.coarsen(group))))
    batch = (old.jobs.batch if old and keep else None) or batch_shape(
        grid,
        task.blocks_per_job,
        reach=reach,
        has_setup=facts.has_setup or operation.call is Call.WORKER,
        max_workers=task.budget.max_workers,
        target=target,
        group=_above_jobs(task, grid, below) if operation.call is Call.MERGE else group,
    )
    if any(b % g and b < n for b, g, n in zip(batch, group, grid.shape, strict=True)):
        group = (1,) * grid.ndim  # jobs share what is stored together: blocks have an order then
        reach = tuple(map(max, reach, _sharing(task, grid)))
    jobs = JobGrid(grid, batch, task.present)
    job_reach = tuple(map(max, _conflict_reach(task, jobs.jobs), _sharing(task, jobs.jobs)))
    present = jobs.job_presence()
    # As it will be read from the plan's file: tuples of a Python program are lists there.
    names = tuple(up.task_id for up in upstream)
    identity = json.loads(json.dumps(_identity(task, grid, names)))
    return PlannedTask(
        name=task.task_id,
        slug=slug(task.task_id),
        jobs=jobs,
        reach=reach,
        phases=Phases(jobs.jobs.shape, job_reach)
        if present is None
        else colour(present, job_reach),
        upstream=names,
        whole=task.whole | _seen_from_afar(task, upstream) | _around_once(task, upstream),
        group=group if any(g > 1 for g in group) else (),
        scale=task.scale,
        operation=operation.with_functions(_pickled) if pickling else operation,
        budget=task.budget,
        fingerprint=fingerprint_of(identity),
        identity=identity,
        source=facts.source,
        source_change=task.source,
        fit=str(task.fit),
        mask=task.mask.path if task.mask else "",
        batching=batching,
    )


def _pickled(function: FunctionRef) -> FunctionRef:
    return function.pickled()[0]


def _seen_from_afar(task: Task, upstream: Sequence[Task]) -> frozenset[str]:
    """Return the upstream tasks of whose output blocks see more than lies in their read Rois.

    That is where an array goes on beyond its ends with voxels from elsewhere.
    """
    reads = task.operation.reads.values()
    pairs = ((up, array) for up in upstream for array in up.operation.written)
    return frozenset(
        up.task_id
        for up, array in pairs
        if any(read.array.meets(array) and read.is_far(task.grid, array) for read in reads)
    )


def _around_once(task: Task, upstream: Sequence[Task]) -> frozenset[str]:
    """Return the upstream tasks of which all is waited for, since one of both runs once."""
    is_once = task.operation.call.is_once
    return frozenset(up.task_id for up in upstream if is_once or up.operation.call.is_once)


def _conflict_reach(task: Task, grid: Grid) -> Index:
    """Return the reach of the read-write conflict, zero where the task has none."""
    if not task.read_write_conflict:
        return (0,) * grid.ndim
    return context_reach(task.operation.conflict_grid(grid))


def _group(task: Task, grid: Grid) -> Index:
    """Return the blocks per axis that are stored together, where shards are asked for.

    They are whole boxes of blocks that have no order among them.
    """
    none = (1,) * grid.ndim
    arrays = [write.array for write in task.operation.writes.values() if write.shards]
    if not arrays or any(_conflict_reach(task, grid)) or task.chunks is Chunks.REFUSE:
        return none
    group = tuple(
        math.lcm(*(_blocks_per_chunk(array, a, axis) for array in arrays))
        for a, axis in enumerate(grid.axes)
    )
    return none if any(_sharing(task, grid.coarsen(group))) else group


def _above_jobs(task: Task, grid: Grid, below: Mapping[str, PlannedTask]) -> Index:
    """Return about how many merges lie above a job of the task whose rows they merge.

    Jobs of whole such boxes read the rows, and the records, of a job below once.
    """
    ((_, read),) = task.operation.table_reads.items()
    up = below[read.task]
    sides = zip(up.jobs.batch, up.grid.axes, grid.axes, strict=True)
    return tuple(-(-blocks * theirs.step // mine.step) for blocks, theirs, mine in sides)


def _blocks_per_chunk(array: ArrayInfo, a: int, axis: Axis) -> int:
    """Return how many blocks a chunk, or shard, of an array is long, if these are whole ones."""
    chunk = array.tile_chunk(a) * array.voxel_size[a]
    is_whole = chunk % axis.step == 0 and (axis.begin - array.offset[a]) % chunk == 0
    return chunk // axis.step if is_whole else 1


def _sharing(task: Task, grid: Grid) -> Index:
    """Return how far apart blocks of ``grid`` may share a chunk of an array that is written."""
    reach = [0] * grid.ndim
    if task.chunks is Chunks.REFUSE:
        return tuple(reach)
    for array in task.operation.written:
        for a, axis in enumerate(grid.axes):
            reach[a] = max(reach[a], _axis_sharing(array, a, axis))
    return tuple(reach)


def _axis_sharing(array: ArrayInfo, a: int, axis: Axis) -> int:
    chunk = array.tile_chunk(a) * array.voxel_size[a]
    return sharing_reach(axis, chunk=chunk, origin=array.offset[a])


def _identity(task: Task, grid: Grid, upstream: tuple[str, ...]) -> dict[str, Any]:
    """Return all that decides what a block computes, in the words of pipeline.yaml.

    The extent is left out, so that a grown region keeps what is done; a block that was cut off
    by the old extent is told apart by its own geometry in the ledger.
    """
    own = task.scale.grid(grid)
    return {
        "task": task.task_id,
        "block_size": list(own.block_size),
        "context": {"lower": list(own.lower), "upper": list(own.upper)},
        "roi": {"offset modulo block_size": [a.begin % a.step for a in own.axes]},
        "conflict": task.read_write_conflict,
        "mask": task.mask.path if task.mask else "",
        **task.operation.identity(task.scale),
        **task.scale.identity,
        "after": list(upstream),
        **({"whole": sorted(task.whole)} if task.whole else {}),
    }


def _refuse_deep(tasks: Mapping[str, PlannedTask]) -> None:
    longest: dict[str, int] = {}
    for name, task in tasks.items():
        above = max((longest[up] for up in task.upstream), default=0)
        longest[name] = above + task.num_phases + len(task.aggregates.levels)
    name, length = max(longest.items(), key=lambda item: item[1])
    if length > _LONGEST_PATH:
        raise PlanError(
            f"task {name}: a chain of {length} jobs would wait for one another, Snakemake "
            f"follows {_LONGEST_PATH}; use larger blocks_per_job or less context"
        )


def pickling_problems(task: Task) -> list[str]:
    """Return why functions of a task cannot be sent to other processes."""
    found = []
    for function in task.operation.functions.values():
        try:
            function.pickled()
        except InputError as error:
            found.append(f"task {comment(task.task_id)}: {error}")
    return found


def pickles(pipeline: Pipeline) -> dict[str, bytes]:
    """Return the pickles that the plan names, by sha256."""
    functions = (f for task in pipeline.tasks for f in task.operation.functions.values())
    found = (function.pickled() for function in functions)
    return {ref.pickle: payload for ref, payload in found if ref.pickle}
