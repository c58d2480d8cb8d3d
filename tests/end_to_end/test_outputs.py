"""Files that tasks make beside arrays and tables, and hooks: before the first block, and again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from project import Project

import snakemake_blocks as sb
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import SpecError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.status import read_status
from snakemake_blocks.view.verify import verify_run

pytestmark = pytest.mark.e2e

ROOT = Path("blocks")
FUNCTIONS = """
    import os, sqlite3
    from contextlib import closing
    from pathlib import Path
    import numpy as np

    def note(text):
        with open("calls.txt", "a") as file:
            file.write(text + "\\n")

    def prepare(db):
        note("prepare")
        Path(db).unlink(missing_ok=True)
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("CREATE TABLE nodes (i INTEGER, j INTEGER, value INTEGER)")

    def drop(block, db):
        note(f"drop {block.index}")
        (i, j), (k, l) = block.write_roi.begin, block.write_roi.end
        with closing(sqlite3.connect(db, timeout=60)) as connection, connection:
            connection.execute(
                "DELETE FROM nodes WHERE i >= ? AND i < ? AND j >= ? AND j < ?", (i, k, j, l)
            )

    def bright(raw, block, db, threshold):
        begin = block.write_roi.begin
        found = [(*np.add(at, begin).tolist(), int(raw[tuple(at)]))
                 for at in np.argwhere(raw > threshold)]
        with closing(sqlite3.connect(db, timeout=60)) as connection, connection:
            connection.executemany("INSERT INTO nodes VALUES (?, ?, ?)", found)
        if block.index == (1, 1) and not os.path.exists("failed"):
            open("failed", "w").close()
            raise RuntimeError("after the rows were stored")

    def mark(block, db):
        with closing(sqlite3.connect(db, timeout=60)) as connection, connection:
            connection.execute("UPDATE nodes SET value = 0 WHERE i = 0")

    def folder(block):
        Path("meshes").mkdir(exist_ok=True)
        Path(f"meshes/{block.index}.txt").write_text("mesh")

    def nothing(block):
        pass
"""


@pytest.fixture
def raw(project: Project) -> NDArray[Any]:
    project.functions(FUNCTIONS)
    values = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
    return project.array("s.zarr/raw", values, chunks=(10, 10))


def nodes(**more: Any) -> dict[str, Any]:
    return {
        "function": "functions:bright",
        "call": "arrays",
        "params": {"db": "graph.db", "threshold": 200},
        "reads": {"raw": "s.zarr/raw"},
        "outputs": ["graph.db"],
        "set_up": "functions:prepare",
        "before_block": "functions:drop",
        "roi": "s.zarr/raw",
        "block_size": 10,
        "retries": 1,
        **more,
    }


def mark(**more: Any) -> dict[str, Any]:
    """Return a task that changes the database after `nodes`."""
    return {
        "function": "functions:mark",
        "params": {"db": "graph.db"},
        "outputs": ["graph.db"],
        "after": [{"task": "nodes", "whole": True}],
        "roi": {"offset": [0, 0], "shape": [30, 40]},
        "block_size": [30, 40],
        **more,
    }


def calls() -> list[str]:
    """Return the hooks that were called since the last time, sorted."""
    path = Path("calls.txt")
    found = sorted(path.read_text().split("\n")[:-1]) if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def is_exact(raw: NDArray[Any], threshold: int = 200, *, marked: bool = False) -> bool:
    """Tell whether the database holds what it should, once."""
    with closing(sqlite3.connect("graph.db")) as connection:
        found = sorted(connection.execute("SELECT i, j, value FROM nodes"))
    values = raw.astype(int)
    if marked:
        values[0] = np.where(raw[0] > threshold, 0, values[0])
    wanted = [(i, j, int(values[i, j])) for i, j in np.argwhere(raw > threshold).tolist()]
    return found == wanted


def missing(project: Project) -> str:
    return "\n".join(verify_run(Plan.load(ROOT), ROOT).missing)


class TestRows:
    """Rows in a database are those of the blocks that count, whatever happened before."""

    def test_a_failed_attempt_is_dropped(self, project: Project, raw: NDArray[Any]) -> None:
        project.write(("nodes", nodes()))
        plan = project.work()
        assert list(plan.tasks) == ["nodes_set_up", "nodes"]
        assert calls() == ["drop (1, 1)", "prepare"]
        assert is_exact(raw)
        project.work()
        assert calls() == []

    def test_after_another_parameter(self, project: Project, raw: NDArray[Any]) -> None:
        project.write(("nodes", nodes()))
        project.work()
        project.write(("nodes", nodes(params={"db": "graph.db", "threshold": 100})))
        calls()
        project.work()
        assert "prepare" in calls() and is_exact(raw, 100)

    def test_after_another_read(self, project: Project, raw: NDArray[Any]) -> None:
        """What a set-up prepares for is another, though its own parameters are not."""
        project.write(("nodes", nodes()))
        project.work()
        calls()
        project.write(("nodes", nodes(reads={"raw": {"array": "s.zarr/raw", "fill": 0}})))
        project.work()
        assert "prepare" in calls() and is_exact(raw)

    @pytest.mark.parametrize("block_size", [[5, 20], [15, 10]])
    @pytest.mark.parametrize("set_up", [True, False])
    def test_after_another_block_size(
        self, project: Project, raw: NDArray[Any], block_size: list[int], set_up: bool
    ) -> None:
        project.write(("nodes", nodes()))
        project.work()
        form = nodes(block_size=block_size)
        project.write(("nodes", form if set_up else {k: form[k] for k in form if k != "set_up"}))
        project.work()
        assert is_exact(raw)

    def test_of_a_block_that_is_reset(self, project: Project, raw: NDArray[Any]) -> None:
        project.write(("nodes", nodes()))
        project.work()
        calls()
        project.cli("reset", "blocks", "nodes", "--roi", "0:10,10:20")
        assert "1 of 12 blocks have no counting record" in missing(project)
        project.work()
        assert calls() == ["drop (0, 1)"] and is_exact(raw)

    def test_where_the_run_directory_is_new(self, project: Project, raw: NDArray[Any]) -> None:
        """Nothing is on record, and the database is full of rows."""
        form = nodes()
        form.pop("set_up")
        project.write(("nodes", nodes()))
        project.work()
        (ROOT / "plan.json").rename("old")
        import shutil

        shutil.rmtree(ROOT)
        project.write(("nodes", form))
        calls()
        project.work()
        assert len(calls()) == 12 and is_exact(raw)

    def test_where_the_database_is_gone_in_the_middle(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes(retries=0)))
        project.work(complete=False)
        assert len(project.records("nodes")) == 11
        Path("graph.db").unlink()
        assert "graph.db is missing" in missing(project)
        project.work()
        assert is_exact(raw)


class TestOutputs:
    """Outputs are there and hold what they held, or the blocks are done again."""

    def test_is_told_and_made_anew_when_it_is_gone(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes()))
        plan = project.work()
        Path("graph.db").unlink()
        assert "nodes: graph.db is missing" in missing(project)
        status = read_status(plan, ROOT)
        assert not status.complete and status.tasks["nodes"].lacking == ("graph.db",)
        preview = project.cli("run", "pipeline.yaml", "-n").output
        assert "nodes: 12 of 12 blocks to do" in preview and "nodes_set_up: 1 of 1" in preview
        assert not Path("graph.db").exists()
        project.work()
        assert is_exact(raw)

    def test_is_told_and_made_anew_when_it_is_changed(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes()))
        project.work()
        with closing(sqlite3.connect("graph.db")) as connection, connection:
            connection.execute("DELETE FROM nodes WHERE i = 3")
        assert "nodes: graph.db is not what the task left" in missing(project)
        project.work()
        assert is_exact(raw)

    def test_the_same_bytes_at_another_time_are_the_same(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes()))
        project.work()
        Path("graph.db").touch()
        assert missing(project) == ""
        before = project.records("nodes")
        project.work()
        assert project.records("nodes") == before

    def test_bytes_that_changed_with_the_times_kept_are_found_by_verify(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        import os

        project.write(("nodes", nodes()))
        project.work()
        facts, content = os.stat("graph.db"), bytearray(Path("graph.db").read_bytes())
        content[-1] ^= 1
        Path("graph.db").write_bytes(content)
        os.utime("graph.db", ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert "nodes: graph.db is not what the task left" in missing(project)

    def test_that_a_later_task_changes_is_right_after_that(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes()))
        project.work()
        project.write(("nodes", nodes()), ("mark", mark()))
        project.work()
        assert is_exact(raw, marked=True)
        before = project.records("nodes")
        project.work()
        assert project.records("nodes") == before
        Path("graph.db").unlink()
        assert {line.split(":")[0] for line in missing(project).split("\n")} >= {"nodes", "mark"}
        project.work()
        assert is_exact(raw, marked=True)

    def test_of_two_tasks_without_an_order_is_refused(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(("nodes", nodes()), ("mark", mark(after=[])))
        with pytest.raises(SpecError, match=r"outputs: graph.db is made by task \w+, too"):
            generate(project.pipeline)

    def test_that_is_a_folder(self, project: Project, raw: NDArray[Any]) -> None:
        form = {
            "function": "functions:folder",
            "outputs": ["meshes"],
            "roi": "s.zarr/raw",
            "block_size": 10,
        }
        project.write(("task", form))
        project.work()
        Path("meshes/(1, 1).txt").unlink()
        assert "task: meshes is not what the task left" in missing(project)
        project.work()
        assert len(list(Path("meshes").iterdir())) == 12

    def test_that_no_block_makes_ends_the_run_with_its_name(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        form = {
            "function": "functions:nothing",
            "outputs": ["none.db"],
            "roi": "s.zarr/raw",
            "block_size": 20,
            "fit": "shrink",
        }
        project.write(("task", form))
        done = project.blocks("run", "pipeline.yaml", "--cores", "1")
        assert done.returncode == 1
        assert "task: all blocks are done, and none.db, which it is to leave" in done.stdout
        assert "none.db" in (ROOT / "task/logs/done.log").read_text()

    def test_a_journal_beside_it_is_moved_into_it(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        """It lies there where a process that wrote ended before it closed the database."""
        with (project.folder / "functions.py").open("a") as file:
            file.write(
                "\n\ndef leave(block):\n"
                "    if os.fork() == 0:\n"
                "        connection = sqlite3.connect('wal.db', isolation_level=None)\n"
                "        connection.execute('PRAGMA journal_mode = WAL')\n"
                "        connection.execute('CREATE TABLE t (n INTEGER)')\n"
                "        connection.execute('INSERT INTO t VALUES (3)')\n"
                "        os._exit(0)\n"
                "    os.wait()\n"
            )
        form = {
            "function": "functions:leave",
            "outputs": ["wal.db"],
            "roi": "s.zarr/raw",
            "block_size": [30, 40],
        }
        project.write(("task", form))
        project.work()
        with closing(sqlite3.connect("wal.db")) as connection:
            assert list(connection.execute("SELECT n FROM t")) == [(3,)]
        assert missing(project) == ""

    @pytest.mark.parametrize("hook", ["set_up", "before_block"])
    def test_a_hook_that_raises_costs_attempts(
        self, project: Project, raw: NDArray[Any], hook: str
    ) -> None:
        with (project.folder / "functions.py").open("a") as file:
            file.write("\n\ndef bad(*args, **params):\n    raise RuntimeError('the hook')\n")
        project.write(("nodes", nodes(**{hook: "functions:bad"})))
        done = project.blocks("run", "pipeline.yaml", "--cores", "1", "--quiet")
        assert done.returncode == 1 and "RuntimeError: the hook" in done.stdout
        status = read_status(Plan.load(ROOT), ROOT)
        failed = status.tasks["nodes_set_up" if hook == "set_up" else "nodes"]
        (failure,) = failed.failures
        assert failure.attempt == 2
        if hook == "set_up":
            assert project.records("nodes") == {}

    def test_with_snakemake(self, project: Project, raw: NDArray[Any]) -> None:
        project.write(("nodes", nodes()), ("mark", mark()))
        assert project.blocks("run", "pipeline.yaml", "--cores", "2").returncode == 0
        assert is_exact(raw, marked=True)
        Path("graph.db").unlink()
        assert project.blocks("verify").returncode == 1
        assert project.blocks("run", "pipeline.yaml", "--cores", "2").returncode == 0
        assert is_exact(raw, marked=True)


class TestParquet:
    @pytest.fixture
    def form(self, project: Project, raw: NDArray[Any]) -> dict[str, Any]:
        with (project.folder / "functions.py").open("a") as file:
            file.write("\n\ndef least(raw):\n    return {'least': [int(raw.min())]}\n")
        return {
            "function": "functions:least",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw"},
            "tables": {"t": {"columns": {"least": "int64"}, "parquet": "out/t.parquet"}},
            "roi": "s.zarr/raw",
            "block_size": 10,
        }

    @pytest.mark.parametrize("how", ["removed", "changed", "added to the description"])
    def test_is_written_again_from_the_rows(
        self, project: Project, form: dict[str, Any], how: str
    ) -> None:
        bare = {**form, "tables": {"t": {"columns": {"least": "int64"}}}}
        project.write(("task", bare if how == "added to the description" else form))
        project.work()
        before = project.records("task")
        if how == "removed":
            Path("out/t.parquet").unlink()
        elif how == "changed":
            Path("out/t.parquet").write_bytes(b"no")
        project.write(("task", form))
        project.work()
        import pyarrow.parquet

        assert pyarrow.parquet.read_table("out/t.parquet").num_rows == 12
        assert project.records("task") == before

    def test_of_many_rows_is_a_data_set(
        self, project: Project, form: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pyarrow.parquet

        project.write(("task", {**form, "blocks_per_job": 1}))
        project.work()
        whole = pyarrow.parquet.read_table("out/t.parquet")
        monkeypatch.setattr("snakemake_blocks.state.tables._LARGEST_FILE", 30)
        Path("out/t.parquet").unlink()
        project.work()
        assert len(list(Path("out/t.parquet").glob("part-*.parquet"))) == 3
        assert pyarrow.parquet.read_table("out/t.parquet").equals(whole)
        Path("out/t.parquet/part-00001.parquet").unlink()
        assert "task: out/t.parquet is not what the task left" in missing(project)
        monkeypatch.setattr("snakemake_blocks.state.tables._LARGEST_FILE", 1 << 30)
        project.work()
        assert Path("out/t.parquet").is_file()
        assert pyarrow.parquet.read_table("out/t.parquet").equals(whole)

    def test_a_folder_of_the_user_is_left_alone(
        self, project: Project, form: dict[str, Any]
    ) -> None:
        Path("out/t.parquet").mkdir(parents=True)
        Path("out/t.parquet/mine.txt").write_text("mine")
        project.write(("task", form))
        done = project.blocks("run", "pipeline.yaml", "--cores", "1")
        assert done.returncode == 1 and Path("out/t.parquet/mine.txt").read_text() == "mine"
        assert "holds mine.txt; name another file" in (ROOT / "task/logs/done.log").read_text()

    def test_that_cannot_be_written_is_no_success(
        self, project: Project, form: dict[str, Any]
    ) -> None:
        Path("out").write_text("a file stands where the folder should be")
        project.write(("task", form))
        done = project.blocks("run", "pipeline.yaml", "--cores", "1")
        assert done.returncode == 1
        assert "out/t.parquet, which it is to leave, is not there" in done.stdout
        Path("out").unlink()
        assert project.blocks("run", "pipeline.yaml", "--cores", "1").returncode == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"outputs": ["a.db", "a.db"]}, "tasks.nodes.outputs: a.db is there twice"),
        ({"outputs": "graph.db"}, "tasks.nodes.outputs: must be a list in brackets"),
        ({"set_up": "functions:no"}, "tasks.nodes.set_up: functions.py defines no no"),
        ({"before_block": "no:no"}, "tasks.nodes.before_block: there is no module no"),
        ({"before_block": 3}, "tasks.nodes.before_block: must be a function as module:name"),
        ({"outputs": ["s.zarr/raw"]}, "task nodes: outputs: s.zarr/raw is an array; name another"),
        ({"outputs": ["blocks/x"]}, "blocks/x: lies inside of pipeline.yaml: run_directory"),
        ({"outputs": ["s.zarr/raw/x"]}, "s.zarr/raw/x: lies inside of s.zarr/raw"),
        ({"outputs": ["."]}, "run_directory: lies inside of ."),
        (
            {"tables": {"t": {"columns": {"a": "int8"}, "parquet": "graph.db"}}},
            "task nodes: parquet: graph.db is an output; name another file",
        ),
    ],
)
def test_what_is_wrong_is_named(
    project: Project, raw: NDArray[Any], change: dict[str, Any], problem: str
) -> None:
    project.write(("nodes", nodes(**change)))
    with pytest.raises(SpecError) as caught:
        generate(project.pipeline)
    assert problem in str(caught.value), str(caught.value)


def test_in_python(project: Project) -> None:
    rows: list[tuple[int, ...]] = []
    failures = iter([True])

    def keep(block: sb.Block) -> None:
        rows.append(tuple(block.index))
        if block.index == (1, 1) and next(failures, False):
            block.status = block.status.FAILED

    def begin() -> None:
        rows.append(())

    def again(block: sb.Block) -> None:
        rows.remove(tuple(block.index))

    task = sb.Task(
        "keep", sb.Roi((0, 0), (30, 40)), sb.Roi((0, 0), (10, 10)), sb.Roi((0, 0), (10, 10)),
        keep, set_up=begin, before_block=again,
    )  # fmt: skip
    assert sb.run_blockwise([task], multiprocessing=False, summary=False)
    assert rows[0] == () and sorted(rows[1:]) == sorted(np.ndindex(3, 4))
