"""Locks on a shared filesystem, taken over from the dead without a human and without clocks.

A lock is a small file made atomically. Its holder renews a counter in it. A holder on the same
host is dead when its process is gone; one elsewhere, when the counter stood still for 120 s of
the observer's own monotonic clock. Whoever lost its lock notices by the token, before it
writes; and it trusts a lock that it could not renew for half of that time no longer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import mmap
import os
import secrets
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from snakemake_blocks.errors import BusyError, InputError, LedgerError
from snakemake_blocks.system.files import parse_json, read_file, write_atomically
from snakemake_blocks.system.processes import boot_clock, process_host, process_start

__all__ = [
    "TIMING",
    "Holder",
    "Lease",
    "Lock",
    "Timing",
    "Watch",
    "held",
    "holder_of",
    "in_hand_of",
    "is_alive",
    "is_taken",
    "not_a_lock",
]

_SCHEDULER_IDS = ("SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID", "JOB_ID")
_DIGITS = 20
_MOST = 1 << 16


@dataclass(slots=True)
class Timing:
    """Seconds; one for the whole program, and short in tests.

    Parameters
    ----------
    standstill : float
        A counter that stands still for so long belongs to a dead holder.
    lease : float
        For how long a holder trusts a lock that it last renewed; well below ``standstill``.
    fence : float
        So long after the last renewal its workers are ended; between the two.
    heartbeat : float
        Between two renewals.
    poll : float
        Between two looks at somebody else's lock.
    unreadable : float
        For so long a lock may be half written, where links cannot make it in one step.
    ending : float
        What is just ending is waited for so long.
    idle : float
        For so long somebody may still begin what others wait for.
    """

    standstill: float = 120.0
    lease: float = 60.0
    fence: float = 90.0
    heartbeat: float = 5.0
    poll: float = 0.2
    unreadable: float = 2.0
    ending: float = 3.0
    idle: float = 10.0


TIMING = Timing()


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

    def __post_init__(self) -> None:
        kinds = (str, int, int, str, str, int)
        for name, kind in zip(self.__slots__, kinds, strict=True):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} of a lock's holder is no {kind.__name__}")

    @classmethod
    def this_process(cls, environment: Mapping[str, str]) -> Holder:
        """Return a new holder for the running process."""
        scheduler = next((environment[k] for k in _SCHEDULER_IDS if environment.get(k)), "")
        pid = os.getpid()
        return cls(process_host(), pid, process_start(pid) or 0, scheduler, secrets.token_hex(8))

    def __str__(self) -> str:
        job = f", scheduler job {self.scheduler_id}" if self.scheduler_id else ""
        return f"process {self.pid} on {self.host.split('/')[0]}{job}"


def is_alive(holder: Holder) -> bool | None:
    """Tell whether a holder lives; None if it cannot be seen from this host."""
    if holder.host != process_host():
        return None
    return process_start(holder.pid) == holder.start


def holder_of(path: Path) -> Holder | None:
    """Return who holds the lock at ``path``; None if nobody does or the file is damaged."""
    try:
        head, _, counter = read_file(path, most=_MOST).partition(b"\n")
        return Holder(**parse_json(head), counter=int(counter))
    except (FileNotFoundError, InputError, ValueError, TypeError):
        return None


def in_hand_of(path: Path) -> str:
    """Return in words who has what the lock at ``path``, which is taken, stands for."""
    if other := holder_of(path):
        return f"in hand of {other}"
    return f"held by {path}, which cannot be read (if nothing runs here, remove it)"


def not_a_lock(path: Path) -> InputError:
    """Return what to say of a file, or whatever it is, in place of a lock."""
    return InputError(f"{path}: is no lock; if nothing runs here, remove it")


@dataclass(slots=True)
class Watch:
    """What one observer saw of counters in locks, and when by its own clock."""

    _seen: dict[str, tuple[str, int, float]] = field(default_factory=dict, repr=False)

    def is_dead(self, path: Path) -> bool:
        """Tell whether the lock at ``path`` is there and belongs to nobody alive.

        Holders that cannot be looked up, and damaged files, have to be asked about again and
        again: they are dead once their counter stood still for long enough.
        """
        return self.judge(path)[0]

    def judge(self, path: Path) -> tuple[bool, Holder | None]:
        """Return the same, and of which holder it is said."""
        holder = holder_of(path)
        alive = None if holder is None else is_alive(holder)
        if alive is not None:
            return not alive, holder
        if not path.exists():
            return False, holder
        now = time.monotonic()
        key = (holder.token, holder.counter) if holder else ("damaged", 0)
        *before, since = self._seen.get(str(path), (*key, now))
        if tuple(before) != key:
            since = now
        self._seen[str(path)] = (*key, since)
        return now - since >= TIMING.standstill, holder


def is_taken(path: Path, watch: Watch) -> bool:
    """Tell whether somebody who may be alive holds the lock at a path."""
    return path.exists() and not watch.is_dead(path)


_MOMENT = struct.Struct("<d")


@dataclass(slots=True)
class Lease:
    """When a lock was last renewed; shared with the processes that are forked later."""

    _memory: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 8), repr=False)

    def extend(self, since: float) -> None:
        """Note a renewal that others may have seen from ``since`` on, by :func:`boot_clock`."""
        _MOMENT.pack_into(self._memory, 0, since)

    def end(self) -> None:
        """Note that the lock is held no longer."""
        self.extend(0.0)

    @property
    def _renewed(self) -> float:
        return _MOMENT.unpack_from(self._memory)[0]  # type: ignore[no-any-return]

    @property
    def is_fresh(self) -> bool:
        """Whether the lock was renewed so recently that nobody can have taken it over."""
        return boot_clock() < self._renewed + TIMING.lease

    @property
    def is_over(self) -> bool:
        """Whether the lock is held, and others may soon take it over."""
        return self._renewed > 0 and boot_clock() >= self._renewed + TIMING.fence

    @property
    def is_lost(self) -> bool:
        """Whether it is held no longer, or whoever ends the workers in time has not done so."""
        return boot_clock() >= self._renewed + (TIMING.fence + TIMING.standstill) / 2


@dataclass(slots=True)
class Lock:
    """A lock file.

    Parameters
    ----------
    path : Path
        The file.
    holder : Holder
        Who takes it.
    lease : Lease
        Shared with workers that were forked before the lock was made.
    """

    path: Path
    holder: Holder
    lease: Lease = field(default_factory=Lease, repr=False)
    taken_over_from: Holder | None = field(default=None, init=False)
    _handle: int = field(default=-1, init=False, repr=False)
    _counter: int = field(default=0, init=False, repr=False)

    def acquire(
        self,
        *,
        patience: float = 0.0,
        what: str = "",
        stop: Callable[[], str] = lambda: "",
        watch: Watch | None = None,
        verb: bool = False,
    ) -> None:
        """Take the lock, if need be over from a dead holder.

        Parameters
        ----------
        patience : float
            Seconds to wait for a living holder to let go. One that cannot be looked up from this
            host gets so much more time that its counter would show whether it lives; with a
            ``watch``, that time begins when the watch began.
        what : str
            Words for messages.
        stop : callable
            Asked now and then; a reason to wait no longer, or an empty string.
        watch : Watch, optional
            What the caller saw of this lock earlier.
        verb : bool
            A person waits: what is no lock is refused soon, where a job waits until it is dead.

        Raises
        ------
        BusyError
            If somebody who may be alive holds it, with who that is.
        InputError
            If what is there is no lock.
        LedgerError
            If the file cannot be written.
        """
        what = what or str(self.path)
        once = watch is not None and patience == 0
        watch = watch or Watch()
        began, told = time.monotonic(), False
        while not self._take(watch):
            other = holder_of(self.path)
            waited = time.monotonic() - began
            seen = other is not None and is_alive(other) is not None
            if other is not None and (reason := stop()):
                raise BusyError(f"{what}: is held by {other}; {reason}")
            unseen = TIMING.standstill + 2 * TIMING.poll
            unreadable = other is None and self.path.exists()
            if verb and unreadable and waited >= TIMING.unreadable:
                raise not_a_lock(self.path)
            if once or waited >= patience + (0 if seen else unseen):
                raise BusyError(f"{what}: is held by {other or 'an unreadable lock file'}")
            if other is not None and not told and waited > 1 and math.isinf(patience):
                print(f"{what}: is held by {other}; waiting", flush=True)
                told = True
            time.sleep(min(TIMING.poll, 0.01 + waited / 10))

    def _take(self, watch: Watch) -> bool:
        """Try once; a dead holder's lock is removed, to be taken at the next try."""
        try:
            if self._create():
                return True
            if watch.is_dead(self.path):
                self._remove(watch)
                return self._create()
        except OSError as error:
            raise LedgerError(
                f"{self.path}: cannot be written ({os.strerror(error.errno or 0)}); "
                "the run directory has to be writable and its disk must not be full"
            ) from None
        return False

    def _create(self) -> bool:
        """Make the lock file if there is none; false if there is one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        since = boot_clock()
        temporary = self.path.with_name(f".{self.path.name}.{self.holder.token}")
        write_atomically(temporary, self._content(), durable=False)
        try:
            self._link(temporary)
            self._handle = os.open(self.path, os.O_WRONLY)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        self.lease.extend(since)
        return True

    def _link(self, temporary: Path) -> None:
        """Give the file its name unless that is taken; atomic also where O_EXCL is not."""
        try:
            os.link(temporary, self.path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(handle, self._content())
            os.close(handle)

    def _remove(self, watch: Watch) -> None:
        """Remove the lock of a dead holder; of several observers only one does it."""
        guard = Lock(self.path.with_name(f"{self.path.name}.takeover"), self.holder)
        if not guard._create():
            if watch.is_dead(guard.path):
                guard.path.unlink(missing_ok=True)
            return
        try:
            # Judged anew: since the last look somebody else may have taken it over.
            is_dead, dead = watch.judge(self.path)
            if is_dead and holder_of(self.path) == dead:
                self.path.unlink(missing_ok=True)
                self.taken_over_from = dead
        finally:
            guard.release()

    def _content(self) -> bytes:
        data = asdict(self.holder)
        del data["counter"]
        return json.dumps(data).encode() + b"\n" + self._digits()

    def _digits(self) -> bytes:
        return f"{self._counter:0{_DIGITS}d}".encode()

    def renew(self) -> None:
        """Raise the counter, so that others see that the holder lives.

        It is written in place: into a file that was taken away nobody looks any more.

        Raises
        ------
        LedgerError
            If the lock was taken over in the meantime.
        """
        self.verify()
        self._counter += 1
        # Others may see it from now on, however long the write takes to come back.
        since = boot_clock()
        try:
            os.pwrite(self._handle, self._digits(), len(self._content()) - _DIGITS)
            os.fsync(self._handle)
        except OSError as error:
            # Not renewed, so not trusted for longer; and not lost before others may take it.
            print(f"{self.path}: cannot be renewed ({error})", flush=True)
            return
        if not self.lease.is_fresh:
            self.verify()  # it was long, and somebody may have been about to take it
        self.lease.extend(since)

    def assure(self) -> None:
        """Check that the lock is ours and nobody can be about to take it over, in its holder.

        Raises
        ------
        LedgerError
            If it was taken over.
        """
        if self.lease.is_fresh:
            self.verify()
        else:
            self.renew()

    def confirm(self) -> None:
        """Check the same in another process than the one that renews it; wait if that is late.

        Raises
        ------
        LedgerError
            If the lock was taken over, or was not renewed for so long that it may be.
        """
        self.verify()
        while not self.lease.is_fresh:
            if self.lease.is_lost:
                raise LedgerError(f"{self.path}: was not renewed in time; this process stops")
            time.sleep(TIMING.poll)
            self.verify()

    def verify(self) -> None:
        """Check that the lock is still ours.

        Raises
        ------
        LedgerError
            If it was taken over.
        """
        other = holder_of(self.path)
        if other is None or other.token != self.holder.token:
            by = f"taken over by {other}" if other else "taken away"
            raise LedgerError(f"{self.path}: was {by}; this process stops")

    def release(self) -> None:
        """Let go; a lock that was taken over is left alone."""
        other = holder_of(self.path)
        if other is not None and other.token == self.holder.token:
            self.path.unlink(missing_ok=True)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            self.lease.end()


@contextlib.contextmanager
def held(
    path: Path, environment: Mapping[str, str], *, patience: float = 0.0, what: str = ""
) -> Iterator[Lock]:
    """Hold a lock inside the ``with`` block; a thread renews it.

    A process that lost it sends itself SIGTERM.
    """
    lock = Lock(path, Holder.this_process(environment))
    lock.acquire(patience=patience, what=what, verb=True)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_renewing, args=(lock, ended), daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        ended.set()
        thread.join()
        lock.release()


def _keep_renewing(lock: Lock, ended: threading.Event) -> None:
    while not ended.wait(TIMING.heartbeat):
        try:
            lock.renew()
        except LedgerError as error:
            print(error, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return
