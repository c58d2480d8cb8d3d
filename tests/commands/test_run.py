from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from project import Project

from snakemake_blocks.commands import generate as generating
from snakemake_blocks.commands.generate import (
    Options,
    check_pipeline,
    generate,
    load_plan,
    make_plan,
)
from snakemake_blocks.commands.run import exit_status
from snakemake_blocks.engine.launch import INTERRUPTED
from snakemake_blocks.errors import BusyError, InputError, SpecError
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.status import RunStatus, TaskStatus, read_status
from snakemake_blocks.system.locks import held
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.work.job import work_sentinel

ROOT = Path("blocks")


@pytest.fixture
def counting(project: Project) -> Project:
    """A pipeline of one task with twenty blocks."""
    project.functions("def count(block):\n    pass\n")
    task = {"function": "functions:count", "roi": {"offset": [0], "shape": [40]}}
    project.write(("count", {**task, "block_size": [2]}))
    return project


def task(**more: Any) -> Task:
    roi = Roi((0,), (10,))
    return Task("a", Roi((0,), (40,)), roi, roi, **{"process_function": "os.path:exists", **more})


class TestMakePlan:
    def test_of_a_file_a_task_or_several(self, counting: Project) -> None:
        assert make_plan("pipeline.yaml").tasks["count"].num_blocks == 20
        assert make_plan(counting.pipeline).name == "pipeline.yaml"
        assert make_plan(task()).tasks["a"].num_blocks == 4
        assert make_plan([task()]).fingerprint == make_plan(task()).fingerprint

    def test_jobs_are_named_as_snakemake_sees_them(self, counting: Project) -> None:
        plan = make_plan("pipeline.yaml")
        assert next(plan.jobs("count")).sentinel == "blocks/count/p0/0/0.json"

    def test_names_every_missing_function_of_a_program(self, project: Project) -> None:
        project.functions("def f(block):\n    pass\n", "own")
        wrong = task(process_function="nowhere:f", check_function=("own:no", "own:yes"))
        with pytest.raises(SpecError) as caught:
            make_plan(wrong)
        assert [problem.split(": ", 2)[:2] for problem in caught.value.problems] == [
            ["task a", "function"],
            ["task a", "check"],
            ["task a", "check.after"],
        ]

    def test_a_broken_module_of_a_program_is_named(self, project: Project) -> None:
        project.functions("def f(:\n", "broken")
        with pytest.raises(SpecError, match=r"task a: function: broken\.py, line 1: "):
            make_plan(task(process_function="broken:f"))

    @pytest.mark.parametrize("offset", [2 * 2**31, -2 * 2**31 - 2, 2 * 2**31 - 38])
    def test_refuses_blocks_that_ledgers_cannot_number(
        self, counting: Project, offset: int
    ) -> None:
        text = counting.pipeline.read_text()
        assert "- 0\n" in text
        counting.pipeline.write_text(text.replace("- 0\n", f"- {offset}\n"))
        with pytest.raises(SpecError, match=r"pipeline\.yaml: tasks\.count\.roi: blocks are numb"):
            make_plan("pipeline.yaml")
        counting.pipeline.write_text(text.replace("- 0\n", f"- {2 * 2**31 - 40}\n"))
        assert make_plan("pipeline.yaml").tasks["count"].num_blocks == 20

    def test_writes_nothing(self, counting: Project) -> None:
        before = counting.files()
        make_plan("pipeline.yaml")
        check_pipeline("pipeline.yaml")
        assert counting.files() == before


class TestGenerate:
    def test_keeps_resolved_batches_until_asked(
        self, counting: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def batch(plan: Plan) -> tuple[int, ...]:
            return plan.tasks["count"].jobs.batch

        first, _ = generate(counting.pipeline)
        from snakemake_blocks.plan import planning

        monkeypatch.setattr(planning, "batch_shape", lambda *_, **__: (5,))
        again, _ = generate(counting.pipeline)
        assert batch(again) == batch(first) == (1,)
        anew, _ = generate(counting.pipeline, options=Options(rebatch=True))
        assert batch(anew) == (5,)

    def test_says_why_results_will_not_count(
        self, counting: Project, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generate(counting.pipeline)
        generate(counting.pipeline)
        assert capsys.readouterr().err == ""
        text = counting.pipeline.read_text().replace("block_size:", "context: 3\n    block_size:")
        counting.pipeline.write_text(text)
        generate(counting.pipeline)
        told = capsys.readouterr().err
        assert told.startswith("count: context")
        assert told.endswith("was [0]; earlier results do not count\n") and told.count("\n") == 1

    def test_is_refused_while_a_job_runs(self, counting: Project) -> None:
        generate(counting.pipeline)
        before = (counting.folder / "Snakefile").read_bytes()
        with (
            held(RunPaths(ROOT).job_lock("count", (3,)), os.environ, what="job"),
            pytest.raises(BusyError, match=r"job count/3 is run by process \d+"),
        ):
            generate(counting.pipeline, options=Options(explicit=True))
        assert (counting.folder / "Snakefile").read_bytes() == before

    def test_is_refused_while_another_run_goes_on(self, counting: Project) -> None:
        with (
            held(RunPaths(ROOT).lock, os.environ, what="run"),
            pytest.raises(BusyError, match=r"is held by process"),
        ):
            generate(counting.pipeline)

    def test_is_refused_if_somebody_planned_meanwhile(
        self, counting: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate(counting.pipeline)

        def check_slowly(*arguments: Any) -> Any:
            RunPaths(ROOT).plan.write_bytes(RunPaths(ROOT).plan.read_bytes() + b"\n")
            return check(*arguments)

        check = generating.check_plan
        monkeypatch.setattr(generating, "check_plan", check_slowly)
        with pytest.raises(BusyError, match="somebody else planned here just now; try again"):
            generate(counting.pipeline)

    def test_leaves_the_snakefile_of_another_pipeline_alone(self, counting: Project) -> None:
        generate(counting.pipeline)
        other = counting.folder / "other.yaml"
        other.write_text(counting.pipeline.read_text() + "run_directory: other\n")
        with pytest.raises(InputError, match=r"Snakefile: was made from pipeline\.yaml; move it"):
            generate(other)

    def test_a_program_leaves_nothing_where_it_runs(self, project: Project) -> None:
        _, path = generate(task())
        assert path == project.folder / "blocks" / "Snakefile"
        assert {p.name for p in project.folder.iterdir()} == {"blocks"}

    def test_any_plain_folder_may_hold_state(self, counting: Project) -> None:
        text = counting.pipeline.read_text()
        for name in ("my blocks", "it's here", "../beside", "deep/er", "blöcke"):
            (counting.folder / "Snakefile").unlink(missing_ok=True)
            counting.pipeline.write_text(f'{text}run_directory: "{name}"\n')
            generate(counting.pipeline)
            assert (counting.folder / name / "plan.json").exists()


class TestOutputs:
    def test_results_are_forgotten_with_the_array_that_held_them(self, project: Project) -> None:
        project.functions("def copy(raw):\n    return raw\n")
        project.array("s.zarr/raw", np.arange(8), voxel_size=[1], offset=[0])
        tasks = [
            (
                name,
                {
                    "function": "functions:copy",
                    "call": "arrays",
                    "reads": {"raw": f"s.zarr/{source}"},
                    "writes": {"out": {"array": f"s.zarr/{name}", "dtype": "int64"}},
                    "roi": "s.zarr/raw",
                    "block_size": [4],
                },
            )
            for name, source in (("one", "raw"), ("two", "one"))
        ]
        project.write(*tasks)
        plan, _ = generate(project.pipeline)
        for name in plan.tasks:
            for job in plan.jobs(name):
                assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
        assert read_status(plan, ROOT).complete

        shutil.rmtree(project.folder / "s.zarr" / "two")
        plan, _ = generate(project.pipeline)
        found = read_status(plan, ROOT).tasks
        assert (found["one"].counts[State.DONE], found["two"].counts[State.PENDING]) == (2, 2)
        for job in plan.jobs("two"):
            assert not Path(job.sentinel).exists()
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
        assert project.read("s.zarr/two").tolist() == list(range(8))

        shutil.rmtree(project.folder / "s.zarr" / "one")
        plan, _ = generate(project.pipeline)
        found = read_status(plan, ROOT).tasks
        assert (found["one"].counts[State.PENDING], found["two"].counts[State.PENDING]) == (2, 2)


class TestLoadPlan:
    def test_from_the_run_directory_or_the_folder_around_it(self, counting: Project) -> None:
        generate(counting.pipeline)
        for where in (Path("blocks"), Path(), counting.folder):
            plan, root = load_plan(where)
            assert plan.tasks.keys() == {"count"}
            assert (root / "plan.json").exists()

    def test_a_damaged_plan_is_named(self, counting: Project) -> None:
        generate(counting.pipeline)
        RunPaths(ROOT).plan.write_text("{")
        with pytest.raises(InputError, match=r"plan\.json: is damaged"):
            load_plan(Path())


def state(**counts: int) -> RunStatus:
    return RunStatus({"a": TaskStatus("a", {s: counts.get(str(s), 0) for s in State})})


@pytest.mark.parametrize(
    ("snakemake", "found", "code"),
    [
        (0, state(done=3, masked=1), 0),
        (1, state(done=3), 0),  # Snakemake's own trouble, but every block is done
        (0, state(done=3, pending=1), 1),  # Snakemake was asked for less
        (1, state(done=3, failed=1), 1),
        (INTERRUPTED, state(done=3, pending=1), 130),
    ],
)
def test_the_exit_status_tells_what_the_ledgers_tell(
    snakemake: int, found: RunStatus, code: int
) -> None:
    assert exit_status(snakemake, found) == code


@pytest.mark.parametrize("umask, wanted", [(0o002, 0o020), (0o022, 0)])
def test_a_group_shares_the_run_directory_if_the_umask_says_so(
    project: Project, umask: int, wanted: int
) -> None:
    project.array("s.zarr/raw", np.arange(12), voxel_size=[1], offset=[0])
    project.array("s.zarr/mask", np.arange(12) < 8, voxel_size=[1], offset=[0])
    project.functions(
        """
        import os
        from pathlib import Path

        def f(raw, block):
            locks = [str(oct(p.stat().st_mode)) for p in Path("blocks").glob("*/ledger/*/*.lock")]
            assert len(locks) == 1
            Path(f"lock-{block.index[0]}").write_text(locks[0])
            if block.index[0]:
                raise ValueError("to have a failure on record")
            return raw
        """
    )
    task = {
        "function": "functions:f",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "writes": {"out": {"array": "s.zarr/out", "dtype": "int64"}},
        "roi": "s.zarr/raw",
        "block_size": [4],
        "mask": "s.zarr/mask",
        "conflict": False,
        "blocks_per_job": 1,
    }
    project.write(("task", task))
    before = os.umask(umask)
    try:
        plan, _ = generate(project.pipeline)
        codes = [
            work_sentinel(Path(job.sentinel), attempt=1, environment={})
            for job in plan.jobs("task")
        ]
    finally:
        os.umask(before)
    assert codes == [0, 1]
    found = [*ROOT.rglob("*"), ROOT, *(project.folder / "s.zarr" / "out").rglob("*")]
    kinds = {"".join(path.suffixes) for path in found}
    assert {".json", ".npz", ".failures.jsonl", ""} <= kinds
    assert {str(path): path.stat().st_mode & 0o020 for path in found} == {
        str(path): wanted for path in found
    }
    assert int((project.folder / "lock-0").read_text(), 8) & 0o020 == wanted
