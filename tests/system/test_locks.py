from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from faults import hurry

from snakemake_blocks.errors import BusyError, InputError, LedgerError
from snakemake_blocks.state.moving import refuse_running
from snakemake_blocks.system import locks
from snakemake_blocks.system.locks import Holder, Lock, Watch, held, holder_of, is_alive
from snakemake_blocks.system.processes import process_host


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "run.json"


def me() -> Holder:
    return Holder.this_process({})


def write(path: Path, holder: Holder) -> Path:
    """Put somebody else's lock there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(Lock(path, holder)._content())
    return path


def dead() -> Holder:
    """Return the holder that a process which ended was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(me(), pid=process.pid)


def elsewhere() -> Holder:
    return replace(me(), host="node7/boot/pid:[1]", pid=17, scheduler_id="4711")


class TestHolding:
    def test_take_renew_release(self, path: Path) -> None:
        lock = Lock(path, me())
        lock.acquire()
        assert holder_of(path) == lock.holder
        for count in (1, 2, 3):
            lock.renew()
            assert holder_of(path) == replace(lock.holder, counter=count)
        lock.release()
        assert not path.exists()
        assert list(path.parent.iterdir()) == []

    def test_only_one_holds_it(self, path: Path) -> None:
        with held(path, {}), pytest.raises(BusyError) as error:
            Lock(path, me()).acquire(what="run directory blocks")
        assert str(error.value) == (
            f"run directory blocks: is held by process {os.getpid()} on {os.uname().nodename}"
        )

    def test_the_scheduler_job_is_named(self, path: Path) -> None:
        with held(path, {"LSB_JOBID": "99"}), pytest.raises(BusyError, match="scheduler job 99"):
            Lock(path, me()).acquire()

    def test_patience(self, path: Path) -> None:
        first = Lock(path, me())
        first.acquire()
        threading.Timer(0.2, first.release).start()
        began = time.monotonic()
        Lock(path, me()).acquire(patience=30)
        assert 0.1 < time.monotonic() - began < 20

    def test_a_reason_to_wait_no_longer(self, path: Path) -> None:
        with held(path, {}), pytest.raises(BusyError, match=r"held by .*; told to stop"):
            Lock(path, me()).acquire(patience=float("inf"), stop=lambda: "told to stop")

    def test_held_renews(self, path: Path) -> None:
        with held(path, {}):
            time.sleep(0.3)
            found = holder_of(path)
            assert found is not None and found.counter > 1
        assert not path.exists()

    def test_who_lost_it_notices(self, path: Path) -> None:
        lock = Lock(path, me())
        lock.acquire()
        lock.verify()
        other = Holder.this_process({})
        write(path, other)
        for check in (lock.verify, lock.renew):
            with pytest.raises(LedgerError, match=f"taken over by {other}; this process stops"):
                check()
        lock.release()
        assert holder_of(path) == other

    def test_who_lost_it_to_nobody_notices(self, path: Path) -> None:
        lock = Lock(path, me())
        lock.acquire()
        path.unlink()
        with pytest.raises(LedgerError, match="was taken away; this process stops"):
            lock.verify()

    def test_renewing_cannot_take_it_back(self, path: Path) -> None:
        """The counter is written into the file that was made, wherever that is by now."""
        lock = Lock(path, me())
        lock.acquire()
        path.rename(path.with_name("away"))
        other = elsewhere()
        write(path, other)
        os.pwrite(lock._handle, b"9", 0)
        assert holder_of(path) == other

    def test_a_run_that_lost_its_lock_gets_sigterm(self, path: Path) -> None:
        got: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
        try:
            with held(path, {}):
                write(path, elsewhere())
                give_up = time.monotonic() + 60
                while not got and time.monotonic() < give_up:
                    time.sleep(0.01)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert got == [signal.SIGTERM]


class TestLease:
    @pytest.fixture(autouse=True)
    def _lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hurry(monkeypatch, lease=1.0, standstill=1e6)

    def test_a_lock_not_renewed_is_not_trusted(self, path: Path) -> None:
        lock = Lock(path, me())
        lock.acquire()
        assert lock.lease.is_fresh
        time.sleep(1.1)
        assert not lock.lease.is_fresh
        lock.renew()
        assert lock.lease.is_fresh

    def test_forked_processes_see_it(self, path: Path) -> None:
        lock = Lock(path, me())
        lock.acquire()
        ours, theirs = multiprocessing.Pipe()
        pid = os.fork()
        if pid == 0:
            theirs.recv()
            theirs.send(lock.lease.is_fresh)
            os._exit(0)
        time.sleep(1.1)
        lock.renew()
        ours.send(None)
        assert ours.recv() is True
        os.waitpid(pid, 0)

    def test_what_cannot_be_renewed_runs_out(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock = Lock(path, me())
        lock.acquire()
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        time.sleep(1.1)
        lock.renew()
        assert not lock.lease.is_fresh
        assert "cannot be renewed" in capsys.readouterr().out


class TestTakingOver:
    def test_from_a_dead_process_of_this_host(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, standstill=1e6)
        gone = dead()
        write(path, gone)
        lock = Lock(path, me())
        lock.acquire()
        assert lock.taken_over_from == gone
        assert holder_of(path) == lock.holder
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_a_pid_that_was_reused_is_another_process(self, path: Path) -> None:
        gone = replace(me(), start=me().start - 1)
        write(path, gone)
        lock = Lock(path, me())
        lock.acquire()
        assert lock.taken_over_from == gone
        assert holder_of(path) == lock.holder

    def test_a_zombie_is_dead(self, path: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])
        start = locks.process_start(process.pid) or 0
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        gone = replace(me(), pid=process.pid, start=start)
        write(path, gone)
        lock = Lock(path, me())
        lock.acquire()
        process.wait()
        assert lock.taken_over_from == gone
        assert holder_of(path) == lock.holder

    def test_a_living_process_is_never_robbed(self, path: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            os.kill(process.pid, signal.SIGSTOP)
            start = locks.process_start(process.pid) or 0
            write(path, replace(me(), pid=process.pid, start=start))
            with pytest.raises(BusyError):
                Lock(path, me()).acquire(patience=1.0)
        finally:
            process.kill()
            process.communicate()

    def test_from_another_host_when_its_counter_stands_still(self, path: Path) -> None:
        other = elsewhere()
        write(path, other)
        lock = Lock(path, me())
        began = time.monotonic()
        lock.acquire()
        assert time.monotonic() - began >= 0.6
        assert lock.taken_over_from == other

    def test_not_from_another_host_while_its_counter_moves(self, path: Path) -> None:
        other = elsewhere()
        write(path, other)
        ended = threading.Event()

        def renew() -> None:
            lock = Lock(path, other)
            while not ended.wait(0.05):
                lock._counter += 1
                with path.open("r+b") as file:
                    file.seek(len(lock._content()) - 20)
                    file.write(lock._digits())

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            with pytest.raises(BusyError, match="process 17 on node7, scheduler job 4711"):
                Lock(path, me()).acquire(patience=1.0)
        finally:
            ended.set()
            thread.join()
        assert holder_of(path) is not None

    def test_clocks_of_files_say_nothing(self, path: Path) -> None:
        """A lock from last year, or from next year, is watched like any other."""
        for mtime in (0, time.time() + 10**8):
            write(path, elsewhere())
            os.utime(path, (mtime, mtime))
            began = time.monotonic()
            lock = Lock(path, me())
            lock.acquire()
            assert time.monotonic() - began >= 0.6
            lock.release()

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"{", b"[]\n1", b'{"host": 3}\n1', b"\x00" * 300, b"null\n0"]
    )
    def test_a_damaged_file_holds_for_a_while(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        assert holder_of(path) is None
        lock = Lock(path, me())
        began = time.monotonic()
        lock.acquire()
        assert time.monotonic() - began >= 0.6
        lock.verify()

    def test_a_try_without_waiting_remembers_what_it_saw(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, standstill=1e6)
        write(path, elsewhere())
        lock, watch = Lock(path, me()), Watch()
        for _ in range(3):
            with pytest.raises(BusyError):
                lock.acquire(watch=watch)
        hurry(monkeypatch, standstill=0.01)
        time.sleep(0.02)
        lock.acquire(watch=watch)

    def test_a_crashed_takeover_is_taken_over(self, path: Path) -> None:
        guard = path.with_name(f"{path.name}.takeover")
        for stale in (dead(), elsewhere()):
            write(path, dead())
            write(guard, stale)
            lock = Lock(path, me())
            lock.acquire(patience=5)
            assert not guard.exists()
            lock.release()

    def test_of_many_observers_one_gets_it(self, path: Path, tmp_path: Path) -> None:
        write(path, dead())
        inside, most, count = [0], [0], [0]
        guard = threading.Lock()

        def work() -> None:
            for _ in range(3):
                lock = Lock(path, me())
                lock.acquire(patience=60)
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    count[0] += 1
                time.sleep(0.002)
                with guard:
                    inside[0] -= 1
                lock.release()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most[0], count[0]) == (1, 24)


class TestFiles:
    def test_a_file_system_without_links(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        with held(path, {}) as lock:
            assert holder_of(path) == lock.holder
            with pytest.raises(BusyError):
                Lock(path, me()).acquire()

    def test_what_cannot_be_written_is_said(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path.parent.parent.joinpath("locks").touch()
        with pytest.raises(LedgerError, match=r"cannot be written \(.*\); the run directory has"):
            Lock(path, me()).acquire()

    def test_who_it_is(self) -> None:
        assert me().host == process_host()
        assert is_alive(me()) is True
        assert is_alive(dead()) is False
        assert is_alive(elsewhere()) is None

    def test_a_file_of_a_later_version_is_no_reason_to_fail(self, path: Path) -> None:
        data = {name: getattr(me(), name) for name in Holder.__slots__ if name != "counter"}
        path.parent.mkdir()
        path.write_bytes(json.dumps({**data, "more": 1}).encode() + b"\n1")
        assert holder_of(path) is None


def test_two_processes_never_hold_it_at_once(path: Path) -> None:
    """Every process adds a line while it holds the lock, and reads what is there."""
    code = f"""
import sys, time, pathlib
from snakemake_blocks.system import locks
locks.TIMING.poll = 0.005
path, shared = pathlib.Path({str(path)!r}), pathlib.Path({str(path.parent / "shared")!r})
for _ in range(15):
    with locks.held(path, {{}}, patience=60):
        n = int(shared.read_text()) if shared.exists() else 0
        time.sleep(0.001)
        shared.write_text(str(n + 1))
"""
    path.parent.mkdir()
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (path.parent / "shared").read_text() == "45"


# faults: kind 12
@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", ["empty", "text", "list", "huge", "folder", "pipe"])
def test_what_is_no_lock_is_refused_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    hurry(monkeypatch, unreadable=0.1, standstill=60.0)
    path = tmp_path / "blocks" / "task" / "ledger" / "0" / "0.lock"
    path.parent.mkdir(parents=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(
            {"empty": b"", "text": b"x", "list": b"[]\n1", "huge": b"0" * 10**6}[damage]
        )
    words = rf"{re.escape(str(path))}: is no lock; if nothing runs here, remove it"
    with pytest.raises(InputError, match=words), held(path, {}):
        pass
    with pytest.raises(InputError, match=words):
        refuse_running(tmp_path / "blocks")
