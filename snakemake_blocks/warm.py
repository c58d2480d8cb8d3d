"""Warm jobs: a process that holds plan, numpy and the user's modules, and forks per job.

Starting Python and its imports costs half a second per job, a fork a few milliseconds. The host
is a process of its own, because the one that Snakemake runs in has threads and must not fork.
It reads requests from its standard input and answers on its standard output; when the input
ends, its Snakemake is gone and it stops its jobs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from snakemake_blocks.errors import BlocksError
from snakemake_blocks.functions import importable_from
from snakemake_blocks.jobs import work_sentinel
from snakemake_blocks.paths import find_run_directory
from snakemake_blocks.plan import Plan

__all__ = ["WarmHost", "serve"]

_WAKE = signal.SIGCHLD


@dataclass(slots=True)
class WarmHost:
    """Snakemake's side of a host process.

    Parameters
    ----------
    process : Popen
        The host, with pipes to its standard input and output.
    """

    process: Popen[bytes]
    _waiting: dict[int, Future[int]] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()

    def run(self, sentinel: str, *, attempt: int, log: str, folder: str) -> int:
        """Run one job and return its exit status; waits.

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
        request = {
            "number": number,
            "sentinel": sentinel,
            "attempt": attempt,
            "log": log,
            "folder": folder,
        }
        self._send(request)
        return future.result()

    def close(self) -> None:
        """Let the host end once its jobs have."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        with self._lock:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def _receive(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["number"])
            future.set_result(answer["status"])
        with self._lock:
            lost = list(self._waiting.values())
            self._waiting.clear()
        for future in lost:
            future.set_exception(BlocksError("the process that runs the jobs has died"))


def serve() -> None:
    """Be a host: fork a job per request until the input ends."""
    _Host().run()


class _Host:
    """The host process."""

    def __init__(self) -> None:
        self._plans: dict[str, tuple[tuple[int, int], Plan]] = {}
        self._jobs: dict[int, int] = {}
        self._answers = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Answer requests until the input ends, then stop what still runs."""
        signal.signal(signal.SIGINT, lambda *_: None)  # jobs get it too, and end
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(_WAKE, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        rest = b""
        source = sys.stdin.fileno()
        while True:
            ready, _, _ = select.select([source, self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if source in ready:
                data = os.read(source, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._start(json.loads(line))
        for pid in self._jobs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while self._jobs:
            pid, _ = os.wait()
            self._jobs.pop(pid, None)

    def _start(self, request: dict[str, Any]) -> None:
        os.chdir(request["folder"])
        plan = self._plan_for(Path(request["sentinel"]))
        pid = os.fork()
        if pid == 0:
            _be_job(request, plan)
        self._jobs[pid] = request["number"]

    def _plan_for(self, sentinel: Path) -> Plan | None:
        """Return the plan, read once; None if it cannot be read (the job will say why)."""
        try:
            root = find_run_directory(sentinel)
            facts = os.stat(root / "plan.json")
            key = (facts.st_mtime_ns, facts.st_ino)
            name = str(root.absolute())
            if name not in self._plans or self._plans[name][0] != key:
                plan = Plan.load(root)
                _warm_up(plan, root)
                self._plans[name] = key, plan
            return self._plans[name][1]
        except BlocksError:
            return None

    def _reap(self) -> None:
        while self._jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._jobs.pop(pid, None)
            if number is not None:
                answer = {"number": number, "status": os.waitstatus_to_exitcode(status)}
                os.write(self._answers, json.dumps(answer).encode() + b"\n")


def _warm_up(plan: Plan, root: Path) -> None:
    """Import what the plan's jobs will import; what fails here fails in the job, with a log."""
    modules = {"numpy"}
    for task in plan.tasks.values():
        if task.reads or task.writes:
            modules.add("zarr")
        if not task.function.pickle:
            modules.add(task.function.name.partition(":")[0])
    with importable_from(root / plan.base):
        for module in sorted(modules):
            try:
                importlib.import_module(module)
            except Exception:
                traceback.print_exc(limit=1)


def _be_job(request: dict[str, Any], plan: Plan | None) -> None:
    """Run one job in this forked process; never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, _WAKE):
            signal.signal(number, signal.SIG_DFL)
        os.makedirs(os.path.dirname(request["log"]) or ".", exist_ok=True)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = work_sentinel(
            Path(request["sentinel"]),
            attempt=request["attempt"],
            environment=os.environ,
            plan=plan,
        )
    except BlocksError as error:
        print(error, file=sys.stderr)
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
