from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from declared import Field
from faults import SIZE, Scene, line
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Read, Write
from snakemake_blocks.tasks.task import Task


def in_place(ndim: int) -> dict[str, Any]:
    """Return what makes a task read its own output."""
    shape = (200,) * ndim
    array = ArrayInfo("a.zarr/a", (-100,) * ndim, (1,) * ndim, shape, (), "int64", (SIZE,) * ndim)
    return {"call": "arrays", "reads": {"own": Read(array, 0)}, "writes": {"new": Write(array)}}


def row(batch: int, blocks: int = 8, begin: int = 0) -> Task:
    """Return a task in which neighbours conflict."""
    more = {"context": SIZE, "blocks_per_job": batch, **in_place(1)}
    return line(shape=(blocks,), begin=(begin,), **more)


def do(scene: Scene, *indices: Index) -> None:
    field = Field(scene.in_place, scene.root)
    for index in indices:
        field.do(index, stamp=sum(index) + 1)


def done(scene: Scene) -> list[int]:
    return sorted(index[0] for index in scene.stamps())


class TestBatches:
    def test_a_block_that_is_now_a_later_one_runs_again(self, scene: Scene) -> None:
        """By ones, even blocks go first; by twos, 1 goes before 2 and would not see it."""
        scene.plan(row(1))
        do(scene, (0,), (2,))
        scene.plan(row(2))
        assert done(scene) == [0]

    def test_between_done_neighbours_the_order_does_not_matter(self, scene: Scene) -> None:
        scene.plan(row(1))
        do(scene, (0,), (2,), (1,))
        scene.plan(row(2))
        assert done(scene) == [0, 1, 2]

    def test_what_comes_after_a_forgotten_block_is_forgotten_too(self, scene: Scene) -> None:
        scene.plan(row(1))
        do(scene, (2,), (4,), (6,), (3,), (5,))
        scene.plan(row(8))  # even blocks go first, as by ones
        assert done(scene) == [2, 3, 4, 5, 6]
        scene.plan(row(3))  # 0 2 1 | 6 7, then 4 3 5: 3 waits for 2, 5 for 6
        assert done(scene) == [2, 3, 4, 5, 6]
        scene.plan(row(5))  # 0 2 4 1 3 | 6 5 7: 3 waits for nothing that is not done
        assert done(scene) == [2, 3, 4, 5, 6]
        scene.plan(row(2))  # 0 1 | 4 5, then 2 3 | 6 7: 2 waits for 1, 3 for 2
        assert done(scene) == [4, 5, 6]


class TestRegions:
    def test_grown_by_an_even_number_nothing_changes(self, scene: Scene) -> None:
        scene.plan(row(1))
        do(scene, (0,), (2,))
        scene.plan(row(1, blocks=10, begin=-2))
        assert done(scene) == [2, 4]

    def test_grown_by_an_odd_number_odd_blocks_go_first(self, scene: Scene) -> None:
        scene.plan(row(1))
        do(scene, (0,), (2,))
        scene.plan(row(1, blocks=9, begin=-1))
        assert done(scene) == []


@pytest.mark.parametrize("more", [{}, {"call": "worker"}, {**in_place(1), "reads": {}}])
def test_functions_that_read_by_themselves_have_seen_what_was_there(
    scene: Scene, more: dict[str, Any]
) -> None:
    for batch in (1, 2):
        scene.plan(line(shape=(8,), context=SIZE, blocks_per_job=batch, **more))
        do(scene, *([(0,), (2,)] if batch == 1 else []))
    assert done(scene) == [0, 2]


def test_without_conflicts_nothing_is_forgotten(scene: Scene) -> None:
    scene.plan(line(shape=(8,), blocks_per_job=1))
    do(scene, (0,), (2,))
    scene.plan(line(shape=(8,), blocks_per_job=2))
    assert done(scene) == [0, 2]


BATCHES = st.tuples(st.integers(1, 4), st.integers(1, 5)).map(list)


@settings(max_examples=25)
@given(batches=st.lists(BATCHES, min_size=2, max_size=4), reach=st.integers(1, 2), data=st.data())
def test_law(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[int]],
    reach: int,
    data: st.DataObject,
) -> None:
    """Of what is on record, that and only that stays whose earlier neighbours are done."""
    scene = Scene(tmp_path_factory.mktemp("law"))
    present = np.asarray(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
    recorded: set[Index] = set()
    for batch in batches:
        mask = data.draw(st.sampled_from([None, present.reshape(3, 4)]))
        more = {"blocks_per_job": batch, "present": mask, **in_place(2)}
        scene.plan(line(shape=(3, 4), context=reach * SIZE, **more))
        task = scene.in_place.tasks["task"]
        here = {index for job in task.jobs.jobs for index in task.blocks_of(job)}
        before = {index: set(task.ordered_with(index)[0]) for index in here}
        while wrong := {index for index in recorded & here if not before[index] <= recorded}:
            recorded -= wrong
        assert set(scene.stamps()) == recorded & here
        for index in sorted(here - recorded, key=task.order):
            if before[index] <= recorded and data.draw(st.booleans()):
                do(scene, index)
                recorded.add(index)
