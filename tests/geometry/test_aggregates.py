from __future__ import annotations

import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.geometry.aggregates import FAN_IN, Aggregates

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


def test_which_nodes_there_are() -> None:
    tree = Aggregates(300)
    assert [tree.holds(1, node) for node in (-1, 0, 2, 3)] == [False, True, True, False]
    assert not any(tree.holds(level, 0) for level in (-1, 0, 2))
    assert not Aggregates(1).holds(0, 0)


def test_children() -> None:
    tree = Aggregates(300)
    assert tree.levels == (3,)
    assert [tree.children(1, node) for node in range(3)] == [
        range(128),
        range(128, 256),
        range(256, 300),
    ]


def test_cover_takes_the_jobs_themselves_while_they_are_few() -> None:
    assert Aggregates(1000).cover([7, 3, 7]) == (0, [3, 7])


def test_cover_climbs_no_higher_than_it_must() -> None:
    assert Aggregates(1000).cover(list(range(100, 300))) == (1, [0, 1, 2])
    assert Aggregates(10**6).cover(list(range(0, 10**6, 128))) == (2, list(range(62)))


@given(NUMBERS)
def test_every_level_partitions_the_one_below(jobs: int) -> None:
    tree = Aggregates(jobs)
    below = jobs
    for level, count in enumerate(tree.levels, start=1):
        children = [tree.children(level, node) for node in range(count)]
        assert [child for some in children for child in some] == list(range(below))
        assert all(0 < len(some) <= FAN_IN for some in children)
        below = count
    assert below <= FAN_IN


@given(NUMBERS, st.data())
def test_a_cover_holds_all_that_was_asked_for(jobs: int, data: st.DataObject) -> None:
    tree = Aggregates(jobs)
    first = data.draw(st.integers(0, jobs))
    step = data.draw(st.sampled_from([1, 2, 100, 129]))
    asked = list(range(first, jobs, step))
    level, nodes = tree.cover(asked)
    assert len(nodes) <= FAN_IN and nodes == sorted(set(nodes))
    for below in range(level, 0, -1):
        nodes = [child for node in nodes for child in tree.children(below, node)]
    assert set(nodes) >= set(asked)
    assert len(nodes) <= FAN_IN**level * len(asked)
