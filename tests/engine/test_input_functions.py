from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.engine.input_functions import Rules, all_resources, prepare_environment
from snakemake_blocks.errors import InputError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.work.stop_reasons import CONDUCTOR


def wildcards(job: Any) -> SimpleNamespace:
    """Return what Snakemake hands to an input function of the rule of a job."""
    return SimpleNamespace(job="/".join(Path(job.sentinel).with_suffix("").parts[-2:]))


@pytest.fixture
def planned(project: Project, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a chain of two tasks, in conflict, the second one with limits."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv(CONDUCTOR, "0:0")
    project.functions("def f(block):\n    pass\n")
    common = {"function": "functions:f", "roi": {"offset": [0, 0], "shape": [48, 32]}}
    limits = {"max_workers": 3, "workers": 2, "resources": {"runtime": 20, "gpu": 1, "mem": "2GB"}}
    project.write(
        ("up", {**common, "block_size": [2, 2], "context": 2, "blocks_per_job": [1, 1]}),
        ("down", {**common, "block_size": [16, 32], "after": ["up"], "context": 3, **limits}),
    )
    plan, _ = generate(project.pipeline)
    return plan


class TestInputs:
    def test_are_those_of_the_plan(self, planned: Plan) -> None:
        rules = Rules("blocks")
        for task in planned.tasks:
            conflicts, upstream = rules.conflicts(task), rules.upstream(task)
            for job in list(planned.jobs(task))[::7]:
                assert conflicts(wildcards(job)) == job.conflicts
                assert upstream(wildcards(job)) == job.upstream

    def test_many_upstream_jobs_are_asked_for_by_their_aggregates(self, planned: Plan) -> None:
        rules = Rules("blocks")
        job = next(planned.jobs("down"))
        inputs = rules.upstream("down")(wildcards(job))
        assert 0 < len(inputs) <= 128
        assert all(path.startswith("blocks/up/tree/1/") for path in inputs)
        below = rules.below("up", 1)(SimpleNamespace(node="0"))
        assert len(below) == 128 and below[0] == "blocks/up/p0/0-0/0-0.json"

    def test_done_stands_on_everything(self, planned: Plan) -> None:
        rules = Rules("blocks")
        assert rules.top("up") == [f"blocks/up/tree/1/{n}.json" for n in range(3)]
        assert sorted(rules.top("down")) == sorted(job.sentinel for job in planned.jobs("down"))
        assert rules.targets == ["blocks/up/done.json", "blocks/down/done.json"]

    def test_patterns_match_the_jobs_and_nothing_else(self, planned: Plan) -> None:
        rules = Rules("blocks")
        pattern = rules.job_pattern(planned.tasks["up"])
        for job in planned.jobs("up"):
            assert re.fullmatch(pattern, wildcards(job).job)
        for other in ("0-0", "0/0", "0-0/0-0-0", "a-0/0-0", "0-0/0-0.json"):
            assert not re.fullmatch(pattern, other)

    def test_paths_are_given_without_the_prefix_of_a_module(
        self, planned: Plan, project: Project
    ) -> None:
        (project.folder / "pre").mkdir()
        (project.folder / "blocks").rename(project.folder / "pre" / "blocks")
        rules = Rules("blocks", "pre/")
        assert rules.root == "blocks"
        assert rules.targets == ["blocks/up/done.json", "blocks/down/done.json"]
        assert rules.upstream("down")(wildcards(next(planned.jobs("down"))))[0].startswith("blocks")

    def test_without_a_plan_the_next_step_is_named(self, project: Project) -> None:
        with pytest.raises(InputError, match="run `snakemake-blocks generate` first"):
            Rules("blocks")


class TestResources:
    def test_memory_and_runtime_grow_with_the_attempt(self, planned: Plan) -> None:
        resources = Rules("blocks").resources(planned.tasks["down"])
        assert [resources["runtime"](None, attempt) for attempt in (1, 2, 3)] == [20, 40, 60]
        assert resources["gpu"] == 1
        assert [resources["mem"](None, attempt) for attempt in (1, 2)] == [2000, 4000]

    def test_a_job_takes_its_workers_of_the_limit(self, planned: Plan) -> None:
        assert dict(all_resources(planned.tasks["down"]))["down_workers"] == 2
        assert "up_workers" not in dict(all_resources(planned.tasks["up"]))


class TestEnvironment:
    def test_jobs_find_the_command_beside_this_python(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
        monkeypatch.setenv(CONDUCTOR, "0:0")
        prepare_environment()
        prepare_environment()
        folder = os.path.dirname(sys.executable)
        assert os.environ["PATH"] == f"{folder}:/usr/bin:/bin"
        assert os.environ[CONDUCTOR].startswith(f"{os.getpid()}:")

    def test_one_of_another_environment_does_not_come_first(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        other, folder = tmp_path / "snakemake-blocks", os.path.dirname(sys.executable)
        other.write_text("#!/bin/sh\n")
        other.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{folder}")
        monkeypatch.setenv(CONDUCTOR, "0:0")
        prepare_environment()
        assert os.environ["PATH"] == f"{folder}:{tmp_path}:{folder}"
