"""Datasets of HDF5, as ``file.h5/group/dataset``.

Axes are named as ilastik (``axistags``), funlib.persistence (``axis_names``), or HDF5's own labels
of dimensions do it. Voxel sizes are those of funlib.persistence, or ``element_size_um``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.storage.foreign_header import (
    Header,
    check_regular,
    library,
    named_axes,
    native,
    rows,
    words,
)
from snakemake_blocks.storage.spatial import Place
from snakemake_blocks.tasks.units import exact

__all__ = ["Hdf5Reader"]

_LISTED = 10
_GEOMETRY = ("offset", "translation", "voxel_size", "resolution", "axis_names", "units", "types")


@dataclass(frozen=True, slots=True)
class Hdf5Reader:
    """A dataset.

    Parameters
    ----------
    path : str
        What it is called, file and dataset in one.
    file : Path
        Where the file is.
    name : str
        The dataset in it.
    """

    path: str
    file: Path
    name: str
    can_fork: bool = True

    def header(self) -> Header:
        """Return what the file says."""
        try:
            with self._opened() as file:
                return self._header(self._dataset(file))
        except InputError:
            raise
        except Exception as error:  # what damaged files raise is anybody's guess
            raise InputError(f"{self.path}: cannot be read ({words(error)}); restore it") from error

    def source(self) -> _Hdf5Source:
        """Open it."""
        return _Hdf5Source(self.name, self._dataset(self._opened()))

    def _opened(self) -> Any:
        h5py = library("h5py", self.path)
        check_regular(self.file)
        try:
            return h5py.File(self.file, "r", locking="best-effort")
        except OSError as error:
            raise InputError(
                f"{self.path}: {self.file.name} is no HDF5 file, or is damaged ({words(error)}); "
                "restore it"
            ) from None

    def _dataset(self, file: Any) -> Any:
        h5py = library("h5py", self.path)
        known = list(_datasets(file, h5py))
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        inside = f"it holds {', '.join(known[:_LISTED]) or 'no dataset'}{more}"
        if not self.name or self.name not in file:
            what = f"no dataset {self.name}" if self.name else "many datasets, name one"
            raise InputError(f"{self.path}: there is {what}; {inside}")
        found = file[self.name]
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"{self.path}: is a group, not a dataset; {inside}")
        if found.shape is None or not found.shape:
            raise InputError(f"{self.path}: is a single value, not an array")
        for problem in _problems(found, h5py, self.file.parent):
            raise InputError(f"{self.path}: {problem}")
        return found

    def _header(self, dataset: Any) -> Header:
        shape = tuple(map(int, dataset.shape))
        attributes = {key: _plain(dataset.attrs[key]) for key in dataset.attrs}
        return Header(
            "HDF5",
            self._place(attributes, shape, _labels(dataset)),
            shape,
            tuple(map(int, dataset.chunks or rows(shape))),
            native(dataset.dtype) if dataset.dtype.kind in "biufc" else str(dataset.dtype),
        )

    def _place(
        self, attributes: Mapping[str, Any], shape: tuple[int, ...], labels: list[str]
    ) -> Place:
        names = self._tags(attributes, len(shape)) or labels
        known = {key: attributes[key] for key in _GEOMETRY if key in attributes}
        known = {k: v if isinstance(v, list | str) else [v] for k, v in known.items()}
        if "units" not in known and isinstance(attributes.get("unit"), str):
            known["units"] = attributes["unit"]
        microns = attributes.get("element_size_um")
        if microns is not None and not {"voxel_size", "resolution"} & known.keys():
            known |= {"resolution": microns, "units": "um"}
        if not names or not all(names):
            return Place.from_attributes(known, len(shape), self.path)
        if "axis_names" not in known and "types" not in known:
            return self._by_names(known, names)
        return Place.from_attributes(known, len(shape), self.path, names=names)

    def _by_names(self, known: Mapping[str, Any], names: list[str]) -> Place:
        """Return axes that are named: sizes are those of all axes, or of the ones of space."""
        space = [name for name in names if name in ("z", "y", "x")]

        def per_axis(*keys: str) -> dict[str, Any]:
            value = next((known[key] for key in keys if key in known), None)
            if value is None or isinstance(value, str):
                return dict.fromkeys(space, value) if value else {}
            for whose in (names, space):
                if len(value) == len(whose):
                    return dict(zip(whose, value, strict=True))
            raise InputError(
                f"{self.path}: {keys[0]} {value} has {len(value)} entries for {len(names)} axes"
            )

        def numbers(*keys: str) -> dict[str, Any]:
            try:
                return {name: exact(n) for name, n in per_axis(*keys).items()}
            except (TypeError, ValueError):
                raise InputError(f"{self.path}: {keys[0]} is not a list of numbers") from None

        units = {name: str(unit) for name, unit in per_axis("units").items()}
        sizes, offsets = numbers("voxel_size", "resolution"), numbers("offset", "translation")
        return Place(self.path, named_axes(names, sizes, offsets, units))

    def _tags(self, attributes: Mapping[str, Any], ndim: int) -> list[str]:
        """Return the names of axes as vigra and ilastik write them."""
        text = attributes.get("axistags")
        if not isinstance(text, str):
            return []
        try:
            names = [str(axis["key"]) for axis in json.loads(text)["axes"]]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{self.path}: its axistags cannot be understood; mend them") from None
        if len(names) != ndim:
            raise InputError(
                f"{self.path}: its axistags name {len(names)} axes, it has {ndim}; mend them"
            )
        return names


def _datasets(file: Any, h5py: Any) -> Iterator[str]:
    names: list[str] = []
    file.visititems(lambda n, x: names.append(n) if isinstance(x, h5py.Dataset) else None)
    yield from names


def _labels(dataset: Any) -> list[str]:
    names = [dimension.label for dimension in dataset.dims]
    return names if all(names) else []


def _plain(value: Any) -> Any:
    """Return an attribute as JSON would have it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _problems(dataset: Any, h5py: Any, folder: Path) -> Iterator[str]:
    """Yield why values could not be read, or would be read as zeros."""
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(number)
        if not h5py.h5z.filter_avail(code) and not _has_plugin(h5py, code):
            called = name.decode(errors="replace") or f"number {code}"
            yield (
                f"is compressed with the filter {called}, which HDF5 does not have; "
                "pip install hdf5plugin"
            )
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            if source.file_name != "." and not (folder / source.file_name).exists():
                yield f"is put together from {source.file_name}, which is missing; restore it"


def _has_plugin(h5py: Any, code: int) -> bool:
    """Tell whether the package of further filters has one."""
    try:
        library("hdf5plugin", "")
    except InputError:
        return False
    return bool(h5py.h5z.filter_avail(code))


@dataclass(frozen=True, slots=True)
class _Hdf5Source:
    name: str
    dataset: Any

    def read(self, voxels: Box) -> NDArray[Any]:
        return np.asarray(self.dataset[voxels.slices])

    def part(self, voxels: Box) -> str:
        return f"dataset {self.name}, voxels {list(voxels.begin)} to {list(voxels.end)},"
