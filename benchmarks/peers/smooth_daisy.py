"""Real 3-D Gaussian smoothing, zarr in, zarr out, in daisy.

Each worker opens the arrays once and then asks for blocks, as daisy's documentation advises where
setting up costs. Runs in an environment with daisy 1.2.3 or 2.0.0 and prints one JSON line.
"""

from __future__ import annotations

import loads  # isort: skip  (starts the clock)
import daisy
import smoothing
import zarr
from daisy_peer import quiet, run, task


def main() -> None:
    """Run the load."""
    options = smoothing.arguments(__doc__).parse_args()
    load = smoothing.from_options(options)
    load.prepare()

    def worker() -> None:
        source = zarr.open_array(load.source, mode="r")
        target = zarr.open_array(load.target, mode="r+")
        client = daisy.Client()
        while True:
            with client.acquire_block() as block:
                if block is None:
                    break
                load.smooth(source, target, tuple(block.write_roi.begin))

    with quiet():
        smooth = task(
            "smooth",
            ((-load.context,) * 3, (load.size + 2 * load.context,) * 3),
            ((-load.context,) * 3, (load.block + 2 * load.context,) * 3),
            ((0,) * 3, (load.block,) * 3),
            worker,
            read_write_conflict=False,
            workers=options.workers,
        )
        took = loads.timed(lambda: run([smooth]))
    smoothing.report("daisy", load, options, took, ok=took.result)


if __name__ == "__main__":
    main()
