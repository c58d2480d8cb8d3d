"""Smoothing an image while half of all attempts fail, as in daisy's tutorial; for daisy and for us.

The function imports what it needs inside, as functions in notebooks do: a worker that is replaced
after a failure pays for these imports again.
"""

from __future__ import annotations

from typing import Any

BLOCK, CONTEXT = 64, 10
SIDE = 512
"""Voxels of the image per axis: 64 blocks."""


def prepare(store: str) -> None:
    """Write the image with channels first, and an array of zeros for the result."""
    import numpy as np
    from funlib.persistence import prepare_ds
    from skimage import data

    image = data.astronaut().transpose(2, 0, 1).astype(np.float32) / 255.0
    for name in ("raw", "smoothed"):
        array = prepare_ds(
            f"{store}/{name}",
            shape=image.shape,
            voxel_size=(1, 1),
            axis_names=["c^", "y", "x"],
            chunk_shape=(3, BLOCK, BLOCK),
            dtype=np.float32,
            mode="w",
        )
        if name == "raw":
            array[:] = image


def smooth(block: Any, store: str) -> None:
    """Smooth one block, or fail."""
    import random

    from funlib.persistence import Array, open_ds
    from skimage import filters

    if random.random() < 0.5:
        raise ValueError("half of all attempts fail")
    raw = open_ds(f"{store}/raw", "r")
    smoothed = filters.gaussian(
        raw.to_ndarray(block.read_roi, fill_value=0), sigma=5.0, channel_axis=0
    )
    around = Array(smoothed, block.read_roi.offset, (1, 1), axis_names=["c^", "y", "x"])
    target = open_ds(f"{store}/smoothed", "a")
    target[block.write_roi] = around.to_ndarray(block.write_roi)


def blocks_done(store: str) -> int:
    """Return how many blocks of the result were stored: the image is nowhere black as a whole."""
    from funlib.persistence import open_ds

    result = open_ds(f"{store}/smoothed", "r")[:]
    n = SIDE // BLOCK
    parts = result.reshape(3, n, BLOCK, n, BLOCK)
    return int(parts.any(axis=(0, 2, 4)).sum())
