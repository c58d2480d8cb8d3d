"""Images of a microscope, with measured voxels, channels and time: no world unit is typed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from peers import PeerUnavailableError, installed, peers_folder
from project import Project
from scipy import ndimage

from snakemake_blocks.commands.generate import generate, make_plan
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.operations.registry import load_pipeline
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.pilot import pilot
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.failures import read_failures
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.job import work_sentinel

pytestmark = pytest.mark.e2e

VIEWERS = Path(__file__).parent.parent / "viewers"
PIXEL = 0.29898804047838085
# What numpy and we call it, and what scipy does.
MODES = {"edge": "nearest", "reflect": "mirror", "symmetric": "reflect"}
FUNCTIONS = """
    import numpy as np
    from scipy import ndimage

    def denoise(raw, mode):
        sigma = [0] * (raw.ndim - 3) + [2] * 3
        return ndimage.gaussian_filter(raw.astype(np.float32), sigma, mode=mode, truncate=3)

    def halve(fine):
        *lead, z, y, x = fine.shape
        return fine.reshape(*lead, z // 2, 2, y // 2, 2, x // 2, 2).max(axis=(-5, -3, -1))

    def threshold(raw):
        return np.expand_dims(raw > 2000, -4)

    def change(now, before):
        return now.astype(np.int32) - before
"""


def store(
    project: Project, path: str, values: NDArray[Any], axes: str, scale: list[float], fmt: int
) -> None:
    """Store an image of version 0.4 or 0.5 as a microscope's software does."""
    group = zarr.open_group(project.folder / path, mode="w", zarr_format=fmt)
    kinds = {"t": ("time", "second"), "c": ("channel", None)}
    known = [(n, *kinds.get(n, ("space", "micrometer"))) for n in axes]
    entry = {
        "name": "stack",
        "axes": [{"name": n, "type": k, **({"unit": u} if u else {})} for n, k, u in known],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    window = {"start": 0, "end": 4000, "min": 0, "max": 4000}
    omero = {
        "channels": [
            {"label": label, "color": color, "window": window}
            for label, color in (("DAPI", "0000FF"), ("GFP", "00FF00"))
        ]
    }
    keys = {"name": "v2", "separator": "/"}
    more: dict[str, Any] = (
        {"dimension_names": list(axes)} if fmt == 3 else {"chunk_key_encoding": keys}
    )
    chunks = (1,) * (values.ndim - 3) + (16, 64, 64)
    group.create_array("0", data=values, chunks=chunks, **more)
    if fmt == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry], "omero": omero}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **entry}], "omero": omero})


def level(n: int, source: str, target: str, **more: Any) -> tuple[str, dict[str, Any]]:
    write = {"dtype": "uint16", "channels": [2], "voxel_size": {"voxels": 2}, **more}
    form = {
        "function": "functions:halve",
        "call": "arrays",
        "reads": {"fine": {"array": source, "fill": "edge"}},
        "writes": {"coarse": {"array": target, **write}},
        "roi": source,
        "block_size": {"voxels": 32},
        "fit": "shrink",
    }
    return f"level{n}", form


def run(project: Project) -> None:
    plan, _ = generate(project.pipeline)
    for name in plan.tasks:
        for job in plan.jobs(name):
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
    assert verify_run(plan, project.folder / "blocks").missing == ()


def halved(fine: NDArray[Any]) -> NDArray[Any]:
    for axis in range(fine.ndim - 3, fine.ndim):
        fine = np.maximum.reduceat(fine, range(0, fine.shape[axis], 2), axis=axis)
    return fine


VIEWED = ("validated", "nodes", "layers")


def seen_by_viewers(
    path: Path, request: pytest.FixtureRequest, asked: tuple[str, ...] = VIEWED
) -> dict[str, Any]:
    """Return what ome-zarr-models, ome-zarr-py, napari's reader and xarray make of an image."""
    folder = peers_folder(getattr(request.config, "cache", None))
    try:
        python = installed("viewers", VIEWERS / "requirements.txt", folder)
    except PeerUnavailableError as error:
        pytest.skip(f"viewers are not available: {error}")
    done = subprocess.run(
        [str(python), "-I", str(VIEWERS / "driver.py"), str(path), *asked],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def stack(project: Project) -> NDArray[Any]:
    """Return the values of ``a.ome.zarr``, czyx in OME-Zarr 0.4."""
    project.functions(FUNCTIONS)
    values = np.random.default_rng(0).integers(0, 4000, (2, 51, 70, 81), np.uint16)
    store(project, "a.ome.zarr", values, "czyx", [1, 0.5, PIXEL, PIXEL], 2)
    return values


@pytest.fixture
def movie(project: Project) -> NDArray[Any]:
    """Return the values of ``b.ome.zarr``, tczyx in OME-Zarr 0.5."""
    project.functions(FUNCTIONS)
    values = np.random.default_rng(1).integers(0, 4000, (5, 2, 21, 37, 41), np.uint16)
    store(project, "b.ome.zarr", values, "tczyx", [0.5, 1, 1 / 3, 6.5 / 60, 6.5 / 60], 3)
    return values


@pytest.mark.parametrize("fill", MODES)
def test_a_stack_is_smoothed_as_a_whole(project: Project, stack: NDArray[Any], fill: str) -> None:
    form = {
        "function": "functions:denoise",
        "call": "arrays",
        "params": {"mode": MODES[fill]},
        "reads": {"raw": {"array": "a.ome.zarr/0", "fill": fill}},
        "writes": {"smooth": {"array": "s.ome.zarr/0", "dtype": "float32", "channels": [2]}},
        "roi": "a.ome.zarr/0",
        "block_size": {"voxels": {"z": 20, "y": 64, "x": 64}},
        "context": {"voxels": 6},
        "fit": "shrink",
    }
    project.write(("denoise", form))
    run(project)
    whole = ndimage.gaussian_filter(
        stack.astype(np.float32), (0, 2, 2, 2), mode=MODES[fill], truncate=3
    )
    np.testing.assert_array_equal(project.read("s.ome.zarr/0"), whole)


def test_a_stack_gets_levels_and_labels_that_viewers_open(
    project: Project, stack: NDArray[Any], request: pytest.FixtureRequest
) -> None:
    image, labels = "a.ome.zarr", "a.ome.zarr/labels/nuclei"
    threshold = {
        "function": "functions:threshold",
        "call": "arrays",
        "reads": {"raw": {"array": f"{image}/0", "select": {"c": 0}}},
        "writes": {"labels": {"array": f"{labels}/0", "dtype": "uint8", "channels": [1]}},
        "roi": f"{image}/0",
        "block_size": {"voxels": 32},
        "fit": "shrink",
    }
    project.write(
        ("threshold", threshold),
        *(level(n + 1, f"{image}/{n}", f"{image}/{n + 1}") for n in range(3)),
        *(
            level(n + 4, f"{labels}/{n}", f"{labels}/{n + 1}", dtype="uint8", channels=[1])
            for n in range(3)
        ),
    )
    run(project)
    expected = stack
    mask = (stack[:1] > 2000).astype(np.uint8)
    for n in range(1, 4):
        expected, mask = halved(expected), halved(mask)
        np.testing.assert_array_equal(project.read(f"{image}/{n}"), expected)
        np.testing.assert_array_equal(project.read(f"{labels}/{n}"), mask)
    seen = seen_by_viewers(project.folder / image, request)
    shapes = [[51, 70, 81], [26, 35, 41], [13, 18, 21], [7, 9, 11]]
    assert seen["validated"] == ["Image", "ImageLabel", "Labels"]
    assert [node["name"] for node in seen["nodes"]] == ["stack", "nuclei"]
    for node, channels in zip(seen["nodes"], (2, 1), strict=True):
        assert node["shapes"] == [[channels, *shape] for shape in shapes]
        assert node["axes"] == list("czyx")
        assert node["units"] == ["", *["micrometer"] * 3]
        assert node["scales"] == [[1, 0.5 * f, PIXEL * f, PIXEL * f] for f in (1, 2, 4, 8)]
    assert seen["nodes"][0]["channels"] == ["DAPI", "GFP"]
    assert [layer["kind"] for layer in seen["layers"]] == ["image", "labels"]
    assert [layer["sum"] for layer in seen["layers"]] == [expected.sum(), mask.sum()]
    seen = seen_by_viewers(project.folder / labels, request, ("variables",))
    assert seen["variables"] == {"c": 1, "z": 7, "y": 9, "x": 11}


@pytest.mark.parametrize("fill", MODES)
def test_a_movie_is_cut_in_time_and_stays_one(
    project: Project, movie: NDArray[Any], request: pytest.FixtureRequest, fill: str
) -> None:
    """Each point in time is smoothed by itself; the levels below keep channels and time scale."""
    denoise = {
        "function": "functions:denoise",
        "call": "arrays",
        "params": {"mode": MODES[fill]},
        "reads": {"raw": {"array": "b.ome.zarr/0", "fill": fill}},
        "writes": {"smooth": {"array": "s.ome.zarr/0", "dtype": "uint16", "channels": [2]}},
        "roi": "b.ome.zarr/0",
        "block_size": {"voxels": {"t": 1, "z": 16, "y": 32, "x": 41}},
        "context": {"voxels": {"z": 6, "y": 6, "x": 6}},
        "fit": "shrink",
    }
    labels = "s.ome.zarr/labels/nuclei"
    threshold = {
        "function": "functions:threshold",
        "call": "arrays",
        "reads": {"raw": {"array": "s.ome.zarr/0", "select": {"c": 0}}},
        "writes": {"labels": {"array": f"{labels}/0", "dtype": "uint8", "channels": [1]}},
        "roi": "s.ome.zarr/0",
        "block_size": {"voxels": {"t": 2, "z": 16, "y": 32, "x": 41}},
        "fit": "shrink",
    }
    project.write(
        ("denoise", denoise),
        *(level(n + 1, f"s.ome.zarr/{n}", f"s.ome.zarr/{n + 1}") for n in range(3)),
        ("threshold", threshold),
        *(
            level(n + 4, f"{labels}/{n}", f"{labels}/{n + 1}", dtype="uint8", channels=[1])
            for n in range(3)
        ),
    )
    plan, _ = generate(project.pipeline)
    assert plan.tasks["denoise"].grid.shape == (5, 2, 2, 1)
    assert plan.tasks["level1"].grid.shape == (1, 1, 2, 2)  # what is not named is one block
    run(project)
    sigma = (0, 0, 2, 2, 2)
    smooth = ndimage.gaussian_filter(movie.astype(np.float32), sigma, mode=MODES[fill], truncate=3)
    expected = smooth.astype(np.uint16)
    np.testing.assert_array_equal(project.read("s.ome.zarr/0"), expected)
    mask = (expected[:, :1] > 2000).astype(np.uint8)
    for n in range(1, 4):
        expected, mask = halved(expected), halved(mask)
        np.testing.assert_array_equal(project.read(f"s.ome.zarr/{n}"), expected)
        np.testing.assert_array_equal(project.read(f"{labels}/{n}"), mask)
    seen = seen_by_viewers(project.folder / "s.ome.zarr", request, (*VIEWED, "variables"))
    assert seen["variables"] == {"t": 5, "c": 2, "z": 3, "y": 5, "x": 6}
    node, label = seen["nodes"]
    assert seen["validated"] == ["Image", "ImageLabel", "Labels"]
    assert label["shapes"] == [[5, 1, *shape[2:]] for shape in node["shapes"]]
    assert (node["axes"], node["channels"]) == (list("tczyx"), ["DAPI", "GFP"])
    assert node["units"] == ["second", "", *["micrometer"] * 3]
    scale = [1 / 3, 6.5 / 60, 6.5 / 60]
    for n, found in enumerate(node["scales"]):
        assert found[:2] == [0.5, 1]
        assert found[2:] == pytest.approx([s * 2**n for s in scale], rel=1e-15)
    assert [layer["sum"] for layer in seen["layers"]] == [expected.sum(), mask.sum()]


def test_channels_and_points_in_time_are_selected(project: Project, movie: NDArray[Any]) -> None:
    """One frame is read by the blocks of all, which wait for it; one channel is written."""
    shared = {
        "call": "arrays",
        "block_size": {"voxels": {"t": 2, "z": 21, "y": 20, "x": 41}},
        "fit": "shrink",
    }
    copy = {
        **shared,
        "function": "functions:denoise",
        "params": {"mode": "nearest"},
        "reads": {"raw": {"array": "b.ome.zarr/0", "select": {"c": 1}, "fill": "edge"}},
        "context": {"voxels": {"z": 6, "y": 6, "x": 6}},
        "writes": {
            "out": {
                "array": "s.zarr/smooth", "dtype": "uint16", "channels": [2], "select": {"c": 1}
            }
        },
        "roi": "b.ome.zarr/0",
    }  # fmt: skip
    change = {
        **shared,
        "function": "functions:change",
        "reads": {
            "now": {"array": "s.zarr/smooth", "select": {"c": 1}},
            "before": {"array": "s.zarr/smooth", "select": {"c": 1, "t": 0}},
        },
        "writes": {"change": {"array": "s.zarr/change", "dtype": "int32"}},
        "roi": "s.zarr/smooth",
    }
    project.write(("copy", copy), ("change", change))
    plan, _ = generate(project.pipeline)
    assert plan.tasks["change"].whole == {"copy"}
    run(project)
    floats = movie[:, 1].astype(np.float32)
    smooth = ndimage.gaussian_filter(floats, (0, 2, 2, 2), mode="nearest", truncate=3)
    expected = smooth.astype(np.uint16)
    found = project.read("s.zarr/smooth")
    np.testing.assert_array_equal(found[:, 1], expected)
    assert not found[:, 0].any()
    difference = expected.astype(np.int32) - expected[0]
    np.testing.assert_array_equal(project.read("s.zarr/change"), difference)


def test_one_channel_is_made_from_another_of_the_same_array(project: Project) -> None:
    """What is read is another channel than what is written: nothing of it is hidden."""
    values = np.random.default_rng(2).integers(0, 4000, (2, 16, 16, 16), np.uint16)
    project.functions("def add(raw):\n    return raw + 1\n")
    store(project, "a.ome.zarr", values, "czyx", [1, 0.5, PIXEL, PIXEL], 3)
    form = {
        "function": "functions:add",
        "call": "arrays",
        "reads": {"raw": {"array": "a.ome.zarr/0", "select": {"c": 0}}},
        "writes": {"out": {"array": "a.ome.zarr/0", "dtype": "uint16", "select": {"c": 1}}},
        "roi": "a.ome.zarr/0",
        "block_size": {"voxels": 8},
    }
    project.write(("add", form))
    run(project)
    np.testing.assert_array_equal(project.read("a.ome.zarr/0"), [values[0], values[0] + 1])


def test_500_points_in_time_are_500_blocks(project: Project) -> None:
    project.functions("def same(raw):\n    return raw\n")
    store(project, "m.ome.zarr", np.zeros((500, 2, 2, 8, 8), np.uint16), "tczyx", [1] * 5, 3)
    form = {
        "function": "functions:same",
        "call": "arrays",
        "reads": {"raw": "m.ome.zarr/0"},
        "writes": {"out": {"array": "o.zarr/0", "dtype": "uint16", "channels": [2]}},
        "roi": "m.ome.zarr/0",
        "block_size": {"t": 1, "y": 8, "x": 8},
    }
    plan, _ = generate(project.write(("same", form)))
    assert plan.tasks["same"].num_blocks == 500
    assert plan.tasks["same"].operation.written[0].chunks == (1, 2, 2, 8, 8)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"block_size": {"voxels": {"q": 1}}}, "block_size: there is no axis q to cut; known are "
         "t, z, y, x"),
        ({"reads": {"raw": {"array": "b.ome.zarr/0", "select": {"k": 0}}}},
         "reads.raw.select: b.ome.zarr/0 has no axis k; known are t, c, z, y, x"),
        ({"reads": {"raw": {"array": "b.ome.zarr/0", "select": {"c": 2}}}},
         "reads.raw.select.c: b.ome.zarr/0 has 2 of these, from 0 on"),
        ({"reads": {"raw": {"array": "b.ome.zarr/0", "select": {"z": 2}}}},
         "reads.raw: b.ome.zarr/0 has 3 axes to cut, the roi 4"),
    ],
)  # fmt: skip
def test_wrong_axes_are_named(
    project: Project, movie: NDArray[Any], change: dict[str, Any], problem: str
) -> None:
    form = {
        "function": "functions:change",
        "roi": "b.ome.zarr/0",
        "block_size": {"voxels": {"t": 1, "z": 16, "y": 32, "x": 41}},
        **change,
    }
    other = {"function": "functions:change", "roi": "b.ome.zarr/0", "block_size": {"t": 1}}
    project.write(("other", other), ("wrong", form))
    done = project.cli("check", "pipeline.yaml")
    assert f"pipeline.yaml: tasks.wrong.{problem}\n" in done.output, done.output


@pytest.mark.parametrize(
    ("declared", "hint"), [([], "[2]"), ([3], "[2]"), ([2, 2], "[2]"), ([2], None)]
)
def test_other_channels_than_are_declared_are_named(
    project: Project, stack: NDArray[Any], declared: list[int], hint: str | None
) -> None:
    project.functions("def same(raw):\n    return raw\n")
    form = {
        "function": "functions:same",
        "call": "arrays",
        "reads": {"raw": "a.ome.zarr/0"},
        "writes": {"out": {"array": "o.zarr/out", "dtype": "uint16", "channels": declared}},
        "roi": "a.ome.zarr/0",
        "block_size": {"voxels": [51, 70, 81]},
        "retries": 0,
    }
    project.write(("same", form))
    plan, _ = generate(project.pipeline)
    (job,) = plan.jobs("same")
    assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == (hint is not None)
    paths = RunPaths(project.folder / "blocks")
    failures = [f.message for f in read_failures(paths.failures("same", job.index))]
    said = f"; with channels: {hint} in pipeline.yaml it would fit"
    assert [text.endswith(said) for text in failures] == [True] * (hint is not None)


def test_regions_and_contexts_on_the_command_line_are_voxels(
    project: Project, stack: NDArray[Any]
) -> None:
    """A pilot in voxels of the first task's array: the same place in the coarser one."""
    project.write(
        level(1, "a.ome.zarr/0", "a.ome.zarr/1"), level(2, "a.ome.zarr/1", "a.ome.zarr/2")
    )
    pipeline = load_pipeline(project.pipeline)
    whole = make_plan(pipeline)
    some = pilot(pipeline, whole, Box((0, 0, 40), (20, 20, 81)))
    there = {task.task_id: np.argwhere(task.present).tolist() for task in some.tasks}
    assert there["level2"] == [[0, 0, 0], [0, 0, 1]]  # voxels 20 to 41 of the coarser array
    assert [0, 0, 2] in there["level1"]
    run(project)
    assert project.cli("reset", "blocks", "level2", "--roi", "0:9,0:9,33:41").exit_code == 0
    found = Judge(Plan.load(project.folder / "blocks"), project.folder / "blocks")
    task = found.plan.tasks["level2"]
    assert np.argwhere(~found.judge_all(task).done).tolist() == [[0, 0, 1]]


def test_a_context_is_checked_in_voxels(project: Project, stack: NDArray[Any]) -> None:
    form = {
        "function": "functions:denoise",
        "call": "arrays",
        "params": {"mode": "mirror"},
        "reads": {"raw": {"array": "a.ome.zarr/0", "fill": "reflect"}},
        "writes": {"smooth": {"array": "s.ome.zarr/0", "dtype": "float32", "channels": [2]}},
        "roi": "a.ome.zarr/0",
        "block_size": {"voxels": 32},
        "context": {"voxels": 6},
        "fit": "shrink",
    }
    project.write(("denoise", form))
    for context, verdict in (("6", "a context of 6 is enough"),
                             ("3", "a context of 3 is NOT enough")):  # fmt: skip
        done = project.cli("check-context", "pipeline.yaml", "denoise", "--context", context)
        assert verdict in " ".join(done.output.split()), done.output
        assert "the smallest that is enough for them is 6" in " ".join(done.output.split())
