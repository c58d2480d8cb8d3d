"""The arrays that a task writes: those that exist, if they fit, and those to be made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.spec.catalogue import Catalogue
from snakemake_blocks.spec.measures import Measures
from snakemake_blocks.spec.schema import TaskModel, WriteModel
from snakemake_blocks.storage.arrays import chunk_shape, obstacle_to
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.array_info import ArrayInfo, Making
from snakemake_blocks.tasks.dtypes import number_type
from snakemake_blocks.tasks.operation import Write

__all__ = ["Outputs", "selected"]


def selected(
    array: StoredArray, select: Mapping[str, int], say: Callable[[str, str], None]
) -> tuple[tuple[int, int], ...]:
    """Return which index of which stored axis is selected; of wrong ones a problem is noted."""
    found = []
    for name, index in select.items():
        axis = array.axis_called(name)
        if axis is None:
            known = ", ".join(a.name for a in array.place.axes if a.name)
            hint = f"known are {known}" if known else "its metadata name none"
            say("select", f"{array.path} has no axis {name}; {hint}")
        elif index >= array.shape[axis]:
            say(f"select.{name}", f"{array.path} has {array.shape[axis]} of these, from 0 on")
        else:
            found.append((axis, index))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a task writes.

    Parameters
    ----------
    task : str
        Its name.
    model : TaskModel
        Its form.
    arrays : Catalogue
        Knows the arrays, and takes the problems.
    measures : Measures
        How the task counts.
    roi : Box
        The region to write, as the plan counts.
    block_size : tuple of int
        Likewise; empty where it is not known.
    """

    task: str
    model: TaskModel
    arrays: Catalogue
    measures: Measures
    roi: Box
    block_size: Index

    def _say(self, key: str, text: str) -> None:
        self.arrays.say(f"tasks.{self.task}.{key}", text)

    def writes(self, like: StoredArray | None) -> dict[str, Write]:
        """Return the arrays by name; of wrong ones a problem is noted.

        Parameters
        ----------
        like : StoredArray, optional
            The array from which new ones take voxel size, axes and units.
        """
        found: dict[str, Write] = {}
        for name, write in self.model.writes.items():
            key = f"writes.{name}"
            stored = self._stored(write, key, like)
            info = None if stored is None else self._info(stored, write, key)
            if info is not None and any(info.meets(w.array) for w in found.values()):
                self._say(key, f"{info.path} is written under another name already")
            elif info is not None:
                found[name] = Write(info)
        return found

    def _info(self, stored: StoredArray, write: WriteModel, key: str) -> ArrayInfo | None:
        chosen = selected(stored, write.select, lambda at, text: self._say(f"{key}.{at}", text))
        try:
            info = stored.info(
                self.measures.lattice,
                self.measures.axes,
                named=self.arrays.named_axes,
                select=chosen,
            )
        except InputError as error:
            self._say(key, str(error))
            return None
        if info.exists:
            self._compare(info, write, key)
        return info

    def _stored(self, write: WriteModel, key: str, like: StoredArray | None) -> StoredArray | None:
        """Return the array to write: the one that exists, or the one to be made."""
        dtype = number_type(write.dtype)
        if not dtype:
            self._say(f"{key}.dtype", f"{write.dtype!r} is not a numpy type of numbers")
            return None
        existing = self.arrays.existing(write.array, f"tasks.{self.task}.{key}")
        if existing is not None:
            return existing
        path = self.arrays.plain(write.array)
        if self.arrays.is_unusable(path):
            return None
        obstacle = obstacle_to(path, self.arrays.folder)
        if obstacle:
            self._say(key, obstacle)
            return None
        made = self._to_be_made(write, dtype, key, like)
        if made is not None:
            self.arrays.declare(made)
        return made

    def _compare(self, array: ArrayInfo, write: WriteModel, key: str) -> None:
        """Say where an array that exists is another one than is declared."""
        channels = list(array.channels)
        if number_type(array.dtype) != number_type(write.dtype):
            self._differs(f"{key}.dtype", array, array.dtype, number_type(write.dtype))
        if write.channels != channels and not (write.select and not write.channels):
            self._differs(f"{key}.channels", array, channels, write.channels)
        ones = (1,) * self.measures.ndim
        if write.voxel_size is not None:
            wanted = self.measures.sizes(write.voxel_size, f"{key}.voxel_size", ones, parts=True)
            if wanted and wanted != array.steps:
                sizes = (self._sizes(numbers) for numbers in (array.steps, wanted))
                self._differs(f"{key}.voxel_size", array, *sizes)
        if self.model.fit is not Fit.OVERHANG and not array.roi.covers(self.roi):
            self._say(
                key,
                f"{array.path} covers {self.measures.scale.span(array.roi)}, less than the roi, "
                f"{self.measures.scale.span(self.roi)}; write to another array or delete this one",
            )

    def _sizes(self, numbers: Index) -> Any:
        """Return voxel sizes for people: as they are written, or as voxels."""
        scale = self.measures.scale
        return scale.sizes(numbers) if scale.array else list(numbers)

    def _differs(self, key: str, array: ArrayInfo, there: Any, wanted: Any) -> None:
        text = f"{array.path} has {there}, not {wanted}; write to another array or delete this one"
        self._say(key, text)

    def _to_be_made(
        self, write: WriteModel, dtype: str, key: str, like: StoredArray | None
    ) -> StoredArray | None:
        measures, ones = self.measures, (1,) * self.measures.ndim
        ruler = measures.ruler
        voxel = ruler.voxel_size if ruler is not None else ones
        if write.voxel_size is not None:
            voxel = measures.sizes(write.voxel_size, f"{key}.voxel_size", ones, parts=True)
        if not voxel or not self.block_size:
            return None
        none = (0,) * self.roi.ndim
        grid = Grid.from_write_extent(
            self.roi, block_size=self.block_size, lower=none, upper=none, fit=self.model.fit
        )
        extent = self.roi.union(grid.extent)
        begin = tuple(  # what is counted begins with 0 in every array
            b if axis.is_measured else 0
            for b, axis in zip(extent.begin, measures.axes, strict=True)
        )
        extent = Box(begin, extent.end)
        shape = tuple(-(-s // v) for s, v in zip(extent.shape, voxel, strict=True))
        itemsize = int(np.dtype(dtype).itemsize) * math.prod(write.channels)
        block = [max(1, w // v) for w, v in zip(self.block_size, voxel, strict=True)]
        chunk = chunk_shape(block, itemsize=itemsize)
        channels = [PlacedAxis(n, is_measured=False) for n in self._channel_names(write, like)]
        axes = self._axes(like, extent, voxel)
        order = [a for a, axis in enumerate(measures.axes) if not axis.is_measured]
        lead = len(order)  # counted axes come before channels, as in OME-Zarr
        order += [a for a, axis in enumerate(measures.axes) if axis.is_measured]

        def laid_out(tiled: Sequence[Any], others: Sequence[Any]) -> tuple[Any, ...]:
            found = [tiled[a] for a in order]
            return (*found[:lead], *others, *found[lead:])

        stored = laid_out(axes, channels)
        return StoredArray(
            place=Place(self.arrays.plain(write.array), stored),
            shape=laid_out(shape, write.channels),
            chunks=laid_out(chunk, write.channels),
            dtype=dtype,
            unit=self.arrays.unit,
            exists=False,
            origin=like if like is None or like.exists else like.origin,
            making=Making(
                voxel_size=tuple(axis.voxel_size for axis in axes),
                offset=tuple(axis.offset for axis in axes),
                counted=tuple(not axis.is_measured for axis in axes),
                names=tuple(axis.name for axis in stored),
            ),
        )

    def _axes(self, like: StoredArray | None, extent: Box, voxel: Index) -> list[PlacedAxis]:
        """Return the tiled axes of an array to be made, in world units."""
        measures, found = self.measures, []
        ruler = measures.ruler
        for a, axis in enumerate(measures.axes):
            begin, end = extent.begin[a], extent.begin[a] + voxel[a]
            offset, after = measures.world(a, begin), measures.world(a, end)
            unit = self.arrays.unit
            if like is not None and ruler is not None and not unit:
                unit = like.place.axes[ruler.places[a]].unit
            known = axis.is_measured
            found.append(
                PlacedAxis(axis.name, True, offset, after - offset, unit)
                if known
                else PlacedAxis(axis.name, is_measured=False)
            )
        return found

    def _channel_names(self, write: WriteModel, like: StoredArray | None) -> list[str]:
        """Return what the channels are called: as in the image that they come from, if as many."""
        count, tiled = len(write.channels), {axis.name for axis in self.measures.axes}
        hidden = set(like.tiled(self.arrays.named_axes)) if like is not None else set()
        axes = like.place.axes if like is not None else ()
        names = [axis.name for n, axis in enumerate(axes) if n not in hidden]
        if len(names) == count and all(names):
            return names
        one = "c" not in tiled
        return ["c"] if count == 1 and one else [""] * count
