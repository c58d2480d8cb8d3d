"""The arrays that a task writes: those that exist, if they fit, and those to be made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit
from snakemake_blocks.spec.catalogue import Catalogue, read_paths
from snakemake_blocks.spec.measures import Measures
from snakemake_blocks.spec.new_array import NewArray
from snakemake_blocks.spec.schema import TaskModel, WriteModel
from snakemake_blocks.storage.arrays import obstacle_to
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.dtypes import number_type
from snakemake_blocks.tasks.operation import Write

__all__ = ["Outputs"]


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
            info = self.measures.info(stored, key, write.select)
            if info is not None and info.exists:
                self._compare(info, write, key)
            if info is not None and any(info.meets(w.array) for w in found.values()):
                self._say(key, f"{info.path} is written under another name already")
            elif info is not None:
                found[name] = Write(info, shards=write.shards is not None)
        return found

    def _stored(self, write: WriteModel, key: str, like: StoredArray | None) -> StoredArray | None:
        """Return the array to write: the one that exists, or the one to be made."""
        dtype = number_type(write.dtype)
        if not dtype:
            self._say(f"{key}.dtype", f"{write.dtype!r} is not a numpy type of numbers")
            return None
        existing = self.arrays.existing(write.array, f"tasks.{self.task}.{key}")
        if existing is not None and existing.format:
            text = f"{existing.path}: is {existing.format}, which is read only; write to Zarr"
            self._say(key, text)
            return None
        if existing is not None:
            return existing
        path = self.arrays.plain(write.array)
        if self.arrays.is_unusable(path):
            return None
        obstacle = obstacle_to(path, self.arrays.folder)
        if obstacle:
            self._say(key, obstacle)
            return None
        if not self.block_size:
            return None
        made = NewArray(
            write=write,
            key=key,
            model=self.model,
            measures=self.measures,
            unit=self.arrays.unit,
            where=self.arrays.folder / path,
            roi=self.roi,
            block_size=self.block_size,
            like=like,
            is_read=path in map(self.arrays.plain, read_paths(self.model)),
        ).stored(path, dtype)
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
