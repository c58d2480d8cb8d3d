"""Tables that the blocks of a task read: rows of the upstream blocks that each one meets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.dependencies import needed_blocks
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.judgement import Judge, block_fingerprints
from snakemake_blocks.state.ledger import Event
from snakemake_blocks.state.row_files import Rows, as_batch, schema_of
from snakemake_blocks.state.tables import StoredTable
from snakemake_blocks.tasks.tables import TableRead

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RowSource", "RowsInMemory", "StoredRows", "TableInput"]

# Rows of upstream jobs that a worker keeps, since neighbouring blocks read many of them again.
_KEPT_BYTES = 256 << 20


class _Kept(NamedTuple):
    """Rows of an upstream job: of its blocks in order, from which row on those of each."""

    rows: pa.Table
    begins: NDArray[np.int64]
    members: Box


class RowSource(Protocol):
    """Where rows of blocks come from."""

    def rows(self, up: PlannedTask, name: str, blocks: Box) -> pa.Table:
        """Return the rows of a box of blocks, in their order."""

    def batches(self, up: PlannedTask, name: str) -> Iterator[pa.Table]:
        """Yield the rows of all blocks, of those of one job at a time."""


@dataclass(slots=True)
class TableInput:
    """Reads the tables that blocks of a task are given.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    task : PlannedTask
        The task.
    source : RowSource
        Where the rows of upstream blocks are.
    """

    plan: Plan
    task: PlannedTask
    source: RowSource

    @classmethod
    def of_task(cls, plan: Plan, root: Path, task: PlannedTask) -> TableInput | None:
        """Return where the blocks of a task get tables, None if it reads none."""
        stored = StoredRows(plan, root.absolute())
        return cls(plan, task, stored) if task.operation.table_reads else None

    def parts_of(self, index: Index) -> list[pa.Table]:
        """Return the rows of each block that a block merges; masked ones have none."""
        ((_, read),) = self.task.operation.table_reads.items()
        up = self.plan.tasks[read.task]
        blocks = self._met(up, index)
        there = up.jobs.presence(blocks)
        return [
            self.source.rows(up, read.table, Box(block, tuple(k + 1 for k in block)))
            for block, is_there in zip(blocks, there.ravel(), strict=True)
            if is_there
        ]

    def of(self, index: Index) -> dict[str, pa.Table | Iterator[pa.Table]]:
        """Return the rows that a block is given, by the names of arguments."""
        reads = self.task.operation.table_reads
        return {name: self._rows(read, index) for name, read in reads.items()}

    def _rows(self, read: TableRead, index: Index) -> pa.Table | Iterator[pa.Table]:
        up = self.plan.tasks[read.task]
        if read.batches:
            return self.source.batches(up, read.table)
        blocks = up.grid.indices if up.name in self.task.whole else self._met(up, index)
        return self.source.rows(up, read.table, blocks)

    def _met(self, up: PlannedTask, index: Index) -> Box:
        """Return the upstream blocks that the read Roi of a block meets."""
        return needed_blocks(self.task.toward(up).grid, index, up.grid)


@dataclass(slots=True)
class RowsInMemory:
    """Rows of blocks that this process made."""

    _rows: dict[tuple[str, str, Index], pa.RecordBatch] = field(default_factory=dict, init=False)

    def keep(self, task: PlannedTask, index: Index, rows: Mapping[str, Rows]) -> None:
        """Keep the rows that a block made, by the names of tables."""
        for name, table in task.operation.tables.items():
            self._rows[task.name, name, index] = as_batch(table, [rows[name]])

    def rows(self, up: PlannedTask, name: str, blocks: Box) -> pa.Table:
        """Return the rows of a box of blocks, in their order."""
        import pyarrow as pa

        found = [
            self._rows[key] for index in blocks if (key := (up.name, name, index)) in self._rows
        ]
        return pa.Table.from_batches(found, schema_of(up.operation.tables[name]))

    def batches(self, up: PlannedTask, name: str) -> Iterator[pa.Table]:
        """Yield the rows of all blocks, of those of one job at a time."""
        return (self.rows(up, name, up.jobs.members(job)) for job in up.jobs.jobs)


@dataclass(slots=True)
class StoredRows:
    """Rows in a run directory, of blocks that are done.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    root : Path
        The run directory.
    """

    plan: Plan
    root: Path
    _judge: Judge = field(init=False, repr=False)
    _kept: OrderedDict[tuple[str, str, Index], _Kept] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _whole: dict[tuple[str, str], pa.Table] = field(default_factory=dict, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._judge = Judge(self.plan, self.root)

    def rows(self, up: PlannedTask, name: str, blocks: Box) -> pa.Table:
        """Return the rows of a box of blocks, in their order."""
        import pyarrow as pa

        if blocks == up.grid.indices and len(up.jobs.jobs) > 1:
            return self._all_rows(up, name)
        parts = []
        for job in up.jobs.jobs_of(blocks):
            kept = self._job(up, name, job)
            here = blocks.intersect(kept.members)
            *along, length = here.shape  # the last axis is the fastest
            sides = zip(here.begin, kept.members.begin, [*along, 1], strict=True)
            rows = [np.arange(b - at, b - at + n) for b, at, n in sides]
            first = np.ravel_multi_index(np.ix_(*rows), kept.members.shape).ravel()
            pairs = zip(kept.begins[first], kept.begins[first + length], strict=True)
            parts += [kept.rows.slice(begin, end - begin) for begin, end in pairs]
        schema = schema_of(up.operation.tables[name])
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def batches(self, up: PlannedTask, name: str) -> Iterator[pa.Table]:
        """Yield the rows of all blocks, of those of one job at a time."""
        stored = StoredTable(self.root, up, name)
        for job in up.jobs.jobs:
            members = up.jobs.members(job)
            yield stored.rows(self._stamps(up, members), members)

    def _all_rows(self, up: PlannedTask, name: str) -> pa.Table:
        """Return all rows of a task, read once."""
        if (up.name, name) not in self._whole:
            every = up.grid.indices
            rows = StoredTable(self.root, up, name).rows(self._stamps(up, every), every)
            self._whole[up.name, name] = rows
        return self._whole[up.name, name]

    def _job(self, up: PlannedTask, name: str, job: Index) -> _Kept:
        """Return the rows of an upstream job, the last ones that were asked for from memory."""
        key = (up.name, name, job)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        members = up.jobs.members(job)
        rows, counts = StoredTable(self.root, up, name).rows_and_counts(
            self._stamps(up, members), members
        )
        found = _Kept(rows, np.concatenate([[0], np.cumsum(counts)]), members)
        self._kept[key] = found
        self._bytes += rows.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].rows.nbytes
        return found

    def _stamps(self, up: PlannedTask, region: Box) -> NDArray[np.uint64]:
        """Return the stamps of upstream blocks: they are done, or the job had not begun."""
        past = self._judge.history(up, region)
        counts = (past.event == Event.DONE) | (past.event == Event.SKIPPED)
        counts &= past.fingerprint == block_fingerprints(up, region)
        return np.where(counts, past.stamp, np.uint64(0))
