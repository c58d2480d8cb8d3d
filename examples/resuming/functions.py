"""Functions of the pipeline: arrays in, array out."""

import time

from scipy.ndimage import gaussian_filter


def smooth(raw, sigma):
    """Smooth a volume, slowly enough to be interrupted."""
    time.sleep(0.1)
    return gaussian_filter(raw, sigma=sigma, mode="constant")
