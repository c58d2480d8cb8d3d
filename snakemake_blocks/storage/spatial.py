"""Where an array lies in the world: what its metadata say of each axis, exactly.

Attributes follow funlib.persistence: ``offset``, ``voxel_size``, ``axis_names``, ``units``,
``types``. Voxel sizes that are no whole numbers, which it does not know, may stand in
``resolution``, and offsets in ``translation``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.multiscales import Level
from snakemake_blocks.tasks.units import exact, plain

__all__ = ["Place", "PlacedAxis"]

# What messages and metadata write as a float.
_PRINTABLE = int(sys.float_info.max)


@dataclass(frozen=True, slots=True)
class PlacedAxis:
    """One stored axis.

    Parameters
    ----------
    name : str
        Empty where none is given.
    is_measured : bool
        Whether it has a place in the world: blocks are cut along it in any case, while channels
        and, in OME-Zarr, time are cut only where a pipeline names a size for them, and counted.
    offset, voxel_size : Fraction
        As stored; 0 and 1 for what is counted.
    unit : str
        As stored, empty where none is given.
    """

    name: str
    is_measured: bool
    offset: Fraction = Fraction(0)
    voxel_size: Fraction = Fraction(1)
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """The axes of an array, as stored.

    Parameters
    ----------
    path : str
        The array, for messages.
    axes : tuple of PlacedAxis
        All of them.
    """

    path: str
    axes: tuple[PlacedAxis, ...]

    @classmethod
    def from_attributes(
        cls, attributes: Mapping[str, Any], ndim: int, path: str, *, names: Sequence[str] = ()
    ) -> Place:
        """Return the place of an array by its own attributes.

        Parameters
        ----------
        attributes : mapping
            As stored.
        ndim : int
            Stored axes.
        path : str
            The array, for messages.
        names : sequence of str
            What the axes are called elsewhere, empty where they are not.

        Raises
        ------
        InputError
            If they do not fit together, or an axis behind a spatial one is not spatial.
        """
        count = _count_spatial(_spatial_axes(attributes, ndim, path), ndim, path)
        offset = _numbers(attributes, ("offset", "translation"), count, 0, path)
        sizes = _numbers(attributes, ("voxel_size", "resolution"), count, 1, path)
        units = ("" if u is None else str(u) for u in _units(attributes, count))
        called = attributes.get("axis_names") or names
        called = [str(n or "").removesuffix("^") for n in called] if len(called) == ndim else []
        called = called or [""] * ndim
        lead = ndim - count
        measured = zip(called[lead:], offset, sizes, units, strict=True)
        return cls(
            path,
            (
                *(PlacedAxis(name, is_measured=False) for name in called[:lead]),
                *(PlacedAxis(name, True, o, v, u) for name, o, v, u in measured),
            ),
        )

    @classmethod
    def from_level(cls, level: Level, ndim: int, path: str) -> Place:
        """Return the place of an array of an OME-Zarr image; time is counted there.

        Raises
        ------
        InputError
            As :meth:`from_attributes`.
        """
        if len(level.types) != ndim:
            raise InputError(
                f"{path}: OME-Zarr metadata name {len(level.types)} axes, the array has {ndim}; "
                "mend them"
            )
        _count_spatial([a for a, kind in enumerate(level.types) if kind == "space"], ndim, path)
        parts = zip(level.names, level.types, level.corner, level.scale, level.units, strict=True)
        return cls(
            path,
            tuple(
                PlacedAxis(name, True, plain(corner), plain(scale), unit)
                if kind == "space"
                else PlacedAxis(name, is_measured=False)
                for name, kind, corner, scale, unit in parts
            ),
        )


def _count_spatial(spatial: Sequence[int], ndim: int, path: str) -> int:
    """Return the number of spatial axes, which have to come last."""
    if not spatial:
        raise InputError(f"{path}: has no spatial axis")
    if list(spatial) != list(range(ndim - len(spatial), ndim)):
        raise InputError(
            f"{path}: channel axes have to lead, spatial axes are {list(spatial)} of {ndim}; "
            "store the array transposed"
        )
    return len(spatial)


def _spatial_axes(attributes: Mapping[str, Any], ndim: int, path: str) -> list[int]:
    """Return which axes are spatial, by ``types``, ``axis_names`` or the length of the rest."""
    types, names = attributes.get("types"), attributes.get("axis_names")
    for key, value in (("types", types), ("axis_names", names)):
        if not isinstance(value, list | tuple | None):
            raise InputError(f"{path}: {key} {value!r} is not a list; store one entry per axis")
    if types is None and names is not None:
        types = ["channel" if str(n).endswith("^") else "space" for n in names]
    if types is not None:
        if len(types) != ndim:
            raise InputError(f"{path}: its attributes name {len(types)} axes, it has {ndim}")
        return [a for a, t in enumerate(types) if t in ("space", "time")]
    keys = ("voxel_size", "resolution", "offset", "units")
    lengths = {k: len(v) for k in keys if isinstance(v := attributes.get(k), list | tuple)}
    if len(set(lengths.values())) > 1 or any(n > ndim for n in lengths.values()):
        found = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise InputError(
            f"{path}: cannot tell which of its {ndim} axes are spatial: {found} entries; store "
            "the attribute types, e.g. [channel, space, space]"
        )
    count = next(iter(lengths.values()), ndim)
    return list(range(ndim - count, ndim))


def _units(attributes: Mapping[str, Any], count: int) -> list[Any]:
    """Return a unit per spatial axis; one text stands for all axes."""
    units = attributes.get("units")
    if isinstance(units, list | tuple) and len(units) >= count:
        return list(units)[-count:]
    return [units if isinstance(units, str) else ""] * count


def _numbers(
    attributes: Mapping[str, Any], keys: Sequence[str], count: int, default: int, path: str
) -> tuple[Fraction, ...]:
    """Return an attribute of the spatial axes; the channels may be listed before them."""
    key = next((k for k in keys if attributes.get(k) is not None), None)
    if key is None:
        return (Fraction(default),) * count
    value = attributes[key]
    try:
        found = [exact(n) for n in value]
    except (TypeError, ValueError, ZeroDivisionError):
        raise InputError(f"{path}: {key} {value} is not a list of numbers") from None
    if any(abs(n) > _PRINTABLE for n in found):
        raise InputError(f"{path}: {key} has numbers that are too large to count with; mend them")
    channels = len(attributes.get("types") or attributes.get("axis_names") or ()) - count
    if len(found) not in (count, count + max(0, channels)):
        raise InputError(f"{path}: {key} {value} has {len(found)} entries for {count} axes")
    return tuple(found[-count:])
