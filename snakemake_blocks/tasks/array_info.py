"""What planning has to know of an array: where it lies in the world, and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.tasks.forms import LARGEST, Check, is_text, list_of, unfit_key, whole

__all__ = ["ArrayInfo", "is_array_form"]


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Geometry and storage of an array; channel axes lead, spatial axes follow.

    Parameters
    ----------
    path : str
        Store and name in one, relative to the pipeline's folder, e.g. ``sample.zarr/raw``.
    offset, voxel_size : tuple of int
        World units, one per spatial axis.
    shape : tuple of int
        Voxels, spatial axes only.
    channels : tuple of int
        Extents of the leading channel axes, ``()`` when there is none.
    dtype : str
        numpy name.
    chunks : tuple of int
        Voxels that one file of the store holds (the shard where there are shards), all axes.
    units : tuple of str
        Physical unit per spatial axis, empty strings where unknown.
    exists : bool
        False for an array that has still to be created.
    origin : ArrayInfo, optional
        The existing array from which one to be created takes voxel size and units.
    """

    path: str
    offset: Index
    voxel_size: Index
    shape: Index
    channels: Index
    dtype: str
    chunks: Index
    units: tuple[str, ...] = ()
    exists: bool = True
    origin: ArrayInfo | None = field(default=None, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.voxel_size)

    @property
    def roi(self) -> Box:
        """The region that the array covers, in world units."""
        end = (o + v * n for o, v, n in zip(self.offset, self.voxel_size, self.shape, strict=True))
        return Box(self.offset, tuple(end))

    @property
    def full_shape(self) -> Index:
        """Shape in voxels, channels first."""
        return self.channels + self.shape

    @property
    def itemsize(self) -> int:
        """Bytes per voxel, all channels together."""
        return int(np.dtype(self.dtype).itemsize) * math.prod(self.channels)

    def voxels(self, region: Box) -> Box:
        """Return the voxels that ``region`` touches; they may lie outside of the array.

        Exact where the region is a multiple of the voxel size, otherwise rounded outward.
        """
        per_axis = list(zip(region.begin, region.end, self.offset, self.voxel_size, strict=True))
        return Box(
            tuple((b - o) // v for b, _, o, v in per_axis),
            tuple(-((o - e) // v) for _, e, o, v in per_axis),
        )

    def slices(self, voxels: Box) -> tuple[slice, ...]:
        """Return what selects voxels in the array, all channels of them."""
        return (slice(None),) * len(self.channels) + voxels.slices

    def slices_in(self, part: Box, whole: Box) -> tuple[slice, ...]:
        """Return what selects a region in the values of one around it, both in world units."""
        voxels = self.voxels(part).shift([-b for b in self.voxels(whole).begin])
        return self.slices(voxels)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping, the inverse of :meth:`from_json`.

        ``exists`` and ``origin`` are left out: they hold at the moment of planning.
        """
        data = asdict(self)
        del data["exists"], data["origin"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArrayInfo:
        """Return the array described by :meth:`to_json`."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        return cls(**plain)


def _is_dtype(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.dtype(value).kind in "biufc"
    except (TypeError, ValueError, SyntaxError):
        return False


_KEYS: Mapping[str, Check] = {
    "path": is_text,
    "offset": list_of(whole(-LARGEST)),
    "voxel_size": list_of(whole(1)),
    "shape": list_of(whole(1)),
    "channels": list_of(whole(1)),
    "dtype": _is_dtype,
    "chunks": list_of(whole(1)),
    "units": list_of(is_text),
}


def is_array_form(value: Any) -> bool:
    """Tell whether what JSON gave describes an array as :meth:`ArrayInfo.to_json` does."""
    if unfit_key(value, _KEYS) is not None:
        return False
    lengths = {len(value[key]) for key in ("offset", "voxel_size", "shape")}
    axes = len(value["shape"]) + len(value["channels"])
    return len(lengths) == 1 and len(value["chunks"]) == axes
