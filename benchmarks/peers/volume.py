"""The input of the smoothing load, and the fingerprint of its output.

``python volume.py FILE.zarr`` makes the volume; the scripts make it themselves if it is not there.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import zarr

SEED = 20240229
SIZE = 768
CHUNK = 64


def make(path: Path, *, size: int = SIZE, chunk: int = CHUNK, seed: int = SEED) -> Any:
    """Return the volume at ``path``, made if it is not there or another one.

    A float32 cube of whole numbers in [0, 256), as a microscope gives them, so that it compresses
    as such data do; the same values for the same size, chunk and seed.
    """
    identity = {"size": size, "chunk": chunk, "seed": seed, "complete": True}
    if path.exists():
        volume = zarr.open_array(path, mode="r")
        if dict(volume.attrs) == identity:
            return volume
    volume = create(path, size=size, chunk=chunk)
    for begin in range(0, size, chunk):
        rows = min(chunk, size - begin)
        values = np.random.default_rng([seed, begin]).integers(
            0, 256, (rows, size, size), dtype="uint8"
        )
        volume[begin : begin + rows] = values.astype("float32")
    volume.attrs.update(identity)
    return zarr.open_array(path, mode="r")


def create(path: Path, *, size: int, chunk: int) -> Any:
    """Return a new float32 cube, in zarr's own default format and compression."""
    return zarr.create_array(
        path, shape=(size,) * 3, chunks=(chunk,) * 3, dtype="float32", overwrite=True
    )


def digest(path: Path) -> str:
    """Return a SHA-256 over all values, in order; a slab of chunks in memory at a time."""
    volume = zarr.open_array(path, mode="r")
    total = hashlib.sha256()
    for begin in range(0, volume.shape[0], volume.chunks[0]):
        total.update(np.asarray(volume[begin : begin + volume.chunks[0]]).tobytes())
    return total.hexdigest()


def main() -> None:
    """Make the volume."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    make(options.path, size=options.size, chunk=options.chunk, seed=options.seed)


if __name__ == "__main__":
    main()
