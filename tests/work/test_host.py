from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import zarr
from faults import Scene, line

from snakemake_blocks.engine.launch import start_host
from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.plan import Job
from snakemake_blocks.state.ledger import read_records, source_mark
from snakemake_blocks.system.processes import process_start
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.sources import FunctionFacts
from snakemake_blocks.work.host import Host, _tried

MODEL = """
    import os, time
    class Model:
        def __init__(self):
            with open("built.txt", "a") as file: file.write(f"{os.getpid()}\\n")
        def __call__(self, block):
            print("here is", block.index)
            note(block, os.getppid())
            if os.path.exists("stop"): time.sleep(600)
        def close(self):
            with open("closed.txt", "a") as file: file.write(f"{os.getpid()}\\n")
"""
PATIENCE = 60.0


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.functions(MODEL)
    scene.plan(
        line(
            function="functions:Model",
            shape=(6,),
            blocks_per_job=1,
            max_retries=3,
            num_workers=None,
        ),
        line("other", "functions:Model", shape=(2,), blocks_per_job=1),
    )
    return scene


class Running:
    """A host, and the jobs that it was given."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.host = Host(start_host(1))

    def start(self, number: int, name: str = "task", attempt: int = 1) -> Future[int]:
        plan = self.scene.in_place
        job = Job(plan, plan.tasks[name], (number,))
        path = self.sentinel(number, name)
        log = f"{name}-{number}.log"
        assert job.sentinel.endswith(path)
        return self.host.run(path, attempt=attempt, log=log, folder=str(self.scene.folder))

    def run(self, number: int, name: str = "task", attempt: int = 1) -> int:
        return self.start(number, name, attempt).result(PATIENCE)

    def sentinel(self, number: int, name: str = "task") -> str:
        return f"blocks/{name}/p0/0/{number}.json"

    @property
    def supervisors(self) -> set[int]:
        return {int(call[2]) for call in self.scene.calls}


@pytest.fixture
def running(scene: Scene) -> Iterator[Running]:
    made = Running(scene)
    yield made
    made.host.close()
    assert all(process_start(int(call[1])) is None for call in scene.calls)


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


class TestJobs:
    def test_one_after_another_share_a_worker(self, scene: Scene, running: Running) -> None:
        assert [running.run(n) for n in range(6)] == [0] * 6
        assert len(running.supervisors) == 1
        assert len(Path("built.txt").read_text().split()) == 1
        assert all(Path(running.sentinel(n)).exists() for n in range(6))

    def test_records_say_which_source_made_them(self, scene: Scene, running: Running) -> None:
        """Also those of jobs that a worker goes on with."""
        scene.facts = {"task": FunctionFacts(source="0123456789abcdef")}
        scene.plan(line(function="functions:Model", shape=(6,), blocks_per_job=1))
        for n in range(3):
            running.run(n)
        task = scene.in_place.tasks["task"]
        made = [read_records(scene.ledger(index=(n,)), (0,))["source"].tolist() for n in range(3)]
        assert source_mark(task.source) != 0
        assert {mark for marks in made for mark in marks} == {source_mark(task.source)}

    def test_each_log_holds_what_its_job_printed(self, running: Running) -> None:
        for n in range(3):
            running.run(n)
        logs = [Path(f"task-{n}.log").read_text() for n in range(3)]
        assert [log.count("here is") for log in logs] == [1, 1, 1]
        assert all(f"here is ({n},)" in log for n, log in enumerate(logs))
        assert all("1 of 1 blocks done" in log for log in logs)

    def test_at_the_same_time_they_have_a_supervisor_each(
        self, scene: Scene, running: Running
    ) -> None:
        Path("stop").touch()
        jobs = [running.start(n) for n in range(2)]
        until(lambda: len(scene.calls) == 2)
        assert len(running.supervisors) == 2
        for supervisor in running.supervisors:
            os.kill(supervisor, signal.SIGKILL)
        assert [job.result(PATIENCE) for job in jobs] == [-signal.SIGKILL] * 2

    def test_aggregates(self, scene: Scene, running: Running) -> None:
        for n in range(2):
            running.run(n, "other")
        path = scene.paths.done("other").relative_to(scene.folder)
        job = running.host.run(str(path), attempt=1, log="a.log", folder=str(scene.folder))
        assert job.result(PATIENCE) == 0 and path.exists()

    def test_what_is_wrong_is_said_in_the_log(self, running: Running) -> None:
        job = running.host.run("nowhere/x.json", attempt=1, log="x.log", folder=os.getcwd())
        assert job.result(PATIENCE) == 2
        assert "no plan.json here or above" in Path("x.log").read_text()

    # faults: kind 12
    def test_a_pipe_in_place_of_the_log_is_not_waited_for(self, running: Running) -> None:
        os.mkfifo("task-0.log")
        assert running.run(0) == 2
        assert running.run(1) == 0

    def test_a_new_plan_is_noticed(self, scene: Scene, running: Running) -> None:
        assert running.run(0) == 0
        scene.plan(line(function="functions:Model", shape=(6,), blocks_per_job=2))
        assert running.run(1) == 0
        assert scene.called == ["0", "2", "3"]


class TestCrews:
    def test_idle_ones_make_room(self, scene: Scene, running: Running) -> None:
        """One job at a time: the first task's worker is closed when the second task begins."""
        assert running.run(0) == 0
        assert running.run(0, "other") == 0
        until(lambda: Path("closed.txt").exists())
        assert Path("closed.txt").read_text() == Path("built.txt").read_text().splitlines(True)[0]

    def test_one_that_is_killed_costs_its_job_one_attempt(
        self, scene: Scene, running: Running
    ) -> None:
        assert running.run(0) == 0
        Path("stop").touch()
        job = running.start(1)
        until(lambda: len(scene.calls) == 2)
        os.kill(max(running.supervisors), signal.SIGKILL)
        assert job.result(PATIENCE) == -signal.SIGKILL
        Path("stop").unlink()
        assert running.run(1, attempt=2) == 0
        assert scene.called == ["0", "1", "1"]

    def test_one_that_dies_while_it_waits_costs_nothing(
        self, scene: Scene, running: Running
    ) -> None:
        assert running.run(0) == 0
        (supervisor,) = running.supervisors
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: process_start(supervisor) is None)
        assert running.run(1) == 0


class TestEnd:
    def test_what_was_set_up_is_closed(self, scene: Scene, running: Running) -> None:
        running.run(0)
        running.host.close()
        assert Path("closed.txt").read_text() == Path("built.txt").read_text()

    def test_a_running_job_is_stopped(self, scene: Scene, running: Running) -> None:
        Path("stop").touch()
        job = running.start(0)
        until(lambda: scene.calls)
        scene.paths.drain.touch()
        os.kill(next(iter(running.supervisors)), signal.SIGINT)
        assert job.result(PATIENCE) == 130

    def test_a_host_that_is_killed_takes_its_jobs_along(
        self, scene: Scene, running: Running
    ) -> None:
        Path("stop").touch()
        job = running.start(0)
        until(lambda: scene.calls)
        running.host.process.kill()
        with pytest.raises(BlocksError, match="has died"):
            job.result(PATIENCE)
        until(lambda: process_start(int(scene.calls[0][1])) is None)
        until(lambda: process_start(int(scene.calls[0][2])) is None)

    # faults: see README.md, beside the kinds
    def test_a_job_given_to_a_host_that_died_fails_at_once(
        self, scene: Scene, running: Running
    ) -> None:
        """Also one that is handed over after the last look at those who wait."""
        running.host.process.kill()
        running.host.process.wait()
        jobs = [running.start(n) for n in range(3)]
        until(lambda: running.host.has_died and all(job.done() for job in jobs))
        assert all(isinstance(job.exception(), BlocksError) for job in jobs)
        late = running.start(4)
        assert isinstance(late.exception(PATIENCE), BlocksError)

    def test_jobs_handed_over_while_it_dies_all_end(self, scene: Scene, running: Running) -> None:
        """From many threads, some before, some after and some in the middle of it."""
        jobs: list[Future[int]] = []
        threads = [
            threading.Thread(target=lambda: jobs.extend(running.start(5) for _ in range(50)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.01)
        running.host.process.kill()
        for thread in threads:
            thread.join()
        assert len(jobs) == 200
        for job in jobs:
            job.exception(PATIENCE)  # an end, whichever

    def test_its_end_is_noticed_though_others_keep_its_output_open(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that inherited the pipe would otherwise keep a run waiting for ever."""
        monkeypatch.setattr("snakemake_blocks.work.host._LAST_ANSWERS_SECONDS", 0.3)
        code = "import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.stdin.readline()"
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        host = Host(process)
        job = host.run("x", attempt=1, log="x", folder=".")
        assert isinstance(job.exception(PATIENCE), BlocksError)
        host.close()

    def test_one_that_does_not_end_is_killed(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("snakemake_blocks.work.host._CLOSING_SECONDS", 0.2)
        host = Host(
            subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        host.close()
        assert host.process.returncode == -signal.SIGKILL


# faults: kind 3
class TestModules:
    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("pool", "P = ThreadPoolExecutor(2); list(P.map(abs, range(9)))"),
            ("reader", "A = zarr.open_array('r.zarr', mode='r')[...]"),
            ("thread", "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"),
            ("aborts", "os.register_at_fork(after_in_child=os.abort)"),
            ("hangs", "os.register_at_fork(after_in_child=lambda: time.sleep(1000))"),
        ],
    )
    def test_that_bear_no_fork_work_as_in_any_worker(
        self, scene: Scene, running: Running, name: str, code: str
    ) -> None:
        """The host leaves them alone: with threads of others, or so meant, forks hang or die."""
        zarr.save_array("r.zarr", np.arange(4))
        scene.functions(
            f"""
            import os, threading, time, zarr
            from concurrent.futures import ThreadPoolExecutor
            open("imported.txt", "a").write(f"{{os.getpid()}}\\n")
            {code}
            def use(block):
                note(block, threading.active_count())
                if "{name}" == "pool": assert list(P.map(abs, [-1, -2])) == [1, 2]
                if "{name}" == "reader": assert A.sum() == 6
            """
        )
        scene.plan(line(function="functions:use", shape=(4,), blocks_per_job=1))
        assert [running.run(n) for n in range(4)] == [0] * 4
        imported = set(map(int, Path("imported.txt").read_text().split()))
        assert running.host.process.pid not in imported
        assert {int(call[1]) for call in scene.calls} <= imported

    @pytest.mark.parametrize("handler", ["SIG_IGN", "SIG_DFL", "default_int_handler"])
    def test_that_handle_signals_do_not_disturb_the_host(
        self, scene: Scene, running: Running, handler: str
    ) -> None:
        """Who ignores SIGCHLD is never told how its children ended."""
        scene.functions(
            f"""
            import signal
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.{handler})
            def use(block):
                if block.index == (1,): os.kill(os.getppid(), signal.SIGKILL)
                note(block)
            """
        )
        scene.plan(line(function="functions:use", shape=(4,), blocks_per_job=1))
        assert [running.run(n) for n in range(4)] == [0, -signal.SIGKILL, 0, 0]
        assert not running.host.has_died

    def test_without_threads_are_imported_once(self, scene: Scene, running: Running) -> None:
        scene.functions(
            """
            open("imported.txt", "a").write(f"{os.getpid()}\\n")
            def use(block): note(block, os.getppid())
            """
        )
        scene.plan(line(function="functions:use", shape=(4,), blocks_per_job=1))
        assert [running.run(n) for n in range(4)] == [0] * 4
        imported = list(map(int, Path("imported.txt").read_text().split()))
        assert len(imported) == 2 and imported[1] == running.host.process.pid
        assert imported[0] not in running.supervisors

    # faults: see README.md, beside the kinds
    def test_that_functions_import_inside_are_imported_once(
        self, scene: Scene, running: Running
    ) -> None:
        """And no more often for blocks that fail: the worker of a failed job does the next one."""
        Path("inside.py").write_text(
            "import os\nopen('inside.txt', 'a').write(f'{os.getpid()}\\n')\n"
        )
        scene.functions(
            """
            def use(block):
                import inside
                note(block, os.getppid())
                if block.index[0] % 2: raise ValueError
            """
        )
        scene.plan(line(function="functions:use", shape=(6,), blocks_per_job=1, max_retries=1))
        assert [running.run(n) for n in range(6)] == [0, 1] * 3
        imported = list(map(int, Path("inside.txt").read_text().split()))
        assert len(imported) == 2 and imported[1] == running.host.process.pid
        assert len({call[1] for call in scene.calls}) == 1

    @pytest.mark.parametrize(
        "code", ["sys.exit(3)", "os.abort()", "os._exit(0)", "raise ValueError('mine')"]
    )
    def test_that_cannot_be_imported_fail_in_their_job(
        self, scene: Scene, running: Running, code: str
    ) -> None:
        """And the host goes on with the jobs of other tasks."""
        Path("broken.py").write_text(f"import os, sys\n{code}\ndef f(block): pass\n")
        scene.plan(
            line("bad", "broken:f", shape=(1,), blocks_per_job=1),
            line("other", "functions:Model", shape=(2,), blocks_per_job=1),
        )
        assert running.run(0, "bad") == 1
        assert "the set-up failed" in Path("bad-0.log").read_text()
        assert running.run(0, "other") == 0

    def test_that_never_end_their_import_do_not_hold_up_others(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("slow.py").write_text("import time\ntime.sleep(1000)\n")
        monkeypatch.syspath_prepend(str(scene.folder))
        monkeypatch.setattr("snakemake_blocks.work.host._IMPORT_SECONDS", 0.3)
        assert _tried([FunctionRef("slow:f")], Path()) == []
