"""Which blocks a probe takes; pilots by `--roi` run in test_end_to_end.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from test_plan import line

from snakemake_blocks.box import Index
from snakemake_blocks.pilot import probe
from snakemake_blocks.pipeline import Pipeline
from snakemake_blocks.planning import plan_pipeline
from snakemake_blocks.task import Task


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
