"""Why blocks will run again although something is on record of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.plan.identity import differences
from snakemake_blocks.plan.paths import RunPaths, index_of
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.state.judgement import (
    History,
    Judge,
    Judgement,
    block_fingerprints,
    fingerprints_at,
    of_other_source,
)
from snakemake_blocks.state.ledger import Event, first_block
from snakemake_blocks.system.files import parse_json, read_file
from snakemake_blocks.tasks.task import SourceChange

__all__ = ["blocks_of_other_source", "jobs_without_sentinel", "reasons_of"]

Blocks = NDArray[np.bool_]

_MOST = 16 << 20
SOURCE_CHANGED = "the source of the function changed"
_RESET = "they were reset, or what they wrote is gone"
_CUT_OFF = "they were begun and not ended, their worker or job was killed"
_ELSEWHERE = (
    "their results are of other regions: the roi ended elsewhere, or the tiling was another"
)
_NO_RECORD = "their job's sentinel is there and their records are not: the ledger was damaged"


def reasons_of(
    judge: Judge,
    task: PlannedTask,
    pending: Blocks,
    former: Mapping[int, Mapping[str, Any]] | None = None,
) -> dict[str, int]:
    """Return why pending blocks that were done, or begun, will run: reason to number of blocks.

    Blocks of which nothing was ever recorded need no reason.

    Parameters
    ----------
    judge : Judge
        Of the plan in place.
    task : PlannedTask
        One of its tasks.
    pending : ndarray of bool
        Its blocks that are to run.
    former : mapping of int to mapping, optional
        What fingerprints stood for, beside those that are noted in the run directory.
    """
    found: dict[str, int] = {}
    for text, blocks in _Reasons.of(judge, task, pending, former or {}).all():
        count = int(blocks.sum())
        if count:
            found[text] = found.get(text, 0) + count
    return found


def blocks_of_other_source(judge: Judge, task: PlannedTask) -> int:
    """Return how many counting results were made by another source of the task's function."""
    past = judge.history(task, task.grid.indices)
    other = of_other_source(task, past) & (past.event == Event.DONE)
    return int((judge.judge_all(task).done & other).sum())


def jobs_without_sentinel(judge: Judge, task: PlannedTask) -> int:
    """Return how many jobs have all blocks done and no sentinel that says so."""
    judgement = judge.judge_all(task)
    done = ~task.jobs.with_any(judgement.todo)
    present = task.jobs.job_presence()
    if present is not None:
        done &= present
    return int((done & ~_sentinels(judge, task)).sum()) if done.any() else 0


def _sentinels(judge: Judge, task: PlannedTask) -> Blocks:
    """Return which jobs have a sentinel; lists folders, for there may be a million jobs."""
    found = np.zeros(task.jobs.jobs.shape, bool)
    for path in RunPaths(judge.root).task(task.slug).glob("p*/*/*.json"):
        index = index_of(path.stem) or ()
        if len(index) == task.grid.ndim and task.jobs.jobs.indices.contains(index):
            found[index] = True
    return found


def _identity(path: Path) -> tuple[int, dict[str, Any]]:
    """Return a fingerprint, and what it stood for.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    try:
        identity = parse_json(read_file(path, most=_MOST))
        sizes, (offsets,) = identity["block_size"], identity["roi"].values()
        if any(type(n) is not int or abs(n) > 2**53 for n in (*sizes, *offsets)):
            raise ValueError
        if not len(sizes) == len(offsets):
            raise ValueError
        return int(path.stem, 16), identity
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{path}: is damaged; remove it: it only tells why earlier results do not count"
        ) from None


@dataclass(frozen=True, slots=True)
class _Reasons:
    """Reasons of one task; every block has one at most."""

    judge: Judge
    task: PlannedTask
    pending: Blocks
    past: History
    now: Judgement
    former: Mapping[int, Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        judge: Judge,
        task: PlannedTask,
        pending: Blocks,
        former: Mapping[int, Mapping[str, Any]],
    ) -> _Reasons:
        past = judge.history(task, task.grid.indices)
        return cls(judge, task, pending, past, judge.judge_all(task), former)

    def all(self) -> Iterator[tuple[str, Blocks]]:
        event = np.where(self.pending, self.past.event, 0)
        yield _RESET, event == Event.RESET
        expected = block_fingerprints(self.task, self.task.grid.indices)
        same = self.past.fingerprint == expected
        yield _CUT_OFF, (event == Event.STARTED) & same
        results = (event == Event.DONE) | (event == Event.SKIPPED)
        changed = np.zeros_like(same)
        if self.task.source_change is SourceChange.RERUN:
            changed = of_other_source(self.task, self.past)
        yield SOURCE_CHANGED, results & same & changed
        yield from self._of_inputs(results & same & ~changed)
        yield from self._of_identity(results & ~same)
        yield _NO_RECORD, self._without_record(self.pending & (self.past.event == 0))

    def _of_inputs(self, blocks: Blocks) -> Iterator[tuple[str, Blocks]]:
        """Yield reasons of results that other results of upstream tasks were read for."""
        if not blocks.any():
            return
        left = blocks & ~self.now.ready
        for name, lacking in self.judge.lacking(self.task).items():
            yield f"what they read from {name} is to be done again", left & lacking
            left = left & ~lacking
        names = " or ".join(self.task.upstream)
        yield f"what they read from {names} was done anew", blocks & self.now.ready

    def _of_identity(self, blocks: Blocks) -> Iterator[tuple[str, Blocks]]:
        """Yield reasons of results of another fingerprint: what was another then."""
        if not blocks.any():
            return
        left = blocks
        for fingerprint, identity in self._former():
            # Plans of earlier versions had the source among what a fingerprint stands for.
            identity = {key: value for key, value in identity.items() if key != "source"}
            chosen = left & (self.past.fingerprint == self._expected(fingerprint, identity))
            yield "; ".join(differences(identity, self.task.identity)), chosen
            left = left & ~chosen
        yield _ELSEWHERE, left

    def _expected(self, fingerprint: int, identity: Mapping[str, Any]) -> NDArray[np.uint64]:
        """Return the fingerprints that whole blocks of these numbers had under an identity."""
        now = self.task.identity
        if all(identity[key] == now[key] for key in ("block_size", "roi")):
            mine = block_fingerprints(self.task, self.task.grid.indices)
            return mine ^ np.uint64(self.task.fingerprint) ^ np.uint64(fingerprint)
        (offsets,) = identity["roi"].values()
        rois = []
        for first, n, step, offset in zip(
            first_block(self.task.own_grid),
            self.task.grid.shape,
            identity["block_size"],
            offsets,
            strict=True,
        ):
            begins = np.arange(first, first + n, dtype=np.int64) * step + offset
            rois.append((begins, begins + step))
        return fingerprints_at(fingerprint, rois)

    def _former(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield earlier fingerprints of the task, and what they stood for."""
        folder = RunPaths(self.judge.root).identity(self.task.slug, 0).parent
        noted = dict(map(_identity, sorted(folder.glob("*.json"))))
        for fingerprint, identity in {**noted, **self.former}.items():
            if (
                fingerprint != self.task.fingerprint
                and len(identity["block_size"]) == self.task.grid.ndim
            ):
                yield fingerprint, identity

    def _without_record(self, blocks: Blocks) -> Blocks:
        """Return the blocks among these of whose job there is a sentinel."""
        found = np.zeros_like(blocks)
        if blocks.any() and self.judge.moved_from(self.task) is None:
            for job in np.argwhere(_sentinels(self.judge, self.task)):
                where = self.task.jobs.members(tuple(int(k) for k in job)).slices
                found[where] = blocks[where]
        return found
