from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from project import Project, stamps

import snakemake_blocks as sb
from snakemake_blocks.commands import blockwise
from snakemake_blocks.commands.blockwise import RunResult, TaskState, run_blockwise
from snakemake_blocks.commands.generate import Options
from snakemake_blocks.engine.launch import INTERRUPTED
from snakemake_blocks.errors import SpecError
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.status import RunStatus, TaskStatus
from snakemake_blocks.tasks.pipeline import Pipeline


def status(name: str = "a", **counts: int) -> TaskStatus:
    return TaskStatus(name, {state: counts.get(str(state), 0) for state in State})


class TestTaskState:
    def test_has_daisys_counters(self) -> None:
        state = TaskState.from_status(
            status(pending=1, running=2, done=3, failed=4, orphaned=5, masked=6)
        )
        assert state.total_block_count == 15, "masked blocks are none of daisy's"
        assert (state.ready_count, state.processing_count, state.pending_count) == (0, 2, 1)
        assert (state.completed_count, state.failed_count, state.orphaned_count) == (3, 4, 5)
        assert state.masked_count == 6

    def test_a_failed_block_is_not_done(self) -> None:
        assert TaskState.from_status(status(done=3, masked=1)).is_done()
        assert not TaskState.from_status(status(done=3, failed=1)).is_done()
        assert not TaskState.from_status(status(done=3, pending=1)).is_done()


class TestRunResult:
    def test_is_true_only_if_every_block_of_every_task_is_done(self, tmp_path: Path) -> None:
        good = RunStatus({"a": status(done=2), "b": status(masked=1, done=1)})
        bad = RunStatus({"a": status(done=2), "b": status(orphaned=1, done=1)})
        assert RunResult(good, tmp_path)
        assert not RunResult(bad, tmp_path)
        assert list(RunResult(bad, tmp_path)) == ["a", "b"]
        assert RunResult(bad, tmp_path)["b"].orphaned_count == 1
        assert str(RunResult(bad, tmp_path)) == (
            "a: 2 of 2 blocks done, 0 failed, 0 orphaned\n"
            "b: 1 of 2 blocks done, 0 failed, 1 orphaned"
        )


def task(name: str, function: Any, **more: Any) -> sb.Task:
    """Return a task of four blocks along a line."""
    roi = Roi((0,), (10,))
    return sb.Task(name, Roi((0,), (40,)), roi, roi, function, read_write_conflict=False, **more)


def test_what_is_wrong_is_said_before_anything_is_written(project: Project) -> None:
    with pytest.raises(SpecError, match="task a: function: there is no module nowhere"):
        run_blockwise(task("a", "nowhere:f"), run_directory="state")
    with pytest.raises(SpecError, match="holds the pipeline itself"):
        run_blockwise(task("a", "os.path:exists"), run_directory=".")
    assert project.files() == set()


SCRIPT = """
    import sys
    from pathlib import Path

    import helpers  # beside this script, not where it runs
    import snakemake_blocks as sb

    def task(name, function, **more):
        roi = sb.Roi((0,), (10,))
        return sb.Task(name, sb.Roi((0,), (40,)), roi, roi, function,
                       read_write_conflict=False, max_retries=0, **more)

    class Owner:
        def __init__(self, bad):
            self.bad = bad

        def process(self, block):
            if block.write_roi.begin[0] == self.bad:
                raise RuntimeError("the bad one")

    if __name__ == "__main__":
        first = task("first task", Owner(int(sys.argv[1])).process)
        second = task("second", helpers.note, upstream_tasks=[first], num_workers=2)
        result = sb.run_blockwise([second], run_directory=sys.argv[2], summary=False)
        states = {name: (s.completed_count, s.failed_count, s.orphaned_count)
                  for name, s in result.items()}
        print(bool(result), states)
"""
HELPERS = """
    from pathlib import Path

    def note(block):
        with open("notes.txt", "a") as file:
            file.write(f"{block.write_roi.begin[0]}\\n")
"""


@pytest.mark.e2e
def test_a_program_runs_tasks_and_resumes_in_the_same_directory(
    project: Project, tmp_path: Path
) -> None:
    scripts = Project(tmp_path / "scripts")
    scripts.folder.mkdir()
    scripts.functions(SCRIPT, "script")
    scripts.functions(HELPERS, "helpers")

    def run(bad: int) -> str:
        result = subprocess.run(
            [sys.executable, scripts.folder / "script.py", str(bad), "blocks"],
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()[-1]

    assert run(bad=20) == "False {'first task': (3, 1, 0), 'second': (3, 0, 1)}"
    assert sorted((project.folder / "notes.txt").read_text().split()) == ["0", "10", "30"]
    before = stamps(project.records("second"))
    assert run(bad=-1) == "True {'first task': (4, 0, 0), 'second': (4, 0, 0)}"
    after = stamps(project.records("second"))
    assert {k for k in after if after[k] != before.get(k)} == {(2,)}
    assert {p.name for p in project.folder.iterdir()} == {".snakemake", "blocks", "notes.txt"}


def test_arrays_can_be_declared_in_python(project: Project) -> None:
    """What pipeline.yaml says of arrays, a program says with the same words."""
    from snakemake_blocks.storage.arrays import describe
    from snakemake_blocks.tasks.operation import Read

    project.array("s.zarr/raw", np.arange(40), voxel_size=[1], offset=[0])
    array = describe("s.zarr/raw", project.folder)
    assert array is not None
    plan = sb.make_plan(task("a", "os.path:exists", reads={"raw": Read(array)}, call="block"))
    assert plan.tasks["a"].num_blocks == 4
    assert [job.sentinel for job in plan.jobs("a")] == [f"blocks/a/p0/0/{k}.json" for k in range(4)]


# faults: kind 3
@pytest.mark.e2e
def test_what_a_script_sets_reaches_workers_as_the_docs_say(project: Project) -> None:
    """Its own variables do, those of a module that it imports do not; `params` do."""
    project.functions(
        "SCALE = 1\ndef f(block, scale): note('module', SCALE * 10 + scale)\n"
        "def note(name, value): open(name, 'w').write(str(value))",
        "scaling",
    )
    project.functions(
        """
        import scaling
        import snakemake_blocks as sb
        SCALE = 1
        def g(block):
            scaling.note("script", SCALE)
        if __name__ == "__main__":
            scaling.SCALE = SCALE = 2
            roi = sb.Roi((0,), (10,))
            first = sb.Task("f", roi, roi, roi, scaling.f, params={"scale": 2})
            second = sb.Task("g", roi, roi, roi, g)
            assert sb.run_blockwise([first, second], summary=False, progress=False)
        """,
        "script",
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=project.folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (project.folder / "module").read_text() == "12"
    assert (project.folder / "script").read_text() == "2"


WORKERS = """
    import os, sys, time
    from pathlib import Path

    import numpy as np
    import snakemake_blocks as sb

    def task(name, function, **more):
        roi = sb.Roi((0,), (10,))
        return sb.Task(name, sb.Roi((0,), (30,)), roi, roi, function,
                       read_write_conflict=False, max_retries=0, **more)

    def meet(block):
        Path(f"here-{block.index[0]}").touch()
        give_up = time.monotonic() + 60
        while len(list(Path().glob("here-*"))) < 3:
            if time.monotonic() > give_up:
                raise RuntimeError("nobody else came")
            time.sleep(0.01)

    def alone(block):
        handle = os.open("alone", os.O_CREAT | os.O_EXCL)
        time.sleep(0.1)
        os.close(handle)
        os.unlink("alone")

    def fail(block):
        raise RuntimeError("always")

    if __name__ == "__main__":
        together = sb.run_blockwise(task("together", meet, num_workers=3))
        print(bool(together), together.run_directory)
        one = task("one", alone, max_workers=3, requires={"gpu": 1})
        two = task("two", alone, max_workers=3, requires={"gpu": 1})
        print(bool(sb.run_blockwise([one, two], resources={"gpu": 1}, summary=False)))
        mask = np.array([True, True, False])
        failed = sb.run_blockwise(task("failing", fail, skip_mask=mask), progress=False)
        print(bool(failed), failed["failing"].masked_count, failed["failing"].failed_count)
        print(failed.run_directory)
"""


@pytest.mark.e2e
def test_workers_budgets_masks_and_a_directory_that_does_not_stay(
    project: Project, tmp_path: Path
) -> None:
    project.functions(WORKERS, "script")
    there = tmp_path / "there"
    there.mkdir()
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project.folder,
        env={**os.environ, "TMPDIR": str(there)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert "True None" in said and "True" in said, result.stdout
    assert "together: 3 of 3 blocks done, 0 failed" in result.stderr
    assert "one: 3 of 3 blocks done" in result.stderr
    assert "False 2 1" in said
    shown = [line for line in result.stderr.splitlines() if "blocks done" in line]
    assert not [line for line in shown if line.startswith("failing")], "progress=False"
    assert "RuntimeError: always" in result.stdout
    kept = Path(said[-1])
    assert [p for p in there.glob("blocks-*") if (p / "plan.json").exists()] == [kept]
    log = kept / "failing" / "logs" / "0" / "2.log"
    assert "RuntimeError: always" in log.read_text()
    assert not list((project.folder / ".snakemake" / "metadata").glob("*"))


def test_a_budget_that_no_job_fits_into_is_refused(project: Project) -> None:
    greedy = task("a", "os.path:exists", requires={"gpu": 2}, workers=2)
    with pytest.raises(SpecError) as caught:
        run_blockwise(greedy, resources={"gpu": 3})
    assert caught.value.problems == (
        "task a: requires.gpu: a job takes 4, the budget is 3; raise it with "
        "run_blockwise(..., resources={'gpu': 4})",
    )
    with pytest.raises(SpecError, match="a job takes 4, the budget is 0"):
        run_blockwise(greedy)
    assert project.files() == set()


class TestOptions:
    """What Snakemake is asked, without one."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Options]:
        found: list[Options] = []

        def run(pipeline: Pipeline, options: Options) -> tuple[int, RunStatus]:
            found.append(options)
            interrupted = pipeline.tasks[0].task_id == "interrupted"
            counts = status(pending=4) if interrupted else status(done=4)
            return INTERRUPTED if interrupted else 0, RunStatus({"a": counts})

        monkeypatch.setattr(blockwise, "run_pipeline", run)
        return found

    def test_cores_are_what_num_workers_ask_for(
        self, project: Project, asked: list[Options]
    ) -> None:
        first = task("a", "os.path:exists", num_workers=50)
        second = task("b", "os.path:exists", num_workers=3, threads=2, upstream_tasks=[first])
        run_blockwise(second, summary=False)
        run_blockwise(second, summary=False, cores=2)
        assert [options.cores for options in asked] == [56, 2], "a worker may wait for a cluster"

    def test_budgets_and_progress_are_passed_on(
        self, project: Project, asked: list[Options]
    ) -> None:
        run_blockwise(task("a", "os.path:exists"), resources={"gpu": 2, "io": 1}, summary=False)
        run_blockwise(task("a", "os.path:exists"), progress=False, run_directory="b", summary=False)
        assert asked[0].snakemake_arguments[-3:] == ("--resources", "gpu=2", "io=1")
        assert [options.quiet for options in asked] == [False, True]
        assert asked[1].snakemake_arguments == ()

    def test_an_interrupt_goes_up_after_the_summary(
        self, project: Project, asked: list[Options], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            run_blockwise(task("interrupted", "os.path:exists"), run_directory="state")
        assert "pending" in capsys.readouterr().out
