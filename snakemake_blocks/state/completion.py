"""When jobs and aggregates are complete: their sentinels under a plan, and what these stand on."""

from __future__ import annotations

from pathlib import Path

from snakemake_blocks.errors import InputError, LedgerError
from snakemake_blocks.geometry.aggregates import Aggregate
from snakemake_blocks.plan.paths import RunPaths, index_name
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.judgement import Judge, Judgement
from snakemake_blocks.state.ledger import first_block
from snakemake_blocks.state.products import write_products
from snakemake_blocks.state.sentinel import Sentinel, digest_of_sentinels, digest_of_stamps
from snakemake_blocks.system.files import read_file

__all__ = [
    "aggregate_inputs",
    "is_sentinel_of",
    "sentinel_for",
    "sentinel_of",
    "write_aggregate",
]


def sentinel_of(job: Job, judge: Judge) -> Sentinel | None:
    """Return the sentinel of a job, None if not all of its blocks have a counting record."""
    return sentinel_for(job, judge.judge(job.task, job.task.jobs.members(job.index)))


def sentinel_for(job: Job, judgement: Judgement) -> Sentinel | None:
    """Return the same from the judgement on the job's blocks."""
    present = judgement.state != State.MASKED
    if not judgement.done[present].all():
        return None
    return Sentinel(
        task=job.task.name,
        fingerprint=f"{job.task.fingerprint:016x}",
        node=index_name(job.index),
        batch=list(job.task.jobs.batch),
        first=list(first_block(job.task.own_grid)),
        blocks=int(present.sum()),
        digest=digest_of_stamps(judgement.stamp[present]),
    )


def is_sentinel_of(task: PlannedTask, node: str, sentinel: Sentinel | None) -> bool:
    """Tell whether a sentinel was written under the plan of ``task``, for the job ``node``."""
    return sentinel is not None and (
        sentinel.task == task.name
        and sentinel.fingerprint == f"{task.fingerprint:016x}"
        and sentinel.batch == list(task.jobs.batch)
        and sentinel.first == list(first_block(task.own_grid))
        and sentinel.node == node
    )


def write_aggregate(plan: Plan, path: Path, root: Path) -> None:
    """Write an aggregate from the sentinels that it stands on.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    path : Path
        Where the aggregate is to lie, relative to the run directory.
    root : Path
        The run directory.

    Raises
    ------
    InputError
        If the plan has no such task or aggregate.
    LedgerError
        If one of the sentinels is missing, damaged, or of another plan.
    """
    task = next((t for t in plan.tasks.values() if t.slug == path.parts[0]), None)
    if task is None:
        raise InputError(f"{path}: the plan has no task {path.parts[0]}; plan again")
    name = path.relative_to(task.slug).with_suffix("").as_posix()
    aggregate = task.aggregates.named(name) if path.suffix == ".json" else None
    if aggregate is None:
        raise InputError(f"{path}: the plan has no such aggregate; plan again")
    paths, contents, blocks = RunPaths(root), [], 0
    for below in aggregate_inputs(paths, task, aggregate):
        content = read_file(below) if below.exists() else b""
        sentinel = Sentinel.from_bytes(content)
        node = below.relative_to(paths.task(task.slug)).with_suffix("").as_posix()
        if aggregate.level == 1:
            node = below.stem
        if sentinel is None or not is_sentinel_of(task, node, sentinel):
            raise LedgerError(
                f"{below}: is missing, damaged or of another plan; `snakemake-blocks generate` "
                "puts that right"
            )
        contents.append(content)
        blocks += sentinel.blocks
    sentinel = Sentinel(
        task=task.name,
        fingerprint=f"{task.fingerprint:016x}",
        node=name,
        batch=list(task.jobs.batch),
        first=list(first_block(task.own_grid)),
        blocks=blocks,
        digest=digest_of_sentinels(contents),
    )
    if name == "done":
        write_products(plan, task, root, sentinel.to_bytes())
    sentinel.write(root / path)


def aggregate_inputs(paths: RunPaths, task: PlannedTask, aggregate: Aggregate) -> list[Path]:
    """Return the files that an aggregate stands on."""
    tree = task.aggregates
    if aggregate.level > 1:
        nodes = (Aggregate(aggregate.level - 1, number) for number in tree.below(aggregate))
        return [paths.aggregate(task.slug, tree.name(node)) for node in nodes]
    jobs = (task.job_index(number) for number in tree.below(aggregate))
    return [paths.sentinel(task.slug, task.phases.of(j), j) for j in jobs]
