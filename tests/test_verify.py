from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project

from snakemake_blocks.box import Box
from snakemake_blocks.generating import generate
from snakemake_blocks.jobs import work_sentinel
from snakemake_blocks.ledger import first_block, read_records, write_records
from snakemake_blocks.paths import RunPaths
from snakemake_blocks.plan import Plan
from snakemake_blocks.resetting import reset_blocks
from snakemake_blocks.verify import Verification, verify_run

ROOT = Path("blocks")
RAW = np.random.default_rng(5).integers(0, 100, (24, 24))


def run() -> None:
    """Run every job that has no sentinel, and the aggregates."""
    plan = Plan.load(ROOT)
    for task in plan.tasks.values():
        for job in plan.jobs(task.name):
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
        assert work_sentinel(RunPaths(ROOT).done(task.slug), attempt=1, environment={}) == 0


def verify() -> Verification:
    return verify_run(Plan.load(ROOT), ROOT)


@pytest.fixture(params=[2, 3])
def chain(project: Project, request: pytest.FixtureRequest) -> Iterator[Project]:
    """Return a finished chain of two tasks in Zarr 2 or 3."""
    project.array("s.zarr/raw", RAW, chunks=(8, 8), zarr_format=request.param)
    project.functions("def double(raw): return raw * 2\ndef zero(doubled): return doubled * 0\n")
    project.write(
        (
            "double",
            {
                "function": "functions:double",
                "call": "arrays",
                "reads": {"raw": "s.zarr/raw"},
                "writes": {"doubled": {"array": "s.zarr/doubled", "dtype": "int64"}},
                "roi": "s.zarr/raw",
                "block_size": [8, 8],
                "blocks_per_job": [2, 2],
            },
        ),
        (
            "zero",
            {
                "function": "functions:zero",
                "call": "arrays",
                "reads": {"doubled": "s.zarr/doubled"},
                "writes": {"zeros": {"array": "s.zarr/zeros", "dtype": "int64"}},
                "roi": "s.zarr/raw",
                "block_size": [8, 8],
                "blocks_per_job": 1,
            },
        ),
    )
    generate(project.pipeline)
    run()
    yield project


def chunks(project: Project, name: str) -> list[Path]:
    found = (project.folder / "s.zarr" / name).rglob("*")
    return sorted(p for p in found if p.is_file() and p.name[0].isdigit())


class TestComplete:
    def test_says_what_it_has_proved(self, chain: Project) -> None:
        found = verify()
        assert found.missing == ()
        assert found.proved == (
            "double: 9 blocks planned, all with a counting record; 9 chunks exist",
            "zero: 9 blocks planned, all with a counting record; 9 chunks exist",
        )
        np.testing.assert_array_equal(chain.read("s.zarr/doubled"), RAW * 2)

    def test_the_command(self, chain: Project) -> None:
        assert chain.cli("verify").exit_code == 0
        chunks(chain, "zeros")[3].unlink()
        result = chain.cli("verify")
        assert result.exit_code == 1
        assert "1 of 9 chunks of s.zarr/zeros are missing" in result.stderr
        assert "`snakemake-blocks reset` has the blocks made anew" in result.stderr


class TestLost:
    @pytest.mark.parametrize("name", ["doubled", "zeros"])
    def test_every_chunk_is_missed(self, chain: Project, name: str) -> None:
        """Also one that holds nothing but the fill value."""
        for path in chunks(chain, name):
            content = path.read_bytes()
            path.unlink()
            (line,) = verify().missing
            assert f"1 of 9 chunks of s.zarr/{name} are missing" in line
            path.write_bytes(content)
        assert verify().missing == ()

    def test_a_lost_chunk_is_made_again(self, chain: Project) -> None:
        chunks(chain, "doubled")[4].unlink()
        assert verify().missing
        assert reset_blocks(Plan.load(ROOT), ROOT, "double", roi=Box((8, 8), (9, 9))) == 1
        run()
        assert verify().missing == ()
        np.testing.assert_array_equal(chain.read("s.zarr/doubled"), RAW * 2)

    def test_every_record_is_missed(self, chain: Project) -> None:
        task = Plan.load(ROOT).tasks["double"]
        path = RunPaths(ROOT).ledger("double", (0, 0))
        whole = read_records(path, (0, 0))
        assert first_block(task.grid) == (0, 0)
        for k in range(1, len(whole), 2):
            write_records(path, np.delete(whole, k))
            text = "\n".join(verify().missing)
            name = "-".join(map(str, whole[k]["index"]))
            assert f"double: 1 of 9 blocks have no counting record: {name}" in text
            assert "0-0.json: is there although blocks of the job are not done" in text
            assert "zero: 1 of 9 blocks have no counting record" in text
        write_records(path, whole)
        assert verify().missing == ()

    def test_a_begin_that_was_lost_is_no_loss(self, chain: Project) -> None:
        path = RunPaths(ROOT).ledger("double", (0, 0))
        write_records(path, np.delete(read_records(path, (0, 0)), 0))
        assert verify().missing == ()

    def test_a_sentinel(self, chain: Project) -> None:
        path = RunPaths(ROOT).sentinel("zero", 0, (1, 2))
        content = path.read_bytes()
        path.unlink()
        assert verify().missing == (f"{path}: is missing although all blocks of the job are done",)
        path.write_bytes(os.urandom(100))
        assert verify().missing == (f"{path}: does not agree with the ledger",)
        path.write_bytes(content)
        assert verify().missing == ()

    def test_many_are_counted_and_some_named(self, chain: Project) -> None:
        for path in chunks(chain, "zeros"):
            path.unlink()
        (line,) = verify().missing
        assert line.startswith("zero: 9 of 9 chunks of s.zarr/zeros are missing: ")
        assert " and 4 more; " in line and line.count(", ") == 4

    def test_all_of_it(self, chain: Project) -> None:
        for path in ROOT.glob("*/ledger/*/*"):
            path.unlink()
        text = "\n".join(verify().missing)
        assert "double: 9 of 9 blocks have no counting record: 0-0, 0-1, 0-2, 1-0, 1-1" in text
        assert "and 4 more" in text


def test_masked_blocks_have_nothing_to_prove(project: Project) -> None:
    project.array("s.zarr/raw", RAW, chunks=(8, 8))
    mask = np.zeros((24, 24), np.uint8)
    mask[10, 3:20] = 1
    project.array("s.zarr/mask", mask, chunks=(8, 8))
    project.functions("def double(raw): return raw * 2")
    task: dict[str, Any] = {
        "function": "functions:double",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "writes": {"doubled": {"array": "s.zarr/doubled", "dtype": "int64"}},
        "roi": "s.zarr/raw",
        "block_size": [8, 8],
        "mask": "s.zarr/mask",
    }
    project.write(("double", task))
    generate(project.pipeline)
    run()
    assert verify().proved == (
        "double: 3 blocks planned, all with a counting record; 3 chunks exist",
    )
    chunks(project, "doubled")[1].unlink()
    assert "1 of 3 chunks" in verify().missing[0]
