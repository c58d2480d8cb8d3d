"""Where something lies, told apart from what it is called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from snakemake_blocks.errors import InputError

__all__ = [
    "Names",
    "Place",
    "dangling_link",
    "is_inside",
    "is_same",
    "lost_link",
    "make_target",
    "place_of",
    "way_to",
]

Place = tuple[int, int, tuple[str, ...]]
"""Device and inode of the deepest folder that exists, and the names below it."""


def place_of(path: Path) -> Place:
    """Return where a path leads, be there something or not; links are followed, dangling ones too.

    Raises
    ------
    InputError
        If links lead in a circle.
    """
    real, rest = os.path.realpath(path), list[str]()
    while True:
        try:
            facts = os.stat(real)
            return facts.st_dev, facts.st_ino, tuple(reversed(rest))
        except (FileNotFoundError, NotADirectoryError):
            real, name = os.path.split(real)
            rest.append(name)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise InputError(f"{path}: its links lead in a circle; remove one") from None


def is_same(path: Path, other: Path) -> bool:
    """Tell whether two paths lead to one place."""
    return place_of(path) == place_of(other)


def is_inside(path: Path, folder: Path) -> bool:
    """Tell whether a path leads to a folder or to something in it."""
    real = Path(os.path.realpath(path))
    return any(is_same(part, folder) for part in (real, *real.parents))


def way_to(path: Path, start: Path) -> str:
    """Return a relative path on which the system gets from a folder to a place.

    It is as the two are spelled, where that leads there: after a link ``..`` is another folder.
    """
    spelled = os.path.relpath(path, start)
    if is_same(start / spelled, path):
        return spelled
    return os.path.relpath(os.path.realpath(path), os.path.realpath(start))


def dangling_link(path: Path) -> Path | None:
    """Return the link on the way to a path that leads to nothing, None if there is none."""
    for part in (path, *path.parents):
        if part.exists():
            return None
        if part.is_symlink():
            return part
    return None


def lost_link(path: Path) -> str:
    """Return why a link on the way to a path leads nowhere; empty if what it names can be made."""
    link = dangling_link(path)
    if link is None or os.path.isdir(os.path.dirname(os.path.realpath(link))):
        return ""
    return f"{link} is a link to {os.path.realpath(link)}, which is not there; mount or make it"


def make_target(path: Path) -> None:
    """Make the folder that a link on the way to a path names and that is not there yet."""
    link = dangling_link(path)
    if link is not None:
        os.mkdir(os.path.realpath(link))


class Names:
    """Gives every place one name: the first that it was called by.

    Parameters
    ----------
    folder : Path
        Where relative names begin.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first: dict[Place, str] = {}

    def of(self, written: str, shown: str | None = None) -> str:
        """Return the name of the place that a path leads to.

        Parameters
        ----------
        written : str
            The path.
        shown : str, optional
            What to call the place if it has no name yet; default: the path.
        """
        place = place_of(self._folder / written)
        if shown is None or place_of(self._folder / shown) != place:
            shown = written  # after a link ".." is another folder than its spelling says
        return self._first.setdefault(place, shown)
