"""The fault table: what goes wrong, and what is promised then.

| fault | where it is shown |
|---|---|
| segfault, abort, SIGKILL, OOM, `sys.exit`, endless loop in C | test_pool.py `TestFaults` |
| the whole job killed, again and again | test_jobs.py `TestBudgets` |
| disk full, read-only run directory | test_jobs.py `TestDisk`; here, for `run` |
| SIGTERM, Ctrl-C, `stop`, walltime, dead Snakemake | test_jobs.py `TestStopping`; here, for `run` |
| ledger truncated at every byte, noise, torn | test_ledger.py, test_jobs.py, test_moving.py |
| sentinel damaged, lost, or of another plan | test_moving.py `TestSettling`, test_jobs.py |
| clock going backwards | test_pool.py |
| lost output chunk | test_verify.py |
| `generate` killed before every change of a file | test_moving.py `TestKilled` |
| locks of the dead, here and on other hosts | test_locks.py, test_jobs.py `TestLocks` |
| crashes under either executor | here, `TestCrashes` |
| anything at any time | kill_test.py, with both executors; here, `test_random_kills` |

Here are those that need a real Snakemake.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_test import KillTest
from project import BIN, Project, stamps

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event
from snakemake_blocks.system.locks import holder_of
from snakemake_blocks.system.processes import process_start

pytestmark = pytest.mark.e2e

ROOT = Path("blocks")
MARK = "BLOCKS_FAULT_TEST"


@pytest.fixture
def slow(project: Project) -> Iterator[Project]:
    """Return a task of 12 blocks, each of which takes as long as a file says."""
    project.functions(
        """
        import os, time
        def f(block):
            with open("calls.txt", "a") as file:
                file.write(f"{block.index[0]} {os.getpid()}\\n")
            time.sleep(float(open("seconds.txt").read()))
        """
    )
    task = {
        "function": "functions:f",
        "roi": {"offset": [0], "shape": [120]},
        "block_size": [10],
        "conflict": False,
        "blocks_per_job": 3,
        "retries": 0,
    }
    project.write(("task", task))
    speed(project, 0.3)
    yield project


def speed(project: Project, seconds: float) -> None:
    (project.folder / "seconds.txt").write_text(str(seconds))


def calls(project: Project) -> list[list[str]]:
    path = project.folder / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def start(project: Project, *more: str) -> subprocess.Popen[str]:
    """Start `run` as a user does at a terminal."""
    return subprocess.Popen(
        [str(BIN / "snakemake-blocks"), "run", "pipeline.yaml", "--cores", "2", *more],
        cwd=project.folder,
        env={**os.environ, MARK: str(project.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_calls(project: Project, count: int) -> None:
    give_up = time.monotonic() + 60
    while len(calls(project)) < count:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def ours(project: Project) -> list[int]:
    """Return the living processes that `run` started, directly or not, and itself."""
    wanted, found = f"{MARK}={project.folder}".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", name, "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and process_start(int(name)) is not None:
            found.append(int(name))
    return found


def snakemake_of(project: Project) -> int:
    for pid in ours(project):
        if b"be_snakemake" in Path("/proc", str(pid), "cmdline").read_bytes():
            return pid
    raise AssertionError("there is no Snakemake")


def done(project: Project) -> dict[tuple[int, ...], int]:
    return stamps(project.records("task"))


def finish(project: Project, before: dict[tuple[int, ...], int]) -> None:
    """Run to the end; what was done is not done again, and the rest is."""
    speed(project, 0)
    run = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    after = done(project)
    assert len(after) == 12 and before.items() <= after.items()
    assert project.blocks("verify").returncode == 0


class TestEnds:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("executor", ["blocks", "local"])
    def test_of_run_by_a_signal(self, slow: Project, number: signal.Signals, executor: str) -> None:
        """130, at once or within the grace; nothing is left; the next run goes on."""
        run = start(slow, "--", "--executor", executor)
        wait_for_calls(slow, 4)
        before = done(slow)
        assert before
        if number is signal.SIGINT:
            speed(slow, 600)
            wait_for_calls(slow, 6)
            os.killpg(run.pid, number)
        else:
            run.send_signal(number)
        out, _ = run.communicate(timeout=25)
        assert run.returncode == 130, out
        assert "interrupted; what is done is recorded, and the same command goes on" in out
        assert ours(slow) == []
        assert holder_of(RunPaths(ROOT).lock) is None
        finish(slow, before)

    def test_of_run_by_stop(self, slow: Project) -> None:
        speed(slow, 1.5)
        run = start(slow)
        wait_for_calls(slow, 2)
        assert "running blocks finish" in slow.blocks("stop", "blocks").stdout
        out, _ = run.communicate(timeout=30)
        assert run.returncode == 130, out
        assert ours(slow) == []
        begun = len(calls(slow))
        assert begun < 12 and len(done(slow)) == begun
        finish(slow, done(slow))
        assert len(calls(slow)) == 12

    @pytest.mark.parametrize("executor", ["blocks", "local"])
    @pytest.mark.parametrize("victim", ["run", "snakemake"])
    def test_of_a_kill(self, slow: Project, victim: str, executor: str) -> None:
        """Nothing can be passed on, and still nothing is left, nor in the way of the next run."""
        run = start(slow, "--", "--executor", executor)
        wait_for_calls(slow, 4)
        before = done(slow)
        os.kill(run.pid if victim == "run" else snakemake_of(slow), signal.SIGKILL)
        run.communicate(timeout=25)
        give_up = time.monotonic() + 10
        while ours(slow):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        finish(slow, before)

    def test_the_next_run_waits_for_those_of_the_last(self, slow: Project) -> None:
        """Right after a kill the jobs of the killed run are still there, for a moment."""
        run = start(slow)
        wait_for_calls(slow, 4)
        before = done(slow)
        run.kill()
        finish(slow, before)
        run.communicate(timeout=25)
        assert ours(slow) == []


class TestCrashes:
    @pytest.mark.parametrize("executor", ["blocks", "local"])
    def test_cost_one_attempt_each(self, project: Project, executor: str) -> None:
        project.functions(
            """
            import ctypes, os, re, signal, sys

            ENDS = [
                lambda: ctypes.string_at(0),
                lambda: sys.exit(0),
                lambda: os._exit(0),
                lambda: os.kill(os.getpid(), signal.SIGKILL),
                lambda: re.match("(a+)+$", "a" * 60 + "b"),  # years, without a line of Python
                lambda: None,
            ]

            def f(block):
                first = not os.path.exists(f"tried-{block.index[0]}")
                open(f"tried-{block.index[0]}", "a").write("x")
                if first:
                    ENDS[block.index[0]]()
            """
        )
        task = {
            "function": "functions:f",
            "roi": {"offset": [0], "shape": [60]},
            "block_size": [10],
            "conflict": False,
            "blocks_per_job": 3,
            "retries": 1,
            "timeout": 2,
        }
        project.write(("task", task))
        run = project.blocks("run", "pipeline.yaml", "--cores", "2", "--", "--executor", executor)
        assert run.returncode == 0, run.stdout + run.stderr
        tried = [(project.folder / f"tried-{k}").read_text() for k in range(6)]
        assert tried == ["xx"] * 5 + ["x"]
        assert len(project.records("task", Event.FAILED)) == 5


class TestTwice:
    def test_a_second_run_is_refused(self, slow: Project) -> None:
        speed(slow, 600)
        run = start(slow)
        wait_for_calls(slow, 2)
        for verb in (["run", "pipeline.yaml"], ["generate", "pipeline.yaml"],
                     ["reset", "blocks", "task"]):  # fmt: skip
            second = slow.blocks(*verb)
            assert second.returncode == 2
            words = f"run directory blocks: is held by process {run.pid} on {os.uname().nodename}"
            assert words in second.stderr.replace(str(slow.folder) + "/", "")
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=25)

    def test_beside_a_plain_snakemake(self, slow: Project) -> None:
        """Which holds no lock of ours; its jobs do."""
        assert slow.blocks("generate", "pipeline.yaml").returncode == 0
        speed(slow, 3)
        plain = subprocess.Popen(
            [str(BIN / "snakemake"), "--cores", "2"],
            cwd=slow.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_calls(slow, 2)
        second = slow.blocks("run", "pipeline.yaml")
        assert second.returncode == 2
        assert "is run by process" in second.stderr
        speed(slow, 0)
        assert plain.wait(timeout=60) == 0

    def test_workers_by_hand_beside_it(self, slow: Project) -> None:
        run = start(slow)
        wait_for_calls(slow, 2)
        hand = subprocess.Popen(
            [str(BIN / "snakemake-blocks"), "work", "blocks/task"], cwd=slow.folder
        )
        out, _ = run.communicate(timeout=60)
        assert run.returncode == 0, out
        assert hand.wait(timeout=60) == 0
        assert sorted(int(block) for block, _ in calls(slow)) == list(range(12))
        assert slow.blocks("verify").returncode == 0


class TestBookkeeping:
    def test_a_kill_between_sentinel_and_snakemakes_note(self, slow: Project) -> None:
        """The worker's last act is the sentinel; Snakemake is gone before it could note that."""
        speed(slow, 0)
        slow.functions(
            """
            import os, signal, time
            def f(block):
                if block.index[0] == 2 and not os.path.exists("killed"):
                    if os.fork() == 0:
                        # Outlives the job: kills Snakemake as soon as the sentinel is there.
                        os.setsid()
                        open("killed", "w").close()
                        while not os.path.exists("blocks/task/p0/0/0.json"):
                            time.sleep(0.0005)
                        pid = os.environ["SNAKEMAKE_BLOCKS_CONDUCTOR"].partition(":")[0]
                        os.kill(int(pid), signal.SIGKILL)
                        open("struck", "w").close()
                        os._exit(0)
                    while not os.path.exists("killed"):
                        time.sleep(0.001)  # before, it would end with the worker's group
                if block.index[0] > 2 and os.path.exists("killed"):
                    while not os.path.exists("struck"):
                        time.sleep(0.01)  # Snakemake does not end before it is killed
            """
        )
        assert slow.blocks("generate", "pipeline.yaml").returncode == 0
        killed = slow.snakemake("--cores", "1")
        assert killed.returncode == -signal.SIGKILL
        time.sleep(1)
        before = done(slow)
        assert {(0,), (1,), (2,)} <= before.keys()
        shutil.rmtree(slow.folder / ".snakemake" / "locks")
        finish(slow, before)

    def test_a_lost_sentinel_below_a_present_done(self, slow: Project) -> None:
        speed(slow, 0)
        finish(slow, {})
        before = done(slow)
        sentinel = RunPaths(ROOT).sentinel("task", 0, (1,))
        content = sentinel.read_bytes()
        sentinel.unlink()
        found = slow.snakemake("--snakefile", "blocks/Snakefile", "--cores", "1")
        assert "Nothing to be done" in found.stderr
        assert slow.blocks("verify").returncode == 1
        finish(slow, before)
        assert sentinel.read_bytes() == content

    def test_a_lost_ledger_below_a_present_done(self, slow: Project) -> None:
        speed(slow, 0)
        finish(slow, {})
        before = done(slow)
        RunPaths(ROOT).ledger("task", (1,)).write_bytes(os.urandom(3000))
        finish(slow, {k: s for k, s in before.items() if k[0] not in (3, 4, 5)})
        assert len(calls(slow)) == 15


class TestBatches:
    def test_changed_in_the_middle_of_a_run(self, project: Project) -> None:
        """1 to [4, 4] and back, each after a Ctrl-C; nothing that is done is repeated."""
        project.functions(
            """
            import time
            def f(block):
                with open("calls.txt", "a") as file: file.write(f"{block.index} 0\\n")
                time.sleep(float(open("seconds.txt").read()))
            """
        )

        def write(batch: Any) -> None:
            task = {
                "function": "functions:f",
                "roi": {"offset": [0, 0], "shape": [80, 80]},
                "block_size": [10, 10],
                "context": 5,
                "blocks_per_job": batch,
            }
            project.write(("task", task))

        count = 0
        for batch in (1, [4, 4], 1):
            write(batch)
            speed(project, 0.2)
            run = start(project)
            wait_for_calls(project, count + 6)
            run.send_signal(signal.SIGTERM)
            run.communicate(timeout=30)
            count = len(calls(project))
            assert len(done(project)) == count < 64
        speed(project, 0)
        write([4, 4])
        assert project.blocks("run", "pipeline.yaml", "--cores", "2").returncode == 0
        assert len(calls(project)) == len(set(map(tuple, calls(project)))) == 64


class TestSetUp:
    def test_is_paid_once_per_worker(self, project: Project) -> None:
        """200 blocks, `max_workers: 2`, `blocks_per_job: auto`: two set-ups."""
        project.functions(
            """
            import os, time
            class Model:
                def __init__(self):
                    time.sleep(0.5)
                    with open("built.txt", "a") as file: file.write(f"{os.getpid()}\\n")
                def __call__(self, block): pass
            """
        )
        task = {
            "function": "functions:Model",
            "roi": {"offset": [0, 0], "shape": [200, 100]},
            "block_size": [10, 10],
            "conflict": False,
            "max_workers": 2,
            "blocks_per_job": "auto",
        }
        project.write(("task", task))
        run = project.blocks("run", "pipeline.yaml", "--cores", "2")
        assert run.returncode == 0, run.stdout + run.stderr
        assert len((project.folder / "built.txt").read_text().split()) == 2
        assert Plan.load(ROOT).tasks["task"].num_blocks == 200


class TestDisk:
    def test_a_read_only_run_directory(self, slow: Project) -> None:
        ROOT.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(ROOT)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
        try:
            run = slow.blocks("run", "pipeline.yaml")
            assert run.returncode == 2
            assert "cannot be written (Read-only file system)" in run.stderr
            assert "Traceback" not in run.stderr
        finally:
            subprocess.run(["umount", "-l", str(ROOT)], check=True)

    def test_a_full_one(self, slow: Project) -> None:
        """The run says so and fails; with room again the next one goes on."""
        speed(slow, 0)
        ROOT.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(ROOT)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"cannot mount a file system: {mounted.stderr.decode().strip()}")
        try:
            assert slow.blocks("generate", "pipeline.yaml").returncode == 0
            with pytest.raises(OSError), open(ROOT / "filler", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(512))
            run = slow.blocks("run", "pipeline.yaml", "--cores", "2")
            assert run.returncode in (1, 2)
            assert "No space left on device" in run.stdout + run.stderr
            before = done(slow)
            (ROOT / "filler").unlink()
            finish(slow, before)
        finally:
            subprocess.run(["umount", "-l", str(ROOT)], check=True)


@pytest.mark.parametrize("executor", ["blocks", "local"])
def test_random_kills(tmp_path: Path, executor: str) -> None:
    """The full test is a command, see kill_test.py; this is a taste of it."""
    test = KillTest(tmp_path / "chain", seed=3, seconds=0.02, executors=(executor,))
    test.go(4)
    assert test.kills.total() >= 4 and test.chains >= 1
