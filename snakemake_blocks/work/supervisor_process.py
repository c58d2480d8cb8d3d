"""A process that runs one job after another of one task, with workers that stay warm.

A job then costs a message instead of two forks of a process full of imports, and what a worker
has set up (a model) serves all jobs that it gets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TypedDict

from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.processes import die_with_parent
from snakemake_blocks.work.job import work_sentinel
from snakemake_blocks.work.worker import print_to
from snakemake_blocks.work.worker_process import Bench

__all__ = ["Crew", "Request"]

# How often a crew without a job looks whether somebody needs its workers' numbers.
_IDLE_SECONDS = 1.0


class Request(TypedDict):
    """One job to run: its sentinel and log relative to a folder, and Snakemake's attempt."""

    number: int
    sentinel: str
    attempt: int
    log: str
    folder: str


@dataclass(slots=True, eq=False)
class Crew:
    """The process, as the one that started it sees it.

    Parameters
    ----------
    pid : int
        Of the process.
    channel : Connection
        To it; it ends when this is closed.
    key : object
        What it is good for: crews with equal keys can do the same jobs.
    busy : int or None
        Number of the request that it works on.
    """

    pid: int
    channel: Connection
    key: object
    busy: int | None = None

    @classmethod
    def start(cls, key: object, plan: Plan | None, private: list[int]) -> Crew:
        """Fork a crew.

        Parameters
        ----------
        key : object
            What it is good for.
        plan : Plan or None
            The plan in place; if it could not be read, the job will say why.
        private : list of int
            File descriptors of this process that the new one must not keep.
        """
        ours, theirs = Pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for handle in (ours.fileno(), *private):
                with contextlib.suppress(OSError):
                    os.close(handle)
            _be_crew(theirs, plan, parent)
        theirs.close()
        return cls(pid, ours, key)

    def do(self, request: Request) -> None:
        """Hand over a job; that it could not be shows when the crew's end is noticed."""
        self.busy = request["number"]
        with contextlib.suppress(OSError):
            self.channel.send(request)

    def answer(self) -> int | None:
        """Return the exit status of the job in hand if it has ended."""
        try:
            return self.channel.recv() if self.channel.poll() else None
        except (EOFError, OSError):
            return None


def _be_crew(channel: Connection, plan: Plan | None, parent: int) -> None:
    """Run jobs until the channel is closed, in a forked process; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        bench = Bench(lasting=True, private=(channel,))
        with contextlib.suppress(EOFError, OSError):
            while True:
                while not channel.poll(_IDLE_SECONDS):
                    bench.make_room()
                request: Request = channel.recv()
                channel.send(_run(request, plan, bench))
        bench.close()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(request: Request, plan: Plan | None, bench: Bench) -> int:
    """Run one job and return its exit status; everything that is printed goes to its log."""
    os.chdir(request["folder"])
    try:
        print_to(request["log"], anew=True)  # as a shell's `>` does; workers open it once more
        bench.output = request["log"]
        return work_sentinel(
            Path(request["sentinel"]),
            attempt=request["attempt"],
            environment=os.environ,
            plan=plan,
            bench=bench,
        )
    except BlocksError as error:
        print(error, file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
