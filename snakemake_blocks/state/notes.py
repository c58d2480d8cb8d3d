"""What is said once of a task, whichever of its workers sees it first: a line per file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from snakemake_blocks.system.files import read_file

__all__ = ["drop_notes", "note_once", "read_notes"]

# Far above any line that is noted.
_MOST = 1 << 20


def note_once(folder: Path | None, name: str, text: str) -> None:
    """Print a line and keep it in a file, unless somebody has said it before.

    Parameters
    ----------
    folder : Path or None
        Where notes are kept; None: nowhere, so it is printed each time.
    name : str
        The file; it ends with ``.`` and the fingerprint of the task.
    text : str
        The line.
    """
    if folder is None or _is_first(folder / name, text):
        print(text, flush=True)


def _is_first(path: Path, text: str) -> bool:
    """Keep a line, and tell whether nobody did before; where it cannot be kept, all say it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return not os.path.lexists(path)
    except OSError:
        return True
    return True


def read_notes(folder: Path, fingerprint: int) -> Iterator[str]:
    """Yield what was noted of a task with this fingerprint.

    Raises
    ------
    InputError
        If something that is no file lies there.
    """
    for path in sorted(folder.glob(f"*.{fingerprint:016x}")):
        text = read_file(path, most=_MOST).decode(errors="replace")
        yield " ".join(text.split())  # one line, whatever became of the file


def drop_notes(folder: Path) -> None:
    """Forget what was noted, as when a task is done anew as a whole."""
    for path in folder.glob("*.*"):
        path.unlink(missing_ok=True)
