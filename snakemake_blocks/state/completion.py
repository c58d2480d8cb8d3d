"""When jobs and aggregates are complete: their sentinels under a plan, and what these stand on."""

from __future__ import annotations

import re
from pathlib import Path

from snakemake_blocks.errors import InputError, LedgerError
from snakemake_blocks.geometry.aggregates import Aggregates
from snakemake_blocks.plan.paths import RunPaths, index_name
from snakemake_blocks.plan.plan import Job, Plan, PlannedTask
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.judgement import Judge, Judgement
from snakemake_blocks.state.ledger import first_block
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
        first=list(first_block(job.task.grid)),
        blocks=int(present.sum()),
        digest=digest_of_stamps(judgement.stamp[present]),
    )


def is_sentinel_of(task: PlannedTask, node: str, sentinel: Sentinel | None) -> bool:
    """Tell whether a sentinel was written under the plan of ``task``, for the job ``node``."""
    return sentinel is not None and (
        sentinel.task == task.name
        and sentinel.fingerprint == f"{task.fingerprint:016x}"
        and sentinel.batch == list(task.jobs.batch)
        and sentinel.first == list(first_block(task.grid))
        and sentinel.node == node
    )


def write_aggregate(plan: Plan, parts: tuple[str, ...], root: Path) -> None:
    """Write an aggregate from the sentinels that it stands on.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    parts : tuple of str
        Of its path in the run directory.
    root : Path
        The run directory.

    Raises
    ------
    InputError
        If the plan has no such task or aggregate.
    LedgerError
        If one of the sentinels is missing, damaged, or of another plan.
    """
    task = next((t for t in plan.tasks.values() if t.slug == parts[0]), None)
    if task is None:
        raise InputError(f"{'/'.join(parts)}: the plan has no task {parts[0]}; plan again")
    paths, tree = RunPaths(root), task.aggregates
    if not _is_aggregate(parts, tree):
        raise InputError(f"{'/'.join(parts)}: the plan has no such aggregate; plan again")
    contents = []
    blocks = 0
    for path in aggregate_inputs(paths, task, tree, parts):
        content = read_file(path) if path.exists() else b""
        sentinel = Sentinel.from_bytes(content)
        node = "/".join(path.relative_to(paths.task(task.slug)).parts).removesuffix(".json")
        name = node if node.startswith("tree/") else path.stem
        if sentinel is None or not is_sentinel_of(task, name, sentinel):
            raise LedgerError(
                f"{path}: is missing, damaged or of another plan; `snakemake-blocks generate` "
                "puts that right"
            )
        contents.append(content)
        blocks += sentinel.blocks
    sentinel = Sentinel(
        task=task.name,
        fingerprint=f"{task.fingerprint:016x}",
        node="/".join(parts[1:]).removesuffix(".json"),
        batch=list(task.jobs.batch),
        first=list(first_block(task.grid)),
        blocks=blocks,
        digest=digest_of_sentinels(contents),
    )
    sentinel.write(root.joinpath(*parts))


def _is_aggregate(parts: tuple[str, ...], tree: Aggregates) -> bool:
    """Tell whether the parts of a path name an aggregate, as it is spelled."""
    if parts[1:] == ("done.json",):
        return True
    number = "(0|[1-9][0-9]{0,17})"
    match = re.fullmatch(rf"tree/{number}/{number}\.json", "/".join(parts[1:]))
    return match is not None and tree.holds(int(match[1]), int(match[2]))


def aggregate_inputs(
    paths: RunPaths, task: PlannedTask, tree: Aggregates, parts: tuple[str, ...]
) -> list[Path]:
    """Return the files that an aggregate, given by its path's parts, stands on."""
    if parts[1:] == ("done.json",):
        level = len(tree.levels) + 1
        numbers = range(tree.levels[-1] if tree.levels else tree.num_jobs)
    else:
        level, node = int(parts[2]), int(parts[3].removesuffix(".json"))
        numbers = tree.children(level, node)
    if level > 1:
        return [paths.tree(task.slug, level - 1, n) for n in numbers]
    jobs = (task.job_index(n) for n in numbers)
    return [paths.sentinel(task.slug, task.phases.of(j), j) for j in jobs]
