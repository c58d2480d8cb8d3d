"""OME-Zarr: where a level of a multiscale image lies in the world; listing a level that is made.

Versions 0.4 (Zarr format 2) and 0.5 (Zarr format 3) are understood, as yaozarrs models them. It is
imported only where there are such metadata.

A world coordinate of this package is the corner of a voxel. The corner of the first level lies at
its translation. Where levels are shifted by half the difference of their scales, because their
translations mean the centres of merged voxels, they begin at that same corner; any other
translation is taken as the level's own corner.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.errors import InputError
from snakemake_blocks.metadata import read_metadata
from snakemake_blocks.units import conversion, exact, unit_name

__all__ = ["Level", "add_level", "level_of"]

_SPATIAL = "zyx"
_LEVEL = re.compile(r"(s|scale)?\d+")
_LEADING = {0: (), 1: (("c", "channel"),), 2: (("t", "time"), ("c", "channel"))}


@dataclass(frozen=True, slots=True)
class Level:
    """Where one array of a multiscale image lies.

    Parameters
    ----------
    types : tuple of str
        ``space``, ``time`` or ``channel`` per axis of the array; empty where none is given.
    scale, corner : tuple of Fraction
        Size of a voxel and begin of the first one, per axis, in ``units``.
    units : tuple of str
        As stored, empty where none is given.
    """

    types: tuple[str, ...]
    scale: tuple[Fraction, ...]
    corner: tuple[Fraction, ...]
    units: tuple[str, ...]


def level_of(path: str, folder: Path) -> Level | None:
    """Return where an array lies by the OME-Zarr group above it, None if no such group names it.

    Raises
    ------
    InputError
        If the metadata are of another version, or wrong.
    """
    for parent in Path(path).parents:
        attributes = _attributes(folder / parent)
        if attributes is None:
            return None
        found = _entry(attributes, posixpath.relpath(path, parent), f"{path}: {parent}")
        if found is not None:
            return found
    return None


def _attributes(group: Path) -> Mapping[str, Any] | None:
    """Return the attributes of a group, None if there is no group."""
    for name in ("zarr.json", ".zattrs", ".zgroup"):
        data = read_metadata(group / name)
        if data is None:
            continue
        if name == ".zgroup":
            return {}
        found = data.get("attributes", {}) if name == "zarr.json" else data
        return found if isinstance(found, dict) else {}
    return None


def _entries(attributes: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """Return the images of a group, and whether its metadata have the form of version 0.5."""
    ome = attributes.get("ome")
    found = (ome if isinstance(ome, dict) else attributes).get("multiscales")
    return found if isinstance(found, list) else [], isinstance(ome, dict)


def _entry(attributes: Mapping[str, Any], name: str, place: str) -> Level | None:
    """Return the level that a group's attributes give an array of this name below it."""
    entries, is_new = _entries(attributes)
    for entry in entries:
        paths = _paths(entry)
        if name not in paths:
            continue
        version = str((attributes["ome"] if is_new else entry).get("version", "0.4"))
        if not version.startswith("0.5" if is_new else "0.4"):
            raise InputError(
                f"{place} is OME-Zarr {version}, understood are 0.4 and 0.5; store it anew"
            )
        try:
            return _level(_validated(entry, place, is_new=is_new), paths.index(name))
        except ValueError:  # a scale that is infinite, or no number
            raise InputError(f"{place} has an OME-Zarr scale that is no number; mend it") from None
    return None


def _paths(entry: Any) -> list[str]:
    datasets = entry.get("datasets") if isinstance(entry, dict) else None
    return [
        posixpath.normpath(str(d.get("path"))) if isinstance(d, dict) else ""
        for d in (datasets if isinstance(datasets, list) else ())
    ]


def _validated(entry: Mapping[str, Any], place: str, *, is_new: bool) -> Any:
    """Return the library's model of one image."""
    from pydantic import ValidationError
    from yaozarrs import v04, v05

    kind = v05.Multiscale if is_new else v04.Multiscale
    try:
        with warnings.catch_warnings():  # of units and names that should be others
            warnings.simplefilter("ignore")
            return kind.model_validate(entry)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{place} has wrong OME-Zarr metadata, multiscales.{where}: "
            f"{first['msg'].splitlines()[0]}; mend them"
        ) from None


def _level(image: Any, number: int) -> Level:
    common = _transform(image.coordinateTransformations, len(image.axes))
    levels = [_transform(d.coordinateTransformations, len(image.axes)) for d in image.datasets]
    (scale, shift), (first_scale, first_shift) = (_after(levels[n], common) for n in (number, 0))
    centred = zip(scale, shift, first_scale, first_shift, strict=True)
    return Level(
        types=tuple(axis.type or "" for axis in image.axes),
        scale=scale,
        corner=tuple(t0 if t - t0 == (s - s0) / 2 else t for s, t, s0, t0 in centred),
        units=tuple(getattr(axis, "unit", None) or "" for axis in image.axes),
    )


_Transform = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]


def _transform(transformations: Sequence[Any] | None, ndim: int) -> _Transform:
    """Return scale and translation of a list of transformations."""
    scale, shift = (Fraction(1),) * ndim, (Fraction(0),) * ndim
    for one in transformations or ():
        if one.type == "scale":
            scale = tuple(map(exact, one.scale))
        elif one.type == "translation":
            shift = tuple(map(exact, one.translation))
    return scale, shift


def _after(first: _Transform, then: _Transform) -> _Transform:
    pairs = list(zip(first[0], first[1], then[0], then[1], strict=True))
    return tuple(s * s2 for s, _, s2, _ in pairs), tuple(t * s2 + t2 for _, t, s2, t2 in pairs)


def add_level(array: ArrayInfo, folder: Path, *, zarr_format: int) -> None:
    """List an array that is about to be made in the OME-Zarr metadata of its group.

    Arrays called like a level (``0``, ``s0`` or ``scale0``) in an image, or in a store
    ``*.ome.zarr``, become levels of the image that their group is, by version 0.4 in Zarr format 2
    and 0.5 in 3. Where they do not fit, because of their axes, because there is a level of this
    voxel size, or because the metadata are not understood, these stay as they are.

    Parameters
    ----------
    array : ArrayInfo
        What will be made.
    folder : Path
        The pipeline's folder.
    zarr_format : int
        Of the store.
    """
    import zarr

    where, _, name = array.path.rpartition("/")
    attributes = _attributes(folder / where) or {}
    entries, is_new = _entries(attributes)
    is_ome = bool(entries) or any(part.endswith(".ome.zarr") for part in where.split("/"))
    if not is_ome or not _LEVEL.fullmatch(name):
        return
    image = _with_level(attributes, array, name)
    if image is None:
        return
    group = zarr.open_group(str(folder / where), mode="a", zarr_format=2 if zarr_format == 2 else 3)
    image = {"name": posixpath.basename(where).removesuffix(".ome.zarr"), **image}
    if is_new or (not entries and zarr_format == 3):
        ome = {"version": "0.5", **attributes.get("ome", {})}
        group.attrs["ome"] = {**ome, "multiscales": [image, *entries[1:]]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **image}, *entries[1:]]


def _with_level(
    attributes: Mapping[str, Any], array: ArrayInfo, name: str
) -> dict[str, Any] | None:
    """Return the image of a group with one level more, fine ones first; None if it does not fit."""
    entries, _ = _entries(attributes)
    image = dict(entries[0]) if entries and isinstance(entries[0], dict) else {}
    if not 2 <= array.ndim <= 3 or len(array.channels) not in _LEADING:
        return None
    axes = _axes(array)
    try:
        levels = {p: _entry(attributes, p, name) for p in _paths(image) if p != name}
    except InputError:
        return None
    known = {p: level for p, level in levels.items() if level is not None}
    if entries and not known and name not in _paths(image):
        return None
    mine = _as_level(array, None)
    if known:
        like, axes = next(iter(known.values())), image["axes"]
        if like.types != tuple(axis["type"] for axis in _axes(array)):
            return None
        mine = _as_level(array, like)
    if any(level.scale == mine.scale for level in known.values()):
        return None
    known[name] = mine
    names = sorted(known, key=lambda p: known[p].scale)
    first = known[names[0]]
    others = {k: v for k, v in image.items() if k != "coordinateTransformations"}
    return {**others, "axes": axes, "datasets": [_dataset(p, known[p], first) for p in names]}


def _as_level(array: ArrayInfo, like: Level | None) -> Level:
    """Return the place of an array, in the units and with the channels of an image's level."""
    lead = len(array.channels)
    units = array.units or ("",) * array.ndim
    factors = [Fraction(1)] * array.ndim
    scale, corner = (Fraction(1),) * lead, (Fraction(0),) * lead
    if like is not None:
        scale, corner = like.scale[:lead], like.corner[:lead]
        names = [[unit_name(u) for u in x] for x in (units, like.units[lead:])]
        factors = [
            conversion(u, v) if u and v else Fraction(1) for u, v in zip(*names, strict=True)
        ]
    return Level(
        types=(),
        scale=scale + tuple(v * f for v, f in zip(array.voxel_size, factors, strict=True)),
        corner=corner + tuple(o * f for o, f in zip(array.offset, factors, strict=True)),
        units=(),
    )


def _axes(array: ArrayInfo) -> list[dict[str, str]]:
    axes = [{"name": name, "type": kind} for name, kind in _LEADING[len(array.channels)]]
    units = array.units or ("",) * array.ndim
    for name, unit in zip(_SPATIAL[-array.ndim :], units, strict=True):
        axes.append({"name": name, "type": "space", **({"unit": unit} if unit else {})})
    return axes


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
