"""Measured voxel sizes: one refusal, whose advice works when it is followed to the letter."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.storage.arrays import describe
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


def refusal(project: Project, path: str, unit: str) -> str:
    with pytest.raises(InputError, match=rf"^{path}: ") as caught:
        describe(path, project.folder, unit=unit)
    return str(caught.value)


def follow(project: Project, path: str, advice: str) -> None:
    """Do what the advice says to an array."""
    found = re.search(r"voxel_size: (\[[\d, ]+\]) and offset: (\[[-\d, ]+\])", advice)
    assert found, advice
    attributes = zarr.open_array(project.folder / path, mode="r+").attrs
    attributes.update(
        {"voxel_size": ast.literal_eval(found[1]), "offset": ast.literal_eval(found[2])}
    )
    if "take its attribute units away" in advice:
        del attributes["units"]


def pipeline(
    project: Project,
    source: str,
    target: str,
    voxel: list[int],
    *,
    reduce: int = 2,
    block: tuple[int, ...] | list[int] = (4, 4),
    **more: Any,
) -> None:
    project.functions(f"def quarter(raw):\n    return raw[::{reduce}, ::{reduce}]\n")
    form = {
        "function": "functions:quarter",
        "call": "arrays",
        "reads": {"raw": source},
        "writes": {"out": {"array": target, "dtype": "uint16", "voxel_size": voxel}},
        "roi": source,
        "block_size": list(block),
        "conflict": False,
    }
    project.write(("quarter", form), **more)


def run(project: Project) -> None:
    plan, _ = generate(project.pipeline)
    for job in plan.jobs("quarter"):
        assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0


# faults: kind 6


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", MEASURED)
def test_the_advice_for_an_image_works_when_followed(
    project: Project, name: str, zarr_format: int
) -> None:
    scale, translation = MEASURED[name]
    image(project, scale, translation, zarr_format)
    for level, size in (("0", "[1, 1]"), ("1", "[2, 2]")):
        texts = {refusal(project, f"a.ome.zarr/{level}", u) for u in ("", "nanometer", "meter")}
        assert all("set unit" not in text for text in texts)
        assert all(f"store the attributes voxel_size: {size} and" in text for text in texts)
        assert {"take unit out of pipeline.yaml" in text for text in texts} == {True, False}
        follow(project, f"a.ome.zarr/{level}", texts.pop())
    pipeline(project, "a.ome.zarr/1", "a.ome.zarr/2", [4, 4])
    run(project)
    raw = np.arange(16, dtype=np.uint16).reshape(4, 4)
    np.testing.assert_array_equal(project.read("a.ome.zarr/2"), raw[::2, ::2])
    attributes: Any = dict(zarr.open_group(project.folder / "a.ome.zarr", mode="r").attrs)
    (entry,) = attributes.get("ome", attributes)["multiscales"]
    (made,) = [d for d in entry["datasets"] if d["path"] == "2"]
    assert made["coordinateTransformations"][0]["scale"] == [s * 2 * 2 for s in scale]
    assert {a["unit"] for a in entry["axes"]} == {"micrometer"}


@pytest.mark.parametrize("units", [None, ["um", "um"], "parsec"])
@pytest.mark.parametrize("name", MEASURED)
def test_the_advice_for_an_arrays_own_attributes_works_when_followed(
    project: Project, name: str, units: Any
) -> None:
    scale, offset = MEASURED[name]
    own = {} if units is None else {"units": units}
    raw = np.arange(64, dtype=np.uint16).reshape(8, 8)
    project.array("s.zarr/raw", raw, voxel_size=scale, offset=offset, units="", chunks=(4, 4))
    zarr.open_array(project.folder / "s.zarr/raw", mode="r+").attrs.update(own)
    follow(project, "s.zarr/raw", refusal(project, "s.zarr/raw", ""))
    pipeline(project, "s.zarr/raw", "s.zarr/out", [2, 2])
    run(project)
    np.testing.assert_array_equal(project.read("s.zarr/out"), raw[::2, ::2])


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
    if by == "image":
        image(project, own["voxel_size"], own["offset"])
        text = refusal(project, "a.ome.zarr/0", unit)
    else:
        project.array("s.zarr/raw", np.zeros((2, 2)), units=["um"] * 2, **own)
        text = refusal(project, "s.zarr/raw", unit)
    assert "is not whole" in text
    assert str(max(map(abs, numbers))) in text


@pytest.mark.parametrize("by", ["attributes", "image"])
def test_the_advice_keeps_arrays_where_they_lie(project: Project, by: str) -> None:
    """Of two arrays in one world, one begins 20 and -3 voxels of the other further on."""
    size, zero = 0.29898804047838085, 7 / 3
    texts = []
    for offset in ([zero, zero], [zero + 20 * size, zero - 3 * size]):
        if by == "image":
            image(project, [size, size], offset)
            texts.append(refusal(project, "a.ome.zarr/1", ""))
        else:
            project.array("s.zarr/raw", np.zeros((2, 2)), voxel_size=[size] * 2, offset=offset)
            texts.append(refusal(project, "s.zarr/raw", ""))
    assert ["offset: [8, 8]" in texts[0], "offset: [28, 5]" in texts[1]] == [True, True]


def test_a_handy_unit_is_still_advised_and_works(project: Project) -> None:
    image(project, [0.1625, 0.2], [0.5, -3])
    text = refusal(project, "a.ome.zarr/0", "")
    assert text.endswith(
        "set unit: angstrom in pipeline.yaml, at the top, and give all sizes in it"
    )
    pipeline(
        project, "a.ome.zarr/0", "a.ome.zarr/2", [6500, 8000],
        unit="angstrom", reduce=4, block=[6500, 8000],
    )  # fmt: skip
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
