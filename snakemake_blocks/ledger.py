"""Append-only records of what happened to the blocks of a job.

One file per job, one fixed-size record per event, each with its own CRC-32. Only the job's
lock holder and its workers append, each record by one ``write`` in append mode, so a process
that dies leaves at most one torn record. A reader keeps what has a valid checksum and finds
its step again behind anything torn or overwritten.

On disk blocks are numbered from the world's origin, so that a record names the same block
whatever region the task writes; callers deal in indices of the grid.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.box import Index
from snakemake_blocks.paths import write_atomically
from snakemake_blocks.tiling import Grid

__all__ = [
    "Event",
    "Ledger",
    "Measurement",
    "first_block",
    "read_chunks",
    "read_records",
    "record_dtype",
    "source_mark",
    "write_records",
]


class Event(IntEnum):
    """What a record says."""

    STARTED = 1
    DONE = 2
    FAILED = 3
    SKIPPED = 4  # the check before the block found it done; counts as done
    RELEASED = 5  # the attempt was taken back without blame
    RESET = 6  # earlier results are forgotten
    BUDGET = 7  # a new budget of attempts opens for all blocks of the job
    EMPTY = 8  # which chunks the result that is recorded next has left out; ends no attempt


class Measurement(NamedTuple):
    """What one attempt cost.

    Parameters
    ----------
    start : float
        Seconds since the epoch by the host's clock; for people, never compared.
    wall, cpu : float
        Seconds.
    peak_kib : int
        Largest resident memory of the worker so far, KiB.
    bytes_read, bytes_written : int
        By system calls of the worker during the attempt; 0 where that is not measured.
    """

    start: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    peak_kib: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


_HEAD = "QQQdffIQQII16sBxH"
_FIELDS: list[tuple[str, Any]] = [
    ("fingerprint", "<u8"),
    ("stamp", "<u8"),
    ("seen", "<u8"),
    ("start", "<f8"),
    ("wall", "<f4"),
    ("cpu", "<f4"),
    ("peak_kib", "<u4"),
    ("bytes_read", "<u8"),
    ("bytes_written", "<u8"),
    ("source", "<u4"),
    ("pid", "<u4"),
    ("host", "S16"),
    ("event", "u1"),
    ("unused", "u1"),
    ("attempt", "<u2"),
]


@lru_cache
def record_dtype(ndim: int) -> np.dtype[np.void]:
    """Return the type of one record of a task with ``ndim`` axes."""
    return np.dtype([*_FIELDS, ("index", "<i4", (ndim,)), ("crc", "<u4")])


def first_block(grid: Grid) -> Index:
    """Return how the ledgers of a task number the block at index 0 of its grid."""
    return tuple(axis.begin // axis.step for axis in grid.axes)


def source_mark(source: str) -> int:
    """Return what records carry of a source's hash; 0 if the source is not known."""
    return int(source[:8], 16) if source else 0


_NOTHING = Measurement()
_CHUNK = 1 << 15


@dataclass(slots=True)
class Ledger:
    """Appender to the ledger of one job.

    Parameters
    ----------
    path : Path
        The file; it is made with its folder.
    first : tuple of int
        Of the task's grid, see :func:`first_block`.
    source : int
        32 bits of the hash of the function's source, see :func:`source_mark`.
    """

    path: Path
    first: Index
    source: int = 0
    _fd: int = field(init=False, repr=False)
    _pack: Callable[..., bytes] = field(init=False, repr=False)
    _size: int = field(init=False, repr=False)
    _host: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        body = struct.Struct(f"<{_HEAD}{self.ndim}i")
        self._pack, self._size = body.pack, body.size + 4
        self._host = socket.gethostname().encode()[:16]

    def append(
        self,
        event: Event,
        index: Index,
        *,
        fingerprint: int,
        attempt: int = 0,
        stamp: int = 0,
        seen: int = 0,
        cost: Measurement = _NOTHING,
    ) -> None:
        """Append one record; it survives the death of this process at once.

        Raises
        ------
        OSError
            If it could not be written whole, e.g. on a full disk.
        """
        body = self._pack(
            fingerprint,
            stamp,
            seen,
            *cost,
            self.source,
            os.getpid() & 0xFFFFFFFF,
            self._host,
            event,
            attempt,
            *map(add, index, self.first),
        )
        written = os.write(self._fd, body + zlib.crc32(body).to_bytes(4, "little"))
        if written != self._size:
            raise OSError(errno.ENOSPC, "a record was cut off", str(self.path))

    @property
    def ndim(self) -> int:
        """Axes of the task's grid."""
        return len(self.first)

    @property
    def end(self) -> int:
        """Bytes that were appended so far, by anyone."""
        return os.fstat(self._fd).st_size

    def sync(self) -> None:
        """Wait until all records are on disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; records stay."""
        os.close(self._fd)


def read_records(path: Path, first: Index, *, start: int = 0) -> NDArray[np.void]:
    """Return the valid records of a ledger in the order written; none if there is no file.

    Parameters
    ----------
    path : Path
        The file.
    first : tuple of int
        Of the task's grid, see :func:`first_block`; zeros give indices as they are on disk.
    start : int
        Byte from which to read.
    """
    parts = list(read_chunks(path, first, start=start))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, record_dtype(len(first)))


def read_chunks(path: Path, first: Index, *, start: int = 0) -> Iterator[NDArray[np.void]]:
    """Yield what :func:`read_records` returns, some ten thousand records at a time.

    Costs about 0.3 us per record.
    """
    dtype = record_dtype(len(first))
    try:
        file = open(path, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        return
    with file:
        file.seek(start)
        while data := file.read(_CHUNK * dtype.itemsize):
            records = _valid(data, dtype)
            if records is None:
                # Something is torn or overwritten: from here on records begin anywhere.
                rest = _resynchronised(memoryview(data + file.read()), dtype)
                if len(rest):
                    yield _from_first(rest, first)
                return
            yield _from_first(records, first)


def _from_first(records: NDArray[np.void], first: Index) -> NDArray[np.void]:
    """Return the records with indices of the grid."""
    if any(first):
        records = records.copy()
        records["index"] -= np.asarray(first, np.int32)
    return records


def _valid(data: bytes, dtype: np.dtype[np.void]) -> NDArray[np.void] | None:
    """Return the records if all of them are whole and valid."""
    size = dtype.itemsize
    if len(data) % size:
        return None
    records = np.frombuffer(data, dtype)
    crc32 = zlib.crc32
    bodies = struct.iter_unpack(f"{size - 4}s4x", data)
    sums = np.fromiter((crc32(body) for (body,) in bodies), np.uint32, len(records))
    if not np.array_equal(sums, records["crc"]) or records["event"].max() > max(Event):
        return None
    return records


def write_records(path: Path, records: NDArray[np.void]) -> None:
    """Replace a ledger as a whole; only while no job runs."""
    write_atomically(path, records.tobytes())


def _resynchronised(view: memoryview, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Return the valid records of a damaged ledger, at whatever offsets they begin."""
    size, found, at = dtype.itemsize, [], 0
    assert dtype.fields is not None
    event = dtype.fields["event"][1]
    while at + size <= len(view):
        record = view[at : at + size]
        if zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little"):
            if record[event] <= max(Event):
                found.append(bytes(record))
            at += size
        else:
            at += 1
    return np.frombuffer(b"".join(found), dtype)
