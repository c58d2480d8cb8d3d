"""A command as a whole: its seconds, and the most memory that any of its processes had."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command took.

    Parameters
    ----------
    seconds : float
        Wall time, start included.
    largest : float
        MB that the largest of its processes had in memory at its most.
    """

    seconds: float
    largest: float

    def __str__(self) -> str:
        return f"{self.seconds:7.1f} s, {self.largest:6,.0f} MB in the largest process"


def watched(command: Sequence[str | Path], folder: Path, **environment: str) -> Watched:
    """Run a command in a folder; it has to succeed."""
    begin, most = time.perf_counter(), 0
    log = folder / "watched.log"
    with log.open("w") as out:
        going = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while going.poll() is None:
            most = max([most, *map(_memory, _of_session(going.pid))])
            time.sleep(0.05)
    if going.returncode:
        raise SystemExit(f"{command[0]} failed:\n{log.read_text()[-3000:]}")
    return Watched(time.perf_counter() - begin, most / 1024)


def _of_session(session: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[3]) == session:
                found.append(int(entry))
    return found


def _memory(process: int) -> int:
    """Return the most that a process had for itself, in kB: without pages of files."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("RssAnon:")[2].split()[0]) if "RssAnon:" in status else 0
