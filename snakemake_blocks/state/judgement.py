"""Which blocks are done: ledgers judged against the plan, by content and never by clocks.

A record counts iff its fingerprint is the plan's (for the block's own geometry) and its
``seen`` equals the hash of the stamps of the upstream blocks it reads, as they are now. All
of it is vectorised over boxes of blocks: sums of mixed stamps over the upstream boxes come
from an n-D prefix sum modulo 2**64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Grid, Spans
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.block_state import STATE_AFTER, State
from snakemake_blocks.state.ledger import (
    Event,
    LedgerReader,
    first_block,
    read_records,
    source_mark,
)
from snakemake_blocks.tasks.task import SourceChange

__all__ = [
    "History",
    "Judge",
    "Judgement",
    "block_fingerprints",
    "fingerprints_at",
    "of_other_source",
]

U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The blocks of a box, arrays shaped like it.

    Parameters
    ----------
    state : ndarray of uint8
        :class:`State` of each block as far as its own job's ledger tells: RUNNING has begun and not
        ended, or was killed; none is ORPHANED.
    skipped : ndarray of bool
        Blocks among the done ones that a check found done.
    attempts : ndarray of int32
        Attempts made in the open budget.
    stamp : ndarray of uint64
        Of the counting record, 0 where none counts.
    seen : ndarray of uint64
        What a record has to have seen to count.
    fingerprint : ndarray of uint64
        What a record has to carry to count.
    ready : ndarray of bool
        Every upstream block has a counting record (or is masked).
    stale : ndarray of bool
        The last event is a result, but it no longer counts.
    outdated : ndarray of bool
        There was a result, or a reset, and nothing counts now: what lies in the output is known
        to be old, whatever a check says of it.
    began : ndarray of bool
        Something is on record, so it may have run before.
    """

    state: NDArray[np.uint8]
    skipped: NDArray[np.bool_]
    attempts: NDArray[np.int32]
    stamp: U64
    seen: U64
    fingerprint: U64
    ready: NDArray[np.bool_]
    stale: NDArray[np.bool_]
    outdated: NDArray[np.bool_]
    began: NDArray[np.bool_]

    def part(self, region: Box) -> Judgement:
        """Return the judgement on a box inside this one, which begins at the origin."""
        where = region.slices
        return Judgement(**{f.name: getattr(self, f.name)[where] for f in fields(self)})

    @property
    def done(self) -> NDArray[np.bool_]:
        """Blocks with a counting record."""
        done: NDArray[np.bool_] = self.state == State.DONE
        return done

    @property
    def todo(self) -> NDArray[np.bool_]:
        """Blocks without one that are not masked."""
        todo: NDArray[np.bool_] = (self.state != State.MASKED) & ~self.done
        return todo


@dataclass(slots=True)
class History:
    """What ledgers tell of the blocks of a box, whether it counts or not.

    Only the last event of a block tells what lies in the output: an attempt that began after a
    result may have overwritten it.

    Parameters
    ----------
    region : Box
        The blocks; all arrays have its shape.
    event, fingerprint, seen, stamp, source : ndarray
        Of the last record; event 0 where there is none.
    attempts : ndarray of int32
        Attempts since the last new budget and the last end, under the present fingerprint.
    ended : ndarray of bool
        A result or a reset was ever recorded.
    absent : ndarray of uint64
        Which chunks the last result has left out, see :mod:`snakemake_blocks.storage.presence`.
    seconds : float
        Wall time of all done attempts.
    foreign : bool
        There are records of other blocks, too.
    end : int
        Byte of the ledger behind what was read.
    """

    region: Box
    event: NDArray[np.uint8]
    fingerprint: U64
    seen: U64
    stamp: U64
    source: NDArray[np.uint32]
    attempts: NDArray[np.int32]
    ended: NDArray[np.bool_]
    absent: U64
    seconds: float = 0.0
    foreign: bool = False
    end: int = 0

    @classmethod
    def empty(cls, region: Box) -> History:
        """Return the history of blocks of which nothing is known."""
        shape = region.shape
        return cls(
            region,
            event=np.zeros(shape, np.uint8),
            fingerprint=np.zeros(shape, np.uint64),
            seen=np.zeros(shape, np.uint64),
            stamp=np.zeros(shape, np.uint64),
            source=np.zeros(shape, np.uint32),
            attempts=np.zeros(shape, np.int32),
            ended=np.zeros(shape, np.bool_),
            absent=np.zeros(shape, np.uint64),
        )

    @classmethod
    def read(cls, path: Path, task: PlannedTask, members: Box) -> History:
        """Return the history of a job's blocks; O(blocks) memory, however long the ledger is."""
        found = cls.empty(members)
        expected: U64 | None = None
        scratch = np.zeros(0, np.int64)
        reader = LedgerReader(path, first_block(task.own_grid))
        for records in reader.chunks():
            if expected is None:
                expected = block_fingerprints(task, members).ravel()
                scratch = np.zeros(members.size, np.int64)
            found._append(records, expected, scratch)
        found.end = reader.offset
        return found

    def _append(self, records: NDArray[np.void], expected: U64, scratch: NDArray[np.int64]) -> None:
        """Take in the next records of the ledger."""
        opened = np.flatnonzero(records["event"] == Event.BUDGET)
        if len(opened):
            self.attempts[...] = 0
        place = records["index"] - np.asarray(self.region.begin, np.int32)
        # A ledger may carry records of other jobs' blocks after a change of batch shape.
        mine = np.all((place >= 0) & (place < self.region.shape), axis=1)
        self.foreign |= not mine.all()
        self._take_empty(records, np.flatnonzero(mine), scratch)
        order = np.flatnonzero(mine & ~np.isin(records["event"], (Event.BUDGET, Event.EMPTY)))
        at = _flat(place[order], self.region.shape)
        event, fingerprint = records["event"][order], records["fingerprint"][order]

        last = _last_of_each(at, scratch)
        rows, of = order[last], at[last]
        self.event.ravel()[of] = event[last]
        self.fingerprint.ravel()[of] = fingerprint[last]
        self.seen.ravel()[of] = records["seen"][rows]
        self.stamp.ravel()[of] = records["stamp"][rows]
        self.source.ravel()[of] = records["source"][rows]

        done = event == Event.DONE
        ends = np.flatnonzero(done | (event == Event.SKIPPED) | (event == Event.RESET))
        self.ended.ravel()[at[ends]] = True
        self.seconds += float(records["wall"][order[done]].sum(dtype=np.float64))
        self.attempts.ravel()[at[ends]] = 0
        # An attempt counts if it began after the last end of its block and the last new budget.
        scratch[at] = -1
        scratch[at[ends]] = ends
        recent = (fingerprint == expected[at]) & (np.arange(len(at)) > scratch[at])
        recent &= order > (opened[-1] if len(opened) else -1)
        np.add.at(self.attempts.ravel(), at[recent & (event == Event.STARTED)], 1)
        np.subtract.at(self.attempts.ravel(), at[recent & (event == Event.RELEASED)], 1)

    def _take_empty(
        self, records: NDArray[np.void], mine: NDArray[np.int64], scratch: NDArray[np.int64]
    ) -> None:
        """Take in what results left out; all that is no result begins without a note of it."""
        kept = np.isin(records["event"][mine], (Event.BUDGET, Event.DONE, Event.SKIPPED))
        rows = mine[~kept]
        at = _flat(records["index"][rows] - np.asarray(self.region.begin), self.region.shape)
        last = _last_of_each(at, scratch)
        noted = records["event"][rows[last]] == Event.EMPTY
        self.absent.ravel()[at[last]] = np.where(noted, records["stamp"][rows[last]], np.uint64(0))

    def enter(self, other: History) -> None:
        """Copy what the history of another box tells of this one's blocks."""
        both = self.region.intersect(other.region)
        if not both:
            return
        here = both.slices_in(self.region)
        there = both.slices_in(other.region)
        for kept in fields(self):
            if isinstance(mine := getattr(self, kept.name), np.ndarray):
                mine[here] = getattr(other, kept.name)[there]


def _last_of_each(at: NDArray[np.int64], scratch: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions at which each number occurs in ``at`` for the last time."""
    numbers = np.arange(len(at))
    scratch[at] = numbers
    return np.flatnonzero(scratch[at] == numbers)


@dataclass(slots=True)
class Judge:
    """Reads ledgers of a run directory, each once.

    Parameters
    ----------
    plan : Plan
        The plan to judge against.
    root : Path
        The run directory.
    layout : Plan, optional
        The plan that its ledgers lie by, if that is another one: the plan to judge against may not
        be in place yet.
    """

    plan: Plan
    root: Path
    layout: Plan | None = None
    _histories: dict[tuple[str, Index], History] = field(default_factory=dict, repr=False)
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

    def forget(self, task: PlannedTask, job: Index) -> None:
        """Read the ledger of a job anew from now on."""
        self._histories.pop((task.slug, job), None)
        self._whole.clear()

    def records(self, task: PlannedTask, job: Index) -> NDArray[np.void]:
        """Return the valid records of a job's ledger."""
        return read_records(self._path(task, job), first_block(task.own_grid))

    def seconds(self, task: PlannedTask) -> float:
        """Return the wall time of all done attempts of a task that are on record."""
        return sum(self._history(task, job).seconds for job in task.jobs.jobs)

    def history(self, task: PlannedTask, region: Box) -> History:
        """Return what the ledgers tell of the blocks of a box."""
        past = History.empty(region)
        for job in task.jobs.jobs_of(region):
            past.enter(self._history(task, job))
        return past

    def readers(self) -> Iterator[tuple[PlannedTask, LedgerReader]]:
        """Yield readers that go on behind what was read so far of each ledger."""
        slugs = {task.slug: task for task in self.plan.tasks.values()}
        for (slug, job), history in self._histories.items():
            task = slugs[slug]
            yield task, LedgerReader(self._path(task, job), first_block(task.own_grid), history.end)

    def polluted(self) -> Iterator[tuple[PlannedTask, Index]]:
        """Yield the jobs read so far whose ledgers hold records of blocks of other jobs."""
        slugs = {task.slug: task for task in self.plan.tasks.values()}
        for (slug, job), history in self._histories.items():
            if history.foreign:
                yield slugs[slug], job

    def _path(self, task: PlannedTask, job: Index) -> Path:
        return RunPaths(self.root).ledger(task.slug, job)

    def _history(self, task: PlannedTask, job: Index) -> History:
        key = (task.slug, job)
        found = self._histories.get(key)
        if found is None:
            found = self._read(task, job)
            self._histories[key] = found
        return found

    def _read(self, task: PlannedTask, job: Index) -> History:
        """Return what is on record of a job's blocks, in whatever ledgers that is."""
        members = task.jobs.members(job)
        before = self.moved_from(task)
        if before is None:
            return History.read(self._path(task, job), task, members)
        found = History.empty(members)
        if before.grid.ndim != task.grid.ndim:
            return found
        ours = zip(first_block(task.own_grid), first_block(before.own_grid), strict=True)
        shift = tuple(a - b for a, b in ours)
        for other in before.jobs.jobs_of(members.shift(shift).intersect(before.grid.indices)):
            there = before.jobs.members(other).shift([-s for s in shift])
            region = there.intersect(task.grid.indices)
            if not region:
                continue
            past = History.read(self._path(before, other), task, region)
            found.enter(past)
            found.seconds += past.seconds * region.intersect(members).size / region.size
        return found

    def moved_from(self, task: PlannedTask) -> PlannedTask | None:
        """Return the task as the ledgers lie by it, None if that is as it is planned."""
        before = self.layout.tasks.get(task.name) if self.layout else None
        if before is None:
            return None
        lies = (before.jobs.batch, first_block(before.own_grid))
        return None if lies == (task.jobs.batch, first_block(task.own_grid)) else before

    def erase(self, task: PlannedTask, indices: Sequence[Index]) -> None:
        """Take blocks for reset from now on; nothing is written."""
        for index in indices:
            history = self._history(task, task.job_of(index))
            at = tuple(k - b for k, b in zip(index, history.region.begin, strict=True))
            history.event[at], history.ended[at], history.attempts[at] = Event.RESET, True, 0
        self._whole.clear()

    def _judge(self, task: PlannedTask, region: Box) -> Judgement:
        """Return the judgement on a box, or say that memory does not hold so many blocks.

        Raises
        ------
        InputError
            If it does not.
        """
        try:
            return self._judged(task, region)
        except MemoryError:
            raise InputError(
                f"task {task.name}: {region.size:,} blocks are more than memory holds; "
                "take larger blocks"
            ) from None

    def _judged(self, task: PlannedTask, region: Box) -> Judgement:
        """Return what the ledgers tell of a box, and whether that counts."""
        seen, ready = self._seen(task, region)
        past = self.history(task, region)
        expected = block_fingerprints(task, region)
        fits = past.fingerprint == expected
        result = (past.event == Event.DONE) | (past.event == Event.SKIPPED)
        counts = result & fits & (past.seen == seen) & ready
        if task.source_change is SourceChange.RERUN:
            counts &= ~of_other_source(task, past)
        present = task.jobs.presence(region)
        counts &= present
        known = counts | (~result & fits)
        state = np.where(known, STATE_AFTER[past.event], np.uint8(State.PENDING))
        state[~present] = State.MASKED
        return Judgement(
            state=state,
            skipped=counts & (past.event == Event.SKIPPED),
            attempts=past.attempts,
            stamp=np.where(counts, past.stamp, np.uint64(0)),
            seen=seen,
            fingerprint=expected,
            ready=ready,
            stale=result & ~counts,
            outdated=past.ended & ~counts,
            began=past.event != 0,
        )

    def _seen(self, task: PlannedTask, region: Box) -> tuple[U64, NDArray[np.bool_]]:
        """Return per block the hash of its upstream stamps, and whether all are there."""
        total = np.zeros(region.shape, np.uint64)
        ready = np.ones(region.shape, bool)
        for position, (_, sums, lacking) in enumerate(self._upstream(task, region)):
            total += _mix(sums + np.uint64(position + 1))
            ready &= ~lacking
        return total, ready

    def lacking(self, task: PlannedTask) -> dict[str, NDArray[np.bool_]]:
        """Return per upstream task which blocks read something of it that is not done."""
        return {name: lacking for name, _, lacking in self._upstream(task, task.grid.indices)}

    def _upstream(
        self, task: PlannedTask, region: Box
    ) -> Iterator[tuple[str, U64, NDArray[np.bool_]]]:
        """Yield each upstream task, per block the sum of its stamps, and whether one lacks."""
        for name in task.upstream:
            up = self.plan.tasks[name]
            if name in task.whole:
                yield name, *self._of_whole(up, region)
                continue
            read = _upstream_ranges(task.toward(up).grid, region, up.grid)
            box = Box(
                tuple(int(low.min(initial=0)) for low, _ in read),
                tuple(int(high.max(initial=0)) for _, high in read),
            )
            below = self.judge(up, box)
            mixed = np.where(below.stamp != 0, _mix(below.stamp), np.uint64(0))
            read = [(low - b, high - b) for (low, high), b in zip(read, box.begin, strict=True)]
            missing = (below.state != State.MASKED) & (below.stamp == 0)
            lacking = _box_sums(missing.astype(np.uint64), read) != 0
            yield name, _box_sums(mixed, read), lacking

    def _of_whole(self, up: PlannedTask, region: Box) -> tuple[U64, NDArray[np.bool_]]:
        """Return the same where every block waits for all of a task."""
        below = self.judge(up, up.grid.indices)
        mixed = np.where(below.stamp != 0, _mix(below.stamp), np.uint64(0))
        missing = (below.state != State.MASKED) & (below.stamp == 0)
        total = mixed.sum(dtype=np.uint64)
        return np.full(region.shape, total), np.full(region.shape, bool(missing.any()))


def of_other_source(task: PlannedTask, past: History) -> NDArray[np.bool_]:
    """Return of which blocks the last record was made by another source of the function.

    What is not known, then or now, is taken for the same.
    """
    mine = np.uint32(source_mark(task.source))
    if not mine:
        return np.zeros(past.region.shape, np.bool_)
    other: NDArray[np.bool_] = (past.source != mine) & (past.source != 0)
    return other


def block_fingerprints(task: PlannedTask, region: Box) -> U64:
    """Return the fingerprint of every block of a box: the task's, and of the block's write Roi.

    So a record counts for the place in the world that was written: a block that the old end
    of a grown region cut off is not the full block that stands there now.
    """
    numbers = map(np.arange, region.begin, region.end)
    rois = [axis.writes(k) for axis, k in zip(task.own_grid.axes, numbers, strict=True)]
    return fingerprints_at(task.fingerprint, rois)


def fingerprints_at(
    fingerprint: int, rois: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> U64:
    """Return the fingerprints of blocks with these begins and ends of write Rois per axis."""
    found = np.full(tuple(len(low) for low, _ in rois), fingerprint, np.uint64)
    for a, (low, high) in enumerate(rois):
        # The axis is mixed in by itself: added to an end it would make two axes alike.
        roi = _mix(_mix(low.astype(np.uint64)) + high.astype(np.uint64))
        mixed = _mix(roi + np.uint64(a))
        along = [-1 if b == a else 1 for b in range(len(rois))]
        found ^= mixed.reshape(along)
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


def _upstream_ranges(down: Grid, region: Box, up: Grid) -> list[Spans]:
    """Return per axis the half-open ranges of upstream blocks that the blocks of a box read."""
    numbers = map(np.arange, region.begin, region.end)
    per_axis = zip(down.axes, up.axes, numbers, strict=True)
    return [theirs.all_writing(mine.reads(k)) for mine, theirs, k in per_axis]


def _box_sums(values: U64, spans: Sequence[Spans]) -> U64:
    """Return the sums over boxes given per axis, modulo 2**64; O(values + boxes)."""
    prefix = np.pad(values, [(1, 0)] * values.ndim)
    for axis in range(values.ndim):
        np.cumsum(prefix, axis=axis, out=prefix)
    total = np.zeros([len(low) for low, _ in spans], np.uint64)
    for corner in itertools.product((0, 1), repeat=values.ndim):
        picked = prefix[np.ix_(*(span[c] for c, span in zip(corner, spans, strict=True)))]
        total = total - picked if (values.ndim - sum(corner)) % 2 else total + picked
    return total
