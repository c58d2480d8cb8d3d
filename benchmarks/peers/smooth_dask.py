"""Real 3-D Gaussian smoothing, zarr in, zarr out, in dask: ``map_overlap``.

No padding at the border (``boundary="none"``), no lock around writing, as blocks never share a
storage chunk. Scipy's filter releases the interpreter lock, so threads work in parallel. Prints one
JSON line.
"""

from __future__ import annotations

import loads  # isort: skip  (starts the clock)
import dask.array
import numpy as np
import smoothing
import zarr


def main() -> None:
    """Run the load."""
    parser = smoothing.arguments(__doc__)
    parser.add_argument("--scheduler", choices=["processes", "threads"], default="threads")
    options = parser.parse_args()
    load = smoothing.from_options(options)
    load.prepare()

    def run() -> int:
        source = dask.array.from_zarr(zarr.open_array(load.source, mode="r"), chunks=load.block)
        filtered = source.map_overlap(
            smoothing.smoothed,
            depth=load.context,
            boundary="none",
            dtype="float32",
            meta=np.empty((0, 0, 0), "float32"),
            sigma=load.sigma,
        )
        filtered.store(
            zarr.open_array(load.target, mode="r+"),
            lock=False,
            scheduler=options.scheduler,
            num_workers=options.workers,
        )
        return int(filtered.npartitions)

    took = loads.timed(run)
    smoothing.report(
        "dask", load, options, took, ok=took.result == load.blocks, scheduler=options.scheduler
    )


if __name__ == "__main__":
    main()
