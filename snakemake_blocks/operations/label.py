"""``use: label``: connected components of a volume of any size, with the numbers of scipy.

Each block is labelled by itself. What touches across the faces between blocks is joined by
union-find, which needs four bytes per component of a block and passes over the pairs once. Then
each block is labelled again and its numbers are replaced, so no volume is stored twice.

Components are numbered in the order of their first voxels, in C order, as ``scipy.ndimage.label``
does; so the result is the same for all sizes of blocks.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.grid import VoxelGrid, later_neighbours
from snakemake_blocks.operations.unions import Sets, numbers_of
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LabelModel", "components", "faces", "merge", "pairs", "relabelled"]

Volume = NDArray[Any]
_HERE = "snakemake_blocks.operations.label"
# The number of a component in a block, below that of the block.
_BITS = 32


class LabelParams(BaseModel):
    """How components are found and numbered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connectivity: int = Field(
        1,
        ge=1,
        strict=True,
        description="Axes along which neighbours may differ: 1 is faces alone.",
    )
    background: int = Field(0, strict=True, description="The value that belongs to no component.")
    ids: Literal["dense", "stable"] = Field(
        "dense", description="1, 2, ... as scipy, or the number of the first voxel, from 1 on."
    )


class LabelModel(OperationModel):
    """Connected components of a mask, or of equal values of a label volume."""

    inputs = ("mask", "labels")
    results = ("labels",)
    libraries = ("scipy",)
    needed_results = ("labels",)

    use: Literal["label"] = Field(description="Which operation.")
    params: LabelParams = Field(
        LabelParams.model_validate({}), description="How components are found."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["faces", "pairs", "merge", "label"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        params = self.params
        if len(self.reads) != 1:
            frame.say("reads", "label reads a mask, or labels; give one of them")
            return {}
        if not self.is_one_channel(frame):
            return {}
        if params.connectivity > frame.ndim:
            text = f"is at most the number of axes, {frame.ndim}"
            frame.say("params.connectivity", text)
            return {}
        how = {"connectivity": params.connectivity, "background": params.background}
        grid = {"shape": list(frame.shape), "size": list(frame.block)}
        reads = {self.main: self.read(self.main)}
        lower = 0 if params.connectivity == 1 else 1
        task = frame.task
        return {
            "faces": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:faces",
                    "params": {**how, **grid},
                    "reads": reads,
                    "tables": {
                        "blocks": {"columns": {"block": "uint64", "count": "uint32"}},
                        "firsts": {"columns": {"first": "uint64"}},
                        "faces": {"columns": _FACE_COLUMNS},
                    },
                },
            ),
            "pairs": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:pairs",
                    "params": {"connectivity": params.connectivity, **grid},
                    "reads": {"faces": {"table": f"{task}_faces.faces"}},
                    "context": {"voxels": {"lower": lower, "upper": 1}},
                    "tables": {"pairs": {"columns": {"a": "uint64", "b": "uint64"}}},
                },
            ),
            "merge": self.once(
                {
                    "function": f"{_HERE}:merge",
                    "params": {**grid, "ids": params.ids},
                    "reads": {
                        "blocks": {"table": f"{task}_faces.blocks", "batches": True},
                        "firsts": {"table": f"{task}_faces.firsts", "batches": True},
                        "pairs": {"table": f"{task}_pairs.pairs", "batches": True},
                    },
                    "tables": {
                        "blocks": {"columns": {"begin": "uint64", "count": "uint32"}},
                        "ids": {"columns": {"id": "uint64"}},
                    },
                },
            ),
            "label": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:relabelled",
                    "params": {**how, **grid},
                    "reads": {
                        **reads,
                        "blocks": {"table": f"{task}_merge.blocks", "whole": True},
                        "ids": {"table": f"{task}_merge.ids", "whole": True},
                    },
                    "writes": {"labels": self.write("labels", dtype="uint64")},
                },
            ),
        }


_FACE_COLUMNS = {"block": "uint64", "side": "uint8", "ids": "binary", "values": "binary"}


def components(values: Volume, connectivity: int = 1, background: int = 0) -> tuple[Volume, int]:
    """Return the connected components of a volume, and how many there are.

    Parameters
    ----------
    values : ndarray
        Of any dimension. Of bool, all that is true belongs together; of others, equal values do.
    connectivity : int
        Along how many axes neighbours may differ: 1 for faces, up to the number of axes.
    background : int
        The value that belongs to no component; of bool it is False.

    Returns
    -------
    ndarray of uint32
        Numbers from 1 on in the order of the components' first voxels, 0 for the background.
    int
        The number of components.
    """
    found, first = _labelled(values, connectivity, background)
    return found, len(first)


def _labelled(
    values: Volume, connectivity: int, background: int = 0
) -> tuple[Volume, NDArray[np.int64]]:
    """Return the components, and the flat index of the first voxel of each."""
    ndim = values.ndim
    faces = {(2, 1): 4, (2, 2): 8, (3, 1): 6, (3, 2): 18, (3, 3): 26}.get((ndim, connectivity))
    if values.dtype != bool and background:
        values = np.where(values == background, 0, np.where(values == 0, background, values))
    cc3d = _cc3d() if faces and values.dtype.kind in "bui" else None
    if cc3d is not None:
        dtype = values.dtype
        found = cc3d.connected_components(
            np.ascontiguousarray(values).view(np.uint8 if dtype.kind == "b" else dtype),
            connectivity=faces,
            out_dtype=np.uint32,
        )
        return _ordered(found)
    if values.dtype == bool:
        from scipy import ndimage

        structure = ndimage.generate_binary_structure(ndim, connectivity)
        found = np.zeros(values.shape, np.uint32)
        ndimage.label(values, structure, output=found)
        return _ordered(found)
    return _ordered(_equal_components(values, connectivity))


def _cc3d() -> Any:
    """Return the library that is fastest in 2-D and 3-D, None where it is not installed."""
    try:
        import cc3d
    except ImportError:
        return None
    return cc3d


def _equal_components(values: Volume, connectivity: int) -> Volume:
    """Return components of equal values: any library's way needs a mask, or three axes."""
    numbers = np.arange(1, values.size + 1, dtype=np.int64).reshape(values.shape)
    sets = Sets(values.size + 1)
    for offset in later_neighbours(values.ndim, connectivity):
        here, there = _shifted(offset)
        same = (values[here] == values[there]) & (values[here] != 0)
        sets.join(numbers[here][same], numbers[there][same])
    roots = sets.roots()[1:].reshape(values.shape)
    _, found = np.unique(np.where(values != 0, roots, 0), return_inverse=True)
    has_background = bool((values == 0).any())
    return (found.reshape(values.shape) + (not has_background)).astype(np.uint32)


def _ordered(found: Volume) -> tuple[Volume, NDArray[np.int64]]:
    """Return components numbered in the order of their first voxels, and these."""
    first = _firsts(found)
    if np.all(first[:-1] <= first[1:]):
        return found, first
    places = np.argsort(first, kind="stable")
    order = np.zeros(len(first) + 1, np.uint32)
    order[places + 1] = np.arange(1, len(first) + 1, dtype=np.uint32)
    return order[found], first[places]


def _firsts(found: Volume) -> NDArray[np.int64]:
    """Return the flat index of the first voxel of every component, in their order."""
    flat = found.ravel()
    first = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)  # of equal ones the last assignment stays
    return first[1:]


def _shifted(offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where voxels have a neighbour at an offset, and where these are."""
    return tuple(_WITHIN[o][0] for o in offset), tuple(_WITHIN[o][1] for o in offset)


# Of two voxels at an offset along an axis, where the one and the other may be: in one block, and
# in a block and the next.
_WITHIN = {
    0: (slice(None), slice(None)),
    1: (slice(None, -1), slice(1, None)),
    -1: (slice(1, None), slice(None, -1)),
}
_ACROSS = {1: (slice(-1, None), slice(0, 1)), -1: (slice(0, 1), slice(-1, None))}


def _found(
    mask: Volume | None, labels: Volume | None, connectivity: int, background: int
) -> tuple[Volume, NDArray[np.int64]]:
    """Return the components of a block's mask, or of its labels, and the first voxel of each."""
    if labels is not None:
        return _labelled(labels, connectivity, background)
    assert mask is not None
    return _labelled(mask if mask.dtype == bool else mask != background, connectivity)


def faces(
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
    mask: Volume | None = None,
    labels: Volume | None = None,
    connectivity: int = 1,
    background: int = 0,
) -> dict[str, Any]:
    """Return what others have to know of a block's components, as rows.

    Parameters
    ----------
    block : Block
        Its index tells where it lies.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.
    mask, labels : ndarray
        Either of them, as much as the block has.
    connectivity, background : int
        As for :func:`components`.

    Returns
    -------
    dict
        ``blocks``: its number and how many components it has; ``firsts``: the flat index in the
        volume of each one's first voxel; ``faces``: the components on each of its sides.
    """
    grid = VoxelGrid(shape, size)
    number = grid.number(block.index)
    found, first = _found(mask, labels, connectivity, background)
    rows: dict[str, list[Any]] = {name: [] for name in _FACE_COLUMNS}
    for axis, side in itertools.product(range(found.ndim), (0, 1)):
        # Nothing lies beyond the ends of the volume.
        if block.index[axis] == (grid.counts[axis] - 1 if side else 0):
            continue
        here = (slice(None),) * axis + (-1 if side else 0,)
        ids = np.ascontiguousarray(found[here])
        if not ids.any():
            continue
        values = b"" if labels is None else _packed(labels[here])
        row = {"block": number, "side": 2 * axis + side, "ids": _packed(ids), "values": values}
        for name, value in row.items():
            rows[name].append(value)
    return {
        "blocks": {"block": [number], "count": [len(first)]},
        "firsts": {"first": grid.global_index(block.index, first)},
        "faces": rows,
    }


def _packed(values: Volume) -> bytes:
    """Return values as few bytes; of floats their bits, which are compared alone."""
    if values.dtype.kind == "f":
        values = np.ascontiguousarray(values + 0.0).view(f"u{values.dtype.itemsize}")
    wide = np.uint64 if values.dtype.itemsize > 4 else np.uint32
    return zlib.compress(values.astype(wide, copy=False).tobytes(), 1)


def _unpacked(data: bytes, shape: tuple[int, ...]) -> Volume:
    plain = zlib.decompress(data)
    wide = len(plain) == 8 * math.prod(shape)
    return np.frombuffer(plain, np.uint64 if wide else np.uint32).reshape(shape)


def pairs(
    faces: pa.Table,
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
    connectivity: int = 1,
) -> dict[str, NDArray[np.uint64]]:
    """Return which components of a block touch which of its later neighbours.

    Parameters
    ----------
    faces : pyarrow.Table
        As :func:`faces` makes it, of the block and of all its neighbours.
    block, shape, size, connectivity
        As there.

    Returns
    -------
    dict
        ``a`` and ``b``: number of the block and, in the lower 32 bits, of the component.
    """
    grid = VoxelGrid(shape, size)
    sides = _Sides(faces, grid)
    found = [np.zeros((0, 2), np.uint64)]
    for away in later_neighbours(len(grid.shape), connectivity):
        axis = next(a for a, d in enumerate(away) if d)
        other = tuple(k + d for k, d in zip(block.index, away, strict=True))
        mine, theirs = sides.get(block.index, 2 * axis + 1), sides.get(other, 2 * axis)
        if mine is None or theirs is None:
            continue
        across = tuple(d for a, d in enumerate(away) if a != axis)
        for here, there in _touching(across, connectivity - 1):
            a, b = mine[0][here], theirs[0][there]
            touch = (a != 0) & (b != 0)
            if mine[1] is not None and theirs[1] is not None:
                touch &= mine[1][here] == theirs[1][there]
            both = a[touch].astype(np.uint64) << np.uint64(_BITS) | b[touch]
            both = np.unique(both)
            ends = [both >> np.uint64(_BITS), both & np.uint64(2**_BITS - 1)]
            numbers = [grid.number(block.index), grid.number(other)]
            nodes = [np.uint64(n << _BITS) | e for n, e in zip(numbers, ends, strict=True)]
            found.append(np.stack(nodes, axis=1))
    rows = np.unique(np.concatenate(found), axis=0)
    return {"a": rows[:, 0], "b": rows[:, 1]}


class _Sides:
    """The components on sides of blocks, unpacked when they are asked for."""

    def __init__(self, faces: pa.Table, grid: VoxelGrid) -> None:
        self._grid = grid
        numbers = faces.column("block").to_pylist()
        self._rows = dict(
            zip(
                zip(numbers, faces.column("side").to_pylist(), strict=True),
                range(len(numbers)),
                strict=True,
            )
        )
        self._table = faces

    def get(self, index: Sequence[int], side: int) -> tuple[Volume, Volume | None] | None:
        """Return the components on a side of a block, and their values; None if there are none."""
        if index not in self._grid:
            return None
        row = self._rows.get((self._grid.number(index), side))
        if row is None:
            return None
        extent = self._grid.extent(index)
        shape = extent[: side // 2] + extent[side // 2 + 1 :]
        ids, values = (self._table.column(name)[row].as_py() for name in ("ids", "values"))
        return _unpacked(ids, shape), _unpacked(values, shape) if values else None


def _touching(
    across: Sequence[int], more: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield where voxels on a side touch those on the side beyond, which may lie at an angle.

    Parameters
    ----------
    across : sequence of int
        How many blocks the other one is away along the axes of the side.
    more : int
        Along how many of these axes voxels that touch may differ.
    """
    for offset in itertools.product(*([d] if d else (-1, 0, 1) for d in across)):
        if sum(map(abs, offset)) > more:
            continue
        ends = [_ACROSS[d] if d else _WITHIN[o] for d, o in zip(across, offset, strict=True)]
        yield tuple(here for here, _ in ends), tuple(there for _, there in ends)


def merge(
    blocks: Iterable[pa.Table],
    firsts: Iterable[pa.Table],
    pairs: Iterable[pa.Table],
    shape: Sequence[int],
    size: Sequence[int],
    ids: str = "dense",
) -> dict[str, Mapping[str, NDArray[Any]]]:
    """Return the final number of every component of every block.

    Takes 12 bytes of memory per component of a block, and 8 per component of the volume beside
    what is at work, and passes over the pairs once.

    Parameters
    ----------
    blocks, firsts, pairs : iterable of pyarrow.Table
        Rows as :func:`faces` and :func:`pairs` make them, the first two in one order of blocks.
    shape, size : sequence of int
        Of the volume and of a block, in voxels.
    ids : str
        ``dense``: 1, 2, ... in the order of first voxels; ``stable``: flat index of the first
        voxel, plus 1.

    Returns
    -------
    dict
        ``ids``: a number per component; ``blocks``: where those of each block begin, and how many
        there are, by the number of the block.
    """
    grid = VoxelGrid(shape, size)
    counts = np.zeros(math.prod(grid.counts), np.uint32)
    begins = np.zeros(len(counts), np.uint64)
    total = 0
    for some in blocks:
        numbers, found = (some.column(name).to_numpy() for name in ("block", "count"))
        counts[numbers] = found
        begins[numbers] = total + np.cumsum(found, dtype=np.uint64) - found
        total += int(found.sum())
    first = np.zeros(total, np.uint64)
    at = 0
    for some in firsts:
        first[at : at + len(some)] = some.column("first").to_numpy()
        at += len(some)
    if at != total:
        raise InputError(f"{at:,} first voxels of {total:,} components: they are of other blocks")

    def nodes(column: Any) -> NDArray[np.uint64]:
        values: NDArray[np.uint64] = column.to_numpy()
        local = (values & np.uint64(2**_BITS - 1)) - np.uint64(1)
        numbers: NDArray[np.uint64] = begins[values >> np.uint64(_BITS)] + local
        return numbers

    sets = Sets(total)
    for some in pairs:
        sets.join(nodes(some.column("a")), nodes(some.column("b")))
    roots = sets.roots()
    _number(first, roots, is_dense=ids == "dense")
    return {"ids": {"id": first}, "blocks": {"begin": begins, "count": counts}}


_PART = 1 << 20


def _number(first: NDArray[np.uint64], roots: NDArray[Any], *, is_dense: bool) -> None:
    """Put the number of every component in the place of its first voxel, by that of its set."""
    parts = [slice(b, b + _PART) for b in range(0, len(first), _PART)]
    for part in parts:
        np.minimum.at(first, roots[part], first[part].copy())  # else numpy copies all of it
    order = np.zeros(0, np.uint64)
    if is_dense:
        own = (np.arange(len(roots[part])) + part.start == roots[part] for part in parts)
        order = np.concatenate([order, *(first[p][o] for p, o in zip(parts, own, strict=True))])
        order.sort()
    for part in reversed(parts):  # roots are the least of their sets, so they are last
        mine = first[roots[part]]
        first[part] = (np.searchsorted(order, mine) if is_dense else mine) + np.uint64(1)


def relabelled(
    blocks: pa.Table,
    ids: pa.Table,
    block: Block,
    shape: Sequence[int],
    size: Sequence[int],
    mask: Volume | None = None,
    labels: Volume | None = None,
    connectivity: int = 1,
    background: int = 0,
) -> NDArray[np.uint64]:
    """Return the final components of a block.

    Parameters
    ----------
    blocks, ids : pyarrow.Table
        As :func:`merge` makes them; only what the block needs is looked at.
    block, shape, size, mask, labels, connectivity, background
        As for :func:`faces`.

    Raises
    ------
    InputError
        If there are other components than :func:`faces` found.
    """
    numbers = numbers_of(blocks, ids.column("id"), VoxelGrid(shape, size).number(block.index))
    found, first = _found(mask, labels, connectivity, background)
    if len(first) != len(numbers) - 1:
        text = f"{len(first)} components where {len(numbers) - 1} were found before"
        raise InputError(f"{text}: the input has changed")
    return np.take(numbers, found)
