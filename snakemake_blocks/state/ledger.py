"""Append-only records of what happened to the blocks of a job.

One file per job, one fixed-size record per event, each with its own CRC-32. Only the job's
lock holder and its workers append, each record by one ``write`` in append mode, so a process
that dies leaves at most one torn record. :class:`LedgerReader`, which everybody reads with, keeps
what has a valid checksum and finds its step again behind anything torn or overwritten.

On disk blocks are numbered from the world's origin, so that a record names the same block
whatever region the task writes; callers deal in indices of the grid.
"""

from __future__ import annotations

import contextlib
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

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Grid
from snakemake_blocks.system.files import append_to, open_file, write_atomically

__all__ = [
    "Event",
    "Ledger",
    "LedgerReader",
    "Measurement",
    "first_block",
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
# How much of what is no record at the end of a ledger is looked at again, bytes.
_LOOK_BACK = 1 << 16


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
        self._fd = append_to(self.path)
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


# Ten million records of one job.
_MOST = 1 << 30


@dataclass(slots=True)
class LedgerReader:
    """Reads a ledger, and goes on later where it ended: the one reader of records.

    However often it is asked, and whenever records are appended in between, it returns what
    reading once at the end would. What is torn or overwritten is skipped as soon as a valid record
    follows; until then it is looked at again, for over a network a write may come to be seen
    piece by piece.

    Parameters
    ----------
    path : Path
        The file; it need not be there yet.
    first : tuple of int
        Of the task's grid, see :func:`first_block`; zeros give indices as they are on disk.
    offset : int
        Byte from which to read; afterwards, where to go on.
    """

    path: Path
    first: Index
    offset: int = 0

    def read(self) -> NDArray[np.void]:
        """Return the valid records behind the offset in the order written, and move it on."""
        parts = list(self.chunks())
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, record_dtype(len(self.first)))

    def chunks(self) -> Iterator[NDArray[np.void]]:
        """Yield what :meth:`read` returns, some ten thousand records at a time.

        Costs about 0.3 us per record.
        """
        dtype = record_dtype(len(self.first))
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open_file(self.path))
            except FileNotFoundError:
                return
            if os.fstat(file.fileno()).st_size > _MOST:
                raise InputError(f"{self.path}: is larger than a ledger can be; move it away")
            if os.fstat(file.fileno()).st_size < self.offset:
                self.offset = 0  # another file has taken its place
            file.seek(self.offset)
            data, begin = b"", self.offset  # `data` lies at `begin` in the file
            while more := file.read(_CHUNK * dtype.itemsize):
                data += more
                found = _scan(data, dtype)
                if found.end:
                    self.offset = begin + found.end
                if len(found.records):
                    yield _from_first(found.records, self.first)
                data, begin = data[found.scanned :], begin + found.scanned
            self.offset = max(self.offset, begin - _LOOK_BACK)


def read_records(path: Path, first: Index, *, start: int = 0) -> NDArray[np.void]:
    """Return the valid records of a ledger in the order written; none if there is no file.

    Parameters are those of :class:`LedgerReader`.
    """
    return LedgerReader(path, first, start).read()


def _from_first(records: NDArray[np.void], first: Index) -> NDArray[np.void]:
    """Return the records with indices of the grid."""
    if any(first):
        records = records.copy()
        records["index"] -= np.asarray(first, np.int32)
    return records


def write_records(path: Path, records: NDArray[np.void]) -> None:
    """Replace a ledger as a whole; only while no job runs."""
    write_atomically(path, records.tobytes())


class _Scanned(NamedTuple):
    """Valid records, where the last one ends, and how far the data were looked at."""

    records: NDArray[np.void]
    end: int
    scanned: int


def _scan(data: bytes, dtype: np.dtype[np.void]) -> _Scanned:
    """Return the valid records in ``data``, at whatever offsets they begin.

    It goes from one record to the next, and where there is none on to the next byte, until less
    than a record is left: what it finds does not depend on where the data are cut.
    """
    size = dtype.itemsize
    at, end, parts = 0, 0, []
    while at + size <= len(data):
        run = _run_length(data, dtype, at)
        if run:
            parts.append(data[at : at + run * size])
            at = end = at + run * size
        else:
            at = _next_candidate(data, dtype, at + 1)
    records = np.frombuffer(b"".join(parts), dtype)
    known = records["event"] <= max(Event)
    return _Scanned(records if known.all() else records[known], end, at)


def _run_length(data: bytes, dtype: np.dtype[np.void], at: int) -> int:
    """Return how many valid records follow one another from a byte on."""
    size, count, total = dtype.itemsize, 1, 0
    while at + size <= len(data):
        part = data[at : at + size * min(count, (len(data) - at) // size)]
        records = np.frombuffer(part, dtype)
        bodies = struct.iter_unpack(f"{size - 4}s4x", part)
        sums = np.fromiter((zlib.crc32(body) for (body,) in bodies), np.uint32, len(records))
        wrong = np.flatnonzero((sums != records["crc"]) | ~_may_be_record(records))
        if len(wrong):
            return total + int(wrong[0])
        total += len(records)
        at += len(part)
        count *= 64  # a damaged ledger has short runs, and is not to be read many times
    return total


def _next_candidate(data: bytes, dtype: np.dtype[np.void], at: int) -> int:
    """Return the first byte from ``at`` on where a record may begin; less than one may be left."""
    assert dtype.fields is not None
    event, unused = (dtype.fields[name][1] for name in ("event", "unused"))
    beyond = len(data) - dtype.itemsize + 1
    while at < beyond:
        end = min(at + _LOOK_BACK, beyond)
        of = {x: np.frombuffer(data, np.uint8, end - at, at + x) for x in (event, unused)}
        found = np.flatnonzero((of[event] != 0) & (of[unused] == 0))
        if len(found):
            return at + int(found[0])
        at = end
    return at


def _may_be_record(records: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell of which records it can be said without their checksum that they are none."""
    maybe: NDArray[np.bool_] = (records["event"] != 0) & (records["unused"] == 0)
    return maybe
