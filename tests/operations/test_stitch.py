"""Objects across blocks: joined where blocks saw the same, or where labels touch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
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

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block
from snakemake_blocks.operations.stitch import merge, pairs, pieces, stitched
from snakemake_blocks.state.row_files import as_batch
from snakemake_blocks.state.tables import read_table
from snakemake_blocks.tasks.tables import Table
from snakemake_blocks.work.job import work_sentinel
from snakemake_blocks.work.rows import rows_of

Volume = NDArray[Any]
COLUMNS = {
    "pieces": {"place": "string", "labels": "binary", "names": "binary"},
    "counts": {"place": "string", "count": "uint32"},
    "objects": {"label": "uint64", "voxels": "uint64"},
}


def stored(returned: Any, columns: dict[str, str]) -> pa.Table:
    table = Table(columns)
    return pa.Table.from_batches([as_batch(table, [rows_of(returned, table, "here")[0]])])


def in_blocks(
    function: Any,
    volume: Volume,
    size: Sequence[int],
    context: int = 0,
    order: Any = None,
    **how: Any,
) -> tuple[Volume, pa.Table]:
    """Return what a function labels block by block, stitched, and the pairs."""
    grid = [range(-(-n // w)) for n, w in zip(volume.shape, size, strict=True)]
    indices = list(itertools.product(*grid))
    if order is not None:
        order.shuffle(indices)
    padded = np.pad(volume, context)
    place = {"shape": volume.shape, "size": size}
    blocks, rows = {}, {}
    for index in indices:
        begin = [k * w for k, w in zip(index, size, strict=True)]
        end = [min(b + w, n) for b, w, n in zip(begin, size, volume.shape, strict=True)]
        write = Roi(begin, [e - b for b, e in zip(begin, end, strict=True)])
        block = Block(write, write.grow(context, context), write, block_id=0, index=index)
        seen = padded[tuple(slice(b, e + 2 * context) for b, e in zip(begin, end, strict=True))]
        blocks[index] = block
        rows[index] = {k: stored(v, COLUMNS[k]) for k, v in pieces(function(seen), block).items()}
    found = []
    for index in indices:
        near = itertools.product(*(range(k - 1, k + 2) for k in index))
        seen = pa.concat_tables([rows[n]["pieces"] for n in near if n in rows])
        found.append(pa.table(pairs(seen, blocks[index], **place, **how)))
    tables = [[rows[i][kind] for i in indices] for kind in ("counts", "objects")]
    merged = {k: pa.table(dict(v)) for k, v in merge(*tables, iter(found), **place).items()}
    result = np.zeros(volume.shape, np.uint64)
    for index in indices:
        roi = blocks[index].write_roi
        parts = merged["pieces"], merged["objects"]
        result[roi.to_slices()] = stitched(rows[index]["pieces"], *parts, blocks[index], **place)
    return result, pa.concat_tables(found)


def label(mask: Volume) -> Volume:
    return np.asarray(ndimage.label(mask)[0])


def same_partition(one: Volume, other: Volume) -> bool:
    both = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return both.shape[1] == len(np.unique(one)) == len(np.unique(other))


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], list[int], int]:
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    size = [draw(st.integers(1, n)) for n in shape]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random.random(shape) < draw(st.sampled_from([0.3, 0.6])), size, draw(st.integers(0, 2))


@given(masks(), st.randoms(use_true_random=False))
def test_components_of_blocks_become_those_of_the_volume(
    case: tuple[NDArray[np.bool_], list[int], int], random: Any
) -> None:
    """One common voxel joins, so it is what labelling the whole volume gives."""
    mask, size, context = case
    found, _ = in_blocks(label, mask, size, context, random, score="overlap", threshold=1)
    assert same_partition(found, label(mask))
    assert np.array_equal(np.unique(found[mask]), np.arange(1, label(mask).max() + 1))


@given(masks(), st.sampled_from(["iou", "fraction", "overlap"]), st.floats(0, 3))
def test_the_order_of_blocks_changes_nothing(
    case: tuple[NDArray[np.bool_], list[int], int], score: str, threshold: float
) -> None:
    import random

    mask, size, context = case
    how = {"score": score, "threshold": threshold}
    one, _ = in_blocks(label, mask, size, context, **how)
    other, _ = in_blocks(label, mask, size, context, random.Random(3), **how)
    np.testing.assert_array_equal(one, other)


class TestScores:
    def test_by_hand(self) -> None:
        """Two blocks of four, context two: both see voxels 2 to 5."""
        volume = np.zeros(8, int)

        def function(seen: Volume) -> Volume:
            first = seen[0] == 0 and len(calls) == 0
            calls.append(1)
            return np.array([0, 0, 0, 1, 1, 1, 1, 0] if first else [2, 2, 2, 2, 0, 0, 0, 0])

        calls: list[int] = []
        _, rows = in_blocks(function, volume, (4,), 2, score="iou", threshold=0.7)
        # the first block sees 1 at 1..4, so 2..4 of the region; the second 2 at 2..5
        assert rows.to_pylist() == [
            {"block_a": 0, "label_a": 1, "block_b": 1, "label_b": 2, "overlap": 3,
             "score": 0.75, "joined": True}
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("score", "value"), [("iou", 2 / 5), ("fraction", 2 / 3), ("overlap", 2.0)]
    )
    def test_of_labels_that_touch(self, score: str, value: float) -> None:
        labels = np.array([[5, 5, 5, 0, 0], [0, 2, 2, 2, 2]])
        _, rows = in_blocks(lambda seen: seen, labels, (1, 5), score=score, threshold=value)
        assert rows.column("score").to_pylist() == [pytest.approx(value)]

    def test_a_threshold_parts(self) -> None:
        labels = np.array([[5, 5, 5, 0, 0], [0, 2, 2, 2, 2]])
        for threshold, count in ((0.4, 1), (0.41, 2)):
            found, rows = in_blocks(lambda seen: seen, labels, (1, 5), threshold=threshold)
            assert found.max() == count
            assert rows.column("joined").to_pylist() == [count == 1]


def test_what_no_block_writes_has_no_number() -> None:
    """A label in the context of a block alone, of which the block that writes there saw nothing."""
    numbers = iter([np.array([0, 0, 5, 5, 0, 0, 9, 9]), np.array([0, 0, 0, 0, 4, 4, 0, 0])])
    found, rows = in_blocks(lambda seen: next(numbers), np.zeros(8, int), (4,), 2)
    assert found.tolist() == [1, 1, 0, 0, 0, 0, 2, 2]
    assert len(rows) == 0


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        (np.zeros((4, 4)), "labels have 2 axes, the block has 1"),
        (np.zeros(8), "whole numbers from 0 on"),
        (np.full(8, -1), "whole numbers from 0 on"),
        (np.zeros(5, int), "is not that of all that the function sees"),
    ],
)
def test_what_are_no_labels_is_refused(returned: Volume, problem: str) -> None:
    block = Block(Roi((0,), (8,)), Roi((-2,), (8,)), Roi((0,), (4,)), block_id=0, index=(0,))
    with pytest.raises(InputError, match=problem):
        pieces(returned, block)


FUNCTIONS = """
    from scipy import ndimage

    def segment(image, level=100):
        return ndimage.label(image > level)[0]

    class Segment:
        def __init__(self, level):
            self.level = level

        def __call__(self, image):
            return {"labels": ndimage.label(image > self.level)[0]}

    def cropped(image):
        return segment(image)[4:-4, 4:-4]
"""


def form(**more: Any) -> dict[str, Any]:
    return {
        "use": "stitch",
        "function": "functions:segment",
        "reads": {"image": {"array": "s.zarr/image", "fill": 0}},
        "writes": {"labels": "s.zarr/cells"},
        "block_size": {"voxels": 16},
        "context": {"voxels": 4},
        "params": {"score": "overlap", "threshold": 1},
        "blocks_per_job": 4,
        **more,
    }


class TestTasks:
    @pytest.fixture
    def image(self, project: Project) -> Volume:
        project.functions(FUNCTIONS)
        random = np.random.default_rng(4).random((60, 52))
        smooth = ndimage.gaussian_filter(random, 2)
        scaled = 200 * (smooth - smooth.min()) / np.ptp(smooth)
        return project.array(
            "s.zarr/image", scaled.astype(np.uint8), chunks=(16, 16), voxel_size=[3, 5]
        )

    @pytest.mark.parametrize(
        "more",
        [
            {},
            {"workers": 2, "blocks_per_job": 4},
            {"function": "functions:Segment", "arguments": {"level": 100}},
            {"arguments": {"level": 110}},
        ],
    )
    def test_objects_of_the_whole_image(
        self, project: Project, image: Volume, more: dict[str, Any]
    ) -> None:
        project.write(("cells", form(**more)))
        plan = project.work()
        assert list(plan.tasks) == [f"cells_{s}" for s in ("pieces", "pairs", "merge", "label")]
        level = more.get("arguments", {}).get("level", 100)
        found = project.read("s.zarr/cells")
        assert same_partition(found, label(image > level))
        rows = read_table(project.folder / "blocks", "cells_merge", "objects").to_pandas()
        sizes = rows.groupby("object").voxels.sum()
        values, counts = np.unique(found[found > 0], return_counts=True)
        assert sizes.drop(0, errors="ignore").to_dict() == dict(
            zip(values.tolist(), counts.tolist(), strict=True)
        )

    def test_what_was_joined_is_written(self, project: Project, image: Volume) -> None:
        tables = {"pairs": {"parquet": "pairs.parquet"}}
        project.write(("cells", form(tables=tables, params={"score": "fraction"})))
        project.work()
        import pandas as pd

        rows = pd.read_parquet(project.folder / "pairs.parquet")
        assert len(rows) > 3
        assert (rows.joined == (rows.score >= 0.5)).all()

    def test_labels_that_exist_are_joined_where_they_touch(
        self, project: Project, image: Volume
    ) -> None:
        mask = image > 100
        labels = np.zeros(mask.shape, np.uint32)
        for at in itertools.product(range(0, 60, 20), range(0, 52, 26)):
            part = tuple(slice(b, b + n) for b, n in zip(at, (20, 26), strict=True))
            labels[part] = label(mask[part])
        project.array("s.zarr/labels", labels, voxel_size=[3, 5])
        keys = {"reads": {"labels": "s.zarr/labels"}, "block_size": {"voxels": [20, 26]}}
        task = {k: v for k, v in form(**keys).items() if k not in ("function", "context")}
        project.write(("cells", task))
        project.work()
        assert same_partition(project.read("s.zarr/cells"), label(mask))

    def test_one_block_again(self, project: Project, image: Volume) -> None:
        project.write(("cells", form()))
        project.work()
        before, values = stamps(project.records("cells_pieces")), project.read("s.zarr/cells")
        root = str(project.folder / "blocks")
        assert project.cli("reset", root, "cells_pieces", "--roi", "48:96,80:160").exit_code == 0
        project.work()
        after = stamps(project.records("cells_pieces"))
        assert [i for i, stamp in after.items() if before[i] != stamp] == [(1, 1)]
        np.testing.assert_array_equal(project.read("s.zarr/cells"), values)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"function": None}, "name the function that labels a block"),
            ({"reads": {}}, "tasks.cells.reads: name at least one array"),
            ({"function": "functions:no"}, "tasks.cells.steps.pieces.function"),
            ({"writes": {}}, "stitch needs writes: {labels: ...}"),
            ({"params": {"score": "dice"}}, "tasks.cells.params.score: must be"),
            ({"tables": {"pears": {}}}, "stitch has tables called pairs or objects, not pears"),
        ],
    )
    def test_what_is_wrong(
        self, project: Project, image: Volume, change: dict[str, Any], problem: str
    ) -> None:
        project.write(("cells", {k: v for k, v in form(**change).items() if v is not None}))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())

    def test_a_function_that_crops_fails(self, project: Project, image: Volume) -> None:
        project.write(("cells", form(function="functions:cropped", retries=0)))
        plan, _ = generate(project.pipeline)
        (job, *_) = plan.jobs("cells_pieces")
        assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 1
        said = project.cli("status", str(project.folder / "blocks"))
        assert "is not that of all that the function sees" in " ".join(said.output.split())
