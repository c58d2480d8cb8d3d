"""Blocks that are stored together: each shard is written once, whatever happens to its blocks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from project import BIN, Project

import snakemake_blocks.storage.held
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event
from snakemake_blocks.storage.arrays import write_stored
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.job import work_sentinel

pytestmark = pytest.mark.e2e

FUNCTIONS = """
    import os, signal, time
    from pathlib import Path
    import zarr

    def invert(raw):
        return 255 - raw

    def first_time(block, what):
        marks = Path("marks")
        marks.mkdir(exist_ok=True)
        mark = marks / (what + "-".join(map(str, block.index)))
        if mark.exists():
            return False
        mark.touch()
        return True

    def fails(raw, block):
        if block.index == (1, 1) and first_time(block, "fails"):
            raise ValueError("not yet")
        return 255 - raw

    def dies(raw, block):
        if block.index == (1, 1) and first_time(block, "dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        return 255 - raw

    def slow(raw, block):
        time.sleep(0.05)
        return 255 - raw

    def by_itself(block):
        raw = zarr.open_array("s.zarr/raw", mode="r")
        out = zarr.open_array("s.zarr/out", mode="r+")
        where = block.write_roi.to_slices()
        out[where] = 255 - raw[where]
"""


@pytest.fixture
def raw(project: Project) -> NDArray[Any]:
    project.functions(FUNCTIONS)
    values = np.random.default_rng(0).integers(1, 255, (60, 48), np.uint8)
    return project.array("s.zarr/raw", values, chunks=(16, 16))


def write(project: Project, function: str = "invert", **more: Any) -> None:
    changes = dict(more)
    out = {"array": "s.zarr/out", "dtype": "uint8", "chunks": 8, "shards": 32}
    form = {
        "function": f"functions:{function}",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "writes": {"out": {**out, **changes.pop("out", {})}},
        "roi": "s.zarr/raw",
        "block_size": 8,
        "fit": "shrink",
        "retries": 1,
        **changes,
    }
    project.write(("invert", form))


def run(project: Project, *, complete: bool = True) -> Plan:
    plan, _ = generate(project.pipeline)
    codes = [
        work_sentinel(Path(job.sentinel), attempt=1, environment={}) for job in plan.jobs("invert")
    ]
    assert (set(codes) == {0}) is complete
    if complete:
        assert verify_run(plan, project.folder / "blocks").missing == ()
    return plan


def events(project: Project) -> Counter[str]:
    return Counter(
        Event(int(record["event"])).name
        for record in project.all_records("invert")
        if record["event"] != Event.BUDGET
    )


@pytest.fixture
def writes(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file with a line for each time that a shard is written, by any process."""
    path = project.folder / "writes.txt"
    path.touch()

    def noted(data: Any, array: Any, here: Any, values: Any) -> None:
        with path.open("a") as file:
            file.write(f"{here.begin}\n")
        write_stored(data, array, here, values)

    monkeypatch.setattr(snakemake_blocks.storage.held, "write_stored", noted)
    return path


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("blocks_per_job", ["auto", 16, 40, [8, 8]])
@pytest.mark.parametrize("shards", [16, [32, 16], "auto"])
def test_each_is_written_once(
    project: Project,
    raw: NDArray[Any],
    writes: Path,
    shards: Any,
    blocks_per_job: Any,
    workers: int,
) -> None:
    write(project, out={"shards": shards}, blocks_per_job=blocks_per_job, workers=workers)
    plan = run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)
    stored = zarr.open_array(project.folder / "s.zarr/out", mode="r")
    assert stored.chunks == (8, 8)
    assert stored.shards == {"auto": (8, 8), "16": (16, 16)}.get(str(shards), (32, 16))
    files = [p for p in (project.folder / "s.zarr/out/c").rglob("*") if p.is_file()]
    lines = writes.read_text().splitlines()
    assert len(plan.tasks["invert"].phases) == 1
    if shards != "auto":  # one block is a shard, and nothing waits
        assert len(lines) == len(set(lines)) == len(files)


def test_a_failed_block_costs_the_others_of_its_shard_nothing(
    project: Project, raw: NDArray[Any]
) -> None:
    write(project, "fails", retries=0)
    run(project, complete=False)
    assert events(project) == {"STARTED": 48, "DONE": 47, "FAILED": 1}
    expected = 255 - raw
    expected[8:16, 8:16] = 0
    np.testing.assert_array_equal(project.read("s.zarr/out"), expected)
    run(project)  # the shard is written anew, with what was there
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)
    assert events(project) == {"STARTED": 49, "DONE": 48, "FAILED": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_worker_that_dies_one_block_is_to_blame(
    project: Project, raw: NDArray[Any], workers: int
) -> None:
    write(project, "dies", workers=workers, blocks_per_job=[8, 8])
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)
    found = events(project)
    assert (found["DONE"], found["FAILED"]) == (48, 1)
    assert found["RELEASED"] > 0
    failed = [r for r in project.all_records("invert") if r["event"] == Event.FAILED]
    assert [tuple(r["index"].tolist()) for r in failed] == [(1, 1)]


def test_a_job_that_is_killed_records_nothing_that_is_not_stored(
    project: Project, raw: NDArray[Any]
) -> None:
    write(project, "slow", blocks_per_job=[8, 8])
    plan, _ = generate(project.pipeline)
    (job,) = plan.jobs("invert")
    command = [str(BIN / "snakemake-blocks"), "work", job.sentinel]
    for seconds in (0.1, 0.9):
        begun = events(project)["STARTED"]
        going = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        while events(project)["STARTED"] == begun:
            assert going.poll() is None
            time.sleep(0.05)
        time.sleep(seconds)
        os.killpg(going.pid, signal.SIGKILL)
        going.wait()
        stored = project.read("s.zarr/out")
        for record in project.all_records("invert"):
            if record["event"] == Event.DONE:
                begin = 8 * record["index"]
                part = tuple(slice(b, b + 8) for b in begin.tolist())
                np.testing.assert_array_equal(stored[part], 255 - raw[part])
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)


def test_a_shard_that_cannot_be_stored_fails_all_of_its_blocks(
    project: Project, raw: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    write(project, retries=0)
    with monkeypatch.context() as patched:
        patched.setattr(snakemake_blocks.storage.held, "write_stored", full)
        run(project, complete=False)
    found = events(project)
    assert found["DONE"] == 0
    assert found["FAILED"] >= 16
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)


@pytest.mark.parametrize("exists", [True, False])
def test_functions_that_store_by_themselves_lose_nothing(
    project: Project, raw: NDArray[Any], exists: bool
) -> None:
    """Two workers never have blocks of one shard: nor of one large chunk, if shards are meant."""
    if exists:
        project.array("s.zarr/out", np.zeros_like(raw), chunks=(32, 32))
    write(project, "by_itself", call="block", workers=2, conflict=False, blocks_per_job=[8, 8])
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)


def test_where_blocks_have_an_order_each_is_a_shard(project: Project, raw: NDArray[Any]) -> None:
    project.functions("def spread(raw, out):\n    return raw\n")
    reads = {"raw": {"array": "s.zarr/raw", "fill": 0}, "out": {"array": "s.zarr/out", "fill": 0}}
    write(project, "spread", reads=reads, context=8, out={"shards": "auto"})
    plan, _ = generate(project.pipeline)
    task = plan.tasks["invert"]
    assert (task.group, task.num_phases > 1) == ((), True)
    assert task.operation.written[0].chunks == (8, 8)


def test_jobs_that_share_shards_take_turns(project: Project, raw: NDArray[Any]) -> None:
    write(project, blocks_per_job=[3, 3])
    plan = run(project)
    assert (plan.tasks["invert"].group, plan.tasks["invert"].num_phases) == ((), 4)
    np.testing.assert_array_equal(project.read("s.zarr/out"), 255 - raw)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compressor", ["none", "zstd", "blosc", "gzip"])
def test_compressors(
    project: Project, raw: NDArray[Any], compressor: str, zarr_format: int
) -> None:
    zarr.open_group(project.folder / "o.zarr", mode="w", zarr_format=zarr_format)
    out = {"array": "o.zarr/out", "dtype": "uint8", "chunks": [8, 4], "compressor": compressor}
    write(project, out={**out, **({"shards": [8, 8]} if zarr_format == 3 else {"shards": None})})
    run(project)
    stored = zarr.open_array(project.folder / "o.zarr/out", mode="r")
    names = [type(codec).__name__.lower() for codec in stored.compressors]
    assert [name.removesuffix("codec") for name in names] == [compressor] * (compressor != "none")
    assert (stored.chunks, stored.shards) == ((8, 4), (8, 8) if zarr_format == 3 else None)
    np.testing.assert_array_equal(stored[:], 255 - raw)


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ({"shards": 12}, "shards: [12, 12] are no whole chunks of [8, 8]; use e.g. [16, 16]"),
        ({"shards": [8, 8, 8]}, "shards: 3 sizes for 2 axes; give one per axis"),
        ({"shards": {"q": 8}}, "shards: there is no axis q; known are "),
        ({"shards": "all"}, "shards: must be auto, or a whole number, a list with one per axis, or "
         'sizes by the names of axes, got "all"'),
        ({"chunks": 0}, "chunks: must be at least 1, got 0"),
        ({"compressor": "zip"}, 'compressor: must be auto, none, blosc, gzip or zstd, got "zip"'),
        ({"array": "v2.zarr/out"}, "shards: its store is of Zarr format 2, which knows none; write "
         "into another store"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    project: Project, raw: NDArray[Any], out: dict[str, Any], problem: str
) -> None:
    zarr.open_group(project.folder / "v2.zarr", mode="w", zarr_format=2)
    write(project, out=out)
    done = project.cli("check", "pipeline.yaml")
    assert f"pipeline.yaml: tasks.invert.writes.out.{problem}" in done.output, done.output


class TestForetold:
    def test_files_and_bytes_stand_in_the_plan(self, project: Project, raw: NDArray[Any]) -> None:
        write(project)
        done = project.cli("plan", "pipeline.yaml")
        assert "writes s.zarr/out (4 files, 2.8 KiB before compression)\n" in done.output

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    @pytest.mark.parametrize("verb", ["check", "generate", "run"])
    @pytest.mark.parametrize(
        ("options", "out", "problem"),
        [
            ("size=1m,nr_inodes=20", {"shards": None}, "about 48 files are to be made at"),
            ("size=1m,nr_inodes=20", {"shards": 32}, ""),
            ("size=16k", {"dtype": "float64", "compressor": "none"}, "23,040 bytes before"),
            ("size=16k", {"dtype": "float64"}, ""),
            ("size=4k", {"dtype": "complex128", "chunks": 30, "shards": None, "channels": [9]},
             "414,720 bytes before"),
        ],
    )  # fmt: skip
    def test_what_cannot_fit_is_refused(
        self,
        project: Project,
        raw: NDArray[Any],
        options: str,
        out: dict[str, Any],
        problem: str,
        verb: str,
    ) -> None:
        small = project.folder / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)]
        if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            write(project, out={"array": "small/o.zarr/out", **out})
            if problem:
                done = project.cli(verb, "pipeline.yaml")
                assert f"tasks.invert.writes.out: {problem}" in done.output, done.output
                assert done.exit_code == 2
                assert list(small.iterdir()) == []
            elif verb == "check":
                assert project.cli("check", "pipeline.yaml").exit_code == 0
        finally:
            subprocess.run(["umount", str(small)], check=True)
