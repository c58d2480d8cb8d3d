from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
from project import BIN, Project

from snakemake_blocks.commands.generate import Options, generate, make_plan
from snakemake_blocks.engine.snakefile import (
    COMMAND,
    conda_environment,
    explicit_snakefile,
    module_snakefile,
    snakefile,
)
from snakemake_blocks.errors import InputError, PlanError, SpecError

ROOT = Path(__file__).parents[2]
Compare = Callable[[str, str], None]

FUNCTIONS = """
    def smooth(raw, sigma):
        return raw

    def objects(smoothed, found):
        return found

    def count(block):
        pass
"""


@pytest.fixture
def three_tasks(project: Project) -> Project:
    """Smooth; find objects in bigger jobs, masked and in conflict; count in bigger blocks."""
    project.functions(FUNCTIONS)
    project.array("s.zarr/raw", np.ones((48, 32), np.uint8), offset=[0, 0], voxel_size=[1, 1])
    mask = np.ones((6, 4), np.uint8)
    mask[0, :2] = mask[4, 1] = 0
    project.array("s.zarr/mask", mask, offset=[0, 0], voxel_size=[8, 8])
    project.write(
        (
            "smooth",
            {
                "function": "functions:smooth",
                "call": "arrays",
                "params": {"sigma": 1},
                "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
                "writes": {"smoothed": {"array": "s.zarr/smoothed", "dtype": "uint8"}},
                "roi": "s.zarr/raw",
                "block_size": [16, 16],
                "context": 3,
                "conflict": False,
                "resources": {"mem_mb": 2000, "runtime": 30, "queue": 'a "b"'},
                "threads": 2,
            },
        ),
        (
            "objects",
            {
                "function": "functions:objects",
                "call": "arrays",
                "reads": {
                    "smoothed": {"array": "s.zarr/smoothed", "fill": 0},
                    "found": {"array": "s.zarr/found", "fill": 0},
                },
                "writes": {"found": {"array": "s.zarr/found", "dtype": "uint32"}},
                "roi": "s.zarr/raw",
                "block_size": [8, 8],
                "context": 2,
                "mask": "s.zarr/mask",
                "blocks_per_job": [2, 1],
                "max_workers": 3,
                "workers": 2,
            },
        ),
        (
            "count",
            {
                "function": "functions:count",
                "roi": "s.zarr/raw",
                "block_size": [24, 32],
                "after": ["objects"],
            },
        ),
    )
    return project


def without_fingerprint(text: str) -> str:
    """Return a Snakefile's text with the plan's fingerprint, which any change alters, masked."""
    text = re.sub(r"(?m)^(# Made by .* plan )[0-9a-f]{16}\.$", r"\1FINGERPRINT.", text)
    return re.sub(r'(?m)^(blocks = Rules\(.*plan=")[0-9a-f]{16}', r"\1FINGERPRINT", text)


class TestText:
    def test_with_loops(self, three_tasks: Project, golden: Compare) -> None:
        text = snakefile(make_plan(three_tasks.pipeline), version="1.2.3")
        golden("loops.smk", without_fingerprint(text))

    def test_with_a_rule_per_job(self, three_tasks: Project, golden: Compare) -> None:
        text = explicit_snakefile(make_plan(three_tasks.pipeline), version="1.2.3")
        golden("explicit.smk", without_fingerprint(text))

    def test_as_a_module(self, golden: Compare) -> None:
        golden("../../workflow/Snakefile", module_snakefile())

    def test_the_environment(self, golden: Compare) -> None:
        golden("blocks.yaml", conda_environment("1.2.3"))

    def test_names_plan_and_version(self, three_tasks: Project) -> None:
        plan = make_plan(three_tasks.pipeline)
        first = snakefile(plan, version="1.2.3").splitlines()[0]
        assert (
            first
            == f"# Made by snakemake-blocks 1.2.3 from pipeline.yaml, plan {plan.fingerprint}."
        )

    def test_is_as_short_as_promised(self, three_tasks: Project) -> None:
        text = snakefile(make_plan(three_tasks.pipeline), version="1.2.3")
        assert len(text.splitlines()) <= 60 + 3 * 45

    def test_commands_are_the_same_bytes_everywhere(self, three_tasks: Project) -> None:
        plan = make_plan(three_tasks.pipeline)
        module = (ROOT / "workflow" / "Snakefile").read_text()
        texts = [snakefile(plan, version=""), explicit_snakefile(plan, version=""), module]
        for text in texts:
            commands = set(re.findall(r'shell:\s+"(.*)"', text))
            assert commands == {COMMAND}

    def test_holds_no_absolute_path(self, three_tasks: Project) -> None:
        plan = make_plan(three_tasks.pipeline)
        for text in (snakefile(plan, version=""), explicit_snakefile(plan, version="")):
            assert str(three_tasks.folder) not in text
            assert not re.search(r'"/', text)

    def test_too_many_literal_rules_are_refused(self, project: Project) -> None:
        project.functions(FUNCTIONS)
        task = {"function": "functions:count", "roi": {"offset": [0], "shape": [2001]}}
        project.write(("count", {**task, "block_size": [1], "context": 0, "blocks_per_job": 1}))
        with pytest.raises(
            PlanError, match=r"2,001 jobs are more than 2,000; leave --explicit out"
        ):
            explicit_snakefile(make_plan(project.pipeline), version="")

    def test_many_jobs_are_gathered_by_a_tree(self, project: Project) -> None:
        project.functions(FUNCTIONS)
        task = {"function": "functions:count", "roi": {"offset": [0], "shape": [300]}}
        project.write(("count", {**task, "block_size": [1], "blocks_per_job": 1}))
        plan = make_plan(project.pipeline)
        assert "rule count_tree1:" in snakefile(plan, version="")
        text = explicit_snakefile(plan, version="")
        nodes = {len(re.findall(r'^            "', rule, re.M)) for rule in text.split("rule ")[2:]}
        assert max(nodes) == 128


class TestGenerate:
    def test_twice_gives_the_same_bytes(self, three_tasks: Project) -> None:
        for options in (Options(), Options(explicit=True)):
            seen = []
            for _ in range(2):
                generate(three_tasks.pipeline, options=options)
                files = ("Snakefile", "blocks/plan.json", "envs/blocks.yaml")
                seen.append([(three_tasks.folder / name).read_bytes() for name in files])
            assert seen[0] == seen[1]

    def test_from_elsewhere_gives_the_same_bytes(
        self, three_tasks: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        generate(three_tasks.pipeline)
        before = (three_tasks.folder / "Snakefile").read_bytes()
        monkeypatch.chdir(tmp_path)
        generate(Path("project/pipeline.yaml"))
        assert (three_tasks.folder / "Snakefile").read_bytes() == before

    def test_both_layouts_share_one_plan(self, three_tasks: Project) -> None:
        plan = three_tasks.folder / "blocks" / "plan.json"
        generate(three_tasks.pipeline)
        before = plan.read_bytes()
        generate(three_tasks.pipeline, options=Options(explicit=True))
        assert plan.read_bytes() == before

    def test_a_snakefile_of_somebody_else_stays(self, three_tasks: Project) -> None:
        mine = three_tasks.folder / "Snakefile"
        mine.write_text("rule all:\n")
        with pytest.raises(InputError, match="was not made by snakemake-blocks; move it"):
            generate(three_tasks.pipeline)
        assert mine.read_text() == "rule all:\n"
        assert not (three_tasks.folder / "blocks").exists()
        _, other = generate(three_tasks.pipeline, output=three_tasks.folder / "blocks.smk")
        assert other.exists()
        generate(three_tasks.pipeline, output=three_tasks.folder / "blocks.smk")

    def test_an_environment_that_was_changed_stays(self, three_tasks: Project) -> None:
        generate(three_tasks.pipeline)
        environment = three_tasks.folder / "envs" / "blocks.yaml"
        environment.write_text("dependencies: [torch]\n")
        generate(three_tasks.pipeline)
        assert environment.read_text() == "dependencies: [torch]\n"

    @pytest.mark.parametrize("name", [".", "..", "../..", "/", "a{b}", 'a"b', "a\nb", "a*"])
    def test_a_run_directory_that_would_do_harm_is_refused(
        self, three_tasks: Project, name: str
    ) -> None:
        text = three_tasks.pipeline.read_text()
        three_tasks.pipeline.write_text(f"{text}run_directory: {name!r}\n".replace("\\\\", "\\"))
        if "\n" in name:
            three_tasks.pipeline.write_text(f'{text}run_directory: "a\\nb"\n')
        before = three_tasks.files()
        with pytest.raises(SpecError, match=r"pipeline\.yaml: run_directory: "):
            generate(three_tasks.pipeline)
        assert three_tasks.files() == before


def test_snakefmt_leaves_generated_and_shipped_files_alone(
    three_tasks: Project, tmp_path: Path
) -> None:
    generate(three_tasks.pipeline)
    generate(three_tasks.pipeline, output=tmp_path / "explicit.smk", options=Options(explicit=True))
    files = [
        three_tasks.folder / "Snakefile",
        tmp_path / "explicit.smk",
        ROOT / "workflow/Snakefile",
    ]
    result = subprocess.run(
        [BIN / "snakefmt", "--check", *files], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


# --- what Snakemake makes of it


def dag(project: Project) -> dict[str, list[str]]:
    """Return the inputs of every output in the DAG that Snakemake builds, in the order of jobs."""
    result = project.snakemake("--dry-run", "--cores", "1")
    assert result.returncode == 0, result.stderr
    found = {}
    for job in re.split(r"(?m)^(?:local)?rule ", result.stdout)[1:]:
        files = dict(re.findall(r"(?m)^    (input|output): (.*)$", job))
        found[files.get("output", "all")] = files.get("input", "").split(", ")
    return {job: [i for i in inputs if i] for job, inputs in found.items()}


@pytest.mark.e2e
class TestWhatSnakemakeMakesOfIt:
    @pytest.mark.parametrize("explicit", [False, True], ids=["loops", "explicit"])
    def test_its_dag_orders_all_that_meets(self, three_tasks: Project, explicit: bool) -> None:
        plan, _ = generate(three_tasks.pipeline, options=Options(explicit=explicit))
        jobs = {
            job.sentinel: (plan.tasks[task], list(job.blocks()))
            for task in plan.tasks
            for job in plan.jobs(task)
        }
        inputs = dag(three_tasks)
        asked = {f"blocks/{name}/done.json" for name in plan.tasks}
        assert inputs.keys() == jobs.keys() | {"all"} | asked
        before = oracle.ancestors(inputs)
        conflicts = needs = 0
        for (one, (task, blocks)), (other, (up, above)) in itertools.product(
            jobs.items(), repeat=2
        ):
            meet = any(a.write_roi.intersects(b.read_roi) for a in above for b in blocks)
            if meet and up.name in task.upstream:
                needs += 1
                assert other in before[one]
            elif meet and up is task and one != other and any(task.reach):
                conflicts += 1
                assert other in before[one] or one in before[other]
        assert conflicts > 20 and needs > 20

    @pytest.mark.parametrize("explicit", [False, True], ids=["loops", "explicit"])
    def test_it_has_nothing_to_complain_of(self, three_tasks: Project, explicit: bool) -> None:
        generate(three_tasks.pipeline, options=Options(explicit=explicit))
        lint = three_tasks.snakemake("--lint")
        assert lint.returncode == 0, lint.stdout + lint.stderr
        assert "in a good condition" in lint.stdout + lint.stderr
        for picture in ["--dag"] if explicit else ["--dag", "--rulegraph"]:
            drawn = three_tasks.snakemake(picture)
            assert drawn.returncode == 0, drawn.stderr
            assert "digraph" in drawn.stdout and "smooth_p0" in drawn.stdout
