"""Snakemake without one of the names that have no promise: a warning, and the plain executor.

# faults: kind 9
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from project import Project

from snakemake_blocks.engine import internals
from snakemake_blocks.engine.internals import (
    NAMES,
    Conductor,
    PlainFormatter,
    is_main_process,
    local_executor,
    main_of_snakemake,
    message_formatter,
    missing_names,
    module_prefix,
    profile_folders,
    spawned_job_error,
)
from snakemake_blocks.errors import InputError

EVERY = [(kind, name) for kind, names in NAMES.items() for name in names]
# Snakemake, of which one name was taken away when it is first used.
LACKING = """
import sys
from snakemake_blocks.engine import internals

kind, name = sys.argv[1:3]
if kind == "module":
    module, _ = getattr(internals, name)
    setattr(internals, name, (module, "Gone"))
found = internals.missing_names
def missing_names(executor, jobs):
    if kind == "module":
        return found(executor, jobs)
    owner = {"scheduler": executor.workflow.scheduler}[kind]
    value = getattr(owner, name)
    delattr(owner, name)
    try:
        return found(executor, jobs)
    finally:
        setattr(owner, name, value)  # this version itself cannot do without it
internals.missing_names = missing_names
sys.argv[:3] = ["snakemake"]
from snakemake.cli import main
main()
"""


class Limiter:
    max_jobs, timespan = 100, 1


def executor() -> Any:
    """Return an executor in a workflow, with all that is asked for."""
    scheduler = SimpleNamespace(**dict.fromkeys(NAMES["scheduler"], None))
    scheduler.resources = {"_cores": 2, "_job_count": 9}
    scheduler.job_rate_limiter = Limiter()
    scheduler._open_jobs = threading.Semaphore(0)
    scheduler._lock = threading.Lock()
    scheduler._tofinish = []
    workflow = SimpleNamespace(**dict.fromkeys(NAMES["workflow"], None))
    workflow.scheduler = scheduler
    workflow.deployment_settings = SimpleNamespace(deployment_method=set())
    return SimpleNamespace(**dict.fromkeys(NAMES["executor"], None), workflow=workflow)


def job() -> Any:
    made = SimpleNamespace(**dict.fromkeys(NAMES["job"], None))
    made.rule = SimpleNamespace(shellcmd="true")
    made.scheduler_resources = {"_cores": 1}
    made.is_group = lambda: False
    return made


def test_nothing_is_missing_where_all_is_there() -> None:
    assert missing_names(executor(), [job()]) == []


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_each_name_that_lacks_is_told(kind: str, name: str) -> None:
    made, one = executor(), job()
    owner = {
        "executor": made,
        "workflow": made.workflow,
        "scheduler": made.workflow.scheduler,
        "job": one,
    }[kind]
    delattr(owner, name)
    assert f"{kind}.{name}" in missing_names(made, [one])


def test_what_lies_deeper_is_told_too() -> None:
    made, one = executor(), job()
    made.workflow.scheduler.resources = {}
    made.workflow.scheduler.job_rate_limiter = SimpleNamespace()
    made.workflow.deployment_settings = SimpleNamespace()
    one.rule = SimpleNamespace()
    assert missing_names(made, [one]) == [
        "job.rule.shellcmd",
        "scheduler.job_rate_limiter.max_jobs",
        "scheduler.job_rate_limiter.timespan",
        "scheduler.resources[_cores]",
        "scheduler.resources[_job_count]",
        "workflow.deployment_settings.deployment_method",
    ]


HOME = Path(__file__).parents[2]
PLUGIN = HOME / "plugins/snakemake_executor_plugin_blocks/__init__.py"


def test_all_that_the_executor_uses_is_looked_for() -> None:
    """Beside what the interface of executor plugins promises."""
    text = PLUGIN.read_text()
    promised = {"__post_init__", "report_job_success", "report_job_error", "run_job", "shutdown"}
    for kind, pattern in {
        "job": r"\bjob\.([a-z_]+)",
        "workflow": r"\bworkflow\.([a-z_]+)",
        "executor": r"\bsuper\(\)\.([a-z_]+)|self\.(cores)\b",
    }.items():
        used = {"".join(found) for found in re.findall(pattern, text)} - promised
        assert used and used <= set(NAMES[kind]), kind


def test_snakemakes_own_modules_are_imported_in_few_places() -> None:
    imports = r"^\s*(?:from|import) snakemake(?:\.[\w.]+)?\b"
    found = {
        path.relative_to(HOME).as_posix()
        for folder in ("snakemake_blocks", "plugins")
        for path in (HOME / folder).rglob("*.py")
        if re.search(imports, path.read_text(), re.M)
    }
    assert found == {"snakemake_blocks/engine/internals.py"}


def test_a_groups_members_are_looked_at() -> None:
    class Group(list[Any]):
        def is_group(self) -> bool:
            return True

    bad = job()
    del bad.attempt
    assert missing_names(executor(), [Group([job(), bad])]) == ["job.attempt"]


class TestModules:
    """What is imported from Snakemake by name."""

    @pytest.mark.parametrize(
        ("constant", "told"),
        [
            ("_LOCAL_EXECUTOR", "snakemake.executors.local.Executor"),
            ("_SPAWNED_JOB_ERROR", "snakemake.exceptions.SpawnedJobError"),
        ],
    )
    def test_one_that_lacks_is_told(
        self, constant: str, told: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = local_executor()
        module, _ = getattr(internals, constant)
        monkeypatch.setattr(internals, constant, (module, "Gone"))
        assert missing_names(executor(), [job()]) == [told]
        assert local_executor() is expected, "whatever it is called"
        assert issubclass(spawned_job_error(), Exception)

    @pytest.mark.parametrize("gone", [("snakemake.logging", "Gone"), ("snakemake.gone", "X")])
    def test_without_its_formatter_messages_are_plain(
        self, gone: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, lacking = message_formatter(show_failed_logs=False)
        assert lacking == "" and not isinstance(found, PlainFormatter)
        monkeypatch.setattr(internals, "_FORMATTER", gone)
        plain, lacking = message_formatter(show_failed_logs=False)
        assert lacking == ".".join(gone)
        record = logging.LogRecord("x", logging.ERROR, "f", 1, None, (), None)
        record.__dict__.update(rule_name="sort", log=["a.log", "b.log"])
        assert plain.format(record) == "a job failed, rule sort, log: a.log, b.log"
        info = logging.LogRecord("x", logging.INFO, "f", 1, "100 % done", (), None)
        assert plain.format(info) == "100 % done"

    def test_a_formatter_of_another_form_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(internals, "_FORMATTER", ("types", "SimpleNamespace"))
        monkeypatch.setattr(internals, "_named", lambda *_: lambda: None)
        plain, lacking = message_formatter(show_failed_logs=False)
        assert isinstance(plain, PlainFormatter) and "unexpected keyword argument" in lacking

    def test_the_command_is_found_as_the_shell_finds_it(self) -> None:
        from snakemake.cli import main

        assert main_of_snakemake() is main

    def test_a_module_says_what_it_needs(self) -> None:
        workflow = SimpleNamespace(is_main_process=True, modifier=SimpleNamespace())
        assert is_main_process(workflow)
        with pytest.raises(InputError, match=r"has no workflow\.modifier\.path_modifier\.modify"):
            module_prefix(workflow)


class TestConductor:
    @pytest.fixture
    def scheduler(self) -> Iterator[Any]:
        yield executor().workflow.scheduler

    def test_ended_jobs_are_told_in_one_round(self, scheduler: Any) -> None:
        Conductor(SimpleNamespace(scheduler=scheduler)).finish(["a", "b"], 3)
        assert scheduler._tofinish == ["a", "b"] and scheduler.resources["_cores"] == 5
        assert scheduler._open_jobs.acquire(blocking=False)
        assert not scheduler._open_jobs.acquire(blocking=False)

    def test_cores_are_lent_and_taken_back_but_never_below_none(self, scheduler: Any) -> None:
        conductor = Conductor(SimpleNamespace(scheduler=scheduler))
        conductor.finish([], 3)
        scheduler.resources["_cores"] = 1
        conductor.finish([], 0)
        assert scheduler.resources["_cores"] == 0
        scheduler.resources["_cores"] = 4
        conductor.finish([], 0)
        assert scheduler.resources["_cores"] == 2

    @pytest.mark.parametrize(
        ("kill", "errors", "keep", "ends"),
        [
            (None, False, True, False),
            ("graceful", False, True, True),
            (None, True, True, False),
            (None, True, False, True),
        ],
    )
    def test_when_no_job_is_to_begin(
        self, scheduler: Any, kill: str | None, errors: bool, keep: bool, ends: bool
    ) -> None:
        scheduler._user_kill, scheduler._errors, scheduler.keepgoing = kill, errors, keep
        assert Conductor(SimpleNamespace(scheduler=scheduler)).is_ending is ends


def test_profiles_lie_where_snakemake_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its own function for it is gone."""
    found = profile_folders()
    monkeypatch.delattr("snakemake.common.get_appdirs")
    assert profile_folders() == found


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("kind", "name", "warning"),
    [
        ("scheduler", "_lock", "executor blocks: this Snakemake has no scheduler._lock; jobs"),
        ("scheduler", "job_rate_limiter", "this Snakemake has no scheduler.job_rate_limiter; jobs"),
        ("module", "_LOCAL_EXECUTOR", "has no snakemake.executors.local.Executor; jobs"),
        ("module", "_FORMATTER", "has no snakemake.logging.Gone; messages are plain"),
    ],
)
def test_a_run_without_one_of_them_is_as_with_the_local_executor(
    project: Project, kind: str, name: str, warning: str
) -> None:
    project.functions("def nothing(block): pass")
    project.write(
        (
            "nothing",
            {
                "function": "functions:nothing",
                "roi": {"offset": [0], "shape": [6]},
                "block_size": [1],
                "conflict": False,
                "blocks_per_job": 2,
            },
        )
    )
    assert project.blocks("generate", "pipeline.yaml").returncode == 0
    profile = Path(__file__).parents[2] / "profiles" / "local"
    run = subprocess.run(
        [
            *(sys.executable, "-c", LACKING),
            *(kind, name, "--profile", str(profile), "--cores", "2"),
        ],
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count(warning) == 1, run.stderr
    assert len(project.records("nothing")) == 6
