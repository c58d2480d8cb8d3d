"""``use: stitch``: objects that a function found in blocks by themselves, made one across blocks.

A function labels all that it sees, the block and its context. Two labels of neighbouring blocks are
one object if they overlap enough where both blocks saw the same voxels; of labels that were made
without context, if they touch enough. What is joined to one another is one object, and each voxel
gets the object of the block that writes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.grid import VoxelGrid, later_neighbours
from snakemake_blocks.operations.relabel import unique
from snakemake_blocks.operations.unions import Sets, numbers_of
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import ArgumentName, Context, FunctionName

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["StitchModel", "given", "merge", "pairs", "pieces", "stitched"]

_HERE = "snakemake_blocks.operations.stitch"


class StitchParams(BaseModel):
    """When two labels are one object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: Literal["iou", "fraction", "overlap"] = Field(
        "iou",
        description="Common voxels over those of both, over those of the smaller one, or as such.",
    )
    threshold: float = Field(0.5, ge=0, description="The least score that joins two labels.")


class StitchModel(OperationModel):
    """Objects across blocks, of what a function labels block by block, or of labels that exist."""

    takes_any = True
    results = ("labels",)
    libraries = ("scipy",)
    needed_results = ("labels",)
    made = ("pairs", "objects")

    use: Literal["stitch"] = Field(description="Which operation.")
    function: FunctionName | None = Field(
        None,
        description="Labels what it sees, from 1 on; without it reads: {labels: ...} is taken.",
    )
    context: Context = Field(0, description="What the function sees beyond a block.")
    arguments: dict[ArgumentName, Any] = Field({}, description="The function's params.")
    params: StitchParams = Field(
        StitchParams.model_validate({}), description="When two labels are one object."
    )

    @property
    def main(self) -> str:
        """What its main input is called."""
        return next(iter(self.reads), "")

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["pieces", "pairs", "merge", "label"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        if frame.array is None:
            frame.say("reads", "name at least one array that the function sees")
            return {}
        if self.function is None and list(self.reads) != ["labels"]:
            text = "name the function that labels a block, or give reads: {labels: ...} alone"
            frame.say("function", text)
            return {}
        if self.function is None and self.block_size is None:
            frame.say("block_size", "is missing; give that with which the labels were made")
            return {}
        grid = {"shape": list(frame.shape), "size": list(frame.block)}
        context = self._given("context") if "context" in self.model_fields_set else 0
        task = frame.task
        return {
            "pieces": self.blockwise(
                frame,
                {
                    "function": self.function or f"{_HERE}:given",
                    "params": self.arguments,
                    "then": f"{_HERE}:pieces",
                    "reads": {name: self.read(name) for name in self.reads},
                    "context": context,
                    "tables": {
                        "pieces": {"columns": _PIECES},
                        "counts": {"columns": {"place": "string", "count": "uint32"}},
                        "objects": {"columns": {"label": "uint64", "voxels": "uint64"}},
                    },
                },
            ),
            "pairs": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:pairs",
                    "params": {**grid, **self.params.model_dump()},
                    "reads": {"pieces": {"table": f"{task}_pieces.pieces"}},
                    "context": {"voxels": 1},
                    "tables": {"pairs": self.table("pairs", _PAIRS)},
                },
            ),
            "merge": self.once(
                {
                    "function": f"{_HERE}:merge",
                    "params": grid,
                    "reads": {
                        "counts": {"table": f"{task}_pieces.counts", "batches": True},
                        "objects": {"table": f"{task}_pieces.objects", "batches": True},
                        "pairs": {"table": f"{task}_pairs.pairs", "batches": True},
                    },
                    "tables": {
                        "pieces": {"columns": {"begin": "uint64", "count": "uint32"}},
                        "objects": self.table("objects", _OBJECTS),
                    },
                }
            ),
            "label": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:stitched",
                    "params": grid,
                    "reads": {
                        "pieces": {"table": f"{task}_pieces.pieces"},
                        "begins": {"table": f"{task}_merge.pieces", "whole": True},
                        "objects": {"table": f"{task}_merge.objects", "whole": True},
                    },
                    "writes": {"labels": self.write("labels", dtype="uint64")},
                },
            ),
        }


_PIECES = {"place": "string", "labels": "binary", "names": "binary"}
_PAIRS = {
    "block_a": "uint64",
    "label_a": "uint64",
    "block_b": "uint64",
    "label_b": "uint64",
    "overlap": "uint64",
    "score": "float64",
    "joined": "bool",
}
_OBJECTS = {"block": "uint64", "label": "uint64", "voxels": "uint64", "object": "uint64"}


def given(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels that exist, as a function that makes them would."""
    return labels


def pieces(returned: Any, block: Block) -> dict[str, Any]:
    """Return what a function labelled in a block and its context, as rows.

    Parameters
    ----------
    returned : ndarray, or mapping with one
        Labels of all that the block reads, whole numbers; 0 is the background.
    block : Block
        Its Rois tell which part of them it writes.

    Returns
    -------
    dict
        ``pieces``: one row with the labels, numbered from 1 on, and their names; ``counts``: how
        many there are; ``objects``: for each its name, and how many voxels of it the block writes.

    Raises
    ------
    InputError
        If these are no labels of all that the block reads.
    """
    if isinstance(returned, Mapping):
        (returned,) = returned.values()
    labels = np.asarray(returned)
    read, write = block.read_roi, block.write_roi
    if labels.ndim != read.dims:
        raise InputError(f"labels have {labels.ndim} axes, the block has {read.dims}")
    if labels.dtype.kind not in "bui" or (labels.dtype.kind == "i" and labels.min(initial=0) < 0):
        raise InputError("labels are whole numbers from 0 on, which is the background")
    scaled = [
        (lower * n, n * size, whole)
        for lower, n, size, whole in zip(
            write.begin - read.begin, labels.shape, write.shape, read.shape, strict=True
        )
    ]
    if any(lower % whole or size % whole for lower, size, whole in scaled):
        raise InputError(
            f"labels have the shape {labels.shape}, which is not that of all that the function sees"
        )
    begin = tuple(int(lower // whole) for lower, _, whole in scaled)
    core = tuple(slice(b, b + int(n // w)) for b, (_, n, w) in zip(begin, scaled, strict=True))
    names, ranks = unique(labels)
    if len(names) and names[0] == 0:
        names = names[1:]
    else:
        ranks = ranks + 1
    ranks = ranks.astype(np.uint32)
    sizes = np.bincount(ranks[core].ravel(), minlength=len(names) + 1)[1:]
    names = names.astype(np.uint64)
    index = [int(k) for k in block.index]
    place = json.dumps({"index": index, "shape": list(labels.shape), "lower": begin})
    row = {"place": [place], "labels": [_codec().encode(ranks)], "names": [names.tobytes()]}
    return {
        "pieces": row,
        "counts": {"place": [place], "count": [len(names)]},
        "objects": {"label": names, "voxels": sizes},
    }


def _codec() -> Any:
    from numcodecs import Blosc

    return Blosc(cname="zstd", clevel=1)


class _Pieces:
    """What neighbouring blocks saw, unpacked when it is asked for."""

    def __init__(self, table: pa.Table, grid: VoxelGrid) -> None:
        self._grid, self._table = grid, table
        places = map(json.loads, table.column("place").to_pylist())
        self._rows = {tuple(p["index"]): (row, p) for row, p in enumerate(places)}
        self._last: tuple[Sequence[int], NDArray[np.uint32]] | None = None

    def __contains__(self, index: Sequence[int]) -> bool:
        return index in self._rows

    def labels(self, index: tuple[int, ...]) -> NDArray[np.uint32]:
        """Return the labels of a block and its context."""
        if self._last is None or self._last[0] != index:
            row, place = self._rows[index]
            data = _codec().decode(self._table.column("labels")[row].as_py())
            found = np.frombuffer(data, np.uint32).reshape(place["shape"])
            self._last = index, found
        return self._last[1]

    def names(self, index: tuple[int, ...]) -> NDArray[np.uint64]:
        """Return what the function called them."""
        return np.frombuffer(self._table.column("names")[self._rows[index][0]].as_py(), np.uint64)

    def seen(self, index: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return where in the volume it begins and ends."""
        place = self._rows[index][1]
        sides = zip(self._grid.begin(index), place["lower"], strict=True)
        begin = [b - lower for b, lower in sides]
        end = [b + n for b, n in zip(begin, place["shape"], strict=True)]
        extent = self._grid.extent(index)
        if any(
            lower + n > whole
            for lower, n, whole in zip(place["lower"], extent, place["shape"], strict=True)
        ):
            raise InputError(
                f"labels of block {index} have the shape {tuple(place['shape'])}; return those of "
                "all that the function sees"
            )
        return begin, end

    def part(
        self, index: tuple[int, ...], begin: Sequence[int], end: Sequence[int]
    ) -> NDArray[np.uint32]:
        """Return the labels of a block in a region of the volume."""
        first, _ = self.seen(index)
        sides = zip(begin, end, first, strict=True)
        return self.labels(index)[tuple(slice(b - f, e - f) for b, e, f in sides)]


def pairs(
    pieces: pa.Table,
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
    score: str = "iou",
    threshold: float = 0.5,
) -> dict[str, NDArray[Any]]:
    """Return which labels of a block overlap with labels of its later neighbours.

    Parameters
    ----------
    pieces : pyarrow.Table
        As :func:`pieces` makes it, of the block and of all its neighbours.
    block : Block
        The block.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.
    score : str
        ``iou``: common voxels over those of both, where both blocks saw the same; ``fraction``:
        over those of the smaller one there; ``overlap``: their number.
    threshold : float
        The least score that joins them.

    Returns
    -------
    dict
        A row per pair of labels that have voxels in common.
    """
    grid = VoxelGrid(shape, size)
    known = _Pieces(pieces, grid)
    found = [_Found.none()]
    for away in later_neighbours(len(grid.shape), len(grid.shape)):
        other = tuple(k + d for k, d in zip(block.index, away, strict=True))
        if block.index not in known or other not in known:
            continue
        (begin, end), (more, less) = known.seen(block.index), known.seen(other)
        region = list(map(max, begin, more)), list(map(min, end, less))
        if all(b < e for b, e in zip(*region, strict=True)):
            one, two = known.part(block.index, *region), known.part(other, *region)
        elif sum(map(abs, away)) == 1:  # nothing was seen twice, so what touches counts
            axis = next(a for a, d in enumerate(away) if d)
            one = np.take(known.part(block.index, *_core(grid, block.index)), -1, axis)
            two = np.take(known.part(other, *_core(grid, other)), 0, axis)
        else:
            continue
        numbers = grid.number(block.index), grid.number(other)
        names = known.names(block.index), known.names(other)
        found.append(_Found.of(one, two, numbers, names, score))
    rows = {
        name: np.concatenate([part.rows[name] for part in found])
        for name in _PAIRS
        if name != "joined"
    }
    return {**rows, "joined": rows["score"] >= threshold}


def _core(grid: VoxelGrid, index: Sequence[int]) -> tuple[list[int], list[int]]:
    begin = list(grid.begin(index))
    return begin, [b + n for b, n in zip(begin, grid.extent(index), strict=True)]


class _Found(NamedTuple):
    """Pairs of labels that overlap, as rows."""

    rows: dict[str, NDArray[Any]]

    @classmethod
    def none(cls) -> _Found:
        """Return no pairs."""
        return cls({name: np.zeros(0, kind) for name, kind in _PAIRS.items()})

    @classmethod
    def of(
        cls,
        one: NDArray[np.uint32],
        two: NDArray[np.uint32],
        numbers: tuple[int, int],
        names: tuple[NDArray[np.uint64], NDArray[np.uint64]],
        score: str,
    ) -> _Found:
        """Return the pairs of two blocks, of what both have where both are."""
        there = (one != 0) & (two != 0)
        both, common = np.unique(
            one[there].astype(np.uint64) << np.uint64(32) | two[there], return_counts=True
        )
        a, b = both >> np.uint64(32), both & np.uint64(2**32 - 1)
        alone = [
            np.bincount(side.ravel(), minlength=len(n) + 1)
            for side, n in zip((one, two), names, strict=True)
        ]
        of_a, of_b = alone[0][a], alone[1][b]
        scores = {
            "iou": common / (of_a + of_b - common),
            "fraction": common / np.minimum(of_a, of_b),
            "overlap": common.astype(float),
        }
        return cls(
            {
                "block_a": np.full(len(a), numbers[0], np.uint64),
                "label_a": names[0][a - np.uint64(1)],
                "block_b": np.full(len(b), numbers[1], np.uint64),
                "label_b": names[1][b - np.uint64(1)],
                "overlap": common.astype(np.uint64),
                "score": scores[score],
            }
        )


def merge(
    counts: Iterable[pa.Table],
    objects: Iterable[pa.Table],
    pairs: Iterable[pa.Table],
    shape: Sequence[int],
    size: Sequence[int],
) -> dict[str, Mapping[str, NDArray[Any]]]:
    """Return the object to which every label of every block belongs.

    Takes about 60 bytes of memory per label of a block, and passes over the pairs once.

    Parameters
    ----------
    counts, objects, pairs : iterable of pyarrow.Table
        Rows as :func:`pieces` and :func:`pairs` make them, the first two in one order of blocks.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.

    Returns
    -------
    dict
        ``objects``: block, label, voxels that the block writes of it, and object: 1, 2, ... in the
        order of blocks and labels, 0 for what no block writes; ``pieces``: where those of each
        block begin, and how many there are, by its number.
    """
    grid = VoxelGrid(shape, size)
    total = np.zeros(math.prod(grid.counts), np.uint32)
    order: list[tuple[int, int]] = []
    for some in counts:
        numbers = [
            grid.number(json.loads(place)["index"]) for place in some.column("place").to_pylist()
        ]
        found = some.column("count").to_numpy()
        total[numbers] = found
        order += zip(numbers, found.tolist(), strict=True)
    begins = np.cumsum(total, dtype=np.uint64) - total
    names, voxels = (np.zeros(int(total.sum()), np.uint64) for _ in range(2))
    waiting = iter(order)
    for some in objects:
        label, count = (some.column(name).to_numpy() for name in ("label", "voxels"))
        at = 0
        while at < len(label):
            number, n = next(waiting)
            there = slice(int(begins[number]), int(begins[number]) + n)
            names[there], voxels[there] = label[at : at + n], count[at : at + n]
            at += n
    blocks = np.repeat(np.arange(len(total), dtype=np.uint64), total)
    sets = Sets(len(names))

    def nodes(some: pa.Table, side: str) -> NDArray[np.int64]:
        block, label = (some.column(f"{name}_{side}").to_numpy() for name in ("block", "label"))
        found = np.zeros(len(block), np.int64)
        for number in np.unique(block):
            mine, first = block == number, int(begins[number])
            known = names[first : first + int(total[number])]
            found[mine] = first + np.searchsorted(known, label[mine])
        return found

    for some in pairs:
        joined = some.filter(some.column("joined"))
        sets.join(nodes(joined, "a"), nodes(joined, "b"))
    roots = sets.roots()
    written = np.zeros(len(names), np.uint64)
    np.add.at(written, roots, voxels)
    _, found = np.unique(roots[written[roots] > 0], return_inverse=True)
    result = np.zeros(len(names), np.uint64)
    result[written[roots] > 0] = found + 1
    return {
        "objects": {"block": blocks, "label": names, "voxels": voxels, "object": result},
        "pieces": {"begin": begins, "count": total},
    }


def stitched(
    pieces: pa.Table,
    begins: pa.Table,
    objects: pa.Table,
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
) -> NDArray[np.uint64]:
    """Return the objects of a block.

    Parameters
    ----------
    pieces : pyarrow.Table
        As :func:`pieces` makes it, of this block.
    begins, objects : pyarrow.Table
        As :func:`merge` makes them; only what the block needs is looked at.
    block, shape, size
        As for :func:`pairs`.
    """
    grid = VoxelGrid(shape, size)
    known = _Pieces(pieces, grid)
    labels = known.part(block.index, *_core(grid, block.index))
    numbers = numbers_of(begins, objects.column("object"), grid.number(block.index))
    return np.take(numbers, labels)
