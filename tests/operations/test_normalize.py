"""Percentiles of a whole volume, exactly as numpy has them, and what lies between as 0 to 1."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from project import Project, stamps

from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.channels import as_seen, channels_first
from snakemake_blocks.operations.normalize import counts, limits, narrowed, normalized, summed

Volume = NDArray[Any]
KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
KINDS += ["float16", "float32", "float64"]


def in_blocks(
    image: Volume,
    size: Sequence[int],
    percents: Sequence[float],
    mask: Volume | None = None,
    order: Any = None,
    channels: int | None = None,
) -> Volume:
    """Return the limits of every channel as the tasks find them, blocks in some order."""
    places = range(1, image.ndim)
    many = len(image) if channels is None else channels
    grid = [range(-(-n // w)) for n, w in zip(image.shape[1:], size, strict=True)]
    blocks = [
        tuple(slice(k * w, k * w + w) for k, w in zip(index, size, strict=True))
        for index in itertools.product(*grid)
    ]
    if order is not None:
        order.shuffle(blocks)
    near, bits = None, 8 * image.dtype.itemsize
    for known in range(0, bits, 16):
        more = {"mask_places": [p - 1 for p in places], "near": near, "known": known}
        parts = [
            pa.table(
                counts(image[:, *at], places, many, mask=None if mask is None else mask[at], **more)
            )
            for at in blocks
        ]
        table = pa.table(summed(pa.concat_tables(parts)))
        if known + 16 < bits:
            near = pa.table(narrowed(table, percents, many, near))
    found = limits(table, percents, many, str(image.dtype), near)
    return np.array([found["lower"], found["upper"]])


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Volume, list[int]]:
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=4, max_side=6))
    values: dict[str, Any] = {}
    if kind.kind == "f":
        values = {"allow_nan": False, "allow_infinity": False}
    elements = arrays.from_dtype(kind, **values)
    image = draw(arrays.arrays(kind, shape, elements=elements))
    return image, [draw(st.integers(1, n)) for n in shape[1:]]


PERCENTS = st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted)


@given(volumes(), PERCENTS, st.randoms(use_true_random=False))
def test_limits_are_the_percentiles_of_numpy(
    volume: tuple[Volume, list[int]], percents: list[float], random: Any
) -> None:
    image, size = volume
    plain = image.reshape(len(image), -1).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.percentile(plain, percents, axis=1)
    if np.isfinite(wanted).all():
        np.testing.assert_array_equal(in_blocks(image, size, percents, order=random), wanted)


@given(volumes(), PERCENTS)
def test_all_channels_as_one(volume: tuple[Volume, list[int]], percents: list[float]) -> None:
    image, size = volume
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.percentile(image.astype(np.float64), percents)
    if np.isfinite(wanted).all():
        found = in_blocks(image, size, percents, channels=1)
        np.testing.assert_array_equal(found[:, 0], wanted)


@given(volumes(), st.integers(0, 2**32 - 1))
def test_only_what_a_mask_has_is_counted(volume: tuple[Volume, list[int]], seed: int) -> None:
    image, size = volume
    mask = np.random.default_rng(seed).integers(0, 2, image.shape[1:], np.uint8)
    mask.ravel()[0] = 1
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = np.percentile(image[:, mask > 0].astype(np.float64), [10, 70], axis=1)
    if np.isfinite(wanted).all():
        np.testing.assert_array_equal(in_blocks(image, size, [10, 70], mask), wanted)


class TestLimits:
    def test_by_hand(self) -> None:
        image = np.array([[5, 1, 2, 2]], np.uint8)
        rows = counts(image, (1,), 1)
        assert {name: values.tolist() for name, values in rows.items()} == {
            "channel": [0, 0, 0],
            "key": [1, 2, 5],
            "count": [1, 2, 1],
        }
        assert in_blocks(image, (3,), [0, 50]).tolist() == [[1], [2]]
        assert in_blocks(image, (3,), [50, 100]).tolist() == [[2], [5]]
        assert in_blocks(image, (3,), [25, 75]).tolist() == [[1.75], [2.75]]

    def test_many_values_that_differ_in_their_last_bits_alone(self) -> None:
        low = np.float64(1)
        image = np.array([[low + k * 2**-52 for k in range(100)]])
        wanted = np.percentile(image, [1, 99.8], axis=1)
        np.testing.assert_array_equal(in_blocks(image, (7,), [1, 99.8]), wanted)

    def test_values_that_are_no_numbers_are_left_out(self) -> None:
        image = np.array([[np.nan, 3, -1, np.nan, 7]], np.float32)
        assert in_blocks(image, (2,), [0, 100]).tolist() == [[-1], [7]]

    def test_infinite_limits_are_refused(self) -> None:
        image = np.array([[np.inf, 3, -1, np.inf]], np.float32)
        assert in_blocks(image, (2,), [0, 25]).tolist() == [[-1], [2]]
        with pytest.raises(InputError, match="percentile 90 of the image is not finite"):
            in_blocks(image, (2,), [0, 90])

    @pytest.mark.parametrize("channels", [1, 2])
    def test_without_values_there_are_no_percentiles(self, channels: int) -> None:
        image = np.full((channels, 4), np.nan, np.float16)
        which = "channel 0 of the image" if channels > 1 else "the image"
        with pytest.raises(InputError, match=f"{which} has no values, so it has no percentiles"):
            in_blocks(image, (2,), [1, 99])

    def test_an_image_that_changed_is_told(self) -> None:
        image = np.arange(4, dtype=np.float32)[None]
        table = pa.table(summed(pa.table(counts(image, (1,), 1))))
        near = pa.table(narrowed(table, [0, 100], 1))
        again = pa.table(counts(image[:, :1] + 100, (1,), 1, 16, near=near))
        with pytest.raises(InputError, match="fewer values than were counted before"):
            limits(again, [0, 100], 1, "float32", near)


def at(*pairs: tuple[float, float]) -> pa.Table:
    lower, upper = zip(*pairs, strict=True)
    return pa.table({"lower": list(map(float, lower)), "upper": list(map(float, upper))})


class TestNormalized:
    def test_by_hand(self) -> None:
        image = np.array([0, 10, 15, 20, 30], np.uint16)
        found = normalized(image, at((10, 20)), (0,), "float32")
        assert (found.dtype, found.tolist()) == (np.float32, [0, 0, 0.5, 1, 1])
        found = normalized(image, at((10, 20)), (0,), "float32", clip=False)
        assert found.tolist() == [-1, 0, 0.5, 1, 2]
        found = normalized(image, at((10, 20)), (0,), "uint8")
        assert (found.dtype, found.tolist()) == (np.uint8, [0, 0, 128, 255, 255])
        assert normalized(image, at((10, 20)), (0,), "uint16").max() == 65535

    @pytest.mark.parametrize("clip", [True, False])
    def test_limits_that_are_one_value(self, clip: bool) -> None:
        image = np.array([0, 5, 6, np.nan])
        found = normalized(image, at((5, 5)), (0,), "float32", clip=clip)
        np.testing.assert_array_equal(found, [0, 0, 1, np.nan])

    def test_what_is_no_number_stays_none(self) -> None:
        image = np.array([1, np.nan], np.float32)
        assert np.isnan(normalized(image, at((0, 1)), (0,), "float32")[1])
        assert normalized(image, at((0, 1)), (0,), "uint8").tolist() == [255, 0]

    @pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
    def test_large_blocks_are_looked_up(self, kind: str) -> None:
        bounds = np.iinfo(kind)
        image = np.random.default_rng(0).integers(bounds.min, bounds.max, 70_000).astype(kind)
        found = normalized(image, at((-20, 90)), (0,), "float32")
        wanted = np.clip((image.astype(float) + 20) / 110, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(found, wanted)

    def test_channels_between_axes_that_are_cut(self) -> None:
        image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        found = normalized(image, at((0, 1), (0, 10), (0, 100)), (0, 2), "float64", clip=False)
        np.testing.assert_allclose(found, image / np.array([1, 10, 100])[:, None])


@given(arrays.array_shapes(min_dims=1, max_dims=5, max_side=4), st.randoms())
def test_channels_come_first_and_go_back(shape: tuple[int, ...], random: Any) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    places = sorted(random.sample(range(len(shape)), random.randint(1, len(shape))))
    found = as_seen(channels_first(values, places), shape, places)
    np.testing.assert_array_equal(found, values)


RGB = {"axis_names": ["c", "y", "x"], "types": ["channel", "space", "space"]}
RGB |= {"voxel_size": [2, 2], "offset": [4, 0]}
FLAT = {"axis_names": ["y", "x"], "voxel_size": [2, 2], "offset": [4, 0]}


def form(**more: Any) -> dict[str, Any]:
    return {
        "use": "normalize",
        "reads": {"image": "s.zarr/raw"},
        "writes": {"image": "s.zarr/out"},
        "block_size": {"voxels": 8},
        "blocks_per_job": 12,
        **more,
    }


def wanted(raw: Volume, percents: Sequence[float] = (1, 99.8), axis: Any = None) -> Volume:
    low, high = np.percentile(raw.astype(float), percents, axis=axis, keepdims=True)
    return np.clip((raw - low) / (high - low), 0, 1).astype(np.float32)


class TestTasks:
    def test_normalize_a_volume(self, project: Project) -> None:
        random = np.random.default_rng(0)
        raw = random.integers(0, 9999, (10, 20, 25)).astype(np.uint16)
        project.array("s.zarr/raw", raw, chunks=(8, 8, 8))
        project.write(("n", form()))
        plan = project.work()
        assert list(plan.tasks) == ["n_count_map", "n_count", "n_limits", "n_image"]
        found = project.read("s.zarr/out")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted(raw))

    @pytest.mark.parametrize("kind", ["int8", "float16", "float32", "int32", "float64", "int64"])
    def test_types(self, project: Project, kind: str) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (20, 25)).clip(-128, 127).astype(kind)
        project.array("s.zarr/raw", raw, chunks=(8, 8))
        project.write(("n", form(params={"lower": 5, "upper": 90})))
        plan = project.work()
        assert ("n_near_2" in plan.tasks) == (raw.dtype.itemsize > 2)
        assert ("n_count_4" in plan.tasks) == (raw.dtype.itemsize == 8)
        np.testing.assert_array_equal(project.read("s.zarr/out"), wanted(raw, (5, 90)))

    @pytest.mark.parametrize(
        "more",
        [
            {"block_size": {"voxels": [7, 30]}},
            {"blocks_per_job": [2, 1], "workers": 2},
            {"steps": {"image": {"block_size": {"voxels": 16}}, "count": {"blocks_per_job": 2}}},
        ],
    )
    def test_any_way_gives_the_same(self, project: Project, more: dict[str, Any]) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (20, 25)).astype(np.float32)
        project.array("s.zarr/raw", raw, chunks=(8, 8))
        project.write(("n", form(**more)))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/out"), wanted(raw))

    @pytest.mark.parametrize("is_each", [True, False])
    def test_channels(self, project: Project, is_each: bool) -> None:
        raw = np.random.default_rng(0).normal([[[0]], [[50]]], [[[1]], [[9]]], (2, 20, 25))
        project.array("s.zarr/raw", raw.astype(np.float32), chunks=(1, 8, 8), **RGB)
        tables = {"limits": {"parquet": "limits.parquet"}}
        project.write(("n", form(params={"per_channel": is_each}, tables=tables)))
        project.work()
        axis = (1, 2) if is_each else None
        right = wanted(raw.astype(np.float32), axis=axis)
        np.testing.assert_array_equal(project.read("s.zarr/out"), right)
        rows = pa.parquet.read_table(project.folder / "limits.parquet").to_pydict()
        assert rows["channel"] == ([0, 1] if is_each else [0])

    def test_one_channel_of_an_image(self, project: Project) -> None:
        raw = np.random.default_rng(0).integers(0, 255, (2, 20, 25)).astype(np.uint8)
        project.array("s.zarr/raw", raw, chunks=(1, 8, 8), **RGB)
        reads = {"image": {"array": "s.zarr/raw", "select": {"c": 1}}}
        project.write(("n", form(reads=reads)))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/out"), wanted(raw[1]))

    def test_frames_of_a_movie_are_cut(self, project: Project) -> None:
        raw = np.random.default_rng(0).integers(0, 255, (3, 2, 20, 25)).astype(np.uint8)
        axes = {"axis_names": list("tcyx"), "types": ["other", "channel", "space", "space"]}
        place = {"voxel_size": [2, 2], "offset": [0, 0], **axes}
        project.array("s.zarr/raw", raw, chunks=(1, 2, 8, 8), **place)
        project.write(("n", form(block_size={"voxels": {"t": 1, "y": 8, "x": 16}})))
        project.work()
        right = wanted(raw, axis=(0, 2, 3))
        np.testing.assert_array_equal(project.read("s.zarr/out"), right)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
    def test_types_of_the_result(self, project: Project, dtype: str) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (20, 25))
        project.array("s.zarr/raw", raw, chunks=(8, 8))
        project.write(("n", form(writes={"image": {"array": "s.zarr/out", "dtype": dtype}})))
        project.work()
        low, high = np.percentile(raw, [1, 99.8])
        right = np.clip((raw - low) / (high - low), 0, 1)
        if dtype[0] == "u":
            right = np.rint(right * np.iinfo(dtype).max)
        found = project.read("s.zarr/out")
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, right.astype(dtype))

    def test_nothing_is_cut_off_without_clip(self, project: Project) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (20, 25))
        project.array("s.zarr/raw", raw, chunks=(8, 8))
        project.write(("n", form(params={"clip": False})))
        project.work()
        found = project.read("s.zarr/out")
        assert found.min() < 0 < 1 < found.max()

    def test_a_mask_of_voxels_and_one_of_blocks(self, project: Project) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (2, 24, 24)).astype(np.float32)
        mask = np.zeros((24, 24), np.uint8)
        mask[3:20, 5:15] = 1
        project.array("s.zarr/raw", raw, chunks=(1, 8, 8), **RGB)
        project.array("s.zarr/mask", mask, chunks=(8, 8), **FLAT)
        reads = {"image": "s.zarr/raw", "mask": "s.zarr/mask"}
        project.write(("n", form(reads=reads)))
        project.work()
        low, high = np.percentile(raw[:, mask > 0].astype(float), [1, 99.8], axis=1)[
            ..., None, None
        ]
        right = np.clip((raw - low) / (high - low), 0, 1).astype(np.float32)
        np.testing.assert_array_equal(project.read("s.zarr/out"), right)
        here = form(writes={"image": "s.zarr/part"}, mask="s.zarr/mask", reads=reads)
        project.write(("n", here))
        project.work()
        found = project.read("s.zarr/part")
        np.testing.assert_array_equal(found[:, :24, :16], right[:, :24, :16])
        assert not found[:, :, 16:].any()

    def test_after_a_reset_all_is_made_that_depends_on_it(self, project: Project) -> None:
        raw = np.random.default_rng(0).normal(3, 30, (20, 25)).astype(np.float32)
        project.array("s.zarr/raw", raw, chunks=(8, 8))
        project.write(("n", form()))
        project.work()
        before = stamps(project.records("n_image"))
        words = (str(project.folder / "blocks"), "n_count_map", "--roi", "0:8,0:8")
        assert project.cli("reset", *words).exit_code == 0
        project.work()
        after = stamps(project.records("n_image"))
        assert all(before[index] != stamp for index, stamp in after.items())
        np.testing.assert_array_equal(project.read("s.zarr/out"), wanted(raw))

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"reads": {}}, "normalize needs reads: {image: ...}"),
            ({"writes": {}}, "normalize needs writes: {image: ...}"),
            ({"params": {"lower": 99, "upper": 1}}, "lower: 99 has to be less than upper: 1"),
            ({"params": {"upper": 101}}, "tasks.n.params.upper: must be at most 100"),
            (
                {"writes": {"image": {"array": "s.zarr/out", "dtype": "int32"}}},
                "tasks.n.writes.image.dtype: int32 is none of float16, float32, float64, uint8",
            ),
            (
                {
                    "writes": {"image": {"array": "s.zarr/out", "dtype": "uint8"}},
                    "params": {"clip": False},
                },
                "tasks.n.params.clip: has to be true: uint8 holds nothing beyond",
            ),
            ({"reads": {"image": "s.zarr/flags"}}, "s.zarr/flags is of bool, which has no"),
            (
                {"reads": {"image": "s.zarr/raw", "mask": "s.zarr/coarse"}},
                "tasks.n.reads.mask: s.zarr/coarse has not the voxels of s.zarr/raw",
            ),
            (
                {"reads": {"image": "s.zarr/raw", "mask": "s.zarr/floats"}},
                "tasks.n.reads.mask: s.zarr/floats is of float32; a mask is of whole numbers",
            ),
            (
                {"reads": {"image": "s.zarr/raw", "mask": "s.zarr/rgb"}},
                "tasks.n.reads.mask: has channels [3], the image []; give a mask for all",
            ),
            ({"reads": {"image": "s.zarr/many"}}, "has 1,001 channels, at most 1,000"),
            (
                {"reads": {"image": "s.zarr/ct"}, "block_size": {"voxels": {"t": 1, "y": 8}}},
                "s.zarr/ct has channels before axes that are cut; store it in the order",
            ),
        ],
    )
    def test_what_is_wrong_is_said_of_the_form(
        self, project: Project, change: dict[str, Any], problem: str
    ) -> None:
        project.array("s.zarr/raw", np.zeros((16, 16), np.uint8), **FLAT)
        project.array("s.zarr/flags", np.zeros((16, 16), bool), **FLAT)
        project.array("s.zarr/floats", np.zeros((16, 16), np.float32), **FLAT)
        project.array("s.zarr/rgb", np.zeros((3, 16, 16), np.uint8), **RGB)
        project.array("s.zarr/many", np.zeros((1001, 16, 16), np.uint8), **RGB)
        project.array("s.zarr/coarse", np.zeros((8, 8), np.uint8), **FLAT | {"voxel_size": [4, 4]})
        axes = {"axis_names": list("ctyx"), "types": ["channel", "other", "space", "space"]}
        movie = {"voxel_size": [2, 2], "offset": [0, 0], **axes}
        project.array("s.zarr/ct", np.zeros((2, 3, 16, 16), np.uint8), **movie)
        project.write(("n", form(**change)))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())
