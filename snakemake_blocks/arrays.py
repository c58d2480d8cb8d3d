"""Arrays on disk: what they are, making missing ones, reading and writing regions.

Metadata follow funlib.persistence (``offset``, ``voxel_size`` or ``resolution``, ``axis_names``,
``units``, ``types`` as attributes), and funlib.persistence makes the new arrays. Metadata and
regions are read straight through zarr: importing funlib.persistence takes seconds per process
(dask, pandas, xarray), and slicing through dask four times as long as through zarr (measured).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.box import Box, Index
from snakemake_blocks.errors import InputError
from snakemake_blocks.task import Read
from snakemake_blocks.tiling import Grid

__all__ = [
    "block_presence",
    "chunk_shape",
    "create",
    "describe",
    "missing_chunks",
    "open_array",
    "read_region",
    "write_region",
]

# Chunks of new arrays stay below this, so that one is read and written in milliseconds.
_CHUNK_BYTES = 4 << 20


def describe(path: str, folder: Path) -> ArrayInfo | None:
    """Return the geometry and storage of an array, None if there is no array at ``path``.

    Parameters
    ----------
    path : str
        Store and name in one, relative to ``folder``.
    folder : Path
        The pipeline's folder.

    Raises
    ------
    InputError
        If there is something at ``path``, but no array whose place in the world is clear.
    """
    import zarr

    where = folder / path
    if not where.exists():
        return None
    try:
        node = zarr.open(str(where), mode="r")
    except FileNotFoundError:
        return None
    if not isinstance(node, zarr.Array):
        raise InputError(f"{path}: is a group, not an array; name one of {sorted(node.keys())}")
    attributes = dict(node.attrs)
    spatial = _spatial_axes(attributes, node.ndim, path)
    if not spatial:
        raise InputError(f"{path}: has no spatial axis")
    if spatial != list(range(node.ndim - len(spatial), node.ndim)):
        raise InputError(
            f"{path}: channel axes have to lead, spatial axes are {spatial} of {node.ndim}; "
            "store the array transposed"
        )
    count = len(spatial)
    storage = getattr(node, "shards", None) or node.chunks
    return ArrayInfo(
        path=path,
        offset=_integers(attributes.get("offset"), count, 0, f"{path}: offset"),
        voxel_size=_voxel_size(attributes, count, path),
        shape=tuple(int(n) for n in node.shape[-count:]),
        channels=tuple(int(n) for n in node.shape[:-count]),
        dtype=str(node.dtype),
        chunks=tuple(int(n) for n in storage),
        units=tuple(str(u) for u in _last(attributes.get("units"), count, "")),
    )


def _spatial_axes(attributes: Mapping[str, Any], ndim: int, path: str) -> list[int]:
    """Return which axes are spatial, by ``types``, ``axis_names`` or the length of the rest."""
    types = attributes.get("types")
    names = attributes.get("axis_names")
    if types is None and names is not None:
        types = ["channel" if str(n).endswith("^") else "space" for n in names]
    if types is not None:
        if len(types) != ndim:
            raise InputError(f"{path}: names {len(types)} axes and has {ndim}")
        return [a for a, t in enumerate(types) if t in ("space", "time")]
    for key in ("voxel_size", "resolution", "offset"):
        value = attributes.get(key)
        if value is not None:
            return list(range(ndim - len(value), ndim))
    return list(range(ndim))


def _voxel_size(attributes: Mapping[str, Any], count: int, path: str) -> Index:
    value = attributes.get("voxel_size", attributes.get("resolution"))
    sizes = _integers(value, count, 1, f"{path}: voxel size")
    if any(v <= 0 for v in sizes):
        raise InputError(f"{path}: voxel size {list(sizes)} is not positive")
    return sizes


def _last(value: Any, count: int, default: Any) -> list[Any]:
    """Return the entries of the last ``count`` axes; channels may be listed before them."""
    if value is None:
        return [default] * count
    return list(value)[-count:]


def _integers(value: Any, count: int, default: int, place: str) -> Index:
    numbers = _last(value, count, default)
    if len(numbers) != count:
        raise InputError(f"{place} {value} has {len(numbers)} entries for {count} spatial axes")
    exact = [Fraction(str(n)) for n in numbers]
    if any(n.denominator != 1 for n in exact):
        raise InputError(
            f"{place} {value} is not whole; world units are integers, "
            "store it in a smaller unit (nm for um)"
        )
    return tuple(int(n) for n in exact)


def chunk_shape(block: Sequence[int], *, itemsize: int) -> Index:
    """Return chunks that divide a block, below 4 MiB where the block's divisors allow.

    Parameters
    ----------
    block : sequence of int
        Voxels of a block per spatial axis.
    itemsize : int
        Bytes per voxel, all channels together.
    """
    chunk = list(block)
    while math.prod(chunk) * itemsize > _CHUNK_BYTES:
        axis = max(range(len(chunk)), key=lambda a: (chunk[a], -a))
        if chunk[axis] == 1:
            break
        factor = next(
            (p for p in range(2, math.isqrt(chunk[axis]) + 1) if chunk[axis] % p == 0),
            chunk[axis],
        )
        chunk[axis] //= factor
    return tuple(chunk)


def create(array: ArrayInfo, folder: Path) -> None:
    """Make an array that a task declares to write and that does not exist yet.

    Raises
    ------
    InputError
        If something that is no array is in the way.
    """
    from funlib.geometry import Coordinate
    from funlib.persistence import prepare_ds

    if (folder / array.path).exists():
        raise InputError(f"{array.path}: is in the way of the array to be made; move it")
    names = [f"c{i}" for i in range(len(array.channels))]
    names += ["tzyx"[-array.ndim :][a] if array.ndim <= 4 else f"d{a}" for a in range(array.ndim)]
    prepare_ds(
        str(folder / array.path),
        shape=array.full_shape,
        offset=Coordinate(array.offset),
        voxel_size=Coordinate(array.voxel_size),
        axis_names=names,
        units=list(array.units) or [""] * array.ndim,
        types=["channel"] * len(array.channels) + ["space"] * array.ndim,
        chunk_shape=array.chunks,
        dtype=np.dtype(array.dtype),
        mode="w-",
        zarr_format=_format_of_store(folder / array.path),
    )


def _format_of_store(path: Path) -> int:
    """Return the Zarr format of the store around ``path``; a new store becomes a group of v3."""
    import zarr

    for parent in path.parents:
        if (parent / ".zgroup").exists():
            return 2
        if (parent / "zarr.json").exists():
            return 3
        if parent.suffix == ".zarr":
            zarr.open_group(str(parent), mode="a", zarr_format=3)
            return 3
    return 3


def open_array(array: ArrayInfo, folder: Path, *, writable: bool) -> Any:
    """Return the zarr array that a plan names.

    Raises
    ------
    InputError
        If it is missing or is no longer what the plan says.
    """
    import zarr

    try:
        # Empty chunks are stored too, so that `verify` can tell a lost chunk from an empty one.
        found = zarr.open_array(
            str(folder / array.path),
            mode="r+" if writable else "r",
            config={"write_empty_chunks": True},
        )
    except FileNotFoundError:
        raise InputError(
            f"{array.path}: is missing; `snakemake-blocks generate` makes declared outputs"
        ) from None
    if tuple(found.shape) != array.full_shape or str(found.dtype) != array.dtype:
        raise InputError(
            f"{array.path}: is {found.dtype}{list(found.shape)}, the plan says "
            f"{array.dtype}{list(array.full_shape)}; plan again"
        )
    return found


def missing_chunks(array: ArrayInfo, folder: Path, regions: Iterable[Box]) -> tuple[list[str], int]:
    """Return the keys of chunks (or shards) that are not stored, and how many were looked for.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    folder : Path
        The pipeline's folder.
    regions : iterable of Box
        What was written, in world units.
    """
    data = open_array(array, folder, writable=False)
    lead = len(array.channels)
    wanted: set[Index] = set()
    for region in regions:
        voxels = array.voxels(region).intersect(Box.from_shape(array.shape))
        if voxels:
            full = Box((0,) * lead + voxels.begin, array.channels + voxels.end)
            low = (b // c for b, c in zip(full.begin, array.chunks, strict=True))
            high = (-(-e // c) for e, c in zip(full.end, array.chunks, strict=True))
            wanted.update(Box(tuple(low), tuple(high)))
    keys = (data.metadata.encode_chunk_key(chunk) for chunk in sorted(wanted))
    lost = [key for key in keys if not (folder / array.path / key).exists()]
    return lost, len(wanted)


def read_region(data: Any, read: Read, region: Box) -> NDArray[Any]:
    """Return the voxels of a region, channels first; ``fill`` outside of the array.

    Parameters
    ----------
    data : zarr.Array
        What :func:`open_array` returned.
    read : Read
        The declaration.
    region : Box
        World units, a multiple of the voxel size.

    Raises
    ------
    InputError
        If the region reaches outside of the array and no fill is declared.
    """
    array = read.array
    wanted = array.voxels(region)
    inside = wanted.intersect(Box.from_shape(array.shape))
    if inside == wanted:
        return np.asarray(data[_slices(array, inside)])
    if read.fill is None:
        raise InputError(
            f"{array.path}: read {list(region.begin)} to {list(region.end)} reaches outside of "
            f"the array, {list(array.roi.begin)} to {list(array.roi.end)}; declare a fill"
        )
    out = np.full(array.channels + wanted.shape, read.fill, dtype=array.dtype)
    if inside:
        place = inside.shift([-b for b in wanted.begin])
        out[_slices(array, place)] = data[_slices(array, inside)]
    return out


def write_region(data: Any, array: ArrayInfo, region: Box, values: NDArray[Any]) -> None:
    """Write voxels to a region, channels first; what lies outside of the array is dropped."""
    wanted = array.voxels(region)
    inside = wanted.intersect(Box.from_shape(array.shape))
    if inside:
        place = inside.shift([-b for b in wanted.begin])
        data[_slices(array, inside)] = values[_slices(array, place)]


def _slices(array: ArrayInfo, voxels: Box) -> tuple[slice, ...]:
    lead = (slice(None),) * len(array.channels)
    return lead + tuple(slice(b, e) for b, e in zip(voxels.begin, voxels.end, strict=True))


def block_presence(mask: ArrayInfo, grid: Grid, folder: Path) -> NDArray[np.bool_]:
    """Return per block whether a nonzero mask voxel meets its write region in world units.

    Reads the mask once, slab by slab along the first axis.
    """
    data = open_array(mask, folder, writable=False)
    present = np.zeros(grid.shape, dtype=bool)
    for k in range(grid.shape[0]):
        slab = grid.write((k, *(0,) * (grid.ndim - 1))).union(
            grid.write((k, *(n - 1 for n in grid.shape[1:])))
        )
        voxels = mask.voxels(slab).intersect(Box.from_shape(mask.shape))
        if not voxels:
            continue
        found = np.any(data[_slices(mask, voxels)] != 0, axis=tuple(range(len(mask.channels) + 1)))
        for axis in range(1, grid.ndim):
            found = _any_per_block(found, voxels.begin[axis], mask, grid, axis)
        present[k] = found
    return present


def _any_per_block(
    found: NDArray[np.bool_], begin: int, mask: ArrayInfo, grid: Grid, axis: int
) -> NDArray[np.bool_]:
    """Reduce one spatial axis of ``found`` from voxels (from ``begin`` on) to blocks."""
    steps = grid.axes[axis]
    low = steps.begin + np.arange(len(steps)) * steps.step - mask.offset[axis]
    high = np.minimum(low + steps.step, steps.end - mask.offset[axis])
    size = mask.voxel_size[axis]
    where = axis - 1
    count = np.concatenate(
        [
            np.zeros_like(found.take([0], where), dtype=np.int64),
            np.cumsum(found, where, dtype=np.int64),
        ],
        axis=where,
    )
    first = np.clip(low // size - begin, 0, found.shape[where])
    last = np.clip(-(-high // size) - begin, 0, found.shape[where])
    reduced: NDArray[np.bool_] = count.take(last, where) > count.take(first, where)
    return reduced
