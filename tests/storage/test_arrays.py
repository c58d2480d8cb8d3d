from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc
from project import Project
from strategies import grid_cases
from zarr.codecs import BloscCodec

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.storage import arrays
from snakemake_blocks.storage.arrays import (
    block_presence,
    chunk_shape,
    describe,
    open_array,
    read_region,
    write_region,
)
from snakemake_blocks.storage.creation import create
from snakemake_blocks.storage.lattice import Lattice, StoredArray, TaskAxis
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.borders import Border
from snakemake_blocks.tasks.operation import Read
from snakemake_blocks.work.job import work_sentinel

SPACE = ["space", "space"]

# Shape and attributes that funlib.persistence understands.
UNDERSTOOD: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "nothing said": ((6, 8), {}),
    "offset and voxel size": ((6, 8), {"offset": [-40, 8], "voxel_size": [4, 2]}),
    "offset alone": ((6, 8), {"offset": [3, -5]}),
    "leading channels, by the length of the rest": ((3, 6, 8), {"voxel_size": [4, 2]}),
    "two channel axes": ((2, 3, 6, 8), {"offset": [1, 1], "voxel_size": [4, 2]}),
    "channels by type": ((3, 6, 8), {"types": ["channel", *SPACE], "voxel_size": [4, 2]}),
    "channels by name": ((3, 6, 8), {"axis_names": ["c^", "y", "x"], "offset": [7, 7]}),
    "types win over names": ((3, 6), {"axis_names": ["c^", "x"], "types": SPACE}),
    "time counts as space": ((4, 6, 8), {"types": ["time", *SPACE], "voxel_size": [1, 4, 2]}),
    "channels listed": ((3, 6, 8), {"types": ["channel", *SPACE], "voxel_size": [1, 4, 2],
                                    "offset": [0, 8, 6], "units": ["", "nm", "nm"]}),
    "units": ((6, 8), {"units": ["nm", "nm"], "voxel_size": [4, 4]}),
    "whole numbers as floats": ((6, 8), {"voxel_size": [4.0, 2.0]}),
}  # fmt: skip

# Likewise what it refuses, or takes as something else than a place in the world.
REFUSED: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "ambiguous": ((2, 6, 8), {"voxel_size": [4, 2], "offset": [0, 0, 0]}, "cannot tell which"),
    "too many": ((6, 8), {"voxel_size": [1, 4, 2]}, "cannot tell which of its 2 axes"),
    "types of other axes": ((6, 8), {"types": ["channel", *SPACE]}, "name 3 axes, it has 2"),
    "a size missing": ((3, 6, 8), {"types": ["channel", *SPACE], "voxel_size": [4]}, "1 entries"),
    "only channels": ((6, 8), {"types": ["channel", "channel"]}, "no spatial axis"),
    "channels last": ((6, 8, 3), {"types": [*SPACE, "channel"]}, "channel axes have to lead"),
    "zero": ((6, 8), {"voxel_size": [0, 2]}, "is not positive"),
    "negative": ((6, 8), {"resolution": [-1, 2]}, "is not positive"),
    "text": ((6, 8), {"voxel_size": ["a", "b"]}, "is not a list of numbers"),
    "one number": ((6, 8), {"voxel_size": 4}, "is not a list of numbers"),
    "no list": ((6, 8), {"types": 3}, "types 3 is not a list"),
    "no names": ((6, 8), {"axis_names": True}, "axis_names True is not a list"),
    "no number": ((6, 8), {"offset": [float("nan"), 0]}, "is not a list of numbers"),
}


class TestDescribe:
    @pytest.mark.filterwarnings("ignore:using axis names:DeprecationWarning")
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("name", UNDERSTOOD)
    def test_says_what_funlib_says(self, project: Project, name: str, zarr_format: int) -> None:
        from funlib.persistence import open_ds

        shape, attributes = UNDERSTOOD[name]
        project.array("s.zarr/a", np.zeros(shape, ">u2"), zarr_format=zarr_format, **attributes)
        ours, theirs = describe("s.zarr/a", project.folder), open_ds(project.folder / "s.zarr/a")
        assert ours is not None
        assert ours.roi == Box.from_roi(theirs.roi)
        assert ours.voxel_size == tuple(theirs.voxel_size)
        assert ours.full_shape == theirs.shape
        assert len(ours.channels) == theirs.channel_dims
        assert ours.units == tuple(theirs.units)
        assert ours.dtype == str(theirs.dtype)
        assert ours.chunks == theirs.data.chunksize

    @pytest.mark.parametrize("name", REFUSED)
    def test_refuses_what_has_no_clear_place(self, project: Project, name: str) -> None:
        shape, attributes, reason = REFUSED[name]
        project.array("s.zarr/a", np.zeros(shape), **attributes)
        with pytest.raises(InputError, match=rf"s\.zarr/a: .*{reason}"):
            describe("s.zarr/a", project.folder)

    def test_resolution_is_the_voxel_size_of_old_arrays(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros((3, 6, 8)), resolution=[4, 2])
        array = describe("s.zarr/a", project.folder)
        assert array is not None
        assert (array.voxel_size, array.channels) == ((4, 2), (3,))

    def test_a_shard_is_what_one_file_holds(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros((16, 16)), chunks=(2, 2), shards=(8, 16))
        array = describe("s.zarr/a", project.folder)
        assert array is not None and array.chunks == (8, 16)

    def test_one_unit_may_stand_for_all_axes(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros((6, 8)), units="nm")
        array = describe("s.zarr/a", project.folder)
        assert array is not None and array.units == ("nm", "nm")

    def test_nothing_is_none(self, project: Project) -> None:
        assert describe("s.zarr/a", project.folder) is None

    def test_a_group_is_refused_with_what_it_holds(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros(3))
        with pytest.raises(InputError, match=r"s\.zarr: is a group, not an array; it holds a$"):
            describe("s.zarr", project.folder)

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"zarr_format": 3}', "\x00"])
    def test_damaged_metadata_are_an_error_of_ours(self, project: Project, content: str) -> None:
        project.array("s.zarr/a", np.zeros(3))
        (project.folder / "s.zarr/a/zarr.json").write_text(content)
        with pytest.raises(InputError, match=r"^s\.zarr/a: "):
            describe("s.zarr/a", project.folder)

    def test_nothing_to_compute_with_is_refused(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros((0, 4)))
        project.array("s.zarr/b", np.zeros(4, np.uint8), zarr_format=2)
        metadata = project.folder / "s.zarr/b/.zarray"
        found = {**json.loads(metadata.read_text()), "dtype": "|S1", "fill_value": None}
        metadata.write_text(json.dumps(found))
        project.array("s.zarr/c", np.zeros(()))
        for name, reason in (
            ("a", "holds nothing"),
            ("b", "not numbers"),
            ("c", "no spatial axis"),
        ):
            with pytest.raises(InputError, match=reason):
                describe(f"s.zarr/{name}", project.folder)


class TestChunkShape:
    @given(
        st.lists(st.integers(1, 400), min_size=1, max_size=4), st.sampled_from([1, 2, 4, 8, 24, 64])
    )
    def test_divides_the_block_and_is_small_where_divisors_allow(
        self, block: list[int], itemsize: int
    ) -> None:
        chunk = chunk_shape(block, itemsize=itemsize)
        assert all(b % c == 0 for b, c in zip(block, chunk, strict=True))
        assert np.prod(chunk, dtype=int) * itemsize <= 4 << 20 or set(chunk) == {1}

    def test_a_small_block_is_one_chunk(self) -> None:
        assert chunk_shape([64, 64], itemsize=12) == (64, 64)

    def test_a_large_block_is_cut_along_its_longest_axes(self) -> None:
        assert chunk_shape([256, 256, 256], itemsize=1) == (128, 128, 256)


def to_be_made(path: str = "s.zarr/a", **more: Any) -> ArrayInfo:
    """Return an array with channels, offset and voxel size that does not exist."""
    values: dict[str, Any] = {
        "path": path,
        "offset": (-8, 4),
        "voxel_size": (4, 2),
        "shape": (6, 8),
        "channels": (3,),
        "dtype": "float32",
        "chunks": (3, 2, 4),
        "units": ("nm", "nm"),
    }
    return ArrayInfo(**{**values, **more}, exists=False)


class TestCreate:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_makes_what_was_described_in_the_format_of_the_store(
        self, project: Project, zarr_format: int
    ) -> None:
        from funlib.persistence import open_ds

        project.array("s.zarr/other", np.zeros(3), zarr_format=zarr_format)
        create(to_be_made(), project.folder)
        found = describe("s.zarr/a", project.folder)
        assert found is not None
        assert found.to_json() == to_be_made().to_json()
        theirs = open_ds(project.folder / "s.zarr/a")
        assert Box.from_roi(theirs.roi) == found.roi
        assert (theirs.axis_names, theirs.types) == (["c0", "y", "x"], ["channel", *SPACE])
        assert zarr.open_array(project.folder / "s.zarr/a").metadata.zarr_format == zarr_format

    @pytest.mark.parametrize("path", ["new.zarr/a", "new.zarr/deep/er/a", "new.zarr", "folder/a"])
    def test_makes_the_store_around_it(self, project: Project, path: str) -> None:
        create(to_be_made(path), project.folder)
        assert describe(path, project.folder) is not None
        if path.startswith("new.zarr/"):
            zarr.open_group(project.folder / "new.zarr", mode="r")

    @pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5])
    def test_any_number_of_axes(self, project: Project, ndim: int) -> None:
        array = to_be_made(
            offset=(0,) * ndim, voxel_size=(1,) * ndim, shape=(2,) * ndim, channels=(),
            chunks=(1,) * ndim, units=("",) * ndim,
        )  # fmt: skip
        create(array, project.folder)
        assert describe("s.zarr/a", project.folder) is not None

    def test_what_is_in_the_way_stays(self, project: Project) -> None:
        (project.folder / "file").write_text("mine")
        project.array("s.zarr/a", np.zeros(3))
        for path in ("file", "file/a", "s.zarr/a", "s.zarr/a/b"):
            with pytest.raises(InputError, match=f"^{path}: "):
                create(to_be_made(path), project.folder)
        assert (project.folder / "file").read_text() == "mine"

    def test_a_killed_creation_leaves_nothing_half_made(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", die)
            with pytest.raises(KeyboardInterrupt):
                create(to_be_made(), project.folder)
        assert describe("s.zarr/a", project.folder) is None
        create(to_be_made(), project.folder)
        assert describe("s.zarr/a", project.folder) is not None


class TestOpen:
    def test_another_array_than_planned_is_refused(self, project: Project) -> None:
        project.array("s.zarr/a", np.zeros((3, 6, 9), np.float32))
        with pytest.raises(InputError, match=r"is float32\[3, 6, 9\], the plan says float32\[3, 6"):
            open_array(to_be_made(), project.folder, writable=False)

    def test_a_missing_one_is_named(self, project: Project) -> None:
        with pytest.raises(InputError, match=r"s\.zarr/a: is missing; `snakemake-blocks generate`"):
            open_array(to_be_made(), project.folder, writable=True)


def stored_cube(folder: Path, fill_shape: tuple[int, ...] = (2, 5, 7)) -> tuple[ArrayInfo, Any]:
    """Return an array with two channels and offset (-6, 4), voxels (3, 2), and its values."""
    values = Project(folder).array(
        "s.zarr/a", np.arange(1, 71).reshape(fill_shape), chunks=(1, 2, 3), offset=[-6, 4],
        voxel_size=[3, 2],
    )  # fmt: skip
    array = describe("s.zarr/a", folder)
    assert array is not None
    return array, values


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArrayInfo, Any, Any]:
    folder = tmp_path_factory.mktemp("cube")
    array, values = stored_cube(folder)
    return array, values, open_array(array, folder, writable=False)


class TestReadRegion:
    @given(st.tuples(st.integers(-4, 8), st.integers(-4, 10)), st.tuples(*[st.integers(1, 12)] * 2))
    def test_pads_with_the_fill(
        self, cube: tuple[ArrayInfo, Any, Any], begin: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        array, values, data = cube
        padded = np.pad(values, [(0, 0), (20, 20), (20, 20)], constant_values=-1)
        want = padded[:, begin[0] + 20 :, begin[1] + 20 :][:, : shape[0], : shape[1]]
        low = (-6 + 3 * begin[0], 4 + 2 * begin[1])
        region = Box(low, (low[0] + 3 * shape[0], low[1] + 2 * shape[1]))
        np.testing.assert_array_equal(read_region(data, Read(array, -1), region), want)

    @given(
        st.tuples(st.integers(-7, 8), st.integers(-9, 10)),
        st.tuples(*[st.integers(1, 15)] * 2),
        st.sampled_from(list(Border)),
    )
    def test_goes_on_as_numpy_pads(
        self,
        cube: tuple[ArrayInfo, Any, Any],
        begin: tuple[int, int],
        shape: tuple[int, int],
        border: Border,
    ) -> None:
        array, values, data = cube
        padded = np.pad(values, [(0, 0), (30, 30), (30, 30)], mode=str(border))  # type: ignore[call-overload]
        want = padded[:, begin[0] + 30 :, begin[1] + 30 :][:, : shape[0], : shape[1]]
        low = (-6 + 3 * begin[0], 4 + 2 * begin[1])
        region = Box(low, (low[0] + 3 * shape[0], low[1] + 2 * shape[1]))
        np.testing.assert_array_equal(read_region(data, Read(array, border), region), want)

    def test_outside_without_a_fill_is_an_error(self, cube: tuple[ArrayInfo, Any, Any]) -> None:
        array, values, data = cube
        whole = read_region(data, Read(array), array.roi)
        np.testing.assert_array_equal(whole, values)
        with pytest.raises(
            InputError, match=r"s\.zarr/a: voxels \[-1, 0\] to \[5, 7\] are read, it has"
        ):
            read_region(data, Read(array), array.roi.grow((3, 0), (0, 0)))


class TestDamagedChunks:
    # faults: kind 12

    @pytest.mark.parametrize(
        ("zarr_format", "shards", "key"),
        [(2, None, "1.3.2"), (3, None, "c/1/3/2"), (3, (1, 4, 6), "c/1/1/1")],
    )
    def test_are_named_with_their_array(
        self, project: Project, zarr_format: int, shards: Any, key: str
    ) -> None:
        values = np.random.default_rng(1).random((2, 8, 12))
        how = {"chunks": (1, 2, 3), "shards": shards, "zarr_format": zarr_format}
        project.array("s.zarr/a", values, voxel_size=[1, 1], **how)
        array = describe("s.zarr/a", project.folder)
        assert array is not None
        (project.folder / "s.zarr/a" / key).write_bytes(b"damaged")
        data = open_array(array, project.folder, writable=False)
        read = Read(array, 0)
        good = Box((0, 0), (4, 12))
        np.testing.assert_array_equal(read_region(data, read, good), values[:, :4])
        for region in (array.roi, array.roi.grow((3, 0), (0, 1)), Box((7, 8), (8, 9))):
            with pytest.raises(InputError, match=rf"^s\.zarr/a: chunk {key} cannot be read \("):
                read_region(data, read, region)

    @pytest.mark.parametrize(
        ("zarr_format", "shards", "key"),
        [(2, None, "0.1.1"), (3, None, "c/0/1/1"), (3, (2, 4, 6), "c/0/0/0")],
    )
    def test_are_named_when_a_part_of_one_is_written(
        self, project: Project, zarr_format: int, shards: Any, key: str
    ) -> None:
        how = {"chunks": (2, 2, 3), "shards": shards, "zarr_format": zarr_format}
        project.array("s.zarr/a", np.ones((2, 8, 12)), voxel_size=[1, 1], **how)
        array = describe("s.zarr/a", project.folder)
        assert array is not None
        path = project.folder / "s.zarr/a" / key
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        data = open_array(array, project.folder, writable=True)
        with pytest.raises(
            InputError, match=rf"^s\.zarr/a: chunk {key} holds more than is written"
        ):
            write_region(data, array, Box((1, 2), (3, 6)), np.zeros((2, 2, 4)))
        path.unlink()
        write_region(data, array, Box((1, 2), (3, 6)), np.full((2, 2, 4), 7))
        assert (project.read("s.zarr/a")[:, 1:3, 2:6] == 7).all()

    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
    def test_without_their_end_are_damaged_by_any_codec(
        self, project: Project, zarr_format: Any, part: float
    ) -> None:
        """Blosc would give what lies behind them in memory."""
        values = np.random.default_rng(2).integers(0, 2**16, (64, 64), np.uint16)
        codec: Any = Blosc() if zarr_format == 2 else BloscCodec()
        zarr.create_array(
            project.folder / "s.zarr/a", data=values, chunks=(32, 32), zarr_format=zarr_format,
            compressors=codec,
        )  # fmt: skip
        array = describe("s.zarr/a", project.folder)
        assert array is not None
        key = "0.1" if zarr_format == 2 else "c/0/1"
        path = project.folder / "s.zarr/a" / key
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        data = open_array(array, project.folder, writable=True)
        left = Box((0, 0), (64, 32))
        np.testing.assert_array_equal(read_region(data, Read(array), left), values[:, :32])
        with pytest.raises(InputError, match=rf"chunk {key} cannot be read .*it ends after"):
            read_region(data, Read(array), array.roi)
        half = Box((0, 32), (32, 48))
        with pytest.raises(InputError, match=rf"chunk {key} holds more .*it ends after"):
            write_region(data, array, half, values[:32, 32:48])
        whole = Box((0, 32), (32, 64))
        write_region(data, array, whole, values[:32, 32:])
        np.testing.assert_array_equal(read_region(data, Read(array), array.roi), values)

    def test_of_a_mask_are_named_too(self, project: Project) -> None:
        project.array("m.zarr/mask", np.ones((4, 4), np.uint8), chunks=(2, 2))
        (project.folder / "m.zarr/mask/c/0/1").write_bytes(b"damaged")
        array = describe("m.zarr/mask", project.folder)
        assert array is not None
        grid = Grid.from_write_extent(
            array.roi, block_size=(2, 2), lower=(0, 0), upper=(0, 0), fit=Fit.VALID
        )
        with pytest.raises(InputError, match=r"^m\.zarr/mask: chunk c/0/1 cannot be read"):
            block_presence(array, grid, project.folder)


class TestWriteRegion:
    def test_what_lies_outside_of_the_array_is_dropped(self, project: Project) -> None:
        array, values = stored_cube(project.folder)
        data = open_array(array, project.folder, writable=True)
        written = np.full((2, 4, 2), -7)
        write_region(data, array, Box((3, 16), (15, 20)), written)
        values[:, 3:, 6:] = -7
        np.testing.assert_array_equal(project.read("s.zarr/a"), values)

    @pytest.mark.parametrize(
        ("values", "fits"),
        [
            ([0, 255], True),
            ([0.4, 255.0], True),
            ([True, False], True),
            ([0, 256], False),
            ([-1, 3], False),
            ([0.5, 7000.5], False),
            ([0.0, float("nan")], False),
            ([0.0, float("inf")], False),
        ],
    )
    def test_what_does_not_fit_is_refused_and_never_wrapped_around(
        self, project: Project, values: list[float], fits: bool
    ) -> None:
        project.array("s.zarr/a", np.full(2, 9, np.uint8), voxel_size=[1])
        array = describe("s.zarr/a", project.folder)
        assert array is not None
        data = open_array(array, project.folder, writable=True)
        if fits:
            write_region(data, array, array.roi, np.array(values))
            assert project.read("s.zarr/a").tolist() == [int(v) for v in values]
        else:
            with pytest.raises(
                InputError, match=r"s\.zarr/a: values from .* do not fit into uint8"
            ):
                write_region(data, array, array.roi, np.array(values))
            assert project.read("s.zarr/a").tolist() == [9, 9]


class TestBlockPresence:
    @given(st.data())
    def test_is_where_a_nonzero_voxel_meets_the_write_roi(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        case = data.draw(grid_cases(ndim=st.integers(1, 3), empty=False))
        ndim = case.grid.ndim
        shape = data.draw(st.tuples(*[st.integers(1, 5)] * ndim))
        voxel = data.draw(st.tuples(*[st.integers(1, 6)] * ndim))
        offset = data.draw(st.tuples(*[st.integers(-25, 25)] * ndim))
        channels = data.draw(st.sampled_from([(), (2,)]))
        size = int(np.prod(channels + shape))
        seed = data.draw(st.integers(0, 99))
        mask = (np.random.default_rng(seed).random(size) < 0.2).reshape(channels + shape)
        folder = tmp_path_factory.getbasetemp()
        chunks = data.draw(st.sampled_from([(1,) * mask.ndim, (2,) * mask.ndim, mask.shape]))
        Project(folder).array("m.zarr/mask", mask, chunks=chunks, offset=offset, voxel_size=voxel)
        array = describe("m.zarr/mask", folder)
        assert array is not None
        want = np.zeros(case.grid.shape, bool)
        for index, (write, _) in case.blocks.items():
            for where in np.argwhere(mask):
                spans = zip(offset, voxel, where[len(channels) :], strict=True)
                cells = [set(range(o + v * int(i), o + v * int(i) + v)) for o, v, i in spans]
                want[index] |= all(a & b for a, b in zip(cells, write, strict=True))
        for portion in (1, 20, 1 << 24):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(arrays, "_PORTION_VOXELS", portion)
                np.testing.assert_array_equal(block_presence(array, case.grid, folder), want)


def test_metadata_of_a_plan_survive_json() -> None:
    array = to_be_made()
    again = ArrayInfo.from_json(json.loads(json.dumps(array.to_json())))
    assert again.to_json() == array.to_json()
    assert again.exists


def test_voxels_are_exact_on_multiples_and_round_outward_elsewhere() -> None:
    array = to_be_made()
    assert array.voxels(array.roi) == Box((0, 0), (6, 8))
    for low, high in itertools.product(range(-20, 4), range(4, 30)):
        found = array.voxels(Box((low, 4), (high, 6)))
        assert (
            array.offset[0] + 4 * found.begin[0] <= low < array.offset[0] + 4 * (found.begin[0] + 1)
        )
        assert array.offset[0] + 4 * (found.end[0] - 1) < high <= array.offset[0] + 4 * found.end[0]


class TestCallArrays:
    """What ``call: arrays`` opens, pads, crops and writes, job by job and without Snakemake."""

    FUNCTIONS = """
        import numpy as np

        def both(raw, coarse, block):
            # one result over the read Roi, to be cropped, one over the write Roi
            inner = raw[:, 2:-2, 4:-4]
            pooled = inner[0, ::2, ::2] + coarse[1:-1, 2:-2]
            total = sum(raw[0, 2 + i : raw.shape[1] - 2 + i, 4:-4] for i in (-2, -1, 0, 1, 2))
            same = np.stack([raw[0] * 2, raw[1] - 1, raw[0]])
            return {"same": same, "pooled": pooled, "total": total}
    """

    def run(self, project: Project, **more: Any) -> Plan:
        project.functions(self.FUNCTIONS)
        writes = {
            "same": {"array": "o.zarr/same", "dtype": "int32", "channels": [3]},
            "pooled": {"array": "o.zarr/pooled", "dtype": "int64", "voxel_size": [8, 4]},
            "total": {"array": "o.zarr/total", "dtype": "float64"},
        }
        task = {
            "function": "functions:both",
            "call": "arrays",
            "reads": {
                "raw": {"array": "s.zarr/raw", "fill": 5},
                "coarse": {"array": "s.zarr/coarse", "fill": 0},
            },
            "writes": writes,
            "roi": "s.zarr/raw",
            "block_size": [16, 12],
            "context": {"lower": [8, 8], "upper": 8},
            "conflict": False,
        }
        project.write(("both", {**task, **more}))
        plan, _ = generate(project.pipeline)
        for job in plan.jobs("both"):
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
        return plan

    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("blocks_per_job", [1, [2, 3]])
    def test_pads_crops_and_writes_several_outputs(
        self, project: Project, zarr_format: int, blocks_per_job: Any
    ) -> None:
        raw = np.random.default_rng(1).integers(0, 99, (2, 14, 20))
        place = {"offset": [-24, 8], "voxel_size": [4, 2]}
        project.array("s.zarr/raw", raw, zarr_format=zarr_format, chunks=(1, 5, 7), **place)
        coarse = np.arange(7 * 10).reshape(7, 10)
        project.array(
            "s.zarr/coarse", coarse, offset=[-24, 8], voxel_size=[8, 4], zarr_format=zarr_format
        )
        project.array("o.zarr/other", raw, zarr_format=zarr_format)
        self.run(project, fit="shrink", blocks_per_job=blocks_per_job)

        padded = np.pad(raw, [(0, 0), (2, 2), (0, 0)], constant_values=5)
        total = sum(padded[0, i : i + 14] for i in range(5))
        np.testing.assert_array_equal(project.read("o.zarr/total"), total)
        same = np.stack([raw[0] * 2, raw[1] - 1, raw[0]])
        np.testing.assert_array_equal(project.read("o.zarr/same"), same)
        np.testing.assert_array_equal(project.read("o.zarr/pooled"), raw[0, ::2, ::2] + coarse)
        for name in ("same", "pooled", "total"):
            array = describe(f"o.zarr/{name}", project.folder)
            assert array is not None
            block = [w // v for w, v in zip((16, 12), array.voxel_size, strict=True)]
            spatial = array.chunks[len(array.channels) :]
            assert all(b % c == 0 for b, c in zip(block, spatial, strict=True))

    def test_shards_of_an_existing_output_are_never_written_by_two_at_once(
        self, project: Project
    ) -> None:
        raw = np.random.default_rng(1).integers(0, 99, (2, 16, 24))
        place = {"offset": [-24, 8], "voxel_size": [4, 2]}
        project.array("s.zarr/raw", raw, **place)
        project.array("s.zarr/coarse", np.zeros((8, 12), int), offset=[-24, 8], voxel_size=[8, 4])
        project.array("o.zarr/total", np.zeros((16, 24)), chunks=(2, 3), shards=(8, 24), **place)
        plan = self.run(project, blocks_per_job=1)
        task = plan.tasks["both"]
        assert task.num_blocks == 16
        assert task.num_phases == 8, "eight blocks share a shard"
        padded = np.pad(raw, [(0, 0), (2, 2), (0, 0)], constant_values=5)
        total = sum(padded[0, i : i + 16] for i in range(5))
        np.testing.assert_array_equal(project.read("o.zarr/total"), total)


# faults: kind 12
@pytest.mark.timeout(20)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder"])
def test_what_is_no_chunk_is_named_and_not_read(
    project: Project, kind: str, zarr_format: int
) -> None:
    project.array("s.zarr/raw", np.ones((4, 4)), chunks=(2, 2), zarr_format=zarr_format)
    array = describe("s.zarr/raw", project.folder)
    assert array is not None
    chunk = project.folder / "s.zarr/raw" / ("c/0/1" if zarr_format == 3 else "0.1")
    chunk.unlink()
    if kind == "pipe":
        os.mkfifo(chunk)
    elif kind == "device":
        chunk.symlink_to("/dev/zero")
    elif kind == "folder":
        chunk.mkdir()
    else:
        chunk.touch()
        os.truncate(chunk, 1 << 40)
    data = open_array(array, project.folder, writable=True)
    part = Box((1, 1), (3, 3))  # of every chunk a voxel: writing reads them, too
    for access in (
        lambda: read_region(data, Read(array), part),
        lambda: write_region(data, array, part, np.zeros((2, 2))),
    ):
        with pytest.raises(InputError, match=f"{chunk}: is no chunk of this array"):
            access()
    assert read_region(data, Read(array), Box((0, 0), (2, 2))).all()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[str], dict[str, int], list[str]]:
    """Draw the stored axes of an array, which index of some is selected, and which are cut."""
    counted = draw(st.permutations(draw(st.sampled_from(["", "t", "c", "tc", "tck"]))))
    names = [*counted, *"yx"]
    select = {n: draw(st.integers(0, 2)) for n in counted if draw(st.booleans())}
    named = [n for n in counted if n == "t" and n not in select and draw(st.booleans())]
    return names, select, named


class TestAxes:
    """Any axes may be cut, selected, or lacking; the oracle is numpy on all of the array."""

    @settings(deadline=None)
    @given(layouts(), st.data())
    def test_what_is_read_and_written(
        self, layout: tuple[list[str], dict[str, int], list[str]], data: Any
    ) -> None:
        names, select, named = layout
        axes = tuple(PlacedAxis(n, is_measured=n in "yx") for n in names)
        shape = tuple(3 if n not in "yx" else 5 for n in names)
        chunks = tuple(data.draw(st.integers(1, 5)) for _ in names)
        stored = StoredArray(Place("a", axes), shape, chunks, "int16")
        chosen = [(names.index(n), index) for n, index in select.items()]
        # The task cuts time, too, where it is named, whether this array has it or not.
        wanted = (TaskAxis("t", is_measured=False), TaskAxis("y"), TaskAxis("x"))
        if named or "t" in select or "t" not in names:
            info = stored.info(Lattice(), wanted, named={"t"}, select=chosen)
        else:
            info = stored.info(Lattice(), select=chosen)
        values = np.arange(math.prod(shape), dtype=np.int16).reshape(shape)
        with tempfile.TemporaryDirectory() as folder:
            disk = zarr.create_array(f"{folder}/a", data=values, chunks=chunks)
            begin = tuple(data.draw(st.integers(-2, 3)) for _ in range(info.ndim))
            end = tuple(b + data.draw(st.integers(1, 4)) for b in begin)
            region = Box(begin, end)
            found = read_region(disk, Read(info, -1), region)
            expected = np.full((3,) * (len(names) - 2) + (9, 9), -1, np.int16)
            expected[..., 2:7, 2:7] = values
            for n, index in sorted(select.items(), key=lambda item: -names.index(item[0])):
                expected = expected.take(index, names.index(n))
            left = [n for n in names if n not in select]
            cut = dict(zip("tyx"[-info.ndim :], zip(begin, end, strict=True), strict=True))
            for axis, n in enumerate(left):
                if n in "yx":
                    low, high = cut[n]
                    expected = expected.take(range(low + 2, high + 2), axis)
                elif n == "t" and info.ndim == 3:
                    low, high = cut[n]
                    numbers = np.arange(low, high)
                    taken = expected.take(np.clip(numbers, 0, 2), axis)
                    outside = (numbers < 0) | (numbers > 2)
                    taken[(slice(None),) * axis + (outside,)] = -1
                    expected = taken
            np.testing.assert_array_equal(found, expected)
            assert found.shape == info.values_shape(info.voxels(region))
            write_region(disk, info, region, found + 1000)
            again = read_region(disk, Read(info, -1), region)
            np.testing.assert_array_equal(again, np.where(found >= 0, found + 1000, -1))
            touched = np.asarray(disk[:]) != values
            inside = info.stored(info.voxels(region).intersect(Box.from_shape(info.shape)))
            if info.voxels(region).intersect(Box.from_shape(info.shape)):
                assert touched[inside.slices].all()
                assert touched.sum() == inside.size
            else:
                assert not touched.any()
