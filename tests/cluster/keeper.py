"""Ends what a test cluster started, however its owner ends.

Every process of a cluster inherits the variable `MARK` with the cluster's directory as its value. A
keeper process waits until its owner closes a pipe, be it in an orderly way or by being killed, then
kills every process with that mark and removes the directory.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "BLOCKS_TEST_CLUSTER"
_PROC = Path("/proc")
_PATIENCE = 10.0


def marked(name: str, value: str) -> set[int]:
    """Process ids of those that were started with a variable, and of their descendants.

    Parameters
    ----------
    name, value : str
        The environment variable.

    Returns
    -------
    set of int
        Living processes, zombies not counted; without the calling process.
    """
    wanted = f"{name}={value}".encode()
    found: set[int] = set()
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or is another user's
        if state == "Z":
            continue
        parents[pid] = int(parent)
        if wanted in environment:
            found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def sweep(directory: Path) -> set[int]:
    """Kill every process that belongs to the cluster in `directory`.

    Parameters
    ----------
    directory : Path
        Directory of the cluster.

    Returns
    -------
    set of int
        Processes that were still there after 10 s; empty if all is well.
    """
    deadline = time.monotonic() + _PATIENCE
    while (alive := marked(MARK, str(directory))) and time.monotonic() < deadline:
        for pid in alive:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended by itself
        time.sleep(0.02)
    return alive


class Keeper:
    """Guard of one cluster's processes and directory.

    Parameters
    ----------
    directory : Path
        Directory of the cluster; removed at the end.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(directory)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal must not end the keeper first
        )

    def close(self) -> None:
        """End all processes of the cluster and remove its directory.

        Raises
        ------
        RuntimeError
            If a process could not be ended.
        """
        _, complaint = self._process.communicate(timeout=3 * _PATIENCE)
        if self._process.returncode != 0:
            raise RuntimeError(f"{self._directory}: {complaint.decode().strip()}")


def _keep(directory: Path) -> int:
    sys.stdin.buffer.read()  # returns when the owner closes the pipe or is gone
    alive = sweep(directory)
    shutil.rmtree(directory)
    if alive:
        print(f"processes still alive: {sorted(alive)}", file=sys.stderr)
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(_keep(Path(sys.argv[1])))
