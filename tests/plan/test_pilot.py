"""Which blocks a probe and a pilot take; pilots also run in test_end_to_end.py."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from declared import line
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st
from strategies import FUNCTION, GridCase, index_of, pipelines, regions

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.pilot import pilot, probe
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

Node = tuple[str, Index]


def probed(*tasks: Task, **more: Any) -> dict[str, set[Index]]:
    """Return the blocks of a probe by task; what any of them waits for has to be among them."""
    pipeline = Pipeline.from_tasks(tasks, folder=Path(), run_directory=Path("blocks"))
    plan = plan_pipeline(pipeline, facts={})
    asked = probe(pipeline, plan, **more)
    found: dict[str, set[Index]] = {}
    for task in asked.tasks:
        assert task.present is not None
        found[task.task_id] = {tuple(map(int, i)) for i in np.argwhere(task.present)}
    for name, blocks in found.items():
        for index in blocks:
            assert set(plan.tasks[name].ordered_with(index)[0]) <= blocks
            read = plan.tasks[name].grid.read(index)
            for up in plan.tasks[name].upstream:
                assert set(plan.tasks[up].grid.writing(read)) <= found[up]
    return found


def square(**more: Any) -> Task:
    return Task(
        "square",
        Roi((-4, -4), (408, 408)),
        Roi((-4, -4), (18, 18)),
        Roi((0, 0), (10, 10)),
        "os.path:exists",
        **more,
    )


def test_few_blocks_are_spread_and_wait_for_none() -> None:
    for conflict in (False, True):
        found = probed(square(read_write_conflict=conflict))["square"]
        assert len(found) == 4
        for axis in range(2):
            places = sorted(index[axis] for index in found)
            assert places[-1] - places[0] >= 20
            assert len(set(places)) == 4


def test_batches_make_no_difference() -> None:
    for batch in (1, (3, 5), 64):
        assert len(probed(square(blocks_per_job=batch))["square"]) == 4


def test_a_small_task_is_probed_whole() -> None:
    assert probed(line(blocks=3, context=0, read_write_conflict=False))["smooth"] == {
        (0,),
        (1,),
        (2,),
    }


def test_masked_blocks_are_left_alone() -> None:
    present = np.zeros(40, bool)
    present[[3, 4, 30]] = True
    free = line(blocks=40, present=present, read_write_conflict=False)
    assert probed(free)["smooth"] == {(3,), (4,), (30,)}
    assert probed(line(blocks=4, present=np.zeros(4, bool)))["smooth"] == set()


def test_what_samples_read_comes_along_and_is_enough() -> None:
    up = line("up", blocks=400, context=0, read_write_conflict=False)
    down = line("down", blocks=400, read_write_conflict=False, upstream_tasks=[up])
    found = probed(down)
    assert len(found["down"]) == 4
    assert len(found["up"]) == 3 * 4


def test_conflicting_blocks_upstream_are_complete() -> None:
    up = line("up", blocks=400)
    found = probed(line("down", blocks=400, upstream_tasks=[up]))
    assert len(found["down"]) == 4
    assert 8 <= len(found["up"]) < 30


@pytest.mark.parametrize("most, probed_blocks", [(101, 1), (100, 0)])
def test_what_needs_too_much_is_left_out(most: int, probed_blocks: int) -> None:
    up = line("up", blocks=100, context=0, read_write_conflict=False)
    roi = Roi((0,), (1000,))
    down = Task("down", roi, roi, roi, "os.path:exists", upstream_tasks=[up])
    found = probed(down, most=most)
    assert len(found["down"]) == probed_blocks
    assert len(found["up"]) == (100 if probed_blocks else 4)


def row(
    name: str = "a", *, context: int = 0, size: int = 10, length: int = 80, **more: object
) -> Task:
    """Return a task of blocks in a row."""
    total = Roi((-context,), (length + 2 * context,))
    block = Roi((0,), (size,))
    return Task(name, total, block.grow(context, context), block, FUNCTION, **more)  # type: ignore[arg-type]


def chosen(*tasks: Task, begin: int, end: int) -> dict[str, list[int]]:
    """Return the blocks per task of a pilot."""
    pipeline = pipeline_of(*tasks)
    found = pilot(pipeline, plan_pipeline(pipeline, facts={}), Box((begin,), (end,)))
    return {t.task_id: [i[0] for i in index_of(present_of(t))] for t in found.tasks}


def pipeline_of(*tasks: Task) -> Pipeline:
    return Pipeline.from_tasks(tasks, folder=Path("x"), run_directory=Path("x/blocks"))


def present_of(task: Task) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.ones(task.grid.shape, bool) if task.present is None else task.present


class TestPilotByHand:
    def test_blocks_that_write_there(self) -> None:
        assert chosen(row(), begin=25, end=41) == {"a": [2, 3, 4]}

    def test_what_they_read_upstream(self) -> None:
        up = row("up", size=5)
        down = row("down", context=5, read_write_conflict=False, upstream_tasks=[up])
        assert chosen(up, down, begin=20, end=30) == {"up": [3, 4, 5, 6], "down": [2]}

    def test_neighbours_that_come_first_in_the_full_run(self) -> None:
        """Even blocks are phase 0: an odd one sees what they wrote."""
        assert chosen(row(context=5), begin=30, end=40) == {"a": [2, 3, 4]}
        assert chosen(row(context=5), begin=20, end=30) == {"a": [2]}

    def test_masked_blocks_stay_out(self) -> None:
        present = np.array([True, True, True, False, True, True, True, True])
        assert chosen(row(present=present), begin=25, end=41) == {"a": [2, 4]}

    def test_a_region_without_any_block_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"--roi .* lies outside of what every task writes"):
            chosen(row(), begin=80, end=90)

    def test_a_region_of_other_axes_is_refused(self) -> None:
        pipeline = pipeline_of(row())
        with pytest.raises(InputError, match="--roi has 2 axes, task a has 1"):
            pilot(pipeline, plan_pipeline(pipeline, facts={}), Box((0, 0), (1, 1)))

    def test_the_grid_stays(self) -> None:
        pipeline = pipeline_of(row())
        found = pilot(pipeline, plan_pipeline(pipeline, facts={}), Box((25,), (41,)))
        assert found.tasks[0].grid == pipeline.tasks[0].grid


def needs(plan: Plan, cases: dict[str, GridCase]) -> dict[Node, set[Node]]:
    """Return what every block sees results of: earlier conflicting ones, and upstream ones."""
    found: dict[Node, set[Node]] = {}
    for name, task in plan.tasks.items():
        for index, (_, read) in cases[name].blocks.items():
            earlier = {(name, other) for other in task.ordered_with(index)[0]}
            found[name, index] = earlier | {
                (up, other)
                for up in task.upstream
                for other, (write, _) in cases[up].blocks.items()
                if oracle.meet(write, read)
            }
    return found


@given(st.data())
def test_exactly_the_blocks_there_and_those_whose_results_they_see(data: st.DataObject) -> None:
    pipeline, cases = data.draw(pipelines(most=3))
    whole = replace(pipeline, tasks=tuple(replace(t, present=None) for t in pipeline.tasks))
    plan = plan_pipeline(whole, facts={})
    roi = data.draw(regions(next(iter(cases.values()))))
    region = tuple(frozenset(range(b, e)) for b, e in zip(roi.begin, roi.end, strict=True))
    here = {
        (name, index)
        for name, case in cases.items()
        for index, (write, _) in case.blocks.items()
        if oracle.meet(write, region)
    }
    if not here:
        with pytest.raises(InputError):
            pilot(whole, plan, roi)
        return
    direct, wanted, new = needs(plan, cases), set(here), set(here)
    while new:
        new = set(itertools.chain.from_iterable(direct[node] for node in new)) - wanted
        wanted |= new
    found = pilot(whole, plan, roi)
    assert {(t.task_id, i) for t in found.tasks for i in index_of(present_of(t))} == wanted
