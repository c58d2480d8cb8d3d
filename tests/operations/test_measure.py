"""Tables of objects: as scikit-image finds in the whole volume, however it is cut."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from project import Project, stamps
from scipy import ndimage
from skimage.measure import regionprops_table

import snakemake_blocks as sb
from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.channels import channels_first, column_names
from snakemake_blocks.operations.measure import merged, objects, rows_of_block

Volume = NDArray[Any]


def block_at(index: Sequence[int]) -> Block:
    roi = Roi((0,) * len(index), (1,) * len(index))
    return Block(roi, roi, roi, block_id=0, index=tuple(index))


def in_blocks(
    labels: Volume, size: Sequence[int], image: Volume | None = None, order: Any = None
) -> dict[str, Volume]:
    """Return the table as the tasks make it: blocks in some order, merged by a few at a time."""
    grid = [range(-(-n // w)) for n, w in zip(labels.shape, size, strict=True)]
    lead = 0 if image is None else image.ndim - labels.ndim
    parts = []
    for index in itertools.product(*grid):
        at = tuple(slice(k * w, k * w + w) for k, w in zip(index, size, strict=True))
        seen = None if image is None else image[(slice(None),) * lead + at]
        places = range(lead, lead + labels.ndim)
        rows = rows_of_block(labels[at], block_at(index), labels.shape, size, seen, places)
        if rows is not None:
            parts.append(pa.table(rows))
    if order is not None:
        order.shuffle(parts)
    while len(parts) > 1:
        found = [merged(pa.concat_tables(parts[k : k + 3])) for k in range(0, len(parts), 3)]
        parts = [pa.table(rows) for rows in found]
    if not parts:
        return {}
    last = merged(parts[0])
    assert last is not None
    channels = [""] if lead == 0 else [str(c) for c in range(image.shape[0])]
    ones = [1] * labels.ndim
    return objects(
        pa.table(last),
        [str(a) for a in range(labels.ndim)],
        [] if image is None else channels,
        [0] * labels.ndim,
        [0] * labels.ndim,
        ones,
        "center",
    )


def oracle(labels: Volume, image: Volume | None = None) -> dict[str, Volume]:
    """Return the table of one channel by whole arrays, one object after the other."""
    rows: dict[str, list[Any]] = {}
    for name in np.unique(labels[labels != 0]):
        inside = labels == name
        where = np.argwhere(inside)
        row = {"id": name, "count": len(where), "volume": float(len(where))}
        low, high = where.min(axis=0), where.max(axis=0) + 1
        for a in range(labels.ndim):
            row |= {f"centroid_{a}": where[:, a].mean(), f"begin_{a}": low[a], f"end_{a}": high[a]}
        row["on_border"] = any(
            n > 1 and (b == 0 or e == n) for b, e, n in zip(low, high, labels.shape, strict=True)
        )
        ends = [(inside.take(s, a)) for a, n in enumerate(inside.shape) if n > 1 for s in (0, -1)]
        row["border_area"] = float(sum(np.sum(end) for end in ends))
        if image is not None:
            values = image[inside]
            exact = values.astype(np.longdouble)
            row["intensity_min"], row["intensity_max"] = values.min(), values.max()
            row["intensity_mean"] = float(exact.mean())
            row["intensity_std"] = float(exact.std())
        for key, value in row.items():
            rows.setdefault(key, []).append(value)
    return {key: np.array(values) for key, values in rows.items()}


FLOATS = ("volume", "centroid", "intensity_mean", "intensity_std")


def assert_same(found: dict[str, Volume], wanted: dict[str, Volume], spread: float = 0.0) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        if name.startswith(FLOATS):
            np.testing.assert_allclose(found[name], values, rtol=1e-12, atol=spread, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


class TestRowsOfABlock:
    def test_by_hand(self) -> None:
        labels = np.array([[0, 7, 7], [5, 5, 7]], np.uint64)
        image = np.array([[90, 1, 2], [10, 20, 6]], np.uint8)
        found = rows_of_block(labels, block_at((1, 2)), (4, 9), (2, 3), image, (0, 1))
        assert found is not None
        assert {name: values.tolist() for name, values in found.items()} == {
            "id": [5, 7],
            "count": [2, 3],
            "sum_0": [6, 7],
            "begin_0": [3, 2],
            "end_0": [4, 4],
            "border_0": [2, 1],
            "sum_1": [13, 23],
            "begin_1": [6, 7],
            "end_1": [8, 9],
            "border_1": [0, 2],
            "least_0": [10, 1],
            "most_0": [20, 6],
            "above_0": [10, 6],
            "squares_0": [50, 14],
        }

    def test_of_a_block_without_objects_there_are_none(self) -> None:
        assert rows_of_block(np.zeros((2, 2), int), block_at((0, 0)), (2, 2), (2, 2)) is None

    def test_ids_of_any_size(self) -> None:
        labels = np.array([2**64 - 1, 2**63, 1, 2**64 - 1], np.uint64)
        found = rows_of_block(labels, block_at((0,)), (4,), (4,))
        assert found is not None
        assert found["id"].tolist() == [1, 2**63, 2**64 - 1]
        assert found["count"].tolist() == [1, 1, 2]

    def test_more_objects_than_fit_in_16_bits(self) -> None:
        labels = np.random.default_rng(0).permutation(70_000) + 1
        found = rows_of_block(labels, block_at((0,)), labels.shape, labels.shape)
        assert found is not None
        np.testing.assert_array_equal(found["sum_0"], np.argsort(labels))

    def test_labels_below_zero_are_refused(self) -> None:
        with pytest.raises(InputError, match="labels are whole numbers from 0 on"):
            rows_of_block(np.array([-1, 2]), block_at((0,)), (2,), (2,))

    def test_blocks_of_another_size_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"has \(3,\) voxels where \(2,\) are expected"):
            rows_of_block(np.array([1, 2, 3]), block_at((0,)), (4,), (2,))

    @pytest.mark.parametrize("kind", ["uint64", "int64"])
    def test_whole_numbers_that_no_float_holds(self, kind: str) -> None:
        low = np.iinfo(kind).min
        image = np.array([low, low + 1, np.iinfo(kind).max], kind)
        labels = np.array([1, 1, 2])
        found = in_blocks(labels, (1,), image)
        assert found["intensity_min"].tolist() == [low, np.iinfo(kind).max]
        assert found["intensity_max"].tolist() == [low + 1, np.iinfo(kind).max]
        assert found["intensity_std"].tolist() == [0.5, 0]

    def test_numbers_that_are_none_make_none(self) -> None:
        labels = np.array([1, 1, 2, 2])
        image = np.array([1, np.nan, 3, 4], np.float32)
        found = in_blocks(labels, (1,), image)
        assert np.isnan(found["intensity_mean"]).tolist() == [True, False]
        assert np.isnan(found["intensity_min"]).tolist() == [True, False]
        assert found["intensity_std"][1] == 0.5

    def test_a_large_offset_takes_no_digits_away(self) -> None:
        random = np.random.default_rng(0)
        image = random.integers(0, 2, (30, 30)) + 1e12
        found = in_blocks(np.ones((30, 30), int), (7, 4), image)
        np.testing.assert_allclose(found["intensity_std"], (image - 1e12).std(), rtol=1e-12)


KINDS = ["bool", "uint8", "int16", "uint16", "uint32", "int64", "float16", "float32", "float64"]


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Volume, list[int], Volume]:
    ndim = draw(st.integers(1, 4))
    most = {1: 60, 2: 16, 3: 9, 4: 6}[ndim]
    shape = [draw(st.integers(1, most)) for _ in range(ndim)]
    size = [draw(st.integers(1, n)) for n in shape]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = random.integers(1, 2**64, draw(st.integers(1, 9)), dtype=np.uint64)
    ids[: draw(st.integers(0, 2))] = 0
    labels = np.repeat(random.choice(ids, shape), draw(st.integers(1, 3)), axis=-1)[
        ..., : shape[-1]
    ]
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    image = random.normal(draw(st.sampled_from([0, 300])), 50, shape)
    low = 0 if kind.kind in "bu" else -(2**7)
    image = np.clip(image, low, 255).astype(kind)
    return labels, size, image


@given(volumes(), st.randoms(use_true_random=False))
def test_any_volume_has_the_table_of_whole_arrays(
    volume: tuple[Volume, list[int], Volume], random: Any
) -> None:
    labels, size, image = volume
    wanted = oracle(labels, image)
    # What is 0 but for rounding has no relative error.
    spread = 1e-12 * float(np.abs(image.astype(np.float64)).max())
    assert_same(in_blocks(labels, size, image, random), wanted, spread)


@given(volumes())
def test_whole_numbers_do_not_depend_on_blocks_at_all(
    volume: tuple[Volume, list[int], Volume],
) -> None:
    labels, size, image = volume
    one, other = in_blocks(labels, size, image), in_blocks(labels, labels.shape, image)
    for name in one:
        if image.dtype.kind in "biu" and name != "intensity_std":
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@given(volumes(), st.integers(1, 3))
def test_channels_are_measured_one_by_one(
    volume: tuple[Volume, list[int], Volume], count: int
) -> None:
    labels, size, image = volume
    channels = np.stack([np.roll(image, c) for c in range(count)])
    found = in_blocks(labels, size, channels)
    for c in range(count):
        for name, values in in_blocks(labels, size, channels[c]).items():
            key = f"{name}_{c}" if name.startswith("intensity") else name
            np.testing.assert_array_equal(found[key], values)


def test_of_nothing_nothing_is_merged() -> None:
    assert (
        merged(pa.table({"id": pa.array([], pa.uint64()), "count": pa.array([], "uint64")})) is None
    )


@pytest.mark.parametrize(
    ("shape", "places", "wanted"),
    [
        ((4, 5), (0, 1), (1, 4, 5)),
        ((3, 4, 5), (1, 2), (3, 4, 5)),
        ((7, 3, 4, 5), (0, 2, 3), (3, 7, 4, 5)),
        ((2, 3, 4, 5), (2, 3), (6, 4, 5)),
        ((3, 4, 5), (-1, 1, 2), (3, 1, 4, 5)),
    ],
)
def test_channels_come_first(
    shape: tuple[int, ...], places: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    assert channels_first(np.zeros(shape), places).shape == wanted


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["z", "y"], ["z", "y"]),
        (["DAPI", "GFP-488 (nm)"], ["DAPI", "GFP_488_nm"]),
        (["z", ""], ["0", "1"]),
        (["a b", "A-b"], ["0", "1"]),
    ],
)
def test_names_that_columns_can_end_with(names: list[str], wanted: list[str]) -> None:
    assert column_names(names) == wanted


def cells(shape: Sequence[int], seed: int = 0) -> NDArray[np.int32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return np.asarray(ndimage.label(noise > np.median(noise))[0], np.int32)


def form(**more: Any) -> dict[str, Any]:
    return {
        "use": "measure",
        "reads": {"labels": "s.zarr/cells", "image": "s.zarr/raw"},
        "block_size": {"voxels": 8},
        "blocks_per_job": 12,
        **more,
    }


def table(project: Project) -> dict[str, Volume]:
    found = sb.read_table(project.folder / "blocks", "cells_table", "objects")
    return {name: found[name].to_numpy() for name in found.column_names}


AXES = {"axis_names": ["z", "y", "x"], "types": ["space"] * 3}


def by_skimage(
    labels: Volume, image: Volume, spacing: Sequence[float], offset: Sequence[float]
) -> dict[str, Volume]:
    """Return the table by scikit-image; channels come last there, and places mean centers."""
    axes, ndim = ["z", "y", "x"], labels.ndim
    names = ("label", "num_pixels", "area", "centroid", "bbox")
    names += ("intensity_mean", "intensity_std", "intensity_min", "intensity_max")
    last = np.moveaxis(image, 0, -1) if image.ndim > ndim else image
    found = regionprops_table(labels, last, properties=names, spacing=spacing)
    table = {"id": found["label"], "count": found["num_pixels"], "volume": found["area"]}
    for a, axis in enumerate(axes):
        table[f"centroid_{axis}"] = found[f"centroid-{a}"] + offset[a] + spacing[a] / 2
        table[f"begin_{axis}"] = found[f"bbox-{a}"]
        table[f"end_{axis}"] = found[f"bbox-{a + ndim}"]
    for name, values in found.items():
        if name.startswith("intensity"):
            table[name.replace("-", "_")] = values
    return table


class TestTasks:
    def test_physical_units_of_voxels_that_are_no_cubes(self, project: Project) -> None:
        shape, spacing, offset = (20, 30, 25), (4.5, 1.25, 2), (90, -12.5, 7)
        place = {"resolution": spacing, "translation": offset, "units": ["um"] * 3, **AXES}
        labels = project.array("s.zarr/cells", cells(shape), chunks=(8, 8, 8), **place)
        random = np.random.default_rng(1)
        raw = project.array("s.zarr/raw", random.integers(0, 9999, shape, np.uint16), **place)
        project.write(("cells", form()))
        plan = project.work()
        assert next(iter(plan.tasks)) == "cells_parts_map"
        assert list(plan.tasks)[-2:] == ["cells_parts", "cells_table"]
        found, wanted = table(project), by_skimage(labels, raw, spacing, offset)
        on_border, area = found.pop("on_border"), found.pop("border_area")
        assert_same(found, wanted)
        inner = np.unique(labels[1:-1, 1:-1, 1:-1])
        outer = np.setdiff1d(labels, inner)
        faces = [labels.take(side, axis) for axis in range(3) for side in (0, -1)]
        touching = np.unique(np.concatenate([face.ravel() for face in faces]))
        np.testing.assert_array_equal(found["id"][on_border], touching[touching > 0])
        assert set(outer) <= set(touching)
        sizes = [face.size and np.prod(spacing) / spacing[n // 2] for n, face in enumerate(faces)]
        counts = [np.bincount(face.ravel(), minlength=labels.max() + 1) for face in faces]
        areas = np.sum([n * size for n, size in zip(counts, sizes, strict=True)], axis=0)
        np.testing.assert_allclose(area, areas[found["id"]], rtol=1e-12)

    @pytest.mark.parametrize(
        "more",
        [
            {"block_size": {"voxels": [7, 30, 11]}},
            {"blocks_per_job": [3, 2, 4], "workers": 2},
            {"block_size": {"voxels": 30}, "steps": {"table": {"retries": 0}}},
        ],
    )
    def test_any_way_gives_the_same(self, project: Project, more: dict[str, Any]) -> None:
        shape = (20, 30, 25)
        labels = project.array("s.zarr/cells", cells(shape), chunks=(8, 8, 8), **AXES)
        raw = project.array("s.zarr/raw", np.random.default_rng(1).normal(5, 1, shape), **AXES)
        project.write(("cells", form(**more)))
        project.work()
        found = table(project)
        del found["on_border"], found["border_area"]
        assert_same(found, by_skimage(labels, raw, (1, 1, 1), (0, 0, 0)))

    def test_channels_with_names(self, project: Project) -> None:
        import zarr

        shape = (2, 6, 20, 30)
        raw = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
        project.array("s.zarr/raw/0", raw, chunks=(1, 6, 8, 8))
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
        scale = {"type": "scale", "scale": [1, 2, 0.5, 0.5]}
        levels = [{"path": "0", "coordinateTransformations": [scale]}]
        image = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
        channel = {"color": "FFFFFF", "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        named = [{"label": name, **channel} for name in ("DAPI", "GFP 488")]
        group = zarr.open_group(project.folder / "s.zarr/raw", mode="a")
        group.attrs["ome"] = {**image, "omero": {"channels": named}}
        place = {"resolution": [2, 0.5, 0.5], "units": ["micrometer"] * 3, **AXES}
        labels = project.array("s.zarr/cells", cells(shape[1:]), chunks=(6, 8, 8), **place)
        reads = {"labels": "s.zarr/cells", "image": "s.zarr/raw/0"}
        project.write(("cells", form(reads=reads)))
        project.work()
        found = table(project)
        wanted = by_skimage(labels, raw, (2, 0.5, 0.5), (0, 0, 0))
        for number, name in enumerate(("DAPI", "GFP_488")):
            for kind in ("mean", "std", "min", "max"):
                wanted[f"intensity_{kind}_{name}"] = wanted.pop(f"intensity_{kind}_{number}")
        del found["on_border"], found["border_area"]
        assert_same(found, wanted)
        project.write(
            (
                "cells",
                form(
                    reads={
                        "labels": "s.zarr/cells",
                        "image": {"array": "s.zarr/raw/0", "select": {"c": 1}},
                    }
                ),
            )
        )
        project.work()
        np.testing.assert_array_equal(
            table(project)["intensity_mean"], found["intensity_mean_GFP_488"]
        )

    def test_files_that_the_user_names(self, project: Project) -> None:
        labels = project.array("s.zarr/cells", cells((20, 30)), chunks=(8, 8))
        files = {"tables": {"objects": {"parquet": "cells.parquet"}}}
        reads = {"labels": "s.zarr/cells"}
        project.write(("cells", form(reads=reads, outputs=["out/cells.csv"], **files)))
        project.work()
        parquet = pa.parquet.read_table(project.folder / "cells.parquet")
        csv = pa.csv.read_csv(project.folder / "out" / "cells.csv")
        assert parquet.to_pydict() == csv.to_pydict()
        assert parquet.column_names == [
            *("id", "count", "volume", "centroid_0", "centroid_1", "begin_0", "begin_1"),
            *("end_0", "end_1", "on_border", "border_area"),
        ]
        assert parquet["count"].to_pylist() == np.bincount(labels.ravel())[1:].tolist()
        assert not list(project.folder.rglob("*.unfinished"))

    def test_a_file_that_is_gone_is_written_again(self, project: Project) -> None:
        project.array("s.zarr/cells", cells((20, 30)), chunks=(8, 8))
        project.write(("cells", form(reads={"labels": "s.zarr/cells"}, outputs=["cells.csv"])))
        project.work()
        before, file = stamps(project.records("cells_parts_map")), project.folder / "cells.csv"
        text = file.read_text()
        file.unlink()
        project.work()
        assert file.read_text() == text
        assert stamps(project.records("cells_parts_map")) == before

    def test_a_part_of_an_array_that_lies_somewhere(self, project: Project) -> None:
        place = {"voxel_size": [4, 3], "offset": [40, -9], "axis_names": ["y", "x"]}
        labels = project.array("s.zarr/cells", cells((20, 30)), chunks=(8, 8), **place)
        roi = {"voxels": {"offset": [3, 5], "shape": [15, 22]}}
        project.write(("cells", form(reads={"labels": "s.zarr/cells"}, roi=roi)))
        project.work()
        found = table(project)
        part = oracle(labels[3:18, 5:27])
        np.testing.assert_array_equal(found["id"], part["id"])
        np.testing.assert_array_equal(found["begin_y"], part["begin_0"] + 3)
        np.testing.assert_array_equal(found["end_x"], part["end_1"] + 5)
        np.testing.assert_array_equal(found["on_border"], part["on_border"])
        np.testing.assert_allclose(found["centroid_y"], 40 + (part["centroid_0"] + 3.5) * 4)
        np.testing.assert_allclose(found["centroid_x"], -9 + (part["centroid_1"] + 5.5) * 3)
        np.testing.assert_allclose(found["volume"], part["count"] * 12)

    def test_places_of_centers(self, project: Project) -> None:
        place = {"voxel_size": [4, 3], "offset": [40, -9]}
        labels = project.array("s.zarr/cells", cells((20, 30)), chunks=(8, 8), **place)
        reads, params = {"labels": "s.zarr/cells"}, {"origin": "center"}
        project.write(("cells", form(reads=reads, params=params)))
        project.work()
        wanted = oracle(labels)
        np.testing.assert_allclose(table(project)["centroid_0"], 40 + wanted["centroid_0"] * 4)

    def test_masked_blocks_are_left_out(self, project: Project) -> None:
        labels = project.array("s.zarr/cells", cells((24, 24)), chunks=(8, 8))
        mask = np.ones((24, 24), bool)
        mask[8:16, 8:16] = False
        project.array("s.zarr/mask", mask, chunks=(8, 8))
        reads = {"labels": "s.zarr/cells"}
        project.write(("cells", form(reads=reads, mask="s.zarr/mask")))
        project.work()
        found = table(project)
        wanted = oracle(labels * mask)
        np.testing.assert_array_equal(found["id"], wanted["id"])
        np.testing.assert_array_equal(found["count"], wanted["count"])

    def test_a_volume_without_objects_has_a_table_without_rows(self, project: Project) -> None:
        project.array("s.zarr/cells", np.zeros((20, 30), np.uint16), chunks=(8, 8))
        reads = {"labels": "s.zarr/cells"}
        project.write(("cells", form(reads=reads, outputs=["cells.csv"])))
        project.work()
        assert len(table(project)["id"]) == 0
        assert (project.folder / "cells.csv").read_text().startswith('"id","count","volume"')

    def test_frames_of_a_movie_are_one_more_axis(self, project: Project) -> None:
        shape = (5, 20, 30)
        axes = {"axis_names": ["t", "y", "x"], "types": ["other", "space", "space"]}
        place = {"voxel_size": [2, 2], "offset": [0, 0], **axes}
        labels = project.array("s.zarr/cells", cells(shape), chunks=(1, 8, 8), **place)
        flat = {"voxel_size": [2, 2], "offset": [0, 0], "axis_names": ["y", "x"]}
        raw = project.array("s.zarr/raw", np.arange(600).reshape(20, 30), chunks=(8, 8), **flat)
        project.write(("cells", form(block_size={"voxels": {"t": 2, "y": 8, "x": 8}})))
        project.work()
        found, wanted = table(project), oracle(labels, np.broadcast_to(raw, shape))
        np.testing.assert_allclose(found["centroid_t"], wanted["centroid_0"] + 0.5)
        np.testing.assert_allclose(found["volume"], wanted["count"] * 4)
        np.testing.assert_allclose(found["intensity_mean"], wanted["intensity_mean"])

    def test_after_a_change_only_what_it_touches_is_merged_anew(self, project: Project) -> None:
        project.array("s.zarr/cells", cells((24, 24)), chunks=(8, 8))
        project.write(("cells", form(reads={"labels": "s.zarr/cells"})))
        project.work()
        before = stamps(project.records("cells_parts_map"))
        words = (str(project.folder / "blocks"), "cells_parts_map", "--roi", "0:8,0:8")
        assert project.cli("reset", *words).exit_code == 0
        project.work()
        after = stamps(project.records("cells_parts_map"))
        assert {i for i, stamp in after.items() if before[i] != stamp} == {(0, 0)}

    def test_another_task_reads_the_table(self, project: Project) -> None:
        labels = project.array("s.zarr/cells", cells((24, 24)), chunks=(8, 8))
        project.functions("def most(rows):\n    return {'id': [max(rows['id'].to_pylist())]}\n")
        once = {"function": "functions:most", "call": "once"}
        once |= {"reads": {"rows": {"table": "cells.objects"}}}
        once |= {"tables": {"ids": {"columns": {"id": "uint64"}}}}
        project.write(("most", once), ("cells", form(reads={"labels": "s.zarr/cells"})))
        project.work()
        found = sb.read_table(project.folder / "blocks", "most", "ids")
        assert found["id"].to_pylist() == [labels.max()]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"reads": {}}, "measure needs reads: {labels: ...}"),
            ({"reads": {"labels": "s.zarr/floats"}}, "s.zarr/floats is of float32; objects are"),
            ({"reads": {"labels": "s.zarr/rgb"}}, "tasks.cells.reads.labels: has further axes of"),
            (
                {"reads": {"labels": "s.zarr/cells", "image": "s.zarr/coarse"}},
                "tasks.cells.reads.image: s.zarr/coarse has not the voxels of s.zarr/cells",
            ),
            (
                {"reads": {"labels": "s.zarr/cells", "image": "s.zarr/shifted"}},
                "tasks.cells.reads.image: s.zarr/shifted has not the voxels",
            ),
            (
                {"reads": {"labels": {"array": "s.zarr/cells", "context": {"voxels": 1}}}},
                "tasks.cells.reads.labels.context: has no meaning for measure; remove it",
            ),
            (
                {"reads": {"labels": "s.zarr/cells", "image": "s.zarr/many"}},
                "has 1,001 channels, at most 1,000 can be measured; select one",
            ),
            ({"roi": "s.zarr/coarse"}, "tasks.cells.roi: has not the voxels of s.zarr/cells"),
            ({"writes": {"out": "s.zarr/x"}}, "measure has writes called nothing, not out"),
            ({"tables": {"cells": {}}}, "measure has tables called objects, not cells"),
            ({"outputs": ["cells.tsv"]}, "tasks.cells.outputs: cells.tsv is no CSV file"),
            ({"params": {"origin": "centre"}}, "tasks.cells.params.origin"),
            (
                {"steps": {"parts": {"block_size": {"voxels": 4}}}},
                "tasks.cells.steps.parts.block_size: is that of the whole task; give it there",
            ),
            ({"steps": {"map": {}}}, "there is no such step; known are parts, table"),
        ],
    )
    def test_what_is_wrong_is_said_of_the_form(
        self, project: Project, change: dict[str, Any], problem: str
    ) -> None:
        place = {"voxel_size": [2, 2], "offset": [0, 0]}
        rgb = {"axis_names": ["c", "y", "x"], "types": ["channel", "space", "space"], **place}
        project.array("s.zarr/cells", np.zeros((16, 16), np.uint8), **place)
        project.array("s.zarr/raw", np.zeros((16, 16), np.uint8), **place)
        project.array("s.zarr/floats", np.zeros((16, 16), np.float32), **place)
        project.array("s.zarr/rgb", np.zeros((3, 16, 16), np.uint8), **rgb)
        project.array("s.zarr/many", np.zeros((1001, 16, 16), np.uint8), **rgb)
        project.array("s.zarr/coarse", np.zeros((8, 8), np.uint8), voxel_size=[4, 4])
        project.array(
            "s.zarr/shifted", np.zeros((18, 18), np.uint8), voxel_size=[2, 2], offset=[-1, 0]
        )
        project.write(("cells", form(**change)))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())
