"""What sizes in a form mean: world units, or voxels of an array, as the plan counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.spec.schema import (
    RoiModel,
    SidesModel,
    VoxelContextModel,
    VoxelRoiModel,
    VoxelSizesModel,
)
from snakemake_blocks.storage.lattice import Lattice, Steps, StoredArray, TaskAxis
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Context
from snakemake_blocks.tasks.scale import WORLD, Scale

__all__ = ["Measures", "roi_of"]

Plain = int | Sequence[int] | Mapping[str, int]
Sizes = Plain | VoxelSizesModel
Sides = Plain | SidesModel | VoxelContextModel
Say = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Measures:
    """How a task counts.

    Parameters
    ----------
    axes : tuple of TaskAxis
        Along which its blocks are cut.
    lattice : Lattice
        What its plan counts in.
    ruler : ArrayInfo, optional
        The array whose voxels are counted, where there is one of these axes.
    say : callable
        Takes the key and the text of what is wrong.
    named : frozenset of str
        Counted axes along which blocks are cut all the same.
    no_ruler : str
        Why there is none.
    scale : Scale
        The task's own numbers.
    """

    axes: tuple[TaskAxis, ...]
    lattice: Lattice
    ruler: ArrayInfo | None
    say: Say
    named: frozenset[str] = frozenset()
    no_ruler: str = "there is no array whose voxels could be counted; use world units"
    scale: Scale = WORLD

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def info(
        self,
        stored: StoredArray | None,
        key: str,
        select: Mapping[str, int] = MappingProxyType({}),
    ) -> ArrayInfo | None:
        """Return an array as the task sees it; None, and why noted, if it does not fit.

        Parameters
        ----------
        stored : StoredArray, optional
            The array; of none nothing is said.
        key : str
            Where it is named.
        select : mapping of str to int
            The one index of some axes that is seen.
        """
        if stored is None:
            return None
        chosen = []
        for name, index in select.items():
            axis = stored.axis_called(name)
            if axis is None:
                known = ", ".join(a.name for a in stored.place.axes if a.name)
                hint = f"known are {known}" if known else "its metadata name none"
                self.say(f"{key}.select", f"{stored.path} has no axis {name}; {hint}")
            elif index >= stored.shape[axis]:
                text = f"{stored.path} has {stored.shape[axis]} of these, from 0 on"
                self.say(f"{key}.select.{name}", text)
            else:
                chosen.append((axis, index))
        try:
            return stored.info(self.lattice, self.axes, named=self.named, select=chosen)
        except InputError as error:
            self.say(key, str(error))
            return None

    def scale_of(self, stored: StoredArray | None) -> Scale:
        """Return what own numbers are, with that array: world units, where it lies on them.

        Raises
        ------
        InputError
            If they are world units that are no whole numbers of the plan.
        """
        if self.lattice.is_world:
            return WORLD
        if stored is None or stored.is_whole:
            zero, one = self._world(Fraction(0), is_length=False), self._world(Fraction(1))
            if all(n.denominator == 1 for n in (*zero, *one)):
                return Scale(tuple(map(int, zero)), tuple(map(int, one)))
        if stored is None or self.ruler is None:
            raise InputError(self.no_ruler)
        world = [stored.world(stored.place.axes[place]) for place in self.ruler.places]
        return Scale(
            self.ruler.offset,
            self.ruler.voxel_size,
            self.ruler.path,
            tuple(axis.offset for axis in world),
            tuple(axis.voxel_size for axis in world),
            self.ruler.units,
        )

    def _world(self, value: Fraction, *, is_length: bool = True) -> list[Fraction]:
        """Return a length or place in world units, on every axis, in numbers of the plan."""
        return [self.number(a, value, is_length=is_length) for a in range(self.ndim)]

    def number(self, axis: int, value: Fraction, *, is_length: bool = True) -> Fraction:
        """Return a length or place in world units on an axis in numbers of the plan."""
        if not self.axes[axis].is_measured:
            return value
        step = self._steps(axis)
        return step.length(value) if is_length else step.place(value)

    def _steps(self, axis: int) -> Steps:
        return self.lattice[sum(other.is_measured for other in self.axes[axis + 1 :])]

    def world(self, axis: int, number: int) -> Fraction:
        """Return a place of the plan along an axis in world units."""
        if not self.axes[axis].is_measured:
            return Fraction(number)
        return self._steps(axis).world(number)

    def sizes(
        self,
        value: Sizes,
        key: str,
        rest: Sequence[int],
        *,
        in_voxels: bool = False,
        parts: bool = False,
    ) -> Index:
        """Return sizes as the plan counts them, one per axis; of wrong ones a problem is noted.

        Parameters
        ----------
        value : number, sequence, mapping or VoxelSizesModel
            As given.
        key : str
            Where.
        rest : sequence of int
            What counts for axes that are not named, as the plan counts.
        in_voxels : bool
            Whether ``value`` are voxels of the ruler.
        parts : bool
            Whether parts of its voxels will do, where voxels are counted.

        Returns
        -------
        tuple of int
            Empty if there is something wrong.
        """
        if isinstance(value, VoxelSizesModel):
            return self.sizes(value.voxels, key, rest, in_voxels=True, parts=parts)
        given = self._per_axis(value, key)
        if given is None or (in_voxels and self._voxels(key) is None):
            return ()
        found = [
            Fraction(rest[a]) if n is None else self._length(a, n, in_voxels=in_voxels)
            for a, n in enumerate(given)
        ]
        one = self.scale.one if self.scale.one and not parts else (1,) * self.ndim
        if any((n / v).denominator != 1 for n, v in zip(found, one, strict=True)):
            self.say(key, self._advice(given, found))
            return ()
        return tuple(map(int, found))

    def _length(self, axis: int, value: int, *, in_voxels: bool) -> Fraction:
        if in_voxels:
            assert self.ruler is not None
            return Fraction(value * self.ruler.voxel_size[axis])
        return self.number(axis, Fraction(value))

    def _voxels(self, key: str) -> ArrayInfo | None:
        """Return the array whose voxels are counted; without one a problem is noted."""
        if self.ruler is None:
            self.say(key, self.no_ruler)
        return self.ruler

    def _advice(self, given: Sequence[int | None], found: Sequence[Fraction]) -> str:
        """Return what to write instead of world units that are no whole voxels."""
        assert self.ruler is not None  # the only array there is on these axes lies on them
        voxels = [n / v for n, v in zip(found, self.ruler.voxel_size, strict=True)]
        below = [max(1, math.floor(n)) for n in voxels]
        above = [max(1, math.ceil(n)) for n in voxels]
        near = " or ".join(f"{{voxels: {n}}}" for n in dict.fromkeys(map(str, (below, above))))
        sizes = [n for n in given if n is not None]
        return (
            f"{sizes} world units are no whole voxels of {self.ruler.path}, but "
            f"({', '.join(f'{float(n):.6g}' for n in voxels)}); use {near}"
        )

    def _per_axis(self, value: Plain, key: str) -> list[int | None] | None:
        """Return what is given for every axis, None where nothing is; None if it does not fit."""
        measured = [axis.is_measured for axis in self.axes]
        if isinstance(value, int):
            return [value if is_measured else None for is_measured in measured]
        if isinstance(value, Mapping):
            names = [axis.name for axis in self.axes]
            wrong = [name for name in value if name not in names]
            if wrong:
                known = ", ".join(filter(None, names))
                hint = f"known are {known}" if known else "its array names none; give a list"
                sides = ", or give lower and upper" if "context" in key else ""
                self.say(key, f"there is no axis {wrong[0]} to cut; {hint}{sides}")
                return None
            return [value.get(name) for name in names]
        if len(value) == sum(measured) < self.ndim:  # counted axes can be left out
            numbers = iter(value)
            return [next(numbers) if is_measured else None for is_measured in measured]
        if len(value) != self.ndim:
            entries = "1 size" if len(value) == 1 else f"{len(value)} sizes"
            self.say(key, f"{entries} for a {self.ndim}-D roi; give one per axis")
            return None
        return list(value)

    def sides(self, value: Sides, key: str) -> Context:
        """Return a context below and above, as the plan counts it."""
        none = (0,) * self.ndim
        in_voxels = isinstance(value, VoxelContextModel)
        if isinstance(value, VoxelContextModel):
            value = value.voxels
        if isinstance(value, SidesModel):
            below = self.sizes(value.lower, f"{key}.lower", none, in_voxels=in_voxels)
            above = self.sizes(value.upper, f"{key}.upper", none, in_voxels=in_voxels)
            return below or none, above or none
        both = self.sizes(value, key, none, in_voxels=in_voxels) or none
        return both, both


def roi_of(measures: Measures, model: RoiModel | VoxelRoiModel) -> Box | None:
    """Return a region given by numbers, as the plan counts; None if there is something wrong."""
    in_voxels = isinstance(model, VoxelRoiModel)
    place = model.voxels if isinstance(model, VoxelRoiModel) else model
    axes, ruler = range(measures.ndim), measures.ruler
    counted = [a for a in axes if not measures.axes[a].is_measured]
    offset, shape = list(place.offset), list(place.shape)
    if len(offset) == measures.ndim - len(counted) < measures.ndim and ruler is not None:
        for a in counted:  # those left out are written whole
            offset.insert(a, ruler.offset[a])
            shape.insert(a, ruler.shape[a])
    if in_voxels:
        if ruler is None:
            measures.say("roi", measures.no_ruler)
            return None
        zero, one = ruler.offset, ruler.voxel_size
        begin = tuple(z + n * v for z, n, v in zip(zero, offset, one, strict=True))
        return Box(begin, tuple(b + n * v for b, n, v in zip(begin, shape, one, strict=True)))
    ends = [o + n for o, n in zip(offset, shape, strict=True)]
    found = [
        [measures.number(a, Fraction(side[a]), is_length=False) for a in axes]
        for side in (offset, ends)
    ]
    if any(n.denominator != 1 for side in found for n in side):
        assert ruler is not None
        measures.say(
            "roi",
            f"{offset} to {ends} in world units cuts voxels of {ruler.path}; use its path, or "
            "{voxels: {offset: [...], shape: [...]}}",
        )
        return None
    return Box(*(tuple(map(int, side)) for side in found))
