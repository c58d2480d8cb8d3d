"""Measuring a few blocks of each task, and what follows from it for the size of jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from snakemake_blocks.commands.generate import Options, generate, load_plan
from snakemake_blocks.commands.run import run_pipeline
from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.registry import load_pipeline
from snakemake_blocks.plan.job_size import JobSize, job_size
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.spec.editing import with_values
from snakemake_blocks.system.files import read_text, write_atomically
from snakemake_blocks.view.export import block_costs
from snakemake_blocks.view.report import ProbeReport

__all__ = ["probe_run"]


def probe_run(path: Path, options: Options, *, write: bool = False) -> ProbeReport:
    """Run a few blocks of each task; their results count. Propose jobs by what they cost.

    Parameters
    ----------
    path : Path
        The pipeline.yaml.
    options : Options
        How to run them.
    write : bool
        Write what is proposed into the file, and plan anew by it.

    Raises
    ------
    SpecError, PlanError, BusyError
        As :func:`~snakemake_blocks.commands.run.run_pipeline`.
    InputError
        If the file cannot be edited without harm; nothing is written then.
    """
    snakemake, state = run_pipeline(path, replace(options, probe=True))
    plan, root = load_plan(load_pipeline(path).run_directory)
    costs = block_costs(plan, root)
    sizes = {name: job_size(plan.tasks[name], found) for name, found in costs.items()}
    resources = {name: _resources(plan.tasks[name], size) for name, size in sizes.items()}
    report = ProbeReport(snakemake, state, costs, sizes, resources)
    if write and sizes:
        _write(path, report)
        generate(path, options=options)
    return report


def _resources(task: PlannedTask, size: JobSize) -> dict[str, int]:
    """Return memory under the name that the task uses: Snakemake takes one of them only."""
    named = {"mem": size.mem_mb, "mem_mib": -(-size.mem_mb * 1000**2 // 1024**2)}
    memory = next(((k, v) for k, v in named.items() if k in task.budget.resources), None)
    return dict([memory or ("mem_mb", size.mem_mb), ("runtime", size.runtime)])


def _write(path: Path, report: ProbeReport) -> None:
    changes: dict[tuple[str, ...], int] = {}
    for name, size in report.sizes.items():
        changes["tasks", name, "blocks_per_job"] = size.blocks_per_job
        for resource, value in report.resources[name].items():
            changes["tasks", name, "resources", resource] = value
    try:
        text = with_values(read_text(path), changes)
    except InputError as error:
        raise InputError(f"{path}: {error}; paste what `run --probe` prints") from None
    write_atomically(path.resolve(), text.encode())
