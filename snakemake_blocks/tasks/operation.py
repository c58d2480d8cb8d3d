"""What a task does with a block: it travels unchanged from the description to the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from fractions import Fraction
from typing import Any

import numpy as np

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Grid
from snakemake_blocks.tasks.array_info import ArrayInfo, is_array_form
from snakemake_blocks.tasks.borders import Border, stays_within
from snakemake_blocks.tasks.forms import (
    is_number,
    is_text,
    list_of,
    mapping_of,
    maybe,
    unfit_key,
    whole,
)
from snakemake_blocks.tasks.functions import FunctionRef, is_function_form
from snakemake_blocks.tasks.keys import Kind, check_keys, default_of, key
from snakemake_blocks.tasks.params import param_problems, unsorted_keys
from snakemake_blocks.tasks.scale import WORLD, Scale, as_recorded
from snakemake_blocks.tasks.tables import TABLE_READS, TABLES, Table, TableRead

__all__ = ["Call", "Context", "Operation", "Read", "Write"]


Context = tuple[Index, Index]
"""Sizes below and above, in world units, one per axis."""


class Call(StrEnum):
    """How the function of a task is called."""

    BLOCK = "block"
    ARRAYS = "arrays"
    WORKER = "worker"
    ONCE = "once"
    MERGE = "merge"
    """Rows of blocks that it meets into one; made from ``reduce``, see :mod:`.reduction`."""
    SET_UP = "set_up"
    """Before the first block of a task; made from its key ``set_up``, see :mod:`.pipeline`."""

    @property
    def is_once(self) -> bool:
        """Whether the function runs once, and has no blocks."""
        return self in (Call.ONCE, Call.SET_UP)


@dataclass(frozen=True, slots=True)
class Read:
    """An array that a task reads.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    fill : int, float or Border, optional
        What stands outside of it: a value, or how it goes on; without it nothing may be read there.
    context : pair of tuples of int, optional
        What is read of it below and above the write Roi, in world units; by default the read Roi.
    """

    array: ArrayInfo
    fill: int | float | Border | None = None
    context: Context | None = None

    def __post_init__(self) -> None:
        fill: Any = self.fill
        if isinstance(fill, np.generic):
            object.__setattr__(self, "fill", fill.item())
        elif fill in list(Border):
            object.__setattr__(self, "fill", Border(fill))

    @property
    def border(self) -> Border | None:
        """How the array goes on beyond its ends, None if it does not."""
        return self.fill if isinstance(self.fill, Border) else None

    def is_far(self, grid: Grid, written: ArrayInfo | None = None) -> bool:
        """Tell whether blocks see voxels of an array that lie outside of their read Rois.

        That is where the array goes on beyond its ends, and where an index is selected on an axis
        along which blocks of the task that writes it (``written``) are cut.
        """
        array, border = self.array, self.border
        if written and set(array.hidden) & set(written.places):
            return True
        if border is None:
            return False
        seen = grid if self.context is None else grid.with_context(*self.context)
        return not stays_within(seen, array.roi, array.voxel_size, border)

    @property
    def value(self) -> int | float:
        """What a place has of which nothing is known."""
        return 0 if self.fill is None or isinstance(self.fill, Border) else self.fill

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        found = {"array": self.array.to_json(), "fill": self.fill}
        return found if self.context is None else {**found, "context": [*map(list, self.context)]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Read:
        """Return what :meth:`to_json` described."""
        lower, upper = map(tuple, data.get("context", ((), ())))
        context = (lower, upper) if "context" in data else None
        return cls(ArrayInfo.from_json(data["array"]), data["fill"], context)

    def identity(self, scale: Scale = WORLD) -> dict[str, Any]:
        """Return what of it decides what a function sees, in a task's own numbers."""
        array, fill = self.array, self.fill
        found: dict[str, Any] = {
            "array": array.path,
            "dtype": array.dtype,
            "offset": _of_stored(array, scale.place(array.offset)),
            "voxel_size": _of_stored(array, scale.length(array.voxel_size)),
            "fill": _as_recorded(fill),
            **array.view,
        }
        if self.context is not None:
            lower, upper = (as_recorded(scale.length(side)) for side in self.context)
            found["context"] = {"lower": lower, "upper": upper}
        return found

    def region(self, write: Box, read: Box) -> Box:
        """Return what a block that writes and reads these Rois is given of the array."""
        return read if self.context is None else write.grow(*self.context)


def _as_recorded(fill: int | float | Border | None) -> int | float | str | None:
    """Return a fill as identities always named it: a float, where that is the same number."""
    if isinstance(fill, int | float) and float(fill) == fill:
        return float(fill)
    return str(fill) if isinstance(fill, Border) else fill


def _is_fill(value: Any) -> bool:
    return is_number(value) or value in list(Border)


def _is_read(value: Any) -> bool:
    """Tell whether what JSON gave describes a read as :meth:`Read.to_json` does."""
    form = {"array": is_array_form, "fill": maybe(_is_fill)}
    if unfit_key(value, form, {"context": list_of(list_of(whole(0)))}) is not None:
        return False
    lengths = [len(side) for side in value.get("context", ())]
    return lengths in ([], [len(value["array"]["shape"])] * 2)


@dataclass(frozen=True, slots=True)
class Write:
    """An array that a task writes.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    shards : bool
        Whether blocks that lie in one shard (or chunk) are to be stored together.
    """

    array: ArrayInfo
    shards: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {"array": self.array.to_json(), **({"shards": True} if self.shards else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Write:
        """Return what :meth:`to_json` described."""
        return cls(ArrayInfo.from_json(data["array"]), data.get("shards", False))

    def identity(self, scale: Scale = WORLD) -> dict[str, Any]:
        """Return what of it decides what is stored, in a task's own numbers."""
        array = self.array
        return {
            "array": array.path,
            "dtype": array.dtype,
            "voxel_size": _of_stored(array, scale.length(array.voxel_size)),
            "channels": list(array.channels),
            **array.view,
        }


def _of_stored(array: ArrayInfo, numbers: Sequence[Fraction]) -> list[int | str]:
    """Return what an identity holds of the axes that an array has."""
    pairs = zip(array.places, numbers, strict=True)
    return as_recorded([number for place, number in pairs if place >= 0])


def _of_each(change: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda values: {name: change(value) for name, value in values.items()}


def _call_problems(value: Any) -> list[tuple[str, str]]:
    """Return what is wrong with how a function is to be called; some calls are made by us."""
    if value in list(Call):
        return []
    known = ", ".join(str(call) for call in Call if call not in (Call.MERGE, Call.SET_UP))
    return [("", f"{value!r} is not one of {known}")]


def _output_problems(value: Any) -> list[tuple[str, str]]:
    """Return what is wrong with the names of files and folders that a task makes."""
    if isinstance(value, str) or not all(isinstance(path, str) and path for path in value):
        return [("", f"must be a list of paths, got {value!r}")]
    return [
        ("", f"{path} is there twice") for path in dict.fromkeys(value) if value.count(path) > 1
    ]


_CALL = Kind(
    lambda value: value in list(Call),
    lambda value: _call_problems(value),
    str,
    Call,
)
_FUNCTION = Kind(is_function_form, to_json=FunctionRef.to_json, from_json=FunctionRef.from_json)
_MAYBE_FUNCTION = Kind(
    maybe(is_function_form),
    to_json=lambda ref: ref and ref.to_json(),
    from_json=lambda data: data and FunctionRef.from_json(data),
)
_PARAMS = Kind(lambda value: isinstance(value, dict), param_problems, dict)
_SCOPE = Kind(lambda value: isinstance(value, dict), to_json=dict)
_OUTPUTS = Kind(list_of(is_text), lambda value: _output_problems(value), list, tuple)
_READS = Kind(
    mapping_of(_is_read),
    to_json=_of_each(Read.to_json),
    from_json=_of_each(Read.from_json),
)
_WRITES = Kind(
    mapping_of(
        lambda value: (
            unfit_key(value, {"array": is_array_form}, {"shards": lambda v: v is True}) is None
        )
    ),
    to_json=_of_each(Write.to_json),
    from_json=_of_each(Write.from_json),
)


@dataclass(frozen=True, slots=True)
class Operation:
    """The functions of a task and what they are given.

    Parameters
    ----------
    function : FunctionRef
        What makes a block.
    call : Call
        How it is called.
    check_before, check_after : FunctionRef, optional
        Tell whether a block is done, before and after it ran.
    init : FunctionRef, optional
        Called once in every worker.
    params : mapping
        Keyword arguments of ``function``.
    reads, writes : mapping
        Declared arrays by name.
    tables, table_reads : mapping
        Tables that it makes, and tables of other tasks that it reads, by name.
    then : FunctionRef, optional
        Makes what is stored of what ``function`` returned for arrays and a block.
    before_block : FunctionRef, optional
        Called with a block before it runs again.
    set_up : FunctionRef, optional
        Runs once before the first block.
    outputs : sequence of str
        Files and folders that it makes beside arrays and tables, relative to the pipeline.
    scope : mapping
        What else decides what it does: of a set-up, whatever does of its task.

    Raises
    ------
    InvalidKeysError
        If a value is none that its key can have.
    """

    function: FunctionRef = key(_FUNCTION)
    call: Call = key(_CALL, Call.BLOCK)
    check_before: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    check_after: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    init: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    params: Mapping[str, Any] = key(_PARAMS, {})
    reads: Mapping[str, Read] = key(_READS, {})
    writes: Mapping[str, Write] = key(_WRITES, {})
    tables: Mapping[str, Table] = key(TABLES, {})
    table_reads: Mapping[str, TableRead] = key(TABLE_READS, {})
    then: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    before_block: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    set_up: FunctionRef | None = key(_MAYBE_FUNCTION, None)
    outputs: Sequence[str] = key(_OUTPUTS, ())
    scope: Mapping[str, Any] = key(_SCOPE, {})

    def __post_init__(self) -> None:
        check_keys(self)
        object.__setattr__(self, "call", Call(self.call))
        object.__setattr__(self, "outputs", tuple(self.outputs))

    @property
    def functions(self) -> dict[str, FunctionRef]:
        """All functions, by their places in a description."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            _PLACES.get(name, name): value
            for name, value in found.items()
            if isinstance(value, FunctionRef)
        }

    def with_functions(self, change: Callable[[FunctionRef], FunctionRef]) -> Operation:
        """Return the operation with every function changed."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        refs: dict[str, Any] = {
            name: change(value) for name, value in found.items() if isinstance(value, FunctionRef)
        }
        return replace(self, **refs)

    @property
    def written(self) -> list[ArrayInfo]:
        """The arrays written, by name: in one order, also where the plan is not from its file."""
        return [self.writes[name].array for name in sorted(self.writes)]

    @property
    def parquet(self) -> list[str]:
        """The Parquet files that tables are written to."""
        return [table.parquet for table in self.tables.values() if table.parquet]

    @property
    def inputs(self) -> list[ArrayInfo]:
        """The arrays read, in the order of the description."""
        return [read.array for read in self.reads.values()]

    @property
    def own_reads(self) -> dict[str, Read]:
        """What is read of arrays that are written, by name."""
        written = self.written
        return {n: r for n, r in self.reads.items() if any(map(r.array.meets, written))}

    def as_read(self, grid: Grid, arrays: Collection[ArrayInfo]) -> Grid:
        """Return a task's grid with the context with which some arrays are read.

        Parameters
        ----------
        grid : Grid
            Of blocks, or of jobs.
        arrays : collection of ArrayInfo
            If none of them is read, the grid keeps the context of the task.
        """
        default = (grid.lower, grid.upper)
        reads = (r for r in self.reads.values() if any(map(r.array.meets, arrays)))
        found = [r.context or default for r in reads]
        if not found:
            return grid
        lower, upper = (tuple(map(max, *side, side[0])) for side in zip(*found, strict=True))
        return grid.with_context(lower, upper)

    def conflict_grid(self, grid: Grid) -> Grid:
        """Return a task's grid with the context with which blocks read what neighbours write.

        With ``call: arrays`` all that is read is declared, so that is known. Other functions may
        read all of the read Roi by themselves, unless it is said how much they read of what they
        write.
        """
        own = self.own_reads.values()
        is_said = bool(own) and all(read.context is not None for read in own)
        if self.call is not Call.ARRAYS and not is_said:
            return grid
        none = (0,) * grid.ndim
        return self.as_read(grid, self.written) if own else grid.with_context(none, none)

    def with_one_context(self) -> Operation:
        """Return the operation with every read over the whole read Roi."""
        reads = {name: replace(read, context=None) for name, read in self.reads.items()}
        return replace(self, reads=reads)

    @property
    def reads_itself(self) -> bool:
        """Whether the worker reads the task's own output for it, and hides what is not earlier."""
        return self.call is Call.ARRAYS and bool(self.own_reads)

    def identity(self, scale: Scale = WORLD) -> dict[str, Any]:
        """Return what of it decides what a block computes, in the words of pipeline.yaml.

        A key that came later counts where it is not at its default, so that what was done before
        there was such a key stays done.
        """
        found: dict[str, Any] = {
            "call": str(self.call),
            "function": self.function.name,
            "params": dict(self.params),
            "reads": {name: read.identity(scale) for name, read in self.reads.items()},
            "writes": {name: write.identity(scale) for name, write in self.writes.items()},
        }
        if self.tables:
            found["tables"] = {name: dict(table.columns) for name, table in self.tables.items()}
        if order := unsorted_keys(self.params):
            found["order of params"] = order
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in found and f.name not in _NO_RESULT and value != default_of(f):
                found[f.name] = f.metadata["kind"].to_json(value)
        return found


# What functions are called in a description, where that is not the key.
_PLACES = {"check_before": "check", "check_after": "check.after", "init": "init_callback_fn"}
_NO_RESULT = frozenset({"check_before", "check_after", "init", "before_block", "set_up", "outputs"})
