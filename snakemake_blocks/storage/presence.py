"""Which chunks of what blocks write are in the store: made sure of after a block, asked later.

The chunks (or shards) that a block's write Roi meets are counted through, array after array.
What a user's own code writes may leave out chunks that hold only the fill value; a worker notes
those in 64 bits: a bit is set if one of the chunks whose number modulo 64 it stands for was not
there when the block ended. All others have to be there for ever.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.storage.metadata import read_metadata
from snakemake_blocks.system.files import open_file
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["ChunkKeys", "Loss", "Stored", "chunks_of", "losses"]

_BITS = 64
# A few files are looked at one by one, more of a folder by listing it.
_FEW = 8
_PAIRS = 1 << 20

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ChunkKeys:
    """How the chunks of a stored array are named.

    Parameters
    ----------
    root : str
        The array's folder.
    prefix, separator : str
        What stands before the numbers of a chunk, and between them.
    """

    root: str
    prefix: str
    separator: str

    @classmethod
    def of(cls, array: ArrayInfo, folder: Path) -> ChunkKeys:
        """Return what the array's metadata say, without importing zarr into every worker.

        Raises
        ------
        InputError
            If there is no array.
        """
        where = folder / array.path
        try:
            if (new := read_metadata(where / "zarr.json")) is not None:
                return cls(str(where), *_keys_of_v3(new))
            if (old := read_metadata(where / ".zarray")) is not None:
                return cls(str(where), "", _separator(old.get("dimension_separator") or "."))
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{array.path}: its metadata cannot be read ({error}); write it anew"
            ) from error
        raise InputError(
            f"{array.path}: is missing; `snakemake-blocks generate` makes declared outputs"
        )

    def key(self, chunk: Sequence[int]) -> str:
        """Return the key of a chunk."""
        return self.prefix + self.separator.join(map(str, chunk))


def _separator(found: Any) -> str:
    if found not in ("/", "."):
        raise ValueError(f"chunk keys parted by {found!r} are not known")
    return str(found)


def _keys_of_v3(metadata: Any) -> tuple[str, str]:
    encoding = metadata["chunk_key_encoding"]
    name, given = (
        (encoding, {})
        if isinstance(encoding, str)
        else (encoding["name"], encoding.get("configuration") or {})
    )
    if name == "default":
        separator = _separator(given.get("separator", "/"))
        return f"c{separator}", separator
    if name == "v2":
        return "", _separator(given.get("separator", "."))
    raise ValueError(f"chunk keys of the form {name!r} are not known")


def chunks_of(array: ArrayInfo, region: Box) -> Box:
    """Return the chunks that a region in world units meets, all stored axes."""
    voxels = array.voxels(region).intersect(Box.from_shape(array.shape))
    if not voxels:
        return Box.from_shape((0,) * len(array.full_shape))
    return array.files(array.stored(voxels))


@dataclass(slots=True)
class Stored:
    """The arrays that the blocks of a task write, as a worker sees them.

    Parameters
    ----------
    arrays : sequence of ArrayInfo
        In the order of :attr:`.Operation.written`, as for :func:`losses`.
    folder : Path
        The pipeline's folder.
    """

    arrays: Sequence[ArrayInfo]
    folder: Path
    _durable: set[str] = field(default_factory=set, init=False, repr=False)

    def settle(self, region: Box) -> int:
        """Wait until the chunks of a region, and their names, are on disk; return the absent ones.

        Raises
        ------
        InputError
            If an array is gone, or something that is no file lies in place of a chunk.
        OSError
            If the store could not keep what was written.
        """
        absent = number = 0
        folders: set[str] = set()
        for array in self.arrays:
            keys = ChunkKeys.of(array, self.folder)
            for chunk in chunks_of(array, region):
                path = f"{keys.root}/{keys.key(chunk)}"
                if _synced(path):
                    folders.add(os.path.dirname(path))
                else:
                    absent |= 1 << number % _BITS
                number += 1
            for folder in list(folders):
                folders.update(self._above(folder, keys.root))
        for folder in folders:
            _sync_folder(folder)
        return absent

    def _above(self, folder: str, root: str) -> Iterator[str]:
        """Yield folders up to the array's that hold names which nobody has made sure of."""
        while folder not in self._durable and folder != root:
            self._durable.add(folder)
            folder = os.path.dirname(folder)
            yield folder


def _synced(path: str) -> bool:
    """Wait until a file is on disk; false if there is none. An empty one is never left out.

    Raises
    ------
    InputError
        If something else is in its place.
    """
    try:
        with open_file(Path(path)) as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        return False
    return True


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Loss:
    """What of an array is not there although blocks that are done have written it.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    wanted : int
        Chunks that have to be there.
    keys : tuple of str
        Those that are not.
    blocks : ndarray of bool
        The blocks that have written those.
    """

    array: ArrayInfo
    wanted: int
    keys: tuple[str, ...]
    blocks: Flags


def losses(
    arrays: Sequence[ArrayInfo],
    grid: Grid,
    folder: Path,
    *,
    done: Flags,
    absent: NDArray[np.uint64],
) -> Iterator[Loss]:
    """Yield for every array of a task what its done blocks have written and is not there.

    Some microseconds per chunk.

    Parameters
    ----------
    arrays : sequence of ArrayInfo
        What the task writes, in the order in which :class:`Stored` had them.
    grid : Grid
        Its blocks.
    folder : Path
        The pipeline's folder.
    done : ndarray of bool
        Which blocks count as done.
    absent : ndarray of uint64
        What each of them has left out.

    Raises
    ------
    InputError
        If an array is gone.
    """
    blocks = np.argwhere(done)
    first = np.zeros(len(blocks), np.int64)
    for array in arrays:
        demands = _Demands.of(array, grid, blocks, first, absent[done])
        yield demands.loss(ChunkKeys.of(array, folder), done)
        first = first + demands.sizes.prod(axis=1)


@dataclass(frozen=True, slots=True)
class _Demands:
    """Which chunks each of some blocks demands: those that it meets and has not left out.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    begin, sizes : ndarray
        First chunk and number of chunks, per block and axis.
    first : ndarray
        Number of that chunk in the count through all arrays, per block.
    absent : ndarray of uint64
        What the block left out.
    """

    array: ArrayInfo
    begin: Numbers
    sizes: Numbers
    first: Numbers
    absent: NDArray[np.uint64]

    @classmethod
    def of(
        cls,
        array: ArrayInfo,
        grid: Grid,
        blocks: Numbers,
        first: Numbers,
        absent: NDArray[np.uint64],
    ) -> _Demands:
        everything = chunks_of(array, array.roi)
        begin = np.tile(np.asarray(everything.begin, np.int64), (len(blocks), 1))
        end = np.tile(np.asarray(everything.end, np.int64), (len(blocks), 1))
        for a, (axis, place) in enumerate(zip(grid.axes, array.places, strict=True)):
            if place >= 0:
                low, high = _chunk_ranges(array, a, axis)
                begin[:, place], end[:, place] = low[blocks[:, a]], high[blocks[:, a]]
        return cls(array, begin, np.maximum(end - begin, 0), first, absent)

    def loss(self, keys: ChunkKeys, done: Flags) -> Loss:
        """Look for what is demanded."""
        box = self._box()
        wanted = np.zeros(box.shape, bool)
        for _, chunks in self._pairs(box):
            wanted.ravel()[chunks] = True
        lost = _not_there(wanted, box.begin, keys)
        names = tuple(
            keys.key([int(k) + b for k, b in zip(chunk, box.begin, strict=True)])
            for chunk in np.argwhere(lost)
        )
        hit = np.zeros(len(self.begin), bool)
        for rows, chunks in self._pairs(box) if names else ():
            hit[rows[lost.ravel()[chunks]]] = True
        blocks = np.zeros_like(done)
        blocks[done] = hit
        return Loss(self.array, int(wanted.sum()), names, blocks)

    def _box(self) -> Box:
        """Return the chunks among which all demanded ones are."""
        some = self.sizes.all(axis=1)
        if not some.any():
            return Box.from_shape((0,) * self.begin.shape[1])
        end = (self.begin + self.sizes)[some]
        return Box(tuple(map(int, self.begin[some].min(axis=0))), tuple(map(int, end.max(axis=0))))

    def _pairs(self, box: Box) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield blocks, and flat numbers in ``box`` of chunks that these demand, in portions."""
        shapes, which = np.unique(self.sizes, axis=0, return_inverse=True)
        for k, shape in enumerate(shapes):
            offsets = np.indices(tuple(shape)).reshape(len(shape), -1).T
            if not len(offsets):
                continue
            rows = np.flatnonzero(which.ravel() == k)
            portion = max(1, _PAIRS // len(offsets))
            for n in range(0, len(rows), portion):
                yield self._demanded(rows[n : n + portion], offsets, box)

    def _demanded(self, rows: Numbers, offsets: Numbers, box: Box) -> tuple[Numbers, Numbers]:
        places = self.begin[rows][:, None] + offsets - np.asarray(box.begin)
        chunks = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), box.shape)
        bits = (self.first[rows][:, None] + np.arange(len(offsets))) % _BITS
        here = (self.absent[rows][:, None] >> bits.astype(np.uint64)) & np.uint64(1) == 0
        return np.broadcast_to(rows[:, None], here.shape)[here], chunks[here]


def _chunk_ranges(array: ArrayInfo, a: int, axis: Axis) -> tuple[Numbers, Numbers]:
    """Return the half-open ranges of chunks that the blocks of an axis write."""
    low, high = axis.writes(np.arange(len(axis)))
    voxel, chunk = array.voxel_size[a], array.tile_chunk(a)
    begin = np.maximum((low - array.offset[a]) // voxel, 0)
    end = np.minimum(-((array.offset[a] - high) // voxel), array.shape[a])
    return begin // chunk, np.where(begin < end, -(-end // chunk), begin // chunk)


def _not_there(wanted: Flags, origin: Index, keys: ChunkKeys) -> Flags:
    """Return which of the wanted chunks have no file with something in it."""
    lost = wanted.copy()
    listed: tuple[str, frozenset[str]] | None = None
    for row in np.argwhere(wanted.any(axis=-1)):
        at = tuple(map(int, row))
        head = keys.key([k + b for k, b in zip((*at, 0), origin, strict=True)])
        head = head[: len(head) - len(str(origin[-1]))]
        folder, _, stem = f"{keys.root}/{head}".rpartition("/")
        columns = np.flatnonzero(wanted[at])
        names = [f"{stem}{int(k) + origin[-1]}" for k in columns]
        if not stem and len(names) < _FEW:
            lost[at][columns] = [not _has_content(f"{folder}/{name}") for name in names]
            continue
        if listed is None or listed[0] != folder:
            listed = folder, frozenset(_listed(folder))
        lost[at][columns] = [name not in listed[1] for name in names]
    return lost


def _has_content(path: str | os.DirEntry[str]) -> bool:
    """Tell whether a file holds something; what is no file does not."""
    try:
        state = path.stat() if isinstance(path, os.DirEntry) else os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(state.st_mode) and state.st_size > 0


def _listed(folder: str) -> Iterator[str]:
    """Yield the names of files that hold something."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if _has_content(entry))
    except (FileNotFoundError, NotADirectoryError):
        return
