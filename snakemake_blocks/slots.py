"""Numbers of workers: 0, 1, 2, ... of one task, each had by one living worker at a time.

A number is a locked file, so that processes of several jobs find free ones without asking each
other. Where files cannot be locked, numbers are unique inside of a job only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Container
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.files import append_to

__all__ = ["Slot", "take_slot"]


@dataclass(slots=True)
class Slot:
    """A number in use, as the process sees it that took it.

    Parameters
    ----------
    number : int
        Counted from 0.
    handle : int or None
        Of the locked file; None where there is none.
    """

    number: int
    handle: int | None = None

    def release(self) -> None:
        """Leave the number to others; in a forked process, only forget the file."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


def take_slot(folder: Path, taken: Container[int]) -> Slot:
    """Return the smallest number that nobody has.

    Parameters
    ----------
    folder : Path
        Of the files.
    taken : container of int
        What this process has taken.
    """
    found = (_try(folder / str(n), n) for n in count() if n not in taken)
    return next(slot for slot in found if slot is not None)


def _try(path: Path, number: int) -> Slot | None:
    """Return the slot, None if another process has it."""
    try:
        handle = append_to(path)
    except (OSError, InputError):  # a disk that is full, or something else is in its place
        return Slot(number)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        return None if isinstance(error, BlockingIOError) else Slot(number)
    return Slot(number, handle)
