"""Leases: a supervisor that is stopped while its worker computes, and another host meanwhile.

# faults: see README.md, beside the kinds
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from faults import Scene, hurry, line
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event, first_block, read_records
from snakemake_blocks.system.child import Child
from snakemake_blocks.system.locks import TIMING, Lease, Timing
from snakemake_blocks.system.processes import boot_clock
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.fence import Fence

PATIENCE = 60.0
QUICK = Timing(standstill=4.0, lease=1.0, fence=2.5, heartbeat=0.1, poll=0.05)
SENTINEL = "blocks/compute/p0/0/0.json"
# A host of its own: nobody can look its processes up from another one.
HOST = f"""
import os, socket, sys
from pathlib import Path
from snakemake_blocks.system.locks import TIMING
from snakemake_blocks.work.job import work_sentinel

name, *timing = sys.argv[1:]
socket.gethostname = lambda: name
for field, seconds in zip(("standstill", "lease", "fence", "heartbeat", "poll"), timing):
    setattr(TIMING, field, float(seconds))
os.environ["HOST"] = name
sys.exit(work_sentinel(Path({SENTINEL!r}), attempt=1, environment=os.environ))
"""
FUNCTIONS = """
    import os, time

    def tick():
        line = f"{os.environ['HOST']} {os.getpid()} {time.clock_gettime(time.CLOCK_BOOTTIME)}\\n"
        handle = os.open("ticks.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(handle, line.encode())
        os.close(handle)

    def compute(raw):
        end = time.monotonic() + float(os.environ["SECONDS"])
        tick()
        while time.monotonic() < end:
            time.sleep(0.01)
            tick()
        return raw + len(os.environ["HOST"])
"""


@dataclass
class Hosts:
    """A pipeline of one block, and hosts that run its job."""

    project: Project
    timing: Timing

    def start(self, name: str, seconds: float) -> subprocess.Popen[bytes]:
        t = self.timing
        numbers = (t.standstill, t.lease, t.fence, t.heartbeat, t.poll)
        command = [sys.executable, "-c", HOST, name, *map(str, numbers)]
        environment = {**os.environ, "SECONDS": str(seconds)}
        with open(self.project.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                command, cwd=self.project.folder, env=environment, stdout=log, stderr=log
            )

    def ticks(self, name: str) -> list[tuple[int, float]]:
        """Return pid and time of all ticks of a host."""
        path = self.project.folder / "ticks.txt"
        lines = [x.split() for x in path.read_text().splitlines()] if path.exists() else []
        return [(int(pid), float(at)) for host, pid, at in lines if host == name]

    def events(self) -> list[Event]:
        root = self.project.folder / "blocks"
        task = Plan.load(root).tasks["compute"]
        records = read_records(RunPaths(root).ledger(task.slug, (0,)), first_block(task.own_grid))
        return [Event(int(e)) for e in records["event"]]

    def values(self) -> set[int]:
        return set(self.project.read("out.zarr/o").tolist())

    def is_proved(self) -> bool:
        root = self.project.folder / "blocks"
        return verify_run(Plan.load(root), root).missing == ()


@pytest.fixture
def project(project: Project) -> Project:
    project.functions(FUNCTIONS)
    project.array("raw.zarr/raw", np.zeros(4, np.int32))
    project.write(
        (
            "compute",
            {
                "function": "functions:compute",
                "call": "arrays",
                "reads": {"raw": "raw.zarr/raw"},
                "writes": {"o": {"array": "out.zarr/o", "dtype": "int32"}},
                "roi": "raw.zarr/raw",
                "block_size": [4],
                "conflict": False,
            },
        )
    )
    generate(project.pipeline)
    return project


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    give_up = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize(
    "timing",
    [pytest.param(QUICK, id="scaled"), pytest.param(Timing(), id="real", marks=pytest.mark.slow)],
)
def test_a_stopped_supervisor_stores_nothing_over_its_successor(
    project: Project, timing: Timing
) -> None:
    """The worker computes on; it ends before another host begins, and its result is not stored."""
    hosts, patience = Hosts(project, timing), PATIENCE + 2 * timing.standstill
    first = hosts.start("a", 4 * timing.standstill)
    until(lambda: hosts.ticks("a"))
    os.kill(first.pid, signal.SIGSTOP)
    second = hosts.start("bb", 0.1)
    assert second.wait(patience) == 0
    last, begin = hosts.ticks("a")[-1][1], hosts.ticks("bb")[0][1]
    assert last < begin, "both were at work at once"
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait(patience) != 0
    assert "taken" in (project.folder / "a.log").read_text()
    assert hosts.values() == {2} and hosts.is_proved()
    assert hosts.events() == [Event.STARTED, Event.BUDGET, Event.STARTED, Event.DONE]


def test_a_stop_that_is_short_costs_nothing(project: Project) -> None:
    """The result waits until the lock is renewed, and is stored then."""
    timing = Timing(standstill=60.0, lease=1.0, fence=45.0, heartbeat=0.1, poll=0.05)
    hosts = Hosts(project, timing)
    process = hosts.start("a", 2.0)
    until(lambda: hosts.ticks("a"))
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4.0)
    assert hosts.ticks("a")[-1][1] < boot_clock() - 1.0, "the function has returned"
    assert hosts.events() == [Event.STARTED] and hosts.values() == {0}
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(PATIENCE) == 0
    assert hosts.events() == [Event.STARTED, Event.DONE] and hosts.values() == {1}


def test_who_is_fenced_without_a_successor_goes_on(project: Project) -> None:
    """The attempt is taken back without blame, and another worker does the block."""
    timing = Timing(standstill=30.0, lease=0.5, fence=1.0, heartbeat=0.1, poll=0.05)
    hosts = Hosts(project, timing)
    process = hosts.start("a", 1.5)
    until(lambda: hosts.ticks("a"))
    os.kill(process.pid, signal.SIGSTOP)
    (worker,) = {pid for pid, _ in hosts.ticks("a")}
    until(lambda: Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z")
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(PATIENCE) == 0
    assert "the lock of its job was not renewed in time" in (project.folder / "a.log").read_text()
    done = [Event.STARTED, Event.RELEASED, Event.STARTED, Event.DONE]
    assert hosts.events() == done and hosts.values() == {1}


def sleeper() -> Child:
    def sleep(_: Connection) -> int:
        time.sleep(600)
        return 0

    return Child.fork(sleep, leads=True)


class TestFence:
    def test_ends_all_when_the_lease_is_over_and_none_before(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, fence=0.3)
        lease = Lease()
        fence, workers = Fence(lease), [sleeper() for _ in range(3)]
        for worker in workers:
            fence.add(worker.pid)
        time.sleep(0.5)
        assert not any(worker.has_ended for worker in workers), "no lock is held yet"
        lease.extend(boot_clock() + 1000)
        time.sleep(0.5)
        assert not any(worker.has_ended for worker in workers)
        lease.extend(boot_clock())
        until(lambda: all(worker.has_ended for worker in workers))
        assert [fence.remove(worker.pid) for worker in workers] == [True] * 3
        assert [worker.end(patience=1.0) for worker in workers] == [-signal.SIGKILL] * 3
        fence.close()

    def test_leaves_those_alone_that_are_watched_no_longer(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, fence=0.3)
        lease = Lease()
        fence, (one, other) = Fence(lease), (sleeper(), sleeper())
        fence.add(one.pid)
        fence.add(other.pid)
        assert fence.remove(one.pid) is False
        lease.extend(boot_clock())
        until(lambda: other.has_ended)
        assert not one.has_ended
        fence.close()
        for worker in (one, other):
            worker.end()

    def test_is_started_again_when_it_was_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hurry(monkeypatch, fence=0.3)
        lease, worker = Lease(), sleeper()
        fence = Fence(lease)
        fence.add(worker.pid)
        first = fence._child
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: first.has_ended)
        fence.start()
        lease.extend(boot_clock())
        until(lambda: worker.has_ended)
        assert fence.remove(worker.pid), "the new one has ended it"
        fence.close()
        worker.end()

    def test_is_gone_with_the_job(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        scene, before = Scene(tmp_path), children()
        scene.functions(
            """
            def look(block):
                pid = os.getppid()
                note(block, len(open(f"/proc/{pid}/task/{pid}/children").read().split()))
            """
        )
        scene.plan(line(function="functions:look", shape=(1,)))
        assert scene.run().complete
        assert int(scene.calls[0][2]) == len(before) + 2, "the worker, and who watches it"
        assert children() == before


def children() -> list[str]:
    pid = os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_times_are_in_order() -> None:
    """Workers end between the time that they trust a lock and the patience of others."""
    assert TIMING.heartbeat < TIMING.lease < TIMING.fence < TIMING.standstill
