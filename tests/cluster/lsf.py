"""A stand-in for LSF for tests: puts its commands on the path and tells them what to do.

It is not LSF: it has one host, starts jobs at once, and knows what snakemake-executor-plugin-lsf
0.3.3 calls. The jobs are real processes with real walltimes. One shell use, from the root of the
repository::

    python -m tests.cluster.lsf run -- COMMAND...  # COMMAND with a stand-in around it
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from .keeper import MARK, Keeper, marked
from .lsf_standin.book import DIRECTORY, JOB_MARK, Book, Job, matches, told_nothing

State = Literal["PEND", "PSUSP", "RUN", "SSUSP", "USUSP", "EXIT", "DONE", "UNKWN"]

_COMMANDS = Path(__file__).parent / "lsf_standin" / "bin"
_KILL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)  # LSF's, for bkill
_PATIENCE = 300.0
LSF_WALLTIME_SIGNALS = (signal.SIGUSR2, *_KILL_SIGNALS)
"""What LSF 10.1 documents for the end of ``-W``; it waits ten minutes after the first."""


class StandInError(RuntimeError):
    """The stand-in did not do what it was asked for."""


class LsfStandIn:
    """A stand-in for LSF on this machine, for the length of a ``with`` statement.

    Jobs are named by shell patterns for LSF's job names, which the plugin makes as
    ``Snakemake_rule_NAME:WILDCARD=VALUE___(RUN)``. What it is told holds until `behave`.

    Parameters
    ----------
    slots : int
        Slots of the one host.
    minute : float
        Seconds that a minute of ``-W`` lasts, to make tests of walltimes short.
    grace : float
        Seconds between the signals that end a job.
    walltime_signals : sequence of Signals
        What a job at its walltime is sent, one after the other; the last is SIGKILL.
        `LSF_WALLTIME_SIGNALS` is what LSF is documented to send.
    queues : sequence of str
        Names of its queues, the default one first.

    Attributes
    ----------
    directory : Path
        State of the stand-in; gone at the end.
    env : dict of str to str
        Environment for processes that use it.
    snakemake_arguments : tuple of str
        What ``snakemake`` needs to use it.
    """

    snakemake_arguments = (
        "--executor", "lsf",
        "--seconds-between-status-checks", "2",  # but the first look comes after 20 s
        "--max-status-checks-per-second", "0.2",  # six failed looks in a row end Snakemake
    )  # fmt: skip

    def __init__(
        self,
        *,
        slots: int = 4,
        minute: float = 60.0,
        grace: float = 2.0,
        walltime_signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
        queues: Sequence[str] = ("normal",),
    ) -> None:
        if walltime_signals[-1] != signal.SIGKILL:
            raise ValueError(f"the last walltime signal must be SIGKILL, got {walltime_signals}")
        self._slots = slots
        self._minute = minute
        self._grace = grace
        self._walltime_signals = tuple(walltime_signals)
        self._queues = tuple(queues)
        self.env: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="lsf-standin-"))
        self._keeper = Keeper(self.directory)
        self._book = Book.create(
            str(self.directory),
            {
                "slots": self._slots,
                "queues": list(self._queues),
                "minute": self._minute,
                "grace": self._grace,
                "walltime_signals": list(self._walltime_signals),
                "kill_signals": list(_KILL_SIGNALS),
            },
        )
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LSB_", "LSF_", "LS_"))},
            "PATH": os.pathsep.join((str(_COMMANDS), os.environ.get("PATH", os.defpath))),
            DIRECTORY: str(self.directory),
            MARK: str(self.directory),
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keeper.close()

    def report(self, state: State, *, jobs: str, run: bool = False) -> None:
        """Let bjobs say a state of jobs, whatever is true, until they have finished.

        Parameters
        ----------
        state : str
            Such as ``UNKWN``, which the plugin takes for success.
        jobs : str
            Which jobs.
        run : bool
            Whether such jobs are run when they are submitted from now on. One that is not stays in
            that state, also when the stand-in behaves again.
        """
        told = self._book.told()
        told["reports"].append({"jobs": jobs, "state": state, "run": run})
        self._book.tell(told)

    def refuse(self, *, jobs: str = "*", times: int | None = None) -> None:
        """Let bsub refuse jobs.

        Parameters
        ----------
        jobs : str
            Which jobs.
        times : int, optional
            How often; always if not given.
        """
        told = self._book.told()
        told["refusals"].append({"jobs": jobs, "times": times})
        self._book.tell(told)

    def lose(self, *, jobs: str, events: bool = False) -> None:
        """Let bjobs forget jobs, which go on.

        Parameters
        ----------
        jobs : str
            Which jobs.
        events : bool
            Whether lsb.events, where the plugin looks next, still knows them.
        """
        told = self._book.told()
        told["losses"].append({"jobs": jobs, "events": events})
        self._book.tell(told)
        with self._book.changing():
            pass  # lsb.events is written anew

    def fail_bjobs(self, *, calls: int = 0, seconds: float = 0.0) -> None:
        """Let bjobs fail, beginning now.

        Parameters
        ----------
        calls : int
            For so many calls.
        seconds : float
            For so long.
        """
        told = self._book.told()
        told["outage_calls"] = calls
        told["outage_until"] = time.time() + seconds
        self._book.tell(told)

    def behave(self) -> None:
        """Forget everything that was told."""
        self._book.tell(told_nothing())

    def crash(self, job: Job) -> None:
        """Lose the host of a running job: its processes are gone at once, its state is UNKWN."""
        with self._book.changing() as jobs:
            runner = jobs[job["id"] - 1]["runner"]
            if runner is None:
                raise StandInError(f"job {job['id']} is not running")
            jobs[job["id"] - 1].update({"state": "UNKWN", "runner": None})
            for pid in {runner} | self.processes(job):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it ended by itself

    def processes(self, job: Job) -> set[int]:
        """Process ids of what a job runs, the shell that LSF starts included."""
        return marked(JOB_MARK, self._book.job_mark(job["id"]))

    def kill(self, job: Job) -> None:
        """Let bkill end a job: SIGINT, SIGTERM and SIGKILL with the grace between them."""
        self.run("bkill", str(job["id"]))

    def jobs(self, pattern: str = "*", *, state: str = "*") -> list[Job]:
        """Jobs since the start in the order of their ids, in the states that they really are in.

        Parameters
        ----------
        pattern, state : str
            Shell patterns for name and state.
        """
        return [
            job
            for job in self._book.jobs()
            if matches(job["name"], pattern) and matches(job["state"], state)
        ]

    def wait_for_job(
        self, pattern: str = "*", *, state: str = "RUN", timeout: float = _PATIENCE
    ) -> Job:
        """Wait until a job is in a state.

        Parameters
        ----------
        pattern, state : str
            Shell patterns, as for `jobs`.
        timeout : float
            Seconds after which to give up.

        Returns
        -------
        Job
            The first such job.

        Raises
        ------
        StandInError
            If there is none in time.
        """
        self.wait_for(
            lambda: bool(self.jobs(pattern, state=state)),
            what=f"a job {pattern} to be {state}",
            timeout=timeout,
        )
        return self.jobs(pattern, state=state)[0]

    def wait_for(
        self, condition: Callable[[], bool], *, what: str, timeout: float = _PATIENCE
    ) -> None:
        """Wait until a condition holds.

        Parameters
        ----------
        condition : callable
            Called about 20 times a second.
        what : str
            The condition in words.
        timeout : float
            Seconds after which to give up.

        Raises
        ------
        StandInError
            If it does not hold in time.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise StandInError(f"waited {timeout:.0f} s in vain for {what}\n{self.logs()}")
            time.sleep(0.05)

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of every call so far of one of the commands."""
        return self._book.calls(command)

    def run(self, *command: str) -> str:
        """Run a command against the stand-in and return what it printed.

        Raises
        ------
        StandInError
            If it fails, with its complaint.
        """
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode != 0:
            raise StandInError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def logs(self) -> str:
        """Its jobs, and what its own processes complained about."""
        jobs = "\n".join(str(job) for job in self.jobs())
        complaints = "\n".join(
            f"== {file.name}\n{file.read_text(errors='replace')}"
            for file in sorted(self.directory.glob("jobs/*.sbatchd"))
            if file.stat().st_size
        )
        return f"{jobs}\n{complaints}"


def _main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["run", "--", *command] if command:
            with LsfStandIn() as stand_in:
                return subprocess.run(command, env=stand_in.env, check=False).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
