"""Look-up tables, applied block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from project import Project, stamps

import snakemake_blocks.operations.relabel as ours
from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.relabel import relabelled, sort, unique

BIG = 2**63 + 5


@given(
    st.dictionaries(st.integers(0, 30) | st.just(BIG), st.integers(0, 2**64 - 1)),
    st.lists(st.integers(0, 30) | st.just(BIG), min_size=1),
    st.sampled_from(["keep", "zero", "error"]),
)
def test_as_a_dict(lut: dict[int, int], labels: list[int], missing: str) -> None:
    keys, values = list(lut), list(lut.values())
    parts = [
        pa.table({"a": pa.array(keys[b::2], pa.uint64()), "b": pa.array(values[b::2], pa.uint64())})
        for b in (0, 1)
    ]
    table = pa.table(sort(iter(parts)))
    given = np.array(labels, np.uint64)
    lost = [x for x in labels if x and x not in lut]
    if lost and missing == "error":
        with pytest.raises(InputError, match=f"{len(set(lost))} labels have no new one"):
            relabelled(given, table, missing)
        return
    expected = [lut.get(x, x if missing == "keep" else 0) for x in labels]
    assert relabelled(given, table, missing).tolist() == expected


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "uint64", "bool"])
def test_unique_is_numpys(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 50, (4, 5, 6)).astype(dtype)
    names, places = unique(labels)
    np.testing.assert_array_equal(names[places], labels)
    np.testing.assert_array_equal(names, np.unique(labels))
    monkeypatch.setitem(__import__("sys").modules, "fastremap", None)
    for one, other in zip(unique(labels), (names, places), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("columns", "more", "problem"),
    [
        ({"a": [1, 1], "b": [2, 3]}, {}, "label 1 becomes 2 and 3"),
        ({"a": [-1], "b": [2]}, {}, "whole numbers from 0 on"),
        ({"a": [1.5], "b": [2]}, {}, "whole numbers from 0 on"),
        ({"a": [1]}, {}, "has one column, a"),
        ({"a": [1], "b": [2]}, {"new": "c"}, "no column c; known are a, b"),
    ],
)
def test_what_is_no_look_up_table(
    columns: dict[str, Any], more: dict[str, str], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        sort([pa.table(columns)], **more)


def test_a_row_that_is_there_twice_counts_once() -> None:
    assert sort([pa.table({"a": [3, 1, 3], "b": [2, 0, 2]})])["old"].tolist() == [1, 3]


class TestTasks:
    @pytest.fixture
    def labels(self, project: Project) -> NDArray[np.uint32]:
        values = np.random.default_rng(0).integers(0, 9, (20, 20)).astype(np.uint32)
        project.array("s.zarr/labels", values, chunks=(8, 8))
        return values

    def form(self, **more: Any) -> dict[str, Any]:
        return {
            "use": "relabel",
            "reads": {"labels": "s.zarr/labels"},
            "writes": {"labels": "s.zarr/new"},
            "block_size": {"voxels": 8},
            **more,
        }

    def test_by_parquet_and_again_when_that_is_another(
        self, project: Project, labels: NDArray[np.uint32]
    ) -> None:
        for factor in (2, 3):
            table = pa.table({"old": range(9), "new": [factor * n for n in range(9)]})
            pyarrow.parquet.write_table(table, project.folder / "lut.parquet")
            project.write(("new", self.form(params={"parquet": "lut.parquet"})))
            project.work()
            np.testing.assert_array_equal(project.read("s.zarr/new"), factor * labels)
            assert project.read("s.zarr/new").dtype == np.uint32

    def test_by_an_array(self, project: Project, labels: NDArray[np.uint32]) -> None:
        project.array("s.zarr/lut", np.arange(9, dtype=np.uint16)[::-1], voxel_size=[0.123])
        reads = {"labels": "s.zarr/labels", "lut": "s.zarr/lut"}
        project.write(("new", self.form(reads=reads)))
        project.work()
        expected = np.where(labels >= 0, 8 - labels.astype(int), 0)
        np.testing.assert_array_equal(project.read("s.zarr/new"), expected)

    def test_by_a_table_of_a_task(self, project: Project, labels: NDArray[np.uint32]) -> None:
        project.functions(
            """
            def lut(n):
                return {"lut": {"cell": range(n), "group": [k // 3 for k in range(n)]}}
            """
        )
        reads = {"labels": "s.zarr/labels", "lut": {"table": "lut.lut"}}
        once = {
            "function": "functions:lut",
            "call": "once",
            "params": {"n": 9},
            "tables": {"lut": {"columns": {"cell": "uint64", "group": "uint64"}}},
        }
        project.write(("new", self.form(reads=reads)), ("lut", once))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/new"), labels // 3)
        before = stamps(project.records("new_label"))
        project.cli("reset", str(project.folder / "blocks"), "lut")
        project.work()
        assert not set(before.values()) & set(stamps(project.records("new_label")).values())

    def test_labels_that_are_missing_fail(
        self, project: Project, labels: NDArray[np.uint32]
    ) -> None:
        table = pa.table({"old": range(8), "new": range(8)})
        pyarrow.parquet.write_table(table, project.folder / "lut.parquet")
        form = self.form(params={"parquet": "lut.parquet"}, retries=0)
        project.write(("new", form))
        project.work(complete=False)
        said = project.cli("status", str(project.folder / "blocks"))
        assert "1 labels have no new one: 8" in " ".join(said.output.split())

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({}, "tasks.new.reads.lut: give {lut: {table: task.table}}"),
            ({"params": {"parquet": "no.parquet"}}, "no.parquet: there is no such file"),
            ({"reads": {"lut": "s.zarr/labels"}}, "relabel needs reads: {labels: ...}"),
        ],
    )
    def test_what_is_wrong(
        self,
        project: Project,
        labels: NDArray[np.uint32],
        change: dict[str, Any],
        problem: str,
    ) -> None:
        project.write(("new", self.form(**change)))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())


def test_the_module_has_the_names_that_plans_have() -> None:
    assert {ours.sort.__name__, ours.relabelled.__name__} == {"sort", "relabelled"}
