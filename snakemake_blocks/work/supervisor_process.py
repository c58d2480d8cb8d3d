"""A process that runs one job after another of one task, with workers that stay.

A job then costs a message instead of two forks of a process full of imports, and what a worker
has set up (a model) serves all jobs that it gets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypedDict

from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.child import Child
from snakemake_blocks.system.streams import flush, print_to
from snakemake_blocks.work.job import work_sentinel
from snakemake_blocks.work.worker_pool import WorkerPool

__all__ = ["Request", "SupervisorProcess"]

# How often a supervisor without a job looks whether somebody needs its workers' numbers.
_IDLE_SECONDS = 1.0


class Request(TypedDict):
    """One job to run: its sentinel and log relative to a folder, and Snakemake's attempt."""

    number: int
    sentinel: str
    attempt: int
    log: str
    folder: str


@dataclass(slots=True, eq=False)
class SupervisorProcess:
    """The process, as the one that started it sees it.

    Parameters
    ----------
    child : Child
        The process; it ends when the channel to it is closed.
    key : object
        What it is good for: supervisors with equal keys can do the same jobs.
    busy : int or None
        Number of the request that it works on.
    """

    child: Child
    key: object
    busy: int | None = None

    @classmethod
    def start(
        cls, key: object, plan: Plan | None, private: Iterable[Connection | int]
    ) -> SupervisorProcess:
        """Fork a supervisor.

        Parameters
        ----------
        key : object
            What it is good for.
        plan : Plan or None
            The plan in place; if it could not be read, the job will say why.
        private : iterable of Connection or int
            What the new process must not keep.
        """
        return cls(Child.fork(partial(_serve, plan), private=private), key)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.child.pid

    @property
    def channel(self) -> Connection:
        """To the process."""
        return self.child.channel

    def do(self, request: Request) -> None:
        """Hand over a job; that it could not be shows when the supervisor's end is noticed."""
        self.busy = request["number"]
        with contextlib.suppress(OSError):
            self.channel.send(request)

    def answer(self) -> int | None:
        """Return the exit status of the job in hand if it has ended."""
        try:
            return self.channel.recv() if self.channel.poll() else None
        except (EOFError, OSError):
            return None


def _serve(plan: Plan | None, channel: Connection) -> int:
    """Run jobs until the channel is closed, in the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    pool = WorkerPool(lasting=True, private=(channel,))
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not channel.poll(_IDLE_SECONDS):
                pool.make_room()
            request: Request = channel.recv()
            channel.send(_run(request, plan, pool))
    pool.close()
    return 0


def _run(request: Request, plan: Plan | None, pool: WorkerPool) -> int:
    """Run one job and return its exit status; everything that is printed goes to its log."""
    os.chdir(request["folder"])
    try:
        print_to(
            Path(request["log"]), anew=True
        )  # as a shell's `>` does; workers open it once more
        pool.output = request["log"]
        return work_sentinel(
            Path(request["sentinel"]),
            attempt=request["attempt"],
            environment=os.environ,
            plan=plan,
            pool=pool,
        )
    except BlocksError as error:
        print(error, file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        flush()
