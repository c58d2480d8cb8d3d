"""Tables per block: what counts is what the last done block returned, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr
from funlib.geometry import Roi
from numpy.typing import NDArray
from project import BIN, Project

import snakemake_blocks as sb
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.plan.estimates import estimate_plan
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.tables import row_bytes
from snakemake_blocks.view.verify import verify_run

pytestmark = pytest.mark.e2e

ROOT = Path("blocks")
FUNCTIONS = """
    import os, signal, time
    from pathlib import Path
    import numpy as np

    def count(raw, block, modulo=4):
        values, counts = np.unique(raw % modulo, return_counts=True)
        return {"block": [block.index] * len(values), "value": values, "count": counts}

    def slow(raw, block, modulo=4):
        time.sleep(0.02)
        return count(raw, block)

    def both(raw, block):
        return {"out": 255 - raw, "counts": count(raw, block)}

    def dies(raw, block):
        mark = Path("died" + str(block.index))
        if block.index == (1, 1) and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return count(raw, block)

    def by_block(block):
        return {"block": [block.index], "value": [0], "count": [block.write_roi.size]}

    def nothing(block):
        return None

    def near(block, rows):
        return {"rows": [rows.num_rows], "total": [np.sum(rows["count"].to_numpy())]}

    def total(rows):
        names = ["value", "count"]
        table = rows.select(names).group_by("value").aggregate([("count", "sum")])
        return {"value": table["value"], "count": table["count_sum"]}
"""
COLUMNS = {"block": "int32[2]", "value": "uint8", "count": "int64"}


@pytest.fixture
def raw(project: Project) -> NDArray[Any]:
    project.functions(FUNCTIONS)
    values = np.random.default_rng(0).integers(0, 255, (60, 48), np.uint8)
    return project.array("s.zarr/raw", values, chunks=(16, 16))


def form(function: str = "count", **more: Any) -> dict[str, Any]:
    return {
        "function": f"functions:{function}",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "tables": {"counts": {"columns": COLUMNS}},
        "roi": "s.zarr/raw",
        "block_size": 8,
        "fit": "shrink",
        "retries": 1,
        "blocks_per_job": [4, 6],
        **more,
    }


def near(**more: Any) -> dict[str, Any]:
    tables = {"sums": {"columns": {"rows": "int64", "total": "int64"}}}
    reads = {"rows": {"table": "count.counts"}}
    return form("near", call="block", reads=reads, tables=tables, conflict=False, **more)


def total(**more: Any) -> dict[str, Any]:
    tables = {"all": {"columns": {"value": "uint8", "count": "int64"}, "parquet": "all.parquet"}}
    reads = {"rows": {"table": "count.counts", "whole": True}}
    return form("total", reads=reads, tables=tables, block_size=[60, 48], **more)


def expected(raw: NDArray[Any], *, modulo: int = 4, size: int = 8) -> pa.Table:
    """Return the table of all blocks, by numpy."""
    rows: list[tuple[Any, ...]] = []
    for i, j in np.ndindex(-(-raw.shape[0] // size), -(-raw.shape[1] // size)):
        part = raw[i * size : (i + 1) * size, j * size : (j + 1) * size]
        found = zip(*np.unique(part % modulo, return_counts=True), strict=True)
        rows += [([i, j], int(v), int(n)) for v, n in found]
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    types = [pa.list_(pa.int32(), 2), pa.uint8(), pa.int64()]
    return pa.table(columns, pa.schema(list(zip(COLUMNS, types, strict=True))))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("blocks_per_job", [5, [3, 2], [8, 8]])
@pytest.mark.parametrize("function", ["count", "both"])
def test_rows_of_all_blocks_in_their_order(
    project: Project, raw: NDArray[Any], function: str, blocks_per_job: Any, workers: int
) -> None:
    writes = {"out": {"array": "s.zarr/out", "dtype": "uint8"}} if function == "both" else {}
    more = {"blocks_per_job": blocks_per_job, "workers": workers, "writes": writes}
    project.write(("count", form(function, **more)))
    project.work()
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))
    if function == "both":
        np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)


def test_of_some_blocks(project: Project, raw: NDArray[Any]) -> None:
    project.write(("count", form()))
    project.work()
    found = sb.read_table(ROOT, "count", "counts", roi=Roi((8, 9), (8, 8)))
    blocks = set(map(tuple, found["block"].to_pylist()))
    assert blocks == {(1, 1), (1, 2)}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("count", "none"), "task count has no table 'none'; known are counts"),
        (("none", "counts"), "there is no task 'none'; known are count"),
        (("count", "counts", Roi((0,), (8,))), "roi has 1 axes, task count has 2"),
    ],
)
def test_what_is_not_there_is_named(
    project: Project, raw: NDArray[Any], arguments: tuple[Any, ...], problem: str
) -> None:
    project.write(("count", form()))
    project.work()
    task, name, *roi = arguments
    with pytest.raises(InputError, match=problem.replace("'", ".")):
        sb.read_table(ROOT, task, name, roi=roi[0] if roi else None)


def test_blocks_by_themselves_and_without_rows(project: Project, raw: NDArray[Any]) -> None:
    project.write(
        ("count", form("by_block", call="block", reads={})),
        ("none", form("nothing", call="block", reads={})),
    )
    project.work()
    found = sb.read_table(ROOT, "count", "counts")
    assert sum(found["count"].to_pylist()) == raw.size
    assert sb.read_table(ROOT, "none", "counts").num_rows == 0


def test_rows_of_a_block_that_is_done_again_replace_the_old_ones(
    project: Project, raw: NDArray[Any]
) -> None:
    project.write(("count", form()))
    project.work()
    project.cli("reset", "blocks", "count", "--roi", "0:8,0:16")
    left = sb.read_table(ROOT, "count", "counts")
    assert left.num_rows < expected(raw).num_rows
    project.work()
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))
    project.write(("count", form(params={"modulo": 7})))
    generate(project.pipeline)
    assert sb.read_table(ROOT, "count", "counts").num_rows == 0
    project.work()
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw, modulo=7))


@pytest.mark.parametrize("before", [5, [8, 8]])
def test_rows_stay_when_blocks_move_to_other_jobs(
    project: Project, raw: NDArray[Any], before: Any
) -> None:
    project.write(("count", form(blocks_per_job=before, roi={"offset": [0, 0], "shape": [32, 48]})))
    project.work()
    project.write(("count", form(blocks_per_job=[2, 5])), ("near", near(context=8)))
    generate(project.pipeline)
    kept = sb.read_table(ROOT, "count", "counts")
    assert kept.equals(expected(raw[:32]))
    before_run = project.records("count").keys()
    project.work()
    assert len(before_run) == 24  # those of the smaller region are not done again
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))


def test_rows_that_are_lost_are_told_and_made_anew(project: Project, raw: NDArray[Any]) -> None:
    project.write(("count", form(blocks_per_job=[4, 6])), ("near", near()))
    plan = project.work()
    (first, *_) = sorted((ROOT / "count/tables/counts").glob("*/*"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    (line,) = verify_run(plan, ROOT).missing
    assert line.startswith("count: rows of ")
    assert "of table counts are lost" in line
    project.work()  # generate has the blocks done anew, and what reads them
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))


def test_a_worker_that_dies_leaves_no_rows_of_what_is_not_recorded(
    project: Project, raw: NDArray[Any]
) -> None:
    project.write(("count", form("dies", blocks_per_job=[8, 8], workers=2)))
    project.work()
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))


def test_jobs_that_are_killed_lose_and_double_nothing(project: Project, raw: NDArray[Any]) -> None:
    project.write(("count", form("slow", blocks_per_job=[8, 8], workers=2)))
    plan, _ = generate(project.pipeline)
    (job,) = plan.jobs("count")
    for seconds in (0.9, 1.1, 1.3):
        going = subprocess.Popen(
            [str(BIN / "snakemake-blocks"), "work", job.sentinel],
            start_new_session=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds)
        os.killpg(going.pid, signal.SIGKILL)
        going.wait()
        found = sb.read_table(ROOT, "count", "counts").to_pylist()
        assert all(row in expected(raw).to_pylist() for row in found)
        assert len(found) == len({(*row["block"], row["value"]) for row in found})
    project.work()
    assert sb.read_table(ROOT, "count", "counts").equals(expected(raw))


class TestReading:
    def test_a_block_gets_the_rows_that_its_read_roi_meets(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        project.write(
            ("count", form(blocks_per_job=[3, 4])),
            ("near", near(block_size=[16, 8], context=[0, 8], blocks_per_job=2)),
        )
        project.work()
        found = sb.read_table(ROOT, "near", "sums")["total"].to_pylist()
        wanted = [
            raw[i : i + 16, max(0, j - 8) : j + 16].size
            for i in range(0, 60, 16)
            for j in range(0, 48, 8)
        ]
        assert found == wanted

    def test_all_rows(self, project: Project, raw: NDArray[Any]) -> None:
        project.write(("count", form()), ("total", total()))
        plan = project.work()
        found = sb.read_table(ROOT, "total", "all").to_pylist()
        values, counts = np.unique(raw % 4, return_counts=True)
        assert sorted((r["value"], r["count"]) for r in found) == list(
            zip(values.tolist(), counts.tolist(), strict=True)
        )
        assert pyarrow.parquet.read_table("all.parquet").to_pylist() == found
        os.remove("all.parquet")
        (line,) = verify_run(plan, ROOT).missing
        assert line.startswith("total: all.parquet is missing")

    def test_what_is_read_anew_is_done_anew(self, project: Project, raw: NDArray[Any]) -> None:
        """Exactly those blocks whose rows, or upstream blocks, are others."""
        project.write(("count", form()), ("near", near(context=8)), ("total", total()))
        project.work()
        stamps = {n: {k: r["stamp"] for k, r in project.records(n).items()} for n in ("near",)}
        project.cli("reset", "blocks", "count", "--roi", "0:8,0:8")
        project.work()
        after = {k: r["stamp"] for k, r in project.records("near").items()}
        changed = {k for k, stamp in after.items() if stamp != stamps["near"][k]}
        assert changed == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert len([r for r in project.all_records("total") if r["event"] == 2]) == 2

    @pytest.mark.parametrize(
        ("tasks", "problem"),
        [
            ({"near": near()}, "tasks.near.reads.rows: there is no task count; known are near"),
            ({"count": form(tables={"x": {"columns": {"a": "int8"}}}), "near": near()},
             "tasks.near.reads.rows: task count has no table counts; known are x"),
            ({"count": form(reads={"raw": "s.zarr/raw", "rows": {"table": "count.counts"}})},
             "tasks.count.reads.rows: a task cannot read its own table; make another task"),
            ({"count": form(tables={"t": {"columns": {"a": "what"}}})},
             "tasks.count.tables.t.columns.a: 'what' is no type of a column"),
            ({"count": form(tables={"t": {"columns": {}}})},
             "tasks.count.tables.t.columns: must not be empty"),
            ({"count": form(tables={"t": {"colums": {"a": "int8"}}})},
             "tasks.count.tables.t.colums: is not a known key; did you mean columns?"),
            ({"count": form(), "near": {**near(), "reads": {"rows": {"table": "counts"}}}},
             "tasks.near.reads.rows.table: must be the name of a task and of its table, as "
             "task.table, got \"counts\""),
            ({"count": form(), "near": {**near(), "reads": {"others": {"table": "count.counts"}}}},
             "tasks.near.reads.others: functions:near has no argument of this name"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(
        self, project: Project, raw: NDArray[Any], tasks: dict[str, Any], problem: str
    ) -> None:
        project.write(*tasks.items())
        with pytest.raises(SpecError) as caught:
            generate(project.pipeline)
        assert f"pipeline.yaml: {problem}" in str(caught.value), str(caught.value)


class TestOnce:
    """A task of one call, after whole upstream tasks, with no shape to be typed."""

    @pytest.fixture
    def merge(self, project: Project, raw: NDArray[Any]) -> dict[str, Any]:
        with (project.folder / "functions.py").open("a") as file:
            file.write(
                "\n\ndef merge(rows, raw, factor=1):\n"
                "    assert raw.shape == (60, 48) and raw[3, 5] >= 0  # opened, not loaded\n"
                "    total = int(np.sum(rows['count'].to_numpy()))\n"
                "    return {'total': [factor * total], 'size': [raw.size]}\n"
                "\n\ndef share(block, rows, all):\n"
                "    part = np.sum(rows['count'].to_numpy())\n"
                "    return {'share': [part / all['total'][0].as_py()]}\n"
            )
        return {
            "function": "functions:merge",
            "call": "once",
            "reads": {"rows": {"table": "count.counts"}, "raw": "s.zarr/raw"},
            "tables": {"all": {"columns": {"total": "int64", "size": "int64"}}},
        }

    def test_it_gets_tables_and_opened_arrays(
        self, project: Project, raw: NDArray[Any], merge: dict[str, Any]
    ) -> None:
        share = form(
            "share", call="block", tables={"shares": {"columns": {"share": "float64"}}},
            reads={"rows": {"table": "count.counts"}, "all": {"table": "merge.all"}},
            conflict=False,
        )  # fmt: skip
        project.write(("count", form()), ("merge", merge), ("share", share))
        plan = project.work()
        assert plan.tasks["merge"].num_blocks == 1
        assert (plan.tasks["merge"].whole, plan.tasks["share"].whole) == ({"count"}, {"merge"})
        found = sb.read_table(ROOT, "merge", "all").to_pylist()
        assert found == [{"total": raw.size, "size": raw.size}]
        shares = sb.read_table(ROOT, "share", "shares")["share"].to_pylist()
        assert sum(shares) == pytest.approx(1)
        assert max(shares) == 64 / raw.size

    def test_it_runs_again_when_anything_above_it_has_changed(
        self, project: Project, raw: NDArray[Any], merge: dict[str, Any]
    ) -> None:
        project.write(("count", form()), ("merge", merge))
        project.work()
        ((_, first),) = project.records("merge").items()
        project.work()
        ((_, same),) = project.records("merge").items()
        assert same["stamp"] == first["stamp"]
        project.cli("reset", "blocks", "count", "--roi", "8:16,8:16")
        project.work()
        ((_, again),) = project.records("merge").items()
        assert again["stamp"] != first["stamp"]
        project.write(("count", form()), ("merge", {**merge, "params": {"factor": 2}}))
        project.work()
        assert sb.read_table(ROOT, "merge", "all")["total"].to_pylist() == [2 * raw.size]

    def test_with_snakemake_and_a_pilot(
        self, project: Project, raw: NDArray[Any], merge: dict[str, Any]
    ) -> None:
        project.write(("count", form()), ("merge", merge))
        done = project.blocks("run", "pipeline.yaml", "--cores", "2", "--roi", "0:8,0:8")
        assert done.returncode == 0, done.stderr
        assert len(project.records("count")) == 1
        done = project.blocks("run", "pipeline.yaml", "--cores", "2")
        assert done.returncode == 0, done.stderr
        assert sb.read_table(ROOT, "merge", "all")["total"].to_pylist() == [raw.size]

    def test_arrays_that_another_task_writes(
        self, project: Project, raw: NDArray[Any], merge: dict[str, Any]
    ) -> None:
        with (project.folder / "functions.py").open("a") as file:
            file.write("\n\ndef look(out):\n    return {'least': [int(out[:].min())]}\n")
        writes = {"out": {"array": "s.zarr/out", "dtype": "uint8"}}
        look = {
            "function": "functions:look",
            "call": "once",
            "reads": {"out": "s.zarr/out"},
            "tables": {"t": {"columns": {"least": "int64"}}},
        }
        project.write(("both", form("both", writes=writes)), ("look", look))
        project.work()
        assert sb.read_table(ROOT, "look", "t")["least"].to_pylist() == [int((255 - raw).min())]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"roi": "s.zarr/raw"}, "roi: has no meaning with call: once; remove it"),
            ({"block_size": 8}, "block_size: has no meaning with call: once; remove it"),
            ({"tables": {}},
             "writes: call: once needs at least one array to write, a table or an output"),
            ({"reads": {"rows": {"table": "count.counts"}, "raw": "s.zarr/no"}},
             "reads.raw: s.zarr/no: there is no array, and no task writes one there"),
            ({"call": "arrays"}, "roi: is missing"),
            ({"call": "arrays", "roi": "s.zarr/raw"}, "block_size: is missing"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(
        self,
        project: Project,
        raw: NDArray[Any],
        merge: dict[str, Any],
        change: dict[str, Any],
        problem: str,
    ) -> None:
        project.write(("count", form()), ("merge", {**merge, **change}))
        with pytest.raises(SpecError) as caught:
            generate(project.pipeline)
        assert f"pipeline.yaml: tasks.merge.{problem}" in str(caught.value), str(caught.value)


class TestReduce:
    """Rows of blocks merged in a tree of tasks, equal to what numpy finds on the whole array."""

    @pytest.fixture
    def histogram(self, project: Project, raw: NDArray[Any]) -> dict[str, Any]:
        with (project.folder / "functions.py").open("a") as file:
            file.write(
                "\n\ndef bins(raw):\n"
                "    return {'counts': [np.bincount(raw.ravel(), minlength=256)],\n"
                "            'least': [raw.min()], 'most': [raw.max()]}\n"
                "\n\ndef add(rows):\n"
                "    counts = np.array(rows['counts'].to_pylist())\n"
                "    least, most = (rows[n].to_numpy() for n in ('least', 'most'))\n"
                "    with open('merges.txt', 'a') as file: file.write('x')\n"
                "    found = {'least': [least.min()], 'most': [most.max()]}\n"
                "    return {'counts': [counts.sum(0)], **found}\n"
                "\n\ndef two(a, b):\n"
                "    import pyarrow as pa\n"
                "    return add(pa.concat_tables([a, b]))\n"
            )
        columns = {"counts": "int64[256]", "least": "uint8", "most": "uint8"}
        return {
            "function": "functions:bins",
            "call": "reduce",
            "merge": "functions:add",
            "reads": {"raw": "s.zarr/raw"},
            "tables": {"values": {"columns": columns}},
            "roi": "s.zarr/raw",
            "block_size": 4,
            "fit": "shrink",
            "blocks_per_job": 40,
        }

    @staticmethod
    def result() -> dict[str, Any]:
        (row,) = sb.read_table(ROOT, "histogram", "values").to_pylist()
        return row

    @staticmethod
    def wanted(values: NDArray[Any]) -> dict[str, Any]:
        counts = np.bincount(values.ravel(), minlength=256).tolist()
        return {"counts": counts, "least": int(values.min()), "most": int(values.max())}

    @pytest.mark.parametrize("merge", ["add", "two"])
    @pytest.mark.parametrize("block_size", [4, [60, 48], [7, 11]])
    def test_as_of_the_whole(
        self,
        project: Project,
        raw: NDArray[Any],
        histogram: dict[str, Any],
        block_size: Any,
        merge: str,
    ) -> None:
        more = {"block_size": block_size, "merge": f"functions:{merge}"}
        project.write(("histogram", {**histogram, **more}))
        plan = project.work()
        middle = ["histogram_1"] if block_size == 4 else []
        assert list(plan.tasks) == ["histogram_map", *middle, "histogram"]
        assert plan.tasks["histogram"].num_blocks == 1
        assert self.result() == self.wanted(raw)

    def test_one_changed_block_is_merged_alone(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any]
    ) -> None:
        project.write(("histogram", histogram))
        project.work()
        before = {n: project.records(n) for n in ("histogram_map", "histogram_1", "histogram")}
        Path("merges.txt").unlink()
        store = zarr.open_array(project.folder / "s.zarr/raw", mode="r+")
        store[5, 5] = 255 - raw[5, 5]
        project.cli("reset", "blocks", "histogram_map", "--roi", "5:6,5:6")
        project.work()
        assert self.result() == self.wanted(store[:])
        changed = {
            name: [k for k, r in project.records(name).items() if r["stamp"] != old[k]["stamp"]]
            for name, old in before.items()
        }
        assert changed == {
            "histogram_map": [(1, 1)], "histogram_1": [(0, 0)], "histogram": [(0, 0)]
        }  # fmt: skip
        assert len(Path("merges.txt").read_text()) == 2

    def test_masked_blocks_have_no_rows(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any]
    ) -> None:
        mask = np.zeros_like(raw)
        mask[3:30, 20:33] = 1
        project.array("s.zarr/mask", mask, chunks=(16, 16))
        project.write(("histogram", {**histogram, "mask": "s.zarr/mask"}))
        plan = project.work()
        assert plan.tasks["histogram_1"].num_masked > 0
        assert self.result() == self.wanted(raw[0:32, 20:36])

    def test_what_reads_the_result_waits_for_it(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any]
    ) -> None:
        with (project.folder / "functions.py").open("a") as file:
            file.write(
                "\n\ndef scale(raw, values):\n"
                "    least, most = (values[n][0].as_py() for n in ('least', 'most'))\n"
                "    return (raw.astype(np.float64) - least) / (most - least)\n"
            )
        scale = {
            "function": "functions:scale",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw", "values": {"table": "histogram.values", "whole": True}},
            "writes": {"out": {"array": "s.zarr/scaled", "dtype": "float64"}},
            "roi": "s.zarr/raw",
            "block_size": 12,
        }
        project.write(("histogram", histogram), ("scale", scale))
        project.work()
        low, high = int(raw.min()), int(raw.max())
        expected_values = (raw.astype(np.float64) - low) / (high - low)
        np.testing.assert_array_equal(project.read("s.zarr/scaled"), expected_values)

    @pytest.mark.parametrize("executor", ["blocks", "local"])
    def test_with_snakemake(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any], executor: str
    ) -> None:
        project.write(("histogram", histogram))
        words = ("--", "--executor", executor)
        done = project.blocks("run", "pipeline.yaml", "--cores", "2", *words)
        assert done.returncode == 0, done.stderr
        assert self.result() == self.wanted(raw)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"merge": None}, "merge: is missing"),
            ({"merge": "functions:none"}, "merge: functions.py defines no none"),
            ({"tables": {}}, "tables: call: reduce makes one table; declare it"),
            ({"call": "arrays"}, "merge: has a meaning with call: reduce alone; remove it"),
        ],
    )
    def test_what_is_wrong_is_named(
        self,
        project: Project,
        histogram: dict[str, Any],
        change: dict[str, Any],
        problem: str,
    ) -> None:
        project.write(("histogram", {**histogram, **change}))
        with pytest.raises(SpecError) as caught:
            generate(project.pipeline)
        assert f"pipeline.yaml: tasks.histogram.{problem}" in str(caught.value), str(caught.value)

    def test_of_a_table_that_is_there(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any]
    ) -> None:
        make = {k: v for k, v in histogram.items() if k not in ("merge", "parquet")}
        merge = {
            "call": "reduce",
            "merge": "functions:add",
            "reads": {"rows": {"table": "bins.values"}},
            "tables": {"all": {**histogram["tables"]["values"], "parquet": "all.parquet"}},
        }
        project.write(("bins", {**make, "call": "arrays"}), ("histogram", merge))
        plan = project.work()
        assert list(plan.tasks) == ["bins", "histogram_1", "histogram"]
        bare_memory = estimate_plan(plan)["histogram_1"].memory
        memory = estimate_plan(plan, rows=row_bytes(plan, ROOT))["histogram_1"].memory
        assert (bare_memory, memory > 64 * 256 * 8) == (0, True)
        assert sb.read_table(ROOT, "histogram", "all").to_pylist() == [self.wanted(raw)]
        assert pyarrow.parquet.read_table("all.parquet").to_pylist() == [self.wanted(raw)]
        bare = {k: v for k, v in merge.items() if k != "tables"}
        project.write(("bins", {**make, "call": "arrays"}), ("histogram", bare))
        project.work()
        assert self.result() == self.wanted(raw)

    def test_map_is_what_function_is(
        self, project: Project, raw: NDArray[Any], histogram: dict[str, Any]
    ) -> None:
        form = {**histogram, "map": histogram["function"]}
        del form["function"]
        project.write(("histogram", form))
        project.work()
        assert self.result() == self.wanted(raw)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"reads": {"raw": "s.zarr/raw"}}, "reads: without map it is one table that is merged"),
            ({"roi": "s.zarr/raw"}, "roi: has no meaning without map; remove it, or add a map"),
            ({"tables": {"t": {"columns": {"value": "uint8"}}}},
             "tables.t.columns: count.counts has block: int32[2], value: uint8, count: int64"),
            ({"reads": {"rows": {"table": "count.none"}}},
             "reads.rows: task count has no table none"),
            ({"map": "functions:add", "function": "functions:add"},
             "map: is what function is here; give one of the two"),
            ({"map": "functions:none"}, "map: functions.py defines no none"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_without_a_map_is_named(
        self,
        project: Project,
        histogram: dict[str, Any],
        change: dict[str, Any],
        problem: str,
    ) -> None:
        reads = {"rows": {"table": "count.counts"}}
        merge = {"call": "reduce", "merge": "functions:add", "reads": reads}
        project.write(("count", form()), ("merge", {**merge, **change}))
        with pytest.raises(SpecError) as caught:
            generate(project.pipeline)
        assert f"pipeline.yaml: tasks.merge.{problem}" in str(caught.value), str(caught.value)


class TestOnceArrays:
    """A task that runs once writes arrays, whole or by itself, and nobody types a shape."""

    @pytest.fixture
    def flatten(self, project: Project, raw: NDArray[Any]) -> dict[str, Any]:
        with (project.folder / "functions.py").open("a") as file:
            file.write(
                "\n\ndef flatten(raw, rows):\n"
                "    values = raw[...]\n"
                "    return {'flat': values - values.min(axis=0), 'n': {'n': [rows.num_rows]}}\n"
                "\n\ndef by_itself(raw, rows, flat):\n"
                "    flat[:, :24] = raw[:, :24] - raw[...].min(axis=0)[:24]\n"
                "    flat[:, 24:] = raw[:, 24:] - raw[...].min(axis=0)[24:]\n"
                "    return {'n': [rows.num_rows]}\n"
                "\n\ndef small(raw, rows):\n"
                "    return {'flat': raw[::2, ::2], 'n': {'n': [rows.num_rows]}}\n"
                "\n\ndef double(flat):\n"
                "    return flat * 2.0\n"
            )
        return {
            "function": "functions:flatten",
            "call": "once",
            "reads": {"raw": "s.zarr/raw", "rows": {"table": "count.counts"}},
            "writes": {"flat": {"array": "s.zarr/flat", "dtype": "uint8"}},
            "tables": {"n": {"columns": {"n": "int64"}}},
        }

    @pytest.mark.parametrize("function", ["flatten", "by_itself"])
    def test_what_reads_them_reads_all(
        self, project: Project, raw: NDArray[Any], flatten: dict[str, Any], function: str
    ) -> None:
        flatten["function"] = f"functions:{function}"
        double = {
            "function": "functions:double",
            "call": "arrays",
            "reads": {"flat": "s.zarr/flat"},
            "writes": {"out": {"array": "s.zarr/out", "dtype": "float32"}},
            "roi": "s.zarr/raw",
            "block_size": 12,
        }
        project.write(("count", form()), ("flatten", flatten), ("double", double))
        plan = project.work()
        assert plan.tasks["flatten"].num_blocks == 1
        flat = raw - raw.min(axis=0)
        np.testing.assert_array_equal(project.read("s.zarr/flat"), flat)
        np.testing.assert_array_equal(project.read("s.zarr/out"), flat * 2.0)
        assert sb.read_table(ROOT, "flatten", "n")["n"].to_pylist() == [expected(raw).num_rows]
        project.cli("reset", "blocks", "count", "--roi", "0:8,0:8")
        before = project.records("double")
        project.work()
        assert all(project.records("double")[k]["stamp"] != before[k]["stamp"] for k in before)

    def test_of_other_voxels(
        self, project: Project, raw: NDArray[Any], flatten: dict[str, Any]
    ) -> None:
        writes = {"flat": {"array": "s.zarr/flat", "dtype": "uint8", "voxel_size": 2}}
        flatten |= {"function": "functions:small", "writes": writes}
        project.write(("count", form()), ("flatten", flatten))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/flat"), raw[::2, ::2])

    def test_chunks_that_are_lost_are_made_anew(
        self, project: Project, raw: NDArray[Any], flatten: dict[str, Any]
    ) -> None:
        project.write(("count", form()), ("flatten", flatten))
        project.work()
        (chunk,) = [p for p in Path("s.zarr/flat/c").rglob("*") if p.is_file()]
        chunk.unlink()
        assert "chunks of s.zarr/flat are missing" in str(verify_run(Plan.load(ROOT), ROOT).missing)
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/flat"), raw - raw.min(axis=0))

    def test_another_shape_is_named(
        self, project: Project, raw: NDArray[Any], flatten: dict[str, Any]
    ) -> None:
        project.write(("count", form()), ("flatten", {**flatten, "function": "functions:small"}))
        project.work(complete=False)
        said = (ROOT / "flatten/logs/0-0/0-0.failures.jsonl").read_text()
        assert "flat has shape (30, 24); s.zarr/flat takes (60, 48)" in said

    def test_it_cannot_read_what_it_writes(
        self, project: Project, raw: NDArray[Any], flatten: dict[str, Any]
    ) -> None:
        project.array("s.zarr/own", raw, chunks=(16, 16))
        form_ = {
            **flatten,
            "reads": {**flatten["reads"], "raw": "s.zarr/own"},
            "writes": {"flat": {"array": "s.zarr/own", "dtype": "uint8"}},
        }
        project.write(("count", form()), ("flatten", form_))
        with pytest.raises(SpecError, match=r"reads.raw: s.zarr/own is written, too; an argument"):
            generate(project.pipeline)


class TestPython:
    """Whole pipelines of daisy's users in one call."""

    @staticmethod
    def tasks(raw: NDArray[Any]) -> list[sb.Task]:
        def count(block: sb.Block) -> dict[str, Any]:
            part = raw[tuple(slice(b, e) for b, e in zip(*block_ends(block), strict=True))]
            values, counts = np.unique(part % 4, return_counts=True)
            return {"value": values, "count": counts}

        def block_ends(block: sb.Block) -> tuple[Any, Any]:
            return block.write_roi.begin, block.write_roi.end

        def add(rows: Any) -> dict[str, Any]:
            found = rows.group_by("value").aggregate([("count", "sum")]).sort_by("value")
            return {"value": found["value"], "count": found["count_sum"]}

        def mean(rows: Any, raw: Any) -> dict[str, Any]:
            value, count = rows["value"].to_numpy(), rows["count"].to_numpy()
            return {"mean": [float((value * count).sum() / raw.size)]}

        block = sb.Roi((0, 0), (5, 4))
        one = sb.Task(
            "count", sb.Roi((0, 0), raw.shape), block, block, count, read_write_conflict=False,
            tables={"counts": {"value": "uint8", "count": "int64"}},
        )  # fmt: skip
        all_ = sb.reduce_task("add", one, "counts", add, name="all")
        last = sb.once_task(
            "mean", mean, reads={"raw": "s.zarr/raw"}, upstream_tasks=[all_],
            table_reads={"rows": "add.all"}, outputs=[],
            tables={"mean": {"columns": {"mean": "float64"}, "parquet": "mean.parquet"}},
        )  # fmt: skip
        return [last]

    def test_in_one_call(self, project: Project, raw: NDArray[Any]) -> None:
        result = sb.run_blockwise(
            self.tasks(raw), run_directory="blocks", summary=False, progress=False
        )
        assert result and set(result) == {"count", "add_1", "add_2", "add", "mean"} - {"add_2"}
        values, counts = np.unique(raw % 4, return_counts=True)
        found = sb.read_table(ROOT, "add", "all")
        assert found["value"].to_pylist() == values.tolist()
        assert found["count"].to_pylist() == counts.tolist()
        (row,) = pyarrow.parquet.read_table("mean.parquet").to_pylist()
        assert row["mean"] == pytest.approx(float((raw % 4).mean()))

    def test_in_one_process(self, project: Project, raw: NDArray[Any]) -> None:
        seen: list[float] = []

        def look(rows: Any) -> dict[str, Any]:
            seen.extend(rows["mean"].to_pylist())
            return {"n": [rows.num_rows]}

        tasks = self.tasks(raw)
        look_task = sb.once_task(
            "look", look, upstream_tasks=tasks, table_reads={"rows": "mean.mean"},
            tables={"n": {"n": "int64"}},
        )  # fmt: skip
        assert sb.run_blockwise([look_task], multiprocessing=False, summary=False)
        assert seen == [pytest.approx(float((raw % 4).mean()))]

    def test_an_array_that_an_upstream_task_makes(
        self, project: Project, raw: NDArray[Any]
    ) -> None:
        with pytest.raises(InputError, match=r"no.zarr: there is no array, and no upstream task"):
            sb.once_task("once", print, reads={"x": "no.zarr"}, tables={"n": {"n": "int64"}})

    def test_a_table_that_is_not_there(self, project: Project, raw: NDArray[Any]) -> None:
        source = self.tasks(raw)[0]
        with pytest.raises(SpecError, match="has no table 'no'; known are mean"):
            sb.reduce_task("again", source, "no", print)
        with pytest.raises(SpecError, match=r"tables.n: must be columns and their types"):
            sb.once_task("once", print, tables={"n": 3})
        with pytest.raises(SpecError, match=r"table_reads.n: must be a TableRead, or task.table"):
            sb.once_task("once", print, table_reads={"n": 3}, tables={"n": {"n": "int64"}})
