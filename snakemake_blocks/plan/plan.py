"""The frozen plan: jobs, their inputs, their names; what a worker needs and no more.

A plan is O(tasks) on disk and in memory; blocks and jobs are computed when asked for. Only
the presence of masked blocks is data, kept in one compressed file per masked task.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError, TilingError
from snakemake_blocks.geometry.aggregates import FAN_IN, Aggregate, Aggregates
from snakemake_blocks.geometry.block import Block, block_of
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.plan.dependencies import JobGrid, needed_jobs
from snakemake_blocks.plan.paths import RunPaths, SentinelName, index_name, job_name
from snakemake_blocks.plan.plan_form import FORMAT, form_problem
from snakemake_blocks.system.files import parse_json, read_file
from snakemake_blocks.tasks.budget import Budget
from snakemake_blocks.tasks.keys import from_json, to_json
from snakemake_blocks.tasks.operation import Operation
from snakemake_blocks.tasks.scale import WORLD, Scale
from snakemake_blocks.tasks.task import SourceChange

__all__ = ["DamagedPlanError", "Job", "Plan", "PlannedTask"]


class DamagedPlanError(InputError):
    """A plan that cannot be read; planning again puts another in its place."""


# Presence of some 10**10 blocks, were it not compressed.
_MOST_MASK = 1 << 30


@dataclass(frozen=True, eq=False)
class PlannedTask:
    """One task of a plan.

    Parameters
    ----------
    name, slug : str
        The task's id, and its name in files and rules.
    jobs : JobGrid
        Blocks, their boxes and their presence.
    reach : tuple of int
        Conflict reach in blocks per axis, all zero when blocks may run in any order.
    phases : Phases
        Phase of every job.
    upstream : tuple of str
        Names of the tasks whose results this one reads.
    whole : frozenset of str
        Those of them of which every block waits for all, whatever it reads.
    operation : Operation
        What is done with a block.
    budget : Budget
        What a job and an attempt of a block may take.
    fingerprint : int
        64 bits of the hash of all that decides what a block computes.
    identity : mapping
        What is hashed, in the words of pipeline.yaml.
    source : str
        Short hash of the function's source, empty if it cannot be read.
    source_change : SourceChange
        Whether results of another source count.
    group : tuple of int
        Blocks per axis that are stored together, in one shard: one worker does all of a box of
        them that a job has to do, and none of them runs elsewhere meanwhile. Empty where every
        block is stored by itself.
    scale : Scale
        What the task's own numbers are: those of records, of Rois and of what people read.
    fit, mask, batching : str
        As declared, for the record; ``batching`` is what ``blocks_per_job`` and the target were.
    """

    name: str
    slug: str
    jobs: JobGrid
    reach: Index
    phases: Phases
    upstream: tuple[str, ...]
    operation: Operation
    budget: Budget
    fingerprint: int
    whole: frozenset[str] = frozenset()
    identity: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    source_change: SourceChange = SourceChange.WARN
    group: Index = ()
    scale: Scale = WORLD
    fit: str = "valid"
    mask: str = ""
    batching: str = ""

    @property
    def grid(self) -> Grid:
        """The grid of blocks, in numbers of the plan."""
        return self.jobs.grid

    @cached_property
    def own_grid(self) -> Grid:
        """The grid of blocks in the task's own numbers."""
        return self.scale.grid(self.grid)

    @property
    def num_blocks(self) -> int:
        """Blocks to do, masked ones not counted."""
        present = self.jobs.present
        return len(self.grid) if present is None else int(present.sum())

    @property
    def num_masked(self) -> int:
        """Blocks that the mask leaves out."""
        return len(self.grid) - self.num_blocks

    @cached_property
    def num_jobs(self) -> int:
        """Jobs with at least one block to do."""
        present = self.jobs.job_presence()
        return len(self.jobs.jobs) if present is None else int(present.sum())

    @property
    def num_phases(self) -> int:
        """Groups of jobs that run one after the other."""
        return len(self.phases)

    @property
    def stored_grid(self) -> Grid:
        """The grid of what is stored together: boxes of blocks, or blocks."""
        return self.grid.coarsen(self.group) if self.group else self.grid

    @cached_property
    def block_phases(self) -> Phases:
        """Order of conflicting blocks inside a job."""
        return Phases(self.grid.shape, self.reach)

    @cached_property
    def aggregates(self) -> Aggregates:
        """Tree over the jobs."""
        return Aggregates(self.num_jobs)

    @cached_property
    def _job_numbers(self) -> NDArray[np.int64] | None:
        """Grid numbers of the present jobs, ascending; None when all are present."""
        present = self.jobs.job_presence()
        return None if present is None else np.flatnonzero(present.ravel())

    def job_number(self, index: Index) -> int:
        """Return the position of a present job among the present jobs."""
        number = self.jobs.jobs.number(index)
        if self._job_numbers is None:
            return number
        return int(np.searchsorted(self._job_numbers, number))

    def job_index(self, number: int) -> Index:
        """Return the job at a position (inverse of :meth:`job_number`)."""
        if self._job_numbers is not None:
            number = int(self._job_numbers[number])
        return self.jobs.jobs.index(number)

    def block(self, index: Index) -> Block:
        """Return the block at a grid index."""
        return block_of(self.own_grid, index, task_id=self.name)

    def job_of(self, block: Index) -> Index:
        """Return the job that a block belongs to."""
        return tuple(k // f for k, f in zip(block, self.jobs.batch, strict=True))

    def order(self, block: Index) -> tuple[int, int]:
        """Return when a block runs, as far as conflicts decide: job phase, then block phase.

        Of two conflicting blocks in one job, or in jobs that conflict, the one with the smaller
        order runs first; between jobs that do not conflict nothing is ordered.
        """
        return self.phases.of(self.job_of(block)), self.block_phases.of(block)

    def ordered_with(self, block: Index) -> tuple[list[Index], list[Index]]:
        """Return the blocks in conflict with a block that run before it, and those after it.

        Masked blocks are not among them.
        """
        mine, jobs = self.order(block), self.phases.conflicting(self.job_of(block))
        box = self.block_phases.conflicting(block)
        before: list[Index] = []
        after: list[Index] = []
        for other, present in zip(box, self.jobs.presence(box).ravel(), strict=True):
            if present and other != block and jobs.contains(self.job_of(other)):
                (before if self.order(other) < mine else after).append(other)
        return before, after

    def visible_output(self, block: Index) -> list[Box]:
        """Return the regions of the task's own output that a block may read, as the plan counts.

        These are the write Rois of the blocks in conflict with it that run before it; all of
        them are done when the block starts.
        """
        return [self.grid.write(other) for other in self.ordered_with(block)[0]]

    @cached_property
    def _toward(self) -> dict[str, JobGrid]:
        return {}

    def toward(self, up: PlannedTask) -> JobGrid:
        """Return the blocks with the context with which they read what an upstream task writes."""
        if up.name not in self._toward:
            tables = self.operation.table_reads.values()
            grid = self.grid  # of a table it is the rows of all blocks that the read Roi meets
            if all(read.task != up.name for read in tables):
                grid = self.operation.as_read(self.grid, up.operation.written)
            self._toward[up.name] = JobGrid(grid, self.jobs.batch, self.jobs.present)
        return self._toward[up.name]

    def needed_jobs(self, job: Index, up: PlannedTask) -> list[Index]:
        """Return the jobs of an upstream task that a job waits for."""
        if up.name in self.whole:
            return [up.job_index(number) for number in range(up.num_jobs)]
        return needed_jobs(self.toward(up), job, up.jobs)

    def blocks_below(self, up: PlannedTask, index: Index) -> Box:
        """Return the blocks that wait for a block of an upstream task."""
        if up.name in self.whole:
            return self.grid.indices
        return self.toward(up).grid.reading(up.grid.write(index))

    def blocks_of(self, job: Index) -> Iterator[Index]:
        """Yield the present blocks of a job, last axis fastest."""
        members = self.jobs.members(job)
        if self.jobs.present is None:
            yield from members
            return
        for index, here in zip(members, self.jobs.presence(members).ravel(), strict=True):
            if here:
                yield index


@dataclass(frozen=True, slots=True)
class Job:
    """Snakemake's unit: a box of blocks of one task with one sentinel."""

    plan: Plan
    task: PlannedTask
    index: Index

    @property
    def name(self) -> str:
        """``<task>/<i>-<j>-<k>``."""
        return f"{self.task.name}/{index_name(self.index)}"

    @property
    def phase(self) -> int:
        """The job's phase."""
        return self.task.phases.of(self.index)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks to do, masked ones left out."""
        return (self.task.block(index) for index in self.task.blocks_of(self.index))

    @property
    def sentinel(self) -> str:
        """Path of the sentinel, relative to the folder that Snakemake runs in."""
        return str(self.plan.paths.sentinel(self.task.slug, self.phase, self.index))

    @property
    def log(self) -> str:
        """Path of the log, relative likewise."""
        return str(self.plan.paths.log(self.task.slug, self.index))

    @property
    def conflicts(self) -> list[str]:
        """Sentinels of the conflicting jobs to wait for."""
        return [
            str(self.plan.paths.sentinel(self.task.slug, self.task.phases.of(u), u))
            for u in self.task.phases.predecessors(self.index)
        ]

    @property
    def upstream(self) -> list[str]:
        """Sentinels (or aggregates of them) of the upstream jobs whose results are read."""
        return [
            path for name in self.task.upstream for path in self._upstream_of(self.plan.tasks[name])
        ]

    def _upstream_of(self, up: PlannedTask) -> list[str]:
        paths = self.plan.paths
        if up.name in self.task.whole:
            return [str(paths.done(up.slug))]
        needed = self.task.needed_jobs(self.index, up)
        if len(needed) <= FAN_IN:
            return [str(paths.sentinel(up.slug, up.phases.of(u), u)) for u in needed]
        level, numbers = up.aggregates.cover([up.job_number(u) for u in needed])
        names = (up.aggregates.name(Aggregate(level, number)) for number in numbers)
        return [str(paths.aggregate(up.slug, name)) for name in names]

    @property
    def inputs(self) -> list[str]:
        """All files that the job waits for."""
        return self.conflicts + self.upstream


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is fixed before the first block runs.

    Parameters
    ----------
    name : str
        The description's file name, or ``python``.
    tasks : mapping of str to PlannedTask
        In an order in which upstream tasks come first.
    run_directory : str
        Relative to the folder that Snakemake runs in.
    base : str
        The pipeline's folder, relative to the run directory.
    digest : str
        sha256 of the file that it was read from, empty for one that was made.
    """

    name: str
    tasks: Mapping[str, PlannedTask]
    run_directory: str = "blocks"
    base: str = ".."
    digest: str = ""

    @property
    def paths(self) -> RunPaths:
        """Names of files, relative to the folder that Snakemake runs in."""
        return RunPaths(Path(self.run_directory))

    def folder(self, root: Path) -> Path:
        """Return the pipeline's folder as seen from the run directory.

        It is not normalized: where ``root`` is a link, only the system knows what ``..`` is.
        """
        return root / self.base

    def blocks(self, name: str) -> Iterator[Block]:
        """Yield the blocks of a task, masked ones left out; lazy."""
        return (block for job in self.jobs(name) for block in job.blocks())

    def jobs(self, name: str) -> Iterator[Job]:
        """Yield the jobs of a task, phase by phase; lazy."""
        task = self.tasks[name]
        return (
            Job(self, task, index)
            for phase in range(len(task.phases))
            for index in task.phases.nodes(phase)
        )

    def priority(self, name: str) -> int:
        """Return how much sooner jobs of a task run than those of the last one.

        Upstream jobs first: where several tasks have jobs to run, workers that go from one to the
        other and back would be set up again and again.
        """
        return len(self.tasks) - 1 - list(self.tasks).index(name)

    def job_at(self, sentinel: SentinelName) -> Job:
        """Return the job of a sentinel.

        Raises
        ------
        InputError
            If the plan has no such job.
        """
        for task in self.tasks.values():
            if task.slug == sentinel.task_slug:
                break
        else:
            raise InputError(f"the plan has no task {sentinel.task_slug}; plan again")
        index = sentinel.index
        inside = len(index) == task.grid.ndim and task.jobs.jobs.indices.contains(index)
        if not inside or task.phases.of(index) != sentinel.phase:
            raise InputError(
                f"the plan has no job p{sentinel.phase}/{job_name(index)} of task {task.name}; "
                "it was batched or phased otherwise, plan again"
            )
        return Job(self, task, index)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the whole plan."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def mask_bytes(self, task: PlannedTask) -> bytes:
        """Return the file of a masked task: presence of blocks and phase of jobs."""
        assert task.jobs.present is not None and task.phases.table is not None
        out = io.BytesIO()
        np.savez_compressed(
            out,
            present=np.packbits(task.jobs.present),
            phases=task.phases.table,
        )
        return out.getvalue()

    def to_bytes(self) -> bytes:
        """Return plan.json; the same pipeline gives the same bytes."""
        data = {
            "format": FORMAT,
            "name": self.name,
            "base": self.base,
            "run_directory": self.run_directory,
            "tasks": [_task_to_json(self, task) for task in self.tasks.values()],
        }
        return (json.dumps(data, indent=1) + "\n").encode()

    @classmethod
    def load(cls, root: Path) -> Plan:
        """Return the plan of a run directory, named as seen from the working directory.

        Raises
        ------
        InputError
            If there is none, or it is damaged or of another format.
        """
        path = RunPaths(root).plan
        try:
            content = read_file(path)
        except FileNotFoundError:
            raise InputError(
                f"{path}: there is no plan; run `snakemake-blocks generate` first"
            ) from None
        data = _parsed(path, content)
        try:
            tasks = [_task_from_json(RunPaths(root), entry) for entry in data["tasks"]]
        except (ArithmeticError, LookupError, TypeError, ValueError, TilingError) as error:
            raise DamagedPlanError(f"{path}: is damaged ({error}); plan again") from None
        digest = hashlib.sha256(content).hexdigest()
        return cls(data["name"], {t.name: t for t in tasks}, str(root), data["base"], digest)


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    """Return what the file of a plan says, once its form is known to be right."""
    try:
        data = parse_json(content)
    except ValueError as error:
        raise DamagedPlanError(f"{path}: is damaged ({error}); plan again") from None
    made_by = data.get("format") if isinstance(data, dict) else None
    if isinstance(made_by, int) and made_by > FORMAT:
        raise InputError(
            f"{path}: has format {made_by}, this version reads {FORMAT}: it was made by a newer "
            "version of snakemake-blocks; use that, or another run directory"
        )
    problem = form_problem(data)
    if problem is not None:
        raise DamagedPlanError(
            f"{path}: is damaged or older than this version ({problem[:60]!r} is not as it was "
            "written); plan again"
        )
    return data  # type: ignore[no-any-return]


def _task_to_json(plan: Plan, task: PlannedTask) -> dict[str, Any]:
    masked = task.jobs.present is not None
    return {
        "name": task.name,
        "slug": task.slug,
        "axes": [[a.begin, a.end, a.step, a.lower, a.upper] for a in task.grid.axes],
        "batch": list(task.jobs.batch),
        "reach": list(task.reach),
        "job_reach": list(task.phases.reach),
        "masked": hashlib.sha256(plan.mask_bytes(task)).hexdigest() if masked else "",
        "upstream": list(task.upstream),
        "whole": sorted(task.whole),
        **to_json(task.operation),
        **to_json(task.budget),
        "fingerprint": f"{task.fingerprint:016x}",
        "identity": dict(task.identity),
        "source": task.source,
        "source_change": str(task.source_change),
        "fit": task.fit,
        "mask": task.mask,
        "batching": task.batching,
        **({"group": list(task.group)} if task.group else {}),
        **({"scale": scale} if (scale := task.scale.to_json()) else {}),
    }


def _task_from_json(paths: RunPaths, data: Mapping[str, Any]) -> PlannedTask:
    grid = Grid(tuple(Axis(*axis) for axis in data["axes"]))
    batch = tuple(data["batch"])
    present = table = None
    if data["masked"]:
        present, table = _load_mask(paths, data["slug"], data["masked"], grid)
    jobs = JobGrid(grid, batch, present)
    return PlannedTask(
        name=data["name"],
        slug=data["slug"],
        operation=from_json(Operation, data),
        budget=from_json(Budget, data),
        source=data["source"],
        source_change=SourceChange(data.get("source_change", SourceChange.WARN)),
        fit=data["fit"],
        mask=data["mask"],
        batching=data["batching"],
        jobs=jobs,
        reach=tuple(data["reach"]),
        phases=Phases(jobs.jobs.shape, tuple(data["job_reach"]), table),
        upstream=tuple(data["upstream"]),
        whole=frozenset(data.get("whole", ())),
        fingerprint=int(data["fingerprint"], 16),
        identity=data["identity"],
        group=tuple(data.get("group", ())),
        scale=Scale.from_json(data.get("scale", {})),
    )


def _load_mask(
    paths: RunPaths, slug: str, digest: str, grid: Grid
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Return presence and phases; after a crash they may still be where the next plan's lie."""
    for path in (paths.mask(slug), paths.next_mask(slug)):
        try:
            payload = read_file(path, most=_MOST_MASK)
        except FileNotFoundError:
            continue
        if hashlib.sha256(payload).hexdigest() == digest:
            break
    else:
        raise DamagedPlanError(
            f"{paths.mask(slug)}: is missing or not the one that the plan names; plan again"
        )
    try:
        with np.load(io.BytesIO(payload)) as stored:
            bits = np.unpackbits(stored["present"], count=len(grid))
            return bits.astype(bool).reshape(grid.shape), stored["phases"]
    except (EOFError, LookupError, MemoryError, TypeError, ValueError, BadZipFile) as error:
        raise DamagedPlanError(f"{path}: is damaged ({error}); plan again") from None
