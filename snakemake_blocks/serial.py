"""All blocks of a plan in this process, one after the other: for debugging.

No Snakemake, no worker, no retry and no record: the first exception goes up as it was raised,
so that a debugger stops in the user's function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_blocks import client
from snakemake_blocks.block import Block, BlockStatus
from snakemake_blocks.blockwork import Work
from snakemake_blocks.functions import FunctionRef
from snakemake_blocks.plan import Plan, PlannedTask
from snakemake_blocks.task import Call

__all__ = ["run_serially"]


def run_serially(
    plan: Plan, folder: Path, functions: Mapping[FunctionRef, Callable[..., Any]]
) -> dict[str, int]:
    """Run every block, upstream tasks first and phase by phase; return the skipped ones per task.

    Parameters
    ----------
    plan : Plan
        What to run; outputs that it declares have to be there.
    folder : Path
        The pipeline's folder.
    functions : mapping of FunctionRef to callable
        The functions that are at hand; all others are imported.

    Raises
    ------
    Exception
        The first one that a function raises.
    BlockFailedError
        If a block is not done although nothing was raised.
    """
    return {task.name: _run_task(plan, task, folder, functions) for task in plan.tasks.values()}


def _run_task(
    plan: Plan,
    task: PlannedTask,
    folder: Path,
    functions: Mapping[FunctionRef, Callable[..., Any]],
) -> int:
    work = Work(task, folder, folder, given=functions)
    source = _Source(work, _in_order(plan, task))
    try:
        work.set_up()
        if task.call is Call.WORKER:
            with client.serving(source):
                work.run_worker_function()
        else:
            while (block := source.next()) is not None:
                work.process(block)
        source.end()
    finally:
        work.tear_down()
    return source.skipped


def _in_order(plan: Plan, task: PlannedTask) -> Iterator[Block]:
    """Yield the blocks in an order in which none comes before one that it waits for."""
    for job in plan.jobs(task.name):
        yield from sorted(job.blocks(), key=lambda block: task.block_phases.of(block.index))


@dataclass(slots=True)
class _Source:
    """Hands out blocks, also to a ``Client``; after a failure there are none left.

    Parameters
    ----------
    work : Work
        The task's functions.
    blocks : iterator of Block
        In the order to run.
    """

    work: Work
    blocks: Iterator[Block]
    skipped: int = field(default=0, init=False)
    _asked: bool = field(default=False, init=False)
    _is_open: bool = field(default=False, init=False)
    _error: BaseException | None = field(default=None, init=False)

    def next(self) -> Block | None:
        """Return the next block that is not done, None when there is none left."""
        self._asked = True
        while self._error is None and (block := next(self.blocks, None)) is not None:
            if not self.work.is_done(block):
                block.status = BlockStatus.PROCESSING
                self._is_open = True
                return block
            self.skipped += 1
        return None

    def finish(self, error: BaseException | None) -> None:
        """Keep the first error that a client says its block ended with."""
        if self._is_open:
            self._error = self._error or error
        self._is_open = False

    def accept(self, block: Block) -> None:
        """Raise if the block is not done."""
        self.work.accept(block)

    def end(self) -> None:
        """Raise what a client said, and refuse a worker function that left blocks behind."""
        if self._error is not None:
            raise self._error
        if (left := next(self.blocks, None)) is not None:
            how = "ended before the last block" if self._asked else "never asked for a block"
            raise RuntimeError(
                f"{self.work.task.function.name} {how}, {left} is left; "
                "a function without arguments has to loop over Client().acquire_block()"
            )
