from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from project import Project
from skimage.io import imread

from snakemake_blocks.demo import check_demo, write_demo
from snakemake_blocks.errors import InputError


class TestWriteDemo:
    def test_gives_a_pipeline_that_can_be_planned(self, project: Project) -> None:
        assert write_demo(Path("demo")) == Path("demo/pipeline.yaml")
        result = project.cli("plan", "demo/pipeline.yaml", "--json")
        tasks = json.loads(result.stdout)["tasks"]
        assert [tasks[t]["blocks"] for t in ("smooth", "segment")] == [64, 16]
        assert [tasks[t]["phases"] for t in ("smooth", "segment")] == [1, 4]

    def test_twice_is_fine_and_keeps_the_picture(self, project: Project) -> None:
        write_demo(Path("demo"))
        marker = project.folder / "demo/sample.zarr/raw/zarr.json"
        before = marker.stat().st_mtime_ns
        write_demo(Path("demo"))
        assert marker.stat().st_mtime_ns == before

    def test_overwrites_nothing_of_yours(self, project: Project) -> None:
        demo = project.folder / "demo"
        demo.mkdir()
        (demo / "functions.py").write_text("mine = 1\n")
        with pytest.raises(InputError, match=r"functions\.py: is not the demo's; choose another"):
            write_demo(Path("demo"))
        assert (demo / "functions.py").read_text() == "mine = 1\n"
        assert [p.name for p in demo.iterdir()] == ["functions.py"]

    def test_refuses_a_file(self, project: Project) -> None:
        (project.folder / "demo").write_text("")
        with pytest.raises(InputError, match="demo: is a file; choose another folder"):
            write_demo(Path("demo"))


@pytest.mark.e2e
def test_the_demo_checks_itself_and_notices_seams(project: Project) -> None:
    run = project.blocks("demo", "demo", "--cores", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("self-check") == run.stdout.count(": ok\n") == 2
    picture = imread(project.folder / "demo" / "demo.png")
    assert picture.shape[0] > 800 and picture.shape[1] > 800 and picture.std() > 20

    said: list[str] = []
    shutil.copytree(project.folder / "demo", project.folder / "broken")
    assert check_demo(Path("broken"), said.append)
    import zarr

    group = zarr.open_group(project.folder / "broken" / "sample.zarr", mode="r+")
    smoothed, objects = group["smoothed"], group["objects"]
    smoothed[0, 64, 100] += np.float32(1e-3)  # type: ignore[index,operator]
    labels = np.asarray(objects[...])  # type: ignore[index]
    assert labels[127, 10] == labels[128, 10] > 0
    objects[128:, :40] = 7  # type: ignore[index]
    said.clear()
    assert not check_demo(Path("broken"), said.append)
    assert [line.endswith("FAILED") for line in said] == [True, True]
