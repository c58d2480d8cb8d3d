"""Jobs that Snakemake hands over before there are cores for them, and ended ones told in groups.

Snakemake 9 looks at all jobs of a workflow whenever one ends, which of many jobs takes longer than
a short one runs. For short jobs an executor therefore asks for more jobs than it has cores, starts
them one after the other, and tells of their ends together.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["LookAhead"]

_AHEAD_SECONDS = 0.25
"""How long the jobs that wait here would take; a longer job never waits here."""
_MOST_AHEAD = 256
_TOGETHER_SECONDS = 0.1
_CLOSING_SECONDS = 10.0
# Weight of the last job in the mean of how long jobs take.
_RECENT = 0.2

Job = TypeVar("Job")


class LookAhead(Generic[Job]):
    """A queue of jobs before a number of cores, first come first served; for many threads.

    Parameters
    ----------
    cores : int
        Cores that running jobs may have together.
    begin : callable
        Starts a job without waiting for it; called in whatever thread makes room for it.
    tell : callable
        Takes all jobs that ended well since it was last called; called in a thread of its own.
    fail : callable
        Takes what ``tell`` raises; later ends are told nevertheless.
    """

    def __init__(
        self,
        cores: int,
        begin: Callable[[Job], None],
        tell: Callable[[list[Job]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._cores = self._free = cores
        self._begin = begin
        self._tell = tell
        self._fail = fail
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[Job, tuple[int, float]] = {}
        self._mean = _AHEAD_SECONDS * (cores + 1)  # nothing is known: no job shall wait here
        # The job that is being begun, and the thread that does it.
        self._beginning: tuple[Job, int] | None = None
        self._ended: list[Job] = []
        self._closed = False
        self._changed = threading.Condition()
        self._teller = threading.Thread(target=self._keep_telling, daemon=True)
        self._teller.start()

    def add(self, job: Job, cores: int) -> None:
        """Begin a job as soon as there are cores for it."""
        with self._changed:
            self._waiting.append((job, cores))
        self._begin_next()

    def has_ended(self, job: Job) -> None:
        """Take note that a job has ended, well or not, and begin those that waited for it."""
        with self._changed:
            if job in self._running:
                cores, since = self._running.pop(job)
                self._free += cores
                self._mean += _RECENT * (time.monotonic() - since - self._mean)
            if not self._running:
                self._changed.notify_all()
        self._begin_next()

    def to_tell(self, job: Job) -> None:
        """Tell soon, together with others, that a job has ended well."""
        with self._changed:
            self._ended.append(job)
            if len(self._ended) == 1 or self._is_low():
                self._changed.notify_all()

    @property
    def wanted(self) -> int:
        """Cores beyond those there are, for which jobs should wait here; 0 if jobs take long."""
        return min(_MOST_AHEAD, int(_AHEAD_SECONDS * self._cores / max(self._mean, 1e-6)))

    def drop(self) -> list[Job]:
        """Return the jobs that wait; they will not begin."""
        with self._changed:
            dropped = [job for job, _ in self._waiting]
            self._waiting.clear()
        return dropped

    def close(self) -> None:
        """Drop what waits, wait for what runs, and tell the rest.

        A job that Ctrl-C kept this thread from beginning is not waited for.
        """
        self.drop()
        with self._changed:
            if self._beginning is not None and self._beginning[1] == threading.get_ident():
                self._running.pop(self._beginning[0], None)
                self._beginning = None
            self._changed.wait_for(lambda: not self._running)
            self._closed = True
            self._changed.notify_all()
        self._teller.join(_CLOSING_SECONDS)

    def _begin_next(self) -> None:
        while (job := self._take()) is not None:
            try:
                self._begin(job)
            except Exception:
                self._beginning = None
                raise
            # After Ctrl-C, which is no Exception, it stays: `close` needs it.
            self._beginning = None

    def _take(self) -> Job | None:
        """Return the job to begin now, if there are cores for the one that waits longest.

        While one is being begun there is none: who does that looks again.
        """
        with self._changed:
            if self._beginning or not self._waiting or self._waiting[0][1] > self._free:
                return None
            self._beginning = self._waiting[0][0], threading.get_ident()
            job, cores = self._waiting.popleft()
            self._free -= cores
            self._running[job] = cores, time.monotonic()
            return job

    def _is_low(self) -> bool:
        """Whether cores could soon be idle."""
        return 2 * len(self._waiting) <= self.wanted

    def _keep_telling(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._closed)
                self._changed.wait_for(self._is_low, _TOGETHER_SECONDS)
                ended, self._ended = self._ended, []
                if not ended:
                    return
            # Without this thread Snakemake would wait for ever, so nothing may end it.
            try:
                try:
                    self._tell(ended)
                except BaseException as error:
                    self._fail(error)
            except BaseException:
                traceback.print_exc()
