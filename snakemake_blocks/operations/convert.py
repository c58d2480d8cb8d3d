"""``use: convert``: an array of another format into Zarr, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.operations.copying import Memory, bytes_of, copy_step
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import AxisName, Finite, Unit
from snakemake_blocks.storage.foreign import Correction
from snakemake_blocks.tasks.units import exact

__all__ = ["ConvertModel"]

_Size = Annotated[Finite, Field(gt=0)]


class ConvertParams(BaseModel):
    """What a file does not say, or says wrongly, and how much memory a worker may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    axes: list[AxisName] | None = Field(
        None, description="Names of all axes in the order of the file: z, y, x are those of space."
    )
    voxel_size: list[_Size] | None = Field(
        None,
        description="Per axis of space, in the order of the result; default: as the file says.",
    )
    offset: list[Finite] | None = Field(None, description="Of the first voxel's corner, likewise.")
    unit: Unit | None = Field(None, description="Of both; default: as the file says.")
    memory: Memory = Field("600 MB", description="What a worker may take; decides the block size.")


class ConvertModel(OperationModel):
    """An array of another format, or a Zarr array, copied into a new one."""

    inputs = ("source",)
    results = ("array",)
    needed_inputs = ("source",)
    needed_results = ("array",)

    use: Literal["convert"] = Field(description="Which operation.")
    params: ConvertParams = Field(
        ConvertParams.model_validate({}), description="What the file does not say."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["copy"]

    @property
    def corrections(self) -> Mapping[str, Correction]:
        """What the file does not say, or says wrongly."""
        params = self.params
        given = Correction(
            tuple(params.axes or ()),
            _exact(params.voxel_size),
            _exact(params.offset),
            params.unit or "",
        )
        return {self.main_path: given} if given != Correction() else {}

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the form of the task that does it."""
        if frame.array is not None and not frame.array.format and self.corrections:
            key = next(key for key in _OF_FILES if getattr(self.params, key) is not None)
            frame.say(f"params.{key}", "is for files of other formats; mend the attributes of Zarr")
            return {}
        return copy_step(self, frame, memory=bytes_of(self.params.memory), ome=True)


_OF_FILES = ("axes", "voxel_size", "offset", "unit")


def _exact(numbers: list[float] | None) -> tuple[Fraction, ...]:
    return tuple(map(exact, numbers or ()))
