"""Locks on a shared filesystem, taken over from the dead without a human and without clocks.

A lock is a small file made atomically. Its holder renews a counter in it. A holder on the same
host is dead when its process is gone; one elsewhere, when the counter stood still for 120 s of
the observer's own monotonic clock. Whoever lost its lock notices by the token, before it
writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from snakemake_blocks.errors import BusyError, LedgerError
from snakemake_blocks.paths import write_atomically

__all__ = ["Holder", "Lock", "held", "holder_of", "is_alive", "process_start"]

_STANDSTILL = 120.0
_POLL = 1.0
_SCHEDULER_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Parameters
    ----------
    host : str
        Host, boot and process namespace: processes can be looked up only from the same.
    pid, start : int
        Process, and its start time in clock ticks since boot (a pid alone may be reused).
    scheduler_id : str
        Job id of LSF, SLURM or another scheduler, if any.
    token : str
        Random, new for every holder.
    counter : int
        Renewed while the holder lives.
    """

    host: str
    pid: int
    start: int
    scheduler_id: str
    token: str
    counter: int = 0

    @classmethod
    def this_process(cls, environment: Mapping[str, str]) -> Holder:
        """Return a new holder for the running process."""
        scheduler = next((environment[k] for k in _SCHEDULER_IDS if environment.get(k)), "")
        pid = os.getpid()
        return cls(_host(), pid, process_start(pid) or 0, scheduler, secrets.token_hex(8))

    def __str__(self) -> str:
        job = f", scheduler job {self.scheduler_id}" if self.scheduler_id else ""
        return f"process {self.pid} on {self.host.split('/')[0]}{job}"


def _host() -> str:
    """Return a name that two processes share iff they can see each other's pids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def process_start(pid: int) -> int | None:
    """Return when a process of this host started, None if there is none (or it is a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _start_without_proc(pid)
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def _start_without_proc(pid: int) -> int | None:
    """Return 0 for any living process where the system has no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def is_alive(holder: Holder) -> bool | None:
    """Tell whether a holder lives; None if it cannot be seen from this host."""
    if holder.host != _host():
        return None
    return process_start(holder.pid) == holder.start


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock at ``path``; None if nobody does or the file is damaged."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@dataclass(slots=True)
class Lock:
    """A lock file.

    Parameters
    ----------
    path : Path
        The file.
    holder : Holder
        Who takes it.
    """

    path: Path
    holder: Holder
    taken_over_from: Holder | None = field(default=None, init=False)

    def acquire(self, *, patience: float = 0.0, what: str = "") -> None:
        """Take the lock, if need be over from a dead holder.

        Parameters
        ----------
        patience : float
            Seconds to wait for a living holder to let go.
        what : str
            Words for the error.

        Raises
        ------
        BusyError
            If somebody alive holds it, with who that is.
        """
        give_up = time.monotonic() + patience
        watched: dict[str, tuple[int, float]] = {}
        while not self._create():
            other = holder_of(self.path)
            if self._is_dead(other, watched):
                self._take_over(other)
                continue
            if other is not None and is_alive(other) is not None and time.monotonic() >= give_up:
                raise BusyError(f"{what or self.path}: is held by {other}")
            if other is not None and time.monotonic() >= give_up + _STANDSTILL:
                raise BusyError(f"{what or self.path}: is held by {other}")
            if other is None and not self.path.exists():
                continue
            time.sleep(_POLL)

    def _create(self) -> bool:
        """Make the lock file if there is none; false if there is one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{self.holder.token}")
        write_atomically(temporary, self._content(), durable=False)
        try:
            os.link(temporary, self.path)  # atomic also where O_EXCL is not
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    def _is_dead(self, other: Holder | None, watched: dict[str, tuple[int, float]]) -> bool:
        """Tell whether the holder is dead, watching those that cannot be looked up."""
        now = time.monotonic()
        if other is None:
            key, counter = "damaged", 0
            if not self.path.exists():
                return False
        else:
            alive = is_alive(other)
            if alive is not None:
                return not alive
            key, counter = other.token, other.counter
        before, since = watched.get(key, (counter, now))
        watched[key] = (counter, since if counter == before else now)
        return now - watched[key][1] >= _STANDSTILL

    def _take_over(self, other: Holder | None) -> None:
        """Remove the lock of a dead holder; of several observers only one does it."""
        guard = Lock(self.path.with_name(self.path.name + ".takeover"), self.holder)
        if not guard._create():
            if guard._is_dead(holder_of(guard.path), {}):
                guard.path.unlink(missing_ok=True)
            time.sleep(_POLL)
            return
        try:
            now = holder_of(self.path)
            if (now and now.token) == (other and other.token):
                self.path.unlink(missing_ok=True)
                self.taken_over_from = other
        finally:
            guard.path.unlink(missing_ok=True)

    def _content(self) -> bytes:
        return json.dumps(asdict(self.holder)).encode()

    def renew(self) -> None:
        """Raise the counter, so that others see that the holder lives.

        Raises
        ------
        LedgerError
            If the lock was taken over in the meantime.
        """
        self.verify()
        self.holder = replace(self.holder, counter=self.holder.counter + 1)
        write_atomically(self.path, self._content(), durable=False)

    def verify(self) -> None:
        """Check that the lock is still ours.

        Raises
        ------
        LedgerError
            If it was taken over.
        """
        other = holder_of(self.path)
        if other is None or other.token != self.holder.token:
            raise LedgerError(f"{self.path}: was taken over by {other}; this process stops")

    def release(self) -> None:
        """Let go; a lock that was taken over is left alone."""
        other = holder_of(self.path)
        if other is not None and other.token == self.holder.token:
            self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def held(
    path: Path, environment: Mapping[str, str], *, patience: float = 0.0, what: str = ""
) -> Iterator[Lock]:
    """Hold a lock inside the ``with`` block."""
    lock = Lock(path, Holder.this_process(environment))
    lock.acquire(patience=patience, what=what)
    try:
        yield lock
    finally:
        lock.release()
