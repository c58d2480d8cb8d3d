"""All operations, and pipelines in which tasks may use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import SpecError
from snakemake_blocks.operations.convert import ConvertModel
from snakemake_blocks.operations.label import LabelModel
from snakemake_blocks.operations.measure import MeasureModel
from snakemake_blocks.operations.normalize import NormalizeModel
from snakemake_blocks.operations.pyramid import PyramidModel
from snakemake_blocks.operations.rechunk import RechunkModel
from snakemake_blocks.operations.relabel import RelabelModel
from snakemake_blocks.operations.stitch import StitchModel
from snakemake_blocks.operations.watershed import WatershedModel
from snakemake_blocks.spec import loading, operation_form
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

__all__ = ["OPERATIONS", "json_schema", "load_pipeline", "operation_task"]

OPERATIONS: tuple[type[operation_form.OperationModel], ...] = (
    ConvertModel,
    LabelModel,
    MeasureModel,
    NormalizeModel,
    PyramidModel,
    RechunkModel,
    RelabelModel,
    StitchModel,
    WatershedModel,
)
"""The forms of all operations."""


def load_pipeline(path: Path | str) -> Pipeline:
    """Return the pipeline that a YAML file describes, with all arrays looked up.

    Raises
    ------
    InputError
        If there is no such file.
    SpecError
        With every problem of the file at once.
    """
    return loading.load_pipeline(path, OPERATIONS)


def operation_task(
    task_id: str, use: str, *, upstream_tasks: Sequence[Task] = (), unit: str = "", **keys: Any
) -> Task:
    """Return the last task of an operation; the others are among its upstream tasks.

    Parameters
    ----------
    task_id : str
        What the names of all of its tasks begin with.
    use : str
        Which operation.
    upstream_tasks : sequence of Task
        Tasks that write what it reads, where that does not exist yet.
    unit : str
        What a world unit is, as at the top of pipeline.yaml.
    **keys
        As in pipeline.yaml: ``reads``, ``writes``, ``params``, ``block_size``, ``steps``, ...

    Raises
    ------
    SpecError
        With all that is wrong.

    Examples
    --------
    >>> cells = operation_task(
    ...     "cells",
    ...     "label",
    ...     reads={"mask": "sample.zarr/mask"},
    ...     writes={"labels": "sample.zarr/cells"},
    ... )  # doctest: +SKIP
    """
    form = {"use": use, **keys}
    tasks = loading.tasks_of(task_id, form, OPERATIONS, upstream_tasks, unit=unit)
    if not tasks:
        raise SpecError([f"task {task_id}: {use} does nothing"])
    return tasks[-1].changed(upstream_tasks=[*upstream_tasks, *tasks[:-1]])


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of pipeline.yaml; editors check and complete with it."""
    return operation_form.json_schema(OPERATIONS)
