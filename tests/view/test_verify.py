from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project, stamps

from snakemake_blocks.commands.generate import generate, make_plan
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event, Ledger, first_block, read_records, write_records
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.view.verify import Verification, verify_run
from snakemake_blocks.work.job import work_sentinel

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
        assert "`snakemake-blocks run` (or `reset --missing` before it) makes" in result.stderr


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
        assert first_block(task.own_grid) == (0, 0)
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


# faults: kind 5; what is done is there


@pytest.mark.parametrize("zarr_format", [2, 3])
class TestOwnWrites:
    """What functions write by themselves: zarr leaves out chunks of zeros."""

    def plan(self, project: Project, zarr_format: int, **more: Any) -> None:
        project.array("s.zarr/raw", RAW, chunks=(8, 8), zarr_format=zarr_format)
        project.functions(
            """
            import zarr
            def sparse(block):
                begin, end = block.write_roi.begin, block.write_roi.end
                where = tuple(slice(b, e) for b, e in zip(begin, end))
                store = zarr.open_array("s.zarr/out", mode="r+")
                store[where] = 7 * (block.index[0] == block.index[1])
            def loop():
                from snakemake_blocks import Client
                client = Client()
                while True:
                    with client.acquire_block() as block:
                        if block is None:
                            break
                        sparse(block)
            def is_there(block):
                return True
            """
        )
        task: dict[str, Any] = {
            "function": "functions:sparse",
            "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
            "reads": {"raw": "s.zarr/raw"},
            "roi": "s.zarr/raw",
            "block_size": [8, 8],
            "blocks_per_job": [2, 2],
            **more,
        }
        project.write(("sparse", task))
        generate(project.pipeline)

    @pytest.mark.parametrize("more", [{}, {"function": "functions:loop", "call": "worker"}])
    def test_what_was_there_is_missed(
        self, project: Project, zarr_format: int, more: dict[str, Any]
    ) -> None:
        self.plan(project, zarr_format, **more)
        run()
        np.testing.assert_array_equal(
            project.read("s.zarr/out"), np.kron(np.eye(3), np.full((8, 8), 7))
        )
        assert verify() == Verification(
            (), ("sparse: 9 blocks planned, all with a counting record; 3 chunks exist",)
        )
        assert set(project.records("sparse", Event.EMPTY)) == {
            (i, j) for i in range(3) for j in range(3) if i != j
        }
        for path in chunks(project, "out"):
            content = path.read_bytes()
            path.unlink()
            assert "1 of 3 chunks of s.zarr/out are missing" in verify().missing[0]
            path.write_bytes(b"")
            assert "1 of 3 chunks of s.zarr/out are missing" in verify().missing[0]
            path.write_bytes(content)
        assert verify().missing == ()

    def test_of_several_arrays_in_any_order(
        self, project: Project, zarr_format: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A plan just made has them as written, plan.json by name."""
        names = ("out", "b", "c", "a")
        writes = {n: {"array": f"s.zarr/{n}", "dtype": "uint8"} for n in names}
        self.plan(project, zarr_format, writes=writes)
        project.functions(
            """
            import zarr
            def sparse(block):
                begin, end = block.write_roi.begin, block.write_roi.end
                where = tuple(slice(b, e) for b, e in zip(begin, end))
                for n, name in enumerate(("out", "b", "c", "a")):
                    store = zarr.open_array(f"s.zarr/{name}", mode="r+")
                    store[where] = 7 * (block.index[0] == block.index[1] or n == block.index[1])
            """
        )
        run()
        planned, _ = generate(project.pipeline)
        assert verify_run(planned, ROOT) == verify()
        assert verify().missing == ()
        assert capsys.readouterr().err == "", "nothing was reset"
        chunks(project, "c")[0].unlink()
        assert verify_run(planned, ROOT).missing == verify().missing != ()

    def test_what_a_check_found_done(self, project: Project, zarr_format: int) -> None:
        self.plan(project, zarr_format, check="functions:is_there")
        run()
        assert verify().missing == ()
        assert len(project.records("sparse", Event.SKIPPED)) == 9
        assert len(project.records("sparse", Event.EMPTY)) == 9

    def test_a_worker_that_dies_before_its_result(
        self, project: Project, zarr_format: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has noted what it left out, and not that it is done: the attempt has failed."""
        self.plan(project, zarr_format, retries=1, blocks_per_job=9)
        append = Ledger.append

        def killed(ledger: Ledger, event: Event, *args: Any, **more: Any) -> None:
            if event is Event.DONE and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            append(ledger, event, *args, **more)

        monkeypatch.setattr(Ledger, "append", killed)
        (project.folder / "functions.py").write_text(
            (project.folder / "functions.py").read_text().replace("7 *", "0 *")
        )
        run()
        (failed,) = project.records("sparse", Event.FAILED)
        job = next(iter(Plan.load(ROOT).jobs("sparse")))
        path = RunPaths(ROOT).ledger("sparse", job.index)
        events = [Event(r["event"]) for r in read_records(path, (0, 0)) if (*r["index"],) == failed]
        first = [Event.STARTED, Event.EMPTY]
        assert events == [*first, Event.FAILED, *first, Event.DONE]
        assert verify().missing == ()

    def test_an_array_that_is_gone(self, project: Project, zarr_format: int) -> None:
        self.plan(project, zarr_format)
        run()
        (project.folder / "s.zarr/out").rename(project.folder / "away")
        (line,) = verify().missing
        assert line.startswith("sparse: s.zarr/out: is missing; ")


class TestMadeAnew:
    @pytest.mark.parametrize("how", ["generate", "reset"])
    def test_blocks_whose_chunks_are_gone(self, chain: Project, how: str) -> None:
        """One chunk lost and one emptied: these blocks and their readers run, no others."""
        before = {task: stamps(chain.records(task)) for task in ("double", "zero")}
        lost = [chunks(chain, "doubled")[k] for k in (0, 4)]
        lost[0].unlink()
        lost[1].write_bytes(b"")
        if how == "generate":
            result = chain.cli("generate", str(chain.pipeline))
            said = result.stderr
        else:
            result = chain.cli("reset", "--missing", "blocks")
            said = result.output
        assert result.exit_code == 0
        assert (
            "double: 2 chunks, rows or files that done blocks made are gone or changed; 2 blocks "
            "will run again" in said
        )
        run()
        assert verify().missing == ()
        np.testing.assert_array_equal(chain.read("s.zarr/doubled"), RAW * 2)
        for task, old in before.items():
            new = stamps(chain.records(task))
            assert {k for k in old if old[k] != new[k]} == {(0, 0), (1, 1)}

    @pytest.mark.e2e
    def test_run_says_so_and_does_them(self, chain: Project) -> None:
        before = stamps(chain.records("zero"))
        chunks(chain, "doubled")[4].unlink()
        done = chain.blocks("run", "pipeline.yaml", "--cores", "2")
        assert done.returncode == 0, done.stderr
        assert (
            "double: 1 chunks, rows or files that done blocks made are gone or changed; 1 b"
            in done.stderr
        )
        np.testing.assert_array_equal(chain.read("s.zarr/doubled"), RAW * 2)
        after = stamps(chain.records("zero"))
        assert {k for k in before if before[k] != after[k]} == {(1, 1)}

    def test_nothing_is_gone(self, chain: Project) -> None:
        before = stamps(chain.records("zero"))
        result = chain.cli("reset", "blocks", "zero", "--missing")
        assert result.output == "no chunk of a done block is missing\n"
        assert "missing" not in chain.cli("generate", str(chain.pipeline)).stderr
        run()
        assert stamps(chain.records("zero")) == before

    def test_of_one_task(self, chain: Project) -> None:
        for name in ("doubled", "zeros"):
            chunks(chain, name)[0].unlink()
        result = chain.cli("reset", "blocks", "zero", "--missing")
        assert result.output.startswith("zero: 1 chunks") and result.output.count("\n") == 1

    @pytest.mark.parametrize("options", [["zero", "--missing", "--failed"], []])
    def test_what_it_does_not_go_with(self, chain: Project, options: list[str]) -> None:
        assert chain.cli("reset", "blocks", *options).exit_code == 2


class TestFractions:
    def test_it_is_said_once(self, project: Project) -> None:
        project.array("s.zarr/raw", RAW, chunks=(8, 8))
        project.functions("def scale(raw): return raw / 200")
        task: dict[str, Any] = {
            "function": "functions:scale",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw"},
            "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
            "roi": "s.zarr/raw",
            "block_size": [8, 8],
            "blocks_per_job": [2, 2],
            "workers": 2,
        }
        project.write(("scale", task))
        generate(project.pipeline)
        run()
        logs = [p.read_text() for p in ROOT.glob("scale/logs/*/*.log")]
        said = "s.zarr/out: uint8 cuts fractions off what the function returns, e.g. "
        (note,) = ROOT.glob("scale/notes/*")
        assert note.read_text().startswith(said)
        shown = project.cli("status", "blocks")
        assert shown.exit_code == 0 and shown.output.count("cuts fractions off") == 1
        assert sum(log.count(said) for log in logs) <= 1
        assert project.cli("reset", "blocks", "scale").exit_code == 0
        assert "fractions" not in project.cli("status", "blocks").output

    def test_a_value_that_does_not_fit_fails_the_block(self, project: Project) -> None:
        project.array("s.zarr/raw", RAW, chunks=(24, 24))
        project.functions("def big(raw): return raw * 0 + 2.0**31")
        task: dict[str, Any] = {
            "function": "functions:big",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw"},
            "writes": {"out": {"array": "s.zarr/out", "dtype": "int32"}},
            "roi": "s.zarr/raw",
            "block_size": [24, 24],
            "retries": 0,
        }
        project.write(("big", task))
        generate(project.pipeline)
        (job,) = Plan.load(ROOT).jobs("big")
        assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) != 0
        assert "values from 2147483648.0 to 2147483648.0 do not fit into int32" in (
            project.cli("status", "blocks").output
        )
        assert not project.read("s.zarr/out").any()


class TestWholeNumbers:
    @pytest.mark.parametrize(
        ("dtype", "fill"),
        [("uint64", 2**64 - 1), ("int64", -(2**63)), ("int64", 9007199254740993), ("uint8", 255.0)],
    )
    def test_a_fill_is_read_as_it_was_written(
        self, project: Project, dtype: str, fill: int
    ) -> None:
        """Outside of what is read, and in what a task sees of its own output."""
        project.array("s.zarr/raw", np.zeros(4, dtype))
        project.functions("def keep(raw, own): return {'out': raw[:4], 'seen': own[:4]}")
        reads = {"raw": {"array": "s.zarr/raw", "fill": fill}}
        task: dict[str, Any] = {
            "function": "functions:keep",
            "call": "arrays",
            "reads": {**reads, "own": {"array": "s.zarr/out", "fill": fill}},
            "writes": {
                name: {"array": f"s.zarr/{name}", "dtype": dtype} for name in ("out", "seen")
            },
            "roi": "s.zarr/raw",
            "block_size": [4],
            "context": 2,
        }
        project.write(("keep", task))
        generate(project.pipeline)
        run()
        assert project.read("s.zarr/out").tolist() == [int(fill), int(fill), 0, 0]
        assert project.read("s.zarr/seen").tolist() == [int(fill)] * 4

    def test_earlier_results_count_on(self, project: Project) -> None:
        """A fill of 0 was 0.0 in all fingerprints."""
        project.array("s.zarr/raw", RAW, chunks=(8, 8))
        project.functions("def keep(raw): return raw")
        found = []
        for fill in (0, 0.0, 2**53 + 1):
            task: dict[str, Any] = {
                "function": "functions:keep",
                "call": "arrays",
                "reads": {"raw": {"array": "s.zarr/raw", "fill": fill}},
                "writes": {"out": {"array": "s.zarr/out", "dtype": "int64"}},
                "roi": "s.zarr/raw",
                "block_size": [8, 8],
            }
            project.write(("keep", task))
            identity = make_plan(project.pipeline).tasks["keep"].identity
            found.append(identity["reads"]["raw"]["fill"])
        assert [repr(f) for f in found] == ["0.0", "0.0", "9007199254740993"]
