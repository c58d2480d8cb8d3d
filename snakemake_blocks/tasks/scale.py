"""What a task counts in: world units, or the voxels of an array that lies between them.

Plans count in whole numbers that all of their arrays have in common, and these may become others
when an array joins. What is recorded of a block, what people read, and the Rois that functions get
are in the task's own numbers, which stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.tasks.forms import (
    LARGEST,
    Check,
    is_text,
    list_of,
    matching,
    unfit_key,
    whole,
)
from snakemake_blocks.tasks.units import rounded

__all__ = ["WORLD", "Scale", "as_recorded", "is_scale_form"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Own numbers of a task, per axis, in those of its plan.

    Parameters
    ----------
    zero, one : tuple of int
        Where they begin, and how long one is, in numbers of the plan; empty where both are alike.
    array : str
        The array whose voxels are counted, empty for world units.
    start, size : tuple of Fraction
        The same in world units.
    units : tuple of str
        What world units are, empty where not known.
    """

    zero: Index = ()
    one: Index = ()
    array: str = ""
    start: tuple[Fraction, ...] = ()
    size: tuple[Fraction, ...] = ()
    units: tuple[str, ...] = ()

    def own(self, box: Box) -> Box:
        """Return a box of the plan, whole here, in the task's own numbers."""
        if not self.one:
            return box
        return Box(self._own(box.begin), self._own(box.end))

    def _own(self, numbers: Index) -> Index:
        sides = zip(numbers, self.zero, self.one, strict=True)
        return tuple((n - z) // v for n, z, v in sides)

    def planned(self, box: Box) -> Box:
        """Return a box in the task's own numbers as the plan counts it."""
        if not self.one:
            return box
        begin, end = (
            tuple(n * v + z for n, z, v in zip(side, self.zero, self.one, strict=True))
            for side in (box.begin, box.end)
        )
        return Box(begin, end)

    def world(self, box: Box) -> list[tuple[Fraction, Fraction]]:
        """Return a box in the task's own numbers in world units, an interval per axis."""
        pairs = zip(box.begin, box.end, strict=True)
        if not self.array:
            return [(Fraction(low), Fraction(high)) for low, high in pairs]
        sides = zip(pairs, self.start, self.size, strict=True)
        return [(start + low * size, start + high * size) for (low, high), start, size in sides]

    def around(self, world: Sequence[tuple[Fraction, Fraction]]) -> Box:
        """Return the smallest box in whole own numbers around a region, as the plan counts it.

        Parameters
        ----------
        world : sequence of (Fraction, Fraction)
            World units, an interval per axis.
        """
        own = world
        if self.array:
            sides = zip(world, self.start, self.size, strict=True)
            own = [((low - o) / size, (high - o) / size) for (low, high), o, size in sides]
        begin, end = zip(*((math.floor(low), math.ceil(high)) for low, high in own), strict=True)
        return self.planned(Box(begin, end))

    def grid(self, grid: Grid) -> Grid:
        """Return a grid of the plan in the task's own numbers."""
        if not self.one:
            return grid
        extent = self.own(grid.extent)
        lengths = (
            (n // v for n in (axis.step, axis.lower, axis.upper))
            for axis, v in zip(grid.axes, self.one, strict=True)
        )
        sides = zip(extent.begin, extent.end, lengths, strict=True)
        return Grid(tuple(Axis(begin, end, *found) for begin, end, found in sides))

    def fits(self, grid: Grid) -> bool:
        """Tell whether all of a grid is in whole numbers of the task's own."""
        return not self.one or all(
            (n - zero * placed) % one == 0
            for axis, zero, one in zip(grid.axes, self.zero, self.one, strict=True)
            for n, placed in (
                (axis.begin, 1), (axis.end, 1), (axis.step, 0), (axis.lower, 0), (axis.upper, 0)
            )
        )  # fmt: skip

    def place(self, numbers: Sequence[int]) -> tuple[Fraction, ...]:
        """Return places of the plan in the task's own numbers, which may be no whole ones."""
        if not self.one:
            return tuple(map(Fraction, numbers))
        sides = zip(numbers, self.zero, self.one, strict=True)
        return tuple(Fraction(n - z, v) for n, z, v in sides)

    def length(self, numbers: Sequence[int]) -> tuple[Fraction, ...]:
        """Return lengths of the plan likewise."""
        if not self.one:
            return tuple(map(Fraction, numbers))
        return tuple(Fraction(n, v) for n, v in zip(numbers, self.one, strict=True))

    def sizes(self, numbers: Sequence[int]) -> str:
        """Return lengths of the plan for people, e.g. ``(20, 64)``, and what they are."""
        return _text(self.length(numbers)) + self._voxels

    def span(self, box: Box) -> str:
        """Return a region of the plan for people, e.g. ``(0, 0) to (20, 64)``."""
        return f"{_text(self.place(box.begin))} to {_text(self.place(box.end))}{self._voxels}"

    def at(self, axis: int, number: int) -> str:
        """Return a place of the plan along one axis for people."""
        return _short(Fraction(number - self.zero[axis], self.one[axis]) if self.one else number)

    def distance(self, axis: int, number: int) -> str:
        """Return a length of the plan along one axis for people, and what it is."""
        length = _short(Fraction(number, self.one[axis] if self.one else 1))
        return f"{length} {'voxels' if self.array else 'world units'}"

    @property
    def _voxels(self) -> str:
        return " voxels" if self.array else ""

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides what a function sees, nothing where world units are counted."""
        if not self.array:
            return {}
        start, size = ([str(rounded(n, digits=17)) for n in x] for x in (self.start, self.size))
        return {"scale": {"offset": start, "voxel_size": size, "units": list(self.units)}}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping, empty where own numbers are those of the plan."""
        if not self.one:
            return {}
        return {
            "zero": list(self.zero),
            "one": list(self.one),
            "array": self.array,
            "start": list(map(str, self.start)),
            "size": list(map(str, self.size)),
            "units": list(self.units),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scale:
        """Return what :meth:`to_json` described."""
        if not data:
            return WORLD
        return cls(
            tuple(data["zero"]),
            tuple(data["one"]),
            data["array"],
            tuple(map(Fraction, data["start"])),
            tuple(map(Fraction, data["size"])),
            tuple(data["units"]),
        )


WORLD = Scale()
"""World units, which the plan counts in itself."""

_FRACTIONS = list_of(matching(r"-?[0-9]{1,400}(/[1-9][0-9]{0,400})?"))
_FORM: Mapping[str, Check] = {
    "zero": list_of(whole(-LARGEST)),
    "one": list_of(whole(1)),
    "array": is_text,
    "start": _FRACTIONS,
    "size": _FRACTIONS,
    "units": list_of(is_text),
}


def is_scale_form(value: Any, ndim: int) -> bool:
    """Tell whether what JSON gave describes a scale of so many axes."""
    if value == {}:
        return True
    if unfit_key(value, _FORM) is not None:
        return False
    return all(len(value[key]) == ndim for key in _FORM if key != "array")


def as_recorded(numbers: Sequence[Fraction]) -> list[int | str]:
    """Return own numbers as identities hold them: whole ones as such, others as fractions."""
    return [int(n) if n.denominator == 1 else str(n) for n in numbers]


def _text(numbers: Sequence[Fraction]) -> str:
    return "(" + ", ".join(_short(n) for n in numbers) + ")"


def _short(number: Fraction | int) -> str:
    return str(number) if number.denominator == 1 else f"{float(number):.6g}"
