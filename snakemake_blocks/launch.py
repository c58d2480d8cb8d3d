"""The only place that starts processes from outside of Python: Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["run_snakemake", "start_warm_host"]


def run_snakemake(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> int:
    """Run Snakemake in ``folder`` and return its exit status.

    A Ctrl-C reaches Snakemake from the terminal like it reaches this process, which then waits
    for Snakemake to end; SIGTERM is passed on.
    """
    command = [sys.executable, "-m", "snakemake", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=dict(environment or os.environ))
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
    }
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.kill()
            process.wait()
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
