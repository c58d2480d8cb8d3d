"""OME-Zarr: listing an array that is made as a level of an image, and images as labels.

Arrays called like a level (``0``, ``s0`` or ``scale0``) in an image, or in a store ``*.ome.zarr``,
become levels of the image that their group is, by version 0.4 in Zarr format 2 and 0.5 in 3. Where
they do not fit, because of their axes, because there is a level of this voxel size, or because the
metadata are not understood, these stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.foreign import channels_of
from snakemake_blocks.storage.groups import Group
from snakemake_blocks.storage.image_groups import Label, list_field, with_ome
from snakemake_blocks.storage.multiscales import (
    Level,
    images_of,
    level_in,
    level_of,
    omero_of,
    paths_of_levels,
)
from snakemake_blocks.tasks.array_info import ArrayInfo, Making
from snakemake_blocks.tasks.units import conversion, rounded, unit_name

__all__ = ["axis_names", "is_ome", "list_level"]

_SPATIAL = "zyx"
_LEVEL = re.compile(r"(s|scale)?\d+")
_LEADING = {0: (), 1: (("c", "channel"),), 2: (("t", "time"), ("c", "channel"))}
_TYPES = {"t": "time", "c": "channel"}
_KEYS = ("ome", "multiscales", "plate", "well", "bioformats2raw.layout")


def is_ome(array: ArrayInfo, groups: Sequence[Group]) -> bool:
    """Tell whether a store is OME-Zarr, by its name or the metadata of a group, or is to be."""
    is_meant = array.making is not None and array.making.ome
    return is_meant or any(
        group.where.name.endswith(".ome.zarr") or any(key in group.attributes for key in _KEYS)
        for group in groups
    )


def axis_names(array: ArrayInfo, folder: Path, groups: Sequence[Group]) -> tuple[str, ...]:
    """Return how the image of an array to be made calls its axes, nothing if it is no level."""
    found = _image(array, folder, groups)
    return found.level.names if found else ()


def list_level(array: ArrayInfo, folder: Path, groups: Sequence[Group]) -> None:
    """List an array that is about to be made in the OME-Zarr metadata of its groups.

    Parameters
    ----------
    array : ArrayInfo
        What will be made.
    folder : Path
        The pipeline's folder.
    groups : sequence of Group
        The groups around it, which are there.
    """
    found = _image(array, folder, groups)
    if found is None:
        return
    group, attributes = groups[-1], groups[-1].attributes
    entries, is_new = images_of(attributes)
    more: dict[str, Any] = {"multiscales": [found.entry, *entries[1:]]}
    label = Label.of(groups) if np.dtype(array.dtype).kind in "iu" else None
    if label is not None:
        if label.most is not None and len(found.entry["datasets"]) > label.most:
            return
        more["image-label"] = label.metadata
    elif not entries and found.omero:
        more["omero"] = found.omero
    in_ome = is_new or (not entries and group.zarr_format == 3)
    group.put(with_ome(attributes, more, in_ome=in_ome))
    if label is not None:
        label.list()
    elif len(groups) > 1:
        list_field(groups[-2], group.where.name)


@dataclass(frozen=True, slots=True)
class _Image:
    """An entry of ``multiscales`` with one level more, that level, and how to show it."""

    entry: dict[str, Any]
    level: Level
    omero: Mapping[str, Any]


def _image(array: ArrayInfo, folder: Path, groups: Sequence[Group]) -> _Image | None:
    """Return the image of which an array becomes a level; None if it does not fit into one."""
    name = Path(array.path).name
    if not groups or not _LEVEL.fullmatch(name) or not is_ome(array, groups):
        return None
    if not 2 <= array.ndim <= 3 or len(array.channels) not in _LEADING:
        return None
    attributes = groups[-1].attributes
    label = groups[-1].where.name.removesuffix(".zarr").removesuffix(".ome")
    entries, _ = images_of(attributes)
    image = dict(entries[0]) if entries and isinstance(entries[0], dict) else {}
    try:
        levels = {p: level_in(attributes, p, name) for p in paths_of_levels(image) if p != name}
    except InputError:
        return None
    known = {p: level for p, level in levels.items() if level is not None}
    if entries and not known and name not in paths_of_levels(image):
        return None
    original = _original(array, folder)
    mine = _level(array, next(iter(known.values()), None), original)
    if mine is None or any(_same(level.scale, mine.scale) for level in known.values()):
        return None
    entry: dict[str, Any] = (
        {} if image.get("version") or groups[-1].zarr_format == 3 else {"version": "0.4"}
    )
    entry |= {"name": label, **image, "axes": image["axes"] if known else _axes(mine)}
    try:
        entry["datasets"] = _datasets(entry, {**known, name: mine}, name)
    except OverflowError:  # scales beyond what a float holds
        return None
    entry.pop("coordinateTransformations", None)
    return _Image(entry, mine, _omero(array, mine, original, folder))


def _omero(
    array: ArrayInfo, mine: Level, original: Level | None, folder: Path
) -> Mapping[str, Any]:
    """Return how the image or file that an array is made from shows and names its channels."""
    if array.origin is None:
        return {}
    if original is not None:
        is_alike = _same_channels(array, mine, original)
        return omero_of(array.origin.path, folder) if is_alike else {}
    channels = channels_of(array.origin.path, folder)
    sizes = zip(array.channels, mine.types, strict=False)
    counts = [n for n, kind in sizes if kind == "channel"]
    return {"channels": channels} if channels and counts == [len(channels)] else {}


def _original(array: ArrayInfo, folder: Path) -> Level | None:
    """Return the level of an image from which an array is made."""
    if array.origin is None or array.origin.ndim != array.ndim:
        return None
    try:
        found = level_of(array.origin.path, folder)
    except InputError:  # its own attributes may tell where it lies, all the same
        return None
    ndim = len(array.origin.channels) + array.ndim
    if found is None or len(found.types) != ndim or not _ends_in_space(found, array.ndim):
        return None
    return found


def _ends_in_space(level: Level, ndim: int) -> bool:
    return set(level.types[-ndim:]) == {"space"} and "space" not in level.types[:-ndim]


def _level(array: ArrayInfo, like: Level | None, original: Level | None) -> Level | None:
    """Return where an array lies in an image: beside a level ``like``, made from ``original``."""
    ndim, lead = array.ndim, len(array.channels)
    if like is not None and (len(like.types) != lead + ndim or not _ends_in_space(like, ndim)):
        return None
    space = _from_original(array, original) if original else _from_attributes(array)
    if like is not None:
        return _joined(like, _converted(space, like.units[lead:]))
    axes = _leading(array, original) if original else None
    if original is None or axes is None:
        names, types = zip(*_leading_axes(array), strict=True) if lead else ((), ())
        nothing = ("",) * lead
        head = Level(names, types, (Fraction(1),) * lead, (Fraction(0),) * lead, nothing)
    else:
        head = _chosen(original, axes)
    return _joined(head, space)


def _leading_axes(array: ArrayInfo) -> Sequence[tuple[str, str]]:
    """Return name and type of the axes before those of space: as they are called, else as usual."""
    lead = len(array.channels)
    names = array.making.names[:lead] if array.making else ()
    is_told = bool({"t", "c"} & set(names)) and all(names)
    return [(n, _TYPES.get(n, "")) for n in names] if is_told else _LEADING[lead]


def _chosen(level: Level, axes: Sequence[int]) -> Level:
    """Return some axes of a level."""
    parts = (level.names, level.types, level.scale, level.corner, level.units)
    return Level(*(tuple(part[a] for a in axes) for part in parts))  # type: ignore[arg-type]


def _joined(head: Level, space: Level) -> Level:
    """Return the leading axes of one level with the spatial axes of another."""
    lead = len(head.names) if "space" not in head.types else head.types.index("space")
    kept = _chosen(head, range(lead))
    names = head.names[lead:] or space.names
    return Level(
        kept.names + names,
        kept.types + space.types,
        kept.scale + space.scale,
        kept.corner + space.corner,
        kept.units + space.units,
    )


def _from_original(array: ArrayInfo, original: Level) -> Level:
    """Return the spatial axes, by the voxels of the image; its numbers may be no whole units."""
    assert array.origin is not None
    ndim = array.ndim
    found = _chosen(original, range(len(original.names) - ndim, len(original.names)))
    per_unit = [s / v for s, v in zip(found.scale, array.origin.voxel_size, strict=True)]
    apart = (o - o0 for o, o0 in zip(array.offset, array.origin.offset, strict=True))
    return replace(
        found,
        scale=tuple(p * v for p, v in zip(per_unit, array.voxel_size, strict=True)),
        corner=tuple(c + p * d for c, p, d in zip(found.corner, per_unit, apart, strict=True)),
    )


def _from_attributes(array: ArrayInfo) -> Level:
    ndim, making = array.ndim, array.making or Making()
    return Level(
        names=tuple(_SPATIAL[-ndim:]),
        types=("space",) * ndim,
        scale=making.voxel_size or tuple(map(Fraction, array.voxel_size)),
        corner=making.offset or tuple(map(Fraction, array.offset)),
        units=tuple(unit_name(u) or u for u in array.units or ("",) * ndim),
    )


def _converted(space: Level, units: Sequence[str]) -> Level:
    """Return the same place in other units, where both are known."""
    names = [
        (unit_name(mine), unit_name(theirs))
        for mine, theirs in zip(space.units, units, strict=True)
    ]
    factors = [conversion(u, v) if u and v else Fraction(1) for u, v in names]
    return replace(
        space,
        scale=tuple(s * f for s, f in zip(space.scale, factors, strict=True)),
        corner=tuple(c * f for c, f in zip(space.corner, factors, strict=True)),
        units=tuple(units),
    )


def _leading(array: ArrayInfo, original: Level) -> list[int] | None:
    """Return which leading axes of the original an array has; None if that cannot be told.

    All of them where there are as many, else those of its sizes, in order.
    """
    assert array.origin is not None
    sizes, wanted = array.origin.channels, array.channels
    if len(sizes) == len(wanted):
        return list(range(len(sizes)))
    found: list[int] = []
    for axis, size in enumerate(sizes):
        if len(found) < len(wanted) and size == wanted[len(found)]:
            found.append(axis)
    return found if len(found) == len(wanted) else None


def _same_channels(array: ArrayInfo, mine: Level, original: Level) -> bool:
    """Tell whether an array has as many channels as the image that it was made from."""
    assert array.origin is not None
    pairs = ((mine, array.channels), (original, array.origin.channels))
    counts = [
        [n for n, kind in zip(sizes, level.types, strict=False) if kind == "channel"]
        for level, sizes in pairs
    ]
    return counts[0] == counts[1]


def _same(one: Sequence[Fraction], other: Sequence[Fraction]) -> bool:
    return list(map(rounded, one)) == list(map(rounded, other))


def _axes(level: Level) -> list[dict[str, str]]:
    return [
        {"name": name, **({"type": kind} if kind else {}), **({"unit": unit} if unit else {})}
        for name, kind, unit in zip(level.names, level.types, level.units, strict=True)
    ]


def _datasets(
    image: Mapping[str, Any], levels: Mapping[str, Level], added: str
) -> list[dict[str, Any]]:
    """Return the entries of all levels, fine ones first; those in place stay as they are."""
    names = sorted(levels, key=lambda p: levels[p].scale)
    first = levels[names[0]]
    moved = names[0] == added or bool(image.get("coordinateTransformations"))
    old = dict(zip(paths_of_levels(image), image.get("datasets", ()), strict=True))
    return [
        dict(old[p]) if p != added and not moved else _dataset(p, levels[p], first) for p in names
    ]


def _dataset(name: str, level: Level, first: Level) -> dict[str, Any]:
    """Return the entry of a level; its translation means the centre of its first voxel."""
    shift = [
        c + (s - s0) / 2 if c == c0 else c
        for s, c, s0, c0 in zip(level.scale, level.corner, first.scale, first.corner, strict=True)
    ]
    return {
        "path": name,
        "coordinateTransformations": [
            {"type": "scale", "scale": [float(s) for s in level.scale]},
            {"type": "translation", "translation": [float(t) for t in shift]},
        ],
    }
