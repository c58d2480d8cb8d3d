"""Tables of a run: the rows that count, of all blocks of a task or of some.

Rows of a block lie in the file of the job that did it. Where blocks were moved to other jobs since,
they lie in a file of another name, which is looked for only then.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError, LedgerError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.paths import RunPaths, index_name
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import first_block
from snakemake_blocks.state.row_files import frames_in, schema_of

if TYPE_CHECKING:
    import pyarrow as pa
    from funlib.geometry import Roi

__all__ = ["StoredTable", "lost_rows", "read_table", "row_bytes", "write_parquet"]


# Rows that are written to one Parquet file; of more a data set is made.
_LARGEST_FILE = 1 << 30


class _Part(NamedTuple):
    """Rows of some blocks that count: numbers in the grid, rows of each, and these."""

    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    batch: pa.RecordBatch


def read_table(
    run_directory: Path | str, task: str, name: str, *, roi: Roi | None = None
) -> pa.Table:
    """Return the rows of a table that count, in the order of their blocks.

    Parameters
    ----------
    run_directory : path
        Of the run; blocks that are not done have no rows yet.
    task, name : str
        Whose table, and which.
    roi : Roi, optional
        Only rows of blocks that write there, in numbers of the task (world units, or voxels of its
        array).

    Raises
    ------
    InputError
        If there is no such run, task or table, or the region has other axes.
    """
    root = Path(run_directory)
    plan = Plan.load(root)
    if task not in plan.tasks:
        raise InputError(f"there is no task {task!r}; known are {', '.join(plan.tasks)}")
    planned = plan.tasks[task]
    if name not in planned.operation.tables:
        known = ", ".join(planned.operation.tables) or "none"
        raise InputError(f"task {task} has no table {name!r}; known are {known}")
    region = planned.grid.indices
    if roi is not None:
        box = Box.from_roi(roi)
        if box.ndim != planned.grid.ndim:
            raise InputError(f"roi has {box.ndim} axes, task {task} has {planned.grid.ndim}")
        region = planned.own_grid.writing(box)
    judge = Judge(plan, root)
    return StoredTable(root, planned, name).rows(judge.judge(planned, region).stamp, region)


@dataclass(slots=True)
class StoredTable:
    """A table in a run directory.

    Parameters
    ----------
    root : Path
        The run directory.
    task : PlannedTask
        Whose table it is.
    name : str
        Which of its tables.
    """

    root: Path
    task: PlannedTask
    name: str
    _elsewhere: list[Path] | None = field(default=None, init=False, repr=False)

    def rows(self, stamps: NDArray[np.uint64], region: Box) -> pa.Table:
        """Return the rows of the blocks of a box, in the order of the blocks.

        Parameters
        ----------
        stamps : ndarray of uint64
            Of their counting records, shaped like the box; 0 where none counts.
        region : Box
            The blocks.
        """
        return self.rows_and_counts(stamps, region)[0]

    def rows_and_counts(
        self, stamps: NDArray[np.uint64], region: Box
    ) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return the same, and how many rows each block has, in their order."""
        import pyarrow as pa

        parts = list(self._parts(stamps, region))
        schema = schema_of(self.task.operation.tables[self.name])
        table = pa.Table.from_batches([part.batch for part in parts], schema)
        numbers = np.concatenate(
            [np.repeat(part.numbers, part.rows) for part in parts] or [np.zeros(0, np.int64)]
        )
        counts = np.bincount(numbers, minlength=region.size)
        if np.all(numbers[:-1] <= numbers[1:]):
            return table, counts
        return table.take(pa.array(np.argsort(numbers, kind="stable"))), counts

    def found(self, stamps: NDArray[np.uint64], region: Box) -> NDArray[np.bool_]:
        """Return of which blocks of a box all rows are there, shaped like the box."""
        there = np.zeros(stamps.size, bool)
        for part in self._parts(stamps, region):
            there[part.numbers] = True
        return there.reshape(stamps.shape)

    def _parts(self, stamps: NDArray[np.uint64], region: Box) -> Iterator[_Part]:
        """Yield what counts: of the jobs' own files, then of others if something is lacking."""
        left = stamps.ravel() != 0
        own = [self._path(job) for job in self.task.jobs.jobs_of(region)]
        for path in own:
            yield from self._parts_of(path, stamps, region, left)
        if left.any():
            for path in self._others():
                if path not in own:
                    yield from self._parts_of(path, stamps, region, left)

    def _path(self, job: Index) -> Path:
        return RunPaths(self.root).rows(self.task.slug, self.name, job)

    def _others(self) -> list[Path]:
        if self._elsewhere is None:
            folder = RunPaths(self.root).tables(self.task.slug, self.name)
            self._elsewhere = sorted(path for path in folder.glob("*/*") if path.is_file())
        return self._elsewhere

    def _parts_of(
        self,
        path: Path,
        stamps: NDArray[np.uint64],
        region: Box,
        left: NDArray[np.bool_],
    ) -> Iterator[_Part]:
        """Yield what counts in one file, of the blocks that are left; take these out of them."""
        import pyarrow as pa

        schema = schema_of(self.task.operation.tables[self.name])
        wanted, shape = stamps.ravel(), np.asarray(region.shape)
        with frames_in(path, first_block(self.task.own_grid)) as (data, frames):
            for frame in frames:
                place = frame.entries["index"] - np.asarray(region.begin)
                inside = np.all((place >= 0) & (place < shape), axis=1)
                numbers = np.zeros(len(place), np.int64)
                numbers[inside] = np.ravel_multi_index(tuple(place[inside].T), region.shape)
                counts = inside & (wanted[numbers] == frame.entries["stamp"]) & left[numbers]
                if not counts.any():
                    continue
                batch = frame.batch(data, schema)
                if batch is None:
                    continue
                rows = frame.entries["rows"].astype(np.int64)
                if not counts.all():
                    batch = batch.filter(pa.array(np.repeat(counts, rows)))
                left[numbers[counts]] = False
                yield _Part(numbers[counts], rows[counts], batch)


def write_parquet(plan: Plan, task: PlannedTask, root: Path) -> None:
    """Write the tables of a task for which a Parquet file is asked for; all its blocks are done.

    Rows are in the order of jobs, then of blocks; a job's are in memory at a time. Many are written
    as a data set: a folder of that name with several files.

    Raises
    ------
    LedgerError
        If rows of a block are lost.
    """
    for name, table in task.operation.tables.items():
        if not table.parquet:
            continue
        path = plan.folder(root) / table.parquet
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        _remove(temporary)
        files = iter([temporary])
        if _stored_bytes(root, task, name) > _LARGEST_FILE:
            temporary.mkdir()
            files = map(temporary.joinpath, map("part-{:05}.parquet".format, itertools.count()))
        _write_parts(_job_rows(plan, task, root, name), schema_of(table), files)
        _remove(path)
        os.replace(temporary, path)


def _write_parts(tables: Iterable[pa.Table], schema: pa.Schema, files: Iterator[Path]) -> None:
    """Write tables to one file, or to several, none of which gets much too large."""
    import pyarrow.parquet

    writer, written = pyarrow.parquet.ParquetWriter(next(files), schema), 0
    try:
        for table in tables:
            if written > _LARGEST_FILE and (path := next(files, None)) is not None:
                writer.close()
                writer, written = pyarrow.parquet.ParquetWriter(path, schema), 0
            writer.write_table(table)
            written += table.nbytes
    finally:
        writer.close()


def _job_rows(plan: Plan, task: PlannedTask, root: Path, name: str) -> Iterator[pa.Table]:
    """Yield the rows of one job after the other."""
    judge, stored = Judge(plan, root), StoredTable(root, task, name)
    for job in task.jobs.jobs:
        members = task.jobs.members(job)
        stamps = judge.judge(task, members).stamp
        if not stored.found(stamps, members)[stamps != 0].all():
            raise LedgerError(
                f"task {task.name}: rows of table {name} of job {index_name(job)} are lost; "
                "`snakemake-blocks run` has its blocks done anew"
            )
        yield stored.rows(stamps, members)
        judge.forget(task, job)


def _remove(path: Path) -> None:
    """Remove a Parquet file, or a data set of them.

    Raises
    ------
    LedgerError
        If it is a folder in which there is something else.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for file in path.iterdir():
        if not (file.is_file() and file.match("part-*.parquet")):
            raise LedgerError(f"{path}: is a folder that holds {file.name}; name another file")
    shutil.rmtree(path)


def _stored_bytes(root: Path, task: PlannedTask, name: str) -> int:
    """Return how large the files of a table's rows are together."""
    folder = RunPaths(root).tables(task.slug, name)
    return sum(path.stat().st_size for path in folder.glob("*/*") if path.is_file())


def row_bytes(plan: Plan, root: Path) -> dict[tuple[str, str], float]:
    """Return the mean bytes of a done block's rows, by task and table, where there are any.

    Rows that count no more are counted in, so it is rather too much.
    """
    judge, found = Judge(plan, root), {}
    for task in plan.tasks.values():
        for name in task.operation.tables:
            size = _stored_bytes(root, task, name)
            if size and (done := int(judge.judge_all(task).done.sum())):
                found[task.name, name] = size / done
    return found


def lost_rows(judge: Judge, task: PlannedTask) -> dict[str, NDArray[np.bool_]]:
    """Return per table of a task the done blocks whose rows are not there, or are damaged."""
    found: dict[str, NDArray[np.bool_]] = {}
    if not task.operation.tables:
        return found
    judgement = judge.judge_all(task)
    for name in task.operation.tables:
        there = StoredTable(judge.root, task, name).found(judgement.stamp, task.grid.indices)
        found[name] = judgement.done & ~there
    return found
