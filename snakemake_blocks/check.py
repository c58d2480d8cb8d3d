"""The proof, before anything runs, that a plan misses no voxel and lets no two jobs meet.

Everything is decided from geometry, one axis first and then the product over axes. Along an axis
blocks fall into classes: away from the few places where a region or an array begins or ends, the
pattern of blocks, chunks and upstream blocks repeats. One block of every class is looked at, so
on dense grids the cost does not depend on the number of blocks. Where blocks are masked, the
tables that the plan holds anyway are gone through as a whole.
"""

from __future__ import annotations

import itertools
import math
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.box import Box, Index
from snakemake_blocks.dependencies import JobGrid
from snakemake_blocks.errors import PlanError
from snakemake_blocks.phases import Phases
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.task import Call, Chunks, Task
from snakemake_blocks.tiling import Axis, Fit, Grid

__all__ = ["Proof", "check_plan"]

_DEFECT = "this is a defect of snakemake-blocks, please report it"
# Pairs of blocks of two masked tasks are counted in tables of at most so many entries.
_LARGEST_TABLE = 1 << 27

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Proof:
    """What is wrong with a plan, and what has been proved of it.

    Parameters
    ----------
    violations : tuple of str
        Reasons not to run it, each ``tasks.NAME.key: what is wrong; next step``.
    warnings : tuple of str
        What costs time, or cannot be known, in the same form.
    proved : tuple of str
        One line per fact, each ``NAME: fact``.
    """

    violations: tuple[str, ...]
    warnings: tuple[str, ...]
    proved: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Nothing speaks against running the plan."""
        return not self.violations


def check_plan(plan: Plan, tasks: Iterable[Task]) -> Proof:
    """Return the proof that a plan does what its tasks declare, or what stands against it.

    Proved are, for every task: each voxel of the region to write is written exactly once; any
    two conflicting blocks are ordered, in a job and between jobs; all that is read inside the
    region is existing data or written by a task that it waits for; blocks that may run together
    write no common storage chunk or shard, be they of one task or of two.

    Parameters
    ----------
    plan : Plan
        The plan.
    tasks : iterable of Task
        What it was made from, e.g. ``pipeline.tasks``.

    Raises
    ------
    PlanError
        If the plan was made from other tasks.

    Notes
    -----
    Reading a chunk while another process replaces it is not counted as meeting: zarr replaces
    local chunks atomically since 3.1.3, and the voxels that a task reads are never in change.
    """
    declared = {task.task_id: task for task in tasks}
    if declared.keys() != plan.tasks.keys():
        raise PlanError(
            f"the plan has the tasks {', '.join(plan.tasks)}, declared are "
            f"{', '.join(declared)}; plan again"
        )
    findings = _Findings()
    for name, task in plan.tasks.items():
        subject = _Subject(plan, task, declared[name], findings)
        _check_writing(subject)
        _check_order(subject)
        _check_chunks(subject)
        _check_reading(subject)
    _check_common_arrays(plan, findings)
    return Proof(*(tuple(dict.fromkeys(lines)) for lines in findings))


class _Findings(NamedTuple):
    violations: list[str]
    warnings: list[str]
    proved: list[str]


@dataclass(frozen=True, slots=True)
class _Subject:
    """A planned task beside its declaration, and where findings about it go."""

    plan: Plan
    task: PlannedTask
    declared: Task
    findings: _Findings

    @property
    def roi(self) -> Box:
        """The region to write, as declared."""
        return self.declared.write_extent

    @property
    def own(self) -> set[str]:
        """Paths of the arrays that the task writes."""
        return {_path(w.array) for w in self.task.writes.values()}

    def refuse(self, key: str, text: str) -> None:
        self.findings.violations.append(f"tasks.{self.task.name}.{key}: {text}")

    def warn(self, key: str, text: str) -> None:
        self.findings.warnings.append(f"tasks.{self.task.name}.{key}: {text}")

    def prove(self, text: str) -> None:
        self.findings.proved.append(f"{self.task.name}: {text}")
