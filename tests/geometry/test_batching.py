from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import axis_cases, grid_cases

from snakemake_blocks.geometry.batching import Target, batch_shape
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases, context_reach
from snakemake_blocks.geometry.tiling import Axis, Grid

VAST = Grid((Axis(0, 64_000, 64, 20, 20),) * 3)
TARGETS = [Target.LOCAL, Target.CLUSTER]


def batch(
    grid: Grid, blocks_per_job: Any = "auto", *, target: Target = Target.LOCAL, **more: Any
) -> Index:
    known = {"reach": context_reach(grid), "has_setup": False, "max_workers": None, **more}
    return batch_shape(grid, blocks_per_job, target=target, **known)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Draw grids from one block to millions."""
    ndim = draw(st.integers(1, 4))
    most = int(10 ** (6 / ndim))
    return Grid(
        tuple(draw(axis_cases(most=most, fit="shrink", empty=False)).axis for _ in range(ndim))
    )


class TestNumbers:
    @pytest.mark.parametrize(
        "blocks_per_job, shape",
        [(1, (1, 1, 1)), (2, (2, 1, 1)), (8, (2, 2, 2)), (64, (4, 4, 4)), (70, (4, 4, 4))],
    )
    def test_a_number_becomes_a_cube(self, blocks_per_job: int, shape: Index) -> None:
        assert batch(VAST, blocks_per_job) == shape

    def test_cubes_are_cubes_in_the_world(self) -> None:
        flat = Grid((Axis(0, 4000, 40), Axis(0, 4000, 10)))
        assert batch(flat, 64) == (4, 16)

    def test_a_box_is_taken_as_it_is(self) -> None:
        assert batch(VAST, [4, 2, 1]) == (4, 2, 1)

    def test_nothing_is_larger_than_the_grid(self) -> None:
        small = Grid((Axis(0, 30, 10), Axis(0, 90, 10)))
        assert batch(small, [5, 5]) == (3, 5)
        assert batch(small, 12) == (3, 4)
        assert batch(small, 1000) == (3, 9)

    @given(grid_cases(empty=False), st.integers(1, 100))
    def test_the_shortest_axis_grows_while_there_is_room(self, case: Any, most: int) -> None:
        grid, grown = case.grid, [1] * case.grid.ndim
        room = True
        while room:
            pairs = enumerate(zip(grown, grid.axes, strict=True))
            extents = sorted((n * axis.step, a) for a, (n, axis) in pairs)
            sizes = [[n + (a == b) for b, n in enumerate(grown)] for _, a in extents]
            fits = [
                s for s in sizes if math.prod(s) <= most and grid.indices.covers(Box.from_shape(s))
            ]
            grown, room = (fits[0], True) if fits else (grown, False)
        assert batch(grid, most) == tuple(grown)

    def test_a_number_of_a_billion_is_no_effort(self) -> None:
        line = Grid((Axis(0, 10**10, 1),))
        assert batch(line, 10**9) == (10**9,)
        plate = Grid((Axis(0, 10**6, 1000), Axis(0, 10**10, 1)))
        assert batch(plate, 10**6 - 1) == (32, 31_249)

    @given(grid_cases(empty=False), st.integers(1, 100))
    def test_a_box_has_no_more_blocks_than_asked_for_and_cannot_grow(
        self, case: Any, most: int
    ) -> None:
        shape = case.grid.shape
        found = batch(case.grid, most)
        assert math.prod(found) <= most
        for axis, (size, n) in enumerate(zip(found, shape, strict=True)):
            assert 1 <= size <= n
            grown = (*found[:axis], size + 1, *found[axis + 1 :])
            assert size == n or math.prod(grown) > most


class TestAuto:
    @pytest.mark.parametrize(
        "target, few, then", [(Target.LOCAL, 400, 4), (Target.CLUSTER, 200, 2)]
    )
    def test_few_blocks_are_a_job_each(self, target: Target, few: int, then: int) -> None:
        assert batch(Grid((Axis(0, few * 10, 10),)), target=target) == (1,)
        assert batch(Grid((Axis(0, few * 10 + 1, 10),)), target=target) == (then,)

    @given(grids(), st.sampled_from(TARGETS))
    def test_the_number_of_jobs_is_bounded(self, grid: Grid, target: Target) -> None:
        found = batch(grid, target=target)
        jobs = math.prod(grid.coarsen(found).shape)
        few, most = {Target.LOCAL: (400, 128), Target.CLUSTER: (200, 200)}[target]
        if len(grid) <= few:
            assert jobs == len(grid)
        else:  # not far below either: there has to be enough to share out
            assert most / 2 ** (grid.ndim + 1) <= jobs <= most

    def test_a_billion_blocks_become_some_hundred_cubes(self) -> None:
        found = batch(VAST)
        assert max(found) - min(found) <= 20
        assert 60 <= math.prod(VAST.coarsen(found).shape) <= 128

    @given(grids(), st.integers(1, 20), st.sampled_from(TARGETS))
    def test_set_up_is_paid_once_per_worker(self, grid: Grid, workers: int, target: Target) -> None:
        """No phase has more jobs than there are workers."""
        found = batch(grid, has_setup=True, max_workers=workers, target=target)
        jobs = grid.coarsen(found)
        phases = Phases(jobs.shape, context_reach(jobs))
        assert len(phases.nodes(0)) <= workers  # phase 0 is the widest

    @pytest.mark.parametrize("workers", [1, 2, 3, 5, 15, 16, 31])
    def test_no_worker_is_left_without_a_job(self, workers: int) -> None:
        line = Grid((Axis(0, 10_000, 10),))
        found = batch(line, has_setup=True, max_workers=workers)
        assert 0.9 * workers < len(line.coarsen(found)) <= workers

    def test_without_max_workers_set_up_is_still_rare(self) -> None:
        alone = Grid((Axis(0, 10_000, 10),))
        assert math.prod(alone.coarsen(batch(alone, has_setup=True)).shape) == 4

    def test_a_number_given_is_kept_with_set_up(self) -> None:
        assert batch(VAST, 8, has_setup=True, max_workers=1) == (2, 2, 2)
