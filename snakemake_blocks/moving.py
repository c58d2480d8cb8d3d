"""Bringing a run directory's state under a new plan, so that nothing done is lost or repeated.

The order makes every step safe to repeat after a crash: ledgers that serve the old plan and
the new one, sentinels of complete jobs, plan.json, and only then what belongs to the old plan
goes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.box import Index
from snakemake_blocks.errors import BusyError
from snakemake_blocks.jobs import aggregate_inputs, sentinel_of
from snakemake_blocks.judgement import Judge
from snakemake_blocks.ledger import with_indices, write_records
from snakemake_blocks.locks import holder_of, is_alive
from snakemake_blocks.paths import RunPaths, SentinelName, write_atomically
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.sentinel import digest_of_sentinels, read_sentinel

__all__ = ["move_state", "refuse_running", "settle_sentinels"]


def refuse_running(root: Path) -> None:
    """Refuse to touch state while a job of this run directory is in somebody's hands.

    Raises
    ------
    BusyError
        With who holds which job.
    """
    for path in root.glob("*/ledger/*/*.lock"):
        holder = holder_of(path)
        if holder is not None and is_alive(holder) is not False:
            job = f"{path.parents[2].name}/{path.stem}"
            raise BusyError(
                f"job {job} is run by {holder}; wait for it, or `snakemake-blocks stop {root}`"
            )


def move_state(old: Plan | None, new: Plan, root: Path, pickles: dict[str, bytes]) -> None:
    """Put ``new`` in place of ``old`` and keep every result that counts under both.

    Parameters
    ----------
    old : Plan or None
        The plan in place, if any.
    new : Plan
        The plan to put there.
    root : Path
        The run directory, locked by the caller.
    pickles : dict of str to bytes
        Pickled functions by sha256.
    """
    paths = RunPaths(root)
    moved = [task for task in new.tasks.values() if _is_moved(old, task)]
    for task in moved:
        assert old is not None
        _write_ledgers(old.tasks[task.name], task, Judge(old, root), paths)
    for digest, payload in pickles.items():
        if not (paths.functions / f"{digest}.pkl").exists():
            write_atomically(paths.functions / f"{digest}.pkl", payload)
    for task in new.tasks.values():
        if task.jobs.present is not None:
            _write_if_changed(paths.mask(task.slug), new.mask_bytes(task))
    judge = Judge(new, root)
    settle_sentinels(judge, root)
    _write_if_changed(paths.plan, new.to_bytes())
    for task in moved:
        _drop_foreign_ledgers(task, paths)
    _drop_foreign_sentinels(new, root)


def _is_moved(old: Plan | None, task: PlannedTask) -> bool:
    """Tell whether blocks of a task lie in other ledgers under the new plan."""
    if old is None or task.name not in old.tasks:
        return False
    before = old.tasks[task.name]
    if before.grid.ndim != task.grid.ndim:
        return False
    return before.jobs.batch != task.jobs.batch or _index_shift(before, task) != (0,) * len(
        task.jobs.batch
    )


def _index_shift(before: PlannedTask, task: PlannedTask) -> Index:
    """Return what to add to an index of the old grid; whole blocks, else nothing counts anyway."""
    return tuple(
        (b.begin - a.begin) // a.step for b, a in zip(before.grid.axes, task.grid.axes, strict=True)
    )


def _write_ledgers(before: PlannedTask, task: PlannedTask, judge: Judge, paths: RunPaths) -> None:
    """Write the ledgers of the new jobs; they keep what the old plan reads in the same files."""
    shift = np.asarray(_index_shift(before, task), np.int32)
    gathered: dict[Index, list[NDArray[np.void]]] = {}
    kept: dict[Index, NDArray[np.void]] = {}
    for job in before.jobs.jobs:
        records = _own_records(before, judge, job)
        if not len(records):
            continue
        kept[job] = records
        shifted = with_indices(records, records["index"] + shift)
        inside = np.all((shifted["index"] >= 0) & (shifted["index"] < task.grid.shape), axis=1)
        shifted = shifted[inside]
        new_jobs = shifted["index"] // np.asarray(task.jobs.batch, np.int32)
        for target in np.unique(new_jobs, axis=0):
            chosen = np.all(new_jobs == target, axis=1)
            gathered.setdefault(tuple(map(int, target)), []).append(shifted[chosen])
    for job, parts in gathered.items():
        records = np.concatenate([kept.get(job, parts[0][:0]), *parts])
        write_records(paths.ledger(task.slug, job), records)


def _own_records(task: PlannedTask, judge: Judge, job: Index) -> NDArray[np.void]:
    """Return the records of a job's own blocks, without those of another batch shape."""
    records = judge.records(task, job)
    members = task.jobs.members(job)
    inside = np.all((records["index"] >= members.begin) & (records["index"] < members.end), axis=1)
    return records[inside]


def _drop_foreign_ledgers(task: PlannedTask, paths: RunPaths) -> None:
    """Remove ledgers of jobs that the new plan does not have."""
    for path in (paths.task(task.slug) / "ledger").glob("*/*"):
        index = tuple(int(k) for k in path.name.split("-") if k.isdigit())
        if path.suffix or path.name.startswith("."):
            continue
        if not task.jobs.jobs.indices.contains(index):
            path.unlink()


def settle_sentinels(judge: Judge, root: Path) -> None:
    """Make sentinels say exactly what the ledgers say.

    Complete jobs get theirs (new ones with one common mtime, so that none looks newer than
    another), incomplete ones lose it, and aggregates above a changed one go: Snakemake would
    otherwise see a present target and do nothing.
    """
    paths = RunPaths(root)
    now = time.time()
    for task in judge.plan.tasks.values():
        if not paths.task(task.slug).exists():
            continue
        judge.judge_all(task)
        for job in judge.plan.jobs(task.name):
            path = paths.sentinel(task.slug, job.phase, job.index)
            wanted = None
            if path.exists() or paths.ledger(task.slug, job.index).exists():
                wanted = sentinel_of(job, judge)
            if wanted is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_bytes() != wanted.to_bytes():
                wanted.write(path)
                os.utime(path, (now, now))
        _drop_stale_aggregates(task, paths)


def _drop_stale_aggregates(task: PlannedTask, paths: RunPaths) -> None:
    nodes = [
        (task.slug, "tree", str(level + 1), f"{node}.json")
        for level, count in enumerate(task.aggregates.levels)
        for node in range(count)
    ]
    for parts in [*nodes, (task.slug, "done.json")]:
        path = paths.root.joinpath(*parts)
        if not path.exists():
            continue
        below = aggregate_inputs(paths, task, task.aggregates, parts)
        contents = [p.read_bytes() for p in below if p.exists()]
        sentinel = read_sentinel(path)
        if (
            len(contents) < len(below)
            or sentinel is None
            or sentinel.digest != digest_of_sentinels(contents)
        ):
            path.unlink()


def _drop_foreign_sentinels(plan: Plan, root: Path) -> None:
    """Remove sentinels of jobs, and tree nodes, that the plan does not have."""
    for task in plan.tasks.values():
        for path in _sentinel_files(root / task.slug):
            name = SentinelName.from_path(path)
            inside = len(name.index) == task.grid.ndim and task.jobs.jobs.indices.contains(
                name.index
            )
            if not inside or task.phases.of(name.index) != name.phase:
                path.unlink()
        for path in (root / task.slug / "tree").glob("*/*.json"):
            level, node = int(path.parent.name), int(path.stem)
            levels = task.aggregates.levels
            if level > len(levels) or node >= levels[level - 1]:
                path.unlink()


def _sentinel_files(folder: Path) -> Iterator[Path]:
    for phase in folder.glob("p[0-9]*"):
        yield from phase.glob("*/*.json")


def _write_if_changed(path: Path, content: bytes) -> None:
    """Write a file unless it is the same already, so that its mtime stays."""
    try:
        same = hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
    except FileNotFoundError:
        same = False
    if not same:
        write_atomically(path, content)
