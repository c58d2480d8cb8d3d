"""Every task is asked for, and `whole`: what is not read is run and waited for all the same."""

# faults: kind 1
from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from project import Project

import snakemake_blocks as sb
from snakemake_blocks.commands.generate import Options, check_pipeline, generate, make_plan
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.state.status import read_status
from snakemake_blocks.work.job import work_sentinel

ROOT = Path("blocks")

FUNCTIONS = """
    import zarr

    def double(raw):
        return raw * 2

    def part(block):
        parts = zarr.open_array("s.zarr/parts", mode="r+")
        parts[block.index[0]] = 10 ** block.index[0]

    def total(block):
        parts = zarr.open_array("s.zarr/parts", mode="r")
        zarr.open_array("s.zarr/total", mode="r+")[0] = parts[:].sum()
"""


MASKED = {"mask": "s.zarr/mask"}
SMALLER = {"roi": {"offset": [6], "shape": [2]}}


def less(project: Project, below: dict[str, Any] = MASKED) -> None:
    """`up` doubles 16 blocks, `down` reads the only one that its mask or roi leaves."""
    project.functions(FUNCTIONS)
    project.array("s.zarr/raw", np.arange(32), voxel_size=[1], offset=[0])
    project.array("s.zarr/mask", np.arange(16) == 3, voxel_size=[2], offset=[0])
    common = {"function": "functions:double", "call": "arrays", "block_size": [2]}
    common |= {"roi": "s.zarr/raw", "conflict": False, "blocks_per_job": 8}
    out = {"up": "s.zarr/up", "down": "s.zarr/down"}
    project.write(
        *(
            (
                name,
                {
                    **common,
                    **more,
                    "reads": {"raw": source},
                    "writes": {"out": {"array": out[name], "dtype": "int64"}},
                },
            )
            for name, source, more in (("up", "s.zarr/raw", {}), ("down", "s.zarr/up", below))
        )
    )


def reduction(project: Project, **more: Any) -> None:
    """`parts` writes eight numbers, `total`, of one block, sums them up."""
    project.functions(FUNCTIONS)
    for name, size in (("parts", 8), ("total", 1)):
        project.array(f"s.zarr/{name}", np.zeros(size, int), chunks=[1], voxel_size=[1], offset=[0])
    parts = {"array": "s.zarr/parts", "dtype": "int64"}
    common = {"block_size": [1], "conflict": False, "blocks_per_job": 4}
    project.write(
        (
            "parts",
            {
                **common,
                "function": "functions:part",
                "roi": {"offset": [0], "shape": [8]},
                "writes": {"parts": parts},
            },
        ),
        (
            "total",
            {
                **common,
                "function": "functions:total",
                "roi": {"offset": [0], "shape": [1]},
                "reads": {"parts": "s.zarr/parts"},
                "writes": {"total": {"array": "s.zarr/total", "dtype": "int64"}},
                **more,
            },
        ),
    )


WHOLE = {"after": [{"task": "parts", "whole": True}]}


def by_snakemake(project: Project, *, explicit: bool = False) -> None:
    generate(project.pipeline, options=Options(explicit=explicit))
    done = project.snakemake("--cores", "2")
    assert done.returncode == 0, done.stderr


def by_module(project: Project) -> None:
    shipped = Path(__file__).parents[2] / "workflow" / "Snakefile"
    (project.folder / "Snakefile").write_text(
        f"module ours:\n    snakefile: {str(shipped)!r}\n"
        "    config: {'pipeline': 'pipeline.yaml'}\n\nuse rule * from ours as ours_*\n"
    )
    done = project.snakemake("--cores", "2")
    assert done.returncode == 0, done.stderr


def by_run(project: Project) -> None:
    assert project.cli("check", "pipeline.yaml").exit_code == 0
    done = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert done.returncode == 0, done.stderr


def by_program(project: Project) -> None:
    *rest, last = sb.load_pipeline("pipeline.yaml").tasks
    last = replace(last, upstream_tasks=rest)
    assert sb.run_blockwise(last, run_directory="blocks", progress=False, summary=False)


def by_hand(project: Project) -> None:
    plan, _ = generate(project.pipeline)
    for name in plan.tasks:
        assert project.cli("work", f"blocks/{name}").exit_code == 0


WAYS = {
    "snakemake": by_snakemake,
    "snakemake, explicit": partial(by_snakemake, explicit=True),
    "module": by_module,
    "run": by_run,
    "run_blockwise": by_program,
    "work": by_hand,
}


@pytest.mark.e2e
class TestEveryTask:
    @pytest.mark.parametrize(
        ("way", "below"), [*((way, MASKED) for way in WAYS), ("snakemake", SMALLER)]
    )
    def test_runs_whole(self, project: Project, way: str, below: dict[str, Any]) -> None:
        """And complete is said of nothing else."""
        less(project, below)
        WAYS[way](project)
        assert (project.read("s.zarr/up") == np.arange(32) * 2).all()
        assert project.read("s.zarr/down").sum() == 24 + 28
        assert project.blocks("verify").returncode == 0

    def test_a_pilot_runs_all_that_lies_there(self, project: Project) -> None:
        """No block of `down` does, and one of `up` that it reads."""
        less(project)
        done = project.blocks("run", "pipeline.yaml", "--roi", "0:6")
        assert done.returncode == 0, done.stderr
        assert project.read("s.zarr/up").tolist() == [*range(0, 12, 2), *[0] * 26]
        done = project.blocks("run", "pipeline.yaml", "--roi", "4:16")
        assert done.returncode == 0, done.stderr
        assert project.read("s.zarr/up").tolist() == [*range(0, 32, 2), *[0] * 16]
        assert project.read("s.zarr/down").sum() == 24 + 28

    @pytest.mark.parametrize("way", ["snakemake", "run", "run_blockwise", "work"])
    def test_all_is_waited_for_where_it_is_said(self, project: Project, way: str) -> None:
        reduction(project, **WHOLE)
        WAYS[way](project)
        assert project.read("s.zarr/total").tolist() == [11111111]


@pytest.mark.e2e
def test_what_was_not_asked_for_is_said_of_each_task(project: Project) -> None:
    less(project)
    done = project.blocks("run", "pipeline.yaml", "--", "--until", "blocks/up/p0/0/0.json")
    assert done.returncode == 1
    for count, task in ((8, "up"), (1, "down")):
        assert f"{task}: {count} pending blocks were not begun: Snakemake did all" in done.stdout


class TestWhole:
    def test_of_a_task_with_other_axes(self) -> None:
        unit = Roi((0,), (1,))
        up = sb.Task("up", Roi((0, 0), (4, 4)), Roi((0, 0), (2, 2)), Roi((0, 0), (2, 2)), "os:open")
        down = sb.Task(
            "down", unit, unit, unit, "os:open", upstream_tasks=[up],
            after=[sb.After("up", whole=True)],
        )  # fmt: skip
        plan, proof = check_pipeline([down])
        assert proof.violations == ()
        assert "down: every block waits for all of up" in proof.proved
        (job,) = plan.jobs("down")
        assert job.inputs == ["blocks/up/done.json"]

    def test_changes_no_other_fingerprint(self, project: Project) -> None:
        reduction(project)
        plain = make_plan("pipeline.yaml").tasks["total"]
        reduction(project, after=["parts"])
        assert make_plan("pipeline.yaml").tasks["total"].fingerprint == plain.fingerprint
        reduction(project, **WHOLE)
        assert make_plan("pipeline.yaml").tasks["total"].fingerprint != plain.fingerprint

    def test_without_it_a_function_that_may_read_more_is_warned_of(self, project: Project) -> None:
        reduction(project)
        _, proof = check_pipeline("pipeline.yaml")
        (warning,) = [text for text in proof.warnings if text.startswith("tasks.total.reads.parts")]
        assert "add after: [{task: parts, whole: true}] if the function reads more" in warning
        reduction(project, **WHOLE)
        assert not [w for w in check_pipeline("pipeline.yaml")[1].warnings if "total.reads" in w]

    def test_every_block_of_it_counts(self, project: Project) -> None:
        reduction(project, **WHOLE)
        plan, _ = generate(project.pipeline)
        for job in plan.jobs("parts"):
            work_sentinel(Path(job.sentinel), attempt=1, environment={})
        work_sentinel(Path("blocks/total/p0/0/0.json"), attempt=1, environment={})
        assert Judge(plan, ROOT).judge_all(plan.tasks["total"]).done.all()
        reset_blocks(plan, ROOT, "parts", roi=Box((7,), (8,)))
        state = read_status(plan, ROOT).tasks["total"]
        assert state.counts[State.PENDING] == 1 and state.waiting == {"parts": 1}
        assert state.reasons == {"what they read from parts is to be done again": 1}
