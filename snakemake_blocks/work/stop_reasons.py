"""When a job takes no further block: a signal, `stop`, the walltime, a dead Snakemake."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.system.processes import age_of, process_host, process_start
from snakemake_blocks.tasks.resources import as_number

__all__ = ["CONDUCTOR", "Deadline", "StopReasons", "conductor", "deadline_of"]

# Names the Snakemake process that a job belongs to: "pid:start time:host"; the last two may lack.
CONDUCTOR = "SNAKEMAKE_BLOCKS_CONDUCTOR"
# SLURM and LSF send SIGTERM and then, 30 s (SLURM) or 10 s (LSF) later, SIGKILL; LSF sends SIGINT
# 10 s before that.
_GRACE = 20.0
_LOOK_SECONDS = 0.25
# A tenth of the time, but as long as the job's end may take: slow file systems, and what passed
# before its first process.
_SHORTEST_MARGIN, _LONGEST_MARGIN = 30.0, 60.0
_JOB_IDS = ("SLURM_JOB_ID", "LSB_JOBID")


def conductor() -> str:
    """Return the value of the conductor variable for this process."""
    return f"{os.getpid()}:{process_start(os.getpid())}:{process_host()}"


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the scheduler will kill the job.

    Parameters
    ----------
    at : float
        Monotonic time.
    margin : float
        Seconds before it at which no further block is started; a third of that before it,
        running blocks are abandoned.
    """

    at: float
    margin: float


def deadline_of(
    runtime: object, *, attempt: int, environment: Mapping[str, str]
) -> Deadline | None:
    """Return the deadline of a job that begins now; None if nobody will kill it.

    Parameters
    ----------
    runtime : object
        The job's resource ``runtime``: minutes, or text like ``2h``; grows with the attempt.
    attempt : int
        Snakemake's attempt.
    environment : mapping
        The process environment: whether a scheduler runs the job, and what it says.
    """
    told = environment.get("SLURM_JOB_END_TIME", "")
    minutes = as_number("runtime", runtime)
    job = next((f"{name}={environment[name]}" for name in _JOB_IDS if environment.get(name)), "")
    if told.isdigit():
        seconds = float(told) - time.time()
    elif job and isinstance(minutes, int | float) and _is_submitted(environment):
        # The scheduler counts from the job's begin; Snakemake has been starting since then.
        seconds = minutes * 60 * max(1, attempt) - age_of(job)
    else:
        return None
    margin = min(max(_SHORTEST_MARGIN, seconds / 10), _LONGEST_MARGIN, max(0.0, seconds) / 2)
    return Deadline(time.monotonic() + seconds, margin)


def _is_submitted(environment: Mapping[str, str]) -> bool:
    """Tell whether Snakemake had the scheduler run this job, with ``runtime`` as its walltime.

    Started by hand or by a Snakemake that itself runs in an allocation, it has that one's time.
    """
    pid = environment.get(CONDUCTOR, "").partition(":")[0]
    if not pid.isdigit():
        return False
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except OSError:
        return True  # no such files here, or it has just ended
    return (b"--mode", b"remote") in pairwise(arguments)


@dataclass(slots=True)
class StopReasons:
    """Reasons to start no further block; notes signals inside a ``with`` block.

    Parameters
    ----------
    paths : RunPaths
        The run directory, where `stop` leaves a file.
    environment : mapping
        The process environment.
    deadline : Deadline, optional
        Of the scheduler.
    """

    paths: RunPaths
    environment: Mapping[str, str]
    deadline: Deadline | None = None
    _signal: int = field(default=0, init=False)
    _signal_at: float = field(default=0.0, init=False)
    _before: dict[int, object] = field(default_factory=dict, init=False)
    _pipe: tuple[int, int] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)
    _found: str = field(default="", init=False)

    def __enter__(self) -> StopReasons:
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None

    def _remember(self, number: int, _frame: object) -> None:
        # A Ctrl-C after a SIGTERM means: at once.
        if not self._signal or number == signal.SIGINT:
            self._signal, self._signal_at = number, time.monotonic()
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                os.write(self._pipe[1], b"x")

    @property
    def wake(self) -> int | None:
        """A file descriptor that can be read once a signal came."""
        return self._pipe[0] if self._pipe is not None else None

    @property
    def by_keyboard(self) -> bool:
        """Whether it was Ctrl-C."""
        return self._signal == signal.SIGINT

    def reason(self) -> str:
        """Return why no further block may start; empty if there is no reason."""
        if self._pipe is not None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._pipe[0], 4096)
        if self._signal:
            return f"stopped by {signal.Signals(self._signal).name}"
        now = time.monotonic()
        if self.deadline is not None and now > self.deadline.at - self.deadline.margin:
            return "stopped before the walltime"
        if now - self._looked > _LOOK_SECONDS:
            self._looked, self._found = now, self._look()
        return self._found

    def _look(self) -> str:
        """Return the reasons that cost a system call."""
        if self.paths.drain.exists():
            return "stopped by `snakemake-blocks stop`"
        if self._conductor_is_gone():
            return "stopped because its Snakemake process is gone"
        return ""

    def grace(self) -> float:
        """Return for how many seconds from now running blocks may go on."""
        left = float("inf")
        now = time.monotonic()
        if self.by_keyboard or self._conductor_is_gone():
            return 0.0
        if self._signal:
            left = self._signal_at + _GRACE - now
        if self.deadline is not None:
            left = min(left, self.deadline.at - self.deadline.margin / 3 - now)
        return left

    def _conductor_is_gone(self) -> bool:
        pid, _, rest = self.environment.get(CONDUCTOR, "").partition(":")
        start, _, host = rest.partition(":")
        if not pid.isdigit() or (host and host != process_host()):
            return False
        now = process_start(int(pid))
        return now is None or (start.isdigit() and now != int(start))
