"""All levels below an OME-Zarr image in ngff-zarr: ``pyramid_ngff.py STORE LEVELS CHUNK METHOD``.

The image itself is not written again.
"""

from __future__ import annotations

import sys

import dask
import ngff_zarr


def main() -> None:
    """Do what the command line says."""
    store, levels, chunk, method, workers = sys.argv[1:]
    dask.config.set(scheduler="threads", num_workers=int(workers))
    image = ngff_zarr.from_ngff_zarr(store).images[0]
    made = ngff_zarr.to_multiscales(
        image,
        [2 ** (n + 1) for n in range(int(levels))],
        method=ngff_zarr.Methods(method),
        chunks=int(chunk),
    )
    ngff_zarr.to_ngff_zarr(store, made, overwrite=False, version="0.5", start_level=1)


if __name__ == "__main__":
    main()
