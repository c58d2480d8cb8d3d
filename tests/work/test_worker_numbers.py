from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import Scene, line

from snakemake_blocks.plan.plan import Job
from snakemake_blocks.work.job import run_job
from snakemake_blocks.work.worker_numbers import Numbers, Slot, slot_folder, take_slot
from snakemake_blocks.work.worker_pool import WorkerPool


def test_the_smallest_free_number(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, ()) for _ in range(3)]
    assert [slot.number for slot in slots] == [0, 1, 2]
    slots[1].release()
    assert take_slot(tmp_path, ()).number == 1


def test_no_number_twice(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        slots = list(threads.map(lambda _: take_slot(tmp_path, ()), range(32)))
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


# faults: kind 9
class TestNumbers:
    """A task that may have so many workers has them below that number."""

    def test_one_beyond_the_limit_is_asked_for_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mine, other = Numbers(tmp_path, 2), Numbers(tmp_path, 2)
        slots = [other.take(()), other.take(())]
        assert not other.are_wanted and not mine.are_wanted
        assert mine.take(()) is None and mine.take(()) is None
        assert capsys.readouterr().out == (
            "the task's 2 workers are in use: waits for one to end\n"
        )
        assert other.are_wanted and other.are_wanted
        assert slots[1] is not None
        slots[1].release()
        found = mine.take(())
        assert found is not None and found.number == 1 and not other.are_wanted

    def test_a_job_that_ends_asks_no_more(self, tmp_path: Path) -> None:
        mine, other = Numbers(tmp_path, 1), Numbers(tmp_path, 1)
        assert other.take(()) is not None and mine.take(()) is None and other.are_wanted
        mine.stop_asking()
        assert not other.are_wanted

    def test_who_has_more_workers_by_hand_gets_them_in_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mine, other = Numbers(tmp_path, 1), Numbers(tmp_path, 1)
        assert other.take(()) is not None and mine.take(()) is None
        monkeypatch.setattr("snakemake_blocks.work.worker_numbers._PATIENCE", 0.0)
        found = mine.take(())
        assert found is not None and found.number == 1

    def test_a_task_of_any_number_waits_for_none(self, tmp_path: Path) -> None:
        found = [Numbers(tmp_path, None).take(()) for _ in range(3)]
        assert [slot.number for slot in found if slot] == [0, 1, 2]
        assert not Numbers(tmp_path, None).are_wanted


ENVIRONMENT = """
    told = {}
    def init(context):
        told.update(context)
"""


def _make_room(pool: WorkerPool) -> bool:
    """Do as a supervisor does that has no job, until somebody asked; true if somebody did."""
    give_up = time.monotonic() + 30
    while pool._idle and time.monotonic() < give_up:
        pool.make_room()
        time.sleep(0.02)
    return not pool._idle


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
        more = {
            "init_callback_fn": "functions:init",
            "blocks_per_job": 2,
            "workers": 2,
            "num_workers": 6,
        }
        scene.plan(line(function="functions:f", shape=(6,), timeout=20, **more))
        code = "import sys, pathlib; from snakemake_blocks.work.job import work_sentinel as w; "
        code += "sys.exit(w(pathlib.Path(sys.argv[1]), attempt=1, environment={}))"
        jobs = [
            subprocess.Popen([sys.executable, "-c", code, scene.sentinel(index=(k,))])
            for k in range(3)
        ]
        assert [job.wait() for job in jobs] == [0, 0, 0]
        assert sorted(call[2] for call in scene.calls) == list("012345")

    @pytest.fixture
    def pool(self) -> Iterator[WorkerPool]:
        made = WorkerPool(lasting=True)
        yield made
        made.close()

    def test_keep_it_from_job_to_job_and_leave_it_at_the_end(
        self, scene: Scene, pool: WorkerPool
    ) -> None:
        scene.functions(ENVIRONMENT + '    def f(block): note(block, told["worker_id"])\n')
        more = {"init_callback_fn": "functions:init", "blocks_per_job": 1, "num_workers": 3}
        plan = scene.plan(line(function="functions:f", **more))
        jobs = [Job(plan, plan.tasks["task"], (k,)) for k in range(2)]
        pool.output = str(scene.folder / "log.txt")
        folder = slot_folder(scene.paths.root, "task")
        other = take_slot(folder, ())
        assert run_job(jobs[0], scene.root, attempt=1, environment={}, pool=pool).complete
        other.release()
        assert run_job(jobs[1], scene.root, attempt=1, environment={}, pool=pool).complete
        assert [call[2] for call in scene.calls] == ["1", "1"]
        assert len({call[1] for call in scene.calls}) == 1
        assert take_slot(folder, {0}).number == 2, "the worker waits, and has its number"
        pool.close()
        assert take_slot(folder, {0}).number == 1

    @pytest.mark.parametrize("makes_room", [True, False])
    def test_wait_for_those_of_another_process_that_only_wait(
        self, scene: Scene, pool: WorkerPool, makes_room: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """faults: kind 9: there are two numbers, and two idle workers have them."""
        monkeypatch.setattr(
            "snakemake_blocks.work.worker_numbers._PATIENCE", 0.3 if not makes_room else 60
        )
        scene.functions(ENVIRONMENT + '    def f(block): note(block, told["worker_id"])\n')
        more = {"init_callback_fn": "functions:init", "blocks_per_job": 1}
        plan = scene.plan(line(function="functions:f", **more))
        jobs = [Job(plan, plan.tasks["task"], (k,)) for k in range(2)]
        pool.output = str(scene.folder / "log.txt")
        assert run_job(jobs[0], scene.root, attempt=1, environment={}, pool=pool).complete
        with ThreadPoolExecutor(1) as thread:
            idle = thread.submit(_make_room, pool) if makes_room else None
            assert run_job(jobs[1], scene.root, attempt=1, environment={}).complete
            assert idle is None or idle.result()
        assert [call[2] for call in scene.calls] == ["0", "0" if makes_room else "1"]

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
        free = take_slot(slot_folder(scene.paths.root, "task"), ()).number
        for pid in scene.calls[0][2:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        assert free == 0
