"""Tasks that make one result of many blocks, for Python: one function once, or a tree of merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funlib.geometry import Roi

from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.storage.arrays import stored_array
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Call, Read
from snakemake_blocks.tasks.reduction import merging_tasks
from snakemake_blocks.tasks.task import Function, Task

__all__ = ["once_task", "reduce_task"]


def once_task(
    task_id: str,
    process_function: Function,
    *,
    reads: Mapping[str, str | Path | ArrayInfo] | None = None,
    upstream_tasks: Sequence[Task] = (),
    **more: Any,
) -> Task:
    """Return a task that runs once, after all of its upstream tasks.

    Parameters
    ----------
    task_id : str
        Unique in a pipeline.
    process_function : callable or str
        ``f(**arrays, **tables, **params)``; it returns rows, or arrays whole. An array that it
        writes is given to it opened, if it has a parameter of that name.
    reads : mapping of str to path
        Arrays by the names of arguments: they are opened and not loaded. Of one that an upstream
        task makes, the path is enough as well; an ``ArrayInfo`` may be given, too.
    upstream_tasks : sequence of Task
        Of all of these it waits for all blocks.
    **more
        As for :class:`Task`: ``tables``, ``table_reads``, ``writes``, ``outputs``, ``params``, ...

    Raises
    ------
    InputError
        If there is no such array.
    SpecError
        With all that is wrong with the task.
    """
    given = {n: _opened(array, upstream_tasks) for n, array in (reads or {}).items()}
    written = [write.array.roi.to_roi() for write in (more.get("writes") or {}).values()]
    place = written[0] if written else Roi((0,), (1,))
    return Task(
        task_id,
        place,
        place,
        place,
        process_function,
        upstream_tasks=list(upstream_tasks),
        call=Call.ONCE,
        reads={name: Read(array) for name, array in given.items()},
        **more,
    )


def reduce_task(
    task_id: str,
    source: Task,
    table: str,
    merge: Function,
    *,
    name: str = "",
    parquet: str = "",
    **more: Any,
) -> Task:
    """Return the task that holds the rows of all blocks of a task, merged into those of one.

    It comes with the tasks that merge boxes of blocks, among its upstream tasks, so after a change
    of one block only what lies above it is merged again.

    Parameters
    ----------
    task_id : str
        Unique in a pipeline; the others are called ``<task_id>_1`` and so on.
    source : Task
        Whose rows.
    table : str
        Which of its tables.
    merge : callable or str
        ``f(a, b)`` or ``f(rows)``, which returns rows of the same columns.
    name : str
        Of the result's table; default: as of the source's.
    parquet : str
        Where it is written as Parquet.
    **more
        As for :class:`Task`: ``timeout``, ``max_retries``, ``resources``, ...

    Raises
    ------
    SpecError
        If the task has no such table.
    """
    known = source.operation.tables
    if table not in known:
        text = f"has no table {table!r}; known are {', '.join(known) or 'none'}"
        raise SpecError([f"task {task_id}: task {source.task_id} {text}"])
    return merging_tasks(
        task_id, source, table, merge, name=name or table, parquet=parquet, **more
    )[-1]


def _opened(array: str | Path | ArrayInfo, upstream: Sequence[Task]) -> ArrayInfo:
    made = {a.path: a for task in upstream for a in task.operation.written}
    info = array if isinstance(array, ArrayInfo) else made.get(str(array))
    if info is not None:
        return ArrayInfo.opened(
            info.path, info.full_shape, info.chunks, info.dtype, exists=info.exists
        )
    found = stored_array(str(array), Path.cwd())
    if found is None:
        raise InputError(f"{array}: there is no array, and no upstream task writes one there")
    return found.opened()
