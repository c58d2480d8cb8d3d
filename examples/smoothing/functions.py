"""Functions of the pipeline: arrays in, array out."""

from scipy.ndimage import gaussian_filter


def smooth(raw, sigma):
    """Smooth a volume; outside of what it is given there is nothing, so ends get darker."""
    return gaussian_filter(raw, sigma=sigma, mode="constant")
