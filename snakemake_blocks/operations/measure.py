"""``use: measure``: what objects are like, as one table, however many blocks they cross.

A block is cut into runs of voxels of one object along the last axis, so what is summed up per
object is short. Rows of blocks are merged in a tree. Voxels are counted and their places summed up
in whole numbers. Intensities are summed up from the least one of their object on, and spreads are
merged as Chan, Golub and LeVeque do, so a large offset takes no digits away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.channels import (
    channel_names,
    channels_first,
    column_names,
    lie_alike,
)
from snakemake_blocks.operations.grid import VoxelGrid
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import ArrayPath

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MeasureModel", "merged", "objects", "rows_of_block"]

Volume = NDArray[Any]
Rows = dict[str, NDArray[Any]]
_HERE = "snakemake_blocks.operations.measure"
# More columns are an array, and no table.
_MOST_CHANNELS = 1000
# Places are kept in 32 bits.
_LONGEST = 2**32 - 1


class MeasureParams(BaseModel):
    """How coordinates are meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Literal["corner", "center"] = Field(
        "corner",
        description="Which point of the first voxel lies at the offset: its corner, as in Rois, "
        "or its center, as scikit-image and napari have it.",
    )


class MeasureModel(OperationModel):
    """A table of objects: their sizes, places and intensities."""

    inputs = ("labels", "image")
    needed_inputs = ("labels",)
    made = ("objects",)

    use: Literal["measure"] = Field(description="Which operation.")
    outputs: list[ArrayPath] = Field(
        [], description="CSV files with the table, relative to this file."
    )
    params: MeasureParams = Field(
        MeasureParams.model_validate({}), description="How coordinates are meant."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["parts", "table"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        offset = self._begin(frame)
        if offset is None:
            return {}
        image = frame.seen.get("image")
        path = "" if image is None else image.path
        names = [] if image is None else channel_names(frame, path, image)
        if len(names) > _MOST_CHANNELS:
            text = f"has {len(names):,} channels, at most {_MOST_CHANNELS:,} can be measured"
            frame.say("reads.image", f"{text}; select one index of an axis")
            return {}
        kind = "" if image is None else _kept_type(image.dtype)
        axes = column_names(frame.axes)
        return {
            "parts": self.blockwise(
                frame,
                {
                    "call": "reduce",
                    "map": f"{_HERE}:rows_of_block",
                    "merge": f"{_HERE}:merged",
                    "params": {
                        "shape": list(frame.shape),
                        "size": list(frame.block),
                        "places": [] if image is None else list(image.seen_places),
                    },
                    "reads": {name: self.read(name) for name in self.reads},
                    "tables": {"rows": {"columns": _columns(frame.ndim, len(names), kind)}},
                },
            ),
            "table": self.once(
                {
                    "function": f"{_HERE}:objects",
                    "params": {
                        "axes": axes,
                        "channels": names,
                        "offset": offset,
                        "begin": list(frame.begin),
                        "voxel_size": list(frame.voxel_size),
                        "origin": self.params.origin,
                        "csv": self.outputs,
                    },
                    "reads": {"rows": {"table": f"{frame.task}_parts.rows"}},
                    "tables": {"objects": self.table("objects", _objects(axes, names, kind))},
                    "outputs": self.outputs,
                }
            ),
        }

    def _begin(self, frame: Frame) -> list[int] | None:
        """Return the region's first voxel in the labels; None, and why noted, if it is wrong."""
        assert frame.array is not None  # labels are needed
        labels, axes = frame.seen["labels"], frame.array.place.axes
        if frame.channels:
            text = f"has further axes of {list(frame.channels)}; select one index of each"
            frame.say("reads.labels", text)
        elif np.dtype(labels.dtype).kind not in "bui":
            text = f"{labels.path} is of {labels.dtype}; objects are whole numbers, 0 is none"
            frame.say("reads.labels", text)
        elif min(labels.places) < 0:
            text = f"{labels.path} lacks an axis of the roi; use a roi of its axes"
            frame.say("reads.labels", text)
        elif max(frame.shape) > _LONGEST:
            frame.say("roi", f"is at most {_LONGEST:,} voxels long; measure parts of it")
        elif wrong := [path for path in self.outputs if not path.lower().endswith(".csv")]:
            text = f"{wrong[0]} is no CSV file; name it so, or write Parquet by tables"
            frame.say("outputs", f"{text}: {{objects: {{parquet: ...}}}}")
        elif wrong := [key for key in ("roi", "block_size") if key in self.steps.get("parts", {})]:
            frame.say(f"steps.parts.{wrong[0]}", "is that of the whole task; give it there")
        elif lie_alike(frame, self, main="labels"):
            found = [frame.array.world(axes[place]) for place in labels.places]
            pairs = zip(frame.begin, found, strict=True)
            begin = [(at - float(f.offset)) / float(f.voxel_size) for at, f in pairs]
            sizes = [float(f.voxel_size) for f in found]
            near = [round(n) for n in begin]
            if np.allclose(sizes, frame.voxel_size, rtol=1e-9) and np.allclose(begin, near):
                return near
            frame.say("roi", f"has not the voxels of {labels.path}; use that, or a part of it")
        return None


def _kept_type(dtype: str) -> str:
    """Return the type in which the least and the most intensity are kept."""
    return {"bool": "uint8", "float16": "float32"}.get(dtype, dtype)


def _columns(ndim: int, channels: int, kind: str) -> dict[str, str]:
    """Return the columns of rows of blocks.

    An object takes 16 bytes, 24 per axis, and 16 and two intensities per channel.
    """
    found = {"id": "uint64", "count": "uint64"}
    for a in range(ndim):
        found |= {f"sum_{a}": "uint64", f"begin_{a}": "uint32", f"end_{a}": "uint32"}
        found[f"border_{a}"] = "uint64"
    for c in range(channels):
        found |= {f"least_{c}": kind, f"most_{c}": kind}
        found |= {f"above_{c}": "float64", f"squares_{c}": "float64"}
    return found


def _objects(axes: Sequence[str], channels: Sequence[str], kind: str) -> dict[str, str]:
    """Return the columns of the table."""
    found = {"id": "uint64", "count": "uint64", "volume": "float64"}
    found |= {f"centroid_{axis}": "float64" for axis in axes}
    found |= {f"begin_{axis}": "int64" for axis in axes}
    found |= {f"end_{axis}": "int64" for axis in axes}
    found |= {"on_border": "bool", "border_area": "float64"}
    for name in channels:
        end = f"_{name}" if name else ""
        found |= {f"intensity_mean{end}": "float64", f"intensity_std{end}": "float64"}
        found |= {f"intensity_min{end}": kind, f"intensity_max{end}": kind}
    return found


@dataclass(frozen=True, slots=True)
class _Groups:
    """What belongs to the same object, in any order.

    Parameters
    ----------
    ids : ndarray
        Of the objects, ascending.
    ranks : ndarray
        Which of them each one belongs to.
    order, firsts : ndarray
        The ones sorted by object, and where there those of each object begin.
    """

    ids: NDArray[np.uint64]
    ranks: NDArray[np.intp]
    order: NDArray[np.intp]
    firsts: NDArray[np.intp]

    @classmethod
    def of(cls, ids: Volume) -> _Groups:
        """Return the groups of equal ids."""
        names, ranks = np.unique(ids, return_inverse=True)
        small = ranks.astype(np.uint16 if len(names) <= 1 << 16 else np.uint32)  # sorted by radix
        order = np.argsort(small, kind="stable")
        counts = np.bincount(ranks, minlength=len(names))
        return cls(names.astype(np.uint64), ranks, order, np.cumsum(counts) - counts)

    def sum(self, values: Volume) -> Volume:
        """Return the sum over each object."""
        return self._reduced(np.add, values)

    def min(self, values: Volume) -> Volume:
        """Return the least of each object; NaN if there is one."""
        return self._reduced(np.minimum, values)

    def max(self, values: Volume) -> Volume:
        """Return the most, likewise."""
        return self._reduced(np.maximum, values)

    def _reduced(self, function: np.ufunc, values: Volume) -> Volume:
        found: Volume = function.reduceat(values[self.order], self.firsts)
        return found


def rows_of_block(
    labels: Volume,
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
    image: Volume | None = None,
    places: Sequence[int] = (),
) -> Rows | None:
    """Return what is known of the objects in a block, a row for each.

    Takes about 30 ms for 128 x 128 x 128 voxels and 500 objects, and as much for a channel.

    Parameters
    ----------
    labels : ndarray
        Whole numbers; 0 belongs to no object.
    block : Block
        Its index tells where it lies.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.
    image : ndarray, optional
        Intensities.
    places : sequence of int
        Which axis of the image each axis of the labels is, -1 for none; others are channels.

    Returns
    -------
    dict
        By columns: ``id``, ``count``; per axis ``sum_0`` of places, ``begin_0`` and ``end_0``, in
        voxels of the volume, and ``border_0``, how many lie at its ends; per channel ``least_0``,
        ``most_0``, ``above_0``, the sum of what is above the least one, and ``squares_0`` of
        differences from the mean. None for no object.

    Raises
    ------
    InputError
        If there are labels below 0, or blocks are not of this size.
    """
    grid, labels = VoxelGrid(shape, size), np.ascontiguousarray(labels)
    wanted = grid.extent(block.index)
    if labels.shape != wanted:
        raise InputError(
            f"block {tuple(block.index)} has {labels.shape} voxels where {wanted} are expected; "
            "give block_size and roi of the task, and none of its steps"
        )
    if labels.dtype.kind == "i" and labels.min(initial=0) < 0:
        raise InputError("labels are whole numbers from 0 on, which belongs to no object")
    starts, lengths = _runs(labels)
    ids = labels.reshape(-1)[starts]
    kept = np.flatnonzero(ids)
    if not len(kept):
        return None
    groups = _Groups.of(ids[kept])
    begin = grid.begin(block.index)
    found = _extents(groups, starts[kept], lengths[kept], labels.shape, begin)
    found |= _borders(groups.ids, labels, grid, block.index)
    if image is None:
        return found
    channels = channels_first(image, places)
    inside = None if len(kept) == len(ids) else labels.reshape(-1) != 0
    for c, channel in enumerate(channels):
        values = np.broadcast_to(channel, labels.shape).reshape(-1)
        values = values if inside is None else values[inside]
        some = _spread(groups, values, lengths[kept], found["count"])
        found |= {f"{name}_{c}": column for name, column in some.items()}
    return found


def _runs(labels: Volume) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where runs of equal labels along the last axis begin in C order, and their lengths."""
    lines = labels.reshape(-1, labels.shape[-1])
    changes = np.ones(lines.shape, bool)
    np.not_equal(lines[:, 1:], lines[:, :-1], out=changes[:, 1:])
    starts = np.flatnonzero(changes)
    return starts, np.diff(starts, append=labels.size)


def _extents(
    groups: _Groups,
    starts: NDArray[np.intp],
    lengths: NDArray[np.intp],
    shape: Sequence[int],
    begin: Sequence[int],
) -> Rows:
    """Return how many voxels objects have, and where these are."""
    found: Rows = {"id": groups.ids, "count": groups.sum(lengths).astype(np.uint64)}
    places = np.unravel_index(starts, tuple(shape))
    for a, (place, first) in enumerate(zip(places, begin, strict=True)):
        is_last = a == len(shape) - 1
        ends = place + (lengths if is_last else 1)
        inner = lengths * (lengths - 1) // 2 if is_last else 0
        total = groups.sum(lengths * place + inner).astype(np.uint64)
        found[f"sum_{a}"] = total + found["count"] * np.uint64(first)
        found[f"begin_{a}"] = groups.min(place) + first
        found[f"end_{a}"] = groups.max(ends) + first
    return found


def _borders(
    ids: NDArray[np.uint64], labels: Volume, grid: VoxelGrid, index: Sequence[int]
) -> Rows:
    """Return how many voxels of objects lie on the border of the region, along each axis."""
    found: Rows = {}
    for a, (k, count, extent) in enumerate(zip(index, grid.counts, grid.shape, strict=True)):
        counts = np.zeros(len(ids), np.uint64)
        ends = [end for end, is_there in ((0, k == 0), (-1, k == count - 1)) if is_there]
        for end in ends if extent > 1 else ():  # else all objects would be there
            side = labels[(slice(None),) * a + (end,)]
            names, voxels = np.unique(side[side != 0], return_counts=True)
            counts[np.searchsorted(ids, names.astype(np.uint64))] += voxels.astype(np.uint64)
        found[f"border_{a}"] = counts
    return found


def _spread(
    groups: _Groups, values: Volume, lengths: NDArray[np.intp], count: NDArray[np.uint64]
) -> Rows:
    """Return how the intensities of objects are spread, from those of their runs."""
    values = values.astype(_kept_type(str(values.dtype)), copy=False)
    starts = np.cumsum(lengths) - lengths
    with np.errstate(invalid="ignore"):  # of values that are no numbers nothing else comes out
        least = groups.min(np.minimum.reduceat(values, starts))
        most = groups.max(np.maximum.reduceat(values, starts))
        apart = _difference(values, np.repeat(least[groups.ranks], lengths))
        above = groups.sum(np.add.reduceat(apart, starts))
        apart -= np.repeat((above / count)[groups.ranks], lengths)
        np.multiply(apart, apart, out=apart)
        squares = groups.sum(np.add.reduceat(apart, starts))
    return {"least": least, "most": most, "above": above, "squares": squares}


def _difference(values: Volume, less: Volume) -> NDArray[np.float64]:
    """Return by how much values are larger than others, of whole numbers without any rounding."""
    if values.dtype.kind == "f":
        found: NDArray[np.float64] = values.astype(np.float64)
        found -= less
        return found
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    exact: NDArray[Any] = values.view(unsigned) - less.view(unsigned)
    return exact.astype(np.float64)


def merged(rows: pa.Table) -> Rows | None:
    """Return one row per object of rows of several blocks, in the order of ids.

    Parameters
    ----------
    rows : pyarrow.Table
        As :func:`rows_of_block` makes them.
    """
    if not rows.num_rows:
        return None
    groups = _Groups.of(_numpy(rows, "id"))
    counts = _numpy(rows, "count")
    found: Rows = {"id": groups.ids, "count": groups.sum(counts)}
    for name in rows.column_names:
        kind, _, number = name.partition("_")
        if kind in _MERGES:
            found[name] = _MERGES[kind](groups, _numpy(rows, name))
        elif kind == "above":
            found |= _spread_of_all(groups, rows, number, counts, found)
    return found


_MERGES = {
    "sum": _Groups.sum,
    "border": _Groups.sum,
    "begin": _Groups.min,
    "end": _Groups.max,
    "least": _Groups.min,
    "most": _Groups.max,
}


def _spread_of_all(
    groups: _Groups, rows: pa.Table, number: str, counts: Volume, whole: Mapping[str, Volume]
) -> Rows:
    """Return how intensities are spread, from those of the parts of objects."""
    with np.errstate(invalid="ignore"):
        least = whole[f"least_{number}"][groups.ranks]
        shift = _difference(_numpy(rows, f"least_{number}"), least)
        part = _numpy(rows, f"above_{number}") + counts * shift
        above = groups.sum(part)
        apart = part / counts - (above / whole["count"])[groups.ranks]
        squares = groups.sum(_numpy(rows, f"squares_{number}") + counts * apart * apart)
    return {f"above_{number}": above, f"squares_{number}": squares}


def _numpy(rows: pa.Table, name: str) -> Volume:
    found: Volume = rows.column(name).to_numpy()
    return found


def objects(
    rows: pa.Table,
    axes: Sequence[str],
    channels: Sequence[str],
    offset: Sequence[int],
    begin: Sequence[float],
    voxel_size: Sequence[float],
    origin: str = "corner",
    csv: Sequence[str] = (),
) -> Rows:
    """Return the table of objects, and write it as CSV.

    Parameters
    ----------
    rows : pyarrow.Table
        As :func:`merged` makes them.
    axes, channels : sequence of str
        What columns end with.
    offset : sequence of int
        Of the region, in voxels of the labels.
    begin, voxel_size : sequence of float
        Where the region begins, in world units.
    origin : str
        ``corner`` or ``center``: which point of a voxel its place means.
    csv : sequence of str
        Files to write.

    Returns
    -------
    dict
        A row per object by columns, in the order of ids.
    """
    count = _numpy(rows, "count")
    found: Rows = {"id": _numpy(rows, "id"), "count": count}
    found["volume"] = count * float(np.prod(voxel_size))
    half = 0.5 if origin == "corner" else 0.0
    for a, (axis, first, step) in enumerate(zip(axes, begin, voxel_size, strict=True)):
        found[f"centroid_{axis}"] = first + (_numpy(rows, f"sum_{a}") / count + half) * step
    sides = {
        side: [_numpy(rows, f"{side}_{a}").astype(np.int64) for a in range(len(axes))]
        for side in ("begin", "end")
    }
    for side, places in sides.items():
        for axis, place, first in zip(axes, places, offset, strict=True):
            found[f"{side}_{axis}"] = place + first
    faces = [_numpy(rows, f"border_{a}") for a in range(len(axes))]
    found["on_border"] = np.any(faces, axis=0)
    others = (np.prod([*voxel_size[:a], *voxel_size[a + 1 :]]) for a in range(len(axes)))
    areas = [n * float(area) for n, area in zip(faces, others, strict=True)]
    found["border_area"] = np.sum(areas, axis=0, dtype=float)
    for c, name in enumerate(channels):
        end = f"_{name}" if name else ""
        least, most = _numpy(rows, f"least_{c}"), _numpy(rows, f"most_{c}")
        with np.errstate(invalid="ignore"):
            found[f"intensity_mean{end}"] = least + _numpy(rows, f"above_{c}") / count
            found[f"intensity_std{end}"] = np.sqrt(_numpy(rows, f"squares_{c}") / count)
        found |= {f"intensity_min{end}": least, f"intensity_max{end}": most}
    for path in csv:
        _write_csv(found, path)
    return found


def _write_csv(columns: Rows, path: str) -> None:
    """Write columns to a file, which is there whole or not at all."""
    import pyarrow as pa
    import pyarrow.csv

    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    unfinished = f"{path}.unfinished"
    pyarrow.csv.write_csv(pa.table(columns), unfinished)
    os.replace(unfinished, path)
