"""Where an array lies in the world: what its metadata say, exactly, and in world units.

Attributes follow funlib.persistence: ``offset``, ``voxel_size`` or ``resolution``, ``axis_names``,
``units``, ``types``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.storage.multiscales import Level, whole_voxels
from snakemake_blocks.tasks.units import conversion, exact, plain, rounded, unit_name, whole_unit

__all__ = ["Place"]

# Sums of coordinates up to this stay exact everywhere, floats included; as in pipeline.yaml.
_LARGEST = 2**53
# Sizes of blocks are multiples of voxel sizes: a unit in which these are longer helps nobody.
_LONGEST = 10**5
# What messages and metadata write as a float.
_PRINTABLE = int(sys.float_info.max)


@dataclass(frozen=True, slots=True)
class Place:
    """Offset and voxel size per spatial axis as they are stored, and the units they are in.

    Parameters
    ----------
    path : str
        The array, for messages.
    offset, voxel_size : tuple of Fraction
        Per spatial axis; these come last in the array.
    units : tuple of str
        Per spatial axis, as stored, empty where none is given.
    in_voxels : tuple of (tuple of int, tuple of int), optional
        Voxel size and offset counted in voxels, of the finest level where there are levels.
    """

    path: str
    offset: tuple[Fraction, ...]
    voxel_size: tuple[Fraction, ...]
    units: tuple[str, ...]
    in_voxels: tuple[Index, Index] = ((), ())

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any], ndim: int, path: str) -> Place:
        """Return the place of an array by its own attributes.

        Raises
        ------
        InputError
            If they do not fit together, or an axis behind a spatial one is not spatial.
        """
        count = _count_spatial(_spatial_axes(attributes, ndim, path), ndim, path)
        return cls(
            path,
            _numbers(attributes, ("offset",), count, 0, path),
            _numbers(attributes, ("voxel_size", "resolution"), count, 1, path),
            tuple("" if u is None else str(u) for u in _units(attributes, count)),
        )

    @classmethod
    def from_level(cls, level: Level, ndim: int, path: str) -> Place:
        """Return the place of an array of an OME-Zarr image; time is a channel there.

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
        spatial = [a for a, kind in enumerate(level.types) if kind == "space"]
        count = _count_spatial(spatial, ndim, path)
        sizes, offset = level.in_voxels()
        return cls(
            path,
            tuple(map(plain, level.corner[-count:])),
            tuple(map(plain, level.scale[-count:])),
            level.units[-count:],
            (sizes[-count:], offset[-count:]),
        )

    def world(self, key: str, *, unit: str = "") -> Index:
        """Return ``offset`` or ``voxel_size`` in world units.

        Parameters
        ----------
        key : str
            Which of them.
        unit : str
            What a world unit is; without it, the stored numbers are world units.

        Raises
        ------
        InputError
            If they are not whole, or voxels have no extent.
        """
        stored: tuple[Fraction, ...] = getattr(self, key)
        numbers = stored
        if unit:
            names = [unit_name(u) or unit for u in self.units]
            pairs = zip(stored, names, strict=True)
            numbers = tuple(n * conversion(name, unit) for n, name in pairs)
        if key == "voxel_size" and any(n <= 0 for n in numbers):
            raise InputError(f"{self.path}: voxel_size {_decimals(stored)} is not positive")
        if any(n.denominator != 1 for n in numbers):
            raise InputError(
                f"{self.path}: {key} {_decimals(stored)}{self._in_units()} is not whole"
                f"{f' in {unit}' if unit else ''}; world units are integers, {self._advice(unit)}"
            )
        if any(abs(n) > _LARGEST for n in numbers):
            raise InputError(
                f"{self.path}: {key} {_decimals(stored)}{self._in_units()} is too large to count "
                "with; store it in a larger unit"
            )
        return tuple(int(n) for n in numbers)

    def _in_units(self) -> str:
        known = dict.fromkeys(u for u in self.units if u)
        return f" {', '.join(known)}" if known else ""

    def _advice(self, unit: str) -> str:
        """Return what to do: a unit if there is a handy one, else to count in voxels."""
        names = [unit_name(u) for u in self.units]
        finer = ""
        if all(names):
            finer = whole_unit(zip(self.offset + self.voxel_size, names * 2, strict=True))
        if finer and self._is_handy(finer, names):
            return f"set unit: {finer} in pipeline.yaml, at the top, and give all sizes in it"
        sizes = self.in_voxels[0] or (1,) * len(self.voxel_size)
        pairs = zip(self.offset, self.voxel_size, strict=True)
        offset = self.in_voxels[1] or tuple(whole_voxels(o, size) for o, size in pairs)
        rest = " (they come before OME-Zarr metadata)" if self.in_voxels[0] else ""
        if any(self.units) and not self.in_voxels[0]:
            rest = ", and take its attribute units away"
        rest += ", take unit out of pipeline.yaml" if unit else ""
        return (
            f"count in voxels: store the attributes voxel_size: {list(sizes)} and offset: "
            f"{list(offset)} in this array{rest}, and give all sizes in voxels"
        )

    def _is_handy(self, unit: str, names: Sequence[str]) -> bool:
        pairs = zip(self.voxel_size, names, strict=True)
        if any(size * conversion(name, unit) > _LONGEST for size, name in pairs):
            return False
        pairs = zip(self.offset, names, strict=True)
        return all(abs(offset) * conversion(name, unit) <= _LARGEST for offset, name in pairs)


def _decimals(numbers: Sequence[Fraction]) -> str:
    return "[" + ", ".join(f"{rounded(n, digits=17):.17g}" for n in numbers) + "]"


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
