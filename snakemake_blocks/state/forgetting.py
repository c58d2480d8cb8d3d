"""Records that results are forgotten; and which results a new order leaves without ground."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.state.judgement import Judge, block_fingerprints
from snakemake_blocks.state.ledger import Event, Ledger, first_block

__all__ = ["disordered", "forget", "latest_first"]


def forget(task: PlannedTask, root: Path, indices: Sequence[Index]) -> None:
    """Record resets, and a new budget, in the ledgers of the blocks' jobs."""
    by_job: dict[Index, list[Index]] = {}
    for index in indices:
        by_job.setdefault(task.job_of(index), []).append(index)
    if not by_job:
        return
    fingerprints = block_fingerprints(task, task.grid.indices)
    for job, members in by_job.items():
        ledger = Ledger(RunPaths(root).ledger(task.slug, job), first_block(task.own_grid))
        ledger.append(Event.BUDGET, members[0], fingerprint=task.fingerprint)
        for index in members:
            ledger.append(Event.RESET, index, fingerprint=int(fingerprints[index]))
        ledger.sync()
        ledger.close()


def latest_first(task: PlannedTask, found: NDArray[np.int64]) -> list[Index]:
    """Return blocks such that what read the output of a block comes before it.

    So a reset that is cut short leaves no block behind that has read forgotten output.
    """
    jobs = found // np.asarray(task.jobs.batch)
    keys = task.block_phases.all()[tuple(found.T)], task.phases.all()[tuple(jobs.T)]
    return [tuple(int(k) for k in found[n]) for n in np.lexsort(keys)[::-1]]


def disordered(task: PlannedTask, judge: Judge) -> list[Index]:
    """Return the done blocks that a conflicting block has to run before which is not done.

    Other batches, or another mask, bring conflicting blocks into another order. Where the worker
    reads a task's own output, a block only sees what earlier ones have written: one that is done
    already, and now is a later one, would not be seen, and has not seen the other either. A
    function that reads by itself sees what is there, so any order is as good as another.

    Parameters
    ----------
    task : PlannedTask
        A task under the new plan.
    judge : Judge
        Of that plan.

    Returns
    -------
    list of tuple of int
        Latest first; with those that come after one of them.
    """
    if not any(task.reach) or not task.operation.reads_itself:
        return []
    judgement = judge.judge_all(task)
    done = judgement.done.copy()
    if not done.any() or done[_present(task)].all():
        return []
    order, present = _order(task), _present(task)
    while (wrong := done & _has_earlier(order, present & ~done, task.reach)).any():
        done &= ~wrong
    return latest_first(task, np.argwhere(judgement.done & ~done))


def _present(task: PlannedTask) -> NDArray[np.bool_]:
    return task.jobs.presence(task.grid.indices)


def _order(task: PlannedTask) -> NDArray[np.int64]:
    """Return numbers that put conflicting blocks into order: by job, then inside of it."""
    inside = task.block_phases.all()
    jobs = task.phases.all()
    for axis, batch in enumerate(task.jobs.batch):
        jobs = np.repeat(jobs, batch, axis=axis)
    cut = tuple(slice(n) for n in task.grid.shape)
    found: NDArray[np.int64] = jobs[cut].astype(np.int64) * len(task.block_phases) + inside
    return found


def _has_earlier(
    order: NDArray[np.int64], undone: NDArray[np.bool_], reach: Sequence[int]
) -> NDArray[np.bool_]:
    """Tell which blocks have one of ``undone`` in conflict with them and before them."""
    found = np.zeros(order.shape, bool)
    far = [min(r, n - 1) for r, n in zip(reach, order.shape, strict=True)]
    for shift in itertools.product(*(range(-r, r + 1) for r in far)):
        pairs = list(zip(shift, order.shape, strict=True))
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in pairs)
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in pairs)
        found[here] |= undone[there] & (order[there] < order[here])
    return found
