"""The region that a form says its blocks write, and what counts there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.spec.catalogue import Catalogue, roi_path
from snakemake_blocks.spec.measures import Measures, roi_of
from snakemake_blocks.spec.schema import RoiModel, VoxelRoiModel
from snakemake_blocks.storage.lattice import Lattice, StoredArray, TaskAxis
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["Region"]


@dataclass(frozen=True, slots=True)
class Region:
    """The region of a task.

    Parameters
    ----------
    arrays : Catalogue
        Knows the arrays, and takes the problems.
    task : str
        The form that it belongs to.
    place : str
        Where problems are said to be.
    roi : path, RoiModel or VoxelRoiModel, optional
        As the form has it.
    """

    arrays: Catalogue
    task: str
    place: str
    roi: str | RoiModel | VoxelRoiModel | None

    def _say(self, key: str, text: str) -> None:
        self.arrays.say(f"{self.place}.{key}", text)

    def ruler(self, reads: Mapping[str, StoredArray]) -> StoredArray | None:
        """Return the array whose voxels are counted: that of the roi, else the first one read."""
        path = roi_path(self.roi)
        if path is not None:
            return self.arrays.array(path, f"{self.place}.roi")
        return next(iter(reads.values()), None)

    def measures(self, ruler: StoredArray | None) -> Measures | None:
        """Return how the task counts, with its own numbers.

        None if its region is that of an array which is not there, or it has no numbers of its own.
        """
        found = self._axes(ruler)
        try:
            return found and replace(found, scale=found.scale_of(ruler))
        except InputError as error:
            self._say("roi", str(error))
            return None

    def _axes(self, ruler: StoredArray | None) -> Measures | None:
        roi, named = self.roi, self.arrays.named_axes
        lattice = self.arrays.lattice(self.task)
        ndim = None if roi is None or isinstance(roi, str) else self._ndim(roi)
        if (ndim is None and ruler is None) or ndim == 0:
            return None
        if ruler is not None:
            axes = ruler.task_axes(named)
            if ndim in (None, len(axes), sum(axis.is_measured for axis in axes)):
                counted = self._counted(ruler, lattice, "reads" if ndim else "roi")
                if counted is None:
                    return None
                return Measures(axes, lattice, counted, self._say, named)
        axes = (TaskAxis(""),) * (ndim or 0)
        found = Measures(axes, lattice, None, self._say, named)
        if ruler is None:
            return found
        spatial = len(ruler.task_axes(named))
        return replace(found, no_ruler=f"{ruler.path} has {spatial} spatial axes, the roi {ndim}")

    def _ndim(self, roi: RoiModel | VoxelRoiModel | None) -> int:
        """Return for how many axes a region is given by numbers; 0, and why noted, if not alike."""
        assert roi is not None  # that was said before
        place = roi.voxels if isinstance(roi, VoxelRoiModel) else roi
        if len(place.offset) == len(place.shape):
            return len(place.offset)
        lengths = f"{len(place.offset)} axes by offset, {len(place.shape)} by shape"
        self._say("roi", f"{lengths}; give both an entry per axis")
        return 0

    def _counted(self, ruler: StoredArray, lattice: Lattice, key: str) -> ArrayInfo | None:
        try:
            return ruler.info(lattice, named=self.arrays.named_axes)
        except InputError as error:
            self._say(key, str(error))
            return None

    def written(self, measures: Measures) -> Box | None:
        """Return what is written, as the plan counts; None, and why noted, if that is wrong."""
        roi = self.roi
        if roi is None or isinstance(roi, str):  # what runs once is where its first array is
            return measures.ruler.roi if measures.ruler else None
        return roi_of(measures, roi)
