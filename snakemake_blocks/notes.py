"""What is said once of a task, whichever of its workers sees it first: a line per file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["drop_notes", "note_once", "read_notes"]


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
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(folder / name, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return
    print(text, flush=True)


def read_notes(folder: Path, fingerprint: int) -> Iterator[str]:
    """Yield what was noted of a task with this fingerprint."""
    for path in sorted(folder.glob(f"*.{fingerprint:016x}")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield " ".join(text.split())  # one line, whatever became of the file


def drop_notes(folder: Path) -> None:
    """Forget what was noted, as when a task is done anew as a whole."""
    for path in folder.glob("*.*"):
        path.unlink(missing_ok=True)
