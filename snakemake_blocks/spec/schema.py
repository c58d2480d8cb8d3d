"""The form of pipeline.yaml: its keys, their types, and what is said when they are wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from snakemake_blocks.geometry.tiling import Fit
from snakemake_blocks.storage.foreign import Correction
from snakemake_blocks.tasks.array_info import Compressor
from snakemake_blocks.tasks.borders import Border
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.resources import is_resource_name
from snakemake_blocks.tasks.task import After, Chunks, SourceChange
from snakemake_blocks.tasks.units import unit_name

__all__ = [
    "CallWord",
    "CheckModel",
    "FormModel",
    "PipelineModel",
    "ReadModel",
    "SidesModel",
    "TableModel",
    "TableReadModel",
    "TaskModel",
    "VoxelContextModel",
    "VoxelRoiModel",
    "VoxelSizesModel",
    "WriteModel",
    "one_of",
    "problems_of",
    "refuse",
    "text_kind",
]

_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
_FUNCTION = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
_TABLE = r"^[A-Za-z][A-Za-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*$"
_PATH = "must be the path of an array"
_CALLABLE = "must be a function as module:name"
_SIZES = "must be a whole number, a list with one per axis, or sizes by the names of axes"
_BLOCKS = "must be auto, a whole number, or a list with one per axis"


def text_kind(value: Any) -> str:
    """Return which member of a union a YAML value is meant to be."""
    if isinstance(value, Mapping | BaseModel):
        return "<keys>"
    return "<word>" if isinstance(value, str) else "<other>"


def _read_kind(value: Any) -> str:
    """Tell tables that are read from arrays."""
    is_table = isinstance(value, TableReadModel) or _has_key(value, "table")
    return "<table>" if is_table else text_kind(value)


def _number_kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "<list>"
    found = text_kind(value)
    return "<number>" if found == "<other>" else found


def _voxel_kind(value: Any) -> str:
    """Tell regions in voxels from others."""
    has_voxels = isinstance(value, VoxelRoiModel) or _has_key(value, "voxels")
    return "<voxels>" if has_voxels else _number_kind(value)


def _size_kind(value: Any) -> str:
    """Tell sizes in voxels, and those of both sides, from sizes by the names of axes."""
    if isinstance(value, VoxelSizesModel | VoxelContextModel) or _has_key(value, "voxels"):
        return "<voxels>"
    if isinstance(value, SidesModel) or _has_key(value, "lower") or _has_key(value, "upper"):
        return "<keys>"
    return "<names>" if isinstance(value, Mapping) else _number_kind(value)


def _has_key(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and key in value


def _scalar_kind(value: Any) -> str:
    """Tell numbers from words; anything else is an unknown kind."""
    if isinstance(value, bool):
        return "<other>"
    return {int: "<whole>", float: "<number>", str: "<word>"}.get(type(value), "<other>")


def _fill_kind(value: Any) -> str:
    """Tell whole numbers, which stay so however large, from others, and from words."""
    if isinstance(value, str):
        return "<word>" if value in list(Border) else "<other>"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "<other>"
    return "<whole>" if isinstance(value, int) else "<number>"


def refuse(text: str) -> NoReturn:
    """Refuse a form with words of ours."""
    raise PydanticCustomError("refused", "{text}", {"text": text})


def _resource_name(name: str) -> str:
    if not is_resource_name(name):
        raise PydanticCustomError("taken", "cannot be the name of a resource; choose another")
    return name


def _unit(name: str) -> str:
    found = unit_name(name)
    if not found:
        raise PydanticCustomError("unit", "is not a unit of length; write e.g. nanometer or um")
    return found


def _printable(path: str) -> str:
    """Refuse what no file can be called, or nobody could find again."""
    if not path.isprintable():
        raise PydanticCustomError("unprintable", "has control characters in it; write plain text")
    return path


def one_of(kind: Any, words: str) -> Discriminator:
    """Return a discriminator that says what may stand here when nothing fits."""
    return Discriminator(kind, custom_error_type="form", custom_error_message=words)


FunctionName = Annotated[str, StringConstraints(pattern=_FUNCTION)]
ArgumentName = Annotated[str, StringConstraints(pattern=_NAME)]
ArrayPath = Annotated[str, StringConstraints(min_length=1), AfterValidator(_printable)]
# Sums of coordinates up to this stay exact everywhere, floats included; it is 9000 km in nm.
_LARGEST = 2**53
Positive = Annotated[int, Field(ge=1, le=_LARGEST, strict=True)]
Natural = Annotated[int, Field(ge=0, le=_LARGEST, strict=True)]
Integer = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST, strict=True)]
Number = Annotated[float, Field(strict=True)]
# What an array of whole numbers can hold at all.
Whole = Annotated[int, Field(ge=-(2**63), le=2**64 - 1, strict=True)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
AxisName = Annotated[str, StringConstraints(min_length=1)]
Sizes = Annotated[
    Annotated[Natural, Tag("<number>")]
    | Annotated[list[Natural], Tag("<list>")]
    | Annotated[dict[AxisName, Natural], Tag("<names>")],
    one_of(_size_kind, _SIZES),
]


Fill = Annotated[
    Annotated[Whole, Tag("<whole>")]
    | Annotated[Number, Tag("<number>")]
    | Annotated[Border, Tag("<word>")],
    one_of(_fill_kind, f"must be a number, or one of {', '.join(Border)}"),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SidesModel(_Model):
    """Context that differs below and above."""

    lower: Sizes = Field(0, description="Towards smaller coordinates.")
    upper: Sizes = Field(0, description="Towards larger coordinates.")


_SIDES = f"{_SIZES}, or {{lower: ..., upper: ...}}"
Sides = Annotated[
    Annotated[Natural, Tag("<number>")]
    | Annotated[list[Natural], Tag("<list>")]
    | Annotated[dict[AxisName, Natural], Tag("<names>")]
    | Annotated[SidesModel, Tag("<keys>")],
    one_of(_size_kind, _SIDES),
]


class VoxelContextModel(_Model):
    """Context counted in voxels."""

    voxels: Sides = Field(description="A number, one per axis, or lower and upper.")


Context = Annotated[
    Annotated[Natural, Tag("<number>")]
    | Annotated[list[Natural], Tag("<list>")]
    | Annotated[dict[AxisName, Natural], Tag("<names>")]
    | Annotated[SidesModel, Tag("<keys>")]
    | Annotated[VoxelContextModel, Tag("<voxels>")],
    one_of(_size_kind, f"{_SIDES}, or {{voxels: ...}}"),
]
BlockSizes = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[list[Positive], Tag("<list>")]
    | Annotated[dict[AxisName, Positive], Tag("<names>")],
    one_of(_size_kind, _SIZES),
]


class VoxelSizesModel(_Model):
    """Sizes counted in voxels."""

    voxels: BlockSizes = Field(description="A number for all axes, or one per axis.")


BlockSize = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[list[Positive], Tag("<list>")]
    | Annotated[dict[AxisName, Positive], Tag("<names>")]
    | Annotated[VoxelSizesModel, Tag("<voxels>")],
    one_of(_size_kind, f"{_SIZES}, or {{voxels: ...}}"),
]
Select = dict[AxisName, Natural]
Layout = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[list[Positive], Tag("<list>")]
    | Annotated[dict[AxisName, Positive], Tag("<names>")]
    | Annotated[Literal["auto"], Tag("<word>")],
    one_of(_size_kind, f"must be auto, or {_SIZES.removeprefix('must be ')}"),
]


class ReadModel(_Model):
    """An array that is read."""

    array: ArrayPath = Field(description="Path of the array, relative to this file.")
    fill: Fill | None = Field(
        None, description="Outside of the array: a value, or how it goes on; none: an error."
    )
    context: Context | None = Field(
        None, description="Read beyond what is written, as the task's; default: that."
    )
    select: Select = Field({}, description="One index of an axis, by its name; it is not seen.")


class TableReadModel(_Model):
    """A table of another task that is read."""

    table: str = Field(pattern=_TABLE, description="task.table: whose, and which.")
    whole: Flag = Field(
        False, description="All rows, for every block; default: of the blocks that it meets."
    )
    batches: Flag = Field(
        False, description="With call: once: tables of some blocks each, one after the other."
    )


class TableModel(_Model):
    """A table that is made: rows that the function returns for a block."""

    columns: dict[ArgumentName, str] = Field(
        min_length=1, description="Types by name: numpy's, string, or several as float64[3]."
    )
    parquet: ArrayPath | None = Field(
        None, description="Written when the task is done, relative to this file."
    )


class WriteModel(_Model):
    """An array that is written; it is made when it does not exist."""

    array: ArrayPath = Field(description="Path of the array, relative to this file.")
    dtype: str = Field(description="numpy name of the type, e.g. float32.")
    channels: list[Positive] = Field([], description="Extents of leading channel axes.")
    voxel_size: BlockSize | None = Field(
        None,
        description="In world units, or voxels of the roi's array; default: that of this array.",
    )
    select: Select = Field({}, description="One index of an axis, by its name; others stay.")
    chunks: Layout = Field("auto", description="Voxels of a chunk: per axis, by names, or auto.")
    shards: Layout | None = Field(
        None,
        description="Voxels of a shard, or auto: whole blocks, or boxes of them; default: none.",
    )
    compressor: Compressor = Field(
        Compressor.AUTO, description="How chunks are compressed; auto: as others in the store."
    )
    zarr_format: Literal[2, 3] | None = Field(
        None, description="Of a store that is not there yet; default: as its store, else 3."
    )
    ome: Flag = Field(
        False, description="Called 0, s0, ..., it is a level of OME-Zarr in a store of any name."
    )


class RoiModel(_Model):
    """A region in world units."""

    offset: list[Integer] = Field(min_length=1, description="First coordinate of every axis.")
    shape: list[Positive] = Field(min_length=1, description="Extent of every axis.")


class VoxelRoiModel(_Model):
    """A region counted in voxels."""

    voxels: RoiModel = Field(description="offset and shape, from the array's first voxel on.")
    array: ArrayPath | None = Field(
        None, description="Whose voxels; default: those of the first array read."
    )


class CheckModel(_Model):
    """Functions that tell whether a block is done, before and after it ran."""

    before: FunctionName | None = Field(None, description="True: the block is done already.")
    after: FunctionName | None = Field(None, description="False: the attempt failed.")


ReadForm = Annotated[
    Annotated[ArrayPath, Tag("<word>")]
    | Annotated[ReadModel, Tag("<keys>")]
    | Annotated[TableReadModel, Tag("<table>")],
    one_of(_read_kind, f"{_PATH}, or {{array: ..., fill: ..., context: ...}}, or {{table: ...}}"),
]
RoiForm = Annotated[
    Annotated[ArrayPath, Tag("<word>")]
    | Annotated[RoiModel, Tag("<keys>")]
    | Annotated[VoxelRoiModel, Tag("<voxels>")],
    one_of(_voxel_kind, f"{_PATH}, or {{offset: [...], shape: [...]}}, by themselves or as voxels"),
]
CheckForm = Annotated[
    Annotated[FunctionName, Tag("<word>")] | Annotated[CheckModel, Tag("<keys>")],
    one_of(text_kind, f"{_CALLABLE}, or {{before: ..., after: ...}}"),
]
BlocksPerJob = Annotated[
    Annotated[Positive, Tag("<number>")]
    | Annotated[list[Positive], Tag("<list>")]
    | Annotated[Literal["auto"], Tag("<word>")],
    one_of(_number_kind, _BLOCKS),
]
Timeout = Annotated[
    Annotated[Finite, Tag("<number>")]
    | Annotated[Integer, Tag("<whole>")]
    | Annotated[str, Tag("<word>")],
    one_of(_scalar_kind, "must be seconds, or a time like 90s, 10m, 2h, 1d"),
]
ResourceName = Annotated[str, StringConstraints(pattern=_NAME), AfterValidator(_resource_name)]
Resource = Annotated[
    Annotated[Natural, Tag("<whole>")]
    | Annotated[Finite, Field(ge=0), Tag("<number>")]
    | Annotated[str, Tag("<word>")],
    one_of(_scalar_kind, "must be a number or text"),
]


class AfterModel(_Model):
    """A task to wait for."""

    task: str = Field(description="Its name.")
    whole: Flag = Field(False, description="Every block waits for all of it.")


AfterForm = Annotated[
    Annotated[str, Tag("<word>")] | Annotated[AfterModel, Tag("<keys>")],
    one_of(text_kind, "must be the name of a task, or {task: ..., whole: true}"),
]

_INNER: dict[str, type[BaseModel]] = {
    "reads": ReadModel,
    "writes": WriteModel,
    "tables": TableModel,
    "roi": RoiModel,
    "context": SidesModel,
    "block_size": VoxelSizesModel,
    "check": CheckModel,
    "after": AfterModel,
}


class CallWord(StrEnum):
    """How the function of a task is called, as users write it."""

    BLOCK = "block"
    ARRAYS = "arrays"
    WORKER = "worker"
    ONCE = "once"
    REDUCE = "reduce"


class FormModel(_Model):
    """What forms under ``tasks`` have in common."""

    # Reads that have no place among blocks, such as look-up tables.
    aside: ClassVar[Sequence[str]] = ()
    # What stands in the places of problems for this form.
    mark: ClassVar[str] = "<task>"

    reads: dict[ArgumentName, ReadForm] = Field({}, description="Arrays read, by argument name.")
    roi: RoiForm | None = Field(
        None, description="Region to WRITE: an array's, or offset and shape; call: once needs none."
    )
    block_size: BlockSize | None = Field(
        None, description="What one block writes, in world units or voxels; call: once has none."
    )
    mask: ArrayPath | None = Field(None, description="Array whose zeros need no processing.")
    retries: Natural = Field(2, description="Attempts of a block in one run, less one.")
    timeout: Timeout | None = Field(None, description="Per attempt: seconds, or 10m, 2h.")
    workers: Positive = Field(1, description="Processes per job.")
    threads: Positive = Field(1, description="Threads per worker.")
    max_workers: Positive | None = Field(None, description="Processes over all jobs.")
    blocks_per_job: BlocksPerJob = Field("auto", description="Number, box, or auto.")
    source: SourceChange = Field(
        SourceChange.WARN, description="When the function's source changed since blocks were done."
    )
    resources: dict[ResourceName, Resource] = Field({}, description="Snakemake resources.")
    after: list[AfterForm] = Field(
        [], description="Upstream tasks, beside those that arrays tell; whole: wait for all of it."
    )

    @property
    def written_paths(self) -> list[str]:
        """The arrays that it writes."""
        return []

    @property
    def corrections(self) -> Mapping[str, Correction]:
        """What files of other formats that it reads do not say, or say wrongly, by their paths."""
        return {}

    @property
    def waits(self) -> list[After]:
        """The upstream tasks that are named."""
        return [After(u) if isinstance(u, str) else After(u.task, u.whole) for u in self.after]


class TaskModel(FormModel):
    """One blockwise task."""

    function: FunctionName | None = Field(
        None, description="module:name, importable from this folder."
    )
    call: CallWord = Field(CallWord.BLOCK, description="How the function is called.")
    map: FunctionName | None = Field(
        None, description="With call: reduce: makes rows of a block; default: the table read is."
    )
    merge: FunctionName | None = Field(
        None, description="With call: reduce: f(a, b) or f(rows), rows of blocks into one's."
    )
    params: dict[ArgumentName, Any] = Field({}, description="Keyword arguments of the function.")
    writes: dict[ArgumentName, WriteModel] = Field({}, description="Arrays written, by name.")
    tables: dict[ArgumentName, TableModel] = Field({}, description="Tables made, by name.")
    outputs: list[ArrayPath] = Field(
        [], description="Files and folders made beside arrays and tables, relative to this file."
    )
    then: FunctionName | None = Field(
        None, description="f(returned, block): makes what is stored of what the function returned."
    )
    set_up: FunctionName | None = Field(
        None, description="Runs once before the first block, with the params that it takes."
    )
    before_block: FunctionName | None = Field(
        None, description="f(block), called before a block runs again; gets params that it takes."
    )
    context: Context = Field(
        0, description="Read beyond what is written, in world units or voxels."
    )
    fit: Fit = Field(Fit.VALID, description="What to do where the roi is no multiple of a block.")
    conflict: Flag = Field(True, description="Blocks read what their neighbours write.")
    check: CheckForm | None = Field(
        None, description="Tells whether a block is done: before, or before and after."
    )
    chunks: Chunks = Field(Chunks.COLOR, description="When blocks share a storage chunk.")

    @property
    def kind(self) -> Call:
        """How the function is called for a block; a reduction begins with arrays."""
        return Call.ARRAYS if self.call is CallWord.REDUCE else Call(self.call)

    @property
    def written_paths(self) -> list[str]:
        """The arrays that it writes."""
        return [write.array for write in self.writes.values()]


Unit = Annotated[str, AfterValidator(_unit)]
TaskName = Annotated[str, StringConstraints(pattern=_NAME)]


class PipelineModel(_Model):
    """A pipeline.yaml."""

    tasks: dict[TaskName, TaskModel] = Field(min_length=1, description="Tasks by name.")
    run_directory: ArrayPath = Field("blocks", description="Where state is kept.")
    unit: Unit | None = Field(
        None, description="What a world unit is, e.g. nanometer: arrays are converted to it."
    )


# What pydantic puts into places beside keys; a user may have such keys, too.
_MARKS = frozenset(
    {
        "<keys>",
        "<word>",
        "<other>",
        "<list>",
        "<number>",
        "<names>",
        "<table>",
        "<whole>",
        "<voxels>",
        "<task>",
        "[key]",
    }
)


def _is_mark(part: Any) -> bool:
    return part in _MARKS or str(part).startswith("<use ")


def problems_of(error: ValidationError) -> list[tuple[tuple[Any, ...], str]]:
    """Return the place and our words for everything that a form says is wrong."""
    found: dict[tuple[tuple[Any, ...], str], None] = {}
    for entry in error.errors():
        loc = tuple(p for p in entry["loc"] if not _is_mark(p)) or entry["loc"]
        found.setdefault((loc, _words(entry, loc)))
    return list(found)


_MUST_BE = {
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list in brackets",
    "model": "a mapping of keys to values",
    "string": "text",
}


_TEXTS = {
    "array": _PATH,
    "mask": _PATH,
    "function": _CALLABLE,
    "map": _CALLABLE,
    "merge": _CALLABLE,
    "set_up": _CALLABLE,
    "then": _CALLABLE,
    "before_block": _CALLABLE,
    "before": _CALLABLE,
    "after": _CALLABLE,
}


def _words(entry: Any, loc: tuple[Any, ...]) -> str:
    """Return one pydantic error in our words."""
    kind, context, value = entry["type"], entry.get("ctx", {}), entry["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown(loc, entry["loc"])
    if kind in ("taken", "unit", "unprintable", "refused"):
        return str(entry["msg"])
    if kind == "string_pattern_mismatch":
        return _misnamed(context["pattern"], value)
    if "[key]" in entry["loc"] and kind == "string_type":
        return f"YAML reads this name as {_shown(value)}; put it in quotes"
    return f"{_must_be(entry, context, str(loc[-1]))}, got {_shown(value)}"


def _must_be(entry: Any, context: Mapping[str, Any], key: str) -> str:
    kind = entry["type"]
    if kind == "string_type" and key in _TEXTS:
        return _TEXTS[key]
    if context.get("class_name") == "WriteModel":
        return "must be {array: ..., dtype: ...}"
    if kind in ("greater_than_equal", "less_than_equal"):
        least = "ge" in context
        return f"must be at {'least' if least else 'most'} {context['ge' if least else 'le']}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "literal_error":
        return _BLOCKS if key == "blocks_per_job" else f"must be auto, or {_SIZES[8:]}"
    if kind == "enum":
        return "must be " + str(context["expected"]).replace("'", "")
    if kind == "finite_number":
        return "must be a finite number"
    what = _MUST_BE.get(re.sub(r"_(type|parsing|from_float|attributes_type)$", "", kind))
    return f"must be {what}" if what else str(entry["msg"])


def _unknown(loc: tuple[Any, ...], marked: tuple[Any, ...]) -> str:
    """Return what to say of a key that does not exist, with the one that may be meant."""
    key = str(loc[-1])
    known = list(_model_at(loc[:-1], marked).model_fields)
    near = difflib.get_close_matches(key.lower(), known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is not a known key; {hint}"


def _model_at(loc: tuple[Any, ...], marked: tuple[Any, ...]) -> type[BaseModel]:
    """Return which form the keys at a place belong to; marks tell which operation's."""
    if len(loc) < 2:
        return PipelineModel
    form = next((f for f in _forms(FormModel) if marked[2:3] == (f.mark,)), TaskModel)
    if len(loc) == 2:
        return form
    if "context" in loc[2:]:
        return SidesModel
    inner = form.model_fields[loc[2]].annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return inner
    return _INNER[loc[2]]


def _forms(form: type[FormModel]) -> Iterator[type[FormModel]]:
    for inner in form.__subclasses__():
        yield inner
        yield from _forms(inner)


def _misnamed(pattern: str, value: Any) -> str:
    if pattern == _TABLE:
        return f"must be the name of a task and of its table, as task.table, got {_shown(value)}"
    if pattern == _FUNCTION:
        return f"{_CALLABLE}, got {_shown(value)}"
    return "a name here has to begin with a letter; only letters, digits and _ may follow"


def _shown(value: Any) -> str:
    """Return a value as YAML writes it, cut short."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
