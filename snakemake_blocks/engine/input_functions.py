"""What a Snakefile asks of the plan: the inputs of a job, computed when they are needed.

This module runs inside Snakemake, in its main process and again in every remote job, so it
imports little and reads only the plan.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.aggregates import Aggregate
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.completion import aggregate_inputs
from snakemake_blocks.system.location import is_same
from snakemake_blocks.tasks.resources import as_number, grows
from snakemake_blocks.work.stop_reasons import CONDUCTOR, conductor

__all__ = ["Rules", "all_resources", "job_pattern", "prepare_environment"]

InputFunction = Callable[[Any], list[str]]


def prepare_environment() -> None:
    """Let jobs find the `snakemake-blocks` beside this Python, and notice when Snakemake dies."""
    folder, command = os.path.dirname(sys.executable), "snakemake-blocks"
    if shutil.which(command) != os.path.join(folder, command):
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
    os.environ[CONDUCTOR] = conductor()


class Rules:
    """Answers for the rules of one plan.

    Parameters
    ----------
    run_directory : str
        Where the plan lies, relative to the folder that Snakemake runs in.
    prefix : str
        What Snakemake itself puts before every path of a module; paths are given without it.
    plan : str
        Fingerprint of the plan that the Snakefile was made for, empty for any.

    Raises
    ------
    InputError
        If the plan is another one, or of a pipeline in another folder.
    """

    def __init__(self, run_directory: str, prefix: str = "", *, plan: str = "") -> None:
        prepare_environment()
        root = Path(prefix + run_directory)
        self.plan = Plan.load(root)
        if plan:
            _refuse_other(self.plan, root, plan)
        self._paths = RunPaths(Path(run_directory))
        self._plan = Plan(self.plan.name, self.plan.tasks, run_directory, self.plan.base)

    @property
    def root(self) -> str:
        """The run directory, without Snakemake's prefix."""
        return str(self._paths.root)

    def job_pattern(self, task: PlannedTask) -> str:
        """Return the regular expression of a job's wildcard."""
        return job_pattern(task)

    @property
    def tasks(self) -> list[PlannedTask]:
        """The planned tasks, upstream first."""
        return list(self.plan.tasks.values())

    @property
    def targets(self) -> list[str]:
        """The aggregates of all tasks: a block that nobody reads is a result, too."""
        return [str(self._paths.done(task.slug)) for task in self.tasks]

    def priority(self, task: str) -> int:
        """Return how much sooner its jobs run than those of the last task."""
        return self.plan.priority(task)

    def conflicts(self, task: str) -> InputFunction:
        """Return the input function for conflicting jobs of lower phases."""
        return lambda wildcards: self._job(task, wildcards.job).conflicts

    def upstream(self, task: str) -> InputFunction:
        """Return the input function for upstream jobs."""
        return lambda wildcards: self._job(task, wildcards.job).upstream

    def below(self, task: str, level: int) -> InputFunction:
        """Return the input function of a node of the aggregates' tree."""
        planned = self.plan.tasks[task]

        return lambda wildcards: self._inputs(planned, Aggregate(level, int(wildcards.node)))

    def top(self, task: str) -> list[str]:
        """Return what `done.json` stands on."""
        planned = self.plan.tasks[task]
        return self._inputs(planned, planned.aggregates.top)

    def _inputs(self, task: PlannedTask, aggregate: Aggregate) -> list[str]:
        return [str(p) for p in aggregate_inputs(self._paths, task, aggregate)]

    def _job(self, task: str, name: str) -> Job:
        index: Index = tuple(int(k) for k in name.rpartition("/")[2].split("-"))
        return Job(self._plan, self.plan.tasks[task], index)

    def resources(self, task: PlannedTask) -> dict[str, Any]:
        """Return the resources of a task's jobs; memory and runtime grow with the attempt."""
        return {name: _growing(name, value) for name, value in all_resources(task)}


def _refuse_other(plan: Plan, root: Path, fingerprint: str) -> None:
    """Refuse a plan that the Snakefile was not made for: its jobs would be others."""
    folder, here = plan.folder(root), Path.cwd()
    if not (is_same(here, folder) or is_same(here, root)):
        raise InputError(
            f"{root}: is the run directory of a pipeline in {os.path.realpath(folder)}, and "
            f"Snakemake runs in {here}; give this one a run_directory of its own, or run "
            "Snakemake there"
        )
    if not plan.digest.startswith(fingerprint):
        raise InputError(
            f"{root}: holds another plan than the Snakefile was made for, {plan.digest[:16]} and "
            f"not {fingerprint}; `snakemake-blocks generate` makes it anew"
        )


def job_pattern(task: PlannedTask) -> str:
    """Return the regular expression of a job's wildcard, ``shard/i-j-k``."""
    index = "-".join(["[0-9]+"] * task.grid.ndim)
    return f"{index}/{index}"


def all_resources(task: PlannedTask) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every resource of a task's jobs, but for ``attempt``."""
    for name, value in sorted(task.budget.resources.items()):
        yield name, as_number(name, value)
    if task.budget.max_workers is not None:
        yield f"{task.slug}_workers", min(task.budget.workers, task.budget.max_workers)


def _growing(name: str, value: Any) -> Any:
    if grows(name, value):
        return lambda wildcards, attempt: value * attempt
    return value
