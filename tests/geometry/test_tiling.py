from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import AxisCase, GridCase, axis_cases, batches, grid_cases, regions

from snakemake_blocks.errors import TilingError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Axis, Fit, Grid

FITS = [Fit.VALID, Fit.OVERHANG, Fit.SHRINK]


def intervals(axis: Axis) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return (write, read) of every block."""
    return [(axis.write(k), axis.read(k)) for k in range(len(axis))]


def inside(interval: tuple[int, int]) -> frozenset[int]:
    return frozenset(range(*interval))


class TestAxisByHand:
    """daisy's example: total [0, 29), read [0, 14), write [4, 10), so [4, 25) is written."""

    DAISY: ClassVar[dict[str, Any]] = {"begin": 4, "end": 25, "step": 6, "lower": 4, "upper": 4}

    def test_valid_keeps_whole_blocks_inside(self) -> None:
        assert intervals(Axis.from_extent(**self.DAISY, fit=Fit.VALID)) == [
            ((4, 10), (0, 14)),
            ((10, 16), (6, 20)),
            ((16, 22), (12, 26)),
        ]

    def test_overhang_adds_a_whole_block(self) -> None:
        axis = Axis.from_extent(**self.DAISY, fit=Fit.OVERHANG)
        assert intervals(axis)[3:] == [((22, 28), (18, 32))]

    def test_shrink_cuts_the_last_block_and_keeps_its_context(self) -> None:
        axis = Axis.from_extent(**self.DAISY, fit=Fit.SHRINK)
        assert intervals(axis)[3:] == [((22, 25), (18, 29))]
        assert axis.shortfall == 3

    @pytest.mark.parametrize("fit", FITS)
    def test_fits_agree_on_a_multiple(self, fit: Fit) -> None:
        axis = Axis.from_extent(-6, 6, step=6, lower=1, fit=fit)
        assert intervals(axis) == [((-6, 0), (-7, 0)), ((0, 6), (-1, 6))]
        assert axis.shortfall == 0

    @pytest.mark.parametrize(
        "length, blocks", [(0, (0, 0, 0)), (5, (0, 1, 1)), (6, (1, 1, 1)), (7, (1, 2, 2))]
    )
    def test_counts(self, length: int, blocks: tuple[int, int, int]) -> None:
        axes = [Axis.from_extent(3, 3 + length, step=6, fit=fit) for fit in FITS]
        assert tuple(map(len, axes)) == blocks

    @pytest.mark.parametrize("fit", FITS)
    def test_a_region_smaller_than_its_context_has_no_block(self, fit: Fit) -> None:
        assert len(Axis.from_extent(10, 4, step=6, fit=fit)) == 0

    @pytest.mark.parametrize(
        "axis, message",
        [
            ({"step": 0}, "block size must be positive, got 0"),
            ({"end": -1}, "ends at -1, before it begins at 0"),
            ({"lower": -1}, "got -1 below and 0 above"),
            ({"upper": -2}, "got 0 below and -2 above"),
        ],
    )
    def test_nonsense_is_refused(self, axis: dict[str, int], message: str) -> None:
        with pytest.raises(TilingError, match=message):
            Axis(**{"begin": 0, "end": 8, "step": 4, **axis})

    def test_ranges_of_blocks(self) -> None:
        axis = Axis.from_extent(**self.DAISY, fit=Fit.SHRINK)
        assert axis.writing(9, 10) == (0, 1)
        assert axis.writing(10, 17) == (1, 3)
        assert axis.writing(24, 90) == (3, 4)
        assert axis.reading(0, 1) == (0, 1)
        assert axis.reading(26, 29) == (3, 4)
        assert axis.reading(12, 14) == (0, 3)
        for nowhere in ((25, 90), (-9, 4), (12, 12), (13, 12)):
            low, high = axis.writing(*nowhere)
            assert low >= high


class TestAxisLaws:
    @given(axis_cases())
    def test_is_the_oracle(self, case: AxisCase) -> None:
        ours = [(inside(write), inside(read)) for write, read in intervals(case.axis)]
        assert ours == case.blocks

    @given(axis_cases())
    def test_writes_are_disjoint_and_cover_what_the_fit_promises(self, case: AxisCase) -> None:
        written = [x for write, _ in intervals(case.axis) for x in range(*write)]
        assert len(written) == len(set(written))
        wanted = set(range(case.begin, case.end))
        if case.fit == "valid":
            assert set(written) <= wanted and len(wanted - set(written)) < case.step
        elif case.fit == "overhang":
            assert set(written) >= wanted and len(set(written) - wanted) < case.step
        else:
            assert set(written) == wanted
        assert set(written) == set(range(case.axis.begin, case.axis.end))

    @given(axis_cases(), st.integers(-50, 80), st.integers(-50, 80))
    def test_ranges_are_what_a_search_finds(self, case: AxisCase, low: int, high: int) -> None:
        region = inside((low, high))
        for found, part in ((case.axis.writing(low, high), 0), (case.axis.reading(low, high), 1)):
            hits = [k for k, block in enumerate(case.blocks) if block[part] & region]
            assert list(range(*found)) == hits

    @given(axis_cases(), st.data())
    def test_many_blocks_at_once_are_as_one_by_one(
        self, case: AxisCase, data: st.DataObject
    ) -> None:
        numbers = st.integers(0, len(case.axis) - 1)
        k = data.draw(st.lists(numbers, max_size=5)) if len(case.axis) else []
        for many, one in ((case.axis.writes, case.axis.write), (case.axis.reads, case.axis.read)):
            found = many(np.asarray(k, np.int64))
            assert list(zip(*found, strict=True)) == [one(n) for n in k]

    @given(axis_cases(), st.lists(st.tuples(st.integers(-50, 80), st.integers(-50, 80))))
    def test_many_intervals_at_once_are_as_one_by_one(
        self, case: AxisCase, spans: list[tuple[int, int]]
    ) -> None:
        axis, pairs = case.axis, np.asarray(spans, np.int64).reshape(-1, 2).T
        for many, one in ((axis.all_writing, axis.writing), (axis.all_reading, axis.reading)):
            found = many((pairs[0], pairs[1]))
            for got, want in zip(zip(*found, strict=True), (one(*s) for s in spans), strict=True):
                assert list(range(*got)) == list(range(*want))

    @given(axis_cases(), st.integers(1, 5))
    def test_a_coarse_block_is_the_union_of_its_members(self, case: AxisCase, factor: int) -> None:
        fine, coarse = intervals(case.axis), intervals(case.axis.coarsen(factor))
        groups = [fine[k : k + factor] for k in range(0, len(fine), factor)]
        assert len(groups) == len(coarse)
        for group, (write, read) in zip(groups, coarse, strict=True):
            assert inside(write) == frozenset().union(*(inside(w) for w, _ in group))
            assert inside(read) == frozenset().union(*(inside(r) for _, r in group))

    @given(axis_cases())
    def test_shortfall_is_what_the_last_block_lacks(self, case: AxisCase) -> None:
        if len(case.axis):
            assert case.axis.shortfall == case.step - len(case.blocks[-1][0])


class TestGridByHand:
    GRID = Grid.from_write_extent(
        Box((0, -10), (10, 20)), block_size=(4, 10), lower=(1, 0), upper=(0, 2), fit=Fit.SHRINK
    )

    def test_blocks(self) -> None:
        assert self.GRID.shape == (3, 3)
        assert len(self.GRID) == 9
        assert self.GRID.write((2, 1)) == Box((8, 0), (10, 10))
        assert self.GRID.read((2, 1)) == Box((7, 0), (10, 12))
        assert self.GRID.extent == Box((0, -10), (10, 20))
        assert self.GRID.indices == Box((0, 0), (3, 3))

    def test_sizes(self) -> None:
        grid = self.GRID
        assert (grid.block_size, grid.lower, grid.upper) == ((4, 10), (1, 0), (0, 2))

    def test_numbers_have_the_last_axis_fastest(self) -> None:
        assert [self.GRID.number(i) for i in self.GRID] == list(range(9))
        assert self.GRID.index(5) == (1, 2)

    def test_members_end_at_the_border(self) -> None:
        assert self.GRID.coarsen((2, 2)).shape == (2, 2)
        assert self.GRID.members((1, 1), (2, 2)) == Box((2, 2), (3, 3))

    def test_no_axes_are_refused(self) -> None:
        with pytest.raises(TilingError, match="at least one axis"):
            Grid(())

    def test_a_billion_billion_blocks_are_no_effort(self) -> None:
        side = 10**9
        grid = Grid((Axis(0, side * 64, 64, 20, 20),) * 2)
        index = (side - 1, side // 2)
        assert grid.index(grid.number(index)) == index
        assert grid.writing(grid.write(index)) == Box(index, (side, side // 2 + 1))
        assert grid.reading(grid.write(index)).shape == (2, 3)
        assert len(list(itertools.islice(grid, 3))) == 3


class TestGridLaws:
    @given(grid_cases())
    def test_is_the_oracle(self, case: GridCase) -> None:
        grid = case.grid
        assert list(grid) == list(case.blocks)
        for index, (write, read) in case.blocks.items():
            assert set(grid.write(index)) == set(itertools.product(*write))
            assert grid.read(index).size == len(list(itertools.product(*read)))
            assert grid.read(index).begin == tuple(map(min, read))

    @given(grid_cases(ndim=st.integers(1, 3)))
    def test_writes_are_disjoint_and_fill_the_extent(self, case: GridCase) -> None:
        written = [point for index in case.grid for point in case.grid.write(index)]
        assert len(written) == len(set(written)) == case.grid.extent.size
        assert set(written) == set(case.grid.extent)

    @given(grid_cases())
    def test_number_and_index_are_inverse(self, case: GridCase) -> None:
        grid = case.grid
        assert [grid.number(index) for index in grid] == list(range(len(grid)))
        assert [grid.index(number) for number in range(len(grid))] == list(grid)

    @given(st.data())
    def test_ranges_are_what_a_search_finds(self, data: st.DataObject) -> None:
        case = data.draw(grid_cases())
        region = data.draw(regions(case))
        where = [frozenset(range(b, e)) for b, e in zip(region.begin, region.end, strict=True)]
        for found, part in ((case.grid.writing(region), 0), (case.grid.reading(region), 1)):
            assert list(found) == [
                index
                for index, block in case.blocks.items()
                if all(a & b for a, b in zip(block[part], where, strict=True))
            ]

    @given(st.data())
    def test_members_of_jobs_partition_the_blocks(self, data: st.DataObject) -> None:
        grid = data.draw(grid_cases()).grid
        batch = data.draw(batches(grid.shape))
        jobs = grid.coarsen(batch)
        members = {job: list(grid.members(job, batch)) for job in jobs}
        assert sorted(itertools.chain(*members.values())) == list(grid)
        for job, blocks in members.items():
            assert 0 < len(blocks) <= Box.from_shape(batch).size
            assert jobs.write(job).size == sum(grid.write(b).size for b in blocks)
            for block in blocks:
                assert jobs.write(job).covers(grid.write(block))
                assert jobs.read(job).covers(grid.read(block))
