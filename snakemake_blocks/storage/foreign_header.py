"""What every reader of another format tells of an array, and how its axes are put in order.

Axes are told as the file has them. They are shown with those of space last, as z, y, x, and time
before channels, as this package and OME-Zarr want them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.system.files import open_file

__all__ = [
    "Header",
    "Reader",
    "Source",
    "arranged",
    "check_regular",
    "library",
    "named_axes",
    "native",
    "rows",
    "unique",
    "words",
]

_SPACE = ("z", "y", "x")
# Values that are read as fast together as one of them.
_MANY = 256


class Source(Protocol):
    """Values of an opened file, in the order of its axes."""

    def read(self, voxels: Box) -> NDArray[Any]:
        """Return the values of some voxels, or raise whatever its library does of damage."""

    def part(self, voxels: Box) -> str:
        """Return what to call the part of a file in which some voxels are stored."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of an array.

    Parameters
    ----------
    format : str
        What people call it.
    place : Place
        The axes, as the file has them.
    shape, chunks : tuple of int
        Voxels; of what is decoded at once.
    dtype : str
        numpy name, in the order of bytes of this machine.
    channels : tuple of (str, str)
        Name and color, as RRGGBB, of each; empty where they are not told.
    """

    format: str
    place: Place
    shape: Index
    chunks: Index
    dtype: str
    channels: tuple[tuple[str, str], ...] = ()


class Reader(Protocol):
    """A way to read one array from a file or folder."""

    @property
    def can_fork(self) -> bool:
        """Whether a process that has read with it may fork."""

    def header(self) -> Header:
        """Return what the file says; raises InputError where it is damaged."""

    def source(self) -> Source:
        """Open it."""


def library(name: str, path: str) -> Any:
    """Import what a format is read with.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{path}: is read with {name}, which is not installed ({error}); "
            "pip install 'snakemake-blocks[formats]'"
        ) from None


def check_regular(path: Path) -> None:
    """Refuse what no library should open: pipes, devices, what may not be read.

    Raises
    ------
    InputError
        With what it is.
    """
    with open_file(path):
        pass


def words(error: BaseException) -> str:
    """Return what a library says of damage, on one line."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"{type(error).__name__}: {(text.splitlines() or [''])[0]}"


def named_axes(
    names: Sequence[str],
    sizes: Mapping[str, Fraction],
    offsets: Mapping[str, Fraction] | None = None,
    units: Mapping[str, str] | None = None,
) -> tuple[PlacedAxis, ...]:
    """Return axes of which all are named: z, y, x are those of space."""
    one, zero = Fraction(1), Fraction(0)
    return tuple(
        PlacedAxis(
            name,
            True,
            (offsets or {}).get(name, zero),
            sizes.get(name, one),
            (units or {}).get(name, ""),
        )
        if name in _SPACE
        else PlacedAxis(name, is_measured=False)
        for name in unique(names)
    )


def unique(names: Iterable[str]) -> list[str]:
    """Return names of which no two are one."""
    found: list[str] = []
    for name in names:
        number, called = 1, name
        while name and called in found:
            number += 1
            called = f"{name}{number}"
        found.append(called)
    return found


def arranged(axes: Sequence[PlacedAxis]) -> Index:
    """Return the axes of a file in the order in which they are shown."""
    numbers = range(len(axes))
    counted = [a for a in numbers if not axes[a].is_measured]
    space = [a for a in numbers if axes[a].is_measured]
    counted.sort(key=lambda a: axes[a].name != "t")
    names = [axes[a].name for a in space]
    if set(names) <= set(_SPACE) and len(set(names)) == len(names):
        space.sort(key=lambda a: _SPACE.index(axes[a].name))
    return (*counted, *space)


def rows(shape: Sequence[int], *, is_reversed: bool = False) -> Index:
    """Return the chunks of values that simply follow one another: some that do."""
    axes = range(len(shape)) if is_reversed else reversed(range(len(shape)))
    found, many = [1] * len(shape), 1
    for axis in axes:
        if many >= _MANY:
            break
        found[axis] = shape[axis]
        many *= shape[axis]
    return tuple(found)


def native(dtype: Any) -> str:
    """Return the name of a type in the order of bytes of this machine."""
    return str(np.dtype(dtype).newbyteorder("="))
