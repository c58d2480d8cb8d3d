"""What is particular to this image: the rest are operations."""

import numpy as np
from scipy import ndimage

from snakemake_blocks.operations.watershed import basins


def denoise(raw):
    """Smooth a block."""
    return ndimage.gaussian_filter(raw.astype(np.float32), 2)


def segment(smooth):
    """Label the nuclei that are seen: what is bright, parted where it is narrow."""
    return basins(mask=smooth > 8000, by_distance=True, min_distance=18)
