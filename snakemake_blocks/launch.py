"""The only place that starts processes from outside of Python: Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["INTERRUPTED", "run_snakemake", "start_warm_host"]

INTERRUPTED = 128 + signal.SIGINT
"""Exit status of what was stopped from outside."""


def run_snakemake(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> int:
    """Run Snakemake in ``folder`` and return its exit status, 130 if it was interrupted.

    A Ctrl-C reaches Snakemake from the terminal like it reaches this process, which then waits
    for Snakemake to end; SIGTERM is passed on.
    """
    command = [sys.executable, "-m", "snakemake", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=dict(environment or os.environ))
    received: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(number)
        if number == signal.SIGTERM:
            process.terminate()

    # Only the main thread may have handlers; elsewhere signals are not ours to handle.
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if main else ()
    before = [(number, signal.signal(number, pass_on)) for number in numbers]
    try:
        status = process.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
            process.wait()
    if status and (received or status in (-signal.SIGINT, -signal.SIGTERM)):
        return INTERRUPTED
    return 128 - status if status < 0 else status


def start_warm_host(threads: int) -> subprocess.Popen[bytes]:
    """Start a process that forks jobs, see :mod:`snakemake_blocks.warm`.

    Parameters
    ----------
    threads : int
        What numerical libraries are told.
    """
    environment = dict(os.environ)
    for name in ("OMP", "GOTO", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR"):
        environment[f"{name}_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake_blocks.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
