"""N5 and neuroglancer's precomputed volumes, read with tensorstore.

Metadata are read as the JSON that they are: a process that has used tensorstore cannot fork, and
who plans does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.foreign_header import Header, library, named_axes, native
from snakemake_blocks.storage.metadata import read_metadata
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.units import exact

__all__ = ["N5Reader", "PrecomputedReader"]

_TYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "float32",
    "float64",
}
_LARGEST = 2**53


@dataclass(frozen=True, slots=True)
class N5Reader:
    """A dataset of N5: a folder with ``attributes.json``.

    Axes are shown in the opposite order of N5's, as other Python tools show them.

    Parameters
    ----------
    path : str
        What it is called.
    folder : Path
        Where it is.
    """

    path: str
    folder: Path
    can_fork: bool = False

    def header(self) -> Header:
        """Return what ``attributes.json`` says."""
        found = read_metadata(self.folder / "attributes.json") or {}
        if "dimensions" not in found:
            inside = sorted(p.name for p in self.folder.iterdir() if p.is_dir())
            raise InputError(
                f"{self.path}: is a group of N5, not an array; it holds "
                f"{', '.join(inside) or 'nothing'}"
            )
        place = f"{self.path}: attributes.json"
        shape = _sizes(found, "dimensions", place)
        chunks = _sizes(found, "blockSize", place, count=len(shape))
        return Header(
            "N5",
            Place(self.path, tuple(self._axes(found, len(shape)))),
            shape[::-1],
            chunks[::-1],
            _dtype(found.get("dataType"), "dataType", place),
        )

    def source(self) -> _Store:
        """Open it."""
        spec = {"driver": "n5", "kvstore": _files(self.folder)}
        return _Store(_opened(spec, self.path), is_reversed=True)

    def _axes(self, found: Mapping[str, Any], ndim: int) -> list[PlacedAxis]:
        """Return the axes, the last one of N5 first."""
        transform = found.get("transform")
        if isinstance(transform, dict) and "axes" in transform:
            return self._transformed(transform, ndim)
        names = found.get("axes")
        named = [str(n) for n in names] if isinstance(names, list) and len(names) == ndim else []
        known = [n in ("x", "y", "z") for n in named] if named and all(named) else [True] * ndim
        sizes, units = self._measured(found, ndim)
        offset = _numbers(found, ("offset",), ndim, 0, self.path)
        called = named or (["x", "y", "z"][:ndim] if ndim <= 3 else [""] * ndim)
        parts = zip(called, known, offset, sizes, units, strict=True)
        return [
            PlacedAxis(name, True, o, v, u) if is_space else PlacedAxis(name, is_measured=False)
            for name, is_space, o, v, u in parts
        ][::-1]

    def _measured(
        self, found: Mapping[str, Any], ndim: int
    ) -> tuple[Sequence[Fraction], Sequence[str]]:
        """Return voxel sizes and units, in N5's order.

        ``pixelResolution`` is that of the finest level, and so is the one of a group above.
        """
        units = found.get("units")
        named = [str(u) for u in units] if isinstance(units, list) and len(units) == ndim else []
        named = named or [str(units) if isinstance(units, str) else ""] * ndim
        if found.get("resolution") is not None:
            return _numbers(found, ("resolution",), ndim, 1, self.path), named
        for source in (found, read_metadata(self.folder.parent / "attributes.json") or {}):
            pixel = source.get("pixelResolution")
            if isinstance(pixel, dict):
                named = [str(pixel.get("unit") or "")] * ndim
                source = {"pixelResolution": pixel.get("dimensions")}
            keys = ("pixelResolution",) if source is found else ("pixelResolution", "resolution")
            if any(source.get(key) is not None for key in keys):
                base = _numbers(source, keys, ndim, 1, self.path)
                return self._coarser(found, base), named
        return self._coarser(found, (Fraction(1),) * ndim), named

    def _coarser(self, found: Mapping[str, Any], base: Sequence[Fraction]) -> list[Fraction]:
        factors = _numbers(found, ("downsamplingFactors",), len(base), 1, self.path)
        return [b * f for b, f in zip(base, factors, strict=True)]

    def _transformed(self, transform: Mapping[str, Any], ndim: int) -> list[PlacedAxis]:
        """Return the axes of a ``transform``, which is in C order unless it says F."""
        names = list(map(str, transform["axes"]))
        scale = _numbers(transform, ("scale",), ndim, 1, self.path)
        shift = _numbers(transform, ("translate", "translation"), ndim, 0, self.path)
        units = [str(u or "") for u in transform.get("units") or [""] * ndim]
        if not len(names) == len(units) == ndim:
            raise InputError(f"{self.path}: its transform is not of {ndim} axes; mend it")
        by_name = (dict(zip(names, values, strict=True)) for values in (scale, shift, units))
        axes = list(named_axes(names, *by_name))  # type: ignore[arg-type]
        return axes[::-1] if transform.get("ordering") == "F" else axes


@dataclass(frozen=True, slots=True)
class PrecomputedReader:
    """A scale of a precomputed volume: a folder with ``info``.

    Parameters
    ----------
    path : str
        What it is called.
    folder : Path
        Where the volume is.
    key : str
        Of the scale; the first one if empty.
    """

    path: str
    folder: Path
    key: str = ""
    can_fork: bool = False

    def header(self) -> Header:
        """Return what ``info`` says."""
        info, place = read_metadata(self.folder / "info") or {}, f"{self.path}: info"
        scale = self._scale(info)
        size = _sizes(scale, "size", place, count=3)
        chunks = (scale.get("chunk_sizes") or [None])[0]
        chunk = _sizes({"chunk_sizes": chunks}, "chunk_sizes", place, count=3)
        count = info.get("num_channels")
        if type(count) is not int or not 1 <= count <= _LARGEST:
            raise InputError(f"{place}: num_channels must be a whole number; restore it")
        if "key" not in scale or not isinstance(scale.get("encoding"), str):
            raise InputError(f"{place}: a scale lacks its key or encoding; restore it")
        resolution = _numbers(scale, ("resolution",), 3, 1, place)
        offset = _numbers(scale, ("voxel_offset",), 3, 0, place)
        names = ("x", "y", "z")
        axes = named_axes(
            [*names, *(["c"] if count > 1 else [])],
            dict(zip(names, resolution, strict=True)),
            {n: o * v for n, o, v in zip(names, offset, resolution, strict=True)},
            dict.fromkeys(names, "nanometer"),
        )
        channels = (count,) if count > 1 else ()
        return Header(
            "precomputed",
            Place(self.path, axes),
            (*size, *channels),
            (*chunk, *channels),
            _dtype(info.get("data_type"), "data_type", place),
        )

    def source(self) -> _Store:
        """Open it."""
        info = read_metadata(self.folder / "info") or {}
        number = info["scales"].index(self._scale(info))
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": _files(self.folder),
            "scale_index": number,
        }
        store = _opened(spec, self.path)
        return _Store(store if info.get("num_channels", 1) > 1 else store[..., 0])

    def _scale(self, info: Mapping[str, Any]) -> dict[str, Any]:
        scales = info.get("scales")
        found = [s for s in scales if isinstance(s, dict)] if isinstance(scales, list) else []
        if not found:
            raise InputError(f"{self.path}: info lists no scales; restore it")
        if not self.key:
            return found[0]
        scale = next((s for s in found if s.get("key") == self.key), None)
        if scale is None:
            known = ", ".join(str(s.get("key")) for s in found)
            raise InputError(f"{self.path}: there is no scale {self.key}; known are {known}")
        return scale


def _files(folder: Path) -> dict[str, str]:
    return {"driver": "file", "path": os.path.abspath(folder) + "/"}


def _opened(spec: Mapping[str, Any], path: str) -> Any:
    tensorstore = library("tensorstore", path)
    try:
        return tensorstore.open(dict(spec), open=True, read=True).result()
    except ValueError as error:
        text = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be opened ({text}); restore it") from None


@dataclass(frozen=True, slots=True)
class _Store:
    """An opened array; of N5, with the last axis first."""

    store: Any
    is_reversed: bool = False

    def read(self, voxels: Box) -> NDArray[Any]:
        step = -1 if self.is_reversed else 1
        origin = self.store.domain.origin
        pairs = zip(voxels.begin[::step], voxels.end[::step], origin, strict=True)
        where = tuple(slice(o + b, o + e) for b, e, o in pairs)
        found = np.asarray(self.store[where].read().result())
        return found.T if self.is_reversed else found

    def part(self, voxels: Box) -> str:
        return f"voxels {list(voxels.begin)} to {list(voxels.end)}"


def _sizes(found: Mapping[str, Any], key: str, place: str, *, count: int | None = None) -> Index:
    value = found.get(key)
    is_list = isinstance(value, list) and value and (count is None or len(value) == count)
    if not is_list or any(type(n) is not int or not 1 <= n <= _LARGEST for n in value or ()):
        axes = f"{count} whole numbers" if count else "whole numbers"
        raise InputError(f"{place}: {key} must be a list of {axes} from 1 to 2**53; restore it")
    assert value is not None
    return tuple(value)


def _numbers(
    found: Mapping[str, Any], keys: Sequence[str], count: int, default: int, place: str
) -> tuple[Fraction, ...]:
    key = next((k for k in keys if found.get(k) is not None), None)
    if key is None:
        return (Fraction(default),) * count
    try:
        numbers = tuple(exact(n) for n in found[key])
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count:
        raise InputError(f"{place}: {key} must be a list of {count} numbers; mend it")
    return numbers


def _dtype(name: Any, key: str, place: str) -> str:
    if not isinstance(name, str) or name.lower() not in _TYPES:
        raise InputError(f"{place}: {key} {name!r} is no type of numbers that is understood")
    return native(name.lower())
