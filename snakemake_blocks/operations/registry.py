"""All operations, and pipelines in which tasks may use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snakemake_blocks.operations.convert import ConvertModel
from snakemake_blocks.operations.label import LabelModel
from snakemake_blocks.operations.rechunk import RechunkModel
from snakemake_blocks.spec import loading, operation_form
from snakemake_blocks.tasks.pipeline import Pipeline

__all__ = ["OPERATIONS", "json_schema", "load_pipeline"]

OPERATIONS: tuple[type[operation_form.OperationModel], ...] = (
    ConvertModel,
    LabelModel,
    RechunkModel,
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


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of pipeline.yaml; editors check and complete with it."""
    return operation_form.json_schema(OPERATIONS)
