"""The loads that every peer gets: the same tilings, the same timing, the same report.

Standard library only, so that it can be imported in any peer's environment and by our own
benchmarks. Import it first: the clock of ``total_seconds`` starts with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

STARTED = time.perf_counter()

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Offset and shape."""

WRITE = 8
"""Write size of a block that does nothing, per axis."""
CONTEXT = 2
"""Context of a block with neighbours; below ``WRITE``, so a conflict makes 8 phases in 3-D."""


@dataclass(frozen=True, slots=True)
class Cube:
    """A cubic 3-D tiling of blocks that do nothing.

    Parameters
    ----------
    blocks : int
        Number of blocks; a cube of an integer.
    context : int
        What a block reads beyond what it writes, on either side of every axis.

    Raises
    ------
    ValueError
        If ``blocks`` is not a cube.
    """

    blocks: int
    context: int = CONTEXT

    def __post_init__(self) -> None:
        if self.side**3 != self.blocks:
            raise ValueError(f"{self.blocks} blocks are no cube; take one such as {self.side**3}")

    @property
    def side(self) -> int:
        """Blocks per axis."""
        side: int = round(self.blocks ** (1 / 3))
        return side

    @property
    def total(self) -> Box:
        """What all blocks read."""
        return (-self.context,) * 3, (self.side * WRITE + 2 * self.context,) * 3

    @property
    def read(self) -> Box:
        """What the first block reads."""
        return (-self.context,) * 3, (WRITE + 2 * self.context,) * 3

    @property
    def write(self) -> Box:
        """What the first block writes."""
        return (0,) * 3, (WRITE,) * 3


def arguments(doc: str | None, *, blocks: int | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options that every load has."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    if blocks is not None:
        parser.add_argument(
            "--blocks", type=int, default=blocks, help=f"a cube (default: {blocks})"
        )
    return parser


@dataclass(frozen=True, slots=True)
class Timed:
    """What some work returned, and when.

    Parameters
    ----------
    result : Any
        Its return value.
    before : float
        Seconds from the start of this module to the start of the work: imports and preparation.
    seconds : float
        Wall seconds of the work.
    cpu : float
        Processor seconds of the work, ended child processes included.
    """

    result: Any
    before: float
    seconds: float
    cpu: float


def timed(work: Callable[[], Any]) -> Timed:
    """Return what ``work`` returns and the wall and processor seconds it took."""
    cpu = sum(os.times()[:4])
    begin = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - begin
    return Timed(result, begin - STARTED, seconds, sum(os.times()[:4]) - cpu)


def report(peer: str, load: str, took: Timed, *, ok: bool, blocks: int, **more: Any) -> None:
    """Print one JSON line about a finished load and exit, with 1 if it went wrong.

    ``seconds`` is what the peer's own call took, ``before_seconds`` imports and preparation,
    ``cpu_seconds`` the processor time of that call in all processes, ``peak_mb`` the largest
    resident size of this process and ``worker_peak_mb`` that of its largest child.
    """
    line = {
        "load": load,
        "peer": peer,
        "version": version(peer),
        "python": platform.python_version(),
        "blocks": blocks,
        "seconds": round(took.seconds, 3),
        "before_seconds": round(took.before, 3),
        "blocks_per_second": round(blocks / took.seconds, 1),
        "ok": ok,
        "cpu_seconds": round(took.cpu, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "worker_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        **more,
    }
    print(json.dumps(line), flush=True)
    sys.exit(0 if ok else 1)
