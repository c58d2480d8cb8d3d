"""What planning has to know of an array: where it lies in the world, and how it is stored.

Axes along which blocks are cut are *tiled*: the spatial ones, and those that a pipeline names sizes
of. All others are *channels*, read and written whole, or one index of them where that is selected.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.tasks.forms import LARGEST, Check, is_text, list_of, unfit_key, whole

__all__ = ["EVERYWHERE", "ArrayInfo", "Compressor", "Making", "is_array_form"]

EVERYWHERE = 2**50
"""Where an axis ends that an array does not have: it is one voxel, from minus that on."""

T = TypeVar("T")


class Compressor(StrEnum):
    """How the chunks of a new array are compressed."""

    AUTO = "auto"
    """As others in the store are, else as zarr does by itself."""
    NONE = "none"
    BLOSC = "blosc"
    GZIP = "gzip"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class Making:
    """What an array to be created is told beside its geometry.

    Parameters
    ----------
    voxel_size, offset : tuple of Fraction
        Where it lies, exactly, in its units; per tiled axis.
    counted : tuple of bool
        Which tiled axes have no place in the world, such as time.
    names : tuple of str
        Of all stored axes, empty where not known.
    inner : tuple of int
        Voxels per chunk inside of a shard, all stored axes; empty without shards.
    compressor : Compressor
        How chunks are compressed.
    zarr_format : int
        Of a store that is not there yet; 0 as its store, or zarr, does by itself.
    ome : bool
        Whether it is a level of an image in a store that need not be called ``*.ome.zarr``.
    """

    voxel_size: tuple[Fraction, ...] = ()
    offset: tuple[Fraction, ...] = ()
    counted: tuple[bool, ...] = ()
    names: tuple[str, ...] = ()
    inner: Index = ()
    compressor: Compressor = Compressor.AUTO
    zarr_format: int = 0
    ome: bool = False


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """Geometry and storage of an array as a task sees it.

    Parameters
    ----------
    path : str
        Store and name in one, relative to the pipeline's folder, e.g. ``sample.zarr/raw``.
    offset, voxel_size : tuple of int
        World units, one per tiled axis.
    shape : tuple of int
        Voxels, tiled axes only.
    channels : tuple of int
        Extents of all other stored axes, ``()`` when there is none.
    dtype : str
        numpy name.
    chunks : tuple of int
        Voxels that one file of the store holds (the shard where there are shards), all stored axes.
    units : tuple of str
        Physical unit per tiled axis, empty strings where unknown.
    axes : tuple of int
        Which of the stored axes each tiled one is, -1 for one that the array does not have: it is
        one voxel long there, as long as whatever is cut. Empty where the last ones are tiled, as
        usual.
    select : tuple of (int, int)
        Stored axes, and the one index of each that is read or written; a function does not see
        them.
    order : tuple of int
        Of a file of another format than Zarr, its axes in the order in which they count as stored;
        empty if that is its own.
    exists : bool
        False for an array that has still to be created.
    origin : ArrayInfo, optional
        The existing array from which one to be created takes voxel size and units.
    making : Making, optional
        What an array to be created is told beside.
    """

    path: str
    offset: Index
    voxel_size: Index
    shape: Index
    channels: Index
    dtype: str
    chunks: Index
    units: tuple[str, ...] = ()
    axes: Index = ()
    select: tuple[tuple[int, int], ...] = ()
    order: Index = ()
    exists: bool = True
    origin: ArrayInfo | None = field(default=None, compare=False, repr=False)
    making: Making | None = field(default=None, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """Number of tiled axes."""
        return len(self.voxel_size)

    @property
    def roi(self) -> Box:
        """The region that the array covers, in world units."""
        end = (o + v * n for o, v, n in zip(self.offset, self.voxel_size, self.shape, strict=True))
        return Box(self.offset, tuple(end))

    @classmethod
    def opened(
        cls, path: str, shape: Index, chunks: Index, dtype: str, *, exists: bool
    ) -> ArrayInfo:
        """Return an array as a task sees it that runs once: whole, and cut nowhere."""
        return cls(
            path=path,
            offset=(-EVERYWHERE,),
            voxel_size=(2 * EVERYWHERE,),
            shape=(1,),
            channels=shape,
            dtype=dtype,
            chunks=chunks,
            units=("",),
            axes=(-1,),
            exists=exists,
        )

    @property
    def places(self) -> Index:
        """Which stored axis each tiled one is, -1 for those that are not stored."""
        lead = len(self.channels)
        return self.axes or tuple(range(lead, lead + self.ndim))

    def laid_out(self, tiled: Sequence[T], channels: Sequence[T]) -> tuple[T, ...]:
        """Return a value per stored axis from those of the tiled axes and of the others."""
        stored = {place: tiled[a] for a, place in enumerate(self.places) if place >= 0}
        rest = iter(channels)
        return tuple(
            stored[axis] if axis in stored else next(rest)
            for axis in range(len(stored) + len(channels))
        )

    @property
    def full_shape(self) -> Index:
        """Shape in voxels of all stored axes."""
        return self.laid_out(self.shape, self.channels)

    @property
    def itemsize(self) -> int:
        """Bytes per voxel, all channels together that a task sees."""
        seen = self.stored(Box((0,) * self.ndim, (1,) * self.ndim)).size
        return int(np.dtype(self.dtype).itemsize) * seen

    @property
    def steps(self) -> Index:
        """World units between voxels, 1 along axes that the array does not have."""
        pairs = zip(self.places, self.voxel_size, strict=True)
        return tuple(1 if place < 0 else size for place, size in pairs)

    def tile_chunk(self, axis: int) -> int:
        """Return how many voxels one file holds along a tiled axis."""
        place = self.places[axis]
        return 1 if place < 0 else self.chunks[place]

    def voxels(self, region: Box) -> Box:
        """Return the voxels that ``region`` touches; they may lie outside of the array.

        Exact where the region is a multiple of the voxel size, otherwise rounded outward.
        """
        per_axis = list(zip(region.begin, region.end, self.offset, self.voxel_size, strict=True))
        return Box(
            tuple((b - o) // v for b, _, o, v in per_axis),
            tuple(-((o - e) // v) for _, e, o, v in per_axis),
        )

    def stored(self, voxels: Box) -> Box:
        """Return where voxels are stored, all axes: every channel, or the one that is selected."""
        begin, end = [0] * len(self.channels), list(self.channels)
        channel_axes = [a for a in range(len(self.full_shape)) if a not in self.places]
        for axis, index in self.select:
            begin[channel_axes.index(axis)] = index
            end[channel_axes.index(axis)] = index + 1
        return Box(self.laid_out(voxels.begin, begin), self.laid_out(voxels.end, end))

    def files(self, stored: Box) -> Box:
        """Return the indices of the files (chunks, or shards) that hold some voxels, all axes."""
        sides = zip(stored.begin, stored.end, self.chunks, strict=True)
        low, high = zip(*((b // c, -(-e // c)) for b, e, c in sides), strict=True)
        return Box(low, high)

    def values_shape(self, voxels: Box) -> Index:
        """Return the shape of the values of voxels as a function gets and returns them."""
        return tuple(
            n for a, n in enumerate(self.stored(voxels).shape) if a not in dict(self.select)
        )

    def agrees_with(self, other: ArrayInfo) -> bool:
        """Tell whether both describe one array alike, whatever of it each sees."""
        mine, theirs = (
            {p: (a.offset[n], a.voxel_size[n]) for n, p in enumerate(a.places) if p >= 0}
            for a in (self, other)
        )
        stored = ((a.full_shape, a.chunks, a.dtype) for a in (self, other))
        return len(set(stored)) == 1 and all(
            mine[axis] == theirs[axis] for axis in mine.keys() & theirs.keys()
        )

    def meets(self, other: ArrayInfo) -> bool:
        """Tell whether both are one array, and no axis is at different indices."""
        mine, theirs = dict(self.select), dict(other.select)
        return posixpath.normpath(self.path) == posixpath.normpath(other.path) and all(
            mine[axis] == theirs[axis] for axis in mine.keys() & theirs.keys()
        )

    def shares_files(self, other: ArrayInfo) -> bool:
        """Tell whether files of one array may hold voxels of both."""
        mine, theirs = dict(self.select), dict(other.select)
        return posixpath.normpath(self.path) == posixpath.normpath(other.path) and all(
            mine[axis] // self.chunks[axis] == theirs[axis] // self.chunks[axis]
            for axis in mine.keys() & theirs.keys()
        )

    @property
    def view(self) -> dict[str, Any]:
        """What of the stored axes a task sees, where that is not as usual."""
        return {key: list(value) for key in _NEWER if (value := getattr(self, key))}

    @property
    def hidden(self) -> Index:
        """The stored axes that a function does not see."""
        return tuple(axis for axis, _ in self.select)

    @property
    def seen_channels(self) -> Index:
        """Extents of the other axes that a function sees."""
        tiled = {*self.places, *self.hidden}
        return tuple(n for axis, n in enumerate(self.full_shape) if axis not in tiled)

    @property
    def seen_places(self) -> Index:
        """Which axis of what a function sees each tiled one is, -1 for those that lack."""
        seen = [axis for axis in range(len(self.full_shape)) if axis not in self.hidden]
        return tuple(-1 if place < 0 else seen.index(place) for place in self.places)

    def slices(self, voxels: Box) -> tuple[slice, ...]:
        """Return what selects voxels in values of all stored axes, whatever the channel."""
        return self.laid_out(voxels.slices, (slice(None),) * len(self.channels))

    def slices_in(self, part: Box, whole: Box) -> tuple[slice, ...]:
        """Return what selects a region in the values that a function has of one around it.

        Both in world units.
        """
        voxels = self.voxels(part).shift([-b for b in self.voxels(whole).begin])
        found = self.slices(voxels)
        return tuple(s for a, s in enumerate(found) if a not in self.hidden)

    def with_counted_as_channels(self) -> ArrayInfo:
        """Return an array to be created without the cuts along axes that have no place."""
        if self.making is None or not any(self.making.counted):
            return self
        kept = [a for a, counted in enumerate(self.making.counted) if not counted]

        def of(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[a] for a in kept) if values else values

        making = replace(
            self.making,
            voxel_size=of(self.making.voxel_size),
            offset=of(self.making.offset),
            counted=(),
        )
        origin = self.origin and replace(self.origin, making=self.making)
        places = of(self.places)
        shape = self.full_shape
        return replace(
            self,
            offset=of(self.offset),
            voxel_size=of(self.voxel_size),
            shape=of(self.shape),
            channels=tuple(n for axis, n in enumerate(shape) if axis not in places),
            units=of(self.units),
            axes=places,
            select=(),
            origin=origin and replace(origin.with_counted_as_channels(), making=None),
            making=making,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping, the inverse of :meth:`from_json`.

        ``exists``, ``origin`` and ``making`` are left out: they hold at the moment of planning.
        """
        names = [f.name for f in fields(self) if f.name not in _NOT_KEPT]
        data = {name: getattr(self, name) for name in names}
        return {n: v for n, v in data.items() if v or n not in _NEWER}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArrayInfo:
        """Return the array described by :meth:`to_json`."""
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
        }
        if "select" in plain:
            plain["select"] = tuple(map(tuple, plain["select"]))
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
_NEWER: Mapping[str, Check] = {
    "axes": list_of(whole(-1)),
    "select": list_of(list_of(whole(0))),
    "order": list_of(whole(0)),
}
_NOT_KEPT = frozenset({"exists", "origin", "making"})


def is_array_form(value: Any) -> bool:
    """Tell whether what JSON gave describes an array as :meth:`ArrayInfo.to_json` does."""
    if unfit_key(value, _KEYS, _NEWER) is not None:
        return False
    lengths = {len(value[key]) for key in ("offset", "voxel_size", "shape")}
    tiled, channels = len(value["shape"]), len(value["channels"])
    places = value.get("axes") or list(range(channels, channels + tiled))
    kept = [place for place in places if place >= 0]
    count = len(kept) + channels
    if len(lengths) != 1 or len(places) != tiled or len(value["chunks"]) != count:
        return False
    if len(set(kept)) < len(kept) or any(place >= count for place in kept):
        return False
    sizes = iter(value["channels"])
    sides = {axis: next(sizes) for axis in range(count) if axis not in kept}
    if sorted(value.get("order", range(count))) != list(range(count)):
        return False
    selected = value.get("select", [])
    if any(len(pair) != 2 or pair[1] >= sides.get(pair[0], 0) for pair in selected):
        return False
    return len({axis for axis, _ in selected}) == len(selected)
