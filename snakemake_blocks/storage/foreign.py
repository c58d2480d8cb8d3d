"""Arrays in files of other formats: read wherever an array is read, never written.

Which format it is, is told by the path and by what is there. What a file does not say, or says
wrongly, a pipeline may correct.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.foreign_hdf5 import Hdf5Reader
from snakemake_blocks.storage.foreign_header import (
    Header,
    Reader,
    Source,
    arranged,
    named_axes,
    words,
)
from snakemake_blocks.storage.foreign_npy import NpyReader
from snakemake_blocks.storage.foreign_tensorstore import N5Reader, PrecomputedReader
from snakemake_blocks.storage.foreign_tiff import SeriesReader, TiffReader
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.storage.metadata import is_node, read_metadata
from snakemake_blocks.storage.spatial import Place, PlacedAxis

__all__ = [
    "NONE",
    "Correction",
    "ForeignArray",
    "channels_of",
    "format_meant",
    "is_foreign",
    "open_foreign",
    "reader_of",
    "stored_foreign",
    "zarr_beside",
]

_TIFF = frozenset({".tif", ".tiff", ".btf", ".tf8", ".tf2", ".lsm", ".svs"})
_HDF5 = frozenset({".h5", ".hdf5", ".hdf", ".he5", ".ims"})
_SUFFIXES = {
    "TIFF": _TIFF,
    "HDF5": _HDF5,
    "NumPy": frozenset({".npy"}),
    "N5": frozenset({".n5"}),
    "precomputed": frozenset({".precomputed"}),
}
_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Correction:
    """What a pipeline says of a file that this does not say, or says wrongly.

    Parameters
    ----------
    axes : tuple of str
        Names of all axes in the order of the file; empty: as the file says.
    voxel_size, offset : tuple of Fraction
        Per axis of space in the order in which they are shown; empty: as the file says.
    unit : str
        Of both; empty: as the file says.
    """

    axes: tuple[str, ...] = ()
    voxel_size: tuple[Fraction, ...] = ()
    offset: tuple[Fraction, ...] = ()
    unit: str = ""

    def of_names(self, place: Place) -> Place:
        """Return axes by their right names.

        Raises
        ------
        InputError
            If there are others.
        """
        if not self.axes:
            return place
        if len(self.axes) != len(place.axes):
            raise InputError(
                f"{place.path}: {len(self.axes)} axes are named, it has {len(place.axes)}"
            )
        known = {a.name: a for a in place.axes if a.is_measured and a.name}
        pairs = zip(named_axes(self.axes, {}), place.axes, strict=True)
        return Place(place.path, tuple(_renamed(axis, here, known) for axis, here in pairs))

    def of_sizes(self, place: Place) -> Place:
        """Return axes, which are in the order in which they are shown, with their right sizes.

        Raises
        ------
        InputError
            If sizes of others are given.
        """
        count = sum(axis.is_measured for axis in place.axes)
        for key, given in (("voxel_size", self.voxel_size), ("offset", self.offset)):
            if given and len(given) != count:
                raise InputError(
                    f"{place.path}: {key} has {len(given)} entries for {count} axes of space"
                )
        sizes, offsets = iter(self.voxel_size), iter(self.offset)
        return Place(
            place.path,
            tuple(
                replace(
                    axis,
                    voxel_size=next(sizes, axis.voxel_size),
                    offset=next(offsets, axis.offset),
                    unit=self.unit or axis.unit,
                )
                if axis.is_measured
                else axis
                for axis in place.axes
            ),
        )


NONE = Correction()


def _renamed(axis: PlacedAxis, here: PlacedAxis, known: Mapping[str, PlacedAxis]) -> PlacedAxis:
    """Return a named axis with the sizes of its name, or of its place if that has none."""
    unnamed = here if here.is_measured and not here.name else axis
    return replace(known.get(axis.name, unnamed), name=axis.name) if axis.is_measured else axis


def is_foreign(path: str, folder: Path) -> bool:
    """Tell whether there is a file, or a folder, of another format at a path."""
    return reader_of(path, folder) is not None


def format_meant(path: str) -> str:
    """Return which of the formats that are only read the name of an array means, if one."""
    for part in Path(path).parts:
        suffix = Path(part).suffix.lower()
        if suffix == ".zarr":
            return ""
        for name, known in _SUFFIXES.items():
            if suffix in known:
                return name
    return ""


def zarr_beside(path: str, more: str = "") -> str:
    """Return where what is read from a file of another format could be written as Zarr."""
    parts = Path(path).parts
    end = next((n for n, part in enumerate(parts, 1) if format_meant(part)), len(parts))
    name = parts[end - 1].split(".")[0]
    name = re.sub(r"[*?\[\]]+", "", name).strip("_-") or "stack"
    return Path(*parts[: end - 1], f"{name}{more}.ome.zarr", "0").as_posix()


def reader_of(path: str, folder: Path) -> Reader | None:
    """Return how to read what is at a path; None if that is Zarr, or nothing that is known.

    Raises
    ------
    InputError
        If a pattern matches no file.
    """
    where = folder / path
    if is_node(where):
        return None
    if glob.has_magic(path) and not where.exists():
        return _of_pattern(path, folder)
    file = next((p for p in (where, *where.parents) if p.is_file()), None)
    if file is not None:
        return _of_file(path, file, where.relative_to(file).as_posix().removeprefix("."))
    return _of_folder(path, where)


def _of_pattern(path: str, folder: Path) -> Reader | None:
    if Path(path).suffix.lower() not in _TIFF:
        return None
    files = tuple(glob.glob(path, root_dir=folder))
    if not files:
        raise InputError(f"{path}: no file matches; mend the pattern")
    return SeriesReader(path, files, folder)


def _of_file(path: str, file: Path, inner: str) -> Reader | None:
    suffix = file.suffix.lower()
    if suffix in _TIFF:
        return TiffReader(path, file, inner)
    if suffix == ".npy" and not inner:
        return NpyReader(path, file)
    if suffix in _HDF5 or _begins_with(file, _MAGIC):
        return Hdf5Reader(path, file, inner)
    return None


def _begins_with(file: Path, magic: bytes) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(len(magic)) == magic
    except OSError:
        return False


def _of_folder(path: str, where: Path) -> Reader | None:
    is_in_n5 = any(part.suffix == ".n5" for part in (where, *where.parents))
    if (where / "attributes.json").is_file() or (is_in_n5 and where.is_dir()):
        return N5Reader(path, where)
    if _is_precomputed(where):
        return PrecomputedReader(path, where)
    for parent in where.parents:
        if _is_precomputed(parent):
            key = where.relative_to(parent).as_posix()
            is_scale = not where.is_file() and ".zarr" not in {Path(p).suffix for p in where.parts}
            return PrecomputedReader(path, parent, key) if is_scale else None
        if is_node(parent) or (parent / "attributes.json").is_file():
            return None
    return None


def _is_precomputed(folder: Path) -> bool:
    if not (folder / "info").is_file():
        return False
    try:
        info = read_metadata(folder / "info") or {}
    except InputError:
        return folder.suffix == ".precomputed"
    return "scales" in info or folder.suffix == ".precomputed"


def stored_foreign(
    path: str, folder: Path, *, unit: str = "", correction: Correction = NONE
) -> StoredArray | None:
    """Return an array of another format as it is stored, None if there is none at ``path``.

    Raises
    ------
    InputError
        If it is damaged, or what is to be corrected does not fit it.
    """
    reader = reader_of(path, folder)
    if reader is None:
        return None
    header = reader.header()
    place = correction.of_names(header.place)
    if not any(axis.is_measured for axis in place.axes):
        raise InputError(f"{path}: has no spatial axis")
    order = arranged(place.axes)

    def of(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[axis] for axis in order)

    return StoredArray(
        place=correction.of_sizes(Place(path, of(place.axes))),
        shape=of(header.shape),
        chunks=of(header.chunks),
        dtype=header.dtype,
        unit=unit,
        order=() if order == tuple(range(len(order))) else order,
        format=header.format,
    )


def channels_of(path: str, folder: Path) -> list[dict[str, Any]]:
    """Return what a file calls its channels, in the form of OME-Zarr, nothing if it does not."""
    try:
        reader = reader_of(path, folder)
        header = None if reader is None else reader.header()
    except InputError:
        return []
    return [] if header is None else _omero(header)


_COLORS = ("0000FF", "00FF00", "FF0000", "FF00FF", "00FFFF", "FFFF00")


def _omero(header: Header) -> list[dict[str, Any]]:
    kind = np.dtype(header.dtype)
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if kind.kind in "iu" else (0, 1)
    low, high = int(low), int(high)
    return [
        {
            "label": name or f"channel {number}",
            "color": color or _COLORS[number % len(_COLORS)],
            "active": True,
            "window": {"min": low, "max": high, "start": low, "end": high},
        }
        for number, (name, color) in enumerate(header.channels)
    ]


def open_foreign(path: str, folder: Path, order: Index = ()) -> ForeignArray | None:
    """Return an array of another format, opened; None if there is none at ``path``.

    Parameters
    ----------
    path, folder
        As for :func:`stored_foreign`.
    order : tuple of int
        The axes of the file in the order in which they are shown; empty: that of the file.

    Raises
    ------
    InputError
        If it is damaged.
    """
    reader = reader_of(path, folder)
    if reader is None:
        return None
    header = reader.header()
    return ForeignArray(path, header, order or tuple(range(len(header.shape))), reader)


class ForeignArray:
    """An array in a file of another format: what is wanted of a zarr array to read from it."""

    def __init__(self, path: str, header: Header, order: Index, reader: Reader) -> None:
        self._path, self._order, self._reader = path, order, reader
        self._source: Source | None = None
        self.shape: Index = tuple(header.shape[a] for a in order)
        self.chunks: Index = tuple(header.chunks[a] for a in order)
        self.dtype: np.dtype[Any] = np.dtype(header.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def can_fork(self) -> bool:
        """Whether the process may fork after it has read."""
        return self._reader.can_fork

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """Return a selection by whole numbers and slices, as of a numpy array."""
        given = list(selection) if isinstance(selection, tuple) else [selection]
        if not any(one is Ellipsis for one in given):
            given.append(Ellipsis)
        cut = next(n for n, one in enumerate(given) if one is Ellipsis)
        rest = [slice(None)] * (self.ndim - len(given) + 1)
        every = [*given[:cut], *rest, *given[cut + 1 :]]
        if len(every) != self.ndim:
            raise IndexError(f"too many indices for an array with {self.ndim} axes")
        sides, then = zip(
            *(_span(s, n) for s, n in zip(every, self.shape, strict=True)), strict=True
        )
        box = Box(tuple(b for b, _ in sides), tuple(e for _, e in sides))
        if not box:
            return np.asarray(np.empty(box.shape, self.dtype)[then])
        return np.asarray(self.read(box)[then])

    def read(self, voxels: Box) -> NDArray[Any]:
        """Return the values of some voxels.

        Raises
        ------
        InputError
            With the page, file or part that cannot be read.
        """
        begin, end = [0] * self.ndim, [0] * self.ndim
        for shown, axis in enumerate(self._order):
            begin[axis], end[axis] = voxels.begin[shown], voxels.end[shown]
        box = Box(tuple(begin), tuple(end))
        source = self._source = self._source or self._reader.source()
        try:
            values = source.read(box).transpose(self._order)
        except (MemoryError, InputError):
            raise
        except Exception as error:  # what damaged files raise is anybody's guess
            raise InputError(
                f"{self._path}: {source.part(box)} cannot be read ({words(error)}); restore it"
            ) from error
        return np.ascontiguousarray(values, self.dtype)


def _span(selection: Any, size: int) -> tuple[tuple[int, int], Any]:
    """Return the voxels that a selection along an axis needs, and what to take of these."""
    if isinstance(selection, slice):
        begin, end, step = selection.indices(size)
        if step > 0:
            return (begin, max(begin, end)), slice(None, None, step)
        numbers = range(begin, end, step)
        low, high = (numbers[-1], numbers[0] + 1) if numbers else (0, 0)
        return (low, high), slice(None, None, step)
    index = int(selection)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of bounds for an axis of {size}")
    index %= size
    return (index, index + 1), 0
