"""What functions get in parts, and what is made of what they return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from project import Project

import snakemake_blocks.state.row_files as row_files
from snakemake_blocks.state.tables import read_table

FUNCTIONS = """
    import numpy as np

    def twice(raw):
        return 2 * raw

    def alone(block):
        pass

    class Twice:
        def __call__(self, raw):
            return 2 * raw

    def plus(returned, block):
        return returned + block.index[0]

    def rows(returned, block):
        return {"rows": {"sum": [returned.sum()], "data": [returned.tobytes()]}}

    def parts(rows):
        found = [(part.num_rows, part["sum"].to_numpy().sum()) for part in rows]
        return {"parts": {"rows": [n for n, _ in found], "sum": [s for _, s in found]}}

    def read(rows, data):
        return {"all": {"same": [rows["data"].to_pylist() == data["data"].to_pylist()]}}
"""


@pytest.fixture
def raw(project: Project) -> Any:
    project.functions(FUNCTIONS)
    return project.array("s.zarr/raw", np.arange(48, dtype=np.int64).reshape(12, 4))


def form(**more: Any) -> dict[str, Any]:
    return {
        "function": "functions:twice",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "roi": "s.zarr/raw",
        "block_size": [2, 4],
        **more,
    }


@pytest.mark.parametrize("function", ["twice", "Twice"])
def test_then_makes_what_is_stored(project: Project, raw: Any, function: str) -> None:
    writes = {"out": {"array": "s.zarr/out", "dtype": "int64"}}
    task = form(function=f"functions:{function}", then="functions:plus", writes=writes)
    project.write(("task", task))
    project.work()
    expected = 2 * raw + np.arange(6).repeat(2)[:, None]
    np.testing.assert_array_equal(project.read("s.zarr/out"), expected)


def test_another_then_does_all_anew(project: Project, raw: Any) -> None:
    writes = {"out": {"array": "s.zarr/out", "dtype": "int64"}}
    project.write(("task", form(writes=writes)))
    project.work()
    project.write(("task", form(writes=writes, then="functions:plus")))
    project.work()
    assert project.read("s.zarr/out")[-1, 0] == 2 * raw[-1, 0] + 5


def test_then_is_refused_where_nothing_is_returned(project: Project, raw: Any) -> None:
    project.write(("task", form(function="functions:alone", call="block", then="functions:plus")))
    said = project.cli("plan", str(project.pipeline))
    assert "tasks.task.then: takes what a function of call: arrays returns" in said.output


ROWS = {"rows": {"columns": {"sum": "int64", "data": "binary"}}}


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_what_runs_once_gets_a_table_job_by_job(project: Project, raw: Any, jobs: int) -> None:
    made = form(then="functions:rows", tables=ROWS, blocks_per_job=[-(-6 // jobs), 1])
    once = {
        "function": "functions:parts",
        "call": "once",
        "reads": {"rows": {"table": "task.rows", "batches": True}},
        "tables": {"parts": {"columns": {"rows": "int64", "sum": "int64"}}},
    }
    project.write(("task", made), ("once", once))
    project.work()
    found = read_table(project.folder / "blocks", "once", "parts").to_pydict()
    each = -(-6 // jobs)
    assert found["rows"] == [min(each, 6 - b) for b in range(0, 6, each)]
    assert sum(found["sum"]) == 2 * raw.sum()


def test_batches_are_refused_of_blocks(project: Project, raw: Any) -> None:
    read = {"raw": "s.zarr/raw", "rows": {"table": "task.rows", "batches": True}}
    again = form(function="functions:read", reads=read, tables=ROWS)
    project.write(("task", form(then="functions:rows", tables=ROWS)), ("again", again))
    said = project.cli("plan", str(project.pipeline))
    assert "tasks.again.reads.rows.batches: has a meaning with call: once alone" in said.output


def test_large_rows_stay_in_their_file(
    project: Project, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is mapped is what is copied, and outlives the reader."""
    project.write(("task", form(then="functions:rows", tables=ROWS, block_size=[12, 4])))
    project.work()
    whole = read_table(project.folder / "blocks", "task", "rows")
    monkeypatch.setattr(row_files, "_LARGE", 1)
    mapped = read_table(project.folder / "blocks", "task", "rows")
    assert mapped.equals(whole)
    assert mapped["data"][0].as_py() == (2 * raw).tobytes()


@pytest.mark.parametrize("array", ["s.zarr/raw", "s.zarr/other"])
def test_a_roi_in_voxels_of_some_array(project: Project, raw: Any, array: str) -> None:
    project.array("s.zarr/other", np.zeros((6, 2)), voxel_size=[2, 2])
    roi = {"array": array, "voxels": {"offset": [1, 0], "shape": [2, 2]}}
    size = 2 if array == "s.zarr/other" else 1
    writes = {"out": {"array": "s.zarr/out", "dtype": "int64", "voxel_size": 1}}
    project.write(("task", form(roi=roi, block_size={"voxels": [2, 2]}, writes=writes)))
    project.work()
    begin, end = size, 3 * size
    np.testing.assert_array_equal(project.read("s.zarr/out"), 2 * raw[begin:end, : 2 * size])
