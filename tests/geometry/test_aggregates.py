from __future__ import annotations

import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.geometry.aggregates import FAN_IN, Aggregate, Aggregates

NUMBERS = st.integers(0, 300) | st.integers(0, FAN_IN**2 + 300)


@pytest.mark.parametrize(
    "jobs, levels",
    [
        (0, ()),
        (1, ()),
        (128, ()),
        (129, (2,)),
        (128**2, (128,)),
        (128**2 + 1, (129, 2)),
        (10**9, (7812500, 61036, 477, 4)),
    ],
)
def test_levels(jobs: int, levels: tuple[int, ...]) -> None:
    assert Aggregates(jobs).levels == levels


def test_names() -> None:
    tree = Aggregates(300)
    names = ["tree/1/0", "tree/1/1", "tree/1/2", "done"]
    assert [tree.name(aggregate) for aggregate in tree] == names
    assert [tree.named(name) for name in names] == list(tree)
    assert list(tree) == [Aggregate(1, 0), Aggregate(1, 1), Aggregate(1, 2), Aggregate(2, 0)]
    assert list(Aggregates(1)) == [Aggregate(1, 0)] == [Aggregates(1).named("done")]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tree",
        "tree/1/3",
        "tree/0/0",
        "tree/2/0",
        "tree/1/-1",
        "tree/1/00",
        "tree/1/\u00b2",
        "1/0",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert Aggregates(300).named(name) is None


def test_what_they_stand_on() -> None:
    tree = Aggregates(300)
    assert tree.levels == (3,)
    assert [tree.below(aggregate) for aggregate in tree] == [
        range(128),
        range(128, 256),
        range(256, 300),
        range(3),
    ]
    assert Aggregates(5).below(Aggregates(5).top) == range(5)


def test_cover_takes_the_jobs_themselves_while_they_are_few() -> None:
    assert Aggregates(1000).cover([7, 3, 7]) == (0, [3, 7])


def test_cover_climbs_no_higher_than_it_must() -> None:
    assert Aggregates(1000).cover(list(range(100, 300))) == (1, [0, 1, 2])
    assert Aggregates(10**6).cover(list(range(0, 10**6, 128))) == (2, list(range(62)))


@given(NUMBERS)
def test_every_level_partitions_the_one_below(jobs: int) -> None:
    tree = Aggregates(jobs)
    below = jobs
    for level in range(1, tree.top.level + 1):
        here = [aggregate for aggregate in tree if aggregate.level == level]
        parts = [tree.below(aggregate) for aggregate in here]
        assert [number for part in parts for number in part] == list(range(below))
        assert all(0 < len(part) <= FAN_IN for part in parts) or not jobs
        below = len(here)
    assert below == 1


@given(NUMBERS, st.data())
def test_a_cover_holds_all_that_was_asked_for(jobs: int, data: st.DataObject) -> None:
    tree = Aggregates(jobs)
    first = data.draw(st.integers(0, jobs))
    step = data.draw(st.sampled_from([1, 2, 100, 129]))
    asked = list(range(first, jobs, step))
    level, numbers = tree.cover(asked)
    assert len(numbers) <= FAN_IN and numbers == sorted(set(numbers))
    for above in range(level, 0, -1):
        numbers = [below for n in numbers for below in tree.below(Aggregate(above, n))]
    assert set(numbers) >= set(asked)
    assert len(numbers) <= FAN_IN**level * len(asked)
