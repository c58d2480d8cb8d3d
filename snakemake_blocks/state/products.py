"""Files that a task leaves beside arrays and rows: they are there, and hold what they held.

When a task is done it is noted what its outputs and Parquet files hold. An output that is gone, or
holds something else, takes all blocks of its task with it: nobody knows which of them made what is
lost. A Parquet file is written again from the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from snakemake_blocks.errors import LedgerError
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.tables import write_parquet
from snakemake_blocks.system.files import parse_json, read_file, write_atomically

__all__ = [
    "lacking_products",
    "lost_outputs",
    "lost_parquet",
    "note_leftovers",
    "reopen",
    "write_products",
]

_MISSING = "is missing"
_CHANGED = "is not what the task left"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Content:
    """What a file or a folder holds.

    Parameters
    ----------
    facts : str
        Digest of names, sizes and times: while these are the same, so is the content.
    digest : str
        Of names and contents.
    """

    facts: str
    digest: str

    @classmethod
    def of(cls, path: Path) -> _Content:
        """Return what a path holds now; reads all of it."""
        return cls(_facts_of(path), _digest_of(path))

    def is_that_of(self, path: Path, *, deep: bool) -> bool:
        """Tell whether a path holds the same; ``deep``: by its content in any case."""
        if not deep and _facts_of(path) == self.facts:
            return True
        return _digest_of(path) == self.digest


def _files_in(path: Path) -> list[Path]:
    """Return a file, or the files of a folder and below it, in one order."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _facts_of(path: Path) -> str:
    total = hashlib.sha256()
    for file in _files_in(path):
        facts, name = file.stat(), file.relative_to(path).as_posix()
        total.update(f"{name}\0{facts.st_size} {facts.st_mtime_ns}\n".encode())
    return total.hexdigest()


def _digest_of(path: Path) -> str:
    total = hashlib.sha256()
    for file in _files_in(path):
        content = hashlib.sha256()
        with open(file, "rb") as stream:
            while data := stream.read(_CHUNK):
                content.update(data)
        total.update(file.relative_to(path).as_posix().encode() + b"\0" + content.digest())
    return total.hexdigest()


def _has_products(task: PlannedTask) -> bool:
    """Tell whether a task leaves files beside arrays and rows."""
    return bool(task.operation.outputs or task.operation.parquet)


def write_products(plan: Plan, task: PlannedTask, root: Path, done: bytes) -> None:
    """Write a task's Parquet files, and note what these and its outputs hold.

    Parameters
    ----------
    plan, task, root
        All blocks of the task are done.
    done : bytes
        The content of the sentinel that says so.

    Raises
    ------
    LedgerError
        If rows are lost, or an output is not there.
    """
    if not _has_products(task):
        return
    write_parquet(plan, task, root)
    folder = plan.folder(root)
    missing = [path for path in task.operation.outputs if not (folder / path).exists()]
    if missing:
        raise LedgerError(
            f"task {task.name}: all blocks are done, and {', '.join(missing)}, which outputs "
            "names, is not there; mend the function, then reset the task"
        )
    names = [*task.operation.outputs, *task.operation.parquet]
    for name in names:
        _settle_database(folder / name)
    found = {name: asdict(_Content.of(folder / name)) for name in names}
    record = {"done": hashlib.sha256(done).hexdigest(), "files": found}
    write_atomically(
        RunPaths(root).products(task.slug), (json.dumps(record, indent=2) + "\n").encode()
    )


def _settle_database(path: Path) -> None:
    """Have SQLite move into a database what lies in the journal beside it.

    Whoever reads the database next would, and it would not be what the task left.
    """
    if not path.with_name(f"{path.name}-wal").exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _noted(root: Path, task: PlannedTask) -> dict[str, _Content] | None:
    """Return what a task's files held when it was done as it is now; None if nobody noted that."""
    paths = RunPaths(root)
    try:
        record = parse_json(read_file(paths.products(task.slug)))
        done = hashlib.sha256(read_file(paths.done(task.slug))).hexdigest()
        if record["done"] != done:
            return None
        return {name: _Content(**content) for name, content in record["files"].items()}
    except (FileNotFoundError, AttributeError, ValueError, TypeError, KeyError):
        return None


def _has_begun(root: Path, task: PlannedTask) -> bool:
    return any(RunPaths(root).ledgers(task.slug).glob("*/*"))


def lost_outputs(judge: Judge, task: PlannedTask, *, deep: bool = False) -> dict[str, str]:
    """Return the outputs of a task that are not as its done blocks left them, and what is wrong.

    Of an output that several tasks make, the last one of them that has begun knows what it holds.

    Parameters
    ----------
    judge : Judge
        Of the run directory.
    task : PlannedTask
        The task.
    deep : bool
        Compare contents also where sizes and times are the same.
    """
    found: dict[str, str] = {}
    folder = judge.plan.folder(judge.root)
    if not task.operation.outputs or not judge.judge_all(task).done.any():
        return found
    for path in task.operation.outputs:
        if not (folder / path).exists():
            found[path] = _MISSING
            continue
        makers = [t for t in judge.plan.tasks.values() if path in t.operation.outputs]
        last = [maker for maker in makers if _has_begun(judge.root, maker)][-1]
        noted = None if judge.judge_all(last).todo.any() else _noted(judge.root, last)
        content = noted.get(path) if noted else None
        if content is not None and not content.is_that_of(folder / path, deep=deep):
            found[path] = _CHANGED
    return found


def lost_parquet(judge: Judge, task: PlannedTask, *, deep: bool = False) -> dict[str, str]:
    """Return the Parquet files of a done task that are not as it left them, likewise."""
    names = task.operation.parquet
    if not names or judge.judge_all(task).todo.any():
        return {}
    noted = _noted(judge.root, task) or {}
    found, folder = {}, judge.plan.folder(judge.root)
    for name in names:
        if not (folder / name).exists():
            found[name] = _MISSING
        elif name not in noted or not noted[name].is_that_of(folder / name, deep=deep):
            found[name] = _CHANGED
    return found


def lacking_products(judge: Judge, task: PlannedTask) -> list[str]:
    """Return the files of a task, all of whose blocks are done, that nobody noted or are gone."""
    if not _has_products(task) or judge.judge_all(task).todo.any():
        return []
    noted, folder = _noted(judge.root, task) or {}, judge.plan.folder(judge.root)
    names = [*task.operation.outputs, *task.operation.parquet]
    return [name for name in names if name not in noted or not (folder / name).exists()]


def reopen(judge: Judge) -> Iterator[str]:
    """Have done tasks end once more whose files are not noted, or not there; yield a line each."""
    paths = RunPaths(judge.root)
    for task in judge.plan.tasks.values():
        done = paths.done(task.slug)
        if not _has_products(task) or not done.exists():
            continue
        lost = lost_parquet(judge, task)
        if lost or _noted(judge.root, task) is None:
            done.unlink()
        yield from (f"{task.name}: {name} {why}, and is written anew" for name, why in lost.items())


def _steps(task: PlannedTask) -> list[tuple[int, int]]:
    return [(axis.step, axis.begin % axis.step) for axis in task.own_grid.axes]


def note_leftovers(old: Plan | None, plan: Plan, root: Path) -> None:
    """Note of which tasks there may be something in their outputs of which no record tells.

    That is where an output is there before the first block, and where blocks had other sizes: the
    hook before a block is called for all blocks then.
    """
    folder = plan.folder(root)
    for task in plan.tasks.values():
        if task.operation.before_block is None:
            continue
        before = old.tasks.get(task.name) if old else None
        if before is None:
            left = any((folder / path).exists() for path in task.operation.outputs)
        else:
            left = _steps(before) != _steps(task)
        if left:
            write_atomically(RunPaths(root).leftovers(task.slug), b"")
