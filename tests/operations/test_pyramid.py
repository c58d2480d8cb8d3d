"""Levels of images and labels: kernels by hand and against oracles, forms, and whole runs."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from project import Project, stamps
from yaozarrs import v04, v05

from snakemake_blocks.errors import SpecError
from snakemake_blocks.operations.pyramid import reduced
from snakemake_blocks.operations.registry import json_schema, load_pipeline

METHODS = ("mean", "mode", "max", "stride")


def rounded_mean(values: Sequence[Any]) -> int:
    """Return the mean of whole numbers, exactly, halves to even; Python's own way."""
    return round(Fraction(sum(map(int, values)), len(values)))


def most_frequent(values: Sequence[Any]) -> Any:
    """Return the smallest of the values that are there most often."""
    return min(values, key=lambda v: (-list(values).count(v), v))


ORACLES = {"mean": rounded_mean, "mode": most_frequent, "max": max, "stride": lambda v: v[0]}


def by_cells(fine: NDArray[Any], factors: Sequence[int], method: str) -> NDArray[Any]:
    """Return a level, cell by cell."""
    sides = [-(-n // f) for n, f in zip(fine.shape, factors, strict=True)]
    found = np.empty(sides, fine.dtype)
    for index in np.ndindex(*sides):
        cell = fine[tuple(slice(k * f, (k + 1) * f) for k, f in zip(index, factors, strict=True))]
        found[index] = ORACLES[method](cell.ravel().tolist())
    return found


def pyramid(raw: NDArray[Any], factors: Sequence[Sequence[int]], method: str) -> list[NDArray[Any]]:
    """Return all levels of a whole array, the image first."""
    return list(itertools.accumulate(factors, lambda x, f: reduced(x, f, method), initial=raw))


class TestReduced:
    @pytest.mark.parametrize(
        ("method", "values", "expected"),
        [
            ("mean", [[0, 1], [0, 1]], 0),  # 0.5 to the even 0
            ("mean", [[1, 2], [1, 2]], 2),  # 1.5 to the even 2
            ("mean", [[2, 3], [2, 3]], 2),
            ("mean", [[-1, -2], [-1, -2]], -2),
            ("mean", [[-1, 0], [-1, 0]], 0),
            ("mean", [[1, 0], [0, 0]], 0),
            ("mean", [[1, 1], [1, 0]], 1),
            ("mode", [[7, 3], [3, 7]], 3),
            ("mode", [[7, 7], [3, 1]], 7),
            ("mode", [[0, 9], [9, 0]], 0),
            ("max", [[-4, -2], [-3, -9]], -2),
            ("stride", [[5, 1], [2, 3]], 5),
        ],
    )
    def test_one_cell(self, method: str, values: Any, expected: int) -> None:
        found = reduced(np.array(values, np.int16), (2, 2), method)
        assert found.dtype == np.int16 and found.tolist() == [[expected]]

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "uint32", "int64", "uint64"])
    def test_a_mean_does_not_overflow(self, dtype: str) -> None:
        most, least = np.iinfo(dtype).max, np.iinfo(dtype).min
        assert (
            reduced(np.full((4, 4, 4), most, dtype), (2, 2, 2)).tolist() == [[[most] * 2] * 2] * 2
        )
        assert (reduced(np.full((5, 7), least, dtype), (3, 5)) == least).all()

    def test_what_is_left_at_the_end_is_a_cell_of_its_own(self) -> None:
        assert reduced(np.array([1, 1, 1, 8, 9], np.uint8), (3,)).tolist() == [1, 8]
        assert reduced(np.array([[1, 3, 9]], np.uint8), (2, 2)).tolist() == [[2, 9]]

    def test_axes_before_stay(self) -> None:
        fine = np.random.default_rng(0).integers(0, 99, (3, 2, 5, 6), np.uint8)
        found = reduced(fine, (2, 3), "max")
        assert found.shape == (3, 2, 3, 2)
        for t, c in np.ndindex(3, 2):
            np.testing.assert_array_equal(found[t, c], by_cells(fine[t, c], (2, 3), "max"))

    @pytest.mark.parametrize("method", METHODS)
    def test_bool_stays_bool(self, method: str) -> None:
        fine = np.array([[True, True], [True, False]])
        found = reduced(fine, (2, 2), method)
        assert found.dtype == bool and found.all()

    def test_a_mean_of_floats_is_summed_in_float64(self) -> None:
        fine = np.array([1e8, 1, -1e8, 1], np.float32)
        assert reduced(fine, (4,)).tolist() == [0.5]
        fine = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
        cells = fine.reshape(3, 2, 4, 2).astype(np.float64).mean(axis=(1, 3)).astype(np.float32)
        np.testing.assert_array_equal(reduced(fine, (2, 2)), cells)
        assert np.isnan(reduced(np.array([1, np.nan], np.float16), (2,)))

    def test_the_order_of_bytes_is_the_machine_s(self) -> None:
        fine = np.array([300, 500], ">u2")
        found = reduced(fine, (2,))
        assert found.dtype == np.uint16 and found.tolist() == [400]

    def test_slabs_of_a_large_array_join(self) -> None:
        fine = np.random.default_rng(1).integers(0, 2**16, (41, 300, 301), np.uint16)
        cells = np.pad(fine.astype(float), [(0, 1), (0, 0), (0, 1)], constant_values=np.nan)
        means = np.nanmean(cells.reshape(21, 2, 150, 2, 151, 2), axis=(1, 3, 5))
        np.testing.assert_array_equal(reduced(fine, (2, 2, 2)), np.rint(means).astype(np.uint16))

    def test_a_mode_is_that_of_scipy(self) -> None:
        from scipy import stats

        fine = np.random.default_rng(0).integers(0, 4, (8, 9, 10), np.uint32)
        cells = fine.reshape(4, 2, 3, 3, 5, 2).transpose(0, 2, 4, 1, 3, 5).reshape(4, 3, 5, 12)
        found = reduced(fine, (2, 3, 2), "mode")
        np.testing.assert_array_equal(found, stats.mode(cells, axis=-1).mode)

    @pytest.mark.parametrize("method", METHODS)
    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_is_what_cells_are_one_by_one(self, method: str, data: st.DataObject) -> None:
        ndim = data.draw(st.integers(1, 3))
        factors = data.draw(st.tuples(*[st.integers(1, 4)] * ndim))
        shape = data.draw(st.tuples(*[st.integers(1, 9)] * ndim))
        kinds = hnp.integer_dtypes() | hnp.unsigned_integer_dtypes()
        dtype = data.draw(kinds)
        fine = data.draw(hnp.arrays(dtype, shape))
        if method == "mode":
            fine = (fine % 3).astype(dtype)
        found = reduced(fine, factors, method)
        assert found.dtype == dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, by_cells(fine, factors, method))


def image(
    project: Project,
    raw: NDArray[Any],
    *,
    store: str = "image.ome.zarr",
    name: str = "0",
    zarr_format: int = 3,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
    scale: Sequence[float] = (0.04, 0.01, 0.01),
    axes: str = "zyx",
) -> None:
    """Store an OME-Zarr image of one level."""
    group = zarr.open_group(project.folder / store, mode="a", zarr_format=zarr_format)
    keys: Any = {"name": "v2" if zarr_format == 2 else "default", "separator": "/"}
    group.create_array(
        name, data=raw, chunks=tuple(chunks), shards=tuple(shards) if shards else None,
        chunk_key_encoding=keys, dimension_names=list(axes) if zarr_format == 3 else None,
    )  # fmt: skip
    kinds = {"t": {"type": "time"}, "c": {"type": "channel"}}
    space = {"type": "space", "unit": "micrometer"}
    sizes = [*[1.0] * (len(axes) - len(scale)), *scale]
    entry = {
        "axes": [{"name": n, **kinds.get(n, space)} for n in axes],
        "datasets": [
            {"path": name, "coordinateTransformations": [{"type": "scale", "scale": sizes}]}
        ],
    }
    if zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry]}
    else:
        group.attrs["multiscales"] = [{"version": "0.4", **entry}]


def form(path: str = "image.ome.zarr/0", **more: Any) -> dict[str, Any]:
    return {"use": "pyramid", "reads": {"image": path}, **more}


def entries(project: Project, store: str = "image.ome.zarr") -> list[Any]:
    attributes: Any = dict(zarr.open_group(project.folder / store, mode="r").attrs)
    (found,) = attributes.get("ome", attributes)["multiscales"]
    return list(found["datasets"])


def check(
    project: Project, levels: Sequence[NDArray[Any]], store: str = "image.ome.zarr", style: str = ""
) -> None:
    """Compare all levels below an image with those of the whole array."""
    for n, level in enumerate(levels):
        found = project.read(f"{store}/{style}{n}")
        assert found.dtype == level.dtype and found.shape == level.shape
        assert found.tobytes() == level.tobytes(), n


ODD = (51, 135, 161)
ODD_FACTORS = [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
ODD_SHAPES = [ODD, (51, 68, 81), (51, 34, 41), (26, 17, 21), (13, 9, 11)]


class TestRuns:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("method", METHODS)
    def test_an_odd_anisotropic_volume(
        self, project: Project, zarr_format: int, method: str
    ) -> None:
        raw = np.random.default_rng(1).integers(0, 60000, ODD, dtype=np.uint16)
        raw //= 1 if method != "mode" else 20000
        image(project, raw, zarr_format=zarr_format, chunks=(17, 64, 64))
        project.write(("levels", form(params={"method": method})))
        plan = project.work()
        assert list(plan.tasks) == [f"levels_{n}" for n in (1, 2, 3, 4)]
        levels = pyramid(raw, ODD_FACTORS, method)
        assert [level.shape for level in levels] == ODD_SHAPES
        check(project, levels)
        attributes: Any = dict(zarr.open_group(project.folder / "image.ome.zarr", mode="r").attrs)
        if zarr_format == 3:
            v05.Image.model_validate(attributes["ome"])
        else:
            v04.Image.model_validate(attributes)
        found = entries(project)
        assert [d["path"] for d in found] == list("01234")
        transformations = [d["coordinateTransformations"] for d in found]
        assert [t[0]["scale"] for t in transformations] == [
            [0.04, 0.01, 0.01], [0.04, 0.02, 0.02], [0.04, 0.04, 0.04], [0.08] * 3, [0.16] * 3,
        ]  # fmt: skip
        assert transformations[3][1]["translation"] == [0.02, 0.035, 0.035]
        last = zarr.open_array(project.folder / "image.ome.zarr/4")
        assert last.chunks == last.shape and last.metadata.zarr_format == zarr_format

    @pytest.mark.parametrize("size", [6, [4, 30, 8], {"z": 10, "y": 8, "x": 64}, 1000])
    @pytest.mark.parametrize("method", ["mean", "mode"])
    def test_the_size_of_blocks_changes_nothing(
        self, project: Project, size: Any, method: str
    ) -> None:
        raw = np.random.default_rng(2).integers(0, 4, (11, 17, 15), dtype=np.uint8)
        image(project, raw, chunks=(4, 8, 8), scale=(1, 1, 1))
        params = {"method": method, "levels": 2}
        project.write(("levels", form(params=params, block_size={"voxels": size})))
        project.work()
        check(project, pyramid(raw, [(2, 2, 2)] * 2, method))

    @given(data=st.data())
    @settings(
        max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_factors_chunks_and_blocks(self, project: Project, data: st.DataObject) -> None:
        for name in ("blocks", "image.ome.zarr"):
            shutil.rmtree(project.folder / name, ignore_errors=True)
        factors = data.draw(
            st.lists(st.tuples(*[st.integers(1, 3)] * 2), min_size=1, max_size=3).filter(
                lambda levels: all(math.prod(f) > 1 for f in levels)
            )
        )
        shape = data.draw(st.tuples(st.integers(8, 20), st.integers(8, 20)))
        chunks = data.draw(st.tuples(st.integers(4, 9), st.integers(4, 9)))
        blocks = data.draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
        method = data.draw(st.sampled_from(METHODS))
        raw = np.random.default_rng(3).integers(0, 5, shape, dtype=np.uint8)
        image(project, raw, chunks=chunks, scale=(1, 1), axes="yx")
        params = {"method": method, "factors": [list(f) for f in factors]}
        more = {"block_size": {"voxels": [6 * b for b in blocks]}} if blocks else {}
        project.write(("levels", form(params=params, **more)))
        project.work()
        check(project, pyramid(raw, factors, method))

    def test_channels_and_time_stay(self, project: Project) -> None:
        raw = np.random.default_rng(4).integers(0, 999, (3, 2, 9, 33, 20), np.uint16)
        image(project, raw, chunks=(1, 1, 8, 16, 16), scale=(1, 1, 1), axes="tczyx")
        project.write(("levels", form()))
        project.work()
        check(project, pyramid(raw, [(2, 2, 2)] * 2, "mean"))
        assert project.read("image.ome.zarr/2").shape == (3, 2, 3, 9, 5)
        assert entries(project)[2]["coordinateTransformations"][0]["scale"] == [1, 1, 4, 4, 4]
        assert zarr.open_array(project.folder / "image.ome.zarr/1").chunks == (1, 1, 5, 16, 10)

    def test_blocks_of_points_in_time(self, project: Project) -> None:
        raw = np.random.default_rng(4).integers(0, 999, (3, 2, 9, 33, 20), np.uint16)
        image(project, raw, chunks=(1, 1, 8, 16, 16), scale=(1, 1, 1), axes="tczyx")
        size = {"t": 1, "c": 1, "z": 8, "y": 32, "x": 32}
        project.write(("levels", form(block_size={"voxels": size})))
        plan = project.work()
        assert plan.tasks["levels_1"].num_blocks == 3 * 2 * 2 * 2
        check(project, pyramid(raw, [(2, 2, 2)] * 2, "mean"))

    def test_two_dimensions_in_the_style_of_n5(self, project: Project) -> None:
        raw = np.random.default_rng(5).normal(size=(70, 50)).astype(np.float32)
        image(project, raw, name="s0", chunks=(16, 16), scale=(1, 1), axes="yx")
        project.write(("levels", form("image.ome.zarr/s0")))
        project.work()
        check(project, pyramid(raw, [(2, 2)] * 3, "mean"), style="s")
        assert [d["path"] for d in entries(project)] == ["s0", "s1", "s2", "s3"]

    def test_from_a_level_on_and_an_offset(self, project: Project) -> None:
        raw = np.random.default_rng(6).integers(0, 99, (31, 17), np.int16)
        project.array("s.zarr/2", raw, chunks=(8, 8), offset=[-5, 30], voxel_size=[3, 3])
        project.write(("levels", form("s.zarr/2", params={"levels": 2, "factors": 2})))
        plan = project.work()
        assert list(plan.tasks) == ["levels_3", "levels_4"]
        want = pyramid(raw, [(2, 2)] * 2, "mean")
        np.testing.assert_array_equal(project.read("s.zarr/4"), want[2])
        attributes = dict(zarr.open_array(project.folder / "s.zarr/4").attrs)
        assert (attributes["offset"], attributes["voxel_size"]) == ([-5, 30], [12, 12])

    def test_into_another_group_stored_in_another_way(self, project: Project) -> None:
        raw = np.random.default_rng(7).integers(0, 99, (64, 64), np.uint8)
        project.array("s.zarr/raw", raw, chunks=(32, 32), voxel_size=[1, 1])
        write = {"array": "s.zarr/small", "chunks": 4, "shards": "auto", "compressor": "gzip"}
        project.write(("levels", form("s.zarr/raw", writes={"levels": write})))
        project.work()
        levels = pyramid(raw, [(2, 2)] * 4, "mean")
        for n in (1, 2, 3, 4):
            array = zarr.open_array(project.folder / f"s.zarr/small/{n}")
            np.testing.assert_array_equal(array[...], levels[n])
            assert array.chunks == (4, 4) and array.shards is not None
            assert type(array.compressors[0]).__name__ == "GzipCodec"

    def test_shards_are_those_of_the_image(self, project: Project) -> None:
        raw = np.random.default_rng(8).integers(0, 99, (70, 64), np.uint8)
        image(project, raw, chunks=(8, 8), shards=(32, 32), scale=(1, 1), axes="yx")
        project.write(("levels", form()))
        project.work()
        check(project, pyramid(raw, [(2, 2)] * 4, "mean"))
        arrays = [zarr.open_array(project.folder / f"image.ome.zarr/{n}") for n in (1, 2, 3, 4)]
        assert [a.shards for a in arrays] == [(32, 32), (24, 16), (16, 8), (5, 4)]
        assert [a.chunks for a in arrays] == [(8, 8), (8, 8), (8, 8), (5, 4)]

    def test_labels_by_name_are_the_most_frequent(self, project: Project) -> None:
        raw = np.random.default_rng(9).integers(0, 3, (40, 40), np.uint32)
        project.array("s.zarr/0", raw, chunks=(16, 16), voxel_size=[1, 1])
        project.write(("levels", {"use": "pyramid", "reads": {"labels": "s.zarr/0"}}))
        project.work()
        check(project, pyramid(raw, [(2, 2)] * 2, "mode"), "s.zarr")

    def test_a_level_is_read_by_an_operation_and_the_image_is_written(
        self, project: Project
    ) -> None:
        from scipy import ndimage

        raw = np.random.default_rng(10).random((40, 40)) > 0.6
        project.array("s.zarr/raw", raw, chunks=(16, 16), voxel_size=[1, 1])
        project.functions("""
            def double(raw):
                return raw.astype("uint8") * 2
        """)
        double = {
            "function": "functions:double",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw"},
            "writes": {"out": {"array": "t.zarr/0", "dtype": "uint8"}},
            "roi": "s.zarr/raw",
            "block_size": {"voxels": 16},
            "fit": "shrink",
        }
        cells = {
            "use": "label",
            "reads": {"mask": "t.zarr/1"},
            "writes": {"labels": "t.zarr/cells"},
            "block_size": {"voxels": 8},
        }
        levels = form("t.zarr/0", params={"method": "max"})
        project.write(("cells", cells), ("levels", levels), ("double", double))
        project.work()
        want = pyramid((raw * 2).astype(np.uint8), [(2, 2)] * 2, "max")
        check(project, want, "t.zarr")
        np.testing.assert_array_equal(project.read("t.zarr/cells"), ndimage.label(want[1])[0])

    def test_a_mask_leaves_out_blocks_of_all_levels(self, project: Project) -> None:
        raw = np.full((64, 64), 7, np.uint8)
        project.array("s.zarr/0", raw, chunks=(8, 8), voxel_size=[1, 1])
        mask = np.zeros((2, 2), np.uint8)
        mask[0, 0] = 1
        project.array("m.zarr/mask", mask, voxel_size=[32, 32])
        project.write(("levels", form("s.zarr/0", mask="m.zarr/mask", params={"levels": 2})))
        plan = project.work()
        assert [t.num_blocks for t in plan.tasks.values()] == [1, 1]
        assert project.read("s.zarr/1")[:16, :16].all()
        assert project.read("s.zarr/1").sum() == 7 * 16 * 16

    def test_others_wait_for_the_last_level(self, project: Project) -> None:
        project.array("s.zarr/0", np.zeros((40, 40), np.uint8), chunks=(16, 16), voxel_size=[1, 1])
        project.functions("def nothing():\n    pass\n")
        then = {
            "function": "functions:nothing",
            "call": "once",
            "after": ["levels"],
            "tables": {"rows": {"columns": {"a": "int64"}}},
        }
        project.write(("then", then), ("levels", form("s.zarr/0")))
        tasks = {task.task_id: task for task in load_pipeline(project.pipeline).tasks}
        assert [up.task for up in tasks["then"].after] == ["levels_2"]

    def test_steps_take_keys_of_tasks(self, project: Project) -> None:
        project.array("s.zarr/0", np.zeros((40, 40), np.uint8), chunks=(16, 16), voxel_size=[1, 1])
        steps = {"1": {"workers": 2, "resources": {"mem_mb": 500}}}
        project.write(("levels", form("s.zarr/0", steps=steps)))
        plan = project.work()
        assert [task.budget.workers for task in plan.tasks.values()] == [2, 1]


def chunk_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what changes of every chunk when it is written."""
    files = (p for p in folder.rglob("c/**/*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


class TestOneChange:
    def test_only_what_lies_above_is_made_again(self, project: Project) -> None:
        project.array(
            "s.zarr/raw", np.zeros((256, 128), np.uint8), chunks=(16, 16), voxel_size=[1, 1]
        )
        project.functions("""
            import os

            def copy(raw, block):
                return raw + (5 if os.path.exists("changed") else 0)
        """)
        copy = {
            "function": "functions:copy",
            "call": "arrays",
            "reads": {"raw": "s.zarr/raw"},
            "writes": {"out": {"array": "t.zarr/0", "dtype": "uint8"}},
            "roi": "s.zarr/raw",
            "block_size": {"voxels": 16},
        }
        project.write(("copy", copy), ("levels", form("t.zarr/0")))
        plan = project.work()
        names = [name for name in plan.tasks if name != "copy"]
        assert names == [f"levels_{n}" for n in (1, 2, 3, 4)]
        before = {name: stamps(project.records(name)) for name in names}
        files = {n: chunk_files(project.folder / f"t.zarr/{n}") for n in range(1, 5)}
        (project.folder / "changed").touch()
        done = project.cli("reset", str(project.folder / "blocks"), "copy", "--roi", "80:96,48:64")
        assert done.exit_code == 0, done.output
        project.work()
        for name, known in before.items():
            now = stamps(project.records(name))
            assert sum(now[index] != stamp for index, stamp in known.items()) == 1, name
        for n, known in files.items():
            now = chunk_files(project.folder / f"t.zarr/{n}")
            again = [key.split("/")[1:] for key, was in known.items() if now[key] != was]
            assert len(again) >= 1 and all(len(set(axis)) <= 2 for axis in zip(*again, strict=True))
        check(project, pyramid(project.read("t.zarr/0"), [(2, 2)] * 4, "mean"), "t.zarr")
        assert project.read("t.zarr/0").any()


SPACE = (40, 40)
WRONG = [
    ({"reads": {"image": {"array": "s.zarr/0", "fill": 0}}}, r"reads\.image\.fill: has no meaning"),
    ({"reads": {"image": "s.zarr/0", "labels": "s.zarr/0"}}, "reads: .*give one of the two"),
    ({"reads": {}}, "reads: pyramid reads an image or labels"),
    ({"reads": {"raw": "s.zarr/0"}}, "pyramid has reads called image or labels, not raw"),
    ({"reads": {"image": "s.zarr/raw"}}, r"writes: s\.zarr/raw is not called like a level"),
    ({"reads": {"image": "s.zarr/labels/a/0"}}, r"params\.method: .*give method: mode"),
    ({"reads": {"image": "s.zarr/none"}}, "there is no array"),
    ({"roi": "s.zarr/0"}, "roi: levels are made of all of the image"),
    ({"params": {"method": "median"}}, r"params\.method"),
    ({"params": {"levels": 0}}, r"params\.levels: must be at least 1"),
    ({"params": {"levels": "all"}}, r"params\.levels: must be auto, or"),
    ({"params": {"levels": 12}}, r"params\.levels: only 6 can be made"),
    ({"params": {"factors": "two"}}, r"params\.factors: must be a whole number, one per"),
    ({"params": {"factors": [2, 2, 2]}}, "3 factors for 2 axes of space"),
    ({"params": {"factors": [[2, 2], [2]]}}, "1 factors for 2 axes of space"),
    ({"params": {"factors": 1}}, r"params\.factors: all are 1"),
    ({"params": {"factors": [[2, 2]], "levels": 2}}, "1 levels by factors, 2 by levels"),
    ({"block_size": {"voxels": 15}}, r"block_size: \[15, 15\] voxels cut cells of \[2, 2\]"),
    ({"writes": {"levels": {"dtype": "float32"}}}, r"writes\.levels\.dtype: is kept, uint8"),
    ({"writes": {"levels": {"channels": [2]}}}, r"writes\.levels\.channels: is told by the image"),
    ({"writes": {"levels": {"chunks": {"z": 2}}}}, r"chunks\.z: there is no axis z"),
    ({"writes": {"levels": {"chunks": [1, 2, 3]}}}, "3 sizes for 2 axes of space"),
    ({"writes": {"out": "s.zarr"}}, "pyramid has writes called levels, not out"),
    ({"steps": {"1": {"block_size": 4}}}, r"steps\.1\.block_size: is told by the operation"),
    ({"steps": {"9": {"workers": 2}}}, r"steps\.9: there is no such step"),
]


class TestForms:
    @pytest.mark.parametrize(("change", "reason"), WRONG, ids=lambda v: str(v)[:50])
    def test_wrong_ones_are_refused(
        self, project: Project, change: dict[str, Any], reason: str
    ) -> None:
        for name in ("0", "raw", "labels/a/0"):
            values = np.zeros(SPACE, np.uint8)
            project.array(f"s.zarr/{name}", values, chunks=(16, 16), voxel_size=[1, 1])
        project.write(("levels", {**form("s.zarr/0"), **change}))
        with pytest.raises(SpecError, match=reason):
            load_pipeline(project.pipeline)

    def test_complex_numbers_have_no_order(self, project: Project) -> None:
        project.array("s.zarr/0", np.zeros(SPACE, np.complex64), chunks=(16, 16), voxel_size=[1, 1])
        project.write(("levels", form("s.zarr/0", params={"method": "max"})))
        with pytest.raises(SpecError, match="complex64 has no order for max"):
            load_pipeline(project.pipeline)

    def test_a_level_that_is_there_and_smaller_is_not_overwritten(self, project: Project) -> None:
        project.array("s.zarr/0", np.zeros((41, 41), np.uint8), chunks=(16, 16), voxel_size=[1, 1])
        project.array("s.zarr/1", np.zeros((20, 20), np.uint8), voxel_size=[2, 2])
        project.write(("levels", form("s.zarr/0")))
        with pytest.raises(SpecError, match=r"s\.zarr/1 covers .* less than the roi"):
            load_pipeline(project.pipeline)

    def test_channels_that_are_cut_behind_time_that_is_not(self, project: Project) -> None:
        raw = np.zeros((2, 2, 20, 20), np.uint8)
        image(project, raw, chunks=(1, 1, 8, 8), scale=(1, 1), axes="tcyx")
        size = {"voxels": {"c": 1, "y": 8, "x": 8}}
        project.write(("levels", form(block_size=size)))
        with pytest.raises(SpecError, match="cuts along c, and axes before it stay whole"):
            load_pipeline(project.pipeline)

    def test_an_image_of_one_chunk_gets_one_level(self, project: Project) -> None:
        project.array("s.zarr/0", np.zeros((9, 9), np.uint8), voxel_size=[1, 1])
        project.write(("levels", form("s.zarr/0")))
        assert [task.task_id for task in load_pipeline(project.pipeline).tasks] == ["levels_1"]

    def test_the_schema_knows_it(self) -> None:
        assert "PyramidModel" in json_schema()["$defs"]


@pytest.mark.e2e
def test_a_real_run(project: Project) -> None:
    raw = np.random.default_rng(11).integers(0, 255, ODD, dtype=np.uint8)
    image(project, raw, chunks=(17, 32, 32))
    project.write(("levels", form()))
    done = project.blocks("run", "pipeline.yaml", "--cores", "2")
    assert done.returncode == 0, done.stderr
    check(project, pyramid(raw, ODD_FACTORS, "mean"))
