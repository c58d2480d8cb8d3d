"""Calling a function on arrays: what a block reads goes in, what it writes comes out cropped.

The one way to do it, for workers, serial mode, ``block`` and ``check-context``. Nothing is
stored here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.arrays import open_array, read_region
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.borders import inner
from snakemake_blocks.tasks.dtypes import as_values
from snakemake_blocks.tasks.operation import Operation, Read
from snakemake_blocks.tasks.scale import WORLD, Scale

__all__ = ["ArrayCall", "lower_phase_only", "named_results", "taken", "takes"]

# Voxels of a read that no memory holds; of even more numpy does not say that memory lacks.
_MOST = 2**48


@dataclass(slots=True)
class ArrayCall:
    """A function, and the arrays that a task gives it.

    Parameters
    ----------
    operation : Operation
        Of a task with ``call: arrays``.
    folder : Path
        The pipeline's folder.
    function : callable
        ``f(**arrays, **params)``; a parameter named ``block`` receives the block.
    params : mapping
        What it is given beside arrays.
    scale : Scale
        What Rois of blocks count.
    tables : callable
        Returns the tables that a block is given, by name.
    then : callable, optional
        Makes what is stored of what the function returned.
    """

    operation: Operation
    folder: Path
    function: Callable[..., Any]
    params: Mapping[str, Any]
    scale: Scale = WORLD
    tables: Callable[[Block], Mapping[str, Any]] = lambda block: {}
    then: Callable[[Any, Block], Any] | None = None
    rows: Mapping[str, Any] = field(default_factory=dict, init=False)
    """What the last block returned for tables, by name."""
    _own: frozenset[str] = field(init=False, repr=False)
    _takes_block: bool = field(init=False, repr=False)
    _arrays: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._own = frozenset(self.operation.own_reads)
        self._takes_block = takes(self.function, "block")
        for name, read in self.operation.reads.items():
            if name not in self._own:
                self._arrays[name] = open_array(read.array, self.folder, writable=False)

    def results(self, block: Block, visible: Sequence[Box]) -> dict[str, NDArray[Any]]:
        """Return what the function makes of a block, by name, shaped as its write Roi.

        Parameters
        ----------
        block : Block
            Its read Roi is what the function sees.
        visible : sequence of Box
            Where the function sees its task's own output, as the plan counts; elsewhere it sees
            the fill value.

        Raises
        ------
        InputError
            If the function returns something else than the task writes, or what the block reads
            cannot be read or fills the memory.
        """
        rois = (block.write_roi, block.read_roi)
        target, whole = (self.scale.planned(Box.from_roi(roi)) for roi in rois)
        reads = self.operation.reads
        regions = {name: read.region(target, whole) for name, read in reads.items()}
        inputs = {n: self._input(n, read, regions[n], visible) for n, read in reads.items()}
        more = {"block": block} if self._takes_block else {}
        given = {**inputs, **self.tables(block), **more, **self.params}
        made = self.function(**given)
        if self.then is not None:
            made = self.then(made, block)
        returned = named_results(made, self.operation)
        self.rows = {name: returned[name] for name in self.operation.tables}
        shapes = list(dict.fromkeys((whole, target, *regions.values())))
        return {
            name: self._cropped(
                name,
                as_values(returned[name], f"{self.operation.function.name}: {name}"),
                write.array,
                shapes,
                target,
            )
            for name, write in self.operation.writes.items()
        }

    def _input(self, name: str, read: Read, region: Box, visible: Sequence[Box]) -> NDArray[Any]:
        try:
            if read.array.voxels(region).size > _MOST:
                raise MemoryError
            return self._seen(name, read, region, visible)
        except MemoryError:
            raise InputError(
                f"{read.array.path}: reading {self.scale.span(region)} takes more memory than "
                "there is; choose smaller blocks, or less context"
            ) from None

    def _seen(self, name: str, read: Read, region: Box, visible: Sequence[Box]) -> NDArray[Any]:
        """Return what the function sees of an array."""
        if name not in self._own:
            return read_region(self._arrays[name], read, region)
        array = read.array
        if not visible:  # it need not even be there
            return np.full(array.values_shape(array.voxels(region)), read.value, array.dtype)
        if name not in self._arrays:
            self._arrays[name] = open_array(array, self.folder, writable=False)
        data = read_region(self._arrays[name], read, region)
        return lower_phase_only(data, read, region, visible)

    def _cropped(
        self, name: str, values: NDArray[Any], array: ArrayInfo, regions: list[Box], target: Box
    ) -> NDArray[Any]:
        """Return what lies in the write Roi of values that cover one of the regions.

        The first two are the read and the write Roi; others count where no two have one shape.
        """
        fits = [b for b in regions if values.shape == array.values_shape(array.voxels(b))]
        if fits and (fits[0] in regions[:2] or len(fits) == 1):
            return values[array.slices_in(target, fits[0])]
        wanted = [array.values_shape(array.voxels(b)) for b in (regions[0], target)]
        is_usual = not array.axes and not array.select
        hint = _channels(values.shape, wanted, array.ndim) if is_usual else ""
        raise InputError(
            f"{self.operation.function.name}: {name} has shape {values.shape}; expected "
            f"{wanted[0]} (read Roi) or {wanted[1]} (write Roi){hint}"
        )


def named_results(
    result: Any, operation: Operation, *, without: Collection[str] = ()
) -> Mapping[str, Any]:
    """Return what a function returned by the names of the arrays and tables that its task makes.

    Parameters
    ----------
    result : anything
        What it returned.
    operation : Operation
        Of the task.
    without : collection of str
        Arrays that the function writes by itself.

    Raises
    ------
    InputError
        If it returned something else than these.
    """
    names = [name for name in (*operation.writes, *operation.tables) if name not in without]
    function = operation.function.name
    if not names and result is not None:
        raise InputError(
            f"{function}: returned {type(result).__name__}, and its task makes no table and no "
            "array of which that could be the content"
        )
    if not names:
        return {}
    if len(names) == 1:
        is_named = isinstance(result, Mapping) and list(result) == names
        columns = [list(table.columns) for table in operation.tables.values()]
        if not is_named or columns == [names]:
            if isinstance(result, Mapping) and not columns:
                raise InputError(
                    f"{function}: returned {sorted(map(str, result))}, writes {sorted(names)}"
                )
            return {names[0]: result}
    if not isinstance(result, Mapping):
        raise InputError(f"{function}: writes {', '.join(names)}; return a dict with these names")
    if set(result) != set(names):
        raise InputError(f"{function}: returned {sorted(map(str, result))}, writes {sorted(names)}")
    return result


def _channels(shape: Index, wanted: Sequence[Index], ndim: int) -> str:
    """Return what to write if only the channels, before ``ndim`` axes, are others; else nothing."""
    if all(shape[-ndim:] != other[-ndim:] for other in wanted):
        return ""
    return f"; with channels: {list(shape[:-ndim])} in pipeline.yaml it would fit"


def taken(function: Callable[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some keyword arguments that a function takes."""
    try:
        kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    except ValueError:  # builtins without a signature
        return {}
    every = inspect.Parameter.VAR_KEYWORD in kinds
    return {name: value for name, value in params.items() if every or takes(function, name)}


def takes(function: Callable[..., Any], name: str) -> bool:
    """Tell whether a function has a parameter of a name; builtins without a signature have none."""
    try:
        return name in inspect.signature(function).parameters
    except ValueError:
        return False


def lower_phase_only(
    data: NDArray[Any], read: Read, region: Box, keep: Sequence[Box]
) -> NDArray[Any]:
    """Return ``data`` with everything outside of the boxes ``keep`` replaced by the fill.

    What a task reads of its own output is then what lower phases wrote in this plan, and
    neither a leftover of an earlier run nor a matter of timing.
    """
    array = read.array
    clean: NDArray[Any] = np.full_like(data, read.value)
    wanted = array.voxels(region)
    for box in keep:
        voxels = array.voxels(box)
        if read.border is None:
            if box.meets(region):
                part = array.slices_in(box.intersect(region), region)
                clean[part] = data[part]
            continue
        sides = zip(wanted.begin, wanted.end, array.shape, voxels.begin, voxels.end, strict=True)
        seen = [
            np.flatnonzero((low <= (at := inner(begin, end, size, read.border))) & (at < high))
            for begin, end, size, low, high in sides
        ]
        channels = map(np.arange, array.channels)
        every = enumerate(array.laid_out(seen, list(channels)))
        where = np.ix_(*(numbers for axis, numbers in every if axis not in array.hidden))
        clean[where] = data[where]
    return clean
