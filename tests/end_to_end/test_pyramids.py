"""Volumes that are no multiple of their reduction: levels of the right shapes and values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from funlib.geometry import Roi
from numpy.typing import NDArray
from project import Project

from snakemake_blocks.commands.blockwise import run_blockwise
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import SpecError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.storage.arrays import describe
from snakemake_blocks.tasks.operation import Read, Write
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.job import work_sentinel

FUNCTIONS = """
    import numpy as np

    def halve(fine):
        z, y, x = fine.shape
        return fine.reshape(z, y // 2, 2, x // 2, 2).max(axis=(2, 4))
"""
SHAPES = [(51, 68, 81), (51, 34, 41), (51, 17, 21)]


def halved(fine: NDArray[Any], factors: tuple[int, ...] = (1, 2, 2)) -> NDArray[Any]:
    """Return the largest value of each cell; cells at the end may be smaller."""
    for axis, factor in enumerate(factors):
        fine = np.maximum.reduceat(fine, range(0, fine.shape[axis], factor), axis=axis)
    return fine


def run(project: Project) -> Plan:
    plan, _ = generate(project.pipeline)
    for name in plan.tasks:
        for job in plan.jobs(name):
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
    root = project.folder / "blocks"
    assert verify_run(plan, root).missing == ()
    return plan


def level(n: int, store: str, roi: Any, fill: Any = 0, **more: Any) -> tuple[str, dict[str, Any]]:
    return (
        f"level{n}",
        {
            "function": "functions:halve",
            "call": "arrays",
            "reads": {"fine": {"array": f"{store}/{n - 1}", "fill": fill}},
            "writes": {
                "coarse": {
                    "array": f"{store}/{n}",
                    "dtype": "uint16",
                    "voxel_size": [40, 10 * 2**n, 10 * 2**n],
                }
            },
            "roi": roi,
            "block_size": [40 * 17, 640, 640],
            "conflict": False,
            "fit": "shrink",
            **more,
        },
    )


# faults: kind 7


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("roi", ["the image", "the level before", "by hand"])
def test_an_odd_volume_is_reduced_to_a_pyramid(
    project: Project, zarr_format: int, roi: str
) -> None:
    store = "image.ome.zarr"
    raw = np.random.default_rng(1).integers(1, 60000, (51, 135, 161), dtype=np.uint16)
    names = list("zyx")
    group = zarr.open_group(project.folder / store, mode="w", zarr_format=zarr_format)
    keys: Any = {"name": "v2" if zarr_format == 2 else "default", "separator": "/"}
    group.create_array(
        "0", data=raw, chunks=(17, 64, 64), chunk_key_encoding=keys,
        dimension_names=names if zarr_format == 3 else None,
    )  # fmt: skip
    scale = [{"type": "scale", "scale": [0.04, 0.01, 0.01]}]
    entry = {
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in names],
        "datasets": [{"path": "0", "coordinateTransformations": scale}],
    }
    if zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **entry}]
    project.functions(FUNCTIONS)
    rois = {
        "the image": [f"{store}/0"] * 3,
        "the level before": [f"{store}/{n}" for n in range(3)],
        "by hand": [
            {
                "offset": [0, 0, 0],
                "shape": [s * v for s, v in zip(shape, (40, 10 * 2**n, 10 * 2**n), strict=True)],
            }
            for n, shape in enumerate(SHAPES, 1)
        ],
    }[roi]
    project.write(*(level(n, store, rois[n - 1]) for n in (1, 2, 3)), unit="nanometer")
    run(project)
    want = raw
    for n, shape in enumerate(SHAPES, 1):
        want = halved(want)
        assert want.shape == shape
        np.testing.assert_array_equal(project.read(f"{store}/{n}"), want)
    attributes: Any = dict(zarr.open_group(project.folder / store, mode="r").attrs)
    (found,) = attributes.get("ome", attributes)["multiscales"]
    transformations = [d["coordinateTransformations"] for d in found["datasets"]]
    assert [t[0]["scale"] for t in transformations] == [
        [0.04, 0.01, 0.01], [0.04, 0.02, 0.02], [0.04, 0.04, 0.04], [0.04, 0.08, 0.08],
    ]  # fmt: skip
    assert [t[1]["translation"] for t in transformations[1:]] == [
        [0, 0.005, 0.005], [0, 0.015, 0.015], [0, 0.035, 0.035],
    ]  # fmt: skip


def test_by_three_with_an_offset_and_into_an_array_that_is_there(project: Project) -> None:
    raw = np.random.default_rng(2).integers(1, 99, (11, 7), dtype=np.uint16)
    place = {"offset": [-5, 30]}
    project.array("s.zarr/raw", raw, voxel_size=[1, 1], chunks=(3, 3), **place)
    project.array("s.zarr/out", np.zeros((4, 3), np.uint16), voxel_size=[3, 3], **place)
    project.functions("""
        def third(raw):
            y, x = raw.shape
            return raw.reshape(y // 3, 3, x // 3, 3).max(axis=(1, 3))
    """)
    form = {
        "function": "functions:third",
        "call": "arrays",
        "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
        "writes": {"out": {"array": "s.zarr/out", "dtype": "uint16"}},
        "roi": "s.zarr/raw",
        "block_size": [6, 6],
        "fit": "shrink",
    }
    project.write(("third", form))
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), halved(raw, (3, 3)))


@pytest.mark.parametrize("offset", [(0, 0), (-7, 21)])
def test_a_task_of_python_is_rounded_as_well(project: Project, offset: tuple[int, int]) -> None:
    raw = np.random.default_rng(3).integers(1, 99, (11, 7), dtype=np.uint16)
    project.array("s.zarr/raw", raw, voxel_size=[1, 2], offset=list(offset), chunks=(3, 3))
    fine = describe("s.zarr/raw", project.folder)
    assert fine is not None
    coarse = replace(
        fine, path="s.zarr/out", voxel_size=(3, 4), shape=(4, 4), chunks=(2, 2), exists=False
    )

    def reduce(raw: NDArray[Any]) -> NDArray[Any]:
        y, x = raw.shape
        found: NDArray[Any] = raw.reshape(y // 3, 3, x // 2, 2).max(axis=(1, 3))
        return found

    block = Roi(offset, (6, 8))
    task = Task(
        "reduce", fine.roi.to_roi(), block, block, reduce, fit="shrink", call="arrays",
        read_write_conflict=False, reads={"raw": Read(fine, 0)}, writes={"out": Write(coarse)},
    )  # fmt: skip
    assert task.write_extent == coarse.roi
    assert replace(task).write_extent == coarse.roi
    assert run_blockwise([task], multiprocessing=False, progress=False)
    np.testing.assert_array_equal(project.read("s.zarr/out"), halved(raw, (3, 2)))
    with pytest.raises(SpecError, match=r"cuts voxels of s\.zarr/out"):
        replace(task, reads={"raw": Read(fine)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fill": None}, "cuts voxels of s.zarr/1"),
        ({"fit": "valid"}, None),
    ],
)
def test_without_a_fill_or_another_fit_nothing_is_rounded(
    project: Project, change: dict[str, Any], reason: str | None
) -> None:
    raw = np.ones((17, 135, 161), np.uint16)
    project.array("s.zarr/0", raw, voxel_size=[40, 10, 10])
    project.functions(FUNCTIONS)
    project.write(level(1, "s.zarr", "s.zarr/0", **change))
    if reason is None:
        run(project)  # whole blocks only
        assert project.read("s.zarr/1").sum() == 17 * 64 * 64
        return
    with pytest.raises(SpecError, match=reason):
        generate(project.pipeline)


def test_a_fill_stands_for_all_outside_of_an_array_and_for_nothing_inside(
    project: Project,
) -> None:
    project.functions("""
        def first(raw):
            return raw + 1

        def second(made):
            return made
    """)
    raw = np.arange(64, dtype=np.uint16).reshape(8, 8)
    project.array("s.zarr/raw", raw, voxel_size=[1, 1])
    common = {"call": "arrays", "block_size": [4, 4], "conflict": False}
    dtype = {"dtype": "uint16"}
    around = {
        **common,
        "function": "functions:first",
        "reads": {"raw": {"array": "s.zarr/raw", "fill": 9}},
        "writes": {"out": {"array": "s.zarr/made", **dtype}},
        "roi": {"offset": [-4, 0], "shape": [16, 8]},
    }
    project.write(("first", around))
    run(project)
    want = np.pad(raw, [(4, 4), (0, 0)], constant_values=9) + 1
    np.testing.assert_array_equal(project.read("s.zarr/made"), want)
    half = {**around, "roi": {"offset": [0, 0], "shape": [4, 8]},
            "writes": {"out": {"array": "s.zarr/half", **dtype}}}  # fmt: skip
    whole = {
        **common,
        "function": "functions:second",
        "reads": {"made": {"array": "s.zarr/large", "fill": 0}},
        "writes": {"out": {"array": "s.zarr/copy", **dtype}},
        "roi": "s.zarr/raw",
        "after": ["half"],
    }
    project.array("s.zarr/large", raw, voxel_size=[1, 1])
    half["writes"] = {"out": {"array": "s.zarr/large", **dtype}}
    project.write(("half", half), ("whole", whole))
    done = project.cli("check", str(project.pipeline))
    assert done.exit_code != 0
    assert "(4, 0) to (8, 8) of s.zarr/large is read by block" in " ".join(done.output.split())
