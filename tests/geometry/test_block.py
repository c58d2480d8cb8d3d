from __future__ import annotations

import pytest
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st
from strategies import GridCase, grid_cases

from snakemake_blocks.geometry.block import (
    Block,
    BlockStatus,
    block_of,
    cantor_index,
    cantor_number,
    daisy_id,
)
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.geometry.tiling import Axis, Grid


def block(write: int = 4, **more: object) -> Block:
    """Return the block that writes six units from ``write`` on."""
    total, read = Roi((0,), (29,)), Roi((write - 4,), (14,))
    return Block(total, read, Roi((write,), (6,)), **more)  # type: ignore[arg-type]


class TestNumbers:
    @pytest.mark.parametrize(
        "index, number",
        [
            ((), 0),
            ((7,), 7),
            ((0, 0, 1), 1),
            ((0, 1, 0), 2),
            ((1, 0, 0), 3),
            ((1, 1, 1), 14),
            ((3, 4, 5), 395),
        ],
    )
    def test_cantor(self, index: Index, number: int) -> None:
        assert cantor_number(index) == number

    def test_cantor_is_exact_where_floats_are_not(self) -> None:
        """daisy 1.2.3 divides floats here and is wrong."""
        n = 200_000
        assert cantor_number((n, n, n + 1)) == 36000440001500001
        assert cantor_number((10**9,) * 4) > 2**100

    @given(st.lists(st.integers(0, 10**9), min_size=1, max_size=4).map(tuple))
    def test_cantor_can_be_inverted(self, index: Index) -> None:
        assert cantor_index(cantor_number(index), len(index)) == index

    @pytest.mark.parametrize("ndim", [1, 2, 3, 4])
    def test_every_number_is_that_of_one_index(self, ndim: int) -> None:
        found = [cantor_index(number, ndim) for number in range(200)]
        assert [cantor_number(index) for index in found] == list(range(200))

    def test_ids_count_from_the_begin_of_the_total_read_roi(self) -> None:
        """The first block in two dimensions with context 20 and blocks of 10 is number 12."""
        assert daisy_id((0, 0), lower=(20, 20), block_size=(10, 10)) == 12
        assert daisy_id((0, 0), lower=(9, 9), block_size=(10, 10)) == 0

    @given(grid_cases())
    def test_ids_of_a_grid_differ(self, case: GridCase) -> None:
        grid = case.grid
        ids = [daisy_id(i, lower=grid.lower, block_size=grid.block_size) for i in grid]
        assert len(set(ids)) == len(ids)

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    def test_ids_are_numbered_by_the_sum_of_the_index(self, index: list[int]) -> None:
        """An index with a smaller sum has a smaller number."""
        top = [0] * (len(index) - 1) + [sum(index) + 1]
        assert cantor_number(index) < cantor_number(top)


class TestBlock:
    def test_of_a_grid(self) -> None:
        grid = Grid((Axis(4, 25, 6, 4, 4), Axis(-10, 0, 10, 20, 0)))
        found = block_of(grid, (3, 0), task_id="smooth")
        assert found.read_roi == Roi((18, -30), (11, 30))
        assert found.write_roi == Roi((22, -10), (3, 10))
        assert (found.task_id, found.index) == ("smooth", (3, 0))
        assert found.block_id == ("smooth", cantor_number((3, 2)))
        assert found.status is BlockStatus.CREATED

    def test_of_rois_alone(self) -> None:
        assert block(16).index == (2,)
        assert block(16).block_id == (None, 2)
        assert block(16, task_id="smooth").block_id == ("smooth", 2)
        assert block(16, block_id=("smooth", 9)).block_id == ("smooth", 9)

    def test_rois_are_its_own(self) -> None:
        read, write = Roi((0,), (14,)), Roi((4,), (6,))
        found = Block(Roi((0,), (29,)), read, write)
        read.offset = write.offset = (100,)
        assert (found.read_roi, found.write_roi) == (Roi((0,), (14,)), Roi((4,), (6,)))

    def test_equality_is_identity_of_place(self) -> None:
        same = block(16, task_id="smooth")
        same.status = BlockStatus.SUCCESS
        assert same == block(16, task_id="smooth") != block(16, task_id="segment")
        assert len({same, block(16, task_id="smooth"), block(10, task_id="smooth")}) == 2
        assert block() != "block"

    def test_repr_says_what_it_is(self) -> None:
        assert repr(block(16, task_id="smooth")) == (
            "Block('smooth', index=(2,), read_roi=[12:26] (14), write_roi=[16:22] (6), "
            "status=CREATED)"
        )

    @given(grid_cases(empty=False))
    def test_whole_blocks_are_known_by_their_rois(self, case: GridCase) -> None:
        grid, (total, _, _) = case.grid, case.rois
        for index in grid:
            found = block_of(grid, index, task_id="t")
            if tuple(found.write_roi.shape) == grid.block_size:
                again = Block(total, found.read_roi, found.write_roi, task_id="t")
                assert again == found
