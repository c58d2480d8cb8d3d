"""Blocks as they get done, seen from the ledgers: also inside jobs, also from another host."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state.block_state import STATE_AFTER, State
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import Event, LedgerReader, first_block
from snakemake_blocks.state.status import mark_orphans
from snakemake_blocks.system.quoting import comment

__all__ = ["Count", "ProgressView", "Tracker", "watch_run"]

_POLL_SECONDS = 0.5
# Following many ledgers may take so much of the time, in the process that schedules the jobs.
_SHARE = 0.05
_LINE_SECONDS = 10.0
_STOP_SECONDS = 5.0


@dataclass(slots=True)
class Count:
    """Blocks of one task, as far as the ledgers tell.

    Parameters
    ----------
    total : int
        Blocks to do.
    done, failed, running : int
        Of these; failed ones may still be tried again.
    orphaned : int
        Blocks that cannot be done because of the failed ones.
    """

    total: int
    done: int = 0
    failed: int = 0
    running: int = 0
    orphaned: int = 0

    @property
    def left(self) -> int:
        """Blocks that are still to be done."""
        return self.total - self.done - self.failed - self.orphaned


@dataclass(slots=True)
class Tracker:
    """Follows the ledgers of a run directory, reading only what was appended.

    Parameters
    ----------
    plan : Plan
        The plan in place.
    root : Path
        The run directory.
    """

    plan: Plan
    root: Path
    _states: dict[str, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)
    _readers: dict[str, LedgerReader] = field(default_factory=dict, init=False, repr=False)
    _failed: tuple[int, ...] = field(default=(), init=False, repr=False)
    _orphaned: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        judge = Judge(self.plan, self.root)
        for name, task in self.plan.tasks.items():
            state = judge.judge_all(task).state
            over = np.isin(state, (State.RUNNING, State.FAILED))  # those of an earlier run
            self._states[name] = np.where(over, np.uint8(State.PENDING), state)
        for _, reader in judge.readers():
            self._readers[str(reader.path)] = reader

    def poll(self) -> dict[str, Count]:
        """Return the counts per task, after reading what was appended since the last time."""
        counts = {name: self._count(task) for name, task in self.plan.tasks.items()}
        failed = tuple(count.failed for count in counts.values())
        if failed != self._failed:
            self._failed, self._orphaned = failed, self._count_orphans()
        for name, count in counts.items():
            count.orphaned = self._orphaned.get(name, 0)
        return counts

    def _count_orphans(self) -> dict[str, int]:
        states = {name: found.copy() for name, found in self._states.items()}
        mark_orphans(self.plan, states)
        return {name: int((found == State.ORPHANED).sum()) for name, found in states.items()}

    def _count(self, task: PlannedTask) -> Count:
        states = self._states[task.name]
        for path, size in self._ledgers(task):
            reader = self._readers.get(path)
            if reader is None:
                reader = LedgerReader(Path(path), first_block(task.own_grid))
                self._readers[path] = reader
            if size != reader.offset:
                for records in reader.chunks():
                    _enter(records, states)
        counts = np.bincount(states.ravel(), minlength=len(State))
        return Count(
            total=task.num_blocks,
            done=int(counts[State.DONE]),
            failed=int(counts[State.FAILED]),
            running=int(counts[State.RUNNING]),
        )

    def _ledgers(self, task: PlannedTask) -> Iterator[tuple[str, int]]:
        """Yield path and size of the ledgers of a task; those that go meanwhile are left out."""
        folder = RunPaths(self.root).task(task.slug) / "ledger"
        for shard in _entries(folder):
            for entry in _entries(shard.path):
                if "." not in entry.name:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.path, entry.stat().st_size


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _enter(records: NDArray[np.void], states: NDArray[np.uint8]) -> None:
    """Enter what records say of the blocks of a task; of a block the last one counts."""
    inside = np.all((records["index"] >= 0) & (records["index"] < states.shape), axis=1)
    no_state = np.isin(records["event"], (Event.BUDGET, Event.EMPTY))
    records = records[inside & ~no_state]
    states[tuple(records["index"].T)] = STATE_AFTER[records["event"]]


class ProgressView:
    """Bars per task on a terminal, a line per task now and then elsewhere.

    Parameters
    ----------
    tracker : Tracker
        Where the counts come from.
    stream : file
        Where to show them.
    """

    def __init__(self, tracker: Tracker, stream: TextIO) -> None:
        self._tracker = tracker
        # A notebook says that it has colours, but it cannot draw a bar twice in one place.
        self._console = Console(file=stream, force_terminal=stream.isatty())
        self._began = time.monotonic()
        self._at_start = {name: count.done for name, count in tracker.poll().items()}
        self._progress = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} blocks"),
            _Failed(),
            _Rate(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bars = {
            name: self._progress.add_task(comment(name), total=count.total, completed=count.done)
            for name, count in tracker.poll().items()
        }
        self._line = 0.0
        self._complete = False
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin to show."""
        self._progress.start()
        self._thread.start()

    def stop(self) -> None:
        """Show the last counts and end, also if the run directory does not answer any more."""
        self._ended.set()
        self._thread.join(_STOP_SECONDS)
        self._progress.stop()

    @property
    def is_complete(self) -> bool:
        """Whether every block of every task was done when last looked at."""
        return self._complete

    def say(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        wait = _POLL_SECONDS
        while not self._ended.wait(wait):
            began = time.monotonic()
            self._try_to_show(last=False)
            wait = max(_POLL_SECONDS, (time.monotonic() - began) / _SHARE)
        self._try_to_show(last=True)

    def _try_to_show(self, *, last: bool) -> None:
        """Show, or say once why not: the run goes on in any case, and the next look may succeed."""
        try:
            self._show(last=last)
        except Exception as error:
            text = f"progress cannot be shown ({type(error).__name__}: {error}); the run goes on"
            if text not in self._said:
                self._said.add(text)
                self.say(text)

    def _show(self, *, last: bool) -> None:
        counts = self._tracker.poll()
        self._complete = all(count.done == count.total for count in counts.values())
        seconds = time.monotonic() - self._began
        for name, count in counts.items():
            rate = (count.done - self._at_start[name]) / max(seconds, 1e-9)
            self._progress.update(
                self._bars[name],
                completed=count.done,
                failed=count.failed,
                orphaned=count.orphaned,
                left=count.left,
                rate=rate,
            )
        due = time.monotonic() - self._line >= _LINE_SECONDS
        if not self._console.is_terminal and (due or last):
            self._line = time.monotonic()
            for name, count in counts.items():
                rate = (count.done - self._at_start[name]) / max(seconds, 1e-9)
                self.say(_text(name, count, rate))


def watch_run(plan: Plan, root: Path, stream: TextIO) -> None:
    """Follow a run, from any host that sees its run directory, until it is done or interrupted."""
    view = ProgressView(Tracker(plan, root), stream)
    view.start()
    try:
        while not view.is_complete:
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        pass  # the user has seen enough
    finally:
        view.stop()


def _text(name: str, count: Count, rate: float) -> str:
    text = (
        f"{comment(name)}: {count.done:,} of {count.total:,} blocks done, {count.failed:,} failed"
    )
    if count.orphaned:
        text += f", {count.orphaned:,} orphaned"
    if rate > 0 and count.left > 0:
        text += f", {rate:,.1f}/s, {_duration(count.left / rate)} left"
    return text


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Failed(ProgressColumn):
    def render(self, task: Bar) -> Text:
        """Return the numbers of failed and orphaned blocks, red if there are any."""
        failed, orphaned = task.fields.get("failed", 0), task.fields.get("orphaned", 0)
        text = f"{failed:,} failed" + (f", {orphaned:,} orphaned" if orphaned else "")
        return Text(text, style="bold red" if failed or orphaned else "dim")


class _Rate(ProgressColumn):
    def render(self, task: Bar) -> Text:
        """Return blocks per second and the time left."""
        rate = task.fields.get("rate", 0.0)
        left = task.fields.get("left", 0)
        if rate <= 0 or left <= 0:
            return Text(f"{rate:,.1f}/s")
        return Text(f"{rate:,.1f}/s, {_duration(left / rate)} left")
