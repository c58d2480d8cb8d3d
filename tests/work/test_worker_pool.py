from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Scene, line

from snakemake_blocks.plan.plan import Job
from snakemake_blocks.system.processes import process_start
from snakemake_blocks.work.job import JobResult, run_job
from snakemake_blocks.work.worker_pool import WorkerPool

MODEL = """
    import os, time
    class Model:
        def __init__(self):
            with open("built.txt", "a") as file: file.write(f"{os.getpid()}\\n")
        def __call__(self, block):
            os.write(1, f"here is {block.index}\\n".encode())
            note(block)
            if os.path.exists(f"die-{block.index[0]}"):
                os.remove(f"die-{block.index[0]}")
                os._exit(3)
            if os.path.exists(f"raise-{block.index[0]}"): raise RuntimeError("no")
        def close(self):
            with open("closed.txt", "a") as file: file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.functions(MODEL)
    scene.plan(
        line(function="functions:Model", shape=(6,), blocks_per_job=2),
        line("other", "functions:Model", shape=(2,), blocks_per_job=1),
    )
    return scene


class Jobs:
    """Jobs of one plan, run one after another with one pool."""

    def __init__(self, scene: Scene) -> None:
        self.plan = scene.in_place
        self.root = scene.root
        self.pool = WorkerPool(lasting=True)

    def run(self, number: int, name: str = "task") -> JobResult:
        job = Job(self.plan, self.plan.tasks[name], (number,))
        self.pool.output = f"job-{name}-{number}.log"
        return run_job(job, self.root, attempt=1, environment={}, pool=self.pool)


@pytest.fixture
def jobs(scene: Scene) -> Iterator[Jobs]:
    made = Jobs(scene)
    yield made
    made.pool.close()


def lines(name: str) -> list[str]:
    path = Path(name)
    return path.read_text().split() if path.exists() else []


class TestKeep:
    def test_one_worker_does_all_jobs(self, scene: Scene, jobs: Jobs) -> None:
        assert all(jobs.run(n).complete for n in range(3))
        assert len(lines("built.txt")) == 1
        assert {call[1] for call in scene.calls} == set(lines("built.txt"))
        assert scene.called == ["0", "1", "2", "3", "4", "5"]
        assert [event for event, _, _ in scene.events()] == ["STARTED", "DONE"] * 6

    def test_each_job_prints_to_its_own_log(self, jobs: Jobs, capfd: pytest.CaptureFixture) -> None:
        for n in range(3):
            jobs.run(n)
        jobs.pool.close()
        # The first worker prints where its supervisor does when it is forked.
        assert capfd.readouterr().out == "here is (0,)\nhere is (1,)\n"
        assert Path("job-task-1.log").read_text() == "here is (2,)\nhere is (3,)\n"
        assert Path("job-task-2.log").read_text() == "here is (4,)\nhere is (5,)\n"

    def test_at_the_end_it_is_closed(self, jobs: Jobs) -> None:
        jobs.run(0)
        assert lines("closed.txt") == []
        jobs.pool.close()
        assert lines("closed.txt") == lines("built.txt")
        assert process_start(int(lines("built.txt")[0])) is None

    def test_a_bench_that_does_not_last_keeps_nobody(self, scene: Scene, jobs: Jobs) -> None:
        jobs.pool.lasting = False
        jobs.run(0)
        assert lines("closed.txt") == lines("built.txt")

    def test_several_workers(self, scene: Scene) -> None:
        scene.functions(
            """
            import time
            class Slow:
                def __init__(self): time.sleep(0.2)
                def __call__(self, block): note(block); time.sleep(0.05)
            """
        )
        scene.plan(line(function="functions:Slow", shape=(24,), blocks_per_job=8, workers=2))
        jobs = Jobs(scene)
        try:
            assert all(jobs.run(n).complete for n in range(3))
        finally:
            jobs.pool.close()
        assert len({call[1] for call in scene.calls}) == 2
        assert sorted(map(int, scene.called)) == list(range(24))


class TestReplace:
    def test_one_that_died_while_it_waited(self, jobs: Jobs) -> None:
        jobs.run(0)
        os.kill(int(lines("built.txt")[0]), signal.SIGKILL)
        time.sleep(0.05)
        assert jobs.run(1).complete
        assert len(lines("built.txt")) == 2

    def test_one_that_dies_in_a_later_job_costs_one_attempt(self, scene: Scene, jobs: Jobs) -> None:
        jobs.run(0)
        Path("die-2").touch()
        result = jobs.run(1)
        assert (result.done, result.failed) == (1, 1)
        assert [f.index for f in scene.failures(index=(1,))] == [(2,)]
        assert "exit status 3" in scene.failures(index=(1,))[0].cause
        assert jobs.run(1).complete and jobs.run(2).complete
        assert len(lines("built.txt")) == 2

    def test_a_failed_block_leaves_the_worker_in_place(self, scene: Scene, jobs: Jobs) -> None:
        Path("raise-1").touch()
        assert jobs.run(0).failed == 1
        assert jobs.run(1).complete
        assert len({call[1] for call in scene.calls}) <= 2
        text = Path(scene.failures(index=(0,))[0].log).name
        assert text == scene.paths.log("task", (0,)).name

    def test_another_task_gets_another_worker(self, jobs: Jobs) -> None:
        jobs.run(0)
        assert jobs.run(0, "other").complete
        assert lines("closed.txt") == lines("built.txt")[:1]
        assert len(lines("built.txt")) == 2

    def test_a_stopped_job_keeps_nobody(self, scene: Scene, jobs: Jobs) -> None:
        scene.paths.drain.touch()
        assert jobs.run(0).interrupted
        scene.paths.drain.unlink()
        assert jobs.run(0).complete


class TestRecords:
    def test_a_later_job_is_guarded_by_its_own_lock(self, scene: Scene, jobs: Jobs) -> None:
        """Its lock is taken away after the order has gone out: nothing more is recorded."""
        scene.functions(
            """
            import os
            from pathlib import Path
            def thief(block):
                note(block)
                if block.index == (2,):
                    for lock in Path("blocks").rglob("*.lock"): lock.unlink()
                    import time
                    time.sleep(1.2)
            """
        )
        scene.plan(line(function="functions:thief", shape=(6,), blocks_per_job=2))
        jobs.plan = scene.in_place
        assert jobs.run(0).complete
        with pytest.raises(Exception, match=r"taken away"):
            jobs.run(1)
        assert [e for e, i, _ in scene.events() if i == (2,)] == ["STARTED"]


def test_tasks_of_equal_content_are_not_mixed_up(scene: Scene) -> None:
    """After a new plan the task is another object, and its workers are set up anew."""
    jobs = Jobs(scene)
    try:
        jobs.run(0)
        task = replace(jobs.plan.tasks["task"])
        job = Job(jobs.plan, task, (1,))
        run_job(job, jobs.root, attempt=1, environment={}, pool=jobs.pool)
        assert len(lines("built.txt")) == 2
    finally:
        jobs.pool.close()
