"""Measured voxel sizes: all of them can be cut, and nothing is lost of their digits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from funlib.persistence import open_ds
from project import Project

from snakemake_blocks.commands.generate import generate, make_plan
from snakemake_blocks.errors import SpecError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.storage.arrays import stored_array
from snakemake_blocks.storage.lattice import Lattice
from snakemake_blocks.tasks.scale import WORLD
from snakemake_blocks.work.job import work_sentinel

FLOAT32 = float(np.float32(0.004))
# Scale and translation per axis.
MEASURED: dict[str, tuple[list[float], list[float]]] = {
    "a pixel of a microscope": ([0.29898804047838085] * 2, [0, 0]),
    "6.5 um by 60": ([6.5 / 60, 6.5 / 60], [0, 0]),
    "a 32-bit float": ([FLOAT32, FLOAT32], [0, 0]),
    "offsets of thirds": ([0.5, 0.25], [1 / 3, 2 / 3]),
    "thirds of both": ([1 / 3, 1 / 7], [1 / 3, 1e6 / 7]),
    "huge": ([1e300, 1 / 3], [1e308, 1e-308]),
    "six digits, exactly": ([0.108333, 0.2], [0, 0]),
}


def image(project: Project, scale: list[float], translation: list[float], fmt: int = 3) -> None:
    """Store ``a.ome.zarr`` with two levels; the second is half of the first."""
    group = zarr.open_group(project.folder / "a.ome.zarr", mode="w", zarr_format=fmt)
    datasets = []
    for n, factor in enumerate((1, 2)):
        data = np.arange((8 // factor) ** 2, dtype=np.uint16).reshape((8 // factor,) * 2)
        group.create_array(str(n), data=data, chunks=(4, 4))
        transforms = [
            {"type": "scale", "scale": [s * factor for s in scale]},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": str(n), "coordinateTransformations": transforms})
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    entry = {"axes": axes, "datasets": datasets}
    if fmt == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **entry}]


def pipeline(
    project: Project,
    source: str,
    target: str,
    voxel: Any,
    *,
    reduce: int = 2,
    block: Any = (4, 4),
    **more: Any,
) -> None:
    text = f"def quarter(raw):\n    return raw[::{reduce}, ::{reduce}]\n"
    project.functions(f"{text}\ndef nothing(block):\n    pass\n")
    form = {
        "function": "functions:quarter",
        "call": "arrays",
        "reads": {"raw": source},
        "writes": {"out": {"array": target, "dtype": "uint16", "voxel_size": voxel}},
        "roi": source,
        "block_size": list(block) if isinstance(block, tuple) else block,
        "conflict": False,
    }
    project.write(("quarter", form), **more)


def run(project: Project) -> None:
    plan, _ = generate(project.pipeline)
    for job in plan.jobs("quarter"):
        assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0


# faults: kind 6


def in_voxels(project: Project, source: str, target: str, **more: Any) -> None:
    pipeline(project, source, target, {"voxels": 2}, block={"voxels": 4}, **more)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", MEASURED)
def test_an_image_is_cut_in_voxels_whatever_their_size(
    project: Project, name: str, zarr_format: int
) -> None:
    """Without a unit, and with one in which nothing is whole."""
    scale, translation = MEASURED[name]
    image(project, scale, translation, zarr_format)
    in_voxels(project, "a.ome.zarr/1", "a.ome.zarr/2", unit="meter")
    generate(project.pipeline)
    shutil.rmtree(project.folder / "a.ome.zarr")
    shutil.rmtree(project.folder / "blocks")
    image(project, scale, translation, zarr_format)
    in_voxels(project, "a.ome.zarr/1", "a.ome.zarr/2")
    run(project)
    raw = np.arange(16, dtype=np.uint16).reshape(4, 4)
    np.testing.assert_array_equal(project.read("a.ome.zarr/2"), raw[::2, ::2])
    attributes: Any = dict(zarr.open_group(project.folder / "a.ome.zarr", mode="r").attrs)
    (entry,) = attributes.get("ome", attributes)["multiscales"]
    (made,) = [d for d in entry["datasets"] if d["path"] == "2"]
    assert made["coordinateTransformations"][0]["scale"] == [s * 2 * 2 for s in scale]
    assert {a["unit"] for a in entry["axes"]} == {"micrometer"}
    before = make_plan(project.pipeline)
    run(project)  # what was made lies where it was said to
    assert make_plan(project.pipeline).to_bytes() == before.to_bytes()


@pytest.mark.parametrize("units", [None, ["um", "um"], "parsec"])
@pytest.mark.parametrize("name", MEASURED)
def test_an_array_with_attributes_of_its_own_likewise(
    project: Project, name: str, units: Any
) -> None:
    scale, offset = MEASURED[name]
    own = {} if units is None else {"units": units}
    raw = np.arange(64, dtype=np.uint16).reshape(8, 8)
    project.array("s.zarr/raw", raw, voxel_size=scale, offset=offset, chunks=(4, 4), **own)
    in_voxels(project, "s.zarr/raw", "s.zarr/out")
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), raw[::2, ::2])
    made = zarr.open_array(project.folder / "s.zarr/out", mode="r").attrs
    sizes = made.get("resolution", made.get("voxel_size"))
    assert sizes == pytest.approx([2 * s for s in scale], rel=1e-15)
    assert made.get("translation", made.get("offset")) == pytest.approx(offset, rel=1e-15)
    opened = open_ds(project.folder / "s.zarr/out")  # it knows whole numbers only
    if "resolution" in made:
        assert (opened.voxel_size, opened.roi.shape) == ((1, 1), (4, 4))
    before = make_plan(project.pipeline)
    run(project)
    assert make_plan(project.pipeline).to_bytes() == before.to_bytes()


def test_blocks_and_their_records_count_voxels(project: Project) -> None:
    image(project, [0.29898804047838085] * 2, [7 / 3, 7 / 3])
    in_voxels(project, "a.ome.zarr/1", "a.ome.zarr/2")
    plan, _ = generate(project.pipeline)
    (block,) = plan.blocks("quarter")
    assert (block.write_roi.offset, block.write_roi.shape) == ((0, 0), (4, 4))
    assert plan.tasks["quarter"].identity["block_size"] == [4, 4]
    assert plan.tasks["quarter"].identity["scale"]["voxel_size"] == ["0.5979760809567617"] * 2
    read = Plan.load(project.folder / "blocks").tasks["quarter"]
    assert read.scale == plan.tasks["quarter"].scale != WORLD
    assert read.own_grid == plan.tasks["quarter"].own_grid


@pytest.mark.parametrize("joins", ["finer", "coarser", "beside", "before"])
def test_what_is_done_stays_done_when_another_array_joins(project: Project, joins: str) -> None:
    """It changes the numbers that the plan counts in, and not the task's own."""
    size = 0.29898804047838085
    image(project, [size] * 2, [7 / 3, 7 / 3])
    in_voxels(project, "a.ome.zarr/0", "s.zarr/out")
    run(project)
    (task,) = yaml.safe_load(project.pipeline.read_text())["tasks"].values()
    factor, shift = {"finer": (1 / 3, 0), "coarser": (2, 1), "beside": (1, 0.5), "before": (3, -2)}[
        joins
    ]
    offset = [7 / 3 + shift * size] * 2
    raw = np.zeros((90, 90), np.uint16)
    project.array("t.zarr/raw", raw, resolution=[size * factor] * 2, offset=offset)
    other = {
        "function": "functions:nothing",
        "reads": {"own": {"array": "t.zarr/raw", "fill": 0}},
        "roi": "t.zarr/raw",
        "block_size": {"voxels": 90},
        "after": [{"task": "quarter", "whole": True}],
    }
    old = make_plan(project.pipeline).tasks["quarter"]
    tasks = {"quarter": task, "other": other}
    order = ["other", "quarter"] if joins == "before" else ["quarter", "other"]
    project.write(*((name, tasks[name]) for name in order))
    plan, _ = generate(project.pipeline)
    new = plan.tasks["quarter"]
    assert (new.fingerprint, new.own_grid) == (old.fingerprint, old.own_grid)
    judgement = Judge(plan, project.folder / "blocks").judge_all(new)
    assert judgement.done.all()
    if joins in ("finer", "beside", "before"):
        assert new.grid != old.grid


def test_of_arrays_on_whole_world_units_nothing_changes_when_a_measured_one_joins(
    project: Project,
) -> None:
    project.array("s.zarr/raw", np.zeros((8, 8), np.uint16), voxel_size=[40, 40], chunks=(4, 4))
    pipeline(project, "s.zarr/raw", "s.zarr/out", [80, 80], block=(160, 160))
    run(project)
    old = make_plan(project.pipeline).tasks["quarter"]
    project.array("t.zarr/raw", np.zeros((24, 24), np.uint16), resolution=[40 / 3] * 2)
    data = yaml.safe_load(project.pipeline.read_text())
    data["tasks"]["other"] = {
        "function": "functions:nothing",
        "reads": {"own": "t.zarr/raw", "out": "s.zarr/out"},
        "roi": "t.zarr/raw",
        "block_size": {"voxels": 24},
    }
    project.pipeline.write_text(yaml.safe_dump(data, sort_keys=False))
    plan, _ = generate(project.pipeline)
    new, other = plan.tasks["quarter"], plan.tasks["other"]
    assert (new.fingerprint, new.own_grid) == (old.fingerprint, old.grid)
    assert new.grid != old.grid
    assert Judge(plan, project.folder / "blocks").judge_all(new).done.all()
    assert (new.scale.array, other.scale.array) == ("", "t.zarr/raw")
    assert next(plan.blocks("other")).write_roi.shape == (24, 24)


@pytest.mark.parametrize(
    ("key", "numbers", "unit"),
    [
        ("voxel_size", [0.12345678901234567] * 2, "zeptometer"),
        ("offset", [1234567890123.4568, 0], "nanometer"),
        ("offset", [0, -1234567.1234567891], "femtometer"),
    ],
)
@pytest.mark.parametrize("by", ["attributes", "image"])
def test_digits_that_were_measured_are_not_dropped(
    project: Project, key: str, numbers: list[float], unit: str, by: str
) -> None:
    """With 15 digits of them, they would be whole."""
    own = {"voxel_size": [1.0, 1.0], "offset": [0, 0], key: numbers}
    path = "a.ome.zarr/0" if by == "image" else "s.zarr/raw"
    if by == "image":
        image(project, own["voxel_size"], own["offset"])
    else:
        project.array("s.zarr/raw", np.zeros((2, 2)), units=["um"] * 2, **own)
    found = stored_array(path, project.folder, unit=unit)
    assert found is not None
    assert not found.is_whole


def test_arrays_of_one_world_lie_where_they_are(project: Project) -> None:
    """The second one begins 20 and -3 voxels of the first further on."""
    size, zero = 0.29898804047838085, 7 / 3
    for n, offset in enumerate(([zero, zero], [zero + 20 * size, zero - 3 * size])):
        project.array(f"s.zarr/{n}", np.zeros((30, 30)), resolution=[size] * 2, offset=offset)
    both = [stored_array(f"s.zarr/{n}", project.folder) for n in range(2)]
    arrays = [array for array in both if array is not None]
    lattice = Lattice.of([array.measured for array in arrays])
    assert [array.info(lattice).offset for array in arrays] == [(0, 0), (20, -3)]


def test_sizes_in_world_units_work_where_they_are_whole_voxels(project: Project) -> None:
    image(project, [0.125, 0.25], [0.5, -3])
    pipeline(project, "a.ome.zarr/0", "a.ome.zarr/2", {"voxels": 4}, reduce=4, block=(1, 2))
    run(project)
    raw = np.arange(64, dtype=np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(project.read("a.ome.zarr/2"), raw[::4, ::4])


@pytest.mark.parametrize("verb", ["check", "plan", "generate"])
def test_sizes_in_picometers_that_nobody_meant(project: Project, verb: str) -> None:
    """The unit that was advised, and blocks as large as before: more than 2^63 of them."""
    group = zarr.open_group(project.folder / "a.ome.zarr", mode="w")
    group.create_array("0", shape=(2000, 2000, 2000), chunks=(64,) * 3, dtype="uint16")
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [0.108333] * 3}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    project.functions("def same(block):\n    pass\n")
    task = {"function": "functions:same", "roi": "a.ome.zarr/0", "block_size": [64] * 3}
    project.write(("same", task), unit="picometer")
    done = project.cli(verb, "pipeline.yaml")
    assert done.exit_code == 2
    assert "pipeline.yaml: tasks.same.block_size: (64, 64, 64) " in done.output, done.output


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_more_blocks_than_can_be_counted_are_refused(project: Project, axes: int) -> None:
    project.array("s.zarr/raw", np.zeros((4,) * axes, np.uint8), voxel_size=[2**50] * axes)
    project.functions("def same(block):\n    pass\n")
    project.write(
        ("same", {"function": "functions:same", "roi": "s.zarr/raw", "block_size": [1] * axes})
    )
    with pytest.raises(SpecError) as caught:
        generate(project.pipeline)
    text = str(caught.value)
    assert "tasks.same." in text
    if axes > 1:
        assert "tasks.same.block_size: (1" in text
        assert "more than can be planned (5e+18); give the sizes of blocks in world units" in text
