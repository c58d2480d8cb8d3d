from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from project import Project
from skimage.io import imread

from snakemake_blocks.cli import main
from snakemake_blocks.commands import generate as generating

FUNCTIONS = """
    def smooth(raw, sigma=1):
        return raw

    def count(block):
        pass
"""
SMOOTH: dict[str, Any] = {
    "function": "functions:smooth",
    "call": "arrays",
    "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
    "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
    "roi": "s.zarr/raw",
    "block_size": [16, 16],
    "context": 2,
}


@pytest.fixture
def stored(project: Project) -> Project:
    """A project with functions, an array and a pipeline.yaml in which nothing is wrong."""
    project.functions(FUNCTIONS)
    project.array("s.zarr/raw", np.ones((64, 32), np.uint8), offset=[0, 0], voxel_size=[1, 1])
    project.write(("smooth", SMOOTH))
    return project


def verbs(command: click.Command = main, name: str = "") -> dict[str, click.Command]:
    """Return all verbs, those of groups included."""
    if not isinstance(command, click.Group):
        return {name.strip(): command}
    return {k: v for n, c in command.commands.items() for k, v in verbs(c, f"{name} {n}").items()}


class TestHelp:
    @pytest.mark.parametrize("name", verbs())
    def test_ends_with_an_example_that_can_be_parsed(self, name: str) -> None:
        result = CliRunner().invoke(main, [*name.split(), "--help"])
        assert result.exit_code == 0
        example = " ".join(result.output.partition("Example:")[2].split())
        command, *arguments = example.partition(" &&")[0].split()
        assert command == "snakemake-blocks" and arguments[: len(name.split())] == name.split()
        verb = verbs()[name]
        verb.make_context(name, arguments[len(name.split()) :])  # raises where it does not fit

    def test_says_what_each_verb_does(self) -> None:
        text = CliRunner().invoke(main, ["--help"]).output
        for name, verb in verbs().items():
            assert verb.help, name
            assert name.split()[0] in text


# Twelve broken files, each with another mistake, one with five; and where the mistakes are.
BROKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt": ({"blocksize": [16, 16]}, ["smooth.blocksize"]),
    "missing": ({"roi": None}, ["smooth.roi"]),
    "wrong type": ({"block_size": "large"}, ["smooth.block_size"]),
    "too few sizes": ({"block_size": [16]}, ["smooth.block_size"]),
    "negative": ({"context": -2}, ["smooth.context"]),
    "unknown fit": ({"fit": "srink"}, ["smooth.fit"]),
    "no function": ({"function": "functions:smoothe"}, ["smooth.function"]),
    "no array": ({"reads": {"raw": "s.zarr/row"}}, ["smooth.reads.raw"]),
    "dangling": ({"after": ["smoth"]}, ["smooth.after"]),
    "too small": ({"roi": {"offset": [0, 0], "shape": [8, 8]}}, ["smooth.roi"]),
    "beyond the array": ({"reads": {"raw": "s.zarr/raw"}}, ["smooth.reads.raw"]),
    "five": (
        {
            "function": "functions.smooth",
            "call": "array",
            "block_size": [16],
            "context": -2,
            "mask": "s.zarr/nowhere",
        },
        ["smooth.function", "smooth.call", "smooth.block_size", "smooth.context", "smooth.mask"],
    ),
}


class TestBrokenPipelines:
    @pytest.mark.parametrize("verb", ["plan", "check", "generate", "run"])
    @pytest.mark.parametrize("name", BROKEN)
    def test_exit_2_with_every_problem_and_write_nothing(
        self, stored: Project, name: str, verb: str
    ) -> None:
        changes, places = BROKEN[name]
        task = {key: value for key, value in {**SMOOTH, **changes}.items() if value is not None}
        stored.write(("smooth", task))
        before = stored.files()
        result = stored.cli(verb, "pipeline.yaml")
        assert result.exit_code == 2
        said = [line for line in result.output.splitlines() if "pipeline.yaml: " in line]
        lines = [line for line in said if not line.startswith("warning: ")]
        assert len(lines) == len(places)
        for place in places:
            assert sum(f"pipeline.yaml: tasks.{place}: " in line for line in lines) == 1
        assert "Traceback" not in result.output
        assert stored.files() == before

    def test_without_any_mistake_all_is_well(self, stored: Project) -> None:
        for verb in ("plan", "check", "generate"):
            assert stored.cli(verb, "pipeline.yaml").exit_code == 0


class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["plan", "no.yaml"], "no.yaml: No such file or directory"),
            (["plan", "."], "is a folder, not a file"),
            (["run", "pipeline.yaml", "--cores", "0"], "--cores"),
            (["run", "pipeline.yaml", "--profile", "no-such"], "no-such"),
            (["plan", "pipeline.yaml", "--target", "moon"], "moon"),
            (["status", "."], "no plan.json here or in blocks; generate or run a pipeline first"),
            (["verify", "nowhere"], "no plan.json here"),
            (["stop", "nowhere"], "no plan.json here"),
            (["work", "blocks/smooth/p0/0-0/0-0.json"], "run `snakemake-blocks generate` first"),
            (["generate", "pipeline.yaml", "-o", "s.zarr"], "s.zarr: is a folder; name a file"),
            (["nothing"], "No such command"),
        ],
    )
    def test_is_exit_2_without_a_traceback(
        self, stored: Project, arguments: list[str], words: str
    ) -> None:
        before = stored.files()
        result = stored.cli(*arguments)
        assert result.exit_code == 2
        assert words in result.output
        assert "Traceback" not in result.output
        assert stored.files() == before

    def test_a_file_in_the_way_is_named(self, stored: Project) -> None:
        (stored.folder / "blocks").write_text("")
        result = stored.cli("run", "pipeline.yaml")
        assert result.exit_code == 2
        assert "blocks" in result.output and "Traceback" not in result.output

    def test_ctrl_c_is_exit_130(self, stored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(generating, "check_plan", interrupted)
        assert stored.cli("plan", "pipeline.yaml").exit_code == 130

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["work", "blocks/smooth/p0/0-0/9-9.json"], "the plan has no job p0/0-0/9-9 of task"),
            (["work", "blocks/smooth/p7/0-0/0-0.json"], "the plan has no job p7"),
            (["work", "blocks/other/p0/0-0/0-0.json"], "the plan has no task other"),
            (["work", "blocks/smooth/out.json"], "is not a sentinel; one looks like"),
            (["reset", "blocks", "other"], "other"),
            (["reset", "blocks", "smooth", "--roi", "0-128"], "write begin:end per axis"),
            (["block", "blocks", "smooth", "9-9"], "9-9"),
            (["block", "blocks", "smooth", "x"], "x"),
            (["block", "blocks", "other", "0-0"], "other"),
        ],
    )
    def test_names_what_the_plan_does_not_have(
        self, stored: Project, arguments: list[str], words: str
    ) -> None:
        assert stored.cli("generate", "pipeline.yaml").exit_code == 0
        result = stored.cli(*arguments)
        assert result.exit_code == 2, result.output
        assert words in result.output
        assert "Traceback" not in result.output

    def test_too_many_jobs_for_literal_rules(self, stored: Project) -> None:
        task = {"function": "functions:count", "roi": {"offset": [0], "shape": [2001]}}
        stored.write(("count", {**task, "block_size": [1], "blocks_per_job": 1}))
        before = stored.files()
        result = stored.cli("generate", "pipeline.yaml", "--explicit")
        assert result.exit_code == 2
        assert "2,001 jobs are more than 2,000" in result.output
        assert stored.files() == before


class TestPlan:
    def test_as_json(self, stored: Project) -> None:
        found = json.loads(stored.cli("plan", "pipeline.yaml", "--json").stdout)
        task = found["tasks"]["smooth"]
        assert (task["blocks"], task["jobs"], task["phases"], task["grid"]) == (8, 8, 1, [4, 2])
        assert (found["violations"], found["name"]) == ([], "pipeline.yaml")

    def test_as_a_table(self, stored: Project) -> None:
        result = stored.cli("plan", "pipeline.yaml")
        row = next(line for line in result.stdout.splitlines() if line.startswith("│ smooth"))
        assert [cell.strip() for cell in row.split("│")[2:5]] == ["-", "8", "0"]

    def test_as_a_picture(self, stored: Project) -> None:
        assert stored.cli("plan", "pipeline.yaml", "--picture", "plan.png").exit_code == 0
        assert imread(stored.folder / "plan.png").std() > 10

    @pytest.mark.parametrize("verb", ["plan", "check", "generate", "run"])
    def test_tasks_of_other_axes_that_follow_one_another(self, stored: Project, verb: str) -> None:
        flat, deep = ({"offset": [0] * n, "shape": [8] * n} for n in (2, 3))
        one = {"function": "functions:count", "block_size": [4, 4], "roi": flat}
        two = {**one, "block_size": [4, 4, 4], "roi": deep, "after": ["one"]}
        stored.write(("one", one), ("two", two))
        result = stored.cli(verb, "pipeline.yaml", *(["--json"] if verb == "plan" else []))
        assert result.exit_code == 2
        assert "tasks.two.after: one has 2 axes and this task 3" in result.output
        if verb == "plan":
            assert json.loads(result.stdout)["tasks"]["two"]["blocks"] == 8
            table = stored.cli("plan", "pipeline.yaml").stdout.splitlines()
            assert any(line.startswith("│ two") for line in table)

    def test_writes_no_state(self, stored: Project) -> None:
        before = stored.files()
        stored.cli("plan", "pipeline.yaml")
        stored.cli("check", "pipeline.yaml")
        assert stored.files() == before

    def test_from_another_folder(
        self, stored: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert stored.cli("plan", "project/pipeline.yaml").exit_code == 0


class TestWork:
    def test_does_one_job_and_then_status_tells(self, stored: Project) -> None:
        assert stored.cli("generate", "pipeline.yaml").exit_code == 0
        before = stored.cli("status", "--json")
        assert before.exit_code == 1
        assert json.loads(before.stdout)["tasks"]["smooth"]["pending"] == 8
        result = stored.cli("work", "blocks/smooth/p0/0-0/0-0.json")
        assert result.exit_code == 0, result.output
        after = json.loads(stored.cli("status", "blocks", "--json").stdout)
        assert after["tasks"]["smooth"]["done"] == 1
        assert "smooth" in stored.cli("status").stdout
