"""What a dry run says, and that it writes nothing.

# faults: kind 10
"""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project

from snakemake_blocks.commands.generate import Options, generate
from snakemake_blocks.commands.run import preview_run
from snakemake_blocks.plan.paths import RunPaths

FUNCTIONS = """
    def double(raw, times=2): return raw * times
    def add(doubled): return doubled + 1
"""


def tasks(**more: Any) -> list[tuple[str, dict[str, Any]]]:
    common = {
        "call": "arrays",
        "roi": "raw.zarr/raw",
        "block_size": [4],
        "conflict": False,
        "blocks_per_job": 2,
    }
    return [
        (
            "double",
            {
                "function": "functions:double",
                "reads": {"raw": "raw.zarr/raw"},
                "writes": {"doubled": {"array": "out.zarr/doubled", "dtype": "int32"}},
                **common,
                **more.get("double", {}),
            },
        ),
        (
            "add",
            {
                "function": "functions:add",
                "reads": {"doubled": "out.zarr/doubled"},
                "writes": {"added": {"array": "out.zarr/added", "dtype": "int32"}},
                **common,
                **more.get("add", {}),
            },
        ),
    ]


@pytest.fixture
def project(project: Project) -> Project:
    project.functions(FUNCTIONS)
    project.array("raw.zarr/raw", np.arange(32, dtype=np.int32), chunks=[4])
    project.write(*tasks())
    return project


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return all files and folders with their times and contents."""
    return {
        str(p): (p.lstat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in sorted(folder.rglob("*"))
        if "__pycache__" not in p.parts
    }


def work_all(project: Project, name: str) -> None:
    """Do all jobs of a task without Snakemake."""
    assert project.cli("work", f"blocks/{name}").exit_code == 0


def done(project: Project) -> None:
    generate(project.pipeline)
    for name in ("double", "add"):
        work_all(project, name)


def test_before_anything_ran_all_is_new(project: Project) -> None:
    before = snapshot(project.folder)
    found = project.cli("run", "pipeline.yaml", "-n")
    assert found.exit_code == 0
    assert found.output.splitlines() == [
        "double: 8 of 8 blocks to do",
        "add: 8 of 8 blocks to do",
    ]
    assert snapshot(project.folder) == before


def test_both_values_of_a_parameter_are_told(project: Project) -> None:
    """And the sentinels that its change makes worthless are there afterwards."""
    project.write(*tasks(double={"params": {"times": 9000}}))
    done(project)
    project.write(*tasks(double={"params": {"times": 12000}}))
    before = snapshot(project.folder)
    assert sum(path.endswith(("/0.json", "/1.json")) for path in before) > 3
    for verb in (["run", "pipeline.yaml", "-n"], ["plan", "pipeline.yaml"]):
        told = project.cli(*verb).output
        assert "double: 8 of 8 blocks to do" in told
        assert "  8: params.times is 12000, was 9000" in told
        assert snapshot(project.folder) == before


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, ["double: nothing to do, 8 blocks are done", "add: nothing to do, 8 blocks are done"]),
        (
            {"double": {"params": {"times": 3}}},
            [
                "double: 8 of 8 blocks to do",
                "  8: params.times is 3, was not there",
                "add: 8 of 8 blocks to do",
                "  8: what they read from double is to be done again",
            ],
        ),
        (
            {"add": {"block_size": [8]}},
            [
                "double: nothing to do, 8 blocks are done",
                "add: 4 of 4 blocks to do",
                "  4: block_size is [8], was [4]",
            ],
        ),
        (
            {"double": {"blocks_per_job": 3}, "add": {"blocks_per_job": 8}},
            ["double: nothing to do, 8 blocks are done", "add: nothing to do, 8 blocks are done"],
        ),
    ],
)
def test_says_in_blocks_what_would_run_and_why(
    project: Project, change: dict[str, Any], lines: list[str]
) -> None:
    done(project)
    project.write(*tasks(**change))
    before = snapshot(project.folder)
    found = project.cli("run", "pipeline.yaml", "-n")
    told = [re.sub(r", about .* of computing", "", line) for line in found.output.splitlines()]
    assert told == lines
    plan = project.cli("plan", "pipeline.yaml")
    assert all(line in plan.output for line in lines)
    assert snapshot(project.folder) == before


def test_a_larger_region_keeps_what_is_done(project: Project) -> None:
    for name in ("doubled", "added"):
        project.array(f"out.zarr/{name}", np.zeros(32, np.int32), chunks=[4])
    small, large = ({"offset": [b], "shape": [n]} for b, n in ((8, 16), (4, 24)))
    project.write(*tasks(double={"roi": small}, add={"roi": small}))
    done(project)
    project.write(*tasks(double={"roi": large}, add={"roi": small}))
    found = preview_run(project.pipeline, Options())
    assert (found["double"].done, found["double"].to_do, found["double"].new) == (4, 2, 2)
    assert (found["add"].done, found["add"].to_do) == (4, 0)


def test_what_it_says_is_what_happens(project: Project) -> None:
    """Also when blocks lie in other ledgers under the new plan, and some were never done."""
    generate(project.pipeline)
    project.cli("work", "blocks/double/p0/0/1.json")
    project.cli("work", "blocks/double/p0/0/3.json")
    project.write(*tasks(double={"blocks_per_job": 3}))
    said = preview_run(project.pipeline, Options())["double"]
    assert (said.done, said.to_do, said.new) == (4, 4, 4)
    generate(project.pipeline)
    before = len(project.records("double"))
    work_all(project, "double")
    assert (before, len(project.records("double"))) == (4, 8)


def test_an_array_that_is_gone_takes_its_results_along(project: Project) -> None:
    import shutil

    done(project)
    shutil.rmtree(project.folder / "out.zarr" / "doubled")
    found = preview_run(project.pipeline, Options())
    assert found["double"].to_do == 8 and found["add"].to_do == 8
    assert not (project.folder / "out.zarr" / "doubled").exists()


def test_blocks_without_any_record_cost_nothing(project: Project) -> None:
    """A thousand million of them are planned, told and generated at once."""
    project.functions("def f(block): pass")
    project.write(
        (
            "vast",
            {
                "function": "functions:f",
                "roi": {"offset": [0, 0, 0], "shape": [1000, 1000, 1000]},
                "block_size": [1, 1, 1],
                "conflict": False,
            },
        )
    )
    tracemalloc.start()
    assert preview_run(project.pipeline, Options())["vast"].new == 10**9
    generate(project.pipeline)
    assert preview_run(project.pipeline, Options())["vast"].new == 10**9
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_a_plan_tells_it_as_json(project: Project) -> None:
    import json

    done(project)
    project.write(*tasks(double={"params": {"times": 3}}))
    told = json.loads(project.cli("plan", "pipeline.yaml", "--json").stdout)["tasks"]["double"]
    assert told["run"]["to_do"] == 8
    assert told["run"]["reasons"] == {"params.times is 3, was not there": 8}


@pytest.mark.e2e
class TestOwnSnakefile:
    def test_run_leaves_the_users_alone(self, project: Project) -> None:
        """And another pipeline in the same folder; each has its own in its run directory."""
        mine = project.folder / "Snakefile"
        mine.write_text("rule all:\n    shell: 'false'\n")
        assert project.blocks("run", "pipeline.yaml").returncode == 0
        other = project.pipeline.read_text().replace("out.zarr", "other.zarr")
        (project.folder / "other.yaml").write_text(other + "run_directory: beside\n")
        assert project.blocks("run", "other.yaml").returncode == 0
        assert mine.read_text() == "rule all:\n    shell: 'false'\n"
        assert not (project.folder / "envs").exists()
        assert np.array_equal(project.read("other.zarr/added"), np.arange(32) * 2 + 1)
        assert RunPaths(project.folder / "beside").plan.exists()

    def test_run_in_a_folder_that_cannot_be_written(
        self, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Snakemake runs in the run directory then, and leaves its own files there."""
        scratch = tmp_path / "scratch"
        text = project.pipeline.read_text().replace("out.zarr", str(scratch / "out.zarr"))
        project.pipeline.write_text(text + f"run_directory: {scratch}/blocks\n")
        monkeypatch.setattr(
            "snakemake_blocks.commands.generate.is_writable",
            lambda folder: folder != project.folder,
        )
        from snakemake_blocks.commands.run import run_pipeline

        before = snapshot(project.folder)
        _, state = run_pipeline(project.pipeline, Options(quiet=True))
        assert state.complete
        assert snapshot(project.folder) == before
        assert (scratch / "blocks" / ".snakemake").is_dir()


def test_results_of_another_source_are_told(project: Project) -> None:
    generate(project.pipeline)
    work_all(project, "double")
    project.functions(FUNCTIONS.replace("raw * times", "raw * times + 0"))
    lines = project.cli("run", "pipeline.yaml", "-n").stdout.splitlines()
    assert lines[0] == "double: nothing to do, 8 blocks are done"
    assert lines[1].startswith("  8 done ones count although the function's source was another")


@pytest.mark.parametrize("asked", ["-n", "--dry-run", "--dryrun", "-np"])
def test_a_dry_run_asked_of_snakemake_is_ours(project: Project, asked: str) -> None:
    before = snapshot(project.folder)
    found = project.cli("run", "pipeline.yaml", "--", asked)
    assert found.exit_code == 0 and found.stdout.startswith("double: 8 of 8 blocks to do")
    assert snapshot(project.folder) == before


def test_a_damaged_plan_is_told_once_and_stays(project: Project) -> None:
    generate(project.pipeline)
    work_all(project, "double")
    Path("blocks/plan.json").write_text("{")
    before = snapshot(project.folder)
    found = project.cli("run", "pipeline.yaml", "-n")
    assert found.stderr.count("is damaged") == found.stderr.count("a run does that") == 1
    assert found.stdout.startswith("double: nothing to do, 8 blocks are done")
    assert snapshot(project.folder) == before
    assert project.cli("generate", "pipeline.yaml").stderr.count("that is done now") == 1
