"""Connected components: the same as scipy's of the whole volume, however it is cut."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from project import Project, stamps
from scipy import ndimage

import snakemake_blocks.operations.label as ours
from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.label import components, faces, merge, pairs, relabelled
from snakemake_blocks.operations.unions import Sets
from snakemake_blocks.state.row_files import as_batch
from snakemake_blocks.tasks.tables import Table
from snakemake_blocks.work.rows import rows_of

Volume = NDArray[Any]


def whole(values: Volume, connectivity: int, background: int = 0) -> Volume:
    """Return the components by scipy, of equal values by one value after the other."""
    structure = ndimage.generate_binary_structure(values.ndim, connectivity)
    if values.dtype == bool:
        return ndimage.label(values, structure)[0]
    found, count = np.zeros(values.shape, int), 0
    for value in np.unique(values[values != background]):
        labels, more = ndimage.label(values == value, structure)
        found += np.where(labels > 0, labels + count, 0)
        count += more
    order = {0: 0}
    for label in found.ravel():
        order.setdefault(int(label), len(order))
    return np.vectorize(order.__getitem__, otypes=[int])(found) if found.size else found


COLUMNS = {
    "blocks": {"block": "uint64", "count": "uint32"},
    "firsts": {"first": "uint64"},
    "faces": {"block": "uint64", "side": "uint8", "ids": "binary", "values": "binary"},
}


def stored(returned: Any, table: Table) -> pa.Table:
    return pa.Table.from_batches([as_batch(table, [rows_of(returned, table, "here")[0]])])


def in_blocks(
    values: Volume,
    size: Sequence[int],
    connectivity: int = 1,
    background: int = 0,
    ids: str = "dense",
    order: Any = None,
    absent: Any = lambda index: False,
) -> Volume:
    """Return the components as the tasks find them, block by block in some order."""
    grid = [range(-(-n // w)) for n, w in zip(values.shape, size, strict=True)]
    indices = [index for index in itertools.product(*grid) if not absent(index)]
    if order is not None:
        order.shuffle(indices)
    name = "mask" if values.dtype == bool else "labels"
    how = {"connectivity": connectivity, "background": background}
    place = {"shape": values.shape, "size": size}
    blocks, parts, rows = {}, {}, {}
    for index in indices:
        at = tuple(slice(k * w, k * w + w) for k, w in zip(index, size, strict=True))
        roi = Roi([s.start for s in at], values[at].shape)
        blocks[index] = Block(roi, roi, roi, block_id=0, index=index)
        parts[index] = at
        rows[index] = faces(blocks[index], **place, **{name: values[at]}, **how)
    tables = {
        kind: [stored(rows[i][kind], Table(columns)) for i in indices]
        for kind, columns in COLUMNS.items()
    }
    by_index = dict(zip(indices, tables["faces"], strict=True))
    found = []
    for index in indices:
        near = itertools.product(*(range(k - 1, k + 2) for k in index))
        seen = pa.concat_tables([by_index[n] for n in near if n in by_index])
        found.append(pa.table(pairs(seen, blocks[index], **place, connectivity=connectivity)))
    merged = merge(iter(tables["blocks"]), iter(tables["firsts"]), iter(found), **place, ids=ids)
    result = np.zeros(values.shape, np.uint64)
    last = {kind: pa.table(dict(columns)) for kind, columns in merged.items()}
    for index, at in parts.items():
        more = {name: values[at], **how}
        result[at] = relabelled(last["blocks"], last["ids"], blocks[index], **place, **more)
    return result


@st.composite
def volumes(draw: st.DrawFn) -> tuple[Volume, list[int], int]:
    ndim = draw(st.integers(1, 4))
    most = {1: 40, 2: 14, 3: 8, 4: 5}[ndim]
    shape = [draw(st.integers(1, most)) for _ in range(ndim)]
    size = [draw(st.integers(1, n)) for n in shape]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if draw(st.booleans()):
        values = random.random(shape) < draw(st.sampled_from([0.1, 0.4, 0.6, 0.9]))
    else:
        kind = draw(st.sampled_from(["uint8", "int16", "uint64", "int64"]))
        values = random.integers(0, draw(st.integers(2, 4)), shape).astype(kind)
    return values, size, draw(st.integers(1, ndim))


@given(volumes(), st.randoms(use_true_random=False))
def test_any_volume_has_the_labels_of_scipy(
    volume: tuple[Volume, list[int], int], random: Any
) -> None:
    values, size, connectivity = volume
    expected = whole(values, connectivity)
    np.testing.assert_array_equal(in_blocks(values, size, connectivity, order=random), expected)


@given(volumes(), st.integers(-1, 2))
def test_another_background(volume: tuple[Volume, list[int], int], background: int) -> None:
    values, size, connectivity = volume
    if values.dtype == bool or (background < 0 and values.dtype.kind == "u"):
        return
    expected = whole(values, connectivity, background)
    np.testing.assert_array_equal(in_blocks(values, size, connectivity, background), expected)


@given(volumes())
def test_stable_ids_are_those_of_the_first_voxels(volume: tuple[Volume, list[int], int]) -> None:
    values, size, connectivity = volume
    dense = whole(values, connectivity)
    names, first, places = np.unique(dense, return_index=True, return_inverse=True)
    ids = np.where(names > 0, first + 1, 0)[places].reshape(dense.shape)
    np.testing.assert_array_equal(in_blocks(values, size, connectivity, ids="stable"), ids)


@given(volumes(), st.integers(1, 9), st.sampled_from(["dense", "stable"]))
def test_parts_of_the_result_change_nothing(
    volume: tuple[Volume, list[int], int], part: int, ids: str
) -> None:
    values, size, connectivity = volume
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ours, "_PART", part)
        found = in_blocks(values, size, connectivity, ids=ids)
    np.testing.assert_array_equal(found, in_blocks(values, size, connectivity, ids=ids))


@given(volumes())
def test_libraries_agree(volume: tuple[Volume, list[int], int]) -> None:
    values, _, connectivity = volume
    found, count = components(values, connectivity)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ours, "_cc3d", lambda: None)
        other, same = components(values, connectivity)
    np.testing.assert_array_equal(found, other)
    assert count == same == found.max(initial=0)
    assert found.dtype == np.uint32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_values_of_floats(dtype: str) -> None:
    values = np.array([[0.5, 0.5, 0, -0.0], [1, 0.5, 0, 2], [1, 1, 2, 2]], dtype)
    found = in_blocks(values, (2, 2))
    np.testing.assert_array_equal(found, [[1, 1, 0, 0], [2, 1, 0, 3], [2, 2, 3, 3]])


def test_blocks_that_are_masked_have_no_components() -> None:
    mask = np.ones((4, 6), bool)
    found = in_blocks(mask, (4, 2), absent=lambda index: index == (0, 1))
    np.testing.assert_array_equal(found[0], [1, 1, 0, 0, 2, 2])


def test_other_components_than_were_counted_are_an_error() -> None:
    roi = Roi((0,), (4,))
    block = Block(roi, roi, roi, block_id=0, index=(0,))
    blocks = pa.table({"begin": [0], "count": pa.array([1], pa.uint32())})
    with pytest.raises(InputError, match="2 components where 1 were found before"):
        relabelled(
            blocks, pa.table({"id": [1]}), block, (4,), (4,), mask=np.array([1, 0, 1, 0], bool)
        )


def test_rows_of_other_blocks_are_an_error() -> None:
    blocks = [pa.table({"block": pa.array([0], pa.uint64()), "count": pa.array([2], pa.uint32())})]
    firsts = [pa.table({"first": pa.array([0], pa.uint64())})]
    with pytest.raises(InputError, match="1 first voxels of 2 components"):
        merge(blocks, firsts, [], (4,), (4,))


@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59))))
def test_sets_are_those_of_a_graph(size: int, pairs: list[tuple[int, int]]) -> None:
    import networkx as nx

    some = [(a % size, b % size) for a, b in pairs]
    graph = nx.Graph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from(some)
    sets = Sets(size)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("snakemake_blocks.operations.unions._AT_ONCE", 7)
        for a, b in some:
            sets.join(np.array([a]), np.array([b]))
        roots = sets.roots()
    expected = {n: min(part) for part in nx.connected_components(graph) for n in part}
    assert {n: int(root) for n, root in enumerate(roots)} == expected


def blobs(shape: Sequence[int], seed: int = 0) -> NDArray[np.bool_]:
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return np.asarray(values > np.median(values))


def form(**more: Any) -> dict[str, Any]:
    return {
        "use": "label",
        "reads": {"mask": "s.zarr/mask"},
        "writes": {"labels": {"array": "s.zarr/cells", "chunks": 8}},
        "block_size": {"voxels": 8},
        "blocks_per_job": 16,
        **more,
    }


class TestTasks:
    def test_label_a_volume(self, project: Project) -> None:
        mask = project.array("s.zarr/mask", blobs((20, 30, 25)), chunks=(8, 8, 8))
        project.write(("cells", form()))
        plan = project.work()
        assert list(plan.tasks) == ["cells_faces", "cells_pairs", "cells_merge", "cells_label"]
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(mask, 1))

    @pytest.mark.parametrize(
        "more",
        [
            {"block_size": {"voxels": [7, 30, 11]}},
            {"blocks_per_job": [3, 2, 4], "workers": 2},
            {"block_size": {"voxels": 25}, "params": {"ids": "dense"}},
            {"steps": {"label": {"block_size": {"voxels": 8}, "blocks_per_job": 5}}},
        ],
    )
    def test_any_way_gives_the_same(self, project: Project, more: dict[str, Any]) -> None:
        mask = project.array("s.zarr/mask", blobs((20, 30, 25)), chunks=(8, 8, 8))
        project.write(("cells", form(**more)))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(mask, 1))

    def test_a_part_of_an_array_that_lies_somewhere(self, project: Project) -> None:
        mask = project.array(
            "s.zarr/mask", blobs((20, 30)), chunks=(8, 8), voxel_size=[4, 3], offset=[40, -9]
        )
        roi = {"voxels": {"offset": [3, 5], "shape": [15, 22]}}
        project.write(("cells", form(roi=roi, params={"connectivity": 2})))
        project.work()
        found = project.read("s.zarr/cells")
        np.testing.assert_array_equal(found, whole(mask[3:18, 5:27], 2))

    def test_after_a_reset_only_what_depends_on_it_is_done_again(self, project: Project) -> None:
        mask = project.array("s.zarr/mask", blobs((24, 24)), chunks=(8, 8))
        project.write(("cells", form()))
        project.work()
        before = stamps(project.records("cells_pairs"))
        assert (
            project.cli(
                "reset", str(project.folder / "blocks"), "cells_faces", "--roi", "0:8,0:8"
            ).exit_code
            == 0
        )
        project.work()
        after = stamps(project.records("cells_pairs"))
        redone = {index for index, stamp in after.items() if before[index] != stamp}
        assert redone == {(0, 0)}
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(mask, 1))

    def test_a_mask_of_blocks(self, project: Project) -> None:
        mask = blobs((24, 24))
        mask[8:16, 8:16] = False
        project.array("s.zarr/mask", mask, chunks=(8, 8))
        project.write(("cells", form(mask="s.zarr/mask")))
        project.work()
        assert len(project.records("cells_faces")) == 8
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(mask, 1))

    def test_labels_that_another_operation_makes(self, project: Project) -> None:
        mask = project.array("s.zarr/mask", blobs((24, 24)), chunks=(8, 8))
        again = form(reads={"labels": "s.zarr/cells"}, writes={"labels": "s.zarr/again"})
        project.write(("again", again), ("cells", form()))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/again"), whole(mask, 1))

    def test_one_channel_of_an_image(self, project: Project) -> None:
        mask = np.stack([np.zeros((20, 30), bool), blobs((20, 30))])
        names = {"axis_names": ["c", "y", "x"], "types": ["channel", "space", "space"]}
        project.array("s.zarr/mask", mask, voxel_size=[1, 1], offset=[0, 0], **names)
        project.write(("cells", form(reads={"mask": {"array": "s.zarr/mask", "select": {"c": 1}}})))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(mask[1], 1))

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"reads": {}}, "tasks.cells.reads: label reads a mask, or labels; give one"),
            ({"reads": {"image": "s.zarr/mask"}}, "label has reads called mask or labels"),
            ({"writes": {"out": "s.zarr/x"}}, "label has writes called labels, not out"),
            ({"params": {"connectivity": 4}}, "tasks.cells.params.connectivity: is at most"),
            ({"params": {"conectivity": 1}}, "did you mean connectivity?"),
            ({"connectivity": 1}, "tasks.cells.connectivity: is not a known key"),
            ({"use": "lable"}, "use must be one of convert, label"),
            ({"use": 3}, "use must be one of convert, label"),
            ({"steps": {"face": {}}}, "there is no such step; known are faces, pairs, merge"),
            ({"steps": {"faces": {"block_size": "x"}}}, "tasks.cells.steps.faces.block_size"),
            ({"block_size": {"voxels": [8, 8]}}, "tasks.cells.block_size"),
            ({"reads": {"mask": "s.zarr/no"}}, "s.zarr/no: there is no array"),
            ({"reads": {"mask": "s.zarr/rgb"}}, "select one index of each"),
        ],
    )
    def test_what_is_wrong_is_said_of_the_form(
        self, project: Project, change: dict[str, Any], problem: str
    ) -> None:
        project.array("s.zarr/mask", np.zeros((8, 8, 8), bool))
        project.array(
            "s.zarr/rgb",
            np.zeros((3, 8, 8), np.uint8),
            axis_names=["c", "y", "x"],
            types=["channel", "space", "space"],
            voxel_size=[1, 1],
            offset=[0, 0],
        )
        project.write(("cells", form(**change)))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())

    def test_one_channel_is_selected(self, project: Project) -> None:
        masks = np.stack([blobs((24, 24), seed) for seed in range(3)])
        axes = {"axis_names": ["c", "y", "x"], "types": ["channel", "space", "space"]}
        project.array("s.zarr/mask", masks, voxel_size=[1, 1], offset=[0, 0], **axes)
        project.write(("cells", form(reads={"mask": {"array": "s.zarr/mask", "select": {"c": 1}}})))
        project.work()
        np.testing.assert_array_equal(project.read("s.zarr/cells"), whole(masks[1], 1))

    def test_of_what_is_wrong_nothing_else_is_said(self, project: Project) -> None:
        project.array("s.zarr/mask", np.zeros((8, 8), bool))
        again = form(reads={"labels": "s.zarr/cells"}, writes={"labels": "s.zarr/again"})
        project.write(("cells", form(params={"connectivity": 3})), ("again", again))
        said = project.cli("plan", str(project.pipeline))
        assert said.output.strip().count("tasks.") == 1

    def test_a_task_of_the_name_of_a_step_is_refused(self, project: Project) -> None:
        project.array("s.zarr/mask", np.zeros((8, 8, 8), bool))
        once = {"use": "label", "reads": {"mask": "s.zarr/mask"}, "writes": {"labels": "s.zarr/b"}}
        project.write(("cells", form()), ("cells_faces", once))
        said = project.cli("plan", str(project.pipeline))
        assert "becomes a task cells_faces, and there is one" in " ".join(said.output.split())

    def test_a_library_that_is_missing_is_named(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.array("s.zarr/mask", np.zeros((8, 8, 8), bool))
        project.write(("cells", form()))
        find = importlib.util.find_spec
        monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n == "scipy" else find(n))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert "needs scipy: pip install 'snakemake-blocks[operations]'" in " ".join(
            said.output.split()
        )
