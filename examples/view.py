"""Show arrays of a Zarr store in Neuroglancer: pip install neuroglancer."""

import argparse
from pathlib import Path

import neuroglancer
import zarr

AXES = ["z", "y", "x"]


def layer_of(path):
    """Return an array as an image layer, in its world units."""
    array = zarr.open_array(path, mode="r")
    space = neuroglancer.CoordinateSpace(names=AXES, units="nm", scales=array.attrs["voxel_size"])
    offset = [o // v for o, v in zip(array.attrs["offset"], array.attrs["voxel_size"], strict=True)]
    return neuroglancer.ImageLayer(
        source=neuroglancer.LocalVolume(array, dimensions=space, voxel_offset=offset)
    )


def viewer_of(paths):
    """Return a viewer with one layer per array."""
    viewer = neuroglancer.Viewer()
    with viewer.txn() as state:
        for path in paths:
            state.layers[path.name] = layer_of(path)
        state.layout = "4panel"
    return viewer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", nargs="+", type=Path, help="e.g. sample.zarr/raw")
    print(viewer_of(parser.parse_args().arrays))
    input("Enter ends it: ")
