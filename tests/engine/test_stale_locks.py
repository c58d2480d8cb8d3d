from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from project import BIN, Project

from snakemake_blocks.commands.generate import generate, load_plan, prepare, to_pipeline
from snakemake_blocks.commands.run import reset_run
from snakemake_blocks.engine.stale_locks import unlock, unmark
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.system.locks import Holder

ROOT = Path("blocks")
LOCKS = Path(".snakemake/locks")
MARKS = Path(".snakemake/incomplete")


def lock(number: int, kind: str, *names: str) -> Path:
    """Write a lock as Snakemake does."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"{number}.{kind}.lock"
    path.write_text("\n".join([*names, ""]))
    return path


def mark(name: str, longest: int = 255) -> Path:
    """Mark a file as incomplete, as Snakemake does where names of files may be so long."""
    text = urlsafe_b64encode(name.encode()).decode()
    parts = [text[i : i + longest - 1] for i in range(0, len(text), longest - 1)]
    path = MARKS.joinpath(*("@" + part for part in parts[:-1]), parts[-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"external_jobid": null}')
    return path


def write(name: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return name


class TestLocks:
    def test_only_those_on_our_files_go(self, project: Project) -> None:
        ours = [
            lock(0, "input", "volume.zarr", "blocks/a/done.json"),
            lock(0, "output", "blocks/a/p0/0/0.json", "blocks/a/done.json"),
        ]
        others = [lock(1, "input", "blocks2/a/done.json"), lock(1, "output", "blocks.json")]
        assert unlock(Path(), ROOT) == 2
        assert not any(path.exists() for path in ours)
        assert all(path.exists() for path in others)

    def test_without_any(self, project: Project) -> None:
        assert unlock(Path(), ROOT) == 0
        assert unmark(Path(), ROOT) == 0
        assert project.files() == set()

    def test_from_anywhere(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        lock(0, "output", "../state/a/done.json")
        folder = Path.cwd()
        monkeypatch.chdir("/")
        assert unlock(folder, folder.parent / "state") == 1


class TestMarks:
    @pytest.mark.parametrize("longest", [255, 12])
    def test_only_those_of_sentinels_that_are_there(self, project: Project, longest: int) -> None:
        there = mark(write("blocks/a/p0/0-0/3-4.json"), longest)
        missing = mark("blocks/a/p0/0-0/3-5.json", longest)
        other = mark(write("results/table.csv"), longest)
        assert unmark(Path(), ROOT) == 1
        assert [path.exists() for path in (there, missing, other)] == [False, True, True]

    def test_what_is_no_mark_stays(self, project: Project) -> None:
        write("blocks/a/done.json")
        MARKS.mkdir(parents=True)
        (MARKS / "migration_underway").touch()
        assert unmark(Path(), ROOT) == 0
        assert (MARKS / "migration_underway").exists()

    def test_they_are_named_as_snakemake_names_them(self, project: Project) -> None:
        from snakemake.persistence.file import FilePersistence

        name = "blocks/task/p0/0-0-0/11-12-13.json"
        book = FilePersistence.__new__(FilePersistence)
        book._max_len = 20
        assert FilePersistence._record_path(book, str(MARKS), name) == str(mark(name, 20))
        book._max_len = 255
        assert FilePersistence._record_path(book, str(MARKS), name) == str(mark(name))


def task(project: Project, seconds: float = 0) -> None:
    """Write a pipeline of six blocks."""
    project.functions(f"import time\ndef f(block):\n    time.sleep({seconds})\n")
    region = {"roi": {"offset": [0], "shape": [6]}, "block_size": [1], "conflict": False}
    project.write(("task", {"function": "functions:f", **region}))


def prepared() -> None:
    prepare(to_pipeline("pipeline.yaml"))


def reset() -> None:
    plan, root = load_plan(ROOT)
    reset_run(plan, root, "task")


VERBS: list[Callable[[], object]] = [lambda: generate("pipeline.yaml"), prepared, reset]


@pytest.mark.parametrize("verb", VERBS, ids=["generate", "prepare", "reset"])
def test_whoever_takes_the_lock_of_a_dead_run_clears_its_books(
    verb: Callable[[], object], project: Project
) -> None:
    task(project)
    generate("pipeline.yaml")
    target = "blocks/task/done.json"
    locks = [lock(0, "input", target), lock(0, "output", target)]
    marked = mark(write(target))
    verb()
    assert all(path.exists() for path in locks), "a Snakemake that lives may hold them"
    assert not marked.exists()

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    holder = asdict(replace(Holder.this_process({}), pid=process.pid))
    del holder["counter"]
    RunPaths(ROOT).lock.write_text(json.dumps(holder) + "\n" + "0" * 20)
    verb()
    assert not any(path.exists() for path in locks)


@pytest.mark.e2e
def test_plain_snakemake_goes_on_after_a_killed_run_and_a_reset(project: Project) -> None:
    task(project, seconds=0.3)
    run = subprocess.Popen(
        [str(BIN / "snakemake-blocks"), "run", "pipeline.yaml", "--cores", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + 120
    while not list(ROOT.glob("task/p0/0/*.json")):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert list(LOCKS.glob("*.lock"))
    while (again := project.blocks("reset", "blocks", "task")).returncode:
        assert "is run by" in again.stderr, again.stderr  # its jobs are about to notice
        assert time.monotonic() < give_up
    assert project.blocks("generate", "pipeline.yaml").returncode == 0
    done = project.snakemake("--cores", "2")
    assert done.returncode == 0, done.stderr
    assert project.blocks("verify").returncode == 0
