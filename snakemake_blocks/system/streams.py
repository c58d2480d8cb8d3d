"""Where this process and what it starts print, and what it reads from standard input."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from snakemake_blocks.system.files import append_to

__all__ = ["flush", "no_input", "print_to", "printing_to", "silence"]


def flush() -> None:
    """Write out what is printed, if the streams are there: user's code may have closed them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def print_to(path: Path, *, anew: bool = False) -> None:
    """Append what is printed from now on to a file, emptied if ``anew``.

    Raises
    ------
    InputError
        If something that is no file lies there.
    """
    handle = append_to(path)
    if anew:
        os.ftruncate(handle, 0)
    _turn(handle, handle)
    os.close(handle)


@contextlib.contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """Append to a file what is printed inside of ``with``.

    Raises
    ------
    InputError
        If something that is no file lies there.
    """
    handle = append_to(path)
    kept = os.dup(1), os.dup(2)
    try:
        _turn(handle, handle)
        yield
    finally:
        _turn(*kept)
        for each in (handle, *kept):
            os.close(each)


def no_input() -> None:
    """Let nothing be read from standard input."""
    _open_null_as(0)


def silence() -> None:
    """Let nothing be printed, and nothing be read from standard input."""
    for stream in (0, 1, 2):
        _open_null_as(stream)


def _turn(out: int, error: int) -> None:
    flush()
    os.dup2(out, 1)
    os.dup2(error, 2)


def _open_null_as(stream: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, stream)
    os.close(null)
