"""pipeline.yaml: the only module that knows YAML and pydantic."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from funlib.geometry import Roi
from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic import ValidationError as PydanticError

from snakemake_blocks.array_info import ArrayInfo
from snakemake_blocks.arrays import block_presence, chunk_shape, describe
from snakemake_blocks.box import Box, Index
from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.pipeline import Pipeline
from snakemake_blocks.task import Call, Chunks, Read, Task, Write
from snakemake_blocks.tiling import Fit, Grid

__all__ = ["PipelineModel", "json_schema", "load_pipeline"]

_TASK_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

FunctionName = Annotated[str, StringConstraints(pattern=f"^{_FUNCTION}$")]
Positive = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Integer = Annotated[int, Field(strict=True)]


def _kind(value: Any) -> str:
    """Return which member of a union a YAML value is meant to be."""
    return "<keys>" if isinstance(value, Mapping | BaseModel) else "<short>"


def _number_kind(value: Any) -> str:
    if isinstance(value, str):
        return "<word>"
    return "<list>" if isinstance(value, list | tuple) else _kind(value)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadModel(_Model):
    """An array that is read."""

    array: str = Field(description="Path of the array, relative to this file.")
    fill: float | None = Field(None, description="Value outside of the array; none: an error.")


class WriteModel(_Model):
    """An array that is written; it is made when it does not exist."""

    array: str = Field(description="Path of the array, relative to this file.")
    dtype: str = Field(description="numpy name of the type, e.g. float32.")
    channels: list[Positive] = Field([], description="Extents of leading channel axes.")
    voxel_size: list[Positive] | None = Field(
        None, description="World units per voxel; default: that of the first array read."
    )


class RoiModel(_Model):
    """A region in world units."""

    offset: list[Integer] = Field(description="First coordinate of every axis.")
    shape: list[Positive] = Field(description="Extent of every axis.")


class ContextModel(_Model):
    """Context that differs below and above."""

    lower: Natural | list[Natural] = 0
    upper: Natural | list[Natural] = 0


class CheckModel(_Model):
    """Functions that tell whether a block is done, before and after it ran."""

    before: FunctionName | None = None
    after: FunctionName | None = None


Path_ = Annotated[str, Tag("<short>")]
Context = Annotated[
    Annotated[Natural, Tag("<short>")]
    | Annotated[list[Natural], Tag("<list>")]
    | Annotated[ContextModel, Tag("<keys>")],
    Discriminator(_number_kind),
]
BlocksPerJob = Annotated[
    Annotated[Positive, Tag("<short>")]
    | Annotated[list[Positive], Tag("<list>")]
    | Annotated[Literal["auto"], Tag("<word>")],
    Discriminator(_number_kind),
]


class TaskModel(_Model):
    """One blockwise task."""

    function: FunctionName = Field(description="module:name, importable from this folder.")
    call: Call = Field(Call.BLOCK, description="How the function is called.")
    params: dict[str, Any] = Field({}, description="Keyword arguments of the function.")
    reads: dict[
        str,
        Annotated[Path_ | Annotated[ReadModel, Tag("<keys>")], Discriminator(_kind)],
    ] = Field({}, description="Arrays read, by argument name.")
    writes: dict[str, WriteModel] = Field({}, description="Arrays written, by name.")
    roi: Annotated[Path_ | Annotated[RoiModel, Tag("<keys>")], Discriminator(_kind)] = Field(
        description="Region to WRITE: an array's, or offset and shape."
    )
    block_size: list[Positive] = Field(description="What one block writes, in world units.")
    context: Context = Field(0, description="Read beyond what is written, in world units.")
    fit: Fit = Field(Fit.VALID, description="What to do where the roi is no multiple of a block.")
    conflict: bool = Field(True, description="Blocks read what their neighbours write.")
    mask: str | None = Field(None, description="Array whose zeros need no processing.")
    check: (
        Annotated[
            Annotated[FunctionName, Tag("<short>")] | Annotated[CheckModel, Tag("<keys>")],
            Discriminator(_kind),
        ]
        | None
    ) = Field(None, description="Tells whether a block is done: before, or before and after.")
    retries: Natural = Field(2, description="Attempts of a block in one run, less one.")
    timeout: float | str | None = Field(None, description="Per attempt: seconds, or 10m, 2h.")
    workers: Positive = Field(1, description="Processes per job.")
    threads: Positive = Field(1, description="Threads per worker.")
    max_workers: Positive | None = Field(None, description="Processes over all jobs.")
    blocks_per_job: BlocksPerJob = Field("auto", description="Number, box, or auto.")
    chunks: Chunks = Field(Chunks.COLOR, description="When blocks share a storage chunk.")
    resources: dict[str, int | float | str] = Field({}, description="Snakemake resources.")
    after: list[str] = Field([], description="Upstream tasks, beside those that arrays tell.")


class PipelineModel(_Model):
    """A pipeline.yaml."""

    tasks: dict[Annotated[str, StringConstraints(pattern=f"^{_TASK_NAME}$")], TaskModel] = Field(
        min_length=1, description="Tasks by name."
    )
    run_directory: str = Field("blocks", description="Where state is kept.")


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of pipeline.yaml; editors check and complete with it."""
    schema = PipelineModel.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def load_pipeline(path: Path | str) -> Pipeline:
    """Return the pipeline that a YAML file describes, with all arrays looked up.

    Raises
    ------
    SpecError
        With every problem of the file at once.
    """
    path = Path(path)
    model = _parse(path)
    reader = _Reader(path, model)
    tasks = reader.tasks()
    if reader.problems:
        raise SpecError([f"{path.name}: {problem}" for problem in reader.problems])
    try:
        return Pipeline.from_tasks(
            tasks,
            folder=path.parent,
            run_directory=path.parent / model.run_directory,
            name=path.name,
        )
    except SpecError as error:
        raise SpecError([f"{path.name}: {p}" for p in error.problems]) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> PipelineModel:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason})") from None
    try:
        data = yaml.load(text, _UniqueKeyLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise SpecError(
            [f"{path.name}:{line} is not YAML: {getattr(error, 'problem', error)}"]
        ) from None
    if not isinstance(data, dict):
        raise SpecError([f"{path.name}: must be a mapping with the key tasks"])
    try:
        return PipelineModel.model_validate(data)
    except PydanticError as error:
        problems = [f"{path.name}: {_problem(e)}" for e in error.errors()]
        raise SpecError(sorted(set(problems))) from None


def _problem(error: Any) -> str:
    """Return one pydantic error in our words."""
    loc = [str(part) for part in error["loc"] if not re.fullmatch(r"<\w+>|\[key\]", str(part))]
    if "union" in error["type"]:
        text = "has the wrong type"
    elif error["type"] == "extra_forbidden":
        text = "is not a known key"
    elif error["type"] == "missing":
        text = "is missing"
    elif error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == f"^{_FUNCTION}$":
        text = f"{error['input']!r} does not name a function; write module:name"
    elif error["type"] == "string_pattern_mismatch":
        text = "names of tasks are letters, digits and _, and begin with a letter"
    else:
        text = error["msg"][0].lower() + error["msg"][1:] + f", got {error['input']!r}"
    return f"{'.'.join(loc) or 'file'}: {text}"


# What the parameters of Task are called in pipeline.yaml.
_YAML_KEYS = {
    "total_roi": "roi",
    "read_roi": "context",
    "write_roi": "block_size",
    "max_retries": "retries",
}


class _Reader:
    """Turns a checked model into tasks, and collects what does not fit the arrays on disk."""

    def __init__(self, path: Path, model: PipelineModel) -> None:
        self.folder = path.parent
        self.model = model
        self.problems: list[str] = []
        self._found: dict[str, ArrayInfo | None] = {}

    def tasks(self) -> list[Task]:
        """Return the tasks, writers of an array before its readers."""
        names = self._writers_first()
        found = {name: self._task(name, self.model.tasks[name]) for name in names}
        return [task for name in self.model.tasks if (task := found.get(name)) is not None]

    def _writers_first(self) -> list[str]:
        """Return the names so that arrays to be made are known before they are read."""
        waiting, order = list(self.model.tasks), []
        while waiting:
            pending = {w.array for n in waiting for w in self.model.tasks[n].writes.values()}
            ready = [
                n
                for n in waiting
                if not (pending - self._own(n)) & set(self._needs(self.model.tasks[n]))
            ] or waiting
            order.append(ready[0])
            waiting.remove(ready[0])
        return order

    def _own(self, name: str) -> set[str]:
        return {w.array for w in self.model.tasks[name].writes.values()}

    @staticmethod
    def _needs(task: TaskModel) -> list[str]:
        reads = [r if isinstance(r, str) else r.array for r in task.reads.values()]
        roi = [task.roi] if isinstance(task.roi, str) else []
        return reads + roi

    def _say(self, place: str, text: str) -> None:
        self.problems.append(f"{place}: {text}")

    def _array(self, path: str, place: str) -> ArrayInfo | None:
        """Return an array that exists or will be made; a problem is noted if it is neither."""
        if path not in self._found:
            try:
                self._found[path] = describe(path, self.folder)
            except InputError as error:
                self._say(place, str(error))
                return None
        if self._found[path] is None:
            self._say(place, f"there is no array {path}, and no task before this one writes it")
        return self._found[path]

    def _task(self, name: str, model: TaskModel) -> Task | None:
        place = f"tasks.{name}"
        before = len(self.problems)
        for up in model.after:
            if up not in self.model.tasks:
                known = ", ".join(self.model.tasks)
                self._say(f"{place}.after", f"there is no task {up!r}; known are {known}")
        timeout = self._seconds(model.timeout, f"{place}.timeout")
        written = {w.array for w in model.writes.values()}
        reads = self._reads(model, place, lambda path: path not in written)
        roi = self._roi(model, place)
        if roi is None:
            return None
        lower, upper = self._context(model, place, roi.ndim)
        if len(model.block_size) != roi.ndim:
            self._say(
                f"{place}.block_size",
                f"{len(model.block_size)} sizes for a {roi.ndim}-D roi; give one per axis",
            )
        writes = self._writes(model, place, roi, reads)
        reads |= self._reads(model, place, lambda path: path in written)
        mask = self._array(model.mask, f"{place}.mask") if model.mask else None
        if len(self.problems) > before:
            return None
        return self._build(name, model, roi, (lower, upper), reads, writes, mask, timeout)

    def _build(
        self,
        name: str,
        model: TaskModel,
        roi: Box,
        context: tuple[Index, Index],
        reads: dict[str, Read],
        writes: dict[str, Write],
        mask: ArrayInfo | None,
        timeout: float | None,
    ) -> Task | None:
        lower, upper = context
        block = Box(
            roi.begin, tuple(b + w for b, w in zip(roi.begin, model.block_size, strict=True))
        )
        check = model.check
        try:
            task = Task(
                task_id=name,
                total_roi=roi.grow(lower, upper).to_roi(),
                read_roi=block.grow(lower, upper).to_roi(),
                write_roi=block.to_roi(),
                process_function=model.function,
                check_function=(check.before, check.after)
                if isinstance(check, CheckModel)
                else check,
                read_write_conflict=model.conflict,
                num_workers=None,
                max_workers=model.max_workers,
                max_retries=model.retries,
                fit=model.fit,
                timeout=timeout,
                call=model.call,
                params=model.params,
                reads=reads,
                writes=writes,
                mask=mask,
                workers=model.workers,
                threads=model.threads,
                blocks_per_job=model.blocks_per_job,
                chunks=model.chunks,
                resources=model.resources,
                after=model.after,
            )
        except SpecError as error:
            for problem in error.problems:
                parameter, text = problem.removeprefix(f"task {name}: ").split(": ", 1)
                head, dot, rest = parameter.partition(".")
                self._say(f"tasks.{name}.{_YAML_KEYS.get(head, head)}{dot}{rest}", text)
            return None
        if mask is not None:
            import dataclasses

            present = block_presence(mask, task.grid, self.folder)
            if not present.any():
                self._say(f"tasks.{name}.mask", f"{mask.path} leaves no block to do")
                return None
            task = dataclasses.replace(task, present=present)
        return task

    def _seconds(self, value: float | str | None, place: str) -> float | None:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value)
        if match is None:
            self._say(place, f"{value!r} is not a time; write seconds, or 90s, 10m, 2h, 1d")
            return None
        return float(match[1]) * _SECONDS[match[2] or "s"]

    def _reads(
        self, model: TaskModel, place: str, chosen: Callable[[str], bool]
    ) -> dict[str, Read]:
        found = {}
        for name, read in model.reads.items():
            path = read if isinstance(read, str) else read.array
            if not chosen(path):
                continue
            array = self._array(path, f"{place}.reads.{name}")
            if array is not None:
                found[name] = Read(array, None if isinstance(read, str) else read.fill)
        return found

    def _roi(self, model: TaskModel, place: str) -> Box | None:
        if isinstance(model.roi, str):
            array = self._array(model.roi, f"{place}.roi")
            return array.roi if array else None
        if len(model.roi.offset) != len(model.roi.shape):
            self._say(
                f"{place}.roi",
                f"offset has {len(model.roi.offset)} axes and shape {len(model.roi.shape)}",
            )
            return None
        return Box.from_roi(Roi(model.roi.offset, model.roi.shape))

    def _context(self, model: TaskModel, place: str, ndim: int) -> tuple[Index, Index]:
        context = model.context
        sides = (
            {"lower": context.lower, "upper": context.upper}
            if isinstance(context, ContextModel)
            else {"": context}
        )
        found = []
        for side, value in sides.items():
            sizes = [value] * ndim if isinstance(value, int) else list(value)
            if len(sizes) != ndim:
                where = f"{place}.context{'.' if side else ''}{side}"
                self._say(where, f"{len(sizes)} sizes for a {ndim}-D roi; give one per axis")
                sizes = [0] * ndim
            found.append(tuple(sizes))
        return found[0], found[-1]

    def _writes(
        self, model: TaskModel, place: str, roi: Box, reads: Mapping[str, Read]
    ) -> dict[str, Write]:
        found = {}
        for name, write in model.writes.items():
            array = self._written(model, write, f"{place}.writes.{name}", roi, reads)
            if array is not None:
                self._found[write.array] = array
                found[name] = Write(array)
        return found

    def _written(
        self,
        model: TaskModel,
        write: WriteModel,
        place: str,
        roi: Box,
        reads: Mapping[str, Read],
    ) -> ArrayInfo | None:
        """Return the array to write: the one that exists, if it fits, or the one to be made."""
        try:
            dtype = str(np.dtype(write.dtype))
        except TypeError:
            self._say(f"{place}.dtype", f"{write.dtype!r} is not a numpy type")
            return None
        try:
            existing = self._found.get(write.array) or describe(write.array, self.folder)
        except InputError as error:
            self._say(place, str(error))
            return None
        if existing is not None:
            self._compare(existing, write, dtype, roi, model.fit, place)
            return existing
        return self._to_be_made(model, write, dtype, place, roi, reads)

    def _compare(
        self, array: ArrayInfo, write: WriteModel, dtype: str, roi: Box, fit: Fit, place: str
    ) -> None:
        if array.dtype != dtype:
            self._say(f"{place}.dtype", f"{array.path} exists with {array.dtype}, not {dtype}")
        if list(array.channels) != write.channels:
            self._say(
                f"{place}.channels",
                f"{array.path} exists with {list(array.channels)}, not {write.channels}",
            )
        if write.voxel_size and list(array.voxel_size) != write.voxel_size:
            self._say(
                f"{place}.voxel_size",
                f"{array.path} exists with {list(array.voxel_size)}, not {write.voxel_size}",
            )
        if array.ndim == roi.ndim and fit is not Fit.OVERHANG and not array.roi.covers(roi):
            self._say(
                place,
                f"{array.path} exists and covers {list(array.roi.begin)} to "
                f"{list(array.roi.end)}, less than the roi, {list(roi.begin)} to {list(roi.end)};"
                " write to another array or delete this one",
            )

    def _to_be_made(
        self,
        model: TaskModel,
        write: WriteModel,
        dtype: str,
        place: str,
        roi: Box,
        reads: Mapping[str, Read],
    ) -> ArrayInfo | None:
        sources = [r.array for r in reads.values()]
        if isinstance(model.roi, str) and (array := self._found.get(model.roi)):
            sources.insert(0, array)
        sources = [a for a in sources if a.ndim == roi.ndim]
        voxel = write.voxel_size or (list(sources[0].voxel_size) if sources else [1] * roi.ndim)
        for what, sizes in (("voxel_size", voxel), ("block_size", model.block_size)):
            if len(sizes) != roi.ndim:
                if what == "voxel_size":
                    self._say(
                        f"{place}.voxel_size",
                        f"{len(sizes)} sizes for a {roi.ndim}-D roi; give one per axis",
                    )
                return None
        grid = Grid.from_write_extent(
            roi,
            block_size=model.block_size,
            lower=(0,) * roi.ndim,
            upper=(0,) * roi.ndim,
            fit=model.fit,
        )
        extent = roi.union(grid.extent)
        itemsize = int(np.dtype(dtype).itemsize) * int(np.prod(write.channels, dtype=int))
        block = [max(1, w // v) for w, v in zip(model.block_size, voxel, strict=True)]
        return ArrayInfo(
            path=write.array,
            offset=extent.begin,
            voxel_size=tuple(voxel),
            shape=tuple(-(-s // v) for s, v in zip(extent.shape, voxel, strict=True)),
            channels=tuple(write.channels),
            dtype=dtype,
            chunks=(*write.channels, *chunk_shape(block, itemsize=itemsize)),
            units=sources[0].units if sources else ("",) * roi.ndim,
            exists=False,
        )
