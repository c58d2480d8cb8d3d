"""Bringing a run directory's state under a new plan, so that nothing done is lost or repeated.

The order makes every step safe to repeat after a crash: ledgers that serve the old plan and
the new one, sentinels of complete jobs, plan.json, and only then what belongs to the old plan
goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths, SentinelName, index_of
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.completion import aggregate_inputs, sentinel_of
from snakemake_blocks.state.forgetting import disordered, forget
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import Event, first_block, read_records, write_records
from snakemake_blocks.state.sentinel import digest_of_sentinels, read_sentinel
from snakemake_blocks.system.files import read_file, write_atomically
from snakemake_blocks.system.locks import TIMING, Watch, held, holder_of, is_alive, not_a_lock

__all__ = ["changing_state", "is_reordered", "move_state", "refuse_running", "settle_sentinels"]

# Jobs of a killed Snakemake notice within a quarter of a second that it is gone.
_MOST = 256 << 20


def refuse_running(root: Path, *, patience: float | None = None) -> None:
    """Refuse to touch state while a job of this run directory is in somebody's hands.

    Jobs on other hosts are watched until their counter moves, or has stood still for so long
    that they are dead.

    Parameters
    ----------
    root : Path
        The run directory.
    patience : float
        Seconds to wait for jobs to end: those of a killed run do by themselves.

    Raises
    ------
    BusyError
        With who holds which job.
    """
    patience = TIMING.ending if patience is None else patience
    watch, give_up, told = Watch(), time.monotonic() + patience, False
    unreadable = time.monotonic() + TIMING.unreadable
    locks = list(root.glob("*/ledger/*/*.lock"))
    before = {path: holder_of(path) for path in locks}
    while locks := [path for path in locks if path.exists() and not watch.is_dead(path)]:
        for path in locks:
            holder = holder_of(path)
            if holder is None:
                if path.exists() and time.monotonic() >= unreadable:
                    raise not_a_lock(path)
                continue
            visible = is_alive(holder) is not None
            if time.monotonic() >= give_up if visible else holder != before[path]:
                raise BusyError(
                    f"job {path.parents[2].name}/{path.stem} is run by {holder}; wait for it, or "
                    f"`snakemake-blocks stop {root}`"
                )
            if not visible and not told:
                told = True
                print(f"{path}: is held by {holder}; looking whether that lives", flush=True)
        time.sleep(TIMING.poll)


@contextlib.contextmanager
def changing_state(root: Path, *plans: Plan) -> Iterator[None]:
    """Keep jobs from beginning inside the ``with`` block, which none runs at the begin of.

    Parameters
    ----------
    root : Path
        The run directory.
    plans : Plan
        Whose tasks' files may change.

    Raises
    ------
    BusyError
        If a job runs, or somebody else changes the state.
    InputError
        If something is in the way of these files: a change that fails half way leaves more to be
        mended than it found.
    """
    with held(RunPaths(root).moving, os.environ, what=f"the state of {root}"):
        refuse_running(root)
        _survey({task.slug for plan in plans for task in plan.tasks.values()}, root)
        yield


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

    Raises
    ------
    BusyError
        While a job runs.
    """
    with changing_state(root, *([old] if old else []), new):
        _move_state(old, new, root, pickles)


def _move_state(old: Plan | None, new: Plan, root: Path, pickles: dict[str, bytes]) -> None:
    paths = RunPaths(root)
    _finish_masks(old, paths)
    moved = [task for task in new.tasks.values() if _is_moved(old, task)]
    for task in moved:
        assert old is not None
        _write_ledgers(old.tasks[task.name], task, paths)
    for task in new.tasks.values() if old is None else ():
        _gather_records(task, paths)
    for digest, payload in pickles.items():
        if not (paths.functions / f"{digest}.pkl").exists():
            write_atomically(paths.functions / f"{digest}.pkl", payload)
    for task in new.tasks.values():
        if task.jobs.present is not None:
            write_atomically(paths.next_mask(task.slug), new.mask_bytes(task))
    for task in old.tasks.values() if old else ():
        if task.name not in new.tasks or new.tasks[task.name].fingerprint != task.fingerprint:
            _note_identity(task, paths)
    judge = Judge(new, root)
    for task in new.tasks.values():
        if is_reordered(old, task) and (lost := disordered(task, judge)):
            forget(task, root, lost)
            judge = Judge(new, root)
    settle_sentinels(judge, root)
    _write_if_changed(paths.plan, new.to_bytes())
    for task in new.tasks.values():
        if task.jobs.present is not None:
            os.replace(paths.next_mask(task.slug), paths.mask(task.slug))
        _drop_foreign_ledgers(task, paths)
    for task, job in judge.polluted():
        _drop_foreign_records(task, job, paths)
    _drop_foreign_sentinels(new, root)


def _survey(slugs: Collection[str], root: Path) -> None:
    """Refuse what is no file, or none of ours, where files of the state are to be changed.

    Raises
    ------
    InputError
        With the first that is in the way.
    """
    folders = [root / "masks", root / "functions", *(root / slug for slug in slugs)]
    folders += [root / slug / "ledger" for slug in slugs]
    for path in folders:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is no folder; move it away")
    _survey_files(root, 0, names=("plan.json",), most=sys.maxsize)  # it will be another one
    _survey_files(root, 0, names=("Snakefile", "stop"))
    for name in ("masks", "functions", "envs"):
        _survey_files(root / name, 0)
    for slug in slugs:
        _survey_task(root / slug)


def _survey_task(folder: Path) -> None:
    _survey_files(folder, 0, names=("done.json",))
    for name, depth in (("ledger", 1), ("identities", 0), ("notes", 0)):
        _survey_files(folder / name, depth)
    _survey_files(folder / "logs", 1, most=sys.maxsize)
    for path in folder.glob("p[0-9]*"):
        _survey_files(path, 1, check=SentinelName.from_path)
    _survey_files(folder / "tree", 1, check=_check_aggregate)


def _survey_files(
    folder: Path,
    depth: int,
    *,
    most: int = _MOST,
    names: Collection[str] = (),
    check: Callable[[Path], object] = lambda path: None,
) -> None:
    """Refuse what is no file so many folders below one, is too large, or ``.json`` of a bad name.

    There may be a hundred thousand: about 5 us each. With ``names`` only those are looked at.
    """
    for entry in _entries(folder, depth):
        if names and entry.name not in names:
            continue
        if not entry.is_file():
            raise InputError(f"{entry.path}: is no file; move it away")
        if entry.name.endswith(".json"):
            check(Path(entry.path))
        if entry.stat().st_size > most:
            raise InputError(
                f"{entry.path}: is larger than anything that belongs here; move it away"
            )


def _entries(folder: str | Path, depth: int) -> Iterator[os.DirEntry[str]]:
    """Yield what lies so many folders below one, nothing if it is not there."""
    try:
        found = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if depth == 0:
            yield entry
        elif entry.is_dir():
            yield from _entries(entry.path, depth - 1)


def _check_aggregate(path: Path) -> None:
    if not (path.stem.isdecimal() and path.parent.name.isdecimal()):
        raise InputError(f"{path}: does not belong here; move it away")


def _note_identity(task: PlannedTask, paths: RunPaths) -> None:
    """Keep what a fingerprint stood for, to say why results of it no longer count."""
    path = paths.identity(task.slug, task.fingerprint)
    if paths.task(task.slug).exists() and not path.exists():
        text = json.dumps(task.identity, indent=1, sort_keys=True) + "\n"
        write_atomically(path, text.encode(), durable=False)


def _finish_masks(old: Plan | None, paths: RunPaths) -> None:
    """Put masks in their place that a crash left waiting for it."""
    if old is None:
        return
    for task in json.loads(read_file(paths.plan))["tasks"]:
        waiting = paths.next_mask(task["slug"])
        if not task["masked"] or not waiting.exists():
            continue
        if hashlib.sha256(read_file(waiting)).hexdigest() == task["masked"]:
            os.replace(waiting, paths.mask(task["slug"]))


def _is_moved(old: Plan | None, task: PlannedTask) -> bool:
    """Tell whether blocks of a task lie in other ledgers under the new plan."""
    if old is None or task.name not in old.tasks:
        return False
    before = old.tasks[task.name]
    if before.grid.ndim != task.grid.ndim:
        return False
    return (before.jobs.batch, first_block(before.own_grid)) != (
        task.jobs.batch,
        first_block(task.own_grid),
    )


def is_reordered(old: Plan | None, task: PlannedTask) -> bool:
    """Tell whether conflicting blocks may run in another order under the new plan."""
    if old is None or task.name not in old.tasks or not any(task.reach):
        return False
    before = old.tasks[task.name]
    if (before.jobs.batch, before.own_grid) != (task.jobs.batch, task.own_grid):
        return True
    everything = task.grid.indices
    return not np.array_equal(before.jobs.presence(everything), task.jobs.presence(everything))


def _write_ledgers(before: PlannedTask, task: PlannedTask, paths: RunPaths) -> None:
    """Write the ledgers of the new jobs; they keep what the old plan reads in the same files.

    A record names its block for both plans alike, and each reads only those of a job's own
    blocks, so the old plan stays valid until the new one stands in its place.
    """
    _drop_foreign_ledgers(before, paths)
    first = np.asarray(first_block(task.own_grid), np.int32)
    gathered: dict[Index, list[NDArray[np.void]]] = {}
    old: dict[Index, NDArray[np.void]] = {}
    for job in before.jobs.jobs:
        records = _drop_foreign_records(before, job, paths)
        if not len(records):
            continue
        old[job] = records
        place = records["index"] - first
        inside = np.all((place >= 0) & (place < task.grid.shape), axis=1)
        targets = place // np.asarray(task.jobs.batch, np.int32)
        for target in np.unique(targets[inside], axis=0):
            chosen = inside & np.all(targets == target, axis=1)
            gathered.setdefault(tuple(map(int, target)), []).append(records[chosen])
    for job, parts in gathered.items():
        kept = old.get(job, parts[0][:0])
        kept = kept[~_belongs(kept, task, job)]
        write_records(paths.ledger(task.slug, job), np.concatenate([kept, *parts]))


def _gather_records(task: PlannedTask, paths: RunPaths) -> None:
    """Bring records that lie here without a plan into the ledgers of the new jobs.

    Only the plan knows which of several ledgers spoke for a block last, so a block that is in
    more than one is done anew.
    """
    first = np.asarray(first_block(task.own_grid), np.int32)
    batch = np.asarray(task.jobs.batch, np.int32)
    found = {}
    for path in (paths.task(task.slug) / "ledger").glob("*/*"):
        if re.fullmatch(r"-?\d+(--?\d+)*", path.name):
            found[path] = read_records(path, (0,) * task.grid.ndim)
    if not any(map(len, found.values())):
        return
    records = np.concatenate(list(found.values()))
    origin = np.repeat(np.arange(len(found)), [len(part) for part in found.values()])
    place = records["index"] - first
    inside = np.all((place >= 0) & (place < task.grid.shape), axis=1)
    # A new budget of attempts is of a job that is gone.
    keep = inside & (records["event"] != Event.BUDGET)
    numbers = np.ravel_multi_index(tuple(np.where(keep[:, None], place, 0).T), task.grid.shape)
    pairs = np.unique(np.stack([numbers[keep], origin[keep]]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    keep &= ~np.isin(numbers, names[counts > 1])
    kept, jobs = records[keep], task.jobs.jobs.shape
    targets = np.ravel_multi_index(tuple((place[keep] // batch).T), jobs)
    order = np.argsort(targets, kind="stable")
    names, begins = np.unique(targets[order], return_index=True)
    written = set()
    for job, part in zip(names, np.split(order, begins[1:]), strict=bool(len(names))):
        path = paths.ledger(task.slug, tuple(map(int, np.unravel_index(job, jobs))))
        write_records(path, kept[part])
        written.add(path)
    for path in found.keys() - written:
        path.unlink()


def _drop_foreign_records(task: PlannedTask, job: Index, paths: RunPaths) -> NDArray[np.void]:
    """Reduce a ledger to the records of the job's own blocks; return them, numbered as on disk.

    What an earlier plan has left there would else speak for a block again under a later one,
    although that block has been run elsewhere in between.
    """
    path = paths.ledger(task.slug, job)
    records = read_records(path, (0,) * task.grid.ndim)
    own = _belongs(records, task, job)
    if not own.all():
        records = records[own]
        write_records(path, records)
    return records


def _belongs(records: NDArray[np.void], task: PlannedTask, job: Index) -> NDArray[np.bool_]:
    """Tell which records, numbered as on disk, are of blocks of a job."""
    members = task.jobs.members(job).shift(first_block(task.own_grid))
    index = records["index"]
    inside: NDArray[np.bool_] = np.all((index >= members.begin) & (index < members.end), axis=1)
    return inside


def _drop_foreign_ledgers(task: PlannedTask, paths: RunPaths) -> None:
    """Remove ledgers of jobs that the new plan does not have."""
    for path in (paths.task(task.slug) / "ledger").glob("*/*"):
        index = index_of(path.name)
        if index is None:
            continue  # a lock, or none of ours
        if len(index) != task.grid.ndim or not task.jobs.jobs.indices.contains(index):
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
            elif not path.exists() or read_file(path) != wanted.to_bytes():
                write_atomically(path, wanted.to_bytes(), durable=False)
                os.utime(path, (now, now))
        _drop_stale_aggregates(task, paths)


def _drop_stale_aggregates(task: PlannedTask, paths: RunPaths) -> None:
    for aggregate in task.aggregates:
        path = paths.aggregate(task.slug, task.aggregates.name(aggregate))
        if not path.exists():
            continue
        below = aggregate_inputs(paths, task, aggregate)
        contents = [read_file(p) for p in below if p.exists()]
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
        folder = root / task.slug
        for path in folder.glob("tree/*/*.json"):
            if task.aggregates.named(path.relative_to(folder).with_suffix("").as_posix()) is None:
                path.unlink()


def _sentinel_files(folder: Path) -> Iterator[Path]:
    for phase in folder.glob("p[0-9]*"):
        yield from phase.glob("*/*.json")


def _write_if_changed(path: Path, content: bytes) -> None:
    """Write a file unless it is the same already, so that its mtime stays."""
    try:
        same = hashlib.sha256(read_file(path)).digest() == hashlib.sha256(content).digest()
    except FileNotFoundError:
        same = False
    if not same:
        write_atomically(path, content)
