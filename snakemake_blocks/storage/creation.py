"""Making an array that a task writes, as its store keeps arrays.

Format, separator of chunk keys, compression and order are those of an array beside it, else of
another one in the store, else zarr's own. The array appears last, by its name, with everything that
the groups say of it: who is killed before leaves what the next one makes anew.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.arrays import obstacle_to
from snakemake_blocks.storage.groups import Group, arrays_in, enter, groups_around, groups_in
from snakemake_blocks.storage.image_groups import unlisted_levels
from snakemake_blocks.storage.images import axis_names, is_ome, list_level
from snakemake_blocks.system.location import dangling_link, make_target
from snakemake_blocks.tasks.array_info import ArrayInfo, Compressor, Making

__all__ = ["create", "create_all"]

# Another array's codec is taken only if it gives back every value: labels made like an image that
# is stored as JPEG would be others after reading.
_LOSSLESS = frozenset({"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "crc32c"})
_DIMENSIONS = "_ARRAY_DIMENSIONS"


def create_all(arrays: Iterable[ArrayInfo], folder: Path) -> Iterator[str]:
    """Make arrays, those of labels after those of the images that they are of.

    Yields
    ------
    str
        What there is to say of one that viewers will not find.

    Raises
    ------
    InputError
        As :func:`create`.
    """
    missing = {array.path: array for array in arrays}
    for path in sorted(missing, key=lambda path: "labels" in Path(path).parts):
        create(missing[path], folder)
    yield from unlisted_levels(missing, folder)


def create(array: ArrayInfo, folder: Path) -> None:
    """Make an array that a task declares to write and that does not exist yet.

    Parameters
    ----------
    array : ArrayInfo
        What to make.
    folder : Path
        The pipeline's folder.

    Raises
    ------
    InputError
        If something that is no array is in the way.
    """
    import zarr

    array = array.with_counted_as_channels()
    making = array.making or Making()
    obstacle = obstacle_to(array.path, folder)
    if obstacle:
        raise InputError(obstacle)
    where = folder / array.path
    if dangling_link(where) == where:
        where = Path(os.path.realpath(where))
    make_target(where)
    # By a link one gets into the middle of a store, or from a store to another disk.
    where = max(where, Path(os.path.realpath(where)), key=lambda path: len(groups_around(path)))
    groups = groups_around(where)
    if making.zarr_format:
        groups = tuple(group.as_format(making.zarr_format) for group in groups)
    temporary = where.with_name(f".{where.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    ways = _ways_of_store(array, groups, making.zarr_format)
    for group in groups:
        group.make()
    names = _names(array, folder, groups)
    zarr.create_array(
        str(temporary),
        shape=array.full_shape,
        chunks=making.inner or array.chunks,
        shards=array.chunks if making.inner else None,
        dtype=np.dtype(array.dtype),
        attributes=_attributes(array, names, zarr_format=ways.zarr_format),
        dimension_names=names if ways.zarr_format == 3 else None,
        **ways.arguments(len(array.full_shape), making.compressor),
    )
    list_level(array, folder, groups)
    enter(groups, where, temporary)
    temporary.rename(where)


def _attributes(array: ArrayInfo, names: Sequence[str], *, zarr_format: int) -> dict[str, Any]:
    """Return where the array lies, as funlib.persistence writes it.

    It knows whole numbers only, and takes others for 0: these are called otherwise, so that it
    opens the array in voxels.
    """
    dimensions = {_DIMENSIONS: list(names)} if zarr_format == 2 else {}
    making = array.making or Making()
    offset = _numbers(making.offset or tuple(map(Fraction, array.offset)))
    sizes = _numbers(making.voxel_size or tuple(map(Fraction, array.voxel_size)))
    whole = all(isinstance(n, int) for n in offset + sizes)
    return {
        "offset" if whole else "translation": offset,
        "voxel_size" if whole else "resolution": sizes,
        "axis_names": list(names),
        "units": list(array.units) or [""] * array.ndim,
        "types": ["channel"] * len(array.channels) + ["space"] * array.ndim,
        **dimensions,
    }


def _numbers(values: Sequence[Fraction]) -> list[int | float]:
    return [int(v) if v.denominator == 1 else float(v) for v in values]


@dataclass(frozen=True, slots=True)
class _Ways:
    """How the arrays of a store are stored.

    Parameters
    ----------
    zarr_format : int
        2 or 3.
    keys : mapping of str to str
        Name and separator of the encoding of chunk keys; empty for zarr's own.
    compressors : tuple, optional
        None for zarr's own.
    is_reversed : bool
        Whether the first axis is the fastest.
    fill : 0 or None
        Version 2 may leave it out; xarray would take every 0 for a missing value else.
    """

    zarr_format: int
    keys: Mapping[str, str] = field(default_factory=dict)
    compressors: tuple[Any, ...] | None = None
    is_reversed: bool = False
    fill: int | None = 0

    @classmethod
    def from_array(cls, node: Any) -> _Ways:
        """Return how a zarr array is stored."""
        metadata, compressors = node.metadata, _lossless(node.compressors)
        if metadata.zarr_format == 2:
            keys = {"name": "v2", "separator": metadata.dimension_separator}
            fill = None if metadata.fill_value is None else 0
            return cls(2, keys, compressors, metadata.order == "F", fill)
        encoding = metadata.chunk_key_encoding
        keys = {"name": encoding.name, "separator": encoding.separator}
        return cls(3, keys, compressors, any(map(_reverses, node.filters)))

    def arguments(self, ndim: int, compressor: Compressor) -> dict[str, Any]:
        """Return what zarr.create_array has to be told."""
        from zarr.codecs import TransposeCodec

        found: dict[str, Any] = {"zarr_format": self.zarr_format, "fill_value": self.fill}
        if self.keys:
            found["chunk_key_encoding"] = dict(self.keys)
        if compressor is not Compressor.AUTO:
            found["compressors"] = _codec(compressor, self.zarr_format)
        elif self.compressors is not None:
            found["compressors"] = self.compressors or None
        if self.is_reversed and self.zarr_format == 2:
            found["order"] = "F"
        elif self.is_reversed:
            found["filters"] = [TransposeCodec(order=tuple(reversed(range(ndim))))]
        return found


def _codec(compressor: Compressor, zarr_format: int) -> Any:
    """Return what zarr calls a compression of this name, at its usual level."""
    from zarr import codecs

    if compressor is Compressor.NONE:
        return None
    if zarr_format == 2:
        return {"id": str(compressor)}
    kinds = {
        Compressor.BLOSC: codecs.BloscCodec,
        Compressor.GZIP: codecs.GzipCodec,
        Compressor.ZSTD: codecs.ZstdCodec,
    }
    return kinds[compressor]()


def _lossless(codecs: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return codecs for another type of numbers, None if they might change values."""
    from zarr.codecs import BloscCodec

    found = []
    for codec in codecs:
        name = getattr(codec, "codec_id", None) or codec.to_dict()["name"]
        if name.removeprefix("numcodecs.") not in _LOSSLESS:
            return None
        if isinstance(codec, BloscCodec):  # without the size of the other's numbers
            kept = {k: getattr(codec, k) for k in ("cname", "clevel", "shuffle", "blocksize")}
            codec = BloscCodec(**kept)
        found.append(codec)
    return tuple(found)


def _reverses(codec: Any) -> bool:
    order = tuple(getattr(codec, "order", ()))
    return len(order) > 1 and order == tuple(reversed(range(len(order))))


def _ways_of_store(array: ArrayInfo, groups: Sequence[Group], zarr_format: int) -> _Ways:
    """Return how a new array is to be stored: the groups know the format, other arrays the rest."""
    import zarr

    zarr_format = groups[-1].zarr_format if groups else zarr_format or 3
    found = _Ways(zarr_format)
    path = _like(array, groups)
    if path is not None:
        other = _Ways.from_array(zarr.open_array(str(path), mode="r"))
        found = other if other.zarr_format == zarr_format else found
    if not is_ome(array, groups):
        return found
    keys = {"name": "v2" if zarr_format == 2 else "default", "separator": "/"}
    return _Ways(zarr_format, keys, found.compressors, found.is_reversed, found.fill)


def _like(array: ArrayInfo, groups: Sequence[Group]) -> Path | None:
    """Return the array of the store to be like: the nearest, best one with as many axes."""
    for group in reversed(groups):
        for arrays in _by_group(group.where):
            usable = [path for path in arrays if _ndim(path) > 0]
            if usable:
                return min(usable, key=lambda path: abs(_ndim(path) - len(array.full_shape)))
    return None


def _by_group(where: Path) -> Iterator[list[Path]]:
    """Yield the arrays in a group, then those in the groups below it."""
    yield list(arrays_in(where))
    for below in groups_in(where):
        yield from _by_group(below)


def _ndim(path: Path) -> int:
    """Return the number of axes of a stored array, 0 if it cannot be read."""
    return len(_dimensions(path))


def _dimensions(path: Path) -> dict[int, tuple[str, int]]:
    """Return name (empty for none) and size per axis, nothing for what cannot be read."""
    import zarr

    try:
        node = zarr.open_array(str(path), mode="r")
    except Exception:  # what damaged metadata raise is anybody's guess; others tell the ways
        return {}
    given = getattr(node.metadata, "dimension_names", None) or node.attrs.get(_DIMENSIONS)
    names = [n or "" for n in given] if isinstance(given, list | tuple) else []
    pairs = itertools.zip_longest(names[: node.ndim], node.shape, fillvalue="")
    return {axis: (str(name), int(size)) for axis, (name, size) in enumerate(pairs)}


def _names(array: ArrayInfo, folder: Path, groups: Sequence[Group]) -> list[str]:
    """Return what the axes are called: as by the image, or so that xarray can open the group."""
    image = axis_names(array, folder, groups)
    if image:
        return list(image)
    names = _usual_names(array)
    like = _like(array, groups[-1:])
    for path in filter(None, (like, folder / array.origin.path if array.origin else None)):
        given = _dimensions(path)
        for axis in range(1, array.ndim + 1):
            names[-axis] = given.get(len(given) - axis, ("", 0))[0] or names[-axis]
        if len(given) == len(names):
            names = [given[axis][0] or name for axis, name in enumerate(names)]
    declared = array.making.names if array.making else ()
    names = [own or name for own, name in itertools.zip_longest(declared, names)]
    return _unambiguous(names, array, groups)


def _usual_names(array: ArrayInfo) -> list[str]:
    names = [f"c{i}" for i in range(len(array.channels))]
    few = array.ndim <= 4
    return names + ["tzyx"[-array.ndim :][a] if few else f"d{a}" for a in range(array.ndim)]


def _unambiguous(names: Sequence[str], array: ArrayInfo, groups: Sequence[Group]) -> list[str]:
    """Return names that mean one size in the group: xarray opens none where one means two."""
    own = Path(array.path).name
    sizes = {own: -1} if len(names) > 1 else {}
    for path in arrays_in(groups[-1].where) if groups else ():
        sizes.update(_dimensions(path).values())
    found: list[str] = []
    for axis, (name, size) in enumerate(zip(names, array.full_shape, strict=True)):
        taken = sizes.get(name, size) != size or name in found or _lies_elsewhere(array, axis)
        found.append(f"{name}_{own}" if taken else name)
    return found


def _lies_elsewhere(array: ArrayInfo, axis: int) -> bool:
    """Tell whether an array has another place along an axis than the one it was made from."""
    space, origin = axis - len(array.channels), array.origin
    if space < 0 or origin is None or origin.ndim != array.ndim:
        return False
    if Path(origin.path).parent != Path(array.path).parent:
        return False
    places = ((a.offset[space], a.voxel_size[space]) for a in (array, origin))
    return len(set(places)) > 1
