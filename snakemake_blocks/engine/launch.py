"""The only place that starts processes from outside of Python: Snakemake."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from snakemake_blocks.engine.import_check import ImportCheck, questions
from snakemake_blocks.engine.internals import call_sigterm_in_thread, main_of_snakemake
from snakemake_blocks.engine.stale_locks import unlock
from snakemake_blocks.errors import InputError
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.processes import die_with_parent, group_lives

__all__ = [
    "INTERRUPTED",
    "be_snakemake",
    "run_snakemake",
    "start_host",
    "start_import_check",
]

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of what was stopped from outside."""

# Jobs that were told to stop have this long before they are killed; longer than their own grace.
_PATIENCE = 30.0
# After Ctrl-C running blocks are given up at once: who has not ended after so long will not.
_INTERRUPT_PATIENCE = 60.0
# It may be interrupted while it imports this, and later before it handles that itself.
_START = f"""
try:
    from snakemake_blocks.engine.launch import be_snakemake
    be_snakemake()
except KeyboardInterrupt:
    raise SystemExit({INTERRUPTED}) from None
"""


def start_import_check(
    plan: Plan, folder: Path, *, environment: Mapping[str, str] | None = None
) -> ImportCheck | None:
    """Start to import the functions of a plan in another process; None if there are none."""
    asked = questions(plan)
    if not asked:
        return None
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake_blocks.engine.import_check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=dict(environment or os.environ),
        process_group=0,
    )
    return ImportCheck(process, asked, folder.absolute())


def run_snakemake(
    arguments: Sequence[str],
    *,
    folder: Path,
    root: Path,
    environment: Mapping[str, str] | None = None,
    check: ImportCheck | None = None,
) -> int:
    """Run Snakemake in ``folder`` and return its exit status, 130 if it was interrupted.

    Snakemake and its jobs are a process group of their own, which gets the signals that this
    process gets, and of which nothing is left at the end. If this process is killed, Snakemake is
    too, and its jobs stop by themselves.

    Parameters
    ----------
    arguments : sequence of str
        For Snakemake.
    folder : Path
        Where it runs.
    root : Path
        The run directory. While it is drained, a first SIGTERM means: start nothing new. Otherwise
        it means: end in time.
    environment : mapping, optional
        Its environment; default: ours.
    check : ImportCheck, optional
        Imports the functions meanwhile; if it fails, Snakemake is ended.

    Raises
    ------
    InputError
        If functions cannot be imported, with all of them.
    """
    command = [sys.executable, "-c", _START, str(os.getpid()), *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment or os.environ), process_group=0
    )
    with (
        _PassedOn(process, RunPaths(root).drain) as signals,
        _Checked(process, check) as imports,
    ):
        status = _end_of(process)
    if status < 0:
        unlock(folder, root)  # it could not do so, and is known to be dead
    if imports.problems:
        raise InputError("\n".join(imports.problems))
    if status and (signals.received or status in (-signal.SIGINT, -signal.SIGTERM)):
        return INTERRUPTED
    return 128 - status if status < 0 else status


class _PassedOn:
    """Passes the signals that this process gets on to Snakemake and its jobs.

    Parameters
    ----------
    process : Popen
        Snakemake, the first of its process group.
    drain : Path
        While this file exists, a first SIGTERM is for Snakemake alone: its jobs end by themselves.
    """

    def __init__(self, process: subprocess.Popen[bytes], drain: Path) -> None:
        self._process = process
        self._drain = drain
        self._end = threading.Timer(
            _INTERRUPT_PATIENCE, _signal_group, (process.pid, signal.SIGKILL)
        )
        self._end.daemon = True
        self._before: list[tuple[int, Any]] = []
        self.received: list[int] = []

    def __enter__(self) -> Self:
        # Only the main thread may have handlers; elsewhere signals are not ours to handle.
        main = threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if main else ():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before.append((number, signal.signal(number, self._pass_on)))
        return self

    def __exit__(self, *_: object) -> None:
        self._end.cancel()
        for number, handler in self._before:
            signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT and signal.SIGINT not in self.received:
            self._end.start()
        self.received.append(number)
        if number != signal.SIGINT and len(self.received) == 1 and self._drain.exists():
            self._process.terminate()
        else:
            _signal_group(self._process.pid, number)


class _Checked:
    """Ends Snakemake if functions cannot be imported, which is found out meanwhile.

    Parameters
    ----------
    process : Popen
        Snakemake.
    check : ImportCheck or None
        Imports the functions.
    """

    def __init__(self, process: subprocess.Popen[bytes], check: ImportCheck | None) -> None:
        self._process = process
        self._check = check
        self._thread = threading.Thread(target=self._end_if_wrong, daemon=True)
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        if self._check is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._check is not None:
            self._check.cancel()
            self._thread.join()

    def _end_if_wrong(self) -> None:
        assert self._check is not None
        if (found := self._check.problems()) and self._process.poll() is None:
            self.problems = found
            _signal_group(self._process.pid, signal.SIGINT)


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for Snakemake and its jobs, of which nothing is left; return its exit status."""
    gone = False
    try:
        status = process.wait()
        gone = _wait_for_group(process.pid)
        return status
    finally:
        if not gone:
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()


def be_snakemake() -> None:
    """Be Snakemake, in the process that :func:`run_snakemake` started."""
    die_with_parent(int(sys.argv[1]))
    sys.argv[:2] = ["snakemake"]
    main = main_of_snakemake()
    call_sigterm_in_thread()
    main()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _wait_for_group(group: int) -> bool:
    """Wait for jobs that outlive a Snakemake that was stopped or killed; true if they ended."""
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up:
        if not group_lives(group):
            return True
        time.sleep(0.05)
    return False


def start_host(threads: int) -> subprocess.Popen[bytes]:
    """Start a process that forks jobs, see :mod:`snakemake_blocks.work.host`.

    Parameters
    ----------
    threads : int
        What numerical libraries are told.
    """
    environment = dict(os.environ)
    for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake_blocks.work.host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
