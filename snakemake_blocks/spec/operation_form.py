"""The form of a task with ``use``: an operation, which is expanded to ordinary tasks.

What each operation does is told by the classes of :mod:`snakemake_blocks.operations`; this module
knows what they have in common, and nothing of any of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, ClassVar, Union

from pydantic import Field, Tag, create_model, model_validator

from snakemake_blocks.spec.schema import (
    ArgumentName,
    ArrayPath,
    FormModel,
    PipelineModel,
    TableModel,
    TaskModel,
    TaskName,
    WriteModel,
    one_of,
    refuse,
    text_kind,
)
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["Frame", "OperationModel", "OutputModel", "Step", "json_schema", "pipeline_model"]

Step = dict[str, Any]
"""The form of an ordinary task, as YAML has it."""


class OutputModel(WriteModel):
    """An array that an operation writes."""

    dtype: str = Field("", description="numpy name of the type; default: what fits the operation.")


class OutputTableModel(TableModel):
    """A table that an operation makes; it knows the columns."""

    columns: dict[ArgumentName, str] = Field({}, description="As they are; only for reading.")


OutputForm = Annotated[
    Annotated[ArrayPath, Tag("<word>")] | Annotated[OutputModel, Tag("<keys>")],
    one_of(text_kind, "must be the path of an array, or {array: ..., chunks: ...}"),
]


@dataclass(frozen=True, slots=True)
class Frame:
    """What an operation knows when it is expanded.

    Parameters
    ----------
    task : str
        The name in the pipeline.
    folder : Path
        Where paths begin.
    look : callable
        Returns the array at a path; None, and a problem noted at the key, if there is none.
    say : callable
        Takes the key and the text of what is wrong.
    array : StoredArray, optional
        The main input, where there is one.
    axes : tuple of str
        Names of the axes along which blocks are cut, empty strings where unknown.
    offset, shape, block : tuple of int
        The region to write, and what a block writes of it, in voxels of the main input.
    voxel_size : tuple of float
        In world units.
    units : tuple of str
        Of the axes, empty where unknown.
    channels : tuple of int
        Extents of the main input's other axes that are seen.
    begin : tuple of float
        Where the region begins, in world units.
    seen : mapping of str to ArrayInfo
        The arrays that it reads, as its blocks see them; without those aside.
    """

    task: str
    folder: Path
    look: Callable[[str, str], StoredArray | None]
    say: Callable[[str, str], None]
    array: StoredArray | None = None
    axes: tuple[str, ...] = ()
    offset: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    voxel_size: tuple[float, ...] = ()
    units: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    begin: tuple[float, ...] = ()
    seen: Mapping[str, ArrayInfo] = field(default_factory=dict)

    @property
    def ndim(self) -> int:
        """Number of axes along which blocks are cut."""
        return len(self.shape)


class OperationModel(FormModel):
    """A task with ``use``: an operation, done by ordinary tasks called ``<task>_<step>``."""

    # What the reads and writes of an operation can be called; the first one read is the main one.
    inputs: ClassVar[Sequence[str]] = ()
    results: ClassVar[Sequence[str]] = ()
    # Whether reads can have any names: a function of the user gets them.
    takes_any: ClassVar[bool] = False
    # Those that have to be given.
    needed_inputs: ClassVar[Sequence[str]] = ()
    needed_results: ClassVar[Sequence[str]] = ()
    # Libraries that its functions import, and the extra of this package that brings them.
    libraries: ClassVar[Sequence[str]] = ()
    extra: ClassVar[str] = "operations"
    # Its tables that can be named, to have them written to a file.
    made: ClassVar[Sequence[str]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        cls.mark = f"<use {word_of(cls)}>"

    use: str = Field(description="Which operation.")
    writes: dict[ArgumentName, OutputForm] = Field({}, description="Arrays written, by name.")
    tables: dict[ArgumentName, OutputTableModel] = Field(
        {}, description="Where tables that it makes are written."
    )
    steps: dict[str, dict[str, Any]] = Field(
        {}, description="Keys of the tasks that it becomes, by what follows the task's name."
    )

    @model_validator(mode="after")
    def _names(self) -> OperationModel:
        for key, names in (("reads", self.inputs), ("writes", self.results)):
            for name in getattr(self, key):
                if name not in names and not (self.takes_any and key == "reads"):
                    refuse(
                        f"{self.use} has {key} called {' or '.join(names) or 'nothing'}, not {name}"
                    )
        for name in self.tables.keys() - set(self.made):
            refuse(
                f"{self.use} has tables called {' or '.join(self.made) or 'nothing'}, not {name}"
            )
        for key, names in (("reads", self.needed_inputs), ("writes", self.needed_results)):
            for name in names:
                if name not in getattr(self, key):
                    refuse(f"{self.use} needs {key}: {{{name}: ...}}")
        return self

    @property
    def outputs_of(self) -> dict[str, OutputModel]:
        """The arrays written, by name; paths alone as forms."""
        return {
            name: OutputModel.model_validate({"array": form}) if isinstance(form, str) else form
            for name, form in self.writes.items()
        }

    @property
    def written_paths(self) -> list[str]:
        """The arrays that it may write."""
        return [write.array for write in self.outputs_of.values()]

    @property
    def main(self) -> str:
        """What its main input is called, empty if it has none."""
        return next((name for name in self.inputs if name in self.reads), "")

    @property
    def main_path(self) -> str:
        """The main input, empty if there is none."""
        form = self.reads[self.main] if self.main else ""
        return form if isinstance(form, str) else getattr(form, "array", "")

    def select_of(self, name: str) -> Mapping[str, int]:
        """Return the one index of some axes that is seen of an array."""
        return getattr(self.reads[name], "select", {})

    @property
    @abstractmethod
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""

    @abstractmethod
    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it, by what follows the task's name.

        They are in an order in which each comes after those that it reads.
        """

    def blockwise(self, frame: Frame, form: Step) -> Step:
        """Return the form of a step that has the blocks of this one, with all that was given."""
        common = ("roi", "mask", *_OF_BLOCKS, *_OF_ALL)
        given = {key: self._given(key) for key in common if key in self.model_fields_set}
        if not isinstance(given.get("roi", ""), str):  # also steps that read no array count so
            voxels = {"offset": list(frame.offset), "shape": list(frame.shape)}
            given["roi"] = {"array": self.main_path, "voxels": voxels}
        place = {"roi": self.main_path, "block_size": {"voxels": list(frame.block)}}
        return {"call": "arrays", "fit": "shrink", **place, **given, **form}

    def once(self, form: Step) -> Step:
        """Return the form of a step that runs once."""
        given = {key: self._given(key) for key in _OF_ALL if key in self.model_fields_set}
        return {"call": "once", **given, **form}

    def is_one_channel(self, frame: Frame) -> bool:
        """Tell whether the main input has the axes of blocks alone; else a problem is noted."""
        if frame.channels:
            text = f"has further axes of {list(frame.channels)}; select one index of each"
            frame.say(f"reads.{self.main}", text)
        return not frame.channels

    def read(self, name: str, **more: Any) -> Any:
        """Return the form of a read of this form, with further keys."""
        form = self.reads[name]
        known = {"array": form} if isinstance(form, str) else form.model_dump(exclude_unset=True)
        return {**known, **more}

    def write(self, name: str, **more: Any) -> dict[str, Any]:
        """Return the form of a write of this form, with keys where it says nothing."""
        given = self.outputs_of[name].model_dump(exclude_unset=True)
        return {**more, **given}

    def table(self, name: str, columns: Mapping[str, str]) -> Step:
        """Return the form of a table, with where this form has it written."""
        given = self.tables.get(name)
        parquet = {} if given is None or given.parquet is None else {"parquet": given.parquet}
        return {"columns": dict(columns), **parquet}

    def _given(self, key: str) -> Any:
        value = self.model_dump(include={key}, exclude_unset=True, mode="json")
        return value[key]


_OF_ALL = ("retries", "timeout", "resources", "source", "after")
_OF_BLOCKS = ("workers", "threads", "max_workers", "blocks_per_job")


def pipeline_model(operations: Sequence[type[OperationModel]]) -> type[PipelineModel]:
    """Return the form of a pipeline in which tasks may use some operations."""
    if not operations:
        return PipelineModel
    words = {word_of(operation): operation for operation in operations}

    def mark_of(value: Any) -> str | None:
        if isinstance(value, FormModel):
            return value.mark
        if not isinstance(value, Mapping) or "use" not in value:
            return TaskModel.mark
        use = value["use"]
        return words[use].mark if isinstance(use, str) and use in words else None

    forms: list[type[FormModel]] = [TaskModel, *operations]
    union: Any = Union[tuple(Annotated[form, Tag(form.mark)] for form in forms)]  # noqa: UP007
    one = one_of(mark_of, f"use must be one of {', '.join(words)}")
    tasks: Any = GenericAlias(dict, (TaskName, Annotated[union, one]))
    return create_model(
        "PipelineModel",
        __base__=PipelineModel,
        __doc__=PipelineModel.__doc__,
        tasks=(tasks, PipelineModel.model_fields["tasks"]),
    )


def word_of(operation: type[OperationModel]) -> str:
    """Return what ``use`` calls an operation."""
    (word,) = operation.model_fields["use"].annotation.__args__  # type: ignore[union-attr]
    return str(word)


def json_schema(operations: Sequence[type[OperationModel]]) -> dict[str, Any]:
    """Return the JSON schema of pipeline.yaml; editors check and complete with it."""
    schema = pipeline_model(operations).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
