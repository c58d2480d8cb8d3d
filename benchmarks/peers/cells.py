"""A volume of cells: Voronoi's cells with gaps between them, and an image of noise.

A cubic tile is made once and repeated, each time with cells of other numbers, so that as many as
are wanted are there in seconds.
"""

from __future__ import annotations

import numpy as np

TILE = 128
SEEDS = 1563  # of a tile: 10^5 in 512^3


def tile() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each voxel of a tile its cell, 0 for none, in which tile that is, and the image."""
    from scipy.spatial import cKDTree

    random = np.random.default_rng(0)
    seeds = random.random((SEEDS, 3)) * TILE
    voxels = np.indices((TILE,) * 3).reshape(3, -1).T.astype(float)
    distances, cells = cKDTree(seeds, boxsize=TILE).query(voxels, 2)
    shift = np.rint((voxels - seeds[cells[:, 0]]) / TILE).astype(int)
    found = np.where(distances[:, 1] - distances[:, 0] > 0.7, cells[:, 0] + 1, 0)
    image = random.integers(0, 4096, (TILE,) * 3, np.uint16)
    return found.reshape((TILE,) * 3), shift.T.reshape((3, *(TILE,) * 3)), image


def make(folder: str, side: int) -> int:
    """Store ``labels`` and ``image`` of ``side``^3 voxels; return the number of cells."""
    import zarr

    cells, shift, image = tile()
    count = -(-side // TILE)
    arrays = {
        name: zarr.create_array(
            f"{folder}/volume.zarr/{name}",
            shape=(side,) * 3,
            chunks=(TILE,) * 3,
            dtype=dtype,
            attributes={
                "axis_names": ["z", "y", "x"],
                "resolution": [2.5, 0.5, 0.5],
                "translation": [0, 0, 0],
                "units": ["micrometer"] * 3,
            },
        )
        for name, dtype in (("labels", "uint64"), ("image", "uint16"))
    }
    seen: set[int] = set()
    for index in np.ndindex((count,) * 3):
        tiles = np.ravel_multi_index(
            [k + shift[a] + 1 for a, k in enumerate(index)], (count + 2,) * 3
        )
        ids = np.where(cells > 0, tiles * SEEDS + cells, 0).astype(np.uint64)
        at = tuple(slice(k * TILE, min(side, (k + 1) * TILE)) for k in index)
        part = tuple(slice(0, s.stop - s.start) for s in at)
        arrays["labels"][at], arrays["image"][at] = ids[part], image[part]
        seen.update(np.unique(ids[part]).tolist())
    return len(seen - {0})
