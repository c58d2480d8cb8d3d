"""Whole numbers for measured places, against fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.lattice import Lattice, StoredArray, TaskAxis, WorldAxis
from snakemake_blocks.storage.spatial import Place, PlacedAxis
from snakemake_blocks.tasks.units import exact

SIMPLE = st.fractions(min_value=Fraction(1, 12), max_value=60, max_denominator=12)
SIZES = st.one_of(
    st.floats(min_value=1e-6, max_value=1e6),
    st.sampled_from([1 / 3, 6.5 / 60, 0.29898804047838085]),
)


def world(offset: float, size: float) -> WorldAxis:
    return WorldAxis(exact(offset), exact(size))


def stored(*axes: PlacedAxis, shape: tuple[int, ...] | None = None, **more: Any) -> StoredArray:
    shape = shape or tuple(range(4, 4 + len(axes)))
    return StoredArray(Place(more.pop("path", "a.zarr/0"), axes), shape, shape, "uint8", **more)


def measured(*sizes: float, names: str = "") -> list[PlacedAxis]:
    called = names or " " * len(sizes)
    pairs = zip(called, sizes, strict=True)
    return [PlacedAxis(n.strip(), True, Fraction(0), exact(size)) for n, size in pairs]


class TestLattice:
    def test_whole_world_units_stay(self) -> None:
        found = Lattice.of([[world(-7, 4)], [world(3, 40)]])
        assert found.is_world
        assert (found[0].place(Fraction(5)), found[0].length(Fraction(1, 2))) == (5, Fraction(1, 2))

    def test_halves_and_thirds_of_a_measured_voxel(self) -> None:
        size = 0.29898804047838085
        found = Lattice.of([[world(1.5, size)], [world(1.5, size / 2)], [world(1.5, size / 3)]])[0]
        lengths = [found.length(exact(size / n)) for n in (1, 2, 3)]
        assert (found.parts, lengths) == (6, [6, 3, 2])
        assert found.place(exact(1.5 + 4 * size)) == 24

    def test_world_units_are_whole_numbers_where_they_are_asked_for(self) -> None:
        arrays = [[world(0, 40)], [world(0, 40 / 3)]]
        assert Lattice.of(arrays)[0].length(Fraction(1)) == Fraction(3, 40)
        found = Lattice.of(arrays, with_world=True)[0]
        assert (found.length(Fraction(1)), found.length(exact(40 / 3))) == (3, 40)

    def test_axes_are_counted_from_the_last_one(self) -> None:
        found = Lattice.of([[world(0, 0.5), world(0, 2)], [world(0, 0.25)]])
        assert [found[n].parts for n in range(3)] == [2, 1, 1]

    @given(SIZES, st.floats(-1e6, 1e6), st.lists(st.tuples(SIMPLE, SIMPLE), max_size=3), st.data())
    def test_all_that_is_a_simple_fraction_is_whole_and_exact(
        self, size: float, begin: float, others: list[tuple[Fraction, Fraction]], data: Any
    ) -> None:
        """Places are made of floats, as metadata hold them; the oracle knows the fractions."""
        if abs(begin) > 1e5 * size:
            begin = 0.0
        ratios = [(Fraction(1), Fraction(0)), *others]
        floats = [(begin + float(o) * size, float(v) * size) for v, o in ratios]
        arrays = [world(o, v) for o, v in floats]
        found = Lattice.of([[axis] for axis in arrays])[0]
        if found == Lattice()[0]:
            return  # whole world units
        for (ratio, shift), axis in zip(ratios, arrays, strict=True):
            assert found.length(axis.voxel_size) == ratio * found.parts
            assert found.place(axis.offset) == shift * found.parts
        number = data.draw(st.integers(-(10**6), 10**6))
        assert found.world(number) == exact(begin) + exact(size) * Fraction(number, found.parts)

    @given(st.floats(0.1, 10), st.integers(1, 10**5))
    def test_places_far_from_the_begin_stay_exact(self, size: float, voxels: int) -> None:
        found = Lattice.of([[world(0, size + 0.123456789)]])[0]
        assert found.place(exact((size + 0.123456789) * voxels)) == voxels


class TestInfo:
    def test_levels_of_a_measured_image(self) -> None:
        fine, coarse = (stored(*measured(0.5, v)) for v in (6.5 / 60, 6.5 / 30))
        lattice = Lattice.of([fine.measured, coarse.measured])
        assert fine.info(lattice).voxel_size == (1, 1)
        assert coarse.info(lattice).voxel_size == (1, 2)

    def test_what_has_no_common_measure_is_refused(self) -> None:
        one, other = stored(*measured(0.2989)), stored(*measured(0.1234567), path="b.zarr/0")
        lattice = Lattice.of([one.measured, other.measured])
        assert one.info(lattice).voxel_size == (1,)
        with pytest.raises(InputError, match=r"^b\.zarr/0: voxel_size \[0\.1234567\] is no simple"):
            other.info(lattice)

    def test_what_cannot_be_counted_is_refused(self) -> None:
        array = stored(PlacedAxis("", True, Fraction(2**60), Fraction(1)))
        with pytest.raises(InputError, match=r"offset .* is too large to count with"):
            array.info(Lattice())

    @pytest.mark.parametrize("size", [0, -2])
    def test_voxels_have_an_extent(self, size: int) -> None:
        with pytest.raises(InputError, match="is not positive"):
            stored(*measured(size))

    def test_named_axes_are_cut_and_others_are_channels(self) -> None:
        image = stored(
            PlacedAxis("t", is_measured=False),
            PlacedAxis("c", is_measured=False),
            *measured(1, 1, names="yx"),
            shape=(9, 2, 30, 40),
        )
        plain = image.info(Lattice())
        assert (plain.shape, plain.channels, plain.axes) == ((30, 40), (9, 2), ())
        movie = image.info(Lattice(), named={"t"})
        assert (movie.shape, movie.channels, movie.axes) == ((9, 30, 40), (2,), (0, 2, 3))
        assert movie.full_shape == plain.full_shape == (9, 2, 30, 40)
        one = image.info(Lattice(), named={"t"}, select=[(1, 1)])
        assert one.values_shape(one.voxels(one.roi)) == (9, 30, 40)
        assert one.itemsize == 1
        assert movie.itemsize == 2
        assert (movie.seen_channels, movie.seen_places) == ((2,), (0, 2, 3))
        assert (one.seen_channels, one.seen_places) == ((), (0, 1, 2))

    def test_a_counted_axis_that_is_lacking_is_everywhere(self) -> None:
        axes = (TaskAxis("t", is_measured=False), TaskAxis("y"), TaskAxis("x"))
        flat = stored(*measured(1, 1, names="yx"), shape=(30, 40)).info(Lattice(), axes)
        assert (flat.shape, flat.axes, flat.full_shape) == ((1, 30, 40), (-1, 0, 1), (30, 40))
        assert flat.roi.begin[0] < -(10**12)
        assert flat.steps == (1, 1, 1)
        assert flat.seen_places == (-1, 0, 1)

    def test_a_measured_axis_that_is_lacking_is_refused(self) -> None:
        axes = (TaskAxis("z"), TaskAxis("y"), TaskAxis("x"))
        with pytest.raises(InputError, match="has 2 spatial axes, the roi 3"):
            stored(*measured(1, 1, names="yx")).info(Lattice(), axes)
