"""Files of other formats into Zarr: values, metadata, kills, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstores
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project import BIN, Project
from yaozarrs import v04, v05

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import SpecError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.status import read_status

VOLUME = np.random.default_rng(0).integers(0, 2**16, (20, 48, 56), np.uint16)


def convert(project: Project, source: Any, array: Any = "out.ome.zarr/0", **more: Any) -> None:
    """Write a pipeline that converts one array."""
    given = {"reads": {"source": source}, "writes": {"array": array}}
    project.write(("a", {"use": "convert", **given, **more}))


def refused(project: Project) -> str:
    with pytest.raises(SpecError) as caught:
        generate(project.pipeline)
    return str(caught.value)


def ome(project: Project, store: str = "out.ome.zarr") -> dict[str, Any]:
    """Return the metadata of an image, which are valid."""
    group = project.folder / store
    if (group / "zarr.json").exists():
        found = json.loads((group / "zarr.json").read_text())["attributes"]["ome"]
        v05.Image.model_validate(found)
    else:
        found = json.loads((group / ".zattrs").read_text())
        v04.Image.model_validate(found)
    return found  # type: ignore[no-any-return]


def axes(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (a["name"], a["type"], *([a["unit"]] if "unit" in a else []))
        for a in found["multiscales"][0]["axes"]
    ]


def place(found: dict[str, Any]) -> tuple[list[float], list[float]]:
    scale, shift = found["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    return scale["scale"], shift["translation"]


class TestFormats:
    def test_ome_tiff(self, project: Project) -> None:
        values = VOLUME.reshape(2, 5, 2, 48, 56)
        told = {
            "axes": "TZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 1.5,
            "Channel": {"Name": ["DAPI", "GFP"]},
        }  # fmt: skip
        tifffile.imwrite(project.folder / "a.ome.tif", values, metadata=told, compression="zlib")
        convert(project, "a.ome.tif", {"array": "out.ome.zarr/0", "chunks": 16})
        project.work()
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), values.swapaxes(1, 2))
        found = ome(project)
        assert axes(found) == [
            ("t", "time"), ("c", "channel"), *((a, "space", "micrometer") for a in "zyx"),
        ]  # fmt: skip
        assert place(found) == ([1, 1, 1.5, 0.25, 0.25], [0] * 5)
        assert [c["label"] for c in found["omero"]["channels"]] == ["DAPI", "GFP"]
        array = zarr.open_array(project.folder / "out.ome.zarr/0", mode="r")
        assert (array.chunks, array.metadata.zarr_format) == ((1, 1, 16, 16, 16), 3)

    def test_an_image_in_a_store_of_any_name(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", {"array": "out.zarr/s0"})
        project.work()
        (image,) = zarr.open_group(project.folder / "out.zarr").attrs["ome"]["multiscales"]
        assert (image["name"], [d["path"] for d in image["datasets"]]) == ("out", ["s0"])
        convert(project, "a.npy", {"array": "plain.zarr/raw"})
        project.work()
        assert "ome" not in zarr.open_group(project.folder / "plain.zarr").attrs

    def test_time_can_be_cut(self, project: Project) -> None:
        values = VOLUME.reshape(5, 4, 48, 56)
        tifffile.imwrite(project.folder / "a.tif", values, metadata={"axes": "TZYX"}, ome=True)
        convert(project, "a.tif", block_size={"voxels": {"t": 1}})
        plan = project.work()
        assert plan.tasks["a_copy"].grid.shape == (5, 1, 1, 1)
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), values)
        assert axes(ome(project))[0] == ("t", "time")

    def test_colors(self, project: Project) -> None:
        values = np.random.default_rng(1).integers(0, 255, (48, 56, 3), np.uint8)
        tifffile.imwrite(project.folder / "a.tif", values, photometric="rgb")
        convert(project, "a.tif", {"array": "out.ome.zarr/0", "chunks": [1, 32, 32]})
        project.work()
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), np.moveaxis(values, -1, 0))
        found = ome(project)
        assert axes(found) == [("c", "channel"), ("y", "space"), ("x", "space")]
        names = [(c["label"], c["color"]) for c in found["omero"]["channels"]]
        assert names == [("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")]

    def test_series(self, project: Project) -> None:
        for number, page in enumerate(VOLUME):
            tifffile.imwrite(project.folder / f"slice_{number}.tif", page, byteorder=">")
        params = {"voxel_size": [40, 4, 4], "offset": [80, 0, 0], "unit": "nm"}
        convert(project, "slice_*.tif", params=params)
        project.work()
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), VOLUME)
        assert axes(ome(project)) == [(a, "space", "nanometer") for a in "zyx"]
        assert place(ome(project)) == ([40, 4, 4], [80, 0, 0])
        (project.folder / "slice_7.tif").unlink()
        assert refused(project) == (
            "pipeline.yaml: tasks.a.reads.source: slice_*.tif: slice_7.tif is missing, after "
            "slice_6.tif; restore it, or rename the files so that their numbers have no gap"
        )

    def test_hdf5(self, project: Project) -> None:
        tags = {"axes": [{"key": key} for key in "yxzc"]}
        values = VOLUME.reshape(20, 16, 3, 56)
        with h5py.File(project.folder / "a.h5", "w") as file:
            made = file.create_dataset("g/raw", data=values, chunks=(8, 8, 3, 8))
            made.attrs.update({"axistags": json.dumps(tags), "element_size_um": [0.5, 0.25, 3, 1]})
        convert(project, "a.h5/g/raw", {"array": "out.ome.zarr/0", "chunks": 8, "shards": 16})
        project.work()
        wanted = values.transpose(3, 2, 0, 1)
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), wanted)
        assert place(ome(project)) == ([1, 3, 0.5, 0.25], [0] * 4)
        array = zarr.open_array(project.folder / "out.ome.zarr/0", mode="r")
        assert (array.chunks, array.shards) == ((1, 8, 8, 8), (56, 16, 16, 16))

    def test_npy(self, project: Project) -> None:
        """A pipeline may say what a file cannot."""
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", params={"axes": ["y", "x", "c"], "voxel_size": [0.5, 0.5]})
        project.work()
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), np.moveaxis(VOLUME, -1, 0))
        assert place(ome(project)) == ([1, 0.5, 0.5], [0] * 3)

    def test_n5_and_precomputed(self, project: Project) -> None:
        where = {"resolution": [4, 4, 40], "voxel_offset": [10, 20, 30]}
        tensorstores.write_precomputed(project.folder, "v", VOLUME, **where)
        more = {"resolution": [4, 8, 40], "units": ["nm"] * 3}
        tensorstores.write_n5(project.folder, "a.n5/raw", VOLUME, **more)
        tasks = [
            (name, {"use": "convert", "reads": {"source": source},
                    "writes": {"array": {"array": f"{name}.ome.zarr/0", "chunks": 32}}})
            for name, source in (("v", "v"), ("n", "a.n5/raw"))
        ]  # fmt: skip
        project.write(*tasks)
        project.work()
        np.testing.assert_array_equal(project.read("v.ome.zarr/0"), VOLUME)
        np.testing.assert_array_equal(project.read("n.ome.zarr/0"), VOLUME)
        assert place(ome(project, "v.ome.zarr")) == ([40, 4, 4], [1200, 80, 40])
        assert place(ome(project, "n.ome.zarr")) == ([40, 8, 4], [0, 0, 0])

    def test_format_2(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        write = {"array": "out.ome.zarr/0", "zarr_format": 2, "compressor": "gzip"}
        convert(project, "a.npy", write)
        project.work()
        assert zarr.open_array(project.folder / "out.ome.zarr/0").metadata.zarr_format == 2
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), VOLUME)
        assert place(ome(project)) == ([1, 1, 1], [0, 0, 0])

    def test_another_type(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", {"array": "out.zarr/raw", "dtype": "float32"})
        project.work()
        found = project.read("out.zarr/raw")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, VOLUME)

    def test_a_part(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        roi = {"voxels": {"offset": [3, 5, 7], "shape": [11, 30, 40]}}
        convert(project, "a.npy", {"array": "out.zarr/raw", "chunks": 8}, roi=roi)
        project.work()
        np.testing.assert_array_equal(project.read("out.zarr/raw"), VOLUME[3:14, 5:35, 7:47])

    def test_one_channel(self, project: Project) -> None:
        values = VOLUME.reshape(2, 10, 48, 56)
        tifffile.imwrite(project.folder / "a.tif", values, metadata={"axes": "CZYX"}, ome=True)
        convert(project, {"array": "a.tif", "select": {"c": 1}})
        project.work()
        np.testing.assert_array_equal(project.read("out.ome.zarr/0"), values[1])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_blocks_change_nothing(
    data: st.DataObject, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("p")
    monkeypatch.chdir(folder)
    project = Project(folder)
    shape = tuple(data.draw(st.integers(2, 20)) for _ in range(3))
    values = VOLUME[tuple(map(slice, shape))]
    how = data.draw(st.sampled_from([{}, {"tile": (16, 16)}, {"rowsperstrip": 3}]))
    how = {"photometric": "minisblack", "compression": "zlib", **how}
    tifffile.imwrite(folder / "a.tif", values, metadata={"axes": "ZYX"}, **how)
    sizes = st.lists(st.integers(1, 20), min_size=3, max_size=3)
    more = data.draw(st.sampled_from([{}, {"block_size": {"voxels": data.draw(sizes)}}]))
    write = {"array": "out.zarr/raw", "chunks": data.draw(sizes)}
    convert(project, "a.tif", write, roi="a.tif", **more)
    project.work()
    found = project.read("out.zarr/raw")
    np.testing.assert_array_equal(found, values)


class TestReadAnywhere:
    def test_by_a_task_of_ones_own(self, project: Project) -> None:
        told = {"axes": "ZYX", "spacing": 2, "unit": "um"}
        pixels = {"resolution": (2, 2), "metadata": told}
        tifffile.imwrite(project.folder / "a.tif", VOLUME, imagej=True, **pixels)
        project.functions("def f(raw): return raw.max() - raw")
        task = {
            "function": "functions:f", "call": "arrays", "roi": "a.tif",
            "reads": {"raw": {"array": "a.tif", "fill": "reflect", "context": {"voxels": 2}}},
            "writes": {"out": {"array": "d.ome.zarr/0", "dtype": "uint16"}},
            "block_size": {"voxels": [10, 24, 28]}, "fit": "shrink",
        }  # fmt: skip
        project.functions("def f(raw): return raw + 1")
        project.write(("f", task))
        project.work()
        np.testing.assert_array_equal(project.read("d.ome.zarr/0"), VOLUME + np.uint16(1))
        assert place(ome(project, "d.ome.zarr")) == ([2, 0.5, 0.5], [0, 0, 0])

    def test_once(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        project.functions("def f(raw): return {'total': [int(raw[2:4].sum() + raw[-1, 0, 0])]}")
        task = {"function": "functions:f", "call": "once", "reads": {"raw": "a.npy"}}
        project.write(("f", {**task, "tables": {"t": {"columns": {"total": "int64"}}}}))
        project.work()

    def test_several_datasets_of_a_file(self, project: Project) -> None:
        with h5py.File(project.folder / "a.h5", "w") as file:
            file["g/a"], file["g/b"] = VOLUME, VOLUME[::-1]
        tasks = [
            (n, {"use": "convert", "reads": {"source": f"a.h5/g/{n}"},
                 "writes": {"array": f"out.zarr/{n}"}})
            for n in "ab"
        ]  # fmt: skip
        project.write(*tasks)
        project.work()
        np.testing.assert_array_equal(project.read("out.zarr/b"), VOLUME[::-1])


class TestRefused:
    def test_writing(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        tifffile.imwrite(project.folder / "b.tif", VOLUME)
        convert(project, "a.npy", "b.tif")
        assert refused(project) == (
            "pipeline.yaml: tasks.a_copy.writes.array: b.tif: is TIFF, which is read only; write "
            "to Zarr"
        )
        convert(project, "a.npy", "c.ome.tif")
        assert refused(project) == (
            "pipeline.yaml: tasks.a_copy.writes.array: c.ome.tif: TIFF is read only; write to "
            "Zarr, e.g. c.ome.zarr/0"
        )

    def test_into_a_volume(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        (project.folder / "v.precomputed").mkdir()
        (project.folder / "v.precomputed/info").write_text('{"scales": []}')
        convert(project, "a.npy", "v.precomputed/x.zarr/raw")
        assert "precomputed is read only; write to Zarr" in refused(project)
        (project.folder / "v.precomputed").rename(project.folder / "v")
        convert(project, "a.npy", "v/x.zarr/raw")
        assert "v is no Zarr, and only that is written" in refused(project)

    @pytest.mark.parametrize(
        ("params", "text"),
        [
            ({"axes": ["y", "x"]}, "reads.source: a.npy: 2 axes are named, it has 3"),
            ({"voxel_size": [4, 4]}, "reads.source: a.npy: voxel_size has 2 entries for 3 axes"),
            ({"voxel_size": [4, 0, 4]}, "params.voxel_size.1: Input should be greater than 0"),
            ({"unit": "hours"}, "params.unit: is not a unit of length"),
            ({"memory": "much"}, "params.memory: must be bytes, e.g. 500 MB"),
            ({"memory": "1 kB"}, "params.memory: a worker takes 1 MB at least; write smaller"),
            ({"voxels": 3}, "params.voxels: is not a known key"),
        ],
    )
    def test_params(self, project: Project, params: dict[str, Any], text: str) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", params=params)
        assert f"pipeline.yaml: tasks.a.{text}" in refused(project)

    def test_too_many_channels_for_the_memory(self, project: Project) -> None:
        values = VOLUME.reshape(5, 4, 48, 56)
        tifffile.imwrite(project.folder / "a.tif", values, metadata={"axes": "TZYX"}, ome=True)
        convert(project, "a.tif", params={"memory": "100 kB"})
        assert "1 MB at least; cut other axes, e.g. block_size: {voxels: {t: 1}}" in refused(
            project
        )
        convert(project, "a.tif", params={"memory": "100 kB"}, block_size={"voxels": {"t": 1}})
        project.work()

    def test_axes_between_others(self, project: Project) -> None:
        values = VOLUME.reshape(2, 2, 5, 48, 56)
        tifffile.imwrite(project.folder / "a.tif", values, metadata={"axes": "TCZYX"}, ome=True)
        convert(project, "a.tif", block_size={"voxels": {"c": 1}})
        assert "tasks.a.block_size: axes before others that are cut" in refused(project)

    def test_metadata_of_zarr(self, project: Project) -> None:
        project.array("a.zarr/raw", VOLUME)
        convert(project, "a.zarr/raw", params={"unit": "nm"})
        assert "tasks.a.params.unit: is for files of other formats" in refused(project)

    def test_two_corrections_of_one_file(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        tasks = [
            (f"t{n}", {"use": "convert", "reads": {"source": "a.npy"}, "params": {"unit": unit},
                       "writes": {"array": f"out.zarr/{n}"}})
            for n, unit in enumerate(("nm", "um"))
        ]  # fmt: skip
        project.write(*tasks)
        assert "tasks.t1.params: a.npy is corrected in another way" in refused(project)

    def test_a_store_of_another_format(self, project: Project) -> None:
        project.array("a.zarr/raw", VOLUME, zarr_format=2)
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", {"array": "a.zarr/new", "zarr_format": 3})
        text = refused(project)
        assert "writes.array.zarr_format" in text and "is of Zarr format 2" in text


class TestDamage:
    def test_page(self, project: Project) -> None:
        """Its blocks fail, and say which page it is; then others are not made again."""
        file = project.folder / "a.tif"
        tifffile.imwrite(file, VOLUME, compression="zlib", metadata=None)
        good = file.read_bytes()
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages[13]
        with open(file, "r+b") as damaged:
            damaged.seek(page.dataoffsets[0] + 40)  # type: ignore[union-attr]
            damaged.write(b"\xff" * 400)
        size = {"block_size": {"voxels": [5, 48, 56]}, "retries": 0}
        convert(project, "a.tif", {"array": "out.zarr/raw", "chunks": [5, 48, 56]}, **size)
        plan = project.work(complete=False)
        state = read_status(plan, plan.paths.root)
        assert not state.complete
        assert sorted(index[0] for index in project.records("a_copy")) == [0, 1, 3]
        log = "".join(p.read_text() for p in Path("blocks").rglob("*") if p.is_file()
                      and "log" in str(p))  # fmt: skip
        assert "a.tif: page 13 cannot be read (error: Error -3" in log
        before = {k: r["stamp"] for k, r in project.records("a_copy").items()}
        file.write_bytes(good)
        project.work()
        after = {k: r["stamp"] for k, r in project.records("a_copy").items()}
        assert {k: after[k] for k in before} == before and len(after) == 4
        np.testing.assert_array_equal(project.read("out.zarr/raw"), VOLUME)

    def test_cut_off(self, project: Project) -> None:
        file = project.folder / "a.tif"
        tifffile.imwrite(file, VOLUME)
        os.truncate(file, 50_000)
        convert(project, "a.tif")
        assert refused(project) == (
            "pipeline.yaml: tasks.a.reads.source: a.tif: is cut off or damaged after page 1 "
            "(TiffPages invalid page offset 107776); restore it"
        )

    def test_another_file_after_planning(self, project: Project) -> None:
        np.save(project.folder / "a.npy", VOLUME)
        convert(project, "a.npy", retries=0)
        generate(project.pipeline)
        np.save(project.folder / "a.npy", VOLUME[:7])
        run = project.blocks("work", "blocks/a_copy")
        assert run.returncode == 1
        assert "the plan says uint16[20, 48, 56]; plan again" in run.stdout + run.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["tiff", "n5"])
def test_killed_in_the_middle(project: Project, kind: str) -> None:
    """Again and again; in the end all is there, and what was done was not done twice."""
    values = np.random.default_rng(2).integers(0, 2**12, (96, 160, 160), np.uint16)
    if kind == "tiff":
        path = "a.tif"
        tifffile.imwrite(project.folder / path, values, compression="zlib", metadata=None)
    else:
        path = "a.n5/raw"
        tensorstores.write_n5(project.folder, path, values)
    size = {"block_size": {"voxels": 16}, "blocks_per_job": 50, "workers": 2}
    convert(project, path, {"array": "out.ome.zarr/0", "chunks": 16}, **size)
    kills, stamps = 0, dict[Any, Any]()
    for _ in range(3):
        run = subprocess.Popen(
            [str(BIN / "snakemake-blocks"), "run", "pipeline.yaml", "--cores", "2"],
            cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        while run.poll() is None and done(project) < len(stamps) + 60:
            time.sleep(0.005)
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        wait_for_the_end_of(project)
        found = {k: r["stamp"] for k, r in project.records("a_copy").items()}
        assert found.items() >= stamps.items()
        stamps = found
    assert kills and len(stamps) < 600
    last = project.blocks("run", "pipeline.yaml", "--cores", "2", timeout=250)
    assert last.returncode == 0, last.stdout + last.stderr
    np.testing.assert_array_equal(project.read("out.ome.zarr/0"), values)
    found = {k: r["stamp"] for k, r in project.records("a_copy").items()}
    assert len(found) == 600 and found.items() >= stamps.items()


def done(project: Project) -> int:
    try:
        return len(project.records("a_copy"))
    except Exception:  # there is no plan yet
        return 0


def wait_for_the_end_of(project: Project) -> None:
    """Wait until workers have seen that who started them is gone."""
    before, same = -1, 0
    while same < 20:
        now = done(project)
        same = same + 1 if now == before else 0
        before = now
        time.sleep(0.05)


def test_plan_is_the_same_after_it(project: Project) -> None:
    """The source is looked at again, and nothing has to be done."""
    tifffile.imwrite(project.folder / "a.tif", VOLUME)
    convert(project, "a.tif")
    project.work()
    first = Plan.load(project.folder / "blocks").fingerprint
    project.work()
    assert Plan.load(project.folder / "blocks").fingerprint == first
