from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from project import Project, stamps

from snakemake_blocks.commands.module_rules import module_rules
from snakemake_blocks.errors import InputError, SpecError

SHIPPED = Path(__file__).parents[2] / "workflow" / "Snakefile"


def adding(project: Project, name: str, add: int) -> None:
    """Write NAME.yaml with one task that adds a number to every voxel of s.zarr/raw."""
    project.functions("def plus(raw, add):\n    return raw + add\n")
    project.array("s.zarr/raw", np.arange(12), voxel_size=[1], offset=[0])
    task = {
        "function": "functions:plus",
        "call": "arrays",
        "params": {"add": add},
        "reads": {"raw": "s.zarr/raw"},
        "writes": {"out": {"array": f"s.zarr/{name}", "dtype": "int64"}},
        "roi": "s.zarr/raw",
        "block_size": [4],
        "conflict": False,
        "max_workers": 1,
    }
    project.write(("add", task)).rename(project.folder / f"{name}.yaml")


@pytest.mark.e2e
def test_it_works_beside_ordinary_rules_renamed_and_prefixed(project: Project) -> None:
    adding(project, "one", 1)
    adding(project, "two", 2)
    (project.folder / "Snakefile").write_text(
        f"""
rule all:
    input:
        "result.txt",
        "pilot/blocks/add/done.json",

module one:
    snakefile: {str(SHIPPED)!r}
    config: {{"pipeline": "one.yaml"}}

use rule * from one as one_*

module two:
    snakefile: {str(SHIPPED)!r}
    config: {{"pipeline": "two.yaml"}}
    prefix: "pilot"

use rule * from two as two_*

rule ordinary:
    input:
        "blocks/add/done.json",
    output:
        "result.txt",
    shell:
        "cp {{input}} {{output}}"
"""
    )
    run = project.snakemake("--cores", "2")
    assert run.returncode == 0, run.stderr
    assert project.read("s.zarr/one").tolist() == list(range(1, 13))
    assert project.read("s.zarr/two").tolist() == list(range(2, 14))
    assert json.loads((project.folder / "result.txt").read_text())["blocks"] == 3
    assert (project.folder / "pilot" / "blocks" / "plan.json").exists()
    before = stamps(project.records("add"))
    again = project.snakemake("--cores", "2")
    assert again.returncode == 0 and "Nothing to be done" in again.stderr
    assert stamps(project.records("add")) == before


class TestWhatItRefuses:
    def test_a_config_without_pipeline(self) -> None:
        with pytest.raises(InputError, match="config: pipeline is missing"):
            module_rules({}, SimpleNamespace())

    def test_a_broken_pipeline(self, project: Project) -> None:
        project.pipeline.write_text("tasks: {}\n")
        with pytest.raises(SpecError, match=r"pipeline\.yaml: tasks: must not be empty"):
            module_rules({"pipeline": "pipeline.yaml"}, SimpleNamespace())
