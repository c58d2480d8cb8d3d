"""An array that a task will make: its place, its axes, and how it is stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Grid
from snakemake_blocks.spec.measures import Measures
from snakemake_blocks.spec.schema import Layout, TaskModel, WriteModel
from snakemake_blocks.storage.arrays import chunk_shape
from snakemake_blocks.storage.groups import format_at
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.array_info import Making
from snakemake_blocks.tasks.operation import Call

__all__ = ["NewArray"]

# `shards: auto` stores boxes of blocks together until an array has no more files than this, or a
# worker would have more than this in memory.
_FEW_FILES = 1000
_SHARD_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class _Axis:
    """A stored axis to be made: its size, and what of it a block writes, in voxels."""

    placed: PlacedAxis
    size: int
    block: int
    is_tiled: bool = True
    # Whether blocks begin where the array does, so that shards can be boxes of them.
    is_aligned: bool = True


@dataclass(frozen=True, slots=True)
class NewArray:
    """What is known of an array to be made.

    Parameters
    ----------
    write : WriteModel
        Its form.
    key : str
        Where that stands.
    model : TaskModel
        The form of its task.
    measures : Measures
        How the task counts.
    unit : str
        What a world unit is, empty where that is not declared.
    where : Path
        Where it will be.
    roi : Box
        What the task writes, as the plan counts.
    block_size : tuple of int
        Likewise.
    like : StoredArray, optional
        The array from which it takes voxel size, axes and units.
    is_read : bool
        Whether its task reads it, too.
    """

    write: WriteModel
    key: str
    model: TaskModel
    measures: Measures
    unit: str
    where: Path
    roi: Box
    block_size: Index
    like: StoredArray | None
    is_read: bool

    def stored(self, path: str, dtype: str) -> StoredArray | None:
        """Return the array, under a name in plans; None, and why noted, if something is wrong."""
        voxel = self._voxel()
        if not voxel or not self._format():
            return None
        axes = self._axes(voxel)
        itemsize = int(np.dtype(dtype).itemsize)
        chunks = self._chunks(axes, itemsize)
        shards = chunks and self._shards(axes, chunks, itemsize)
        if not chunks or shards is None:
            return None
        tiled = [axis.placed for axis in axes if axis.is_tiled]
        return StoredArray(
            place=Place(path, tuple(axis.placed for axis in axes)),
            shape=tuple(axis.size for axis in axes),
            chunks=shards or chunks,
            dtype=dtype,
            unit=self.unit,
            exists=False,
            inner=chunks if shards else (),
            origin=self.like if self.like is None or self.like.exists else self.like.origin,
            making=Making(
                voxel_size=tuple(axis.voxel_size for axis in tiled),
                offset=tuple(axis.offset for axis in tiled),
                counted=tuple(not axis.is_measured for axis in tiled),
                names=tuple(axis.placed.name for axis in axes),
                inner=chunks if shards else (),
                compressor=self.write.compressor,
                zarr_format=self.write.zarr_format or 0,
                ome=self.write.ome,
            ),
        )

    def _format(self) -> int:
        """Return its Zarr format; 0, and why noted, if that is wrong."""
        try:
            return format_at(self.where, self.write.zarr_format or 0)
        except InputError as error:
            self.measures.say(f"{self.key}.zarr_format", str(error))
            return 0

    def _voxel(self) -> Index:
        """Return the voxel size as the plan counts; empty, and why noted, if it is wrong."""
        measures, ones = self.measures, (1,) * self.measures.ndim
        if self.write.voxel_size is not None:
            return measures.sizes(self.write.voxel_size, f"{self.key}.voxel_size", ones, parts=True)
        return ones if measures.ruler is None else measures.ruler.voxel_size

    def _axes(self, voxel: Index) -> list[_Axis]:
        """Return the axes in the order in which they are stored.

        That is the one of OME-Zarr: counted ones such as time, channels, and those of space.
        """
        none = (0,) * self.roi.ndim
        grid = Grid.from_write_extent(
            self.roi, block_size=self.block_size, lower=none, upper=none, fit=self.model.fit
        )
        extent = self.roi.union(grid.extent)
        counted: list[_Axis] = []
        measured: list[_Axis] = []
        for a, axis in enumerate(self.measures.axes):
            # What is counted begins with 0 in every array.
            begin = extent.begin[a] if axis.is_measured else 0
            found = _Axis(
                self._placed(a, begin, voxel[a]),
                size=-(-(extent.end[a] - begin) // voxel[a]),
                block=max(1, self.block_size[a] // voxel[a]),
                is_aligned=extent.begin[a] == begin,
            )
            (measured if axis.is_measured else counted).append(found)
        names = self._channel_names()
        channels = [
            _Axis(PlacedAxis(name, is_measured=False), n, n, is_tiled=False)
            for name, n in zip(names, self.write.channels, strict=True)
        ]
        return [*counted, *channels, *measured]

    def _placed(self, a: int, begin: int, voxel: int) -> PlacedAxis:
        """Return a tiled axis, in world units."""
        measures, like, axis = self.measures, self.like, self.measures.axes[a]
        if not axis.is_measured:
            return PlacedAxis(axis.name, is_measured=False)
        offset, after = measures.world(a, begin), measures.world(a, begin + voxel)
        unit = self.unit
        if like is not None and measures.ruler is not None and not unit:
            unit = like.place.axes[measures.ruler.places[a]].unit
        return PlacedAxis(axis.name, True, offset, after - offset, unit)

    def _channel_names(self) -> list[str]:
        """Return what the channels are called: as in the image that they come from, if as many."""
        count, like = len(self.write.channels), self.like
        if like is not None:
            tiled = like.tiled(self.measures.named)
            names = [axis.name for n, axis in enumerate(like.place.axes) if n not in tiled]
            if len(names) == count and all(names):
                return names
        is_taken = any(axis.name == "c" for axis in self.measures.axes)
        return ["c"] if count == 1 and not is_taken else [""] * count

    def _chunks(self, axes: Sequence[_Axis], itemsize: int) -> Index:
        """Return voxels per chunk, all stored axes; empty, and why noted, if they are wrong."""
        channels = math.prod(axis.size for axis in axes if not axis.is_tiled)
        tiled = iter(
            chunk_shape([a.block for a in axes if a.is_tiled], itemsize=itemsize * channels)
        )
        usual = tuple(next(tiled) if axis.is_tiled else axis.size for axis in axes)
        return self._given(self.write.chunks, "chunks", axes, usual)

    def _given(
        self, value: Layout, name: str, axes: Sequence[_Axis], usual: Sequence[int]
    ) -> Index:
        """Return what is given for every stored axis, and what is usual where nothing is."""
        if isinstance(value, str):  # auto
            return tuple(usual)
        if isinstance(value, int):
            sides = zip(axes, usual, strict=True)
            return tuple(value if axis.placed.is_measured else n for axis, n in sides)
        known = [axis.placed.name for axis in axes]
        if isinstance(value, Mapping):
            wrong = next((n for n in value if n not in known), None)
            if wrong is not None:
                text = f"there is no axis {wrong}; known are {', '.join(filter(None, known))}"
                self.measures.say(f"{self.key}.{name}", text)
                return ()
            return tuple(value.get(n, u) for n, u in zip(known, usual, strict=True))
        for chosen in (
            [axis.placed.is_measured for axis in axes],
            [axis.is_tiled for axis in axes],
            [True] * len(axes),
        ):
            if len(value) == sum(chosen):
                numbers = iter(value)
                pairs = zip(chosen, usual, strict=True)
                return tuple(next(numbers) if is_chosen else n for is_chosen, n in pairs)
        self.measures.say(
            f"{self.key}.{name}", f"{len(value)} sizes for {len(axes)} axes; give one per axis"
        )
        return ()

    def _shards(self, axes: Sequence[_Axis], chunks: Index, itemsize: int) -> Index | None:
        """Return voxels per shard, empty for none; None, and why noted, if they are wrong."""
        key, asked = f"{self.key}.shards", self.write.shards
        if asked is None:
            return ()
        if self._format() == 2:
            text = "its store is of Zarr format 2, which knows none; write into another store"
            self.measures.say(key, text)
            return None
        found = self._given(asked, "shards", axes, self._whole_blocks(axes, chunks, itemsize))
        if not found:
            return None
        if any(n % c for n, c in zip(found, chunks, strict=True)):
            near = [-(-n // c) * c for n, c in zip(found, chunks, strict=True)]
            text = f"{list(found)} are no whole chunks of {list(chunks)}; use e.g. {near}"
            self.measures.say(key, text)
            return None
        return found

    def _whole_blocks(self, axes: Sequence[_Axis], chunks: Index, itemsize: int) -> Index:
        """Return shards of whole blocks, or of near-cubic boxes of them if there are many."""
        one = [math.lcm(axis.block, c) for axis, c in zip(axes, chunks, strict=True)]
        boxes = list(one)
        is_free = self.model.kind is Call.ARRAYS and not self.is_read
        if not is_free and self.model.conflict:
            return tuple(boxes)  # blocks of one shard would have an order

        def files(sizes: Sequence[int]) -> int:
            return math.prod(-(-axis.size // n) for axis, n in zip(axes, sizes, strict=True))

        growing = {a for a, axis in enumerate(axes) if axis.is_tiled and axis.is_aligned}
        while files(boxes) > _FEW_FILES and growing:
            shortest = min(growing, key=lambda a: (boxes[a], a))
            larger = [n + one[a] * (a == shortest) for a, n in enumerate(boxes)]
            is_whole = boxes[shortest] >= axes[shortest].size
            if is_whole or math.prod(larger) * itemsize > _SHARD_BYTES:
                growing.remove(shortest)
            else:
                boxes = larger
        return tuple(boxes)
