"""Tables of objects by scikit-image, in memory: FOLDER."""

from __future__ import annotations

import sys

import numpy as np
import zarr
from skimage.measure import regionprops_table

NAMES = ("label", "num_pixels", "centroid", "bbox", "intensity_mean", "intensity_std")


def main() -> None:
    """Store the table as numpy's archive."""
    (folder,) = sys.argv[1:]
    labels, image = (
        zarr.open_array(f"{folder}/volume.zarr/{name}", mode="r")[...]
        for name in ("labels", "image")
    )
    dense = labels.astype(np.int64)  # scikit-image takes no unsigned ones of 64 bits
    names = (*NAMES, "intensity_min", "intensity_max")
    found = regionprops_table(dense, image, properties=names, spacing=(2.5, 0.5, 0.5))
    table = {"id": found["label"], "count": found["num_pixels"]}
    for a, axis in enumerate("zyx"):
        table[f"centroid_{axis}"] = found[f"centroid-{a}"]
        table[f"begin_{axis}"], table[f"end_{axis}"] = found[f"bbox-{a}"], found[f"bbox-{a + 3}"]
    table |= {name: values for name, values in found.items() if name.startswith("intensity")}
    np.savez(f"{folder}/skimage.npz", **table)


if __name__ == "__main__":
    main()
