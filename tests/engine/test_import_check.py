"""Functions that cannot be imported: said by `check --import`, and once by `run`.

# faults: see README.md, beside the kinds
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from project import Project

from snakemake_blocks.commands.generate import make_plan
from snakemake_blocks.engine.import_check import questions
from snakemake_blocks.engine.launch import start_import_check


@pytest.fixture
def project(project: Project) -> Project:
    common = {"roi": {"offset": [0], "shape": [40]}, "block_size": [1], "conflict": False}
    project.functions("import no_such_library\ndef f(block): pass")
    project.functions("def g(block): pass", name="others")
    project.write(
        ("one", {"function": "functions:f", "blocks_per_job": 1, **common}),
        ("two", {"function": "others:g", "check": "functions:f", **common}),
    )
    return project


def test_each_function_is_asked_for_once(project: Project) -> None:
    assert questions(make_plan(project.pipeline)) == [
        ("tasks.one.function", "functions:f"),
        ("tasks.two.function", "others:g"),
    ]


def test_check_names_task_key_and_reason(project: Project) -> None:
    assert project.cli("check", "pipeline.yaml").exit_code == 0
    found = project.cli("check", "pipeline.yaml", "--import")
    assert found.exit_code == 2
    assert (
        "pipeline.yaml: tasks.one.function: functions:f cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_library' (functions.py, line 1)"
    ) in found.output
    assert "others:g" not in found.output


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(0)", "the process that imports the functions ended with status 0"),
        ("import os; os.abort()", "the process that imports the functions ended with status -6"),
        ("import os; os.write(1, b'[1]hello'); 1 / 0", "ZeroDivisionError: division by zero"),
        ("print('hello'); 1 / 0", "ZeroDivisionError: division by zero (functions.py, line 1)"),
    ],
)
def test_whatever_a_module_does(project: Project, code: str, words: str) -> None:
    project.functions(f"{code}\ndef f(block): pass")
    found = project.cli("check", "pipeline.yaml", "--import")
    assert found.exit_code == 2 and words in found.output and "hello" not in found.output


def test_nothing_is_said_of_what_can_be_imported(project: Project) -> None:
    project.functions("print('hello')\ndef f(block): pass")
    found = project.cli("check", "pipeline.yaml", "--import")
    assert found.exit_code == 0 and "cannot be imported" not in found.output


@pytest.mark.e2e
def test_run_fails_once_and_soon(project: Project) -> None:
    began = time.monotonic()
    run = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert run.returncode == 2
    assert run.stderr.count("No module named 'no_such_library'") == 1, run.stderr
    assert "KeyboardInterrupt" not in run.stderr, run.stderr
    assert len(list(Path("blocks/one/logs").rglob("*.log"))) < 40
    assert time.monotonic() - began < 60
    project.functions("def f(block): pass")
    again = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert again.returncode == 0, again.stderr


def test_module_that_does_not_come_back(project: Project) -> None:
    project.functions("import time; time.sleep(600)\ndef f(block): pass")
    check = start_import_check(make_plan(project.pipeline), project.folder)
    assert check is not None
    assert check.problems(patience=1.0) == [
        "tasks.one.function: importing functions:f, others:g takes longer than 1 s"
    ]
