"""Functions of the demo: plain numpy in, plain numpy out."""

import numpy as np
from skimage.color import rgb2hsv
from skimage.filters import gaussian
from skimage.measure import label

# No block has more objects than this, so labels of two blocks never meet by chance.
OBJECTS_PER_BLOCK = 1 << 14


def smooth(raw, sigma):
    """Smooth every channel; the arrays are channels first."""
    return gaussian(raw, sigma=sigma, channel_axis=0)


def segment(smoothed, neighbours, block):
    """Label blue objects, and adopt the labels that finished neighbours gave them."""
    hue, saturation, value = np.moveaxis(rgb2hsv(np.moveaxis(smoothed, 0, -1)), -1, 0)
    blue = (hue > 0.55) & (hue < 0.83) & (saturation > 0.12) & (value > 0)
    objects = label(blue).astype(np.uint32)
    objects[blue] += np.uint32(block.block_id[1] * OBJECTS_PER_BLOCK)
    for mine in np.unique(objects[blue & (neighbours > 0)]):
        here = objects == mine
        objects[here] = neighbours[here & (neighbours > 0)].min()
    return objects
