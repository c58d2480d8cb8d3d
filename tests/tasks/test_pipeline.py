from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from declared import array, make_task
from hypothesis import given
from strategies import GridCase, pipelines

from snakemake_blocks.errors import SpecError
from snakemake_blocks.tasks.operation import Read, Write
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task


def pipeline(tasks: Sequence[Task]) -> Pipeline:
    return Pipeline.from_tasks(tasks, folder=Path("."), run_directory=Path("blocks"))


def names(found: Pipeline) -> list[str]:
    return [t.task_id for t in found.tasks]


def problems(tasks: Sequence[Task]) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        pipeline(tasks)
    return caught.value.problems


def using(name: str, *, reads: str = "", writes: str = "", **more: Any) -> Task:
    """Return a task with one letter per array that it reads and writes."""
    return make_task(
        task_id=name,
        reads={a: Read(array(path=f"{a}.zarr")) for a in reads},
        writes={a: Write(array(path=f"{a}.zarr")) for a in writes},
        **more,
    )


class TestOrder:
    def test_the_order_given_is_kept_where_it_may_be(self) -> None:
        assert names(pipeline([make_task(task_id=n) for n in "bca"])) == ["b", "c", "a"]

    def test_upstream_comes_first(self) -> None:
        found = pipeline(
            [make_task(task_id="a", after=["c"]), make_task(task_id="b"), make_task(task_id="c")]
        )
        assert names(found) == ["b", "c", "a"]
        assert found.upstream == {"a": ("c",), "b": (), "c": ()}

    def test_upstream_tasks_that_are_not_listed_are_pulled_in(self) -> None:
        first = make_task(task_id="first")
        second = make_task(task_id="second", upstream_tasks=[first])
        found = pipeline([make_task(task_id="third", upstream_tasks=[second, first])])
        assert names(found) == ["first", "second", "third"]
        assert found.upstream["third"] == ("second", "first")

    def test_a_task_that_is_named_twice_is_one(self) -> None:
        first = make_task(task_id="first")
        twice = [make_task(task_id=n, upstream_tasks=[first]) for n in ("left", "right")]
        assert names(pipeline([first, *twice, first])) == ["first", "left", "right"]

    @given(pipelines())
    def test_law(self, case: tuple[Pipeline, dict[str, GridCase]]) -> None:
        found, cases = case
        assert sorted(names(found)) == sorted(cases)
        for position, one in enumerate(found.tasks):
            assert set(found.upstream[one.task_id]) <= set(names(found)[:position])


class TestArrays:
    def test_who_reads_what_another_writes_comes_after_it(self) -> None:
        found = pipeline([using("b", reads="y", writes="z"), using("a", reads="x", writes="y")])
        assert names(found) == ["a", "b"]
        assert found.upstream == {"a": (), "b": ("a",)}

    def test_a_task_does_not_wait_for_itself(self) -> None:
        assert pipeline([using("a", reads="x", writes="x")]).upstream == {"a": ()}

    def test_what_is_said_twice_counts_once(self) -> None:
        first = using("a", writes="xy")
        both = using("b", reads="xy", after=["a"], upstream_tasks=[first])
        assert pipeline([both]).upstream["b"] == ("a",)

    def test_a_diamond(self) -> None:
        found = pipeline(
            [
                using("end", reads="yz"),
                using("left", reads="x", writes="y"),
                using("right", reads="x", writes="z"),
                using("start", writes="x"),
            ]
        )
        assert found.upstream["end"] == ("left", "right")
        assert names(found) == ["start", "left", "right", "end"]


class TestRefusals:
    def test_no_task(self) -> None:
        assert problems([]) == ("there is no task; give at least one",)

    def test_two_tasks_of_one_name(self) -> None:
        tasks = [make_task(task_id=n) for n in ("a", "b", "a", "c", "b", "a")]
        assert problems(tasks) == (
            "task a: there are 3 different tasks of this name; rename all but one",
            "task b: there are 2 different tasks of this name; rename all but one",
        )

    def test_an_upstream_task_of_the_same_name(self) -> None:
        assert len(problems([make_task(task_id="a", upstream_tasks=[make_task(task_id="a")])])) == 1

    def test_names_of_nothing(self) -> None:
        tasks = [make_task(task_id="a", after=["x", "b"]), make_task(task_id="b", after=["y"])]
        assert problems(tasks) == (
            "task a: after: there is no task 'x'; known are a, b",
            "task b: after: there is no task 'y'; known are a, b",
        )

    def test_a_cycle_is_shown(self) -> None:
        tasks = [
            make_task(task_id="end", after=["c"]),
            make_task(task_id="a", after=["c", "start"]),
            make_task(task_id="b", after=["a"]),
            make_task(task_id="c", after=["b"]),
            make_task(task_id="start"),
        ]
        (text,) = problems(tasks)
        assert text == "tasks c -> a -> b -> c: wait for one another; cut one"

    def test_a_task_that_waits_for_itself(self) -> None:
        assert problems([make_task(task_id="a", after=["a"])]) == (
            "tasks a -> a: wait for one another; cut one",
        )

    def test_a_cycle_of_objects(self) -> None:
        """Possible with a list that is filled later."""
        later: list[Task] = []
        first = make_task(task_id="a", upstream_tasks=later)
        later.append(make_task(task_id="b", upstream_tasks=[first]))
        assert "wait for one another" in problems([first])[0]

    def test_two_tasks_that_read_what_the_other_writes(self) -> None:
        tasks = [using("a", reads="x", writes="y"), using("b", reads="y", writes="x")]
        assert "wait for one another" in problems(tasks)[0]
