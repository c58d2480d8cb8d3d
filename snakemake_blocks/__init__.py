"""Blockwise processing of huge volumes, run by Snakemake.

Names are loaded when they are used: importing the package loads neither zarr nor Snakemake
nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funlib.geometry import Coordinate, Roi

    from snakemake_blocks.commands.blockwise import RunResult, TaskState, run_blockwise
    from snakemake_blocks.commands.generate import make_plan
    from snakemake_blocks.commands.whole_tasks import once_task, reduce_task
    from snakemake_blocks.errors import BlocksError, BusyError, InputError, PlanError, SpecError
    from snakemake_blocks.geometry.block import Block, BlockStatus
    from snakemake_blocks.operations.registry import load_pipeline, operation_task
    from snakemake_blocks.tasks.task import After, Task
    from snakemake_blocks.work.client import Client

__all__ = [
    "After",
    "Block",
    "BlockStatus",
    "BlocksError",
    "BusyError",
    "Client",
    "Coordinate",
    "InputError",
    "PlanError",
    "Roi",
    "RunResult",
    "SpecError",
    "Task",
    "TaskState",
    "load_pipeline",
    "make_plan",
    "once_task",
    "operation_task",
    "read_table",
    "reduce_task",
    "run_blockwise",
]

_HOMES = {
    "After": "snakemake_blocks.tasks.task",
    "Block": "snakemake_blocks.geometry.block",
    "BlockStatus": "snakemake_blocks.geometry.block",
    "BlocksError": "snakemake_blocks.errors",
    "BusyError": "snakemake_blocks.errors",
    "Client": "snakemake_blocks.work.client",
    "Coordinate": "funlib.geometry",
    "InputError": "snakemake_blocks.errors",
    "PlanError": "snakemake_blocks.errors",
    "Roi": "funlib.geometry",
    "RunResult": "snakemake_blocks.commands.blockwise",
    "SpecError": "snakemake_blocks.errors",
    "Task": "snakemake_blocks.tasks.task",
    "TaskState": "snakemake_blocks.commands.blockwise",
    "load_pipeline": "snakemake_blocks.operations.registry",
    "make_plan": "snakemake_blocks.commands.generate",
    "once_task": "snakemake_blocks.commands.whole_tasks",
    "operation_task": "snakemake_blocks.operations.registry",
    "reduce_task": "snakemake_blocks.commands.whole_tasks",
    "read_table": "snakemake_blocks.state.tables",
    "run_blockwise": "snakemake_blocks.commands.blockwise",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
