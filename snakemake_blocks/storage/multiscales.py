"""OME-Zarr: where a level of a multiscale image lies in the world.

Versions 0.4 (Zarr format 2) and 0.5 (Zarr format 3) are understood, as yaozarrs models them. It is
imported only where there are such metadata.

A world coordinate of this package is the corner of a voxel. The corner of the first level lies at
its translation. Where levels are shifted by half the difference of their scales, because their
translations mean the centres of merged voxels, they begin at that same corner; any other
translation is taken as the level's own corner.
"""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.groups import attributes_of
from snakemake_blocks.tasks.units import rounded, stored

__all__ = [
    "Level",
    "images_of",
    "level_in",
    "level_of",
    "omero_of",
    "paths_of_levels",
]


@dataclass(frozen=True, slots=True)
class Level:
    """Where one array of a multiscale image lies.

    Parameters
    ----------
    names : tuple of str
        Of the axes of the array.
    types : tuple of str
        ``space``, ``time`` or ``channel`` per axis; empty where none is given.
    scale, corner : tuple of Fraction
        Size of a voxel and begin of the first one, per axis, in ``units``; all digits stored.
    units : tuple of str
        As stored, empty where none is given.
    first : Level, optional
        The finest level of the image, None for itself.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    scale: tuple[Fraction, ...]
    corner: tuple[Fraction, ...]
    units: tuple[str, ...]
    first: Level | None = None


def level_of(path: str, folder: Path) -> Level | None:
    """Return where an array lies by the OME-Zarr group above it, None if no such group names it.

    Raises
    ------
    InputError
        If the metadata are of another version, or wrong.
    """
    found = _found(path, folder)
    return found[1] if found else None


def omero_of(path: str, folder: Path) -> Mapping[str, Any]:
    """Return how the image of an array shows and names its channels, nothing if it does not say."""
    found = _found(path, folder)
    attributes = found[0] if found else {}
    ome = attributes.get("ome")
    omero = (ome if isinstance(ome, dict) else attributes).get("omero")
    return omero if isinstance(omero, dict) else {}


def _found(path: str, folder: Path) -> tuple[Mapping[str, Any], Level] | None:
    """Return the attributes of the group that names an array as a level, and that level.

    An image may hold a level as a link to another disk, and a level may be reached by a link.
    """
    return _named(path, folder) or _named(os.path.realpath(folder / path), folder)


def _named(path: str, folder: Path) -> tuple[Mapping[str, Any], Level] | None:
    for parent in Path(path).parents:
        attributes = attributes_of(folder / parent)
        if attributes is None:
            return None
        found = level_in(attributes, posixpath.relpath(path, parent), f"{path}: {parent}")
        if found is not None:
            return attributes, found
    return None


def images_of(attributes: Mapping[str, Any]) -> tuple[list[Any], bool]:
    """Return the images of a group, and whether its metadata have the form of version 0.5."""
    ome = attributes.get("ome")
    found = (ome if isinstance(ome, dict) else attributes).get("multiscales")
    return found if isinstance(found, list) else [], isinstance(ome, dict)


def level_in(attributes: Mapping[str, Any], name: str, place: str) -> Level | None:
    """Return the level that a group's attributes give an array of this name below it."""
    entries, is_new = images_of(attributes)
    for entry in entries:
        paths = paths_of_levels(entry)
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


def paths_of_levels(entry: Any) -> list[str]:
    """Return the paths of the levels that an entry of ``multiscales`` names."""
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
    first = _placed(image, 0, None)
    return first if number == 0 else _placed(image, number, first)


def _placed(image: Any, number: int, first: Level | None) -> Level:
    """Return one level; ``first`` is the finest, None for itself."""
    common = _transform(image.coordinateTransformations, len(image.axes))
    levels = [_transform(d.coordinateTransformations, len(image.axes)) for d in image.datasets]
    (scale, shift), (first_scale, first_shift) = (_after(levels[n], common) for n in (number, 0))
    centred = zip(scale, shift, first_scale, first_shift, strict=True)
    return Level(
        names=tuple(axis.name for axis in image.axes),
        types=tuple(axis.type or "" for axis in image.axes),
        scale=scale,
        corner=tuple(t0 if _is_centred(t - t0, s - s0) else t for s, t, s0, t0 in centred),
        units=tuple(getattr(axis, "unit", None) or "" for axis in image.axes),
        first=first,
    )


def _is_centred(shift: Fraction, growth: Fraction) -> bool:
    """Tell whether a level is shifted by half a voxel, but for how floats are rounded."""
    return rounded(shift, digits=12) == rounded(growth / 2, digits=12)


_Transform = tuple[tuple[Fraction, ...], tuple[Fraction, ...]]


def _transform(transformations: Sequence[Any] | None, ndim: int) -> _Transform:
    """Return scale and translation of a list of transformations."""
    scale, shift = (Fraction(1),) * ndim, (Fraction(0),) * ndim
    for one in transformations or ():
        if one.type == "scale":
            scale = tuple(map(stored, one.scale))
        elif one.type == "translation":
            shift = tuple(map(stored, one.translation))
    return scale, shift


def _after(first: _Transform, then: _Transform) -> _Transform:
    pairs = list(zip(first[0], first[1], then[0], then[1], strict=True))
    return tuple(s * s2 for s, _, s2, _ in pairs), tuple(t * s2 + t2 for _, t, s2, t2 in pairs)
