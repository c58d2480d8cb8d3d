"""Opens an OME-Zarr image with the libraries that viewers use; prints what each sees, as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any


def validated(path: str) -> list[str]:
    """Return which kinds of metadata the reference models find in a store; they may not warn."""
    import zarr
    from ome_zarr_models import open_ome_zarr

    root = zarr.open_group(path, mode="r")
    groups = [root, *(g for _, g in root.members(max_depth=None) if isinstance(g, zarr.Group))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [type(open_ome_zarr(g)).__name__ for g in groups if dict(g.attrs)]
    return sorted(found)


def nodes(path: str) -> list[dict[str, Any]]:
    """Return what ome-zarr-py reads: images and their labels, level by level."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    found = []
    for node in Reader(parse_url(path))():
        if node.data:
            transforms = node.metadata["coordinateTransformations"]
            found.append(
                {
                    "name": node.metadata["name"],
                    "shapes": [list(level.shape) for level in node.data],
                    "axes": [axis["name"] for axis in node.metadata["axes"]],
                    "units": [axis.get("unit", "") for axis in node.metadata["axes"]],
                    "scales": [t[0]["scale"] for t in transforms],
                    "channels": node.metadata.get("channel_names", []),
                }
            )
    return found


def layers(path: str) -> list[dict[str, Any]]:
    """Return the layers that napari's reader of OME-Zarr makes."""
    from napari_ome_zarr import napari_get_reader

    found = []
    for data, more, kind in napari_get_reader(path)(path):
        levels = data if isinstance(data, list) else [data]
        found.append(
            {
                "kind": kind,
                "shapes": [list(level.shape) for level in levels],
                "scale": [float(n) for n in more["scale"]],
                "units": [str(unit) for unit in more.get("units", ())],
                "sum": int(levels[-1].sum().compute()),
            }
        )
    return found


def variables(path: str) -> dict[str, int]:
    """Return dimensions and sizes of the coarsest level by xarray."""
    import xarray
    import zarr

    *others, last = sorted(name for name, _ in zarr.open_group(path, mode="r").arrays())
    opened = xarray.open_zarr(path, drop_variables=others, consolidated=False)
    return {str(dim): int(n) for dim, n in opened[last].sizes.items()}


if __name__ == "__main__":
    asked = {"validated": validated, "nodes": nodes, "layers": layers, "variables": variables}
    print(json.dumps({name: asked[name](sys.argv[1]) for name in sys.argv[2:]}))
