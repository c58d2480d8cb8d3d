"""The executor ``blocks`` in plain Snakemake, where jobs are so short that it looks ahead."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.e2e

PROFILE = Path(__file__).parents[2] / "profiles" / "local"
FUNCTIONS = """
    import os, time

    def count(block):
        with open("calls.txt", "a") as file: file.write(f"{block.index}\\n")
        number = open("calls.txt").read().splitlines().index(str(block.index)) + 1
        if os.path.exists("bad.txt") and number == 100: raise ValueError("the hundredth")
        time.sleep(0.3 if os.path.exists("bad.txt") and number > 100 else 0.001)
"""
BESIDE = """
module blocks:
    snakefile:
        {module!r}
    config:
        {{"pipeline": "pipeline.yaml"}}


use rule * from blocks as blocks_*


rule beside:
    output:
        "beside-{{number}}.txt",
    log:
        "beside-{{number}}.log",
    threads: 2
    priority: 10
    shell:
        "(date +%s.%N; sleep 0.2; date +%s.%N) > {{output}} 2> {{log}}"


rule everything:
    default_target: True
    input:
        "blocks/count/done.json",
        expand("beside-{{number}}.txt", number=range(8)),
"""


TWO = """
module one:
    snakefile:
        {module!r}
    config:
        {{"pipeline": "one/pipeline.yaml"}}


module two:
    snakefile:
        {module!r}
    config:
        {{"pipeline": "two/pipeline.yaml"}}


use rule * from one as one_*
use rule * from two as two_*


rule both:
    default_target: True
    input:
        "one/blocks/count/done.json",
        "two/blocks/count/done.json",
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.functions(FUNCTIONS)
    made.write(
        (
            "count",
            {
                "function": "functions:count",
                "roi": {"offset": [0], "shape": [400]},
                "block_size": [1],
                "conflict": False,
                "blocks_per_job": 1,
                "retries": 0,
            },
        )
    )
    assert made.blocks("generate", "pipeline.yaml").returncode == 0
    return made


def test_others_do_not_get_the_cores_of_jobs_that_run(project: Project) -> None:
    """Another rule's job may be taken while ours wait, but it begins when its cores are free."""
    module = str(PROFILE.parent.parent / "workflow" / "Snakefile")
    (project.folder / "mine.smk").write_text(BESIDE.format(module=module))
    run = project.snakemake("--snakefile", "mine.smk", "--profile", str(PROFILE), "--cores", "2")
    assert run.returncode == 0, run.stderr
    blocks = [(r["start"], r["start"] + r["wall"]) for r in project.records("count").values()]
    assert len(blocks) == 400
    beside = [
        tuple(float(text) for text in path.read_text().split())
        for path in project.folder.glob("beside-*.txt")
    ]
    assert len(beside) == 8
    slack = 0.002  # of two ways to read the clock
    for (begin, end), (start, stop) in itertools.product(beside, blocks):
        assert stop <= begin + slack or end <= start + slack
    assert project.blocks("verify").returncode == 0


def test_what_waits_is_given_back_when_a_job_fails(project: Project) -> None:
    (project.folder / "bad.txt").touch()
    rules = project.folder / "Snakefile"
    rules.write_text(rules.read_text().replace("retries: 0 if workflow.remote_exec else 2", ""))
    run = project.snakemake("--cores", "2", "--executor", "blocks", "--scheduler", "greedy")
    assert run.returncode == 1
    assert "the hundredth" in run.stdout + run.stderr or "Error in rule" in run.stderr
    calls = len((project.folder / "calls.txt").read_text().split("\n")) - 1
    assert 100 <= calls < 120
    (project.folder / "bad.txt").unlink()
    again = project.snakemake("--cores", "2", "--executor", "blocks", "--scheduler", "greedy")
    assert again.returncode == 0, again.stderr
    assert project.blocks("verify").returncode == 0
    calls = len((project.folder / "calls.txt").read_text().split("\n")) - 1
    assert calls == 401


def test_of_many_failed_jobs_only_some_are_named(project: Project) -> None:
    """The summary tells of the others; a line each would hide it."""
    text = project.pipeline.read_text().replace("- 400", "- 30").replace(":count", ":fail")
    project.pipeline.write_text(text)
    project.functions("def fail(block): raise ValueError('dark')")
    run = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert run.returncode == 1
    assert run.stderr.count("a job failed: ") == 10
    assert run.stderr.count("more jobs failed; `snakemake-blocks status` tells which") == 1
    assert "count: 30 failed" in run.stdout and "ValueError: dark" in run.stdout


# faults: kind 2
def test_modules_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """Python imports a name once, and a host served both: the first one's functions ran in both."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made = Project(tmp_path / name)
        made.functions("from helper import NAME\ndef count(block): open(NAME, 'a').write('x')")
        made.functions(f"NAME = {str(tmp_path / name / 'calls.txt')!r}", "helper")
        made.write(
            (
                "count",
                {
                    "function": "functions:count",
                    "roi": {"offset": [0], "shape": [4]},
                    "block_size": [1],
                    "conflict": False,
                },
            )
        )
    project = Project(tmp_path)
    module = str(PROFILE.parents[1] / "workflow" / "Snakefile")
    (tmp_path / "Snakefile").write_text(TWO.format(module=module))
    done = project.snakemake("--executor", "blocks", "--cores", "2")
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        assert (tmp_path / name / "calls.txt").read_text() == "xxxx"
