"""Failed attempts: what happened, where, with which traceback; grouped by cause."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from snakemake_blocks.errors import BlocksError, InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.system.files import append_to, parse_json, read_file
from snakemake_blocks.system.quoting import comment

__all__ = [
    "BlockFailedError",
    "Failure",
    "ScriptError",
    "append_failure",
    "failure_of",
    "grouped",
    "read_failures",
]

_LONGEST_CAUSE = 500
_LONGEST_MESSAGE = 10_000
_LONGEST_TRACE = 100_000


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt of a block.

    Parameters
    ----------
    index : tuple of int
        The block.
    attempt : int
        Counted from 1.
    cause : str
        The same for failures that are one bug: exception and line, or the signal.
    message : str
        The exception's text, or what killed the worker.
    trace : str
        Full traceback, empty where there is none.
    log : str
        Path of the job's log.
    """

    index: Index
    attempt: int
    cause: str
    message: str
    trace: str = ""
    log: str = ""

    def __post_init__(self) -> None:
        kinds = (tuple, int, str, str, str, str)
        for name, kind in zip(self.__slots__, kinds, strict=True):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} of a failure is no {kind.__name__}")
        if not all(isinstance(k, int) for k in self.index):
            raise TypeError("index of a failure is not of whole numbers")


class BlockFailedError(BlocksError):
    """A block that did not raise but is not done: status FAILED, or refused by its check."""


class ScriptError(Exception):
    """What another process said of an exception there.

    Parameters
    ----------
    cause, message, trace : str
        As in :class:`Failure`.
    """

    def __init__(self, cause: str, message: str, trace: str) -> None:
        super().__init__(message)
        self.cause, self.message, self.trace = cause, message, trace


def failure_of(error: BaseException, index: Index, attempt: int, log: str) -> Failure:
    """Return what an exception says; the cause is its type and the line that raised it.

    Our own refusals have no line of the user's; their cause is what they say.
    """
    if isinstance(error, ScriptError):
        return Failure(index, attempt, error.cause, error.message, error.trace, log)
    message = _bounded("".join(traceback.format_exception_only(error)).strip(), _LONGEST_MESSAGE)
    where = _raised_at(error.__traceback__, others=not isinstance(error, BlocksError))
    cause = f"{type(error).__name__} at {where}" if where else message.partition("\n")[0]
    trace = _bounded("".join(traceback.format_exception(error)), _LONGEST_TRACE)
    return Failure(index, attempt, comment(_bounded(cause, _LONGEST_CAUSE)), message, trace, log)


def _bounded(text: str, most: int) -> str:
    """Return text that every file and stream takes, without the middle of what is too long."""
    if len(text) > most:
        text = f"{text[: most // 2]} [... {len(text) - most:,} characters] {text[-most // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def _raised_at(trace: TracebackType | None, *, others: bool) -> str:
    """Return the user's innermost line, ``functions.py:12``; libraries only if ``others``."""
    here = os.path.dirname(os.path.dirname(__file__)) + os.sep
    frames = traceback.extract_tb(trace)
    own = [f for f in frames if "site-packages" not in f.filename and here not in f.filename]
    frame = next(reversed(own or (frames if others else [])), None)
    return f"{os.path.basename(frame.filename)}:{frame.lineno}" if frame else ""


def append_failure(path: Path, failure: Failure) -> None:
    """Append one failure as a line of JSON; where that is not possible, say so in the log."""
    line = json.dumps(asdict(failure)) + "\n"
    try:
        handle = append_to(path)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except (OSError, InputError) as error:
        sys.stderr.write(f"{path}: a failure could not be written down ({error})\n")


def read_failures(path: Path) -> Iterator[Failure]:
    """Yield the failures of a job in the order they happened; damaged lines are passed over."""
    try:
        text = read_file(path).decode(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            data = parse_json(line)
            yield Failure(**{**data, "index": tuple(data["index"])})
        except (ValueError, TypeError, KeyError):
            continue


def grouped(failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    """Return the failures by cause, the most frequent first."""
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(failure.cause, []).append(failure)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))
