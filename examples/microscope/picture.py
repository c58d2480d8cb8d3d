"""Draw a plane and the projection of the image, with the outlines of the nuclei that were found."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import zarr
from skimage.segmentation import mark_boundaries

image = zarr.open_array("nuclei.ome.zarr/0", mode="r")[...]
labels = zarr.open_array("nuclei.ome.zarr/labels/nuclei/0", mode="r")[...]
small = zarr.open_array("nuclei.ome.zarr/labels/nuclei/2", mode="r")[...]
shown = np.clip(image / np.percentile(image, 99.8), 0, 1)
colours = np.random.default_rng(1).permutation(np.linspace(0, 1, int(labels.max()) + 1))


def coloured(plane):
    """Return labels as colours; each object has its own."""
    return np.where(plane[..., None] > 0, plt.cm.turbo(colours[plane])[..., :3], 0)


figure, axes = plt.subplots(1, 4, figsize=(16, 4.4), layout="constrained")
z = len(image) // 2
axes[0].imshow(shown.max(0), cmap="gray")
axes[0].set_title("largest values along z")
axes[1].imshow(mark_boundaries(shown[z], labels[z].astype(int), color=(1, 0.8, 0)))
axes[1].set_title(f"plane {z}, outlines of nuclei")
axes[2].imshow(coloured(labels[z]))
axes[2].axhline(127.5, color="white", linewidth=0.5)  # where blocks end
axes[2].axvline(127.5, color="white", linewidth=0.5)
axes[2].set_title(f"{len(np.unique(labels)) - 1} nuclei across blocks")
axes[3].imshow(coloured(small[len(small) // 2]))
axes[3].set_title("level 2 of the labels")
for axis in axes:
    axis.set_axis_off()
figure.savefig("nuclei.png", dpi=80)
