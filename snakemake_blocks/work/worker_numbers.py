"""Numbers of workers: 0, 1, 2, ... of one task, each had by one living worker at a time.

A number is a locked file on the host's own disk, so that processes of several jobs find free ones
without asking each other; shared file systems lock files late, wrongly or never. Where files cannot
be locked, numbers are unique inside of a job only. Of a task that may
have so many workers and no more, a new one waits for a number below that: workers that are being
closed leave theirs soon, and those that only wait for a job leave theirs when somebody asks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import append_to

__all__ = ["Numbers", "Slot", "slot_folder", "take_slot"]

# Longer than workers have for closing what they have set up.
_PATIENCE = 25.0


def slot_folder(root: Path, task: str) -> Path:
    """Return the folder of the numbers of a task's workers on this host.

    Parameters
    ----------
    root : Path
        The run directory.
    task : str
        The task.
    """
    base = Path(tempfile.gettempdir()) / f"snakemake-blocks-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.lstat().st_uid != os.getuid():  # anybody can make it first
        base = Path(tempfile.mkdtemp(prefix=f"{base.name}-"))
    place = f"{os.path.realpath(root)}\0{task}".encode(errors="surrogateescape")
    return base / hashlib.sha256(place).hexdigest()[:16]


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
    slot = _first_free(folder, count(), taken)
    assert slot is not None, "numbers have no end"
    return slot


def _first_free(folder: Path, numbers: Iterable[int], taken: Container[int]) -> Slot | None:
    found = (_try(folder / str(n), n) for n in numbers if n not in taken)
    return next((slot for slot in found if slot is not None), None)


def _try(path: Path, number: int, kind: int = fcntl.LOCK_EX) -> Slot | None:
    """Return the slot, None if another process has it."""
    try:
        handle = append_to(path)
    except (OSError, InputError):  # a disk that is full, or something else is in its place
        return Slot(number)
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        return None if isinstance(error, BlockingIOError) else Slot(number)
    return Slot(number, handle)


@dataclass(slots=True)
class Numbers:
    """Where the workers of a process get their numbers from.

    Parameters
    ----------
    folder : Path
        Of the files.
    limit : int or None
        How many workers the task may have at a time, over all jobs; None for any number.
    """

    folder: Path
    limit: int | None
    _since: float = field(default=0.0, init=False)
    _asking: Slot | None = field(default=None, init=False)

    def take(self, taken: Container[int]) -> Slot | None:
        """Return the smallest number that nobody has; None if the caller is to ask again soon.

        Where more workers than allowed live for long, for somebody started more of them by hand,
        it is a number beyond the limit.
        """
        numbers = count() if self.limit is None else range(self.limit)
        slot = _first_free(self.folder, numbers, taken)
        if slot is None and self._is_patient():
            self._asking = self._asking or _try(self._wanted, 0)
            return None
        self.stop_asking()
        return slot or take_slot(self.folder, taken)

    def _is_patient(self) -> bool:
        if not self._since:
            self._since = time.monotonic()
            print(f"the task's {self.limit} workers are in use: waits for one to end", flush=True)
        return time.monotonic() - self._since < _PATIENCE

    def stop_asking(self) -> None:
        """Need no number any more."""
        self._since = 0.0
        if self._asking is not None:
            self._asking.release()
            self._asking = None

    @property
    def are_wanted(self) -> bool:
        """Whether another process waits for a number; those who ask this do not see each other."""
        found = None if self.limit is None else _try(self._wanted, 0, fcntl.LOCK_SH)
        if found is not None:
            found.release()
        return self.limit is not None and found is None

    @property
    def _wanted(self) -> Path:
        return self.folder / "wanted"
