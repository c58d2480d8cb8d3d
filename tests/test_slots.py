from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import Scene, line

from snakemake_blocks.bench import Bench
from snakemake_blocks.jobs import run_job
from snakemake_blocks.plan import Job
from snakemake_blocks.slots import Slot, take_slot


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path)


def test_the_smallest_free_number(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, ()) for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]
    slots[1].release()
    assert take_slot(tmp_path, ()).number == 1


def test_no_number_twice(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        slots = list(pool.map(lambda _: take_slot(tmp_path, ()), range(32)))
    assert sorted(slot.number for slot in slots) == list(range(32))


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_files_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", refuse)
    before = len(os.listdir("/proc/self/fd"))
    assert [take_slot(tmp_path, taken) for taken in ((), {0}, {0, 1})] == [
        Slot(k) for k in range(3)
    ]
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_lies_in_the_way(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0")
    (tmp_path / "1").mkdir()
    assert [take_slot(tmp_path, taken).number for taken in ((), {0}, {0, 1})] == [0, 1, 2]
    (tmp_path / "file").touch()
    assert take_slot(tmp_path / "file", {0}) == Slot(1)


ENVIRONMENT = """
    told = {}
    def init(context):
        told.update(context)
"""


class TestWorkers:
    def test_have_numbers_of_their_own(self, scene: Scene) -> None:
        scene.functions(
            ENVIRONMENT
            + """
    def f(block):
        import time
        note(block, told["worker_id"])
        time.sleep(0.05)
    """
        )
        scene.plan(
            line(function="functions:f", init_callback_fn="functions:init", shape=(9,), workers=3)
        )
        assert scene.run().complete
        numbers = {call[1]: call[2] for call in scene.calls}
        assert sorted(numbers.values()) == ["0", "1", "2"]

    def test_one_that_replaces_another_has_its_number(self, scene: Scene) -> None:
        scene.functions(
            ENVIRONMENT
            + """
    def f(block):
        note(block, told["worker_id"])
        block.index[0] % 2 and attempts(block) == 1 and os._exit(3)
    """
        )
        more = {"init_callback_fn": "functions:init", "max_retries": 1}
        scene.plan(line(function="functions:f", shape=(6,), **more))
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"0"}
        assert len({call[1] for call in scene.calls}) == 4

    def test_of_several_jobs_have_numbers_of_their_own(self, scene: Scene) -> None:
        scene.functions(
            ENVIRONMENT
            + """
    def f(block):
        import time
        note(block, told["worker_id"])
        while len(open(os.environ["CALLS"]).readlines()) < 6: time.sleep(0.01)
    """
        )
        more = {"init_callback_fn": "functions:init", "blocks_per_job": 2, "workers": 2}
        scene.plan(line(function="functions:f", shape=(6,), timeout=20, **more))
        code = "import sys, pathlib; from snakemake_blocks.jobs import work_sentinel as w; "
        code += "sys.exit(w(pathlib.Path(sys.argv[1]), attempt=1, environment={}))"
        jobs = [
            subprocess.Popen([sys.executable, "-c", code, scene.sentinel(index=(k,))])
            for k in range(3)
        ]
        assert [job.wait() for job in jobs] == [0, 0, 0]
        assert sorted(call[2] for call in scene.calls) == list("012345")

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        made = Bench(lasting=True)
        yield made
        made.close()

    def test_keep_it_from_job_to_job_and_leave_it_at_the_end(
        self, scene: Scene, bench: Bench
    ) -> None:
        scene.functions(ENVIRONMENT + '    def f(block): note(block, told["worker_id"])\n')
        more = {"init_callback_fn": "functions:init", "blocks_per_job": 1}
        plan = scene.plan(line(function="functions:f", **more))
        jobs = [Job(plan, plan.tasks["task"], (k,)) for k in range(2)]
        bench.output = str(scene.folder / "log.txt")
        folder = scene.paths.slots("task")
        other = take_slot(folder, ())
        assert run_job(jobs[0], scene.root, attempt=1, environment={}, bench=bench).complete
        other.release()
        assert run_job(jobs[1], scene.root, attempt=1, environment={}, bench=bench).complete
        assert [call[2] for call in scene.calls] == ["1", "1"]
        assert len({call[1] for call in scene.calls}) == 1
        assert take_slot(folder, {0}).number == 2, "the worker waits, and has its number"
        bench.close()
        assert take_slot(folder, {0}).number == 1

    def test_what_they_leave_behind_holds_no_number(self, scene: Scene) -> None:
        scene.functions(
            """
            def f(block):
                import subprocess, time
                left = subprocess.Popen(["sleep", "600"], start_new_session=True)
                pid = os.fork()
                if pid == 0:
                    os.setsid()
                    time.sleep(600)
                note(block, f"{left.pid} {pid}")
            """
        )
        scene.plan(line(function="functions:f", shape=(1,)))
        assert scene.run().complete
        free = take_slot(scene.paths.slots("task"), ()).number
        for pid in scene.calls[0][2:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        assert free == 0
