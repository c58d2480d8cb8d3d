"""Every task is asked for, and `whole`: what is not read is run and waited for all the same."""

# faults: kind 1
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from project import Project

import snakemake_blocks as sb
from snakemake_blocks.box import Box
from snakemake_blocks.generating import Options, check_pipeline, generate, make_plan
from snakemake_blocks.jobs import work_sentinel
from snakemake_blocks.judgement import Judge
from snakemake_blocks.resetting import reset_blocks
from snakemake_blocks.status import State, read_status

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


def masked(project: Project) -> None:
    """`up` doubles 16 blocks, `down` reads the only one that the mask leaves."""
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
            for name, source, more in (
                ("up", "s.zarr/raw", {}),
                ("down", "s.zarr/up", {"mask": "s.zarr/mask"}),
            )
        )
    )


def reduction(project: Project, **more: Any) -> None:
    """`parts` writes eight numbers, `total`, of one block, sums them up."""
    project.functions(FUNCTIONS)
    for name, size in (("parts", 8), ("total", 1)):
        project.array(f"s.zarr/{name}", np.zeros(size, int), chunks=[1], voxel_size=[1], offset=[0])
    parts = {"array": "s.zarr/parts", "dtype": "int64"}
    common = {"block_size": [1], "conflict": False, "blocks_per_job": 1}
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


@pytest.mark.e2e
class TestEveryTask:
    @pytest.mark.parametrize("explicit", [False, True], ids=["loops", "explicit"])
    def test_runs_whole_under_plain_snakemake(self, project: Project, explicit: bool) -> None:
        masked(project)
        generate(project.pipeline, options=Options(explicit=explicit))
        done = project.snakemake("--cores", "2")
        assert done.returncode == 0, done.stderr
        assert (project.read("s.zarr/up") == np.arange(32) * 2).all()
        assert project.blocks("verify").returncode == 0

    def test_runs_whole_under_run(self, project: Project) -> None:
        masked(project)
        assert project.blocks("run", "pipeline.yaml").returncode == 0
        assert (project.read("s.zarr/up") == np.arange(32) * 2).all()
        assert project.read("s.zarr/down")[6:8].tolist() == [24, 28]

    def test_all_is_waited_for_where_it_is_said(self, project: Project) -> None:
        reduction(project, **WHOLE)
        done = project.blocks("run", "pipeline.yaml", "--cores", "2")
        assert done.returncode == 0, done.stderr
        assert project.read("s.zarr/total").tolist() == [11111111]


@pytest.mark.e2e
def test_what_was_not_asked_for_is_said(project: Project) -> None:
    masked(project)
    done = project.blocks("run", "pipeline.yaml", "--", "--until", "up_p0")
    assert done.returncode == 1
    assert (
        "down: 1 pending blocks were not begun: Snakemake did all that it was asked for "
        "with --until up_p0" in done.stdout
    )


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
