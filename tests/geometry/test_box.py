from __future__ import annotations

import itertools

import numpy as np
import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.geometry.box import Box, points


@st.composite
def boxes(draw: st.DrawFn, ndim: int = 2) -> Box:
    """Draw a box near the origin; about half of them are empty."""
    corner = st.tuples(*[st.integers(-4, 4)] * ndim)
    return Box(draw(corner), draw(corner))


VECTORS = st.tuples(st.integers(-3, 3), st.integers(-3, 3))


def members(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*map(range, box.begin, box.end)))


class TestByHand:
    def test_shape_and_size(self) -> None:
        assert Box((2, -3), (5, 1)).shape == (3, 4)
        assert Box((2, -3), (5, 1)).size == 12
        assert Box((2, 3), (5, 1)).shape == (3, 0)
        assert Box((2, 3), (5, 1)).size == 0

    def test_points_have_the_last_axis_fastest(self) -> None:
        assert list(Box((1, 7), (3, 9))) == [(1, 7), (1, 8), (2, 7), (2, 8)]

    def test_from_shape(self) -> None:
        assert Box.from_shape([2, 3]) == Box((0, 0), (2, 3))

    def test_a_point_at_the_end_is_outside(self) -> None:
        box = Box((0, 0), (2, 3))
        assert box.contains((1, 2))
        assert not box.contains((1, 3))
        assert not box.contains((-1, 0))

    def test_touching_is_not_meeting(self) -> None:
        assert not Box((0,), (5,)).meets(Box((5,), (9,)))
        assert Box((0,), (5,)).meets(Box((4,), (9,)))

    def test_grow_and_shift(self) -> None:
        assert Box((0, 10), (5, 20)).grow((1, 2), (3, 4)) == Box((-1, 8), (8, 24))
        assert Box((0, 10), (5, 20)).shift((-1, 2)) == Box((-1, 12), (4, 22))

    def test_slices_select_it(self) -> None:
        values = np.arange(24).reshape(4, 6)
        box = Box((1, 2), (3, 5))
        assert values[box.slices].tolist() == [[8, 9, 10], [14, 15, 16]]
        assert values[box.slices_in(Box((-1, 1), (3, 7)))].tolist() == [[13, 14, 15], [19, 20, 21]]

    def test_no_axes_hold_one_point(self) -> None:
        assert list(Box((), ())) == [()]
        assert Box((), ()).size == 1

    def test_corners_of_different_dimension_are_refused(self) -> None:
        with pytest.raises(ValueError, match="begins with 1 axes and ends with 2"):
            Box((0,), (1, 2))

    def test_roi_round_trip(self) -> None:
        roi = Roi((-4, 8), (3, 5))
        box = Box.from_roi(roi)
        assert box == Box((-4, 8), (-1, 13))
        assert all(type(x) is int for x in box.begin + box.end)
        assert box.to_roi() == roi

    def test_points_of_a_vast_box_come_one_by_one(self) -> None:
        vast = Box((0, 0), (10**12, 10**12))
        assert list(itertools.islice(vast, 2)) == [(0, 0), (0, 1)]
        assert next(points([range(10**12), range(1)])) == (0, 0)


class TestLaws:
    @given(boxes())
    def test_a_box_is_the_set_of_its_points(self, box: Box) -> None:
        assert list(box) == sorted(members(box))
        assert box.size == len(members(box))
        assert bool(box) == bool(members(box))

    @given(boxes(), boxes())
    def test_sets(self, one: Box, other: Box) -> None:
        assert members(one.intersect(other)) == members(one) & members(other)
        assert one.meets(other) == bool(members(one) & members(other))
        assert one.covers(other) == (members(one) >= members(other))

    @given(boxes(), boxes())
    def test_union_is_the_smallest_box_around_both(self, one: Box, other: Box) -> None:
        union = one.union(other)
        assert union.covers(one) and union.covers(other)
        for axis in range(2) if union else ():
            both = [point[axis] for point in members(one) | members(other)]
            assert (union.begin[axis], union.end[axis]) == (min(both), max(both) + 1)
        assert bool(union) == bool(members(one) | members(other))

    @given(boxes(), VECTORS)
    def test_contains(self, box: Box, point: tuple[int, int]) -> None:
        assert box.contains(point) == (point in members(box))

    @given(boxes(), VECTORS, VECTORS)
    def test_shifts_add_up(self, box: Box, by: tuple[int, int], more: tuple[int, int]) -> None:
        assert members(box.shift(by)) == {(y + by[0], x + by[1]) for y, x in members(box)}
        assert box.shift(by).shift(more) == box.shift(
            [a + b for a, b in zip(by, more, strict=True)]
        )
        assert box.grow(by, more).grow([-x for x in by], [-x for x in more]) == box
