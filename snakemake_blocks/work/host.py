"""The host: a process that holds plan, numpy and the user's modules, and forks supervisors.

Starting Python and its imports costs half a second per job, a supervisor that goes on with the next
job a message. The host is a process of its own, because the one that Snakemake runs in has threads
and must not fork. It reads requests from its standard input and answers on its standard output;
when the input ends, its Snakemake is gone and it stops its jobs.

A process that has threads of others must not fork either: a module of the user that starts some
when it is imported (a pool, a reader of arrays, a GPU runtime), or that does not survive a fork, is
left to the workers. What importing it does is tried out in a process that ends then.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.paths import RunPaths, find_run_directory
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.child import Child
from snakemake_blocks.system.processes import count_threads
from snakemake_blocks.system.streams import silence
from snakemake_blocks.tasks.functions import FunctionRef, importable_from, load, modules_of
from snakemake_blocks.work.function_imports import Import, imports_of, perform
from snakemake_blocks.work.supervisor_process import Request, SupervisorProcess

__all__ = ["Host", "serve"]

_WAKE = signal.SIGCHLD
# Longer than a supervisor's grace and what closing its workers' set-up may take.
_SUPERVISOR_SECONDS = 50.0
_CLOSING_SECONDS = 60.0
_LAST_ANSWERS_SECONDS = 5.0
# Importing the user's modules takes seconds at most, or it hangs.
_IMPORT_SECONDS = 60.0
# Empty forks of it take a millisecond.
_FORK_SECONDS = 2.0
# No module that ends the process as it is imported has this status by chance.
_FIT = 87


@dataclass(slots=True)
class Host:
    """Snakemake's side of a host process.

    Parameters
    ----------
    process : Popen
        The host, with pipes to its standard input and output.
    """

    process: Popen[bytes]
    _waiting: dict[int, Future[int]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _sending: threading.Lock = field(default_factory=threading.Lock, init=False)
    _count: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)
    _receiver: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._receiver.start()
        threading.Thread(target=self._await_end, daemon=True).start()

    def run(self, sentinel: str, *, attempt: int, log: str, folder: str) -> Future[int]:
        """Start one job; its future is the exit status, or a BlocksError if the host has died.

        Parameters
        ----------
        sentinel, log : str
            Paths relative to ``folder``.
        attempt : int
            Snakemake's attempt.
        folder : str
            The folder that Snakemake runs in.
        """
        future: Future[int] = Future()
        with self._lock:
            self._count += 1
            number = self._count
            self._waiting[number] = future
            ended = self._ended
        if ended:  # nobody looks at those who wait any more
            self._lose([number])
            return future
        try:
            self._send(
                Request(number=number, sentinel=sentinel, attempt=attempt, log=log, folder=folder)
            )
        except OSError:
            self._lose([number])
        return future

    @property
    def has_died(self) -> bool:
        """Whether the host is gone; jobs that it had in hand have failed."""
        return self._ended or self.process.poll() is not None

    def close(self) -> None:
        """Stop the jobs that still run, wait for their end and the host's; kill it if need be."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(_CLOSING_SECONDS)
        except TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, request: Request) -> None:
        assert self.process.stdin is not None
        with self._sending:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self) -> None:
        """Pass on answers until there are none; then nobody will get one any more."""
        assert self.process.stdout is not None
        try:
            with self.process.stdout as answers:
                for line in answers:
                    answer = json.loads(line)
                    with self._lock:
                        future = self._waiting.pop(answer["number"])
                    future.set_result(answer["status"])
        finally:
            self._end()

    def _await_end(self) -> None:
        """Notice the end of the process also where something it started keeps its pipe open."""
        self.process.wait()
        self._receiver.join(_LAST_ANSWERS_SECONDS)
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            lost = list(self._waiting)
        self.process.kill()  # it may live, and nobody listens to it
        self._lose(lost)

    def _lose(self, numbers: Iterable[int]) -> None:
        """Let jobs fail that nobody will answer for; each once."""
        for number in numbers:
            with self._lock:
                future = self._waiting.pop(number, None)
            if future is not None:
                future.set_exception(BlocksError("the process that runs the jobs has died"))


def serve() -> None:
    """Be a host: fork a job per request until the input ends."""
    _HostProcess().run()


class _HostProcess:
    """The host process."""

    def __init__(self) -> None:
        self._plans: dict[str, tuple[tuple[int, int], Plan]] = {}
        # Least recently used first; those that were let go, until they have ended.
        self._supervisors: list[SupervisorProcess] = []
        self._leaving: list[SupervisorProcess] = []
        self._most_busy = 0
        self._answers = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Answer requests until the input ends, then stop what still runs."""
        self._take_signals()
        rest = b""
        requests = sys.stdin.fileno()
        while True:
            ready = wait(
                [requests, self._woken, *(supervisor.channel for supervisor in self._supervisors)]
            )
            for supervisor in [c for c in self._supervisors if c.channel in ready]:
                self._take_answer(supervisor)
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if requests in ready:
                data = os.read(requests, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))
        self._end()

    def _take_signals(self) -> None:
        """Be woken by the end of a child, and by nothing else."""
        for number in (signal.SIGINT, signal.SIGTERM, _WAKE):  # supervisors get them too, and end
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (_WAKE,))
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def _start(self, request: Request) -> None:
        """Give a job to a supervisor that did the like before, else to a new one."""
        os.chdir(request["folder"])
        sentinel = Path(request["sentinel"])
        key, plan = self._plan_for(sentinel)
        self._reap()  # one may have died since, and would get the job
        busy = sum(supervisor.busy is not None for supervisor in self._supervisors)
        self._most_busy = max(self._most_busy, busy + 1)
        idle = [supervisor for supervisor in self._supervisors if supervisor.busy is None]
        supervisor = next((c for c in reversed(idle) if c.key == key), None)
        if supervisor is None:
            # Never more supervisors than there were jobs at a time: each holds what it has set up.
            while idle and len(self._supervisors) >= self._most_busy:
                self._let_go(idle.pop(0))
            supervisor = SupervisorProcess.start(key, plan, self._private())
            self._supervisors.append(supervisor)
        supervisor.do(request)

    def _private(self) -> list[Connection | int]:
        """Return what supervisors must not keep: who reads these waits for their end."""
        ours = [self._answers, self._woken, self._waker]
        return [*ours, *(s.channel for s in self._supervisors)]

    def _let_go(self, supervisor: SupervisorProcess) -> None:
        self._supervisors.remove(supervisor)
        self._leaving.append(supervisor)
        supervisor.channel.close()

    def _take_answer(self, supervisor: SupervisorProcess) -> None:
        status = supervisor.answer()
        if status is not None:
            self._answer(supervisor, status)

    def _answer(self, supervisor: SupervisorProcess, status: int) -> None:
        """Pass on how a supervisor's job ended; it can do the next one."""
        number, supervisor.busy = supervisor.busy, None
        self._supervisors.remove(supervisor)
        self._supervisors.append(supervisor)
        os.write(self._answers, json.dumps({"number": number, "status": status}).encode() + b"\n")

    def _reap(self) -> None:
        """Notice supervisors that have ended."""
        while self._supervisors or self._leaving:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._leaving = [c for c in self._leaving if c.pid != pid]
            for supervisor in [c for c in self._supervisors if c.pid == pid]:
                self._take_answer(supervisor)
                if supervisor.busy is not None:
                    self._answer(supervisor, os.waitstatus_to_exitcode(status) or 1)
                self._supervisors.remove(supervisor)
                supervisor.channel.close()

    def _end(self) -> None:
        """Stop jobs that still run, let supervisors close what they have set up."""
        for supervisor in list(self._supervisors):
            if supervisor.busy is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(supervisor.pid, signal.SIGTERM)
            self._let_go(supervisor)
        give_up = time.monotonic() + _SUPERVISOR_SECONDS
        for supervisor in self._leaving:
            supervisor.child.end(patience=give_up - time.monotonic())

    def _plan_for(self, sentinel: Path) -> tuple[object, Plan | None]:
        """Return what a supervisor for a job has to be good for, and the plan, read once.

        There is no plan if it cannot be read; the job will say why.
        """
        try:
            root = find_run_directory(sentinel)
            facts = os.stat(root / "plan.json")
            version = (facts.st_mtime_ns, facts.st_ino)
            name = str(root.absolute())
            if name not in self._plans or self._plans[name][0] != version:
                plan = Plan.load(root)
                _warm_up(plan, root)
                self._take_signals()  # modules may have handlers of their own
                self._plans[name] = version, plan
            task = sentinel.relative_to(root).parts[0]
            return (name, version, task), self._plans[name][1]
        except BlocksError:
            return None, None


def _warm_up(plan: Plan, root: Path) -> None:
    """Import what the plan's jobs will import, unless that makes this process unfit to fork.

    What fails here fails in the job, with a log.
    """
    importlib.import_module("numpy")
    if any(task.operation.reads or task.operation.writes for task in plan.tasks.values()):
        importlib.import_module("zarr")
    references = [f for task in plan.tasks.values() for f in task.operation.functions.values()]
    with importable_from(plan.folder(root)):
        wanted = _tried(references, RunPaths(root).functions)
        threads = count_threads()
        for one in wanted:
            perform(one)
    if count_threads() > threads:
        raise SystemExit("modules start threads, now and then: jobs begin anew")


def _tried(references: Sequence[FunctionRef], functions: Path) -> list[Import]:
    """Return what importing and calling functions will import, if one can fork after that.

    It is tried out in another process, which may hang, crash or end as it likes.
    """
    give_up = time.monotonic() + _IMPORT_SECONDS
    child = Child.fork(partial(_try_importing, references, functions), leads=True)
    told = b""
    with contextlib.suppress(EOFError, OSError):
        if child.channel.poll(_IMPORT_SECONDS):
            told = child.channel.recv_bytes()
    if child.end(patience=give_up - time.monotonic()) != _FIT:
        return []
    return [Import(module, tuple(names)) for module, names in json.loads(told)]


def _try_importing(references: Sequence[FunctionRef], functions: Path, channel: Connection) -> int:
    """Tell what could be imported, and end with status _FIT if one can fork after that."""
    for number in (signal.SIGINT, signal.SIGTERM, _WAKE):
        signal.signal(number, signal.SIG_DFL)
    silence()
    threads, wanted = count_threads(), list[Import]()
    for ref in references:
        with contextlib.suppress(Exception):  # the job will say so
            wanted += [Import(name) for name in sorted(modules_of(ref, functions))]
            wanted += imports_of(load(ref, functions))
    done = [one for one in dict.fromkeys(wanted) if perform(one)]
    if count_threads() > threads or not _can_fork():
        return 1
    channel.send_bytes(json.dumps(done).encode())
    return _FIT


def _can_fork() -> bool:
    """Tell whether a fork of this process lives; modules may have it do there what ends it."""
    return Child.fork(lambda _: _FIT).end(patience=_FORK_SECONDS) == _FIT


if __name__ == "__main__":
    serve()
