"""Tables that the blocks of a task read: rows of the upstream blocks that each one meets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.dependencies import needed_blocks
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.judgement import Judge, block_fingerprints
from snakemake_blocks.state.ledger import Event
from snakemake_blocks.state.row_files import schema_of
from snakemake_blocks.state.tables import StoredTable
from snakemake_blocks.tasks.tables import TableRead

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableInput"]

# Rows of upstream jobs that a worker keeps, since neighbouring blocks read many of them again.
_KEPT_BYTES = 256 << 20


class _Kept(NamedTuple):
    """Rows of an upstream job: of its blocks in order, from which row on those of each."""

    rows: pa.Table
    begins: NDArray[np.int64]
    members: Box


@dataclass(slots=True)
class TableInput:
    """Reads the tables that blocks of a task are given.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    root : Path
        The run directory.
    task : PlannedTask
        The task.
    """

    plan: Plan
    root: Path
    task: PlannedTask
    _judge: Judge = field(init=False, repr=False)
    _kept: OrderedDict[tuple[str, str, Index], _Kept] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _whole: dict[str, pa.Table] = field(default_factory=dict, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)

    @classmethod
    def of_task(cls, plan: Plan, root: Path, task: PlannedTask) -> TableInput | None:
        """Return where the blocks of a task get tables, None if it reads none."""
        return cls(plan, root.absolute(), task) if task.operation.table_reads else None

    def __post_init__(self) -> None:
        self._judge = Judge(self.plan, self.root)

    def parts_of(self, index: Index) -> list[pa.Table]:
        """Return the rows of each block that a block merges; masked ones have none."""
        ((_, read),) = self.task.operation.table_reads.items()
        up = self.plan.tasks[read.task]
        blocks = needed_blocks(self.task.toward(up).grid, index, up.grid)
        there = up.jobs.presence(blocks)
        return [
            self._rows_in(up, read.table, Box(block, tuple(k + 1 for k in block)))
            for block, is_there in zip(blocks, there.ravel(), strict=True)
            if is_there
        ]

    def of(self, index: Index) -> dict[str, pa.Table]:
        """Return the rows that a block is given, by the names of arguments."""
        reads = self.task.operation.table_reads
        return {name: self._rows(name, read, index) for name, read in reads.items()}

    def _rows(self, name: str, read: TableRead, index: Index) -> pa.Table:

        up = self.plan.tasks[read.task]
        if up.name in self.task.whole:
            if name not in self._whole:
                stored = StoredTable(self.root, up, read.table)
                self._whole[name] = stored.rows(self._stamps(up, up.grid.indices), up.grid.indices)
            return self._whole[name]
        return self._rows_in(
            up, read.table, needed_blocks(self.task.toward(up).grid, index, up.grid)
        )

    def _rows_in(self, up: PlannedTask, name: str, blocks: Box) -> pa.Table:
        """Return the rows of a box of upstream blocks."""
        import pyarrow as pa

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
