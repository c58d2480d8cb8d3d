"""Forms of pipeline.yaml -> tasks: looks up arrays, masks and functions, collects what is wrong."""

from __future__ import annotations

import graphlib
import itertools
import math
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from funlib.geometry import Roi

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.spec.schema import (
    CheckModel,
    ReadModel,
    SidesModel,
    TaskModel,
    VoxelContextModel,
    VoxelRoiModel,
    VoxelSizesModel,
    WriteModel,
)
from snakemake_blocks.storage.arrays import block_presence, chunk_shape, describe, obstacle_to
from snakemake_blocks.system.location import Names
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.dtypes import holds, number_type
from snakemake_blocks.tasks.operation import Call, Context, Read, Write
from snakemake_blocks.tasks.sources import call_problems, missing_function
from snakemake_blocks.tasks.task import PARAMETERS, Task, TaskError
from snakemake_blocks.tasks.units import conversion, unit_name

__all__ = ["UNKNOWN_FUNCTION", "Describer"]

UNKNOWN_FUNCTION = "unknown:unknown"
"""Stands where the function's name was wrong already; nothing is said of it again."""

# The presence of more blocks takes more than a gigabyte to plan with.
_MOST_MASKED = 10**7
# Keys of a form that a task gets as what they lead to; others go on as they are.
_LOOKED_UP = frozenset(
    {"roi", "block_size", "context", "check", "timeout", "reads", "writes", "mask", "after"}
)
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(slots=True)
class Describer:
    """Turns checked forms into tasks, and collects what does not fit the arrays on disk.

    Parameters
    ----------
    folder : Path
        Where paths begin.
    models : mapping
        The usable forms by name of the task.
    names : sequence of str
        All tasks, those without a usable form included.
    unsure : collection of str
        Tasks whose form lacks something that was wrong.
    written : sequence of (str, str)
        Path and task of every array written, likewise.
    unit : str
        Full name of the unit of length that world units are, empty where none is declared.
    """

    folder: Path
    models: Mapping[str, TaskModel]
    names: Sequence[str]
    unsure: Collection[str]
    written: Sequence[tuple[str, str]]
    unit: str = ""
    problems: list[str] = field(default_factory=list)
    _writers: dict[str, str] = field(init=False)
    _known: dict[str, ArrayInfo | None] = field(default_factory=dict, init=False)
    _names: Names = field(init=False)

    def __post_init__(self) -> None:
        self._names = Names(self.folder)
        for path, _ in self.written:
            self.plain(path)  # the first task's name of an array is the one that counts
        self._writers = {self.plain(path): name for path, name in reversed(self.written)}

    def tasks(self) -> list[Task]:
        """Return the tasks without problems, in the order of the file."""
        found = {n: _TaskDescriber(self, n, self.models[n]).task() for n in self._writers_first()}
        return [task for name in self.models if (task := found[name]) is not None]

    def say(self, place: str, text: str) -> None:
        """Note a problem."""
        self.problems.append(f"{place}: {text}")

    def plain(self, path: str) -> str:
        """Return the one name in plans of the place that a path leads to."""
        shown = os.path.normpath(path)
        folder = os.path.abspath(self.folder)
        inside = os.path.isabs(shown) and os.path.commonpath([shown, folder]) == folder
        if "://" in path or "\0" in path:
            return shown  # no place of ours; it is refused where it is looked up
        return self._names.of(path, os.path.relpath(shown, folder) if inside else shown)

    def writer(self, path: str) -> str | None:
        """Return the task that writes an array."""
        return self._writers.get(self.plain(path))

    def array(self, path: str, place: str) -> ArrayInfo | None:
        """Return an array that exists or will be made; a problem is noted if it is neither.

        Of an array that causes a problem elsewhere nothing is said again.
        """
        found = self.existing(path, place)
        path = self.plain(path)
        if found is None and path not in self._known and path not in self._writers:
            self.say(place, f"{path}: there is no array, and no task writes one there")
            self._known[path] = None
        return found

    def existing(self, path: str, place: str) -> ArrayInfo | None:
        """Return an array that exists or was declared; a problem is noted if it is unusable."""
        plain = self.plain(path)
        if plain not in self._known:
            try:
                if "://" in path:
                    raise InputError(f"{path}: is remote; only local paths work yet")
                found = describe(plain, self.folder, unit=self.unit)
            except InputError as error:
                self.say(place, str(error))
                self._known[plain] = None
                return None
            if found is None:
                return None
            self._known[plain] = found
        return self._known[plain]

    def is_unusable(self, path: str) -> bool:
        """Tell whether a problem of the array at a (plain) path was noted before."""
        return path in self._known and self._known[path] is None

    def declare(self, array: ArrayInfo) -> None:
        """Remember an array that will be made."""
        self._known[array.path] = array

    def _writers_first(self) -> list[str]:
        """Return the names so that arrays to be made are known before they are read."""
        needs = {name: self._needs(name, model) for name, model in self.models.items()}
        try:
            return list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]
            steps = itertools.pairwise(cycle)
            text = ", ".join(f"{one} waits for {other}" for one, other in steps)
            self.say(f"tasks.{cycle[0]}.after", f"{text}; cut one of these needs")
            return list(self.models)

    def _needs(self, name: str, model: TaskModel) -> list[str]:
        paths = [r if isinstance(r, str) else r.array for r in model.reads.values()]
        paths += [model.roi] if isinstance(model.roi, str) else []
        needs = [*(up.task for up in model.waits), *filter(None, map(self.writer, paths))]
        return [n for n in needs if n in self.models and n != name]


@dataclass(slots=True)
class _TaskDescriber:
    """Turns one checked form into a task.

    Parameters
    ----------
    all : Describer
        Knows the arrays, and takes the problems.
    name : str
        The task.
    model : TaskModel
        Its form.
    """

    all: Describer
    name: str
    model: TaskModel
    # World units, one per axis; empty where it is not known.
    _block_size: Index = field(default=(), init=False)

    def _say(self, key: str, text: str) -> None:
        self.all.say(f"tasks.{self.name}.{key}", text)

    def task(self) -> Task | None:
        """Return the task; None, and why among the problems, if there is something wrong."""
        model, before = self.model, len(self.all.problems)
        own = {self.all.plain(w.array) for w in model.writes.values()}
        self._check_after()
        self._check_names()
        self._check_resources()
        self._check_functions()
        timeout = self._timeout()
        reads = self._reads(lambda path: path not in own)
        ruler = self._ruler(reads)
        roi = self._roi(ruler)
        mask = self._mask()
        if roi is not None:
            self._block_size = self._sizes(model.block_size, "block_size", roi.ndim, ruler)
            context = self._sides(model.context, "context", roi.ndim, ruler)
            writes = self._writes(roi, reads)
            reads |= self._reads(lambda path: path in own)
            context, reads = self._contexts(context, reads, roi.ndim, ruler)
            self._check_axes(roi, reads, mask)
            self._check_units([*reads.values(), *writes.values()], mask)
        if roi is None or len(self.all.problems) > before:
            return None
        task = self._task(roi, context, reads, writes, mask, timeout)
        return task if task is None or mask is None else self._masked(task, mask)

    def _task(
        self,
        roi: Box,
        context: tuple[Index, Index],
        reads: dict[str, Read],
        writes: dict[str, Write],
        mask: ArrayInfo | None,
        timeout: float | None,
    ) -> Task | None:
        model, check = self.model, self.model.check
        end = tuple(b + w for b, w in zip(roi.begin, self._block_size, strict=True))
        block = Box(roi.begin, end)
        pair = (check.before, check.after) if isinstance(check, CheckModel) else check
        given = {key: getattr(model, key) for key in type(model).model_fields}
        plain = {PARAMETERS.get(k, k): v for k, v in given.items() if k not in _LOOKED_UP}
        try:
            return Task(
                task_id=self.name,
                total_roi=roi.grow(*context).to_roi(),
                read_roi=block.grow(*context).to_roi(),
                write_roi=block.to_roi(),
                check_function=pair,
                num_workers=None,
                timeout=timeout,
                reads=reads,
                writes=writes,
                mask=mask,
                after=model.waits,
                **plain,
            )
        except TaskError as error:
            for key, text in error.found:
                self._say(key, text)
            return None

    def _masked(self, task: Task, mask: ArrayInfo) -> Task | None:
        if len(task.grid) > _MOST_MASKED:
            self._say(
                "mask",
                f"would be kept for each of {len(task.grid):,} blocks, at most {_MOST_MASKED:,} "
                "can be; use larger blocks or a smaller roi",
            )
            return None
        present = block_presence(mask, task.grid, self.all.folder)
        if not present.any():
            self._say("mask", f"{mask.path} is zero wherever this task writes; no block is left")
            return None
        return task.changed(present=present)

    def _check_after(self) -> None:
        for up in (wait.task for wait in self.model.waits):
            if up == self.name:
                self._say("after", f"{up} would wait for itself; remove it")
            elif up not in self.all.names:
                known = ", ".join(self.all.names)
                self._say("after", f"there is no task {up}; known are {known}")

    def _check_names(self) -> None:
        """Refuse names that would meet when the function is called."""
        model = self.model
        for name in model.params if model.call is Call.ARRAYS else ():
            if name in model.reads or name == "block":
                self._say(f"params.{name}", "the function gets another argument of this name")
        if model.call is Call.ARRAYS and "block" in model.reads:
            self._say("reads.block", "the argument block receives the Block; choose another name")

    def _check_resources(self) -> None:
        """Refuse what Snakemake would refuse, or we could not keep."""
        model = self.model
        if f"{self.name}_workers" in model.resources:
            self._say(f"resources.{self.name}_workers", "is made from max_workers; use that")
        if model.max_workers is not None and model.workers > model.max_workers:
            self._say(
                "max_workers",
                f"{model.max_workers} processes over all jobs are fewer than the {model.workers} "
                "workers of one job",
            )

    def _check_functions(self) -> None:
        model, folder = self.model, self.all.folder
        check = model.check
        named = {"function": model.function}
        if isinstance(check, CheckModel):
            named |= {"check.before": check.before or "", "check.after": check.after or ""}
        else:
            named["check"] = check or ""
        for key, name in named.items():
            if name in ("", UNKNOWN_FUNCTION):
                continue
            problem = missing_function(name, folder)
            if problem:
                self._say(key, problem)
            elif key == "function" and self.name not in self.all.unsure:
                for place, text in call_problems(
                    name, folder, call=model.call, reads=model.reads, params=model.params
                ):
                    self._say(place, text)

    def _timeout(self) -> float | None:
        value = self.model.timeout
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([smhd]?)", value)
        if match is None:
            self._say("timeout", f"{value!r:.60} is not a time; write seconds, or 90s, 10m, 2h, 1d")
            return None
        return float(match[1]) * _SECONDS[match[2] or "s"]

    def _reads(self, chosen: Callable[[str], bool]) -> dict[str, Read]:
        found = {}
        for name, read in self.model.reads.items():
            path, fill = (read, None) if isinstance(read, str) else (read.array, read.fill)
            if not chosen(self.all.plain(path)):
                continue
            array = self.all.array(path, f"tasks.{self.name}.reads.{name}")
            if array is not None:
                found[name] = Read(array, fill)
                if isinstance(fill, int | float) and not holds(array.dtype, fill):
                    self._say(f"reads.{name}.fill", f"{array.dtype} of {path} cannot hold {fill}")
        return found

    def _ruler(self, reads: Mapping[str, Read]) -> ArrayInfo | None:
        """Return the array whose voxels are counted: that of the roi, else the first one read."""
        roi = self.model.roi
        if isinstance(roi, str):
            return self.all.array(roi, f"tasks.{self.name}.roi")
        return next((read.array for read in reads.values()), None)

    def _roi(self, ruler: ArrayInfo | None) -> Box | None:
        roi = self.model.roi
        if isinstance(roi, str):
            return ruler.roi if ruler else None
        place = roi.voxels if isinstance(roi, VoxelRoiModel) else roi
        if len(place.offset) != len(place.shape):
            lengths = f"{len(place.offset)} axes by offset, {len(place.shape)} by shape"
            self._say("roi", f"{lengths}; give both an entry per axis")
            return None
        if place is roi:
            return Box.from_roi(Roi(place.offset, place.shape))
        ndim = len(place.shape)
        size = self._voxel("roi", ndim, ruler)
        if not size or ruler is None:
            return None
        begin = tuple(o + n * v for o, n, v in zip(ruler.offset, place.offset, size, strict=True))
        shape = tuple(n * v for n, v in zip(place.shape, size, strict=True))
        return Box(begin, tuple(b + n for b, n in zip(begin, shape, strict=True)))

    def _voxel(self, key: str, ndim: int, ruler: ArrayInfo | None) -> Index:
        """Return the size of a voxel, for sizes that are counted in voxels; empty without one."""
        if ruler is None:
            self._say(key, "there is no array whose voxels could be counted; use world units")
        elif ruler.ndim != ndim:
            self._say(key, f"{ruler.path} has {ruler.ndim} spatial axes, the roi {ndim}")
        else:
            return ruler.voxel_size
        return ()

    def _mask(self) -> ArrayInfo | None:
        path = self.model.mask
        if path is None:
            return None
        writer = self.all.writer(path)
        if writer is not None:
            self._say(
                "mask",
                f"{path} is written by {writer}, but masks are read before anything runs; make "
                "it with a pipeline of its own",
            )
            return None
        return self.all.array(path, f"tasks.{self.name}.mask")

    def _sizes(
        self,
        value: int | list[int] | VoxelSizesModel,
        key: str,
        ndim: int,
        ruler: ArrayInfo | None = None,
    ) -> Index:
        """Return sizes in world units, one per axis; of wrong ones a problem is noted."""
        scale: Index = (1,) * ndim
        if isinstance(value, VoxelSizesModel):
            value, scale = value.voxels, self._voxel(key, ndim, ruler)
        sizes = (value,) * ndim if isinstance(value, int) else tuple(value)
        if len(sizes) != ndim:
            entries = "1 size" if len(sizes) == 1 else f"{len(sizes)} sizes"
            self._say(key, f"{entries} for a {ndim}-D roi; give one per axis")
            return ()
        return tuple(n * v for n, v in zip(sizes, scale, strict=True)) if scale else ()

    def _check_axes(self, roi: Box, reads: Mapping[str, Read], mask: ArrayInfo | None) -> None:
        used = {f"reads.{name}": read.array for name, read in reads.items()}
        for key, array in used.items() if mask is None else {**used, "mask": mask}.items():
            if array.ndim != roi.ndim:
                self._say(key, f"{array.path} has {array.ndim} spatial axes, the roi {roi.ndim}")

    def _check_units(self, uses: Iterable[Read | Write], mask: ArrayInfo | None) -> None:
        """Refuse arrays that measure one axis in different units, unless all are converted."""
        roi = self.model.roi
        arrays = [self.all.existing(roi, "")] if isinstance(roi, str) else []
        first: dict[int, tuple[ArrayInfo, str]] = {}
        for array in filter(None, [*arrays, *(use.array for use in uses), mask]):
            for axis, text in enumerate(array.units):
                name = unit_name(text)
                if not name:
                    continue
                other, wanted = first.setdefault(axis, (array, name))
                if name != wanted:
                    finer = min(name, wanted, key=lambda unit: conversion(unit, "meter"))
                    self._say(
                        "reads",
                        f"{other.path} is in {wanted}, {array.path} in {name}; set unit: {finer} "
                        "at the top, then both are converted to it",
                    )
                    return

    def _contexts(
        self, default: Context, reads: dict[str, Read], ndim: int, ruler: ArrayInfo | None
    ) -> tuple[Context, dict[str, Read]]:
        """Return what a block reads of all arrays together, and the reads with that of each.

        Where no read says how much, none is told apart from the others.
        """
        own = {
            name: self._sides(read.context, f"reads.{name}.context", ndim, ruler)
            for name, read in self.model.reads.items()
            if isinstance(read, ReadModel) and read.context is not None
        }
        if not own:
            return default, reads
        found = {name: replace(r, context=own.get(name, default)) for name, r in reads.items()}
        lower, upper = (tuple(map(max, *side)) for side in zip(default, *own.values(), strict=True))
        return (lower, upper), found

    def _sides(
        self,
        context: int | list[int] | SidesModel | VoxelContextModel,
        key: str,
        ndim: int,
        ruler: ArrayInfo | None,
    ) -> Context:
        """Return a context below and above, in world units."""
        scale: Index = (1,) * ndim
        if isinstance(context, VoxelContextModel):
            context, scale = context.voxels, self._voxel(key, ndim, ruler)
        if isinstance(context, SidesModel):
            sides = {f"{key}.lower": context.lower, f"{key}.upper": context.upper}
        else:
            sides = {key: context}
        found = []
        for place, value in sides.items():
            sizes = self._sizes(value, place, ndim)
            known = tuple(n * v for n, v in zip(sizes, scale, strict=False))
            found.append(known if len(known) == ndim else (0,) * ndim)
        return found[0], found[-1]

    def _writes(self, roi: Box, reads: Mapping[str, Read]) -> dict[str, Write]:
        found: dict[str, Write] = {}
        for name, write in self.model.writes.items():
            array = self._written(write, f"writes.{name}", roi, reads)
            if array is not None and any(array.path == w.array.path for w in found.values()):
                self._say(f"writes.{name}", f"{array.path} is written under another name already")
            elif array is not None:
                self.all.declare(array)
                found[name] = Write(array)
        return found

    def _written(
        self, write: WriteModel, key: str, roi: Box, reads: Mapping[str, Read]
    ) -> ArrayInfo | None:
        """Return the array to write: the one that exists, if it fits, or the one to be made."""
        dtype = number_type(write.dtype)
        if not dtype:
            self._say(f"{key}.dtype", f"{write.dtype!r} is not a numpy type of numbers")
            return None
        existing = self.all.existing(write.array, f"tasks.{self.name}.{key}")
        if existing is not None:
            self._compare(existing, write, dtype, roi, key)
            return existing
        path = self.all.plain(write.array)
        obstacle = "" if self.all.is_unusable(path) else obstacle_to(path, self.all.folder)
        if obstacle:
            self._say(key, obstacle)
        if obstacle or self.all.is_unusable(path):
            return None
        return self._to_be_made(write, dtype, key, roi, reads)

    def _compare(self, array: ArrayInfo, write: WriteModel, dtype: str, roi: Box, key: str) -> None:
        wanted = {"dtype": dtype, "channels": write.channels, "voxel_size": write.voxel_size}
        for what, value in wanted.items():
            there = getattr(array, what)
            there = list(there) if isinstance(there, tuple) else there
            same = there == value or (what == "dtype" and number_type(array.dtype) == dtype)
            if value is not None and not same:
                self._say(
                    f"{key}.{what}",
                    f"{array.path} has {there}, not {value}; write to another array or delete "
                    "this one",
                )
        if array.ndim != roi.ndim:
            self._say(key, f"{array.path} has {array.ndim} spatial axes, the roi {roi.ndim}")
        elif self.model.fit is not Fit.OVERHANG and not array.roi.covers(roi):
            self._say(
                key,
                f"{array.path} covers {list(array.roi.begin)} to "
                f"{list(array.roi.end)}, less than the roi, {list(roi.begin)} to {list(roi.end)};"
                " write to another array or delete this one",
            )

    def _to_be_made(
        self, write: WriteModel, dtype: str, key: str, roi: Box, reads: Mapping[str, Read]
    ) -> ArrayInfo | None:
        model = self.model
        like = self._like(roi, reads)
        voxel = write.voxel_size or (like.voxel_size if like else (1,) * roi.ndim)
        voxel = self._sizes(list(voxel), f"{key}.voxel_size", roi.ndim)
        if not voxel:
            return None
        if len(self._block_size) != roi.ndim:
            return None
        none = (0,) * roi.ndim
        grid = Grid.from_write_extent(
            roi, block_size=self._block_size, lower=none, upper=none, fit=model.fit
        )
        extent = roi.union(grid.extent)
        itemsize = int(np.dtype(dtype).itemsize) * math.prod(write.channels)
        block = [max(1, w // v) for w, v in zip(self._block_size, voxel, strict=True)]
        return ArrayInfo(
            path=self.all.plain(write.array),
            offset=extent.begin,
            voxel_size=tuple(voxel),
            shape=tuple(-(-s // v) for s, v in zip(extent.shape, voxel, strict=True)),
            channels=tuple(write.channels),
            dtype=dtype,
            chunks=(*write.channels, *chunk_shape(block, itemsize=itemsize)),
            units=like.units if like else (self.all.unit,) * roi.ndim,
            exists=False,
            origin=like if like is None or like.exists else like.origin,
        )

    def _like(self, roi: Box, reads: Mapping[str, Read]) -> ArrayInfo | None:
        """Return the array from which a new one takes voxel size and units."""
        arrays = [read.array for read in reads.values()]
        if isinstance(self.model.roi, str):
            array = self.all.array(self.model.roi, f"tasks.{self.name}.roi")
            arrays[:0] = [array] if array else []
        return next((a for a in arrays if a.ndim == roi.ndim), None)
