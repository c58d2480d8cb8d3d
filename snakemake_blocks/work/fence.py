"""Ends workers whose job may be another host's by now, also while the supervisor is stopped.

A supervisor that is stopped, or waits for a disk, renews its lock no more, and after a while
another host takes the job over. Its workers may compute all the time. A small process beside them
looks at the lease of the lock in shared memory and kills them before the patience of others is at
its end. It needs no disk and no lock.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from snakemake_blocks.system.child import Child
from snakemake_blocks.system.locks import TIMING, Lease
from snakemake_blocks.system.processes import end_tree

__all__ = ["Fence"]

_SLOTS = 1 << 14
_LONGEST_LOOK = 1.0


@dataclass(slots=True)
class Fence:
    """The process, and the workers that it watches, as their supervisor sees them.

    Parameters
    ----------
    lease : Lease
        Of the lock of the job that the workers do.
    """

    lease: Lease
    # How many workers there are, then their pids; one that was ended is negative.
    _memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 4 * (_SLOTS + 1)), repr=False)
    _child: Child | None = field(default=None, init=False)

    def add(self, pid: int) -> None:
        """Watch a worker, which leads a process group."""
        table = self._table
        table[table[0] + 1] = pid
        table[0] += 1
        self.start()

    def remove(self, pid: int) -> bool:
        """Watch a worker no longer, before it is reaped; true if it was ended here."""
        table = self._table
        found = next((k for k in range(1, table[0] + 1) if abs(table[k]) == pid), None)
        if found is None:
            return False
        was_ended = table[found] < 0
        table[found] = table[table[0]]
        table[0] -= 1
        return was_ended

    def start(self) -> None:
        """See to it that the process is there."""
        if self._child is not None:
            if not self._child.has_ended:
                return
            self._child.end()
        self._child = Child.fork(self._watch)

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.end()
            self._child = None

    @property
    def _table(self) -> memoryview:
        return memoryview(self._memory).cast("i")

    def _watch(self, _: Connection) -> int:
        """Watch until the supervisor ends, in the process."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(0, 1 << 20)  # others wait for the ends of pipes that are among these
        supervisor, table = os.getppid(), self._table
        while os.getppid() == supervisor:
            if self.lease.is_over:
                self._end_all(table)
            time.sleep(min(_LONGEST_LOOK, TIMING.standstill / 32))
        return 0

    @staticmethod
    def _end_all(table: memoryview) -> None:
        for k in range(1, table[0] + 1):
            if table[k] > 0:
                with contextlib.suppress(ProcessLookupError):
                    end_tree(table[k])
                table[k] = -table[k]
