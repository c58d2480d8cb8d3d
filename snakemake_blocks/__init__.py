"""Blockwise processing of huge volumes, run by Snakemake.

Names are loaded when they are used: importing the package loads neither zarr nor Snakemake
nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funlib.geometry import Coordinate, Roi

    from snakemake_blocks.block import Block, BlockStatus
    from snakemake_blocks.blockwise import RunResult, TaskState, run_blockwise
    from snakemake_blocks.client import Client
    from snakemake_blocks.errors import BlocksError, BusyError, InputError, PlanError, SpecError
    from snakemake_blocks.generating import make_plan
    from snakemake_blocks.spec import load_pipeline
    from snakemake_blocks.task import After, Task

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
    "run_blockwise",
]

_HOMES = {
    "After": "snakemake_blocks.task",
    "Block": "snakemake_blocks.block",
    "BlockStatus": "snakemake_blocks.block",
    "BlocksError": "snakemake_blocks.errors",
    "BusyError": "snakemake_blocks.errors",
    "Client": "snakemake_blocks.client",
    "Coordinate": "funlib.geometry",
    "InputError": "snakemake_blocks.errors",
    "PlanError": "snakemake_blocks.errors",
    "Roi": "funlib.geometry",
    "RunResult": "snakemake_blocks.blockwise",
    "SpecError": "snakemake_blocks.errors",
    "Task": "snakemake_blocks.task",
    "TaskState": "snakemake_blocks.blockwise",
    "load_pipeline": "snakemake_blocks.spec",
    "make_plan": "snakemake_blocks.generating",
    "run_blockwise": "snakemake_blocks.blockwise",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
