"""Copies of arrays, block by block: which blocks, so that what is stored is read and written once.

A block is whole chunks (or shards) of the copy, so no two blocks write one file. Of such blocks the
one is taken by which chunks of the source are decoded the least often, within a worker's memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import VoxelSizesModel, refuse

__all__ = ["Memory", "Side", "best_block", "bytes_of", "copied", "copy_step", "cubic"]

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# Voxels of a chunk where none are given: 64 x 64 x 64.
_CHUNK = 1 << 18
# Bytes of a block below which what a block costs by itself counts.
_LEAST = 8 << 20
# Of what a block reads a worker had 1.5 times in memory (256 pages of 2048 x 2048), and libraries.
_COPIES = 2
_FEW = 12
_MULTIPLES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def bytes_of(text: str) -> int:
    """Return how many bytes a text like ``500 MB`` means, 0 if it means none."""
    number, _, unit = text.strip().partition(" ")
    if not unit:
        number = text.rstrip("kKMGiB ")
        unit = text[len(number) :]
    try:
        return int(float(number) * _UNITS[unit.strip()])
    except (ValueError, KeyError, OverflowError):
        return 0


def _memory(text: str) -> str:
    if bytes_of(text) <= 0:
        refuse("must be bytes, e.g. 500 MB")
    return text


Memory = Annotated[str, AfterValidator(_memory)]


def copied(source: NDArray[Any]) -> NDArray[Any]:
    """Return what it is given."""
    return source


@dataclass(frozen=True, slots=True)
class Side:
    """An axis of a copy, in voxels.

    Parameters
    ----------
    size : int
        Of the copy.
    begin : int
        Where that begins in the source.
    source, target : int
        What is decoded at once there, and stored in one file here.
    fixed : int
        What a block has, 0 if that may be chosen.
    """

    size: int
    begin: int
    source: int
    target: int
    fixed: int = 0

    @property
    def candidates(self) -> list[int]:
        """What a block may have: whole files of the copy, or all."""
        if self.fixed:
            return [min(self.fixed, self.size)]
        many = -(-self.size // self.target)
        whole = math.lcm(self.source, self.target) // self.target
        known = {*_MULTIPLES, whole, *(-(-self.source * n // self.target) for n in (1, 2, 4))}
        found = sorted(n for n in known if 0 < n < many)
        kept = found if len(found) < _FEW else [*found[:_FEW], *({whole} & set(found[_FEW:]))]
        return [n * self.target for n in kept] + [self.size]

    def repeats(self, block: int) -> float:
        """Return how often what is decoded at once is decoded, on average."""
        begin = self.begin + np.arange(0, self.size, block)
        end = np.minimum(begin + block, self.begin + self.size)
        touched = -(-end // self.source) - begin // self.source
        least = -(-(self.begin + self.size) // self.source) - self.begin // self.source
        return float(touched.sum()) / least


def best_block(sides: Sequence[Side], *, itemsize: int, memory: int) -> tuple[int, ...] | None:
    """Return the block by which the source is decoded the least often; None if none fits.

    Parameters
    ----------
    sides : sequence of Side
        All axes.
    itemsize : int
        Bytes per voxel.
    memory : int
        Bytes that a worker may take.
    """
    options = [[(n, side.repeats(n)) for n in side.candidates] for side in sides]
    best: tuple[float, float, tuple[int, ...]] | None = None
    for chosen in itertools.product(*options):
        block = tuple(n for n, _ in chosen)
        size = math.prod(block) * itemsize
        if size * _COPIES > memory:
            continue
        repeats = round(math.prod(r for _, r in chosen), 2)
        rank = size if size >= _LEAST else 2 * memory - size
        if best is None or (repeats, rank, block) < best:
            best = repeats, rank, block
    return best[2] if best else None


def cubic(shape: Sequence[int], voxels: int = _CHUNK) -> tuple[int, ...]:
    """Return a near-cubic box of powers of two with about so many voxels, not larger than a shape.

    Axes that are short leave their share to the others.
    """
    found = [1] * len(shape)
    while math.prod(found) < voxels:
        free = [a for a, n in enumerate(found) if n < shape[a]]
        if not free:
            break
        shortest = min(free, key=lambda a: (found[a], -a))
        found[shortest] *= 2
    return tuple(min(n, size) for n, size in zip(found, shape, strict=True))


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of the copy."""

    name: str
    size: int
    begin: int
    source: int
    is_measured: bool
    tiled: int  # which of the frame's axes it is, -1 for none


def copy_step(
    model: OperationModel, frame: Frame, *, memory: int, ome: bool = False
) -> dict[str, Step]:
    """Return the form of the task that copies ``source`` into ``array``; nothing if it is wrong."""
    axes = _axes(model, frame)
    if axes is None or frame.array is None:
        return {}
    write = model.outputs_of["array"]
    shape = [axis.size for axis in axes]
    known = _layout(write.chunks, axes)
    chunks = known or _usual_chunks(axes)
    shards = _layout(write.shards, axes) if write.shards is not None else None
    dtype = np.dtype(write.dtype or frame.array.dtype)
    layout: dict[str, Any] = {}
    more: dict[str, Any] = {"dtype": str(frame.array.dtype)}
    more["channels"] = [axis.size for axis in axes if axis.tiled < 0]
    if known or write.chunks == "auto":
        layout["chunks"] = list(chunks)
    form: Step = {
        "function": f"{__name__}:copied",
        "reads": {"source": model.read("source")},
        "writes": {"array": {**model.write("array", **more, ome=ome), **layout}},
        "conflict": False,
    }
    fixed = _fixed(model, frame)
    if any(n == 0 for n in fixed):
        files = shards or chunks
        sides = [
            Side(a.size, a.begin, a.source, min(f, a.size), fixed[a.tiled] if a.tiled >= 0 else n)
            for a, f, n in zip(axes, files, shape, strict=True)
        ]
        itemsize = max(dtype.itemsize, np.dtype(frame.array.dtype).itemsize)
        block = best_block(sides, itemsize=itemsize, memory=memory)
        if block is None:
            _say_too_large(frame, axes, sides, itemsize * _COPIES)
            return {}
        chosen = {a.tiled: n for a, n in zip(axes, block, strict=True) if a.tiled >= 0}
        form["block_size"] = {"voxels": [chosen[a] for a in range(frame.ndim)]}
    return {"copy": model.blockwise(frame, form)}


def _axes(model: OperationModel, frame: Frame) -> list[_Axis] | None:
    """Return the axes of the copy in its order; None, and why noted, if they have another."""
    array = frame.array
    assert array is not None
    hidden = {array.axis_called(name) for name in model.select_of("source")}
    tiled = array.tiled(frame.axes, [a for a in hidden if a is not None])
    found: dict[int, _Axis] = {}
    for number, axis in enumerate(array.place.axes):
        if number in hidden:
            continue
        at = tiled.index(number) if number in tiled else -1
        size = frame.shape[at] if at >= 0 else array.shape[number]
        begin = frame.offset[at] if at >= 0 else 0
        found[number] = _Axis(axis.name, size, begin, array.chunks[number], axis.is_measured, at)
    order = sorted(found, key=lambda n: (found[n].is_measured, found[n].tiled < 0, n))
    if order != sorted(found):
        lacking = next(found[n].name for n in sorted(found) if found[n].tiled < 0)
        frame.say("block_size", f"axes before others that are cut are cut, too; name {lacking}")
        return None
    return [found[n] for n in order]


def _usual_chunks(axes: Sequence[_Axis]) -> tuple[int, ...]:
    space = iter(cubic([axis.size for axis in axes if axis.is_measured]))
    return tuple(next(space) if axis.is_measured else 1 for axis in axes)


def _layout(value: Any, axes: Sequence[_Axis]) -> tuple[int, ...] | None:
    """Return chunks or shards as they are given, for all axes, 1 for those of channels.

    None where they have to be chosen.

    What does not fit the axes is told by who makes the array.
    """
    usual = _usual_chunks(axes)
    if isinstance(value, int):
        return tuple(value if a.is_measured else n for a, n in zip(axes, usual, strict=True))
    if isinstance(value, Mapping) and not value.keys() - {axis.name for axis in axes}:
        return tuple(value.get(a.name, n) for a, n in zip(axes, usual, strict=True))
    if isinstance(value, list):
        for chosen in (
            [axis.is_measured for axis in axes],
            [axis.tiled >= 0 for axis in axes],
            [True] * len(axes),
        ):
            if len(value) == sum(chosen):
                numbers = iter(value)
                pairs = zip(chosen, usual, strict=True)
                return tuple(next(numbers) if is_chosen else n for is_chosen, n in pairs)
    return None


def _fixed(model: OperationModel, frame: Frame) -> list[int]:
    """Return what a block has along the axes of a frame as it is given, 0 where it is not."""
    given = model.block_size
    if given is None:
        return [0] * frame.ndim
    sizes = given.voxels if isinstance(given, VoxelSizesModel) else given
    if not isinstance(sizes, Mapping):
        return list(frame.block)
    return [n if name in sizes else 0 for name, n in zip(frame.axes, frame.block, strict=True)]


def _say_too_large(
    frame: Frame, axes: Sequence[_Axis], sides: Sequence[Side], bytes_per_voxel: int
) -> None:
    least = math.prod(min(side.candidates) for side in sides) * bytes_per_voxel
    whole = [axis.name for axis in axes if axis.tiled < 0 and axis.size > 1 and axis.name]
    way = (
        f"cut other axes, e.g. block_size: {{voxels: {{{', '.join(f'{n}: 1' for n in whole)}}}}}"
        if whole
        else "write smaller chunks, or allow more"
    )
    frame.say("params.memory", f"a worker takes {-(-least // 10**6):,} MB at least; {way}")
