"""How many files and bytes a filesystem has room for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Room", "room_at"]


@dataclass(frozen=True, slots=True)
class Room:
    """What is free for us on a filesystem.

    Parameters
    ----------
    device : int
        Which filesystem it is.
    where : Path
        A folder on it.
    files : int or None
        None where any number can be made.
    bytes : int
        Free space.
    """

    device: int
    where: Path
    files: int | None
    bytes: int


def room_at(path: Path) -> Room:
    """Return what is free where a path is, or where it would be made."""
    above = Path(os.path.realpath(path))
    while not above.exists():
        above = above.parent
    found = os.statvfs(above)
    files = found.f_favail if found.f_files else None  # some filesystems make them as needed
    return Room(os.stat(above).st_dev, above, files, found.f_bavail * found.f_frsize)
