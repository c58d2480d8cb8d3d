"""``use: watershed``: basins around seeds, block by block, ready for ``stitch``."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.grid import VoxelGrid
from snakemake_blocks.operations.label import components
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import Context

__all__ = ["WatershedModel", "basins", "fragments"]

_HERE = "snakemake_blocks.operations.watershed"


class WatershedParams(BaseModel):
    """Where seeds are, and how far basins reach."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_distance: int = Field(
        5, ge=1, strict=True, description="Between seeds that are found, in voxels."
    )
    by_distance: bool = Field(
        False, description="Seeds and basins by the distance to the background of mask."
    )
    threshold: float | None = Field(
        None, description="Voxels of the image above belong to no basin; default: all do."
    )
    connectivity: int = Field(
        1, ge=1, strict=True, description="Axes along which neighbours may differ."
    )


class WatershedModel(OperationModel):
    """Basins of an image around seeds, with ids that no two blocks share."""

    inputs = ("image", "mask", "seeds")
    results = ("labels",)
    libraries = ("scipy", "skimage")
    needed_results = ("labels",)

    use: Literal["watershed"] = Field(description="Which operation.")
    context: Context = Field(0, description="What is seen beyond a block.")
    params: WatershedParams = Field(
        WatershedParams.model_validate({}), description="Where seeds are, and how far basins reach."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["fragments"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        params = self.params
        if "image" not in self.reads and not (params.by_distance and "mask" in self.reads):
            text = "watershed reads an image, or a mask with params: {by_distance: true}"
            frame.say("reads", text)
            return {}
        if not self.is_one_channel(frame):
            return {}
        if params.connectivity > frame.ndim:
            frame.say("params.connectivity", f"is at most the number of axes, {frame.ndim}")
            return {}
        context = self._given("context") if "context" in self.model_fields_set else 0
        return {
            "fragments": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:fragments",
                    "params": {
                        **params.model_dump(),
                        "shape": list(frame.shape),
                        "size": list(frame.block),
                    },
                    "reads": {name: self.read(name) for name in self.reads},
                    "context": context,
                    "writes": {"labels": self.write("labels", dtype="uint64")},
                },
            )
        }


def basins(
    image: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    seeds: NDArray[Any] | None = None,
    *,
    min_distance: int = 5,
    by_distance: bool = False,
    threshold: float | None = None,
    connectivity: int = 1,
) -> NDArray[Any]:
    """Return the basins of an image; a function for ``use: stitch``, too.

    Parameters
    ----------
    image : ndarray
        Low where objects are, and high between them, such as boundaries.
    mask : ndarray
        Where it is 0, there is no basin.
    seeds : ndarray
        Labels that grow; without them the local minima, at least ``min_distance`` apart.
    min_distance : int
        In voxels.
    by_distance : bool
        Whether basins are those of the distance to the background of the mask.
    threshold : float
        Voxels of the image above belong to no basin.
    connectivity : int
        Axes along which neighbours may differ.

    Returns
    -------
    ndarray
        Labels: of the seeds, or from 1 on; 0 is the background.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    inside = None if mask is None else mask != 0
    if threshold is not None and image is not None:
        low = image <= threshold
        inside = low if inside is None else inside & low
    if by_distance:
        if inside is None:
            raise InputError("by_distance needs a mask, or an image and a threshold")
        image = -ndimage.distance_transform_edt(inside)
    if image is None:
        raise InputError("watershed needs an image, or a mask and by_distance")
    if inside is not None and not inside.any():
        return np.zeros(image.shape, np.int64)
    if seeds is None:
        # In each piece of the inside there is a seed, however small it is.
        labels = None if inside is None else components(inside, connectivity)[0].astype(np.int64)
        height = -image.astype(np.float64) if image.dtype.kind in "ub" else -image
        places = peak_local_max(
            height, min_distance=min_distance, exclude_border=False, labels=labels
        )
        seeds = np.zeros(image.shape, np.int64)
        places = places[np.lexsort(places.T[::-1])]
        seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    found = watershed(image, seeds.astype(np.int64), mask=inside, connectivity=connectivity)
    return np.asarray(found)


def fragments(
    block: Block,
    shape: list[int],
    size: list[int],
    image: NDArray[Any] | None = None,
    mask: NDArray[Any] | None = None,
    seeds: NDArray[Any] | None = None,
    **how: Any,
) -> NDArray[np.uint64]:
    """Return the basins of a block and its context, with ids that no two blocks share.

    Labels of seeds that are given stay as they are, so that blocks agree on them.

    Parameters
    ----------
    block : Block
        Its index tells which ids it has.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.
    image, mask, seeds
        As for :func:`basins`.
    **how
        Its further arguments.

    Raises
    ------
    InputError
        If a block and its context have more basins than a block has ids.
    """
    found = basins(image, mask, seeds, **how).astype(np.uint64)
    if seeds is not None:
        return found
    # As many ids as voxels that a block can see have room: ids stay short for small volumes.
    room = np.uint64(int(np.prod([3 * n for n in size])))
    if found.max(initial=0) >= room:
        raise InputError(f"{found.max()} basins; use less context or a larger min_distance")
    first = np.uint64(VoxelGrid(shape, size).number(block.index)) * room
    return np.where(found > 0, found + first, np.uint64(0))
