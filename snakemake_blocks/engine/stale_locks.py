"""What a killed Snakemake leaves in its books about our files: locks and marks of incompleteness.

Both speak of all files of a run directory, by their paths relative to the folder that Snakemake
ran in. Other workflows in that folder are left alone.
"""

from __future__ import annotations

import binascii
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path

from snakemake_blocks.system.files import read_text

__all__ = ["unlock", "unmark"]


def unlock(folder: Path, root: Path) -> int:
    """Remove Snakemake's locks on files of a run directory; return how many there were.

    Parameters
    ----------
    folder : Path
        Where Snakemake ran; it must be known to be dead.
    root : Path
        The run directory.
    """
    inside = _Inside(folder, root)
    found = [
        path
        for path in (folder / ".snakemake" / "locks").glob("*.lock")
        if any(inside.has(line) for line in read_text(path).splitlines())
    ]
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def unmark(folder: Path, root: Path) -> int:
    """Remove Snakemake's marks on sentinels that are there; return how many there were.

    A worker makes its sentinel in one step and last, so none is ever incomplete. A kill between
    that and Snakemake's own note leaves the mark, and plain Snakemake would refuse to go on.

    Parameters
    ----------
    folder : Path
        Where Snakemake ran. One that lives is not disturbed: it removes the output of a job
        before it marks it.
    root : Path
        The run directory.
    """
    inside, count = _Inside(folder, root), 0
    for path, name in _marks(folder / ".snakemake" / "incomplete"):
        if inside.has(name) and (folder / name).exists():
            path.unlink(missing_ok=True)
            count += 1
    return count


class _Inside:
    """Which of the files that Snakemake names, relative to its folder, lie in a run directory."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = os.path.join(os.path.realpath(root), "")

    def has(self, name: str) -> bool:
        return os.path.realpath(self._folder / name).startswith(self._root)


def _marks(top: Path) -> Iterator[tuple[Path, str]]:
    """Yield every mark and the name of the file it is about, which Snakemake writes in base 64.

    Names too long for one file go on from folder to folder, each with an @ before it.
    """
    for path in list(top.rglob("*")):
        if path.is_dir():
            continue
        parts = path.relative_to(top).parts
        text = "".join(part.removeprefix("@") for part in parts)
        try:
            yield path, urlsafe_b64decode(text).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue  # not Snakemake's, or being written by another version of it
