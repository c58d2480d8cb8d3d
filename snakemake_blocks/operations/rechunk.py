"""``use: rechunk``: the same values in other chunks, shards, compression or Zarr format."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.operations.copying import Memory, bytes_of, copy_step
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step

__all__ = ["RechunkModel"]


class RechunkParams(BaseModel):
    """How much memory a worker may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    memory: Memory = Field("600 MB", description="What a worker may take; decides the block size.")


class RechunkModel(OperationModel):
    """A Zarr array, copied into one that is stored in another way."""

    inputs = ("source",)
    results = ("array",)
    needed_inputs = ("source",)
    needed_results = ("array",)

    use: Literal["rechunk"] = Field(description="Which operation.")
    params: RechunkParams = Field(
        RechunkParams.model_validate({}), description="How much memory a worker may take."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["copy"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the form of the task that does it."""
        array, write = frame.array, self.outputs_of["array"]
        if array is not None and write.dtype not in ("", array.dtype):
            frame.say("writes.array.dtype", f"stays {array.dtype}; use: convert for another one")
            return {}
        return copy_step(self, frame, memory=bytes_of(self.params.memory))
