"""Show arrays of a Zarr store side by side: a slice along each of two axes."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import zarr

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", nargs="+", type=Path, help="e.g. sample.zarr/raw")
    parser.add_argument("-o", "--output", type=Path, default=Path("slices.png"))
    asked = parser.parse_args()

    figure, axes = plt.subplots(
        2, len(asked.arrays), figsize=(4 * len(asked.arrays), 5), squeeze=False
    )
    for (xy, xz), path in zip(axes.T, asked.arrays, strict=True):
        volume = zarr.open_array(path, mode="r")
        z, y = volume.shape[0] // 2, volume.shape[1] // 2
        for axis, name, image in (
            (xy, f"XY at z={z}", volume[z]),
            (xz, f"XZ at y={y}", volume[:, y]),
        ):
            axis.imshow(image, cmap="gray", vmin=0, aspect="auto")
            axis.set_title(f"{path.name}, {name}")
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(asked.output, dpi=100)
    print(f"{asked.output}: {', '.join(path.name for path in asked.arrays)}")
