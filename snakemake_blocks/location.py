"""Where something lies, told apart from what it is called."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from snakemake_blocks.errors import InputError

__all__ = ["Names", "Place", "place_of"]

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
