from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from faults import SIZE, Scene, catches, hurry, line

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.locks import Holder, Lock, held
from snakemake_blocks.work import claims
from snakemake_blocks.work.claims import is_task_folder, work_task
from snakemake_blocks.work.job import work_sentinel

WORK = """
import os, sys
os.chdir({folder!r})
from pathlib import Path
from snakemake_blocks.work import claims
from snakemake_blocks.system import locks
claims._POLL_SECONDS = 0.02
locks.TIMING.idle, locks.TIMING.poll = {idle}, 0.02
sys.exit(claims.work_task(Path("blocks") / {name!r}, environment=os.environ))
"""


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hurry(monkeypatch, idle=0.3)
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.02)
    return scene


def work(name: str = "task") -> int:
    return work_task(Path("blocks") / name, environment={})


def start(scene: Scene, name: str = "task", *, idle: float = 1.0) -> subprocess.Popen[str]:
    code = WORK.format(folder=str(scene.folder), name=name, idle=idle)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


NAPS = """
    import random, time
    def naps(block):
        note(block, f"+{time.monotonic()}")
        time.sleep(random.random() / 50)
        note(block, f"-{time.monotonic()}")
"""


class TestAlone:
    def test_all_jobs_of_all_phases(self, scene: Scene) -> None:
        scene.plan(line(shape=(3, 3), context=SIZE, blocks_per_job=1))
        assert work() == 0
        assert len(scene.called) == len(set(scene.called)) == 9
        task = scene.in_place.tasks["task"]
        phases = [task.phases.of(tuple(map(int, name.split("-")))) for name in scene.called]
        assert phases == sorted(phases)
        assert work() == 0
        assert len(scene.called) == 9

    def test_the_command(self, scene: Scene) -> None:
        scene.functions("def says(block): note(block); print(block.index); 1 // block.index[0]")
        scene.plan(line(function="functions:says", blocks_per_job=2))
        command = [str(Path(sys.executable).parent / "snakemake-blocks"), "work", "blocks/task"]
        found = subprocess.run(command, cwd=scene.folder, capture_output=True, text=True)
        assert found.returncode == 1 and found.stderr == ""
        assert found.stdout.splitlines() == [
            "task/0: 1 of 2 blocks done, 1 failed; log: blocks/task/logs/0/0.log",
            "task/1: 2 of 2 blocks done",
            "task: 1 of 2 jobs are left, 1 failed here",
        ]
        assert sorted(scene.called) == ["0", "1", "2", "3"]
        log = (scene.root / "task/logs/0/0.log").read_text()
        assert "ZeroDivisionError" in log and "(1,)" in log

    def test_what_snakemake_would_do_next_is_nothing(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=1))
        assert work() == 0
        assert work_sentinel(scene.paths.done("task"), attempt=1, environment={}) == 0

    def test_upstream_first(self, scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
        up = line("up", blocks_per_job=1)
        down = line("down", upstream_tasks=[up], blocks_per_job=1)
        scene.plan(up, down)
        scene.run("up", (2,))
        assert work("down") == 1
        assert scene.called == ["2", "2"]
        assert (
            "down: 3 of 4 jobs are left, 3 wait for jobs that nobody runs" in capfd.readouterr().out
        )
        assert work("up") == 0
        assert work("down") == 0

    def test_more_inputs_than_an_aggregate_holds(self, scene: Scene) -> None:
        """Snakemake would make tree nodes; here the jobs themselves are looked at."""
        up = line("up", shape=(130,), blocks_per_job=1)
        down = line(
            "down",
            shape=(130,),
            context=130 * SIZE,
            read_write_conflict=False,
            upstream_tasks=[up],
            blocks_per_job=130,
        )
        scene.plan(up, down)
        assert any("tree" in path for path in scene.job("down").inputs)
        assert work("up") == 0
        assert work("down") == 0

    def test_a_failed_job_is_tried_once_and_the_others_go_on(
        self, scene: Scene, capfd: pytest.CaptureFixture[str]
    ) -> None:
        scene.functions("def f(block):\n    note(block)\n    1 / (block.index[0] - 1)\n")
        scene.plan(line(function="functions:f", blocks_per_job=1, max_retries=1))
        assert work() == 1
        assert Counter(scene.called) == {"0": 1, "1": 2, "2": 1, "3": 1}
        assert "task: 1 of 4 jobs are left, 1 failed here" in capfd.readouterr().out
        scene.functions("def f(block): note(block)")
        assert work() == 0
        assert Counter(scene.called) == {"0": 1, "1": 3, "2": 1, "3": 1}

    def test_a_stale_lock_is_taken_over(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=1))
        me = Holder.this_process({})
        for k, holder in enumerate((replace(me, start=1), replace(me, host="node7"))):
            path = scene.paths.job_lock("task", (k,))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(Lock(path, holder)._content())
        began = time.monotonic()
        assert work() == 0
        assert time.monotonic() - began >= 0.6
        assert scene.called == ["0", "2", "3", "1"]

    def test_another_plan_in_the_middle(self, scene: Scene) -> None:
        scene.functions(
            """
            def f(block):
                note(block)
                if block.index[0] == 1:
                    from pathlib import Path
                    Path("changed").touch()
            """
        )
        scene.plan(line(function="functions:f", shape=(6,), blocks_per_job=2))
        real = claims.run_job

        def change(*arguments: object, **more: object) -> object:
            if Path("changed").exists():
                Path("changed").unlink()
                scene.plan(line(function="functions:f", shape=(6,), blocks_per_job=3))
            return real(*arguments, **more)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "run_job", change)
            assert work() == 0
        assert Counter(scene.called) == {str(n): 1 for n in range(6)}
        assert scene.judgement().done.all()

    def test_who_is_meant(self, scene: Scene) -> None:
        scene.plan(line())
        assert is_task_folder(Path("blocks/task"))
        assert not is_task_folder(scene.sentinel())
        assert not is_task_folder(Path("blocks"))
        with pytest.raises(InputError, match="the plan has no task other; known are task"):
            work("other")


class TestStopping:
    @pytest.mark.parametrize("number, status", [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
    def test_by_signal(self, scene: Scene, number: signal.Signals, status: int) -> None:
        scene.functions("import time\ndef naps(block): note(block); time.sleep(0.3)")
        scene.plan(line(function="functions:naps", shape=(9,), blocks_per_job=1))
        process = start(scene)
        while len(scene.calls) < 2:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == status
        assert f"stopped by {number.name}" in out
        assert work() == 0

    def test_while_it_waits(self, scene: Scene) -> None:
        up = line("up")
        scene.plan(up, line("down", upstream_tasks=[up]))
        process = start(scene, "down", idle=600)
        while not catches(process.pid, signal.SIGTERM):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130

    def test_by_stop(self, scene: Scene) -> None:
        scene.plan(line())
        scene.paths.drain.touch()
        assert work() == 1
        assert scene.calls == []


class TestTogether:
    def spans(self, scene: Scene) -> list[tuple[tuple[int, ...], float, float]]:
        begun: dict[tuple[str, str], float] = {}
        found = []
        for block, pid, text in scene.calls:
            if text[0] == "+":
                begun[block, pid] = float(text[1:])
            else:
                index = tuple(map(int, block.split("-")))
                found.append((index, begun[block, pid], float(text[1:])))
        return found

    def test_several_on_one_task(self, scene: Scene) -> None:
        """Every block once, and no two in conflict at the same time."""
        scene.functions(NAPS)
        task = line(function="functions:naps", shape=(6, 6), context=SIZE, blocks_per_job=[2, 1])
        scene.plan(task)
        workers = [start(scene) for _ in range(3)]
        assert [p.wait(timeout=60) for p in workers] == [0, 0, 0]
        for process in workers:
            process.communicate()
        spans = self.spans(scene)
        assert sorted(index for index, _, _ in spans) == sorted(scene.in_place.tasks["task"].grid)
        assert len({pid for _, pid, _ in scene.calls}) > 3
        reach = scene.in_place.tasks["task"].block_phases
        for k, (one, begin, end) in enumerate(spans):
            for other, begin_2, end_2 in spans[k + 1 :]:
                if reach.conflicting(one).contains(other):
                    assert end <= begin_2 or end_2 <= begin

    def test_one_budget_for_workers_that_began_together(self, scene: Scene) -> None:
        scene.functions(
            """
            import time
            def fails(block):
                note(block)
                time.sleep(1.5)
                raise ValueError("no")
            """
        )
        scene.plan(line(function="functions:fails", shape=(1,), max_retries=2))
        workers = [start(scene, idle=2.0) for _ in range(3)]
        for process in workers:
            process.communicate(timeout=60)
            assert process.returncode == 1
        assert len(scene.called) == 3

    def test_on_the_task_and_on_its_upstream(self, scene: Scene) -> None:
        scene.functions(NAPS)
        up = line("up", "functions:naps", shape=(12,), blocks_per_job=1)
        down = line("down", "functions:naps", shape=(12,), upstream_tasks=[up], blocks_per_job=1)
        scene.plan(up, down)
        workers = [start(scene, "down"), start(scene, "up")]
        assert [p.wait(timeout=60) for p in workers] == [0, 0]
        for process in workers:
            process.communicate()

    def test_killed_ones_are_replaced(self, scene: Scene) -> None:
        scene.functions("import time\ndef naps(block): note(block); time.sleep(0.2)")
        task = line(function="functions:naps", shape=(12,), blocks_per_job=2, max_retries=1)
        scene.plan(task)
        workers = [start(scene) for _ in range(2)]
        while len(scene.calls) < 3:
            time.sleep(0.01)
        stamps = scene.stamps()
        workers[0].kill()
        workers[0].communicate()
        assert workers[1].wait(timeout=60) == 0
        workers[1].communicate()
        assert stamps.items() <= scene.stamps().items()
        assert sorted(Counter(scene.called).values()) in ([1] * 12, [1] * 11 + [2])

    def test_it_waits_while_a_run_goes_on(self, scene: Scene) -> None:
        up = line("up")
        scene.plan(up, line("down", upstream_tasks=[up]))
        with held(scene.paths.lock, {}):
            process = start(scene, "down", idle=0.1)
            time.sleep(1.5)
            assert process.poll() is None
            threading.Thread(target=scene.run, args=("up",)).start()
            assert process.wait(timeout=30) == 0
        process.communicate()
