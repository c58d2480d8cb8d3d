"""Files: read and written so that nothing that lies in their place can hang or flood a process.

What is read may have been put there by anyone: a folder, a pipe that nobody writes to, a device
without an end. Everything that is read from disk by its name is read here.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from snakemake_blocks.errors import InputError

__all__ = [
    "append_to",
    "is_writable",
    "may_be_read",
    "open_file",
    "parse_json",
    "read_file",
    "read_text",
    "write_atomically",
]

# Far above what any file holds that is read whole, pickled functions with their data included.
_MOST = 256 << 20
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Opening a pipe must not wait for somebody who writes to it.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder."""
    return os.access(folder, os.W_OK | os.X_OK)


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, of any size, for reading without a buffer.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    InputError
        If what is there is no regular file, or cannot be read.
    """
    with os.fdopen(_opened(path), "rb", buffering=0) as file:
        yield file


def read_file(path: Path, *, most: int = _MOST) -> bytes:
    """Return the content of a regular file.

    Parameters
    ----------
    path : Path
        The file.
    most : int
        Bytes that it may have.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    InputError
        If what is there is no regular file, is larger, or cannot be read.
    """
    handle = _opened(path)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if os.fstat(handle).st_size <= most:
            content = _content(path, file, most)
            if len(content) <= most:
                return content
    raise InputError(
        f"{path}: is larger than {most:,} bytes, so it is not the file that belongs here; move it"
    )


def read_text(path: Path, *, most: int = _MOST) -> str:
    """Return the text of a regular file.

    Raises
    ------
    FileNotFoundError, InputError
        As :func:`read_file`; also if it is not UTF-8.
    """
    try:
        return read_file(path, most=most).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason})") from None


def parse_json(content: bytes | str) -> Any:
    """Return what a text in JSON says.

    Raises
    ------
    ValueError
        If it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def may_be_read(path: Path, *, most: int) -> bool:
    """Tell whether others can read a file: there is none, or a regular one of bounded size."""
    try:
        state = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    return stat.S_ISREG(state.st_mode) and state.st_size <= most


def append_to(path: Path) -> int:
    """Return a handle that appends to a regular file, which is made with its folder.

    Raises
    ------
    InputError
        If what is there is no regular file.
    OSError
        If it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENXIO):  # a pipe that nobody reads, a socket
            raise InputError(f"{path}: is not a file; move it away") from None
        raise
    return _regular(handle, path)


def _opened(path: Path) -> int:
    """Return a handle of a regular file."""
    try:
        handle = os.open(path, _FLAGS)
    except ValueError:  # a zero byte in the name
        raise InputError(f"{str(path)!r}: cannot be the name of a file") from None
    except OSError as error:  # a socket cannot even be opened
        raise _unreadable(path, error) from None
    return _regular(handle, path)


def _regular(handle: int, path: Path) -> int:
    """Return the handle if it is one of a regular file; close and refuse any other."""
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind == stat.S_IFREG:
        return handle
    os.close(handle)
    raise InputError(f"{path}: is {_KINDS.get(kind, 'no file')}, not a file; move it away")


def _content(path: Path, file: BinaryIO, most: int) -> bytes:
    """Return what a file holds, and one byte more than allowed at most: it may be growing."""
    parts, room = [], most + 1
    try:
        while room > 0 and (part := file.read(min(room, 1 << 20))):
            parts.append(part)
            room -= len(part)
    except OSError as error:
        raise _unreadable(path, error) from None
    return b"".join(parts)


def _unreadable(path: Path, error: OSError) -> Exception:
    # Stale: removed on another host while it was being read.
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return InputError(f"{path}: cannot be read ({error.strerror})")


def write_atomically(
    path: Path, data: bytes, *, durable: bool = True, durable_name: bool = True
) -> None:
    """Write a file by write-then-rename, so that it is seen whole or not at all.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    data : bytes
        Content.
    durable : bool
        Wait until file and name are on disk.
    durable_name : bool
        Wait for the name, too: a crash of the machine cannot take the file away.

    Raises
    ------
    InputError
        If a folder is where the file goes, or a file where its folder is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{error.filename}: is no folder; move it away") from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, IsADirectoryError):
            raise InputError(f"{path}: is a folder, not a file; move it away") from None
        raise
    if durable and durable_name:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
