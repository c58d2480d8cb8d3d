from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import SIZE, Scene, line

from snakemake_blocks.system import processes
from snakemake_blocks.system.processes import process_start
from snakemake_blocks.work import supervisor, worker_pool
from snakemake_blocks.work.worker import Pulse

FAULTY = """
    import ctypes, itertools, resource, signal, sys, threading, time

    def deep():
        deep()

    def much():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
        bytearray(1 << 32)

    FAULTS = {
        "exception": lambda: 1 / 0,
        "exit_0": lambda: sys.exit(0),
        "exit_text": lambda: sys.exit("enough"),
        "quit": lambda: os._exit(0),
        "quit_7": lambda: os._exit(7),
        "segfault": lambda: ctypes.string_at(0),
        "abort": lambda: os.abort(),
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "memory": much,
        "recursion": deep,
        "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
        "endless_in_c": lambda: all(itertools.repeat(True)),
        "endless_without_gil": lambda: threading.Lock().acquire() and time.sleep(600),
        "status": None,
    }

    def faulty(block, fault, at=1, times=1):
        note(block)
        if block.index[-1] == at and attempts(block) <= times:
            if fault == "status":
                block.status = block.status.FAILED
            else:
                FAULTS[fault]()
"""

CAUSES = {
    "exception": r"ZeroDivisionError at functions\.py:\d+",
    "exit_0": r"SystemExit at functions\.py:\d+",
    "exit_text": r"SystemExit at functions\.py:\d+",
    "quit": "worker ended with exit status 0",
    "quit_7": "worker ended with exit status 7",
    "segfault": "worker was killed by SIGSEGV",
    "abort": "worker was killed by SIGABRT",
    "killed": r"worker was killed by SIGKILL \(out of memory\?\)",
    "memory": r"MemoryError at functions\.py:\d+",
    "recursion": r"RecursionError at functions\.py:\d+",
    "interrupt": r"KeyboardInterrupt at functions\.py:\d+",
    "endless_in_c": "worker took longer than the timeout of 0.5 s and was killed",
    "endless_without_gil": "worker took longer than the timeout of 0.5 s and was killed",
    "status": r".*BlockFailedError: the function set block\.status to FAILED",
}


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.functions(FAULTY)
    return scene


def faulty(fault: str, **more: object) -> object:
    """Return six blocks of which number 1 meets the fault at its first attempt."""
    params = {"fault": fault, **more.pop("params", {})}  # type: ignore[dict-item]
    timeout = 0.5 if fault.startswith("endless") else None
    return line(function="functions:faulty", shape=(6,), params=params, timeout=timeout, **more)


class TestFaults:
    """Whatever happens to a block costs it one attempt, and costs no other block anything."""

    @pytest.mark.parametrize("workers", [1, 2])
    @pytest.mark.parametrize("fault", CAUSES)
    def test_costs_one_attempt(self, scene: Scene, fault: str, workers: int) -> None:
        scene.plan(faulty(fault, max_retries=1, workers=workers))
        result = scene.run()
        assert (result.done, result.total, result.failed, result.stopped) == (6, 6, 0, "")
        assert Counter(scene.called) == {"0": 1, "1": 2, "2": 1, "3": 1, "4": 1, "5": 1}
        of_one = [(event, n) for event, index, n in scene.events() if index == (1,)]
        assert of_one == [("STARTED", 1), ("FAILED", 1), ("STARTED", 2), ("DONE", 2)]
        rest = Counter(event for event, index, _ in scene.events() if index != (1,))
        assert rest == {"STARTED": 5, "DONE": 5}
        (failure,) = scene.failures()
        assert (failure.index, failure.attempt) == ((1,), 1)
        assert re.fullmatch(CAUSES[fault], failure.cause)
        assert scene.sentinel().exists()

    @pytest.mark.parametrize("fault", ["exception", "segfault", "quit", "endless_in_c"])
    def test_without_retries_the_block_is_failed(self, scene: Scene, fault: str) -> None:
        scene.plan(faulty(fault))
        result = scene.run()
        assert (result.done, result.failed, result.orphaned) == (5, 1, 0)
        assert not result.complete and not scene.sentinel().exists()
        assert Counter(scene.called) == {str(n): 1 for n in range(6)}

    @pytest.mark.parametrize("fault", ["exception", "killed"])
    def test_a_block_that_always_fails_gets_its_attempts_and_no_more(
        self, scene: Scene, fault: str
    ) -> None:
        scene.plan(faulty(fault, max_retries=2, params={"times": 99}))
        assert scene.run().failed == 1
        assert Counter(scene.called)["1"] == 3
        assert [f.attempt for f in scene.failures()] == [1, 2, 3]

    def test_every_block_may_kill_its_worker(self, scene: Scene) -> None:
        scene.functions(
            """
            import signal
            def kills(block):
                note(block)
                if attempts(block) < 3: os.kill(os.getpid(), signal.SIGKILL)
            """
        )
        scene.plan(line(function="functions:kills", shape=(9,), workers=2, max_retries=2))
        assert scene.run().complete
        assert Counter(scene.called) == {str(n): 3 for n in range(9)}

    def test_the_reports_of_a_batch_that_died_are_not_lost(self, scene: Scene) -> None:
        """The batch has grown when its worker dies: what was done in it stays done."""
        scene.plan(
            line(
                function="functions:faulty",
                shape=(400,),
                params={"fault": "killed", "at": 333},
                max_retries=1,
            )
        )
        assert scene.run().complete
        assert {k: n for k, n in Counter(scene.called).items() if n > 1} == {"333": 2}

    def test_the_text_of_a_failure_is_in_the_log(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scene.plan(faulty("exception", max_retries=1))
        scene.run()
        text = capfd.readouterr().err
        assert "block (1,), attempt 1:\nTraceback" in text
        assert "ZeroDivisionError: division by zero" in text

    def test_output_of_blocks_is_in_the_log(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scene.functions(
            """
            import sys
            def speaks(block):
                print("out", block.index[0])
                sys.stderr.write(f"err {block.index[0]}\\n")
                if block.index[0] == 2: os._exit(1)
            """
        )
        scene.plan(line(function="functions:speaks"))
        scene.run()
        out, err = capfd.readouterr()
        assert [x for x in out.splitlines() if x.startswith("out")] == [
            f"out {k}" for k in range(4)
        ]
        assert [x for x in err.splitlines() if x.startswith("err")] == [
            f"err {k}" for k in range(4)
        ]


class TestTimeout:
    def test_counts_per_block(self, scene: Scene) -> None:
        """Ten blocks of 0.2 s are no reason to think of a timeout of 1 s."""
        scene.functions("import time\ndef naps(block): note(block); time.sleep(0.2)")
        scene.plan(line(function="functions:naps", shape=(10,), timeout=1.0))
        assert scene.run().complete
        assert len(scene.called) == 10

    def test_what_a_block_started_ends_with_it(self, scene: Scene) -> None:
        scene.functions(
            """
            import subprocess, sys
            def starts(block):
                code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
                for session in (False, True):
                    child = subprocess.Popen([sys.executable, "-c", code],
                                             stdout=subprocess.PIPE, start_new_session=session)
                    note(block, child.stdout.readline().decode().strip())
                child.wait()
            """
        )
        scene.plan(line(function="functions:starts", shape=(1,), timeout=1.5))
        assert scene.run().failed == 1
        children = [int(call[2]) for call in scene.calls]
        assert len(children) == 2
        assert [process_start(pid) for pid in children] == [None, None]

    def test_a_block_that_ended_in_the_last_moment_is_not_blamed(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pulse is read, the block ends, the next one begins, and only then comes the kill."""
        looks = iter([True])

        class Late(Pulse):
            @property
            def since(self) -> float:
                real = Pulse.since.fget(self)  # type: ignore[attr-defined]
                return real - 1000 if real and next(looks, False) else real

        monkeypatch.setattr(worker_pool, "Pulse", Late)
        scene.functions(
            """
            import time
            def naps(block):
                note(block)
                time.sleep(600 if block.index[0] == 0 and attempts(block) == 1 else 0)
            """
        )
        scene.plan(line(function="functions:naps", shape=(2,), timeout=60.0))
        assert scene.run().complete
        assert scene.failures() == []
        events = Counter(event for event, _, _ in scene.events())
        assert events == {"STARTED": 3, "RELEASED": 1, "DONE": 2}


def own_children() -> set[str]:
    """Return the pids of this process's children, zombies included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


class TestWorkers:
    def test_set_up_once_per_worker(self, scene: Scene) -> None:
        scene.functions(
            """
            import time
            class Model:
                def __init__(self, weight):
                    time.sleep(0.5)
                    with open("built.txt", "a") as file: file.write(f"{os.getpid()}\\n")
                    self.weight = weight
                def __call__(self, block):
                    note(block, self.weight)
                    time.sleep(0.005)
                def close(self):
                    with open("closed.txt", "a") as file: file.write(f"{os.getpid()}\\n")
            """
        )
        task = line(function="functions:Model", shape=(200,), params={"weight": "7"}, workers=2)
        scene.plan(task)
        assert scene.run().complete
        built = (scene.folder / "built.txt").read_text().split()
        assert len(built) == len(set(built)) == 2
        assert sorted((scene.folder / "closed.txt").read_text().split()) == sorted(built)
        assert {call[1] for call in scene.calls} == set(built)
        assert {call[2] for call in scene.calls} == {"7"}
        assert sorted(int(block) for block in scene.called) == list(range(200))

    def test_a_worker_whose_blocks_keep_failing_is_replaced(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """A worker that went bad fails everything from its fifth block on; a new one does not."""
        scene.functions(
            """
            count = 0
            def rots(block):
                global count
                count += 1
                note(block)
                if count >= 5: raise RuntimeError("rotten")
            """
        )
        scene.plan(line(function="functions:rots", shape=(12,), max_retries=3))
        assert scene.run().complete
        assert len({call[1] for call in scene.calls}) > 1
        assert "failed 4 blocks in a row and is replaced" in capfd.readouterr().out

    # faults: see README.md, beside the kinds
    def test_failing_now_and_then_replaces_no_worker(self, scene: Scene) -> None:
        scene.functions(
            """
            def moody(block):
                note(block)
                if (7 * block.index[0] + attempts(block)) % 4 < 2: raise ValueError("mood")
            """
        )
        scene.plan(line(function="functions:moody", shape=(60,), max_retries=9))
        assert scene.run().complete
        assert len(scene.calls) > 100 and len({call[1] for call in scene.calls}) == 1

    def test_a_failed_block_is_tried_by_another_worker(self, scene: Scene) -> None:
        scene.functions(
            """
            import time
            def moody(block):
                note(block)
                time.sleep(0.05)
                if block.index[0] % 3 == 0 and attempts(block) < 3: raise ValueError("mood")
            """
        )
        scene.plan(line(function="functions:moody", shape=(12,), workers=2, max_retries=2))
        assert scene.run().complete
        for block in ("0", "3", "6", "9"):
            pids = [call[1] for call in scene.calls if call[0] == block]
            assert len(pids) == 3
            assert pids[0] != pids[1] != pids[2]

    def test_no_worker_is_left(self, scene: Scene) -> None:
        before = own_children()  # other tests' fixtures may have some
        scene.plan(faulty("exception", workers=2))
        scene.run()
        assert all(process_start(int(call[1])) is None for call in scene.calls)
        assert own_children() <= before

    def test_where_processes_cannot_be_watched(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on macOS: no pidfd, no waitid."""
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        monkeypatch.delattr(os, "waitid", raising=False)
        scene.plan(faulty("killed", workers=2, max_retries=1))
        assert scene.run().complete

    def test_closing_that_hangs_does_not_hold_the_job(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervisor, "CLOSING_SECONDS", 0.5)
        scene.functions(
            """
            import time
            class Sticky:
                def __call__(self, block): note(block)
                def close(self): time.sleep(600)
            """
        )
        scene.plan(line(function="functions:Sticky"))
        began = time.monotonic()
        assert scene.run().complete
        assert time.monotonic() - began < 10

    def test_a_worker_still_being_set_up_holds_nobody(self, scene: Scene) -> None:
        scene.functions(
            """
            import time
            first = not os.path.exists("first")
            open("first", "w").close()
            class Slow:
                def __init__(self):
                    if not os.path.exists("taken"): open("taken", "w").close()
                    else: time.sleep(600)
                def __call__(self, block): note(block)
            """
        )
        scene.plan(line(function="functions:Slow", workers=2))
        began = time.monotonic()
        assert scene.run().complete
        assert time.monotonic() - began < 10


class TestSetUp:
    def test_that_fails_is_reported_with_its_cause(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scene.functions(
            """
            class Model:
                def __init__(self): raise FileNotFoundError("weights.pt")
                def __call__(self, block): pass
            """
        )
        scene.plan(line(function="functions:Model"))
        result = scene.run()
        assert not result.complete
        assert result.stopped.startswith("the set-up failed: FileNotFoundError at functions.py:")
        assert result.stopped.endswith("FileNotFoundError: weights.pt")
        err = capfd.readouterr().err
        assert "set-up of task task failed:\nTraceback" in err and "weights.pt" in err
        assert scene.events() == []
        assert {f.index for f in scene.failures()} == {()}

    @pytest.mark.parametrize("code", ["os._exit(3)", "os.abort()"])
    def test_that_kills_its_worker(self, scene: Scene, code: str) -> None:
        scene.functions(
            f"""
            class Model:
                def __init__(self): {code}
                def __call__(self, block): pass
            """
        )
        scene.plan(line(function="functions:Model", workers=2))
        stopped = scene.run().stopped
        assert re.match(
            "the set-up failed: worker (ended with exit status 3|was killed by SIGABRT)", stopped
        )

    def test_a_missing_function(self, scene: Scene) -> None:
        scene.plan(line(function="functions:nothing"))
        assert "module functions has no nothing" in scene.run().stopped

    def test_that_works_for_one_worker_only(self, scene: Scene) -> None:
        """As where a second model does not fit the GPU."""
        scene.functions(
            """
            import time
            class Model:
                def __init__(self):
                    try: os.mkdir("gpu")
                    except FileExistsError:
                        time.sleep(0.3)
                        raise MemoryError("no room for a second model")
                def __call__(self, block):
                    note(block)
                    time.sleep(0.05)
            """
        )
        scene.plan(line(function="functions:Model", shape=(20,), workers=2))
        assert scene.run().complete
        assert len({call[1] for call in scene.calls}) == 1


class TestCanary:
    def test_stops_a_job_of_which_nothing_works(self, scene: Scene) -> None:
        scene.functions("def broken(block): note(block); raise KeyError('typo')")
        scene.plan(line(function="functions:broken", shape=(500,), max_retries=2))
        result = scene.run()
        assert not result.complete
        assert re.fullmatch(
            r"the first \d+ blocks all failed alike \(KeyError at functions\.py:\d+\); "
            "the job stops early",
            result.stopped,
        )
        assert 16 <= len(set(scene.called)) < 40

    def test_takes_other_failures_for_what_they_are(self, scene: Scene) -> None:
        scene.functions(
            """
            def broken(block):
                note(block)
                if block.index[0] == 3: raise ValueError("another")
                raise KeyError("typo")
            """
        )
        scene.plan(line(function="functions:broken", shape=(40,)))
        result = scene.run()
        assert (result.failed, result.stopped) == (40, "")

    def test_one_good_block_is_enough(self, scene: Scene) -> None:
        scene.functions(
            """
            def broken(block):
                note(block)
                if block.index[0] != 3: raise KeyError("typo")
            """
        )
        scene.plan(line(function="functions:broken", shape=(40,)))
        result = scene.run()
        assert (result.done, result.failed, result.stopped) == (1, 39, "")


class TestChance:
    @pytest.mark.parametrize("retries, share", [(0, 0.5), (2, 0.125)])
    def test_half_of_all_attempts_fail(self, scene: Scene, retries: int, share: float) -> None:
        """The tutorial's chapter on fault tolerance; a re-run does not touch what is done."""
        blocks = 400
        scene.functions(
            """
            import random
            def unsure(block):
                note(block)
                if random.random() < 0.5: raise RuntimeError("bad luck")
            """
        )
        scene.plan(
            line(function="functions:unsure", shape=(blocks,), max_retries=retries, workers=2)
        )
        result = scene.run()
        spread = 5 * (blocks * share * (1 - share)) ** 0.5
        assert abs(result.failed - share * blocks) < spread
        assert result.done + result.failed == blocks
        for _ in range(60):  # 400 blocks that fail with 0.5: not even one run in 10^15 needs more
            stamps, before = scene.stamps(), len(scene.called)
            if scene.run().complete:
                break
            again = set(scene.called[before:])
            assert again.isdisjoint("-".join(map(str, index)) for index in stamps)
            assert {i: s for i, s in scene.stamps().items() if i in stamps} == stamps
        before = len(scene.called)
        assert scene.run().complete
        assert len(scene.called) == before, "nothing is left to do"


class TestOrder:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_conflicting_blocks_never_overlap(self, scene: Scene, workers: int) -> None:
        scene.functions(
            """
            import random, time
            def naps(block):
                note(block, f"+{time.monotonic()}")
                time.sleep(random.random() / 100)
                if random.random() < 0.2: raise RuntimeError("bad luck")
                note(block, f"-{time.monotonic()}")
            """
        )
        scene.plan(
            line(
                function="functions:naps",
                shape=(6, 6),
                context=SIZE,
                workers=workers,
                max_retries=9,
            )
        )
        assert scene.run().complete
        task = scene.in_place.tasks["task"]
        spans = [
            (tuple(map(int, a[0].split("-"))), float(a[2][1:]), float(b[2][1:]))
            for a, b in self.pairs(scene)
        ]
        for k, (one, begin, end) in enumerate(spans):
            for other, begin_2, end_2 in spans[k + 1 :]:
                if task.block_phases.conflicting(one).contains(other):
                    assert end <= begin_2 or end_2 <= begin

    def pairs(self, scene: Scene) -> list[tuple[list[str], list[str]]]:
        last: dict[tuple[str, str], list[str]] = {}
        found = []
        for call in scene.calls:
            key = (call[0], call[1])
            if call[2].startswith("+"):
                last[key] = call
            else:
                found.append((last[key], call))
        return found


def test_nothing_is_measured_of_what_costs_nothing(scene: Scene) -> None:
    scene.plan(line())
    scene.run()
    done = [r for r in scene.records() if r["event"] == 2]
    assert all(r["wall"] > 0 and r["peak_kib"] > 1000 and r["start"] > 1e9 for r in done)


def test_cost_of_a_block(scene: Scene) -> None:
    scene.functions(
        """
        import time
        def works(block):
            held = bytearray(60 << 20)
            end = time.process_time() + 0.1
            while time.process_time() < end: pass
            with open("big", "wb") as file: file.write(held)
            with open("big", "rb") as file: file.read()
            time.sleep(0.1)
        """
    )
    scene.plan(line(function="functions:works", shape=(2,)))
    scene.run()
    for record in (r for r in scene.records() if r["event"] == 2):
        assert record["wall"] >= 0.2 and 0.1 <= record["cpu"] <= record["wall"]
        assert record["peak_kib"] > 60 << 10
        assert abs(record["bytes_read"] - (60 << 20)) < 1 << 20
        assert abs(record["bytes_written"] - (60 << 20)) < 1 << 20


def test_clocks_that_go_backwards(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only people read the wall clock."""
    clock = iter(np.arange(2e9, 0, -1e6))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    scene.plan(faulty("killed", max_retries=1))
    assert scene.run().complete
    starts = [r["start"] for r in scene.records() if r["event"] == 2]
    assert starts != sorted(starts)
    assert scene.judgement().done.all()
    assert processes.boot_clock() > 0 and random.random() < 1
