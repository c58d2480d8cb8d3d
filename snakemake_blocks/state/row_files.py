"""Rows on disk: a file per job to which workers append frames, each of rows of some blocks.

A frame names, for each of its blocks, the block, how many rows it has, and the stamp of the record
that was written after it. It counts for a block iff the record that counts has that stamp, so rows
of a block that was done again, or whose record was never written, need no clean-up. A torn frame at
the end, or in between, is passed over.

Each frame holds an Arrow record batch without its schema, which the plan knows.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.system.files import open_file
from snakemake_blocks.tasks.tables import Column, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Frame", "Rows", "append_rows", "as_batch", "entry_dtype", "frames_in", "schema_of"]

Rows = dict[str, Any]
"""Values by column: arrays of numpy, or lists of text."""

_MAGIC = b"\x93rows\x01\r\n"
# Behind the magic: blocks, axes, bytes of the record batch, checksums of the blocks and of that.
_HEAD = struct.Struct("<8sIIQII")
_MOST_BLOCKS = 1 << 24
# What Linux writes at once at most; nobody else appends to a file with that much of one block.
_AT_ONCE = 0x7FFFF000
# Each one that stays in its file keeps that open.
_LARGE = 64 << 20


@lru_cache
def entry_dtype(ndim: int) -> np.dtype[np.void]:
    """Return the type of what a frame says of a block of a task with ``ndim`` axes."""
    return np.dtype([("index", "<i4", (ndim,)), ("rows", "<u4"), ("stamp", "<u8")])


def schema_of(table: Table) -> pa.Schema:
    """Return the Arrow schema of a table."""
    return _schema(tuple(table.types.items()))


@lru_cache
def _schema(types: tuple[tuple[str, Column], ...]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, _arrow_type(column)) for name, column in types])


def _arrow_type(column: Column) -> pa.DataType:
    import pyarrow as pa

    if column.is_plain:
        return pa.string() if column.is_text else pa.binary()
    kind = pa.from_numpy_dtype(np.dtype(column.dtype))
    return pa.list_(kind, column.width) if column.width else kind


def as_batch(table: Table, parts: Sequence[Rows]) -> pa.RecordBatch:
    """Return rows of several blocks as one record batch."""
    import pyarrow as pa

    schema = schema_of(table)
    columns = []
    for name, column in table.types.items():
        values = [part[name] for part in parts]
        if column.is_plain:
            plain = [value for some in values for value in some]
            columns.append(pa.array(plain, _arrow_type(column)))
            continue
        if len(values) == 1:
            joined = np.asarray(values[0])  # one may be large, and Arrow takes it as it is
        else:
            joined = np.concatenate(values) if values else np.zeros(0, column.dtype)
        array = pa.array(joined.ravel())
        if column.width:
            array = pa.FixedSizeListArray.from_arrays(array, column.width)
        columns.append(array)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def append_rows(path: Path, entries: NDArray[np.void], batch: pa.RecordBatch) -> None:
    """Append a frame, and wait until it is on disk; the file is made with its folder.

    Raises
    ------
    OSError
        If it cannot be stored whole.
    """
    payload = memoryview(batch.serialize())
    blocks = entries.tobytes()
    ndim = entries.dtype["index"].shape[0]
    sums = zlib.crc32(blocks), zlib.crc32(payload)
    head = _HEAD.pack(_MAGIC, len(entries), ndim, len(payload), *sums)
    parts = [memoryview(head + blocks), payload]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while left := sum(map(len, parts)):
            written = os.writev(descriptor, parts)
            if written != min(left, _AT_ONCE):
                raise OSError(f"{path}: {written} of {left} bytes were stored")
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            parts[:1] = [part[written:] for part in parts[:1]]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of some blocks, not read yet.

    Parameters
    ----------
    entries : ndarray
        A row per block, of :func:`entry_dtype`; numbered as in ledgers.
    begin, size : int
        Bytes of the record batch in the file.
    """

    entries: NDArray[np.void]
    begin: int
    size: int

    def batch(self, data: memoryview, schema: pa.Schema) -> pa.RecordBatch | None:
        """Return the rows, None if they are of other columns.

        Parameters
        ----------
        data : memoryview
            The file.
        schema : pyarrow.Schema
            Of the table.
        """
        import pyarrow as pa

        stored = data[self.begin : self.begin + self.size]
        # Large ones stay in their file, of which only what is looked at comes into memory.
        payload = pa.py_buffer(stored if self.size >= _LARGE else bytes(stored))
        try:
            found = pa.ipc.read_record_batch(payload, schema)
        except pa.ArrowInvalid:
            return None
        return found if found.num_rows == int(self.entries["rows"].sum()) else None


@contextlib.contextmanager
def frames_in(path: Path, first: Index) -> Iterator[tuple[memoryview, Iterator[Frame]]]:
    """Yield what is in a file, and its frames in the order written; none if there is no file.

    Parameters
    ----------
    path : Path
        The file.
    first : tuple of int
        How ledgers number the block at index 0 of the grid: entries come with indices of the grid.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_file(path))
        except FileNotFoundError:
            yield memoryview(b""), iter(())
            return
        size = os.fstat(file.fileno()).st_size
        if not size:
            yield memoryview(b""), iter(())
            return
        # Closed when nothing looks at it any more, which may be later.
        mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        yield memoryview(mapped), _frames(mapped, memoryview(mapped), first)


def _frames(mapped: mmap.mmap, data: memoryview, first: Index) -> Iterator[Frame]:
    at = 0
    while (at := mapped.find(_MAGIC, at)) >= 0:
        found = _frame_at(data, at, first)
        if found is None:
            at += 1
            continue
        if found.size >= _LARGE:
            mapped.madvise(mmap.MADV_DONTNEED)  # its checksum had to see all of it
        yield found
        at = found.begin + found.size


def _frame_at(data: memoryview, at: int, first: Index) -> Frame | None:
    """Return the frame that begins at a byte, None if there is none, or not whole."""
    if at + _HEAD.size > len(data):
        return None
    _, count, ndim, size, of_blocks, checksum = _HEAD.unpack_from(data, at)
    if ndim != len(first) or not 0 < count <= _MOST_BLOCKS:
        return None
    dtype, begin = entry_dtype(ndim), at + _HEAD.size
    end = begin + count * dtype.itemsize
    if end + size > len(data) or zlib.crc32(data[begin:end]) != of_blocks:
        return None
    # What was torn may have others' frames behind it, where its own rows would be.
    if zlib.crc32(data[end : end + size]) != checksum:
        return None
    entries = np.frombuffer(bytes(data[begin:end]), dtype).copy()
    entries["index"] -= np.asarray(first, np.int32)
    return Frame(entries, end, size)
