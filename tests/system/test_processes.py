from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from snakemake_blocks.system import processes
from snakemake_blocks.system.processes import (
    MARK,
    boot_clock,
    end_marked,
    end_tree,
    group_lives,
    how_it_ended,
    process_start,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_who_is_alive() -> None:
    assert process_start(os.getpid())
    process = subprocess.Popen(SLEEP)
    assert (process_start(process.pid) or 0) >= (process_start(os.getpid()) or 0)
    process.kill()
    process.wait()
    assert process_start(process.pid) is None


def test_a_name_with_brackets_confuses_nobody() -> None:
    code = "import ctypes, time; ctypes.CDLL(None).prctl(15, b'a) Z (b'); print(flush=True); "
    process = subprocess.Popen(
        [sys.executable, "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    assert process_start(process.pid) is not None
    process.kill()
    process.communicate()


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes._start_without_proc(os.getpid()) == 0
    process = subprocess.Popen(SLEEP)
    process.kill()
    process.wait()
    assert processes._start_without_proc(process.pid) is None


def test_a_group_ends_with_its_leader() -> None:
    code = f"import subprocess; subprocess.run({SLEEP!r})"
    process = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    time.sleep(0.2)
    assert group_lives(process.pid)
    end_tree(process.pid)
    process.wait()
    for _ in range(200):
        if not group_lives(process.pid):
            break
        time.sleep(0.01)
    assert not group_lives(process.pid)
    end_tree(process.pid)


def test_marked_programs_are_ended_wherever_they_are() -> None:
    environment = {**os.environ, MARK: "token-of-a-test.17"}
    marked = subprocess.Popen(SLEEP, env=environment, start_new_session=True)
    other = subprocess.Popen(SLEEP, env={**os.environ, MARK: "token-of-another.17"})
    time.sleep(0.1)
    assert end_marked("token-of-a-test.") == 1
    assert marked.wait() == -signal.SIGKILL
    assert other.poll() is None
    other.kill()
    other.wait()
    assert end_marked("token-of-a-test.") == 0


def test_die_with_parent() -> None:
    inner = (
        "import os, time; from snakemake_blocks.system.processes import die_with_parent; "
        "die_with_parent(os.getppid()); print(os.getpid(), flush=True); time.sleep(60)"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    for _ in range(200):
        if process_start(child) is None:
            return
        time.sleep(0.01)
    raise AssertionError("it lives on")


def test_the_boot_clock_goes_on() -> None:
    before = boot_clock()
    time.sleep(0.01)
    assert boot_clock() > before


@pytest.mark.parametrize(
    "code, text",
    [
        (0, "ended with exit status 0"),
        (3, "ended with exit status 3"),
        (-11, "was killed by SIGSEGV"),
        (-9, "was killed by SIGKILL (out of memory?)"),
        (-199, "was killed by signal 199"),
    ],
)
def test_words(code: int, text: str) -> None:
    assert how_it_ended(code) == text
