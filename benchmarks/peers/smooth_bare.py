"""Real 3-D Gaussian smoothing with nothing but a pool of processes: the limit for every peer.

No state, no retries, no dependencies. With ``--no-io`` the workers filter memory of the right
shapes and neither read nor write: the compute-bound limit. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import multiprocessing
from typing import Any

import loads  # isort: skip  (starts the clock)
import numpy as np
import smoothing
import zarr


class Worker:
    """What one process holds: the arrays, opened once."""

    load: smoothing.Smoothing
    source: Any
    target: Any

    @classmethod
    def start(cls, load: smoothing.Smoothing) -> None:
        """Open the arrays."""
        cls.load = load
        cls.source = zarr.open_array(load.source, mode="r")
        cls.target = zarr.open_array(load.target, mode="r+")

    @classmethod
    def smooth(cls, begin: tuple[int, ...]) -> None:
        """Read, filter and write one block."""
        cls.load.smooth(cls.source, cls.target, begin)

    @classmethod
    def compute(cls, begin: tuple[int, ...]) -> None:
        """Filter as much as one block reads."""
        shape = [part.stop - part.start for part in cls.load.read_slices(begin)]
        smoothing.smoothed(np.ones(shape, "float32"), sigma=cls.load.sigma)


def main() -> None:
    """Run the load."""
    parser = smoothing.arguments(__doc__)
    parser.add_argument("--io", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.digest and not options.io:
        parser.error("without io there is no output to digest")
    load = smoothing.from_options(options)
    load.prepare()

    def run() -> int:
        work = Worker.smooth if options.io else Worker.compute
        context = multiprocessing.get_context("spawn")
        with context.Pool(options.workers, Worker.start, (load,)) as pool:
            return sum(1 for _ in pool.imap_unordered(work, load.begins()))

    took = loads.timed(run)
    smoothing.report("zarr", load, options, took, ok=took.result == load.blocks, io=options.io)


if __name__ == "__main__":
    main()
