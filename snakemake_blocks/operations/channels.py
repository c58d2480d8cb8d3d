"""What operations have to know of several arrays that a block sees: channels, and one raster."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.spec.operation_form import Frame, OperationModel
from snakemake_blocks.storage.multiscales import omero_of
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["as_seen", "channel_names", "channels_first", "column_names", "lie_alike"]


def channels_first(values: NDArray[Any], places: Sequence[int]) -> NDArray[Any]:
    """Return what a block sees of an array with one leading axis of all channels.

    Parameters
    ----------
    values : ndarray
        As a function gets it.
    places : sequence of int
        Which of its axes each axis is along which blocks are cut, -1 for those that it lacks.

    Returns
    -------
    ndarray
        One voxel long along axes that the array lacks; a view where that can be.
    """
    there = [place for place in places if place >= 0]
    channels = [axis for axis in range(values.ndim) if axis not in there]
    found = values.transpose([*channels, *there])
    found = found.reshape((-1, *found.shape[len(channels) :]))
    lacking = tuple(1 + axis for axis, place in enumerate(places) if place < 0)
    return np.expand_dims(found, lacking)


def as_seen(found: NDArray[Any], shape: Sequence[int], places: Sequence[int]) -> NDArray[Any]:
    """Return what :func:`channels_first` made of values, as these are.

    Parameters
    ----------
    found : ndarray
        With one leading axis of all channels.
    shape : sequence of int
        Of the values.
    places : sequence of int
        As there.
    """
    there = [place for place in places if place >= 0]
    order = [*(axis for axis in range(len(shape)) if axis not in there), *there]
    return found.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def column_names(names: Sequence[str]) -> list[str]:
    """Return names that columns can end with: those given, or numbers where they will not do."""
    found = [re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") for name in names]
    if all(found) and len(set(map(str.lower, found))) == len(found):
        return found
    return [str(number) for number in range(len(names))]


def channel_names(frame: Frame, path: str, array: ArrayInfo) -> list[str]:
    """Return what the channels of an array are called, in the order of :func:`channels_first`.

    By OME-Zarr's metadata where they name them, else by numbers; an empty one if there are none.
    """
    extents = array.seen_channels
    if len(extents) == 1:
        channels = omero_of(path, frame.folder).get("channels")
        known = channels if isinstance(channels, list) and len(channels) == extents[0] else []
        labels = [c.get("label") if isinstance(c, dict) else None for c in known]
        return column_names([str(n or "") for n in labels] or [""] * extents[0])
    return ["_".join(map(str, index)) for index in itertools.product(*map(range, extents))]


def lie_alike(frame: Frame, model: OperationModel, *, main: str) -> bool:
    """Tell whether all arrays have the voxels of one; of the first other a problem is noted."""
    one = frame.seen[main]
    for name, other in frame.seen.items():
        if getattr(model.reads[name], "context", None) is not None:
            frame.say(f"reads.{name}.context", f"has no meaning for {model.use}; remove it")
            return False
        sides = zip(other.places, one.offset, one.voxel_size, other.offset, strict=True)
        apart = [(o - p) % v for place, o, v, p in sides if place >= 0]
        sizes = zip(other.places, one.voxel_size, other.voxel_size, strict=True)
        if any(apart) or any(v != w for place, v, w in sizes if place >= 0):
            text = f"{other.path} has not the voxels of {one.path}; give an array that has"
            frame.say(f"reads.{name}", text)
            return False
    return True
