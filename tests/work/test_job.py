from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from faults import SIZE, Scene, hurry, line

from snakemake_blocks.errors import BusyError, InputError, LedgerError
from snakemake_blocks.geometry.aggregates import FAN_IN
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.state.sentinel import read_sentinel
from snakemake_blocks.system import locks
from snakemake_blocks.system.locks import Holder, Lock, holder_of
from snakemake_blocks.system.processes import MARK, process_start
from snakemake_blocks.work import stop_reasons
from snakemake_blocks.work.job import NotReadyError, PlanChangedError, run_job, work_sentinel
from snakemake_blocks.work.stop_reasons import CONDUCTOR, conductor


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hurry(monkeypatch)
    return scene


WORK = """
import os, sys
os.chdir({folder!r})
from pathlib import Path
from snakemake_blocks.system import locks
from snakemake_blocks.work.job import work_sentinel
from snakemake_blocks.errors import BlocksError
for name, seconds in {timing!r}.items(): setattr(locks.TIMING, name, seconds)
try:
    sys.exit(work_sentinel(Path({sentinel!r}), attempt={attempt}, environment=os.environ))
except BlocksError as error:
    sys.exit(str(error))
"""


def start(scene: Scene, *, attempt: int = 1, **environment: str) -> subprocess.Popen[str]:
    """Start `work` on the first job of the task, as a rule does."""
    code = WORK.format(
        folder=str(scene.folder),
        sentinel=os.path.relpath(scene.sentinel()),
        attempt=attempt,
        timing=asdict(locks.TIMING),
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def wait_for_calls(scene: Scene, count: int) -> None:
    give_up = time.monotonic() + 60
    while len(scene.calls) < count:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


NAPS = "import time\ndef naps(block):\n    note(block)\n    time.sleep({seconds})\n"


class TestDone:
    def test_nothing_is_done_twice(self, scene: Scene) -> None:
        scene.plan(line())
        assert scene.run().complete
        stamps, content = scene.stamps(), scene.sentinel().read_bytes()
        scene.sentinel().unlink()
        assert scene.run().complete
        assert scene.run(attempt=2).complete
        assert Counter(scene.called) == {str(n): 1 for n in range(4)}
        assert (scene.stamps(), scene.sentinel().read_bytes()) == (stamps, content)

    def test_the_sentinel_comes_last(self, scene: Scene) -> None:
        scene.functions("def f(block): note(block, os.path.exists('blocks/task/p0/0/0.json'))")
        scene.plan(line(function="functions:f"))
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"False"}
        found = read_sentinel(scene.sentinel())
        assert found is not None
        assert (found.task, found.node, found.batch, found.blocks) == ("task", "0", [4], 4)

    def test_another_result_is_another_sentinel(self, scene: Scene) -> None:
        scene.plan(line())
        scene.run()
        before = scene.sentinel().read_bytes()
        reset_blocks(scene.in_place, scene.root, "task")
        assert not scene.sentinel().exists()
        scene.run()
        assert scene.sentinel().read_bytes() != before

    def test_only_what_lacks_a_record_runs(self, scene: Scene) -> None:
        scene.plan(line())
        scene.run()
        data = scene.ledger().read_bytes()
        size = len(data) // 8
        scene.ledger().write_bytes(data[: 3 * size] + bytes(size) + data[4 * size :])
        scene.run()
        assert Counter(scene.called) == {"0": 1, "1": 2, "2": 1, "3": 1}

    def test_every_truncation_of_the_ledger(self, scene: Scene) -> None:
        """What is on record stays done, what is not runs again, and nothing else happens."""
        scene.plan(line(shape=(2,)))
        scene.run()
        data = scene.ledger().read_bytes()
        size = len(data) // 4
        for length in range(0, len(data) + 1, 7):
            scene.ledger().write_bytes(data[:length])
            before = len(scene.called)
            done = [k for k in range(2) if length >= (2 * k + 2) * size]
            assert scene.run().complete
            assert scene.called[before:] == [str(k) for k in range(2) if k not in done]

    def test_a_job_whose_upstream_is_not_done_does_not_begin(self, scene: Scene) -> None:
        up, down = line("up"), None
        down = line("down", upstream_tasks=[up])
        scene.plan(up, down)
        with pytest.raises(LedgerError, match=r"block \(0,\) reads from up is not done"):
            scene.run("down")
        assert scene.calls == []

    def test_a_sentinel_is_no_proof(self, scene: Scene) -> None:
        """A file says that upstream is done; its ledger says otherwise, and is believed."""
        up = line("up")
        down = line("down", upstream_tasks=[up])
        scene.plan(up, down)
        scene.run("up")
        scene.ledger("up").unlink()
        with pytest.raises(LedgerError, match="is not done"):
            scene.run("down")

    def test_masked_jobs_and_blocks(self, scene: Scene) -> None:
        import numpy as np

        present = np.array([True, False, False, False, True, True])
        scene.plan(line(shape=(6,), present=present, blocks_per_job=2))
        assert [job.index for job in scene.in_place.jobs("task")] == [(0,), (2,)]
        assert all(result.complete for result in scene.run_all().values())
        assert scene.called == ["0", "4", "5"]


class TestBudgets:
    FAILS = "def fails(block):\n    note(block)\n    raise ValueError('no')\n"

    def test_attempts_of_snakemake_share_one(self, scene: Scene) -> None:
        scene.functions(self.FAILS)
        scene.plan(line(function="functions:fails", shape=(1,), max_retries=2))
        for attempt in (1, 2, 3):
            assert scene.run(attempt=attempt).failed == 1
        assert len(scene.calls) == 3
        assert [n for event, _, n in scene.events() if event == "STARTED"] == [1, 2, 3]

    def test_the_first_attempt_opens_a_new_one(self, scene: Scene) -> None:
        scene.functions(self.FAILS)
        scene.plan(line(function="functions:fails", shape=(1,), max_retries=1))
        for _ in range(3):
            assert scene.run().failed == 1
        assert len(scene.calls) == 6
        assert [n for event, _, n in scene.events() if event == "STARTED"] == [1, 2] * 3

    def test_a_repaired_block_runs_again_and_no_other(self, scene: Scene) -> None:
        scene.functions("def f(block):\n    note(block)\n    1 / (block.index[0] % 2)\n")
        scene.plan(line(function="functions:f"))
        assert scene.run().failed == 2
        scene.functions("def f(block): note(block)")
        assert scene.run(attempt=2).failed == 2
        assert scene.run().complete
        assert Counter(scene.called) == {"0": 2, "1": 1, "2": 2, "3": 1}

    def test_a_block_that_kills_the_job_cannot_do_so_for_ever(self, scene: Scene) -> None:
        """It takes the supervisor with it, so that nobody but its own record tells of it."""
        scene.functions(
            """
            import signal
            def kills(block):
                note(block)
                if block.index[0] == 1:
                    os.kill(os.getppid(), signal.SIGKILL)
                    os.kill(os.getpid(), signal.SIGKILL)
            """
        )
        scene.plan(line(function="functions:kills", max_retries=1))
        for attempt in (1, 2):
            process = start(scene, attempt=attempt)
            assert process.wait() == -signal.SIGKILL
            process.communicate()
        result = scene.run(attempt=3)
        assert (result.done, result.failed) == (3, 1)
        assert Counter(scene.called) == {"0": 1, "1": 2, "2": 1, "3": 1}
        (failure,) = scene.failures()
        assert failure.index == (1,)
        assert "the whole job was killed while the block ran" in failure.cause
        assert scene.events()[-1][0] == "DONE"
        assert ("FAILED", (1,), 2) in scene.events()

    def test_earlier_tracebacks_are_told_again(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scene.functions(self.FAILS)
        scene.plan(line(function="functions:fails", shape=(1,)))
        work_sentinel(scene.sentinel(), attempt=1, environment={})
        capfd.readouterr()
        assert work_sentinel(scene.sentinel(), attempt=2, environment={}) == 1
        out = capfd.readouterr().out
        assert "block (0,), attempt 1, earlier:\nTraceback" in out
        assert "task/0: 0 of 1 blocks done, 1 failed" in out


class TestStopping:
    def test_sigterm_finishes_the_block_and_the_next_attempt_goes_on(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=0.3))
        scene.plan(line(function="functions:naps", shape=(8,), workers=2))
        process = start(scene)
        wait_for_calls(scene, 3)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "stopped by SIGTERM" in out
        done = scene.judgement().done.sum()
        assert 2 <= done < 8 and done == len(scene.calls)
        stamps = scene.stamps()
        assert scene.run(attempt=2).complete
        assert len(scene.calls) == 8
        assert stamps.items() <= scene.stamps().items()

    def test_a_block_that_does_not_end_in_time_is_abandoned_without_blame(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stop_reasons, "_GRACE", 0.5)
        scene.functions(NAPS.format(seconds=600))
        scene.plan(line(function="functions:naps"))
        threading.Thread(target=lambda: (wait_for_calls(scene, 1), terminate())).start()
        began = time.monotonic()
        result = scene.run()
        assert time.monotonic() - began < 300
        assert result.interrupted and not result.by_keyboard
        assert scene.events() == [("STARTED", (0,), 1), ("RELEASED", (0,), 1)]
        assert scene.judgement().attempts.tolist() == [0] * 4
        assert scene.failures() == []

    def test_ctrl_c_is_at_once_and_130(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=600))
        scene.plan(line(function="functions:naps", workers=2))
        process = start(scene)
        wait_for_calls(scene, 2)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert all(process_start(int(call[1])) is None for call in scene.calls)

    def test_what_dies_of_the_schedulers_signal_is_not_blamed(self, scene: Scene) -> None:
        """SLURM and LSF send SIGTERM to every process of a job, also to what a block started."""
        scene.functions(
            """
            import subprocess, sys
            def runs(block):
                code = "import time; time.sleep(600)"
                child = subprocess.Popen([sys.executable, "-c", code])
                note(block, child.pid)
                if child.wait(): raise RuntimeError("my program died")
            """
        )
        scene.plan(line(function="functions:runs"))
        process = start(scene)
        wait_for_calls(scene, 1)
        for pid in (int(scene.calls[0][2]), int(scene.calls[0][1]), process.pid):
            os.kill(pid, signal.SIGTERM)
        process.communicate(timeout=60)
        events = [event for event, _, _ in scene.events()]
        assert events == ["STARTED", "RELEASED"]
        assert scene.failures() == []

    def test_stop_finishes_the_running_block(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=1))
        scene.plan(line(function="functions:naps"))
        threading.Timer(0.4, scene.paths.drain.touch).start()
        result = scene.run()
        assert result.stopped == "stopped by `snakemake-blocks stop`"
        assert (result.done, len(scene.calls)) == (1, 1)
        assert scene.run(attempt=2).done == 1
        scene.paths.drain.unlink()
        scene.functions("def naps(block): note(block)")
        assert scene.run(attempt=3).complete

    def test_timeouts_and_the_lock_are_kept_while_draining(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=600))
        scene.plan(line(function="functions:naps", timeout=1.5))
        counters: list[int] = []

        def watch() -> None:
            scene.paths.drain.touch()
            lock = scene.paths.job_lock("task", (0,))
            for _ in range(6):
                time.sleep(0.1)
                holder = holder_of(lock)
                counters.append(holder.counter if holder else -1)

        threading.Timer(0.4, watch).start()
        result = scene.run()
        assert result.failed == 1
        assert counters[-1] > counters[0] >= 0

    @pytest.mark.parametrize("name", ["SLURM_JOB_ID", "LSB_JOBID"])
    def test_the_walltime(self, scene: Scene, name: str, remote: str) -> None:
        """Of 6 s of `runtime`, nothing new begins in the second half."""
        scene.functions(NAPS.format(seconds=0.5))
        scene.plan(line(function="functions:naps", shape=(20,)))
        began = time.monotonic()
        result = scene.run(environment={name: "1", CONDUCTOR: remote}, runtime=0.1)
        assert time.monotonic() - began > 2.9
        assert result.stopped == "stopped before the walltime"
        assert result.interrupted and 0 < result.done < 7

    def test_what_would_run_into_the_walltime_is_abandoned(self, scene: Scene, remote: str) -> None:
        scene.functions(NAPS.format(seconds=600))
        scene.plan(line(function="functions:naps"))
        began = time.monotonic()
        told = {"LSB_JOBID": "1", CONDUCTOR: remote}
        assert scene.run(environment=told, runtime=0.05).interrupted
        assert time.monotonic() - began > 2.4
        assert [event for event, _, _ in scene.events()] == ["STARTED", "RELEASED"]

    def test_the_rule_hands_the_runtime_over(self, scene: Scene, remote: str) -> None:
        scene.functions(NAPS.format(seconds=1))
        scene.plan(line(function="functions:naps", shape=(9,), resources={"runtime": 0.05}))
        told = {"LSB_JOBID": "1", CONDUCTOR: remote}
        assert work_sentinel(scene.sentinel(), attempt=2, environment=told) == 1
        assert 1 <= scene.judgement().done.sum() <= 4

    def test_an_orphan_stops_by_itself(self, scene: Scene) -> None:
        """Its Snakemake is gone: nobody would know what it does."""
        scene.functions(NAPS.format(seconds=600))
        scene.plan(line(function="functions:naps"))
        snakemake = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        told = f"{snakemake.pid}:{process_start(snakemake.pid)}"
        process = start(scene, **{CONDUCTOR: told})
        wait_for_calls(scene, 1)
        assert process.poll() is None
        snakemake.kill()
        snakemake.communicate()
        out, _ = process.communicate(timeout=60)
        assert "stopped because its Snakemake process is gone" in out
        assert process_start(int(scene.calls[0][1])) is None
        assert not scene.paths.job_lock("task", (0,)).exists()

    def test_with_its_snakemake_alive_it_goes_on(self, scene: Scene) -> None:
        scene.plan(line())
        assert scene.run(environment={CONDUCTOR: conductor()}).complete


class TestLocks:
    def test_a_job_that_somebody_has_is_waited_for(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=0.2))
        scene.plan(line(function="functions:naps"))
        first, second = start(scene), start(scene)
        assert [p.wait(timeout=30) for p in (first, second)] == [0, 0]
        assert Counter(scene.called) == {str(n): 1 for n in range(4)}
        texts = first.communicate()[0] + second.communicate()[0]
        assert texts.count("4 of 4 blocks done") == 2

    def test_who_waits_can_be_stopped(self, scene: Scene) -> None:
        scene.plan(line())
        lock = Lock(scene.paths.job_lock("task", (0,)), Holder.this_process({}))
        lock.acquire()
        process = start(scene)
        assert process.stdout is not None
        assert "job task/0: is held by process" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert "job task/0: is held by process" in out and "stopped by SIGTERM" in out
        lock.release()

    def test_without_patience_it_is_refused(self, scene: Scene) -> None:
        scene.plan(line())
        held = locks.held(scene.paths.job_lock("task", (0,)), {})
        told = f"job task/0: is held by process {os.getpid()}"
        with held, pytest.raises(BusyError, match=told):
            scene.run(patience=0)

    def test_a_dead_workers_lock_is_taken_over(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=1))
        scene.plan(line(function="functions:naps"))
        process = start(scene)
        wait_for_calls(scene, 2)
        worker = int(scene.calls[1][1])
        process.kill()
        process.communicate()
        assert scene.paths.job_lock("task", (0,)).exists()
        scene.functions("def naps(block): note(block)")
        assert scene.run().complete
        assert process_start(worker) is None
        assert Counter(scene.called) == {"0": 1, "1": 2, "2": 1, "3": 1}

    def test_what_a_dead_job_left_is_ended_before_anything_begins(self, scene: Scene) -> None:
        """A program in a session of its own outlives its worker; it must not go on writing."""
        scene.functions(
            """
            import subprocess, sys, time
            def starts(block):
                code = "import time; time.sleep(600)"
                child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
                note(block, child.pid)
                time.sleep(600)
            """
        )
        scene.plan(line(function="functions:starts"))
        process = start(scene)
        wait_for_calls(scene, 1)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        child = int(scene.calls[0][2])
        assert process_start(child) is not None
        scene.functions("def starts(block): note(block)")
        assert scene.run().complete
        assert process_start(child) is None

    def test_a_job_that_was_taken_over_appends_nothing_more(self, scene: Scene) -> None:
        scene.functions(NAPS.format(seconds=1.5))
        scene.plan(line(function="functions:naps"))
        process = start(scene)
        wait_for_calls(scene, 1)
        path = scene.paths.job_lock("task", (0,))
        other = replace(Holder.this_process({}), host="node7")
        path.write_bytes(Lock(path, other)._content())
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "was taken over by process" in out
        assert scene.events() == [("STARTED", (0,), 1)]
        assert holder_of(path) == other
        assert process_start(int(scene.calls[0][1])) is None

    def test_a_worker_notices_before_its_supervisor(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hurry(monkeypatch, lease=300, heartbeat=300)
        scene.functions(
            """
            import time
            def steals(block):
                note(block)
                os.unlink("blocks/task/ledger/0/0.lock")
                time.sleep(1.1)
            """
        )
        scene.plan(line(function="functions:steals"))
        with pytest.raises(LedgerError, match="was taken away; this process stops"):
            scene.run()
        assert [event for event, _, _ in scene.events()] == ["STARTED"]

    def test_a_job_does_not_begin_while_state_is_moved(self, scene: Scene) -> None:
        scene.plan(line())
        lock = Lock(scene.paths.moving, Holder.this_process({}))
        lock.acquire()
        with pytest.raises(BusyError, match="its state is in hand of"):
            scene.run(patience=0)
        threading.Timer(0.5, lock.release).start()
        began = time.monotonic()
        assert scene.run().complete
        assert time.monotonic() - began > 0.4

    def test_a_dead_mover_holds_nobody(self, scene: Scene) -> None:
        scene.plan(line())
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        holder = replace(Holder.this_process({}), pid=gone.pid)
        scene.paths.moving.write_bytes(Lock(scene.paths.moving, holder)._content())
        assert scene.run(patience=0).complete

    def test_a_job_of_a_plan_that_was_replaced_does_not_begin(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=1))
        job = scene.job()
        old = scene.in_place
        scene.plan(line(blocks_per_job=2))
        with pytest.raises(PlanChangedError, match="there is another plan now"):
            run_job(job, scene.root, attempt=1, environment={})
        # The rule's command reads the new plan, whatever it was handed.
        assert work_sentinel(scene.sentinel(), attempt=1, environment={}, plan=old) == 0
        assert scene.called == ["0", "1"]


class TestDisorder:
    """Of three jobs in a row the first has lost its results, and the second has not."""

    def lost(self, scene: Scene) -> None:
        """Phases 0 1 2 in a row of blocks with reach 2; job 0 is done, job 1 too, job 2 not."""
        scene.functions(NAPS.format(seconds=0.6))
        scene.plan(line(shape=(3,), context=2 * SIZE, blocks_per_job=1, function="functions:naps"))
        assert [job.phase for job in scene.in_place.jobs("task")] == [0, 1, 2]
        for k in (0, 1):
            assert scene.run(index=(k,)).complete
        scene.ledger(index=(0,)).unlink()
        scene.sentinel(index=(0,)).unlink()

    def test_the_last_does_not_begin(self, scene: Scene) -> None:
        self.lost(scene)
        with pytest.raises(NotReadyError, match="its neighbour task/0 has to be done first"):
            scene.run(index=(2,))
        assert scene.run(index=(0,)).complete
        assert scene.run(index=(2,)).complete

    def test_the_first_waits_for_the_last(self, scene: Scene) -> None:
        self.lost(scene)
        ledger = scene.ledger(index=(2,))
        lock = Lock(scene.paths.job_lock("task", (2,)), Holder.this_process({}))
        lock.acquire()
        with pytest.raises(BusyError, match="its neighbour task/2 still runs"):
            scene.run(index=(0,), patience=0)
        threading.Timer(0.5, lock.release).start()
        began = time.monotonic()
        assert scene.run(index=(0,)).complete
        assert time.monotonic() - began > 1
        assert not ledger.exists()

    def test_a_lost_sentinel_alone_is_no_reason(self, scene: Scene) -> None:
        """Snakemake deletes it before it starts a job again that has nothing to do."""
        scene.plan(line(shape=(3,), context=2 * SIZE, blocks_per_job=1))
        for k in (0, 1):
            assert scene.run(index=(k,)).complete
        scene.sentinel(index=(0,)).unlink()
        assert scene.run(index=(2,)).complete

    def test_nothing_to_do_is_always_in_order(self, scene: Scene) -> None:
        self.lost(scene)
        assert scene.run(index=(1,)).complete


class TestDisk:
    @pytest.fixture
    def small(self, scene: Scene) -> Iterator[Path]:
        """Return a run directory on a file system of 256 KiB."""
        scene.root.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(scene.root)],
            capture_output=True,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a small file system: {done.stderr.decode().strip()}")
        yield scene.root
        subprocess.run(["umount", "-l", str(scene.root)], check=True)

    def test_full(self, scene: Scene, small: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Nothing recorded is lost, the job says why it stops, and goes on when there is room.

        It costs one attempt of the block whose beginning was recorded and whose end was not.
        """
        scene.plan(line(shape=(2000,), max_retries=1))
        filler = small / "filler"
        filler.write_bytes(bytes(60 << 10))
        try:
            result = scene.run()
            text = result.stopped
        except LedgerError as error:
            text = str(error)
        text += capfd.readouterr().err
        assert "No space left on device" in text
        done = int(scene.judgement().done.sum())
        assert 0 < done < 2000
        stamps = scene.stamps()
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert scene.run(attempt=2).complete
        assert stamps.items() <= scene.stamps().items()
        twice = [block for block, n in Counter(scene.called).items() if n > 1]
        assert len(twice) <= 1

    def test_a_ledger_that_may_not_grow(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """As a full disk, without the right to mount one."""
        scene.plan(line(shape=(2000,), max_retries=1))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            text = scene.run().stopped
        except LedgerError as error:
            text = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "File too large" in text + capfd.readouterr().err
        stamps = scene.stamps()
        assert 0 < len(stamps) < 2000
        assert scene.run(attempt=2).complete
        assert stamps.items() <= scene.stamps().items()
        assert len(scene.called) <= 2001

    def test_full_before_it_begins(self, scene: Scene, small: Path) -> None:
        scene.plan(line())
        with pytest.raises(OSError), open(small / "filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        with pytest.raises(LedgerError, match=r"cannot be written \(No space left on device\)"):
            scene.run()

    def test_read_only(self, scene: Scene, small: Path) -> None:
        scene.plan(line())
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(
            LedgerError,
            match=r"0\.lock: cannot be written \(Read-only file system\); the run directory has",
        ):
            scene.run()
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        assert scene.run().complete


class TestAggregates:
    def test_a_tree_over_many_jobs(self, scene: Scene) -> None:
        scene.plan(line(shape=(FAN_IN + 2,), blocks_per_job=1))
        scene.run_all()
        path = scene.done()
        found = read_sentinel(path)
        assert found is not None and found.blocks == FAN_IN + 2
        before = path.read_bytes()
        path.unlink()
        assert scene.done().read_bytes() == before

    @pytest.mark.parametrize("damage", ["missing", "noise", "plan", "batch", "node", "first"])
    def test_it_stands_on_nothing_but_sentinels_of_the_plan(
        self, scene: Scene, damage: str
    ) -> None:
        scene.plan(line(blocks_per_job=1))
        scene.run_all()
        path = scene.sentinel(index=(2,))
        data = json.loads(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "noise":
            path.write_bytes(os.urandom(100))
        else:
            other = {
                "plan": {"fingerprint": "0" * 16},
                "batch": {"batch": [2]},
                "node": {"node": "1"},
                "first": {"first": [1]},
            }
            path.write_text(json.dumps({**data, **other[damage]}))
        with pytest.raises(LedgerError, match=r"2\.json: is missing, damaged or of another plan"):
            work_sentinel(scene.paths.done("task"), attempt=1, environment={})
        assert not scene.paths.done("task").exists()

    def test_an_unknown_task(self, scene: Scene) -> None:
        scene.plan(line())
        with pytest.raises(InputError, match="the plan has no task other"):
            work_sentinel(scene.root / "other" / "done.json", attempt=1, environment={})

    # faults: kind 12
    @pytest.mark.parametrize(
        "name",
        ["", "1", "0/0.json", "1/0.json", "-1/0.json", "x/0.json", "\u00b2/0.json", "1/0/0.json"],
    )
    def test_an_unknown_aggregate(self, scene: Scene, name: str) -> None:
        scene.plan(line())
        with pytest.raises(InputError, match="the plan has no such aggregate"):
            work_sentinel(scene.root / "task" / "tree" / name, attempt=1, environment={})


def test_workers_do_not_inherit_the_mark_of_others(scene: Scene) -> None:
    assert MARK not in os.environ
    scene.functions(f"def f(block): note(block, os.environ[{MARK!r}].rpartition('.')[2])")
    scene.plan(line(function="functions:f"))
    assert scene.run().complete
    assert all(call[1] == call[2] for call in scene.calls)
    assert MARK not in os.environ


def test_phases_of_blocks_inside_a_job(scene: Scene) -> None:
    scene.plan(line(shape=(3, 3), context=SIZE))
    assert scene.run().complete
    task = scene.in_place.tasks["task"]
    order = [tuple(map(int, name.split("-"))) for name in scene.called]
    phases = [task.block_phases.of(index) for index in order]
    assert phases == sorted(phases)
