"""``use: pyramid``: all levels below an image or a label volume, each made from the one above it.

Each level is a task, ``<task>_<level>``, that reads the level above once. A voxel of a level comes
from one cell of that above, and no cell is cut by a block; so the result is the same for all sizes
of blocks. Where an extent is no multiple of the factor, cells at the end hold what is there.
"""

from __future__ import annotations

import itertools
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, Tag

from snakemake_blocks.geometry.block import Block
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.spec.operation_form import Frame, OperationModel, OutputModel, Step
from snakemake_blocks.spec.schema import ArgumentName, ArrayPath, one_of, text_kind
from snakemake_blocks.storage.arrays import chunk_shape
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.tasks.dtypes import number_type

__all__ = ["PyramidModel", "reduced", "reduced_block"]

Volume = NDArray[Any]
Method = Literal["mean", "mode", "max", "stride"]
_HERE = "snakemake_blocks.operations.pyramid"

_LEVEL = re.compile(r"(s|scale)?(\d{1,3})")
# Levels that a form may come to before the image is known; 2^32 voxels along an axis end before.
_MOST_LEVELS = 32
# A block reads at least as much where a level is larger, and no more than two chunks per axis of
# what it writes: after one changed block, no more than two chunks are made again.
_BLOCK_BYTES = 64 << 20
_CHUNKS_OF_BLOCK = 2
# Chunks of the image that are larger are no model for its levels.
_LARGE_CHUNK = 64 << 20
# An axis is left as it is once its voxels are twice as long as the shortest ones, but for noise.
_TWICE = 2 * (1 - 1e-6)
# Keys of steps on which others count.
_OF_ALL = frozenset({"block_size", "roi", "fit", "params", "reads", "function", "call"})
# What the kernels work on at once, so that it stays in the processor's cache.
_SLAB_BYTES = 1 << 20

T = TypeVar("T")
Factor = Annotated[int, Field(ge=1, le=1024, strict=True)]
_FACTORS = "must be a whole number, one per spatial axis, or a list of such lists, one per level"


def _factors_kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "<levels>" if any(isinstance(n, list | tuple) for n in value) else "<list>"
    return "<number>" if isinstance(value, int) else "<other>"


Factors = Annotated[
    Annotated[Factor, Tag("<number>")]
    | Annotated[list[Factor], Tag("<list>"), Field(min_length=1)]
    | Annotated[list[list[Factor]], Tag("<levels>"), Field(min_length=1)],
    one_of(_factors_kind, _FACTORS),
]
Levels = Annotated[
    Annotated[Literal["auto"], Tag("<word>")]
    | Annotated[int, Field(ge=1, le=_MOST_LEVELS, strict=True), Tag("<other>")],
    one_of(text_kind, f"must be auto, or a whole number up to {_MOST_LEVELS}"),
]


class PyramidParams(BaseModel):
    """How levels are made, and how many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method | None = Field(
        None,
        description="mean, mode, max or stride; default: mean, and mode where labels are read.",
    )
    factors: Factors | None = Field(
        None,
        description="By how much a level is smaller: a number, one per spatial axis, or a list of "
        "these per level; default: 2 where voxels are not yet twice as long as the shortest.",
    )
    levels: Levels = Field(
        "auto", description="How many; auto: until one fits into a chunk, one at least."
    )


class LevelsModel(OutputModel):
    """Where levels are written, and how they are stored."""

    array: Annotated[str, StringConstraints(min_length=1)] | Literal[""] = Field(
        "", description="The group that holds them; default: where the image is."
    )
    dtype: str = Field("", description="That of the image; it is kept.")


LevelsForm = Annotated[
    Annotated[ArrayPath, Tag("<word>")] | Annotated[LevelsModel, Tag("<keys>")],
    one_of(text_kind, "must be the path of a group, or {array: ..., chunks: ...}"),
]


class PyramidModel(OperationModel):
    """Smaller and smaller levels of an image or of labels."""

    inputs = ("image", "labels")
    results = ("levels",)

    use: Literal["pyramid"] = Field(description="Which operation.")
    writes: dict[ArgumentName, LevelsForm] = Field(  # type: ignore[assignment]
        {}, description="Where levels are written; default: beside what is read."
    )
    params: PyramidParams = Field(
        PyramidParams.model_validate({}), description="How levels are made."
    )

    @property
    def _output(self) -> LevelsModel:
        form: LevelsModel | str = self.writes.get("levels", "")
        return LevelsModel.model_validate({"array": form}) if isinstance(form, str) else form

    @property
    def _place(self) -> tuple[str, str]:
        """The folder of the image, and what it is called there."""
        return posixpath.split(posixpath.normpath(self.main_path))

    @property
    def _first(self) -> int:
        """The number of the first level that is made."""
        named = _LEVEL.fullmatch(self._place[1])
        return int(named[2]) + 1 if named else 1

    @property
    def _count(self) -> int:
        """How many levels there may be."""
        levels = self.params.levels
        return levels if isinstance(levels, int) else len(self._by_level) or _MOST_LEVELS

    @property
    def _by_level(self) -> Sequence[Sequence[int]]:
        """Factors where they are given for each level, else nothing."""
        given = self.params.factors
        return [n for n in given if isinstance(n, list)] if isinstance(given, list) else ()

    def _path(self, level: int) -> str:
        """Return where a level is, in the style of the image's own name."""
        folder, name = self._place
        named = _LEVEL.fullmatch(name)
        return posixpath.join(self._output.array or folder, f"{(named and named[1]) or ''}{level}")

    @property
    def written_paths(self) -> list[str]:
        """The arrays that it may write."""
        return [self._path(self._first + n) for n in range(self._count)]

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return [str(self._first + n) for n in range(self._count)]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        array = frame.array
        if array is None or len(self.reads) != 1:
            frame.say("reads", "pyramid reads an image or labels; give one of the two")
            return {}
        if not self._is_usable(frame, array):
            return {}
        method = self._method(frame, array)
        layout = _Layout.of(self._output, frame, array)
        levels = layout and list(self._levels(frame, layout))
        if not method or not layout or not levels:
            return {}
        return {
            str(self._first + n): self._step(frame, layout, level, n, method)
            for n, level in enumerate(levels)
        }

    def _is_usable(self, frame: Frame, array: StoredArray) -> bool:
        """Tell whether the form has a meaning here; of what has none a problem is noted."""
        known: list[tuple[str, str]] = []
        if self.roi is not None:
            known.append(("roi", "levels are made of all of the image; remove it"))
        form = self.reads[self.main]
        keys = set() if isinstance(form, str) else form.model_fields_set
        for key in sorted(keys - {"array"}):
            known.append((f"reads.{self.main}.{key}", "has no meaning for pyramid; remove it"))
        for key in ("channels", "voxel_size", "select"):
            if key in self._output.model_fields_set:
                known.append((f"writes.levels.{key}", "is told by the image; remove it"))
        dtype = self._output.dtype
        if dtype and number_type(dtype) != number_type(array.dtype):
            known.append(("writes.levels.dtype", f"is kept, {array.dtype}; remove it"))
        if not _LEVEL.fullmatch(self._place[1]) and not self._output.array:
            text = f"{array.path} is not called like a level, as 0 or s0; say where levels shall be"
            known.append(("writes", f"{text}: {{levels: {{array: folder}}}}"))
        for step, more in self.steps.items():
            for key in sorted(_OF_ALL & more.keys()):
                known.append((f"steps.{step}.{key}", "is told by the operation; remove it"))
        names = [axis.name for axis in array.place.axes if not axis.is_measured]
        cut = [name for name in names if name and name in frame.axes]
        if cut and names[: len(cut)] != cut:
            text = f"cuts along {', '.join(cut)}, and axes before it stay whole; name a size of all"
            known.append(("block_size", text))
        for key, text in known:
            frame.say(key, text)
        return not known

    def _method(self, frame: Frame, array: StoredArray) -> str:
        """Return how cells become voxels; empty, and why noted, if that has no meaning."""
        method, kind = self.params.method, np.dtype(array.dtype).kind
        if method is None and self.main == "image":
            if kind in "iu" and "labels" in self._place[0].split("/"):
                text = "lies among labels, of which no mean is one; give method: mode, or mean"
                frame.say("params.method", f"{array.path} {text}")
                return ""
            return "mean"
        if method in ("max", "mode") and kind == "c":
            frame.say(
                "params.method", f"{array.dtype} has no order for {method}; use mean or stride"
            )
            return ""
        return method or "mode"

    def _levels(self, frame: Frame, layout: _Layout) -> Iterator[_Level]:
        """Yield the levels, along the axes of space; of what is wrong a problem is noted."""
        ndim = layout.ndim
        shape, voxel = frame.shape[-ndim:], frame.voxel_size[-ndim:]
        is_auto, by_level = self.params.levels == "auto", self._by_level
        given = self.params.factors
        if by_level and not is_auto and len(by_level) != self._count:
            text = f"{len(by_level)} levels by factors, {self._count} by levels; leave one out"
            frame.say("params.levels", text)
            return
        for n in range(self._count):
            if is_auto and n and not by_level and layout.is_one_chunk(shape):
                return
            factors = _factors(by_level[n] if by_level else given, shape, voxel)
            if len(factors) != ndim:
                text = f"{len(factors)} factors for {ndim} axes of space; give one per axis"
                frame.say("params.factors", text)
                return
            if math.prod(factors) == 1:
                if given is not None and not all(side == 1 for side in shape):
                    frame.say("params.factors", "all are 1, so a level would be no smaller")
                elif not n or not is_auto:
                    text = f"only {n} can be made, then no side is longer than a voxel"
                    frame.say("params.levels", text)
                return
            yield _Level(shape, factors)
            shape = _Level(shape, factors).coarse
            voxel = tuple(v * f for v, f in zip(voxel, factors, strict=True))

    def _step(self, frame: Frame, layout: _Layout, level: _Level, n: int, method: str) -> Step:
        """Return the form of the task that makes a level."""
        ones = (1,) * (frame.ndim - layout.ndim)
        factors, chunks = ones + level.factors, layout.chunks_of(level.coarse)
        block = frame.block
        if self.block_size is None:
            block = chunks[: len(ones)] + layout.block(level, frame.channels)
        elif any(b % f for b, f in zip(block, factors, strict=True)):
            near = [-(-b // f) * f for b, f in zip(block, factors, strict=True)]
            text = f"{list(block)} voxels cut cells of {list(factors)}; use e.g. {near}"
            frame.say("block_size", text)
        fine = self._path(self._first + n - 1) if n else self.main_path
        is_cut = any(side % f for side, f in zip(level.shape, level.factors, strict=True))
        more = self._output.model_dump(exclude_unset=True)
        return self.blockwise(
            frame,
            {
                "function": f"{_HERE}:reduced_block",
                "params": {
                    "factors": list(level.factors),
                    "method": method,
                    "shape": list(level.shape),
                    "size": list(block[len(ones) :]),
                },
                "reads": {"fine": {"array": fine, **({"fill": 0} if is_cut else {})}},
                "writes": {
                    "coarse": {
                        **layout.shards_of(level.coarse),
                        **more,
                        "array": self._path(self._first + n),
                        "dtype": layout.dtype,
                        "channels": list(frame.channels),
                        "voxel_size": {"voxels": list(factors)},
                        "chunks": list(chunks),
                    }
                },
                "roi": fine,
                "block_size": {"voxels": list(block)},
            },
        )


def _factors(given: Any, shape: Index, voxel: Sequence[float]) -> Index:
    """Return by how much a level is smaller along the axes of space."""
    if given is not None:
        return tuple(given) if isinstance(given, list) else (given,) * len(shape)
    shortest = min((v for v, n in zip(voxel, shape, strict=True) if n > 1), default=0.0)
    sides = zip(voxel, shape, strict=True)
    return tuple(2 if n > 1 and v < _TWICE * shortest else 1 for v, n in sides)


@dataclass(frozen=True, slots=True)
class _Level:
    """A level to be made: shape of the one above, and by how much it is smaller; space alone."""

    shape: Index
    factors: Index

    @property
    def coarse(self) -> Index:
        """Its own shape; what is left at the end is a voxel, too."""
        return tuple(-(-n // f) for n, f in zip(self.shape, self.factors, strict=True))


@dataclass(frozen=True, slots=True)
class _Layout:
    """How levels are stored: like the image, where nothing else is given.

    Parameters
    ----------
    dtype : str
        numpy name.
    ndim : int
        Number of the axes of space, which are the last ones.
    chunks, shards : tuple of int
        All stored axes; ``shards`` empty for none, or for what is given.
    is_given : bool
        Whether chunks are the user's, and not to be cut where a level is smaller.
    """

    dtype: str
    ndim: int
    chunks: Index
    shards: Index
    is_given: bool

    @classmethod
    def of(cls, output: OutputModel, frame: Frame, array: StoredArray) -> _Layout | None:
        """Return what is meant; None, and a problem noted, if that is not clear."""
        axes = array.place.axes
        ndim = sum(axis.is_measured for axis in axes)
        usual = array.inner or array.chunks
        size = np.dtype(array.dtype).itemsize
        if math.prod(usual) * size > _LARGE_CHUNK:
            usual = chunk_shape(usual, itemsize=size)
        chunks, given = list(usual), output.chunks
        if isinstance(given, int):
            chunks[-ndim:] = [given] * ndim
        elif isinstance(given, Mapping):
            names = [axis.name for axis in axes]
            for name, n in given.items():
                if name not in names:
                    known = ", ".join(filter(None, names)) or "none"
                    text = f"there is no axis {name}; known are {known}"
                    frame.say(f"writes.levels.chunks.{name}", text)
                    return None
                chunks[names.index(name)] = n
        elif isinstance(given, list):
            if len(given) not in (ndim, frame.ndim, len(axes)):
                text = f"{len(given)} sizes for {ndim} axes of space; give one per axis"
                frame.say("writes.levels.chunks", text)
                return None
            chunks[len(axes) - len(given) :] = given
        is_given = given != "auto" or output.shards not in (None, "auto")
        is_like = not is_given and "shards" not in output.model_fields_set and array.inner
        shards = array.chunks if is_like and usual == array.inner else ()
        return cls(array.dtype, ndim, tuple(chunks), shards, is_given)

    def is_one_chunk(self, shape: Index) -> bool:
        """Tell whether all of a level, along the axes of space, is in one chunk."""
        return all(n <= c for n, c in zip(shape, self.chunks[-self.ndim :], strict=True))

    def chunks_of(self, coarse: Index) -> Index:
        """Return the chunks of a level, of all stored axes."""
        if self.is_given:
            return self.chunks
        space = map(min, self.chunks[-self.ndim :], coarse)
        return (*self.chunks[: -self.ndim], *space)

    def shards_of(self, coarse: Index) -> dict[str, Any]:
        """Return the form of the shards of a level, nothing for none or what is given."""
        if not self.shards:
            return {}
        chunks = self.chunks_of(coarse)
        space = zip(self.shards[-self.ndim :], chunks[-self.ndim :], coarse, strict=True)
        return {
            "shards": [
                *self.shards[: -self.ndim],
                *(min(s, -(-n // c) * c) for s, c, n in space),
            ]
        }

    def block(self, level: _Level, channels: Sequence[int]) -> Index:
        """Return how much of the level above a block reads: whole chunks of what it writes."""
        chunks = self.chunks_of(level.coarse)[-self.ndim :]
        unit = [c * f for c, f in zip(chunks, level.factors, strict=True)]
        bytes_of = math.prod(channels) * np.dtype(self.dtype).itemsize
        found = list(unit)
        for _ in range(1, _CHUNKS_OF_BLOCK):
            for a in sorted(range(self.ndim), key=lambda a: (found[a], -a)):
                larger = math.prod(found) * 2 * bytes_of
                if found[a] < level.coarse[a] * level.factors[a] and larger <= _BLOCK_BYTES:
                    found[a] += unit[a]
        return tuple(found)


def reduced_block(
    fine: Volume,
    block: Block,
    factors: Sequence[int],
    method: str,
    shape: Sequence[int],
    size: Sequence[int],
) -> Volume:
    """Return what a block makes of the level above.

    Parameters
    ----------
    fine : ndarray
        What the block reads; beyond the end of the level there may be anything.
    block : Block
        Its index tells where it lies.
    factors : sequence of int
        Of the last axes of ``fine``.
    method : str
        As for :func:`reduced`.
    shape, size : sequence of int
        Of the level above and of a block, in voxels, along these axes.
    """
    sides = zip(block.index[-len(factors) :], size, shape, strict=True)
    inside: Any = (Ellipsis, *(slice(min(w, n - k * w)) for k, w, n in sides))
    return reduced(fine[inside], factors, method)


def reduced(fine: Volume, factors: Sequence[int], method: str = "mean") -> Volume:
    """Return a volume of which each voxel stands for a cell of another one.

    Parameters
    ----------
    fine : ndarray
        Any numbers.
    factors : sequence of int
        Extents of a cell along the last axes; along those before all stays as it is. Cells at the
        ends hold what is there.
    method : str
        ``mean``: of integers exact and rounded to the nearest, halves to the even one, of floats
        summed in float64; ``mode``: the most frequent value, the smallest of several; ``max``;
        ``stride``: the first voxel.

    Returns
    -------
    ndarray
        Of the same type; an extent ``n`` has become ``n / factor``, rounded up.
    """
    fine = np.asarray(fine, fine.dtype.newbyteorder("="))
    lead, space = fine.shape[: -len(factors)], fine.shape[-len(factors) :]
    whole = fine.reshape(-1, *space)
    sides = [-(-n // f) for n, f in zip(space, factors, strict=True)]
    found = np.empty((len(whole), *sides), fine.dtype)
    kernel = _KERNELS[method]
    for part in itertools.product(*map(_parts, space, factors)):
        cell = tuple(f for _, _, f in part)
        for channel, target in zip(whole, found, strict=True):
            here = channel[tuple(source for source, _, _ in part)]
            there = target[tuple(t for _, t, _ in part)]
            for source, result in _slabs(here, there, cell[0]):
                result[...] = kernel(source, cell)
    return found.reshape(*lead, *sides)


def _parts(extent: int, factor: int) -> list[tuple[slice, slice, int]]:
    """Return what holds whole cells along an axis, and what is left: source, target, extent."""
    count, left = divmod(extent, factor)
    whole = (slice(0, count * factor), slice(0, count), factor)
    rest = (slice(count * factor, extent), slice(count, count + 1), left)
    return [part for part, n in ((whole, count), (rest, left)) if n]


def _slabs(fine: Volume, coarse: Volume, factor: int) -> Iterator[tuple[Volume, Volume]]:
    """Yield parts along the first axis that are small enough to be worked on in the cache."""
    step = max(1, _SLAB_BYTES // max(1, factor * math.prod(fine.shape[1:]) * fine.itemsize))
    for begin in range(0, len(coarse), step):
        end = min(begin + step, len(coarse))
        yield fine[begin * factor : end * factor], coarse[begin:end]


def _mean(fine: Volume, cell: Index) -> Volume:
    count, kind = math.prod(cell), fine.dtype.kind
    if kind in "fc":
        wide = np.promote_types(fine.dtype, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            mean: Volume = (_sum(fine, cell, wide) / count).astype(fine.dtype)
        return mean
    if kind == "b":
        return _mean(fine.view(np.uint8), cell).astype(bool)
    bits = 8 * fine.itemsize + (count - 1).bit_length() + 1  # one more for twice the rest
    wide = np.dtype(f"{kind}{next((n for n in (2, 4, 8) if 8 * n >= bits), 8)}")
    if bits <= 64:
        total = _sum(fine, cell, wide)
        quotient, rest = _divided(total, count)
    else:  # n * (a // n) + a % n, so that no sum is larger than its mean
        quotients, rests = np.divmod(fine, fine.dtype.type(count))
        more, rest = _divided(_sum(rests, cell, wide), count)
        quotient = _sum(quotients, cell, wide) + more
    twice = rest + rest
    quotient += (twice > count) | ((twice == count) & (quotient & 1 == 1))
    return quotient.astype(fine.dtype)


def _divided(total: Volume, count: int) -> tuple[Volume, Volume]:
    """Return quotient, rounded down, and rest; by bits where that will do."""
    bits = count.bit_length() - 1
    if count == 1 << bits:
        return total >> bits, total & (count - 1)
    quotient = total // count
    return quotient, total - quotient * count


def _sum(fine: Volume, cell: Index, dtype: Any) -> Volume:
    """Return the sums of cells, added up in one order whatever the shape."""
    found = fine
    for axis, factor in enumerate(cell):
        first, *others = _strides(found, axis, factor)
        if not others:
            continue
        found = np.add(first, others[0], dtype=dtype)
        for other in others[1:]:
            found += other
    return found if found.dtype == dtype else found.astype(dtype)


def _max(fine: Volume, cell: Index) -> Volume:
    for axis, factor in enumerate(cell):
        first, *others = _strides(fine, axis, factor)
        for other in others:
            first = np.maximum(first, other)
        fine = first
    return fine


def _strides(fine: Volume, axis: int, factor: int) -> list[Volume]:
    before = (slice(None),) * axis
    return [fine[(*before, slice(n, None, factor))] for n in range(factor)]


def _stride(fine: Volume, cell: Index) -> Volume:
    return fine[tuple(slice(None, None, f) for f in cell)]


def _mode(fine: Volume, cell: Index) -> Volume:
    """Return the most frequent values; most cells hold one value alone."""
    offsets = itertools.product(*map(range, cell))
    voxels = [
        fine[tuple(slice(n, None, f) for n, f in zip(offset, cell, strict=True))]
        for offset in offsets
    ]
    found = np.array(voxels[0])
    mixed = np.zeros(found.shape, bool)
    for other in voxels[1:]:
        mixed |= other != found
    if not mixed.any():
        return found
    values = np.stack([voxel[mixed] for voxel in voxels])
    values.sort(axis=0)
    best, most = values[0].copy(), np.ones(values.shape[1], np.intp)
    run = most.copy()
    for before, value in itertools.pairwise(values):
        run = np.where(value == before, run + 1, 1)
        is_more = run > most
        most[is_more], best[is_more] = run[is_more], value[is_more]
    found[mixed] = best
    return found


_KERNELS = {"mean": _mean, "mode": _mode, "max": _max, "stride": _stride}
