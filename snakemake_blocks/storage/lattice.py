"""From metadata to the whole numbers of a plan: exact, whatever the voxel sizes of arrays are.

Where all arrays that have to do with one another lie on whole world units, these are counted.
Otherwise the numbers of a plan are simple fractions of the voxels of one of the arrays, and begin
where it does. Voxel sizes are measured and stored as floats, so a ratio of two is taken for the
simple fraction that it is but for the digits that floats do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.array_info import EVERYWHERE, ArrayInfo, Making
from snakemake_blocks.tasks.units import conversion, rounded, unit_name

__all__ = ["Lattice", "Steps", "StoredArray", "TaskAxis", "WorldAxis"]

# Sums of coordinates up to this stay exact everywhere, floats included; as in pipeline.yaml.
_LARGEST = 2**53
# Voxels of one array are parts of those of another: halves, thirds, 6.5ths of 60, not thousandths.
_SIMPLE = 1000
# Parts of a voxel in which a plan counts at most: enough for all simple fractions that meet.
_MOST_PARTS = 10**6
# Floats of 53 bits that were computed with in a few steps.
_NOISE = Fraction(1, 10**12)
_ULP = Fraction(1, 2**50)


@dataclass(frozen=True, slots=True)
class TaskAxis:
    """An axis along which the blocks of a task are cut; ``name`` is empty where not known."""

    name: str
    is_measured: bool = True


@dataclass(frozen=True, slots=True)
class WorldAxis:
    """Offset and voxel size of an array along an axis, in world units."""

    offset: Fraction
    voxel_size: Fraction

    @property
    def is_whole(self) -> bool:
        """Whether both are whole numbers that can be counted with."""
        return all(
            n.denominator == 1 and abs(n) <= _LARGEST for n in (self.offset, self.voxel_size)
        )


@dataclass(frozen=True, slots=True)
class Steps:
    """The numbers of a plan along an axis: ``parts`` of a voxel of ``one`` from ``zero`` on."""

    zero: Fraction = Fraction(0)
    one: Fraction = Fraction(1)
    parts: int = 1

    def length(self, value: Fraction) -> Fraction:
        """Return a length, given in world units, in numbers of the plan; it may not be whole."""
        ratio = value / self.one
        return _simple(ratio, _NOISE * abs(ratio)) * self.parts

    def place(self, value: Fraction) -> Fraction:
        """Return a place likewise."""
        ratio = (value - self.zero) / self.one
        noise = _NOISE * abs(ratio) + _ULP * (abs(value) + abs(self.zero)) / self.one
        return _simple(ratio, noise) * self.parts

    def world(self, number: int) -> Fraction:
        """Return a place, given in numbers of the plan, in world units."""
        return self.zero + self.one * number / self.parts

    @classmethod
    def along(cls, arrays: Sequence[WorldAxis], *, with_world: bool) -> Steps:
        """Return the steps of an axis that arrays share; the first one's voxels are parted."""
        if all(axis.is_whole for axis in arrays):
            return cls()
        first = arrays[0]
        found = cls(first.offset, first.voxel_size)
        used = [*arrays, *([WorldAxis(Fraction(0), Fraction(1))] if with_world else [])]
        parts = 1
        for axis in used:
            pair = found.length(axis.voxel_size), found.place(axis.offset)
            more = math.lcm(parts, *(number.denominator for number in pair))
            parts = more if more <= _MOST_PARTS else parts  # it is refused where it is used
        return cls(first.offset, first.voxel_size, parts)


def _simple(ratio: Fraction, noise: Fraction) -> Fraction:
    """Return the simple fraction that a ratio is but for noise, else the ratio."""
    near = ratio.limit_denominator(_SIMPLE)
    return near if abs(ratio - near) <= noise else ratio


@dataclass(frozen=True, slots=True)
class Lattice:
    """The whole numbers that a plan counts in, along each measured axis from the last one on.

    Parameters
    ----------
    steps : tuple of Steps
        The last axis first; further axes are counted in world units.
    """

    steps: tuple[Steps, ...] = ()

    @classmethod
    def of(cls, arrays: Iterable[Sequence[WorldAxis]], *, with_world: bool = False) -> Lattice:
        """Return the lattice of arrays that have to do with one another.

        Parameters
        ----------
        arrays : iterable of sequence of WorldAxis
            Measured axes, the last one first; the first array's voxels are parted where voxels are
            no whole world units.
        with_world : bool
            Whether world units shall be whole numbers, too.
        """
        every = list(arrays)
        longest = max(map(len, every), default=0)
        along = ([axes[n] for axes in every if n < len(axes)] for n in range(longest))
        return cls(tuple(Steps.along(axes, with_world=with_world) for axes in along))

    def __getitem__(self, number: int) -> Steps:
        return self.steps[number] if number < len(self.steps) else Steps()

    @property
    def is_world(self) -> bool:
        """Whether the numbers are world units."""
        return all(step == Steps() for step in self.steps)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as it is stored, or will be.

    Parameters
    ----------
    place : Place
        Its axes.
    shape, chunks : tuple of int
        Voxels, all axes; of the shard where there are shards.
    dtype : str
        numpy name.
    unit : str
        What a world unit is; without it, the stored numbers are world units.
    exists : bool
        False for an array that has still to be created.
    origin : StoredArray, optional
        The existing array from which one to be created takes voxel size and units.
    making : Making, optional
        What an array to be created is told beside.
    inner : tuple of int
        Voxels per chunk inside of a shard; empty without shards.
    order : tuple of int
        Of a file of another format, its axes in the order of ``shape``; empty if that is its own.
    format : str
        What people call that format; empty for Zarr.

    Raises
    ------
    InputError
        If voxels have no extent.
    """

    place: Place
    shape: Index
    chunks: Index
    dtype: str
    unit: str = ""
    exists: bool = True
    origin: StoredArray | None = None
    making: Making | None = None
    inner: Index = ()
    order: Index = ()
    format: str = ""

    def __post_init__(self) -> None:
        if any(axis.voxel_size <= 0 for axis in self.place.axes):
            sizes = self._stored("voxel_size")
            raise InputError(f"{self.path}: voxel_size {sizes} is not positive")

    @classmethod
    def of_new(cls, info: ArrayInfo) -> StoredArray:
        """Return an array that a task of Python is to make.

        Raises
        ------
        InputError
            If it was not described by this package, so nobody knows its axes.
        """
        making = info.making
        if making is None or not making.voxel_size:
            raise InputError(f"{info.path}: does not exist yet, and nobody knows its axes; make it")
        names = making.names or ("",) * len(info.full_shape)
        units = info.units or ("",) * info.ndim
        tiled = {
            place: PlacedAxis(
                names[place],
                not making.counted[a],
                making.offset[a],
                making.voxel_size[a],
                units[a],
            )
            for a, place in enumerate(info.places)
        }
        counted = (PlacedAxis(name, is_measured=False) for name in names)
        axes = tuple(tiled.get(number, axis) for number, axis in enumerate(counted))
        place = Place(info.path, axes)
        return cls(place, info.full_shape, info.chunks, info.dtype, exists=False, making=making)

    @property
    def path(self) -> str:
        """Store and name in one."""
        return self.place.path

    @property
    def measured(self) -> list[WorldAxis]:
        """Its measured axes, the last one first."""
        return [self.world(axis) for axis in reversed(self.place.axes) if axis.is_measured]

    @property
    def is_whole(self) -> bool:
        """Whether it lies on whole world units."""
        return all(axis.is_whole for axis in self.measured)

    def world(self, axis: PlacedAxis) -> WorldAxis:
        """Return where it lies along an axis, in world units."""
        factor = Fraction(1)
        if self.unit and axis.is_measured:
            factor = conversion(unit_name(axis.unit) or self.unit, self.unit)
        return WorldAxis(axis.offset * factor, axis.voxel_size * factor)

    def tiled(self, named: Iterable[str] = (), hidden: Iterable[int] = ()) -> list[int]:
        """Return which axes blocks are cut along, where sizes are named for some."""
        known, left_out = set(named), set(hidden)
        return [
            number
            for number, axis in enumerate(self.place.axes)
            if number not in left_out and (axis.is_measured or axis.name in known)
        ]

    def task_axes(self, named: Iterable[str] = ()) -> tuple[TaskAxis, ...]:
        """Return the axes of a task that writes the region of this array."""
        axes = (self.place.axes[number] for number in self.tiled(named))
        return tuple(TaskAxis(axis.name, axis.is_measured) for axis in axes)

    def axis_called(self, name: str) -> int | None:
        """Return the axis of a name, also if that was made unambiguous, None if there is none."""
        names = [axis.name for axis in self.place.axes]
        own = f"{name}_{self.path.rpartition('/')[2]}"
        found = [n for n, called in enumerate(names) if called in (name, own)]
        return found[0] if len(found) == 1 else None

    def info(
        self,
        lattice: Lattice,
        axes: Sequence[TaskAxis] | None = None,
        *,
        named: Iterable[str] = (),
        select: Sequence[tuple[int, int]] = (),
    ) -> ArrayInfo:
        """Return the array as a task sees it, in the numbers of a plan.

        Parameters
        ----------
        lattice : Lattice
            What the plan counts in.
        axes : sequence of TaskAxis, optional
            Those of the task; by default the array's own.
        named : iterable of str
            Counted axes along which blocks are cut all the same.
        select : sequence of (int, int)
            Stored axes and the one index of each that is seen.

        Raises
        ------
        InputError
            If the array has other axes than the task, or its voxels have no common measure with
            those that the plan counts in.
        """
        hidden = [axis for axis, _ in select]
        tiled = self.tiled(named, hidden)
        wanted = self.task_axes(named) if axes is None else tuple(axes)
        places = self._matched(tiled, wanted)
        spans = [self._along(place, a, wanted, lattice) for a, place in enumerate(places)]
        channels = [n for number, n in enumerate(self.shape) if number not in places]
        usual = tuple(range(len(channels), len(self.shape)))
        units = (self._unit_of(place) for place in places)
        return ArrayInfo(
            path=self.path,
            offset=tuple(offset for offset, _ in spans),
            voxel_size=tuple(size for _, size in spans),
            shape=tuple(1 if place < 0 else self.shape[place] for place in places),
            channels=tuple(channels),
            dtype=self.dtype,
            chunks=self.chunks,
            units=tuple(units),
            axes=() if places == usual else places,
            select=tuple(sorted(select)),
            exists=self.exists,
            origin=self._origin(lattice, wanted, named),
            making=self.making,
            order=self.order,
        )

    def opened(self) -> ArrayInfo:
        """Return the array as a task sees it that runs once: whole, and cut nowhere."""
        found = ArrayInfo.opened(self.path, self.shape, self.chunks, self.dtype, exists=self.exists)
        return replace(found, order=self.order)

    def _origin(
        self, lattice: Lattice, axes: Sequence[TaskAxis], named: Iterable[str]
    ) -> ArrayInfo | None:
        return None if self.origin is None else self.origin.info(lattice, axes, named=named)

    def _unit_of(self, place: int) -> str:
        axis = self.place.axes[place] if place >= 0 else PlacedAxis("", is_measured=False)
        return self.unit if self.unit and axis.is_measured else axis.unit

    def _matched(self, tiled: Sequence[int], axes: Sequence[TaskAxis]) -> Index:
        """Return which stored axis each axis of a task is, by name where all have one."""
        mine = {self.place.axes[number].name: number for number in tiled}
        known = all(mine) and all(axis.name for axis in axes) and len(mine) == len(tiled)
        found = tuple(mine.get(axis.name, -1) for axis in axes)
        kept = [place for place in found if place >= 0]
        lacking = [axis for axis, place in zip(axes, found, strict=True) if place < 0]
        is_part = len(kept) == len(tiled) and not any(axis.is_measured for axis in lacking)
        if known and is_part and sorted(kept) == kept:
            return found
        if len(tiled) == len(axes):
            return tuple(tiled)
        words = "spatial axes" if all(axis.is_measured for axis in axes) else "axes to cut"
        raise InputError(f"{self.path} has {len(tiled)} {words}, the roi {len(axes)}")

    def _along(
        self, place: int, number: int, axes: Sequence[TaskAxis], lattice: Lattice
    ) -> tuple[int, int]:
        """Return offset and voxel size along an axis of the task, in numbers of the plan."""
        if place < 0:
            return -EVERYWHERE, 2 * EVERYWHERE
        if not axes[number].is_measured:
            return 0, 1
        step = lattice[sum(axis.is_measured for axis in axes[number + 1 :])]
        world = self.world(self.place.axes[place])
        found = {
            "offset": step.place(world.offset),
            "voxel_size": step.length(world.voxel_size),
        }
        for key, value in found.items():
            if value.denominator != 1:
                raise InputError(
                    f"{self.path}: {key} {self._stored(key)}{self._in_units()} is no simple "
                    "fraction of the voxels of the other arrays of its tasks; store it on the "
                    "same raster, or use it in a pipeline of its own"
                )
            if abs(value) > _LARGEST:
                raise InputError(
                    f"{self.path}: {key} {self._stored(key)}{self._in_units()} is too large to "
                    "count with; store it in a larger unit"
                )
        return int(found["offset"]), int(found["voxel_size"])

    def _stored(self, key: str) -> str:
        numbers = (getattr(axis, key) for axis in self.place.axes if axis.is_measured)
        return "[" + ", ".join(f"{rounded(n, digits=17):.17g}" for n in numbers) + "]"

    def _in_units(self) -> str:
        known = dict.fromkeys(axis.unit for axis in self.place.axes if axis.unit)
        return f" {', '.join(known)}" if known else ""
