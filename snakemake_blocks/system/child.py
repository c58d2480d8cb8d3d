"""Forked processes: made, talked to and ended in one way."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

from snakemake_blocks.system.processes import die_with_parent, end_tree, has_ended
from snakemake_blocks.system.streams import flush, no_input

__all__ = ["Child"]


@dataclass(slots=True, eq=False)
class Child:
    """A forked process, as the one that forked it sees it.

    Parameters
    ----------
    pid : int
        Of the process.
    channel : Connection
        To and from it; it ends when one of the two does.
    """

    pid: int
    channel: Connection

    @classmethod
    def fork(
        cls,
        run: Callable[[Connection], int],
        *,
        private: Iterable[Connection | int] = (),
        leads: bool = False,
    ) -> Child:
        """Fork a process that calls a function, and ends with the status that this returns.

        It is killed when this process ends, and reads nothing from standard input. Handlers of
        signals are those of this process, until the function sets its own.

        Parameters
        ----------
        run : callable
            Takes the other end of the channel. What it raises is printed, and the status is 1.
        private : iterable of Connection or int
            Connections and file descriptors of this process that the new one must not keep:
            somebody waits for their end.
        leads : bool
            Whether it leads a process group of its own, which ends with it.
        """
        ours, theirs = Pipe()
        flush()  # else it would print once more what is not written out
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be(run, theirs, (ours, *private), parent, leads=leads)
        theirs.close()
        return cls(pid, ours)

    @property
    def has_ended(self) -> bool:
        """Whether it is a zombie: until it is reaped nobody else gets its pid."""
        return has_ended(self.pid)

    def end(self, *, patience: float = 0.0) -> int | None:
        """Wait some seconds for its end, then end it and its group.

        Returns
        -------
        int or None
            Its exit status, negative for a signal; None if it had to be ended.
        """
        give_up = time.monotonic() + patience
        while not (ended := self.has_ended) and time.monotonic() < give_up:
            time.sleep(0.005)
        status = self.kill()
        return status if ended else None

    def kill(self) -> int:
        """End it and its group; return its exit status, negative for a signal."""
        end_tree(self.pid)
        _, status = os.waitpid(self.pid, 0)
        self.channel.close()
        return os.waitstatus_to_exitcode(status)


def _be(
    run: Callable[[Connection], int],
    channel: Connection,
    private: Iterable[Connection | int],
    parent: int,
    *,
    leads: bool,
) -> NoReturn:
    """Be the forked process."""
    status = 1
    try:
        if leads:
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        die_with_parent(parent)
        for each in private:
            if isinstance(each, int):
                os.close(each)
            else:
                each.close()
        no_input()
        status = run(channel)
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(status)
