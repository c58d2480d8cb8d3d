"""Which blocks are done: ledgers judged against the plan, by content and never by clocks.

A record counts iff its fingerprint is the plan's (for the block's own geometry) and its
``seen`` equals the hash of the stamps of the upstream blocks it reads, as they are now. All
of it is vectorised over boxes of blocks: sums of mixed stamps over the upstream boxes come
from an n-D prefix sum modulo 2**64.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.box import Box, Index
from snakemake_blocks.ledger import Event, read_records
from snakemake_blocks.paths import RunPaths
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.tiling import Grid

__all__ = ["Judge", "Judgement", "Progress", "block_fingerprints"]

U64 = NDArray[np.uint64]


class Progress(IntEnum):
    """How far a block came, as far as its own job's ledger tells."""

    MASKED = 0
    PENDING = 1
    STARTED = 2  # begun and not ended: running, or killed
    DONE = 3
    SKIPPED = 4
    FAILED = 5


_PROGRESS_OF_RESULT = np.full(max(Event) + 1, Progress.PENDING, np.uint8)
_PROGRESS_OF_RESULT[Event.DONE] = Progress.DONE
_PROGRESS_OF_RESULT[Event.SKIPPED] = Progress.SKIPPED
_PROGRESS_OF_ATTEMPT = np.full(max(Event) + 1, Progress.PENDING, np.uint8)
_PROGRESS_OF_ATTEMPT[Event.STARTED] = Progress.STARTED
_PROGRESS_OF_ATTEMPT[Event.FAILED] = Progress.FAILED


@dataclass(frozen=True, slots=True)
class Judgement:
    """The blocks of a box, arrays shaped like it.

    Parameters
    ----------
    progress : ndarray of uint8
        :class:`Progress` of each block.
    attempts : ndarray of int32
        Attempts made in the open budget.
    stamp : ndarray of uint64
        Of the counting record, 0 where none counts.
    seen : ndarray of uint64
        What a record has to have seen to count.
    ready : ndarray of bool
        Every upstream block has a counting record (or is masked).
    stale : ndarray of bool
        There is a result, but it no longer counts.
    """

    progress: NDArray[np.uint8]
    attempts: NDArray[np.int32]
    stamp: U64
    seen: U64
    ready: NDArray[np.bool_]
    stale: NDArray[np.bool_]

    def part(self, region: Box) -> Judgement:
        """Return the judgement on a box inside this one, which begins at the origin."""
        where = tuple(slice(b, e) for b, e in zip(region.begin, region.end, strict=True))
        return Judgement(**{f.name: getattr(self, f.name)[where] for f in fields(self)})

    @property
    def done(self) -> NDArray[np.bool_]:
        """Blocks with a counting record."""
        found: NDArray[np.bool_] = np.isin(self.progress, (Progress.DONE, Progress.SKIPPED))
        return found


@dataclass(slots=True)
class Judge:
    """Reads ledgers of a run directory, each once.

    Parameters
    ----------
    plan : Plan
        The plan to judge against.
    root : Path
        The run directory.
    """

    plan: Plan
    root: Path
    _records: dict[tuple[str, Index], NDArray[np.void]] = field(default_factory=dict, repr=False)
    _whole: dict[str, Judgement] = field(default_factory=dict, repr=False)

    def judge_all(self, task: PlannedTask) -> Judgement:
        """Return the judgement on all blocks of a task, and remember it for :meth:`judge`."""
        if task.name not in self._whole:
            for name in task.upstream:
                self.judge_all(self.plan.tasks[name])
            self._whole[task.name] = self._judge(task, task.grid.indices)
        return self._whole[task.name]

    def judge(self, task: PlannedTask, region: Box) -> Judgement:
        """Return the judgement on the blocks of ``region``."""
        whole = self._whole.get(task.name)
        return self._judge(task, region) if whole is None else whole.part(region)

    def _judge(self, task: PlannedTask, region: Box) -> Judgement:
        shape = region.shape
        seen, ready = self._seen(task, region)
        present = task.jobs.presence(region)
        expected = block_fingerprints(task, region)
        progress = np.where(present, Progress.PENDING, Progress.MASKED).astype(np.uint8)
        attempts = np.zeros(shape, np.int32)
        stamp = np.zeros(shape, np.uint64)
        stale = np.zeros(shape, bool)
        for job in task.jobs.jobs_of(region):
            self._judge_job(
                task, job, region, expected, seen, ready, progress, attempts, stamp, stale
            )
        return Judgement(progress, attempts, stamp, seen, ready, stale)

    def forget(self) -> None:
        """Read ledgers anew from now on."""
        self._records.clear()
        self._whole.clear()

    def records(self, task: PlannedTask, job: Index) -> NDArray[np.void]:
        """Return the valid records of a job's ledger."""
        key = (task.slug, job)
        if key not in self._records:
            path = RunPaths(self.root).ledger(task.slug, job)
            self._records[key] = read_records(path, task.grid.ndim)
        return self._records[key]

    def _judge_job(
        self,
        task: PlannedTask,
        job: Index,
        region: Box,
        expected: U64,
        seen: U64,
        ready: NDArray[np.bool_],
        progress: NDArray[np.uint8],
        attempts: NDArray[np.int32],
        stamp: U64,
        stale: NDArray[np.bool_],
    ) -> None:
        """Enter one job's records into the arrays of the region."""
        records = self.records(task, job)
        if not len(records):
            return
        # A ledger may carry records of other jobs' blocks after a change of batch shape.
        mine = region.intersect(task.jobs.members(job))
        inside = np.all((records["index"] >= mine.begin) & (records["index"] < mine.end), axis=1)
        budget = np.flatnonzero(records["event"] == Event.BUDGET)
        opened = int(budget[-1]) if len(budget) else -1
        order = np.flatnonzero(inside & (records["event"] != Event.BUDGET))
        rows = records[order]
        flat = _flat(rows["index"] - np.asarray(region.begin, np.int32), region.shape)
        same = rows["fingerprint"] == expected.ravel()[flat]
        event = rows["event"]

        # Only the last event tells what lies in the output: an attempt that began after a
        # result may have overwritten it.
        last = np.full(region.size, -1, np.int64)
        last[flat] = np.arange(len(rows))
        at = np.flatnonzero(last >= 0)
        row, fits = rows[last[at]], same[last[at]]
        result = (row["event"] == Event.DONE) | (row["event"] == Event.SKIPPED)
        counts = result & fits & (row["seen"] == seen.ravel()[at]) & ready.ravel()[at]
        code = np.where(counts, _PROGRESS_OF_RESULT[row["event"]], Progress.PENDING)
        code = np.where(~result & fits, _PROGRESS_OF_ATTEMPT[row["event"]], code)
        progress.ravel()[at] = code
        stale.ravel()[at] = result & ~counts
        stamp.ravel()[at] = np.where(counts, row["stamp"], np.uint64(0))

        recent = (order > opened) & same
        np.add.at(attempts.ravel(), flat[recent & (event == Event.STARTED)], 1)
        np.subtract.at(attempts.ravel(), flat[recent & (event == Event.RELEASED)], 1)

    def _seen(self, task: PlannedTask, region: Box) -> tuple[U64, NDArray[np.bool_]]:
        """Return per block the hash of its upstream stamps, and whether all are there."""
        total = np.zeros(region.shape, np.uint64)
        ready = np.ones(region.shape, bool)
        for position, name in enumerate(task.upstream):
            up = self.plan.tasks[name]
            low, high = _upstream_ranges(task.grid, region, up.grid)
            box = Box(
                tuple(int(x.min(initial=0)) for x in low),
                tuple(int(x.max(initial=0)) for x in high),
            )
            below = self.judge(up, box)
            mixed = np.where(below.stamp != 0, _mix(below.stamp), np.uint64(0))
            low = [x - b for x, b in zip(low, box.begin, strict=True)]
            high = [x - b for x, b in zip(high, box.begin, strict=True)]
            missing = (below.progress != Progress.MASKED) & (below.stamp == 0)
            ready &= _box_sums(missing.astype(np.uint64), low, high) == 0
            sums = _box_sums(mixed, low, high)
            total += _mix(sums + np.uint64(position + 1))
        return total, ready


def block_fingerprints(task: PlannedTask, region: Box) -> U64:
    """Return the fingerprint of every block of a box: the task's, and of the block's write Roi.

    So a record counts for the place in the world that was written: a block that the old end
    of a grown region cut off is not the full block that stands there now.
    """
    found = np.full(region.shape, task.fingerprint, np.uint64)
    for a, axis in enumerate(task.grid.axes):
        low, high = axis.reads()
        low, high = low + axis.lower, high - axis.upper
        mixed = _mix(_mix(low.astype(np.uint64)) + high.astype(np.uint64) + np.uint64(a))
        along = [-1 if b == a else 1 for b in range(region.ndim)]
        found ^= mixed[region.begin[a] : region.end[a]].reshape(along)
    return found


def _mix(value: U64 | np.uint64) -> U64:
    """Return the finalizer of SplitMix64, a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        z = np.asarray(value, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: U64 = z ^ (z >> np.uint64(31))
    return mixed


def _flat(index: NDArray[np.int32], shape: Index) -> NDArray[np.int64]:
    flat = np.zeros(len(index), np.int64)
    for axis, n in enumerate(shape):
        flat = flat * n + index[:, axis]
    return flat


def _upstream_ranges(
    down: Grid, region: Box, up: Grid
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return per axis the half-open ranges of upstream blocks that the blocks of a box read."""
    lows, highs = [], []
    for a, (mine, theirs) in enumerate(zip(down.axes, up.axes, strict=True)):
        begin, end = (x[region.begin[a] : region.end[a]] for x in mine.reads())
        begin, end = np.maximum(begin, theirs.begin), np.minimum(end, theirs.end)
        low = (begin - theirs.begin) // theirs.step
        high = -((theirs.begin - end) // theirs.step)
        empty = begin >= end
        lows.append(np.where(empty, 0, low))
        highs.append(np.where(empty, 0, high))
    return lows, highs


def _box_sums(values: U64, low: list[NDArray[np.int64]], high: list[NDArray[np.int64]]) -> U64:
    """Return the sums over boxes given per axis, modulo 2**64; O(values + boxes)."""
    prefix = np.pad(values, [(1, 0)] * values.ndim)
    for axis in range(values.ndim):
        np.cumsum(prefix, axis=axis, out=prefix)
    total = np.zeros([len(x) for x in low], np.uint64)
    for corner in itertools.product((0, 1), repeat=values.ndim):
        picked = prefix[np.ix_(*(h if c else b for c, b, h in zip(corner, low, high, strict=True)))]
        total = total - picked if (values.ndim - sum(corner)) % 2 else total + picked
    return total
