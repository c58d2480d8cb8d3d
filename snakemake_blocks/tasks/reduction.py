"""A reduction as ordinary tasks: one that makes rows of blocks, and levels that merge them.

Each level has boxes of the blocks below as its blocks, so what a merge waits for, what it has seen,
and which merges are done again when a block has changed, follow as for all tasks.
"""

from __future__ import annotations

from typing import Any

from snakemake_blocks.geometry.batching import Target, batch_shape
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit, Grid, any_in_boxes
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.tables import Table, TableRead
from snakemake_blocks.tasks.task import Task

__all__ = ["FAN_IN", "merging_tasks"]

FAN_IN = 64
"""Blocks whose rows are merged at once: few levels, and little to do again for one block."""
# Merges of a few rows take milliseconds, a job, and a worker with Arrow, hundreds of them: as many
# merges as that make a job, and more where there would be more jobs than that.
_LEAST, _JOBS = 256, 16


def merging_tasks(
    task: str, source: Task, table: str, merge: Any, *, name: str, parquet: str = "", **more: Any
) -> list[Task]:
    """Return the tasks that merge the rows of all blocks of a task into those of one.

    Parameters
    ----------
    task : str
        Name of the last one, which has the result; the others are called ``<task>_1`` and so on.
    source : Task
        Whose rows.
    table : str
        Which of its tables; the tasks' tables have its columns.
    merge : callable or str
        ``f(a, b)`` or ``f(rows)``, which returns rows of the same columns.
    name : str
        Of the tasks' tables.
    parquet : str
        Where the result is written.
    **more
        Arguments of all of these tasks.
    """
    grids = _levels(source.grid)
    columns = source.operation.tables[table].columns
    below, present = source, source.present
    found = []
    for number, (grid, factors) in enumerate(grids, start=1):
        is_last = number == len(grids)
        present = None if present is None else any_in_boxes(present, factors)
        block = Box(grid.extent.begin, _end(grid))
        found.append(
            Task(
                task_id=task if is_last else f"{task}_{number}",
                total_roi=grid.extent.to_roi(),
                read_roi=block.to_roi(),
                write_roi=block.to_roi(),
                process_function=merge,
                fit=Fit.SHRINK,
                read_write_conflict=False,
                call=Call.MERGE,
                num_workers=None,
                blocks_per_job=max(_LEAST, -(-len(grid) // _JOBS)),
                tables={name: Table(columns, parquet if is_last else "")},
                table_reads={name: TableRead(below.task_id, table)},
                upstream_tasks=[below],
                present=present,
                scale=source.scale,
                **more,
            )
        )
        below, table = found[-1], name
    return found


def _levels(grid: Grid) -> list[tuple[Grid, Index]]:
    """Return the grids of merges, the last one of one block, and how many blocks each box has."""
    found: list[tuple[Grid, Index]] = []
    while not found or len(grid) > 1:
        factors = batch_shape(
            grid,
            FAN_IN,
            reach=(0,) * grid.ndim,
            has_setup=False,
            max_workers=None,
            target=Target.LOCAL,
        )
        grid = grid.with_context((0,) * grid.ndim, (0,) * grid.ndim).coarsen(factors)
        found.append((grid, factors))
    return found


def _end(grid: Grid) -> Index:
    return tuple(axis.begin + axis.step for axis in grid.axes)
