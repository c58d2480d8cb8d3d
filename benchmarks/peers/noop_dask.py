"""Blocks that do nothing, in dask: what a block costs.

One task per block, as a bag with one partition per block: less overhead than delayed functions, and
its multiprocessing scheduler less than that of ``dask.distributed``. Dask computes values that are
never changed, so there is no load with conflicts. Prints one JSON line.
"""

from __future__ import annotations

import loads  # isort: skip  (starts the clock)
import dask.bag

CHUNKSIZE = 64
"""Tasks handed to a process at a time; dask's default of 6 is slower for short tasks."""


def nothing(block: int) -> None:
    """Do nothing."""


def main() -> None:
    """Run the load."""
    parser = loads.arguments(__doc__, blocks=8000)
    parser.add_argument("--scheduler", choices=["processes", "threads"], default="processes")
    options = parser.parse_args()

    def run() -> int:
        bag = dask.bag.from_sequence(range(options.blocks), npartitions=options.blocks)
        done = bag.map(nothing).compute(
            scheduler=options.scheduler, num_workers=options.workers, chunksize=CHUNKSIZE
        )
        return len(done)

    took = loads.timed(run)
    loads.report(
        "dask",
        "noop",
        took,
        ok=took.result == options.blocks,
        blocks=options.blocks,
        workers=options.workers,
        conflict=False,
        scheduler=options.scheduler,
    )


if __name__ == "__main__":
    main()
