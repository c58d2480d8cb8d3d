"""Processes of this host: who is alive, since when, and ending a worker with all it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

__all__ = [
    "MARK",
    "age_of",
    "boot_clock",
    "count_threads",
    "die_with_parent",
    "end_marked",
    "end_tree",
    "group_lives",
    "has_ended",
    "how_it_ended",
    "process_host",
    "process_start",
]

# Set in a worker's environment and so in that of every program that it starts; names the holder
# of the job's lock and the worker.
MARK = "SNAKEMAKE_BLOCKS_WORKER"
_PR_SET_PDEATHSIG = 1


@lru_cache(maxsize=1)
def process_host() -> str:
    """Return a name that two processes share iff they can see each other's pids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process_start(pid: int) -> int | None:
    """Return when a process of this host started, None if there is none (or it is a zombie)."""
    facts = _stat(pid)
    if facts is None:
        return None if os.path.exists("/proc/self/stat") else _start_without_proc(pid)
    return int(facts[19])


def _stat(pid: int | str) -> list[bytes] | None:
    """Return what /proc says of a living process, from its state on; None of any other."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            facts = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if facts[0] in (b"Z", b"X") else facts


def group_lives(group: int) -> bool:
    """Tell whether a process group has a member that is no zombie."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if not os.path.exists("/proc/self/stat"):
        return True
    found = (_stat(name) for name in os.listdir("/proc") if name.isdigit())
    return any(facts is not None and int(facts[2]) == group for facts in found)


def _start_without_proc(pid: int) -> int | None:
    """Return 0 for any living process where the system has no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def boot_clock() -> float:
    """Return seconds of a clock that goes on while the machine sleeps, where there is one."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    else:
        return time.monotonic()


def die_with_parent(parent: int) -> None:
    """Have this process killed when the process that started it ends; only Linux can.

    Parameters
    ----------
    parent : int
        Its pid; if it has ended already, this process ends here.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def end_tree(pid: int) -> None:
    """Kill a process and its group.

    A child has to be ended before it is waited for: until then nobody else can have its pid.
    """
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def end_marked(mark: str, *, patience: float = 5.0) -> int:
    """Kill the programs of this host whose mark begins so; return how many there were.

    Parameters
    ----------
    mark : str
        Value of the variable :data:`MARK`, or how it begins.
    patience : float
        Seconds to wait until they are gone.
    """
    begin = f"{MARK}={mark}".encode()
    found = _having(lambda variables: any(x.startswith(begin) for x in variables))
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    give_up = time.monotonic() + patience
    while any(process_start(pid) is not None for pid in found) and time.monotonic() < give_up:
        time.sleep(0.01)
    return len(found)


def age_of(variable: str) -> float:
    """Return for how many seconds a process with an environment variable has been there.

    Parameters
    ----------
    variable : str
        ``NAME=value``. The oldest process of this host that began with it counts; without any
        that can be looked into, 0.
    """
    entry = variable.encode()
    starts = [process_start(pid) for pid in _having(lambda variables: entry in variables)]
    oldest = min((start for start in starts if start is not None), default=None)
    if oldest is None:
        return 0.0
    return max(0.0, boot_clock() - oldest / os.sysconf("SC_CLK_TCK"))


def _having(condition: Callable[[list[bytes]], bool]) -> list[int]:
    """Return the other processes whose environment, as they began, meets a condition."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    if condition(Path("/proc", name, "environ").read_bytes().split(b"\0")):
                        found.append(int(name))
    return found


def count_threads() -> int:
    """Return how many threads this process has; without /proc, those that Python knows of."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def has_ended(pid: int) -> bool:
    """Tell whether a child is a zombie: until it is reaped nobody else gets its pid."""
    if not hasattr(os, "waitid"):
        return process_start(pid) is None
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def how_it_ended(code: int) -> str:
    """Return words for an exit status as :mod:`multiprocessing` gives it."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
