"""Arrays on disk: what they are, reading and writing regions.

Straight through zarr: importing funlib.persistence takes seconds per process (dask, pandas,
xarray), and slicing through dask four times as long as through zarr (measured).
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Grid
from snakemake_blocks.storage.foreign import (
    NONE,
    Correction,
    ForeignArray,
    format_meant,
    is_foreign,
    open_foreign,
    stored_foreign,
    zarr_beside,
)
from snakemake_blocks.storage.lattice import Lattice, StoredArray
from snakemake_blocks.storage.metadata import check_metadata, is_array
from snakemake_blocks.storage.multiscales import level_of
from snakemake_blocks.storage.spatial import Place
from snakemake_blocks.system.files import is_writable, may_be_read
from snakemake_blocks.system.location import lost_link
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.borders import Border, inner
from snakemake_blocks.tasks.dtypes import fitted
from snakemake_blocks.tasks.operation import Read

__all__ = [
    "block_presence",
    "chunk_shape",
    "describe",
    "obstacle_to",
    "open_array",
    "read_region",
    "read_stored",
    "stored_array",
    "voxels_of_file",
    "write_region",
    "write_stored",
]

# Chunks of new arrays stay below this, so that one is read and written in milliseconds.
_CHUNK_BYTES = 4 << 20
# Of a mask, read at once; zarr asks for every chunk, be it there or not, which takes a third of a
# millisecond.
_PORTION_VOXELS, _PORTION_CHUNKS = 1 << 24, 256
# Of a mask in memory; and the parts of it that a minute is enough for.
_MOST_AT_ONCE = 256 << 20
_MOST_CELLS = 10**5
# Bytes before a chunk's values in the format of Blosc; the last four say how long the chunk is.
_BLOSC_HEAD = 16


def describe(path: str, folder: Path, *, unit: str = "") -> ArrayInfo | None:
    """Return the geometry and storage of an array by itself, None if there is none at ``path``.

    Where its voxels are no whole world units, voxels are counted, from its begin on.

    Parameters
    ----------
    path, folder, unit
        As for :func:`stored_array`.

    Raises
    ------
    InputError
        As :func:`stored_array`.
    """
    found = stored_array(path, folder, unit=unit)
    return None if found is None else found.info(Lattice.of([found.measured]))


def stored_array(
    path: str, folder: Path, *, unit: str = "", correction: Correction = NONE
) -> StoredArray | None:
    """Return an array as it is stored, None if there is no array at ``path``.

    Parameters
    ----------
    path : str
        Store and name in one, relative to ``folder``.
    folder : Path
        The pipeline's folder.
    unit : str
        Full name of the unit of length that world units are. Arrays that name another unit are
        converted exactly; those that name none are taken to be in it. Without it, every array's
        own numbers are world units.
    correction : Correction
        What a file of another format does not say, or says wrongly.

    Raises
    ------
    InputError
        If there is something at ``path``, but no array whose place in the world is clear.
    """
    found = stored_foreign(path, folder, unit=unit, correction=correction)
    if found is not None:
        _check_kind(found, path)
        return found
    node = _open(path, folder)
    if node is None:
        return None
    _check_kind(node, path)
    shards = getattr(node, "shards", None)
    storage = shards or node.chunks
    if 0 in (*storage, *node.chunks):
        raise InputError(f"{path}: has chunks {list(storage)}, which hold nothing; store it anew")
    return StoredArray(
        place=_place(node, path, folder),
        shape=tuple(map(int, node.shape)),
        chunks=tuple(map(int, storage)),
        dtype=str(node.dtype),
        unit=unit,
        inner=tuple(map(int, node.chunks)) if shards else (),
    )


def _check_kind(node: Any, path: str) -> None:
    """Refuse what is no array of numbers."""
    if np.dtype(node.dtype).kind not in "biufc":
        raise InputError(f"{path}: holds {node.dtype}, not numbers")
    if 0 in node.shape:
        raise InputError(f"{path}: has shape {list(node.shape)}, so it holds nothing")


def _place(node: Any, path: str, folder: Path) -> Place:
    """Return where an array lies: by its own attributes, else by the OME-Zarr group above it."""
    attributes = dict(node.attrs)
    if not any(attributes.get(key) is not None for key in ("offset", "voxel_size", "resolution")):
        level = level_of(path, folder)
        if level is not None:
            return Place.from_level(level, node.ndim, path)
    names = getattr(node.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    named = names if isinstance(names, list | tuple) else ()
    return Place.from_attributes(attributes, node.ndim, path, names=named)


def _open(path: str, folder: Path) -> Any:
    """Return the zarr array at a path, None if there is nothing."""
    import zarr

    where = folder / path
    if not where.exists():
        return None
    _check_metadata(path, folder)
    try:
        node = zarr.open(str(where), mode="r")
    except (FileNotFoundError, NotADirectoryError):
        kind = "folder" if where.is_dir() else "file"
        raise InputError(f"{path}: is a {kind}, not a Zarr array") from None
    except Exception as error:  # what damaged metadata raise is anybody's guess
        raise InputError(f"{path}: cannot be opened ({type(error).__name__}: {error})") from error
    if not isinstance(node, zarr.Array):
        inside = ", ".join(sorted(p.name for p in where.iterdir() if p.is_dir())) or "nothing"
        raise InputError(f"{path}: is a group, not an array; it holds {inside}")
    return node


def _check_metadata(path: str, folder: Path) -> None:
    where = folder / path
    try:
        if where.is_dir():
            check_metadata(where)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def obstacle_to(path: str, folder: Path) -> str:
    """Return what is in the way of an array to be made, empty if nothing is."""
    if known := format_meant(path):
        return f"{path}: {known} is read only; write to Zarr, e.g. {zarr_beside(path)}"
    if (folder / path).exists():
        return f"{path}: something that is no array is there; move it, or write to another path"
    if lost := lost_link(folder / path):
        return f"{path}: {lost}"
    for parent in Path(path).parents:
        where = folder / parent
        if where.is_file():
            return f"{path}: {parent} is a file; choose another path"
        if where.is_dir() and is_foreign(str(parent), folder):
            return f"{path}: {parent} is no Zarr, and only that is written; choose another path"
        if is_array(where):
            return f"{path}: {parent} is an array, and an array holds no other; choose another path"
        problem = _group_problem(where) if where.is_dir() else ""
        if problem:
            return f"{path}: cannot be made, {problem}"
    above = next(p for p in Path(os.path.realpath(folder / path)).parents if p.exists())
    if not is_writable(above):
        return f"{path}: cannot be made, {above} is not ours to write to; choose another path"
    return ""


def _group_problem(where: Path) -> str:
    """Return what is wrong with the metadata of a group, empty if nothing is or it has none."""
    import zarr

    try:
        check_metadata(where)
        if any((where / name).exists() for name in (".zgroup", "zarr.json")):
            zarr.open_group(str(where), mode="r")
    except InputError as error:
        return str(error)
    except Exception as error:  # what damaged metadata raise is anybody's guess
        return f"{where} is no usable group ({type(error).__name__}: {error})"
    return ""


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


def open_array(array: ArrayInfo, folder: Path, *, writable: bool) -> Any:
    """Return the zarr array that a plan names, or what can be read from like one.

    Raises
    ------
    InputError
        If it is missing or is no longer what the plan says.
    """
    import zarr

    foreign = open_foreign(array.path, folder, array.order)
    if foreign is not None:
        if writable:
            raise InputError(f"{array.path}: is no Zarr, and only that is written")
        _check_agrees(foreign, array)
        return foreign
    _check_metadata(array.path, folder)
    try:
        # Empty chunks are stored too, so that `verify` can tell a lost chunk from an empty one.
        # (open_array ignores its own `config` for an array that exists.)
        with zarr.config.set({"array.write_empty_chunks": True}):
            found = zarr.open_array(str(folder / array.path), mode="r+" if writable else "r")
    except FileNotFoundError:
        raise InputError(
            f"{array.path}: is missing; `snakemake-blocks generate` makes declared outputs"
        ) from None
    except Exception as error:  # what damaged metadata raise is anybody's guess
        raise InputError(
            f"{array.path}: cannot be opened ({type(error).__name__}: {error})"
        ) from error
    _check_agrees(found, array)
    return found


def _check_agrees(found: Any, array: ArrayInfo) -> None:
    if tuple(found.shape) != array.full_shape or str(found.dtype) != array.dtype:
        raise InputError(
            f"{array.path}: is {found.dtype}{list(found.shape)}, the plan says "
            f"{array.dtype}{list(array.full_shape)}; plan again"
        )


def read_region(data: Any, read: Read, region: Box) -> NDArray[Any]:
    """Return the voxels of a region as a function gets them, with ``fill`` outside of the array.

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
        If the region reaches outside of the array and no fill is declared, or a chunk cannot be
        read.
    """
    array = read.array
    found = _all_stored(data, read, region)
    return found.squeeze(array.hidden) if array.hidden else found


def _all_stored(data: Any, read: Read, region: Box) -> NDArray[Any]:
    """Return the voxels of a region, all stored axes."""
    array = read.array
    wanted = array.voxels(region)
    inside = wanted.intersect(Box.from_shape(array.shape))
    if inside == wanted:
        return read_stored(data, array, array.stored(inside))
    if read.fill is None:
        raise InputError(
            f"{array.path}: voxels {list(wanted.begin)} to {list(wanted.end)} are read, it has "
            f"{list(array.shape)}; declare a fill"
        )
    if read.border is not None:
        return _continued(data, array, wanted, read.border)
    out = np.full(array.stored(wanted).shape, read.value, dtype=array.dtype)
    if inside:
        place = inside.shift([-b for b in wanted.begin])
        out[array.slices(place)] = read_stored(data, array, array.stored(inside))
    return out


def _continued(data: Any, array: ArrayInfo, wanted: Box, border: Border) -> NDArray[Any]:
    """Return voxels of an array that goes on beyond its ends; each is read once."""
    sides = zip(wanted.begin, wanted.end, array.shape, strict=True)
    seen = [inner(begin, end, size, border) for begin, end, size in sides]
    known, places = zip(*(np.unique(s, return_inverse=True) for s in seen), strict=True)
    runs = [_runs(k) for k in known]  # more than one where it wraps around
    out = np.empty(array.stored(Box.from_shape(tuple(map(len, known)))).shape, array.dtype)
    for part in itertools.product(*runs):
        pairs = list(zip(known, part, strict=True))
        first = tuple(int(k[begin]) for k, (begin, _) in pairs)
        last = tuple(int(k[end - 1]) + 1 for k, (_, end) in pairs)
        begin, end = zip(*part, strict=True)
        here = read_stored(data, array, array.stored(Box(first, last)))
        out[array.slices(Box(begin, end))] = here
    for axis, place in zip(array.places, places, strict=True):
        out = out.take(place.ravel(), axis) if axis >= 0 else out
    return out


def _runs(numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the half-open ranges of positions at which ascending numbers have no gap."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers) > 1) + 1).tolist(), len(numbers)]
    return list(itertools.pairwise(cuts))


def read_stored(data: Any, array: ArrayInfo, voxels: Box) -> NDArray[Any]:
    """Return what is stored in some voxels, of all axes, or say which chunk cannot be read."""
    if isinstance(data, ForeignArray):
        return data.read(voxels)
    _check_chunks(data, array, voxels)
    try:
        _check_ends(data, array, voxels)
        return np.asarray(data[voxels.slices])
    except MemoryError:
        raise
    except Exception as error:  # what damaged chunks raise is anybody's guess
        raise InputError(
            f"{array.path}: {_unreadable(data, array, voxels)} cannot be read "
            f"({_words(error)}); restore it, or have it made anew"
        ) from error


def _words(error: Exception) -> str:
    """Return what a library says of damage, on one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _check_chunks(data: Any, array: ArrayInfo, voxels: Box) -> None:
    """Refuse what no library should open in place of chunks (or shards): pipes, sizes without end.

    Raises
    ------
    InputError
        With the first.
    """
    root = Path(data.store.root)
    most = _most_of_chunk(array, data.dtype.itemsize)
    for chunk in array.files(voxels):
        _check_chunk(root / data.metadata.encode_chunk_key(chunk), most)


def _check_chunk(path: Path, most: int) -> None:
    if not may_be_read(path, most=most):
        raise InputError(f"{path}: is no chunk of this array; restore or remove it")


def _most_of_chunk(array: ArrayInfo, itemsize: int) -> int:
    """Return how many bytes a stored chunk may have: compression seldom makes any larger."""
    return 2 * math.prod(array.chunks) * itemsize + (1 << 20)


def _unreadable(data: Any, array: ArrayInfo, voxels: Box) -> str:
    """Return the first chunk (or shard) in some voxels whose reading fails, by its key."""
    for chunk in array.files(voxels):
        part = voxels_of_file(array, chunk).intersect(voxels)
        try:
            _check_ends(data, array, part)
            data[part.slices]
        except Exception:  # this is the one; the caller raises
            return f"chunk {data.metadata.encode_chunk_key(chunk)}"
    return "a chunk"


def _check_ends(data: Any, array: ArrayInfo, voxels: Box, *, is_kept: bool = True) -> None:
    """Refuse chunks that lack their end, where zarr reads what lies behind them in memory.

    Blosc gets no length of what it is given. With ``is_kept=False`` nothing is asked of chunks of
    which all is in ``voxels``.
    """
    codec = data.compressors[-1] if data.compressors and data.shards is None else None
    if codec is None or not type(codec).__name__.startswith("Blosc"):
        return
    root = os.path.join(data.store.root, data.path)
    for chunk in array.files(voxels):
        inside = voxels_of_file(array, chunk).intersect(Box.from_shape(array.full_shape))
        if not is_kept and voxels.covers(inside):
            continue
        try:
            with open(os.path.join(root, data.metadata.encode_chunk_key(chunk)), "rb") as file:
                head, size = file.read(_BLOSC_HEAD), os.fstat(file.fileno()).st_size
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        stated = int.from_bytes(head[-4:], "little")
        if size < max(stated, _BLOSC_HEAD):
            raise ValueError(f"it ends after {size} of {stated} bytes")


def voxels_of_file(array: ArrayInfo, chunk: Index) -> Box:
    """Return the voxels of a chunk (or shard), all axes."""
    begin = tuple(k * c for k, c in zip(chunk, array.chunks, strict=True))
    return Box(begin, tuple(b + c for b, c in zip(begin, array.chunks, strict=True)))


def write_region(data: Any, array: ArrayInfo, region: Box, values: NDArray[Any]) -> str:
    """Write what a function returned to a region; what lies outside of the array is dropped.

    Returns
    -------
    str
        Of what the array's type cut off fractions, empty if of nothing.

    Raises
    ------
    InputError
        If the array's type cannot hold the values, or a chunk of which they are a part cannot be
        read.
    """
    found, cut = fitted(values, array.dtype, array.path)
    wanted = array.voxels(region)
    inside = wanted.intersect(Box.from_shape(array.shape))
    if inside:
        place = inside.shift([-b for b in wanted.begin])
        values = np.expand_dims(found, array.hidden)[array.slices(place)]
        write_stored(data, array, array.stored(inside), values)
    return cut


def write_stored(data: Any, array: ArrayInfo, here: Box, values: NDArray[Any]) -> None:
    """Write voxels, all stored axes; they are of the array's type, and lie in it.

    Raises
    ------
    InputError
        If a chunk of which they are a part cannot be read.
    """
    _check_chunks(data, array, here)
    try:
        _check_ends(data, array, here, is_kept=False)
        data[here.slices] = values
    except (MemoryError, OSError):
        raise
    except Exception as error:  # what damaged chunks raise is anybody's guess
        raise InputError(
            f"{array.path}: {_unreadable(data, array, here)} holds more "
            f"than is written now, and cannot be read ({_words(error)}); "
            "remove it, then `snakemake-blocks run` makes its blocks anew"
        ) from error


def block_presence(mask: ArrayInfo, grid: Grid, folder: Path) -> NDArray[np.bool_]:
    """Return per block whether a nonzero mask voxel meets its write region in world units.

    Reads about a chunk, or 16 Mi voxels in smaller chunks but not many, at a time, and only where
    chunks are stored: an empty mask of any extent costs nothing.

    Raises
    ------
    InputError
        If chunks are damaged, or one of them fills the memory.
    """
    data = open_array(mask, folder, writable=False)
    if isinstance(data, ForeignArray) and not data.can_fork:
        raise InputError(
            f"{mask.path}: masks in N5 or precomputed volumes cannot be read before anything runs; "
            "make it Zarr with use: convert, in a pipeline of its own"
        )
    if math.prod(data.chunks) * data.dtype.itemsize > _MOST_AT_ONCE:
        raise InputError(
            f"{mask.path}: has chunks of {list(data.chunks)} voxels, a mask's may take "
            f"{_MOST_AT_ONCE >> 20} MiB; store it in smaller ones"
        )
    present = np.zeros(grid.shape, dtype=bool)
    region = grid.write((0,) * grid.ndim).union(grid.write(tuple(n - 1 for n in grid.shape)))
    voxels = mask.voxels(region).intersect(Box.from_shape(mask.shape))
    if not voxels:
        return present
    near = mask.stored(voxels)
    cell = _cell(data)
    if isinstance(data, ForeignArray):
        stored, is_zero = set(_cells(near, cell)), True
    else:
        stored, is_zero = _stored_cells(mask, data, folder, near, cell), not data.fill_value
    for index in sorted(stored) if is_zero else _cells(near, cell):
        begin = tuple(i * c for i, c in zip(index, cell, strict=True))
        end = tuple(b + c for b, c in zip(begin, cell, strict=True))
        part = Box(begin, end).intersect(near)
        _mark(present, mask, grid, part, read_stored(data, mask, part) if index in stored else 1)
    return present


def _cell(data: Any) -> Index:
    """Return how many voxels to read at once per axis: whole chunks."""
    cell = list(data.chunks)
    room = min(_PORTION_CHUNKS, _PORTION_VOXELS // math.prod(cell))
    for axis in reversed(range(data.ndim)):
        many = max(1, min(room, -(-data.shape[axis] // cell[axis])))
        cell[axis] *= many
        room //= many
    return tuple(cell)


def _cells(region: Box, cell: Index) -> Iterable[Index]:
    """Return the indices of the cells that meet a region."""
    ranges = [
        range(b // c, -(-e // c)) for b, e, c in zip(region.begin, region.end, cell, strict=True)
    ]
    if math.prod(map(len, ranges)) > _MOST_CELLS:
        raise InputError("a mask has too many voxels; store it coarser, or with fill value 0")
    return itertools.product(*ranges)


def _stored_cells(mask: ArrayInfo, data: Any, folder: Path, near: Box, cell: Index) -> set[Index]:
    """Return the cells of ``near`` in which a chunk (or shard) is stored."""
    found: set[Index] = set()
    root = folder / mask.path
    most = _most_of_chunk(mask, data.dtype.itemsize)
    for parent, folders, files in os.walk(root):
        for name in (*files, *folders):
            path = os.path.join(parent, name)
            index = tuple(map(int, re.findall(r"[0-9]+", os.path.relpath(path, root))))
            if len(index) != data.ndim or (
                data.metadata.encode_chunk_key(index) != os.path.relpath(path, root)
            ):
                continue
            _check_chunk(Path(path), most)
            begin = tuple(i * c for i, c in zip(index, mask.chunks, strict=True))
            end = tuple(b + c for b, c in zip(begin, mask.chunks, strict=True))
            part = Box(begin, end).intersect(near)
            if part:
                found.update(_cells(part, cell))
    return found


def _mark(
    present: NDArray[np.bool_], mask: ArrayInfo, grid: Grid, part: Box, values: NDArray[Any] | int
) -> None:
    """Mark the blocks that a nonzero voxel of a part of a mask meets; one value stands for all."""
    places = mask.places
    near = Box(*(tuple(0 if p < 0 else side[p] for p in places) for side in (part.begin, part.end)))
    near = Box(near.begin, tuple(1 if p < 0 else e for p, e in zip(places, near.end, strict=True)))
    begin, end = (
        tuple(o + n * v for o, n, v in zip(mask.offset, side, mask.voxel_size, strict=True))
        for side in (near.begin, near.end)
    )
    blocks = grid.writing(Box(begin, end))
    if not blocks:
        return
    here = blocks.slices
    if isinstance(values, int):
        present[here] |= values != 0
        return
    found = np.any(values != 0, axis=tuple(a for a in range(values.ndim) if a not in places))
    if not found.any():
        return
    order = sorted(p for p in places if p >= 0)
    found = found.transpose([order.index(p) for p in places if p >= 0])
    found = np.expand_dims(found, [a for a, p in enumerate(places) if p < 0])
    # Axes with fewer blocks than voxels first: no array on the way is larger than both ends.
    for axis in sorted(range(grid.ndim), key=lambda a: blocks.shape[a] / found.shape[a]):
        low, high = (
            np.clip(x - near.begin[axis], 0, near.shape[axis])
            for x in _voxels_of_blocks(mask, grid, blocks, axis)
        )
        found = _any_between(found, low, high, axis)
    present[here] |= found


def _voxels_of_blocks(
    mask: ArrayInfo, grid: Grid, blocks: Box, axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the half-open ranges of mask voxels that the blocks of a box write, on one axis."""
    offset, size = mask.offset[axis], mask.voxel_size[axis]
    low, high = grid.axes[axis].writes(np.arange(blocks.begin[axis], blocks.end[axis]))
    return (low - offset) // size, -((offset - high) // size)


def _any_between(
    found: NDArray[np.bool_], low: NDArray[np.int64], high: NDArray[np.int64], axis: int
) -> NDArray[np.bool_]:
    """Return along one axis whether anything is true in ``[low, high)``; these may overlap."""
    padded = np.pad(found, [(0, int(a == axis)) for a in range(found.ndim)])
    pairs = np.stack([low, high], axis=1).ravel()
    reduced: NDArray[np.bool_] = np.logical_or.reduceat(padded, pairs, axis=axis)
    reduced = reduced.take(range(0, len(pairs), 2), axis=axis)
    empty = np.expand_dims(low >= high, [a for a in range(found.ndim) if a != axis])
    return reduced & ~empty
