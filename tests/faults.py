"""A run directory without Snakemake: plans, jobs run one by one, and what their ledgers say."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.plan.planning import pickles, plan_pipeline
from snakemake_blocks.state.completion import aggregate_inputs
from snakemake_blocks.state.failures import Failure, read_failures
from snakemake_blocks.state.judgement import Judge, Judgement
from snakemake_blocks.state.ledger import Event, first_block, read_records
from snakemake_blocks.state.moving import move_state
from snakemake_blocks.system.locks import TIMING
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.sources import FunctionFacts
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.work.job import JobResult, run_job, work_sentinel

SIZE = 10
"""Write size of every block, in world units."""

CALLS = """
    import os

    def note(block, text=""):
        line = f"{'-'.join(map(str, block.index))} {os.getpid()} {text}\\n"
        handle = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, line.encode())
        os.close(handle)

    def attempts(block):
        with open(os.environ["CALLS"]) as file:
            name = "-".join(map(str, block.index))
            return sum(line.split()[0] == name for line in file)

    def noop(block):
        note(block)
"""
"""Functions that note in a file for which block, and in which process, they are called."""


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal already."""
    status = Path("/proc", str(pid), "status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


def hurry(monkeypatch: pytest.MonkeyPatch, **timing: float) -> None:
    """Make locks quick: dead after 0.6 s, trusted for 0.3 s; a busy machine ends no worker."""
    quick = {"standstill": 0.6, "lease": 0.3, "fence": 1e6, "heartbeat": 0.05, "poll": 0.02}
    quick |= timing
    for name, seconds in quick.items():
        monkeypatch.setattr(TIMING, name, seconds)


def line(
    name: str = "task",
    function: Any = "functions:noop",
    *,
    shape: Sequence[int] = (4,),
    begin: Sequence[int] | None = None,
    context: int = 0,
    **more: Any,
) -> Task:
    """Return a task of ``shape`` blocks, in which nothing conflicts unless there is context."""
    start = [SIZE * b for b in begin or [0] * len(shape)]
    extent = Roi(start, [SIZE * n for n in shape]).grow(context, context)
    write = Roi((0,) * len(shape), (SIZE,) * len(shape))
    more = {"blocks_per_job": list(shape), "max_retries": 0, **more}
    return Task(name, extent, write.grow(context, context), write, function, **more)


@dataclass
class Scene:
    """A pipeline's folder and its run directory.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    facts: dict[str, FunctionFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        os.environ["CALLS"] = str(self.folder / "calls.txt")
        (self.folder / "calls.txt").touch()
        self.functions("")

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.folder / "blocks"

    @property
    def paths(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.root)

    @property
    def in_place(self) -> Plan:
        """The plan in place."""
        return Plan.load(self.root)

    def functions(self, text: str) -> None:
        """Write the user's module; every process imports it anew."""
        code = textwrap.dedent(CALLS) + textwrap.dedent(text)
        (self.folder / "functions.py").write_text(code)

    def draft(self, *tasks: Task) -> tuple[Plan, dict[str, bytes]]:
        """Return the plan of tasks, and their pickles; nothing is written."""
        pipeline = Pipeline.from_tasks(tasks, folder=self.folder, run_directory=self.root)
        return plan_pipeline(pipeline, facts=self.facts), pickles(pipeline)

    def plan(self, *tasks: Task) -> Plan:
        """Put the plan of tasks in place, as `generate` does."""
        new, payloads = self.draft(*tasks)
        old = self.in_place if self.paths.plan.exists() else None
        move_state(old, new, self.root, payloads)
        return self.in_place

    def job(self, name: str = "task", index: Index | None = None) -> Job:
        """Return a job of the plan in place, the first by default."""
        plan = self.in_place
        task = plan.tasks[name]
        return Job(plan, task, index or (0,) * task.grid.ndim)

    def run(
        self,
        name: str = "task",
        index: Index | None = None,
        *,
        attempt: int = 1,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> JobResult:
        """Run one job in this process."""
        return run_job(
            self.job(name, index),
            self.root,
            attempt=attempt,
            environment=self.environment if environment is None else environment,
            **more,
        )

    def run_all(self, *, attempt: int = 1) -> dict[str, JobResult]:
        """Run every job whose inputs are there, in the order of the phases; results by name."""
        found = {}
        plan = self.in_place
        for name in plan.tasks:
            for job in plan.jobs(name):
                if all(Path(path).exists() for path in self._inputs(job)):
                    found[job.name] = self.run(name, job.index, attempt=attempt)
        return found

    def _inputs(self, job: Job) -> Iterator[Path]:
        """Yield the inputs of a job, making the aggregates among them."""
        for text in job.inputs:
            path = Path(text)
            self.aggregate(path)
            yield path

    def aggregate(self, path: Path) -> None:
        """Make an aggregate and those that it stands on, as Snakemake would."""
        parts = path.relative_to(self.root).parts
        if parts[1] == "tree" or parts[-1] == "done.json":
            task = next(t for t in self.in_place.tasks.values() if t.slug == parts[0])
            name = "/".join(parts[1:]).removesuffix(".json")
            aggregate = task.aggregates.named(name)
            assert aggregate is not None, name
            for below in aggregate_inputs(self.paths, task, aggregate):
                self.aggregate(below)
            work_sentinel(path, attempt=1, environment={})

    def done(self, name: str = "task") -> Path:
        """Make a task's done.json; return its path."""
        path = self.paths.done(self.in_place.tasks[name].slug)
        self.aggregate(path)
        return path

    def judgement(self, name: str = "task") -> Judgement:
        """Return the judgement on all blocks of a task."""
        plan = self.in_place
        return Judge(plan, self.root).judge_all(plan.tasks[name])

    def ledger(self, name: str = "task", index: Index | None = None) -> Path:
        """Return the ledger of a job, of the first by default."""
        job = self.job(name, index)
        return self.paths.ledger(job.task.slug, job.index)

    def sentinel(self, name: str = "task", index: Index | None = None) -> Path:
        """Return the sentinel of a job, of the first by default."""
        return Path(self.job(name, index).sentinel)

    def records(self, name: str = "task") -> list[Any]:
        """Return the records of a task's blocks, job after job."""
        task = self.in_place.tasks[name]
        return [record for job in task.jobs.jobs for record in self._own(task, job)]

    def _own(self, task: PlannedTask, job: Index) -> Iterator[Any]:
        members = task.jobs.members(job)
        for record in read_records(self.paths.ledger(task.slug, job), first_block(task.own_grid)):
            if members.contains(record["index"]):
                yield record

    def events(self, name: str = "task") -> list[tuple[str, Index, int]]:
        """Return what happened: event, block, attempt."""
        return [
            (Event(r["event"]).name, tuple(r["index"].tolist()), int(r["attempt"]))
            for r in self.records(name)
        ]

    def stamps(self, name: str = "task") -> dict[Index, int]:
        """Return the stamps of the counting records; a block that runs again gets another."""
        found = self.judgement(name)
        return {tuple(i.tolist()): int(found.stamp[tuple(i)]) for i in np.argwhere(found.stamp)}

    def failures(self, name: str = "task", index: Index | None = None) -> list[Failure]:
        """Return the failures of a job, of the first by default."""
        job = self.job(name, index)
        return list(read_failures(self.paths.failures(job.task.slug, job.index)))

    @property
    def calls(self) -> list[list[str]]:
        """What :data:`CALLS` noted: block, process, text."""
        return [x.split() for x in (self.folder / "calls.txt").read_text().splitlines()]

    @property
    def called(self) -> list[str]:
        """For which blocks functions were called, in this order."""
        return [call[0] for call in self.calls]
