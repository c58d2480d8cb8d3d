from __future__ import annotations

import itertools

import numpy as np
import oracle
from hypothesis import given
from hypothesis import strategies as st
from strategies import GridCase, grid_cases, index_of, job_grids

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.plan.dependencies import JobGrid, needed_blocks, needed_jobs


@st.composite
def pairs(draw: st.DrawFn) -> tuple[tuple[GridCase, JobGrid], tuple[GridCase, JobGrid]]:
    """Draw a downstream and an upstream task of one dimension, each batched, maybe masked."""
    ndim = st.just(draw(st.integers(1, 4)))
    down, up = draw(grid_cases(ndim=ndim)), draw(grid_cases(ndim=ndim))
    return (down, draw(job_grids(down))), (up, draw(job_grids(up)))


def present(jobs: JobGrid, job: Index) -> list[Index]:
    """Return the blocks of a job that are not masked."""
    members = jobs.members(job)
    return [b for b, here in zip(members, jobs.presence(members).ravel(), strict=True) if here]


class TestByHand:
    FINE = Grid((Axis(0, 40, 10),))
    COARSE = Grid((Axis(0, 40, 20, 5, 5),))

    def test_a_block_needs_what_it_reads(self) -> None:
        assert needed_blocks(self.COARSE, (0,), self.FINE) == Box((0,), (3,))
        assert needed_blocks(self.COARSE, (1,), self.FINE) == Box((1,), (4,))

    def test_touching_is_not_needing(self) -> None:
        down = Grid((Axis(0, 40, 20, 10, 0),))
        assert needed_blocks(down, (1,), self.FINE) == Box((1,), (4,))

    def test_asymmetric_context(self) -> None:
        """daisy gets this wrong: block k reads k and k + 1, not k - 1."""
        down = Grid((Axis(0, 30, 10, 0, 10),))
        needs = [list(needed_blocks(down, (k,), self.FINE)) for k in range(3)]
        assert needs == [[(0,), (1,)], [(1,), (2,)], [(2,), (3,)]]

    def test_jobs_need_jobs(self) -> None:
        up, down = JobGrid(self.FINE, (3,)), JobGrid(self.COARSE, (1,))
        assert needed_jobs(down, (0,), up) == [(0,)]
        assert needed_jobs(down, (1,), up) == [(0,), (1,)]

    def test_nothing_written_there_is_nothing_needed(self) -> None:
        away = JobGrid(Grid((Axis(100, 140, 10),)), (1,))
        assert needed_jobs(JobGrid(self.FINE, (1,)), (0,), away) == []
        hidden = JobGrid(away.grid, (1,), np.ones(4, dtype=bool))
        assert needed_jobs(JobGrid(self.FINE, (1,)), (0,), hidden) == []

    def test_masked_blocks_are_no_reason_to_wait(self) -> None:
        up = JobGrid(self.FINE, (2,), np.array([True, True, False, True]))
        down = JobGrid(self.FINE, (1,))
        assert [needed_jobs(down, (k,), up) for k in range(4)] == [[(0,)], [(0,)], [], [(1,)]]
        down = JobGrid(self.FINE, (4,), np.array([False, False, True, False]))
        assert needed_jobs(down, (0,), JobGrid(self.FINE, (2,))) == [(1,)]

    def test_a_hole_between_two_readers(self) -> None:
        """A job reads around what its masked block would have read: the box has to be thinned."""
        down = JobGrid(self.FINE, (4,), np.array([True, False, False, True]))
        assert needed_jobs(down, (0,), JobGrid(self.FINE, (1,))) == [(0,), (3,)]

    def test_jobs_without_a_present_block_do_not_exist(self) -> None:
        jobs = JobGrid(self.FINE, (2,), np.array([False, False, False, True]))
        found = jobs.job_presence()
        assert found is not None and found.tolist() == [False, True]
        assert JobGrid(self.FINE, (2,)).job_presence() is None

    def test_jobs_of_blocks(self) -> None:
        jobs = JobGrid(self.FINE, (3,))
        assert jobs.jobs_of(Box((2,), (4,))) == Box((0,), (2,))
        assert not jobs.jobs_of(Box((2,), (2,)))

    def test_a_billion_blocks_are_no_effort(self) -> None:
        side = 10**3
        grid = Grid((Axis(0, side * 64, 64, 20, 20),) * 3)
        jobs = JobGrid(grid, (4, 4, 4))
        assert len(needed_jobs(jobs, (9, 9, 9), jobs)) == 27


class TestLaws:
    @given(pairs())
    def test_blocks_need_blocks_iff_they_overlap(
        self, pair: tuple[tuple[GridCase, JobGrid], tuple[GridCase, JobGrid]]
    ) -> None:
        (down, _), (up, _) = pair
        for index, (_, read) in down.blocks.items():
            wanted = [u for u, (write, _) in up.blocks.items() if oracle.meet(write, read)]
            assert list(needed_blocks(down.grid, index, up.grid)) == wanted

    @given(pairs())
    def test_jobs_need_jobs_iff_present_blocks_overlap(
        self, pair: tuple[tuple[GridCase, JobGrid], tuple[GridCase, JobGrid]]
    ) -> None:
        (down, down_jobs), (up, up_jobs) = pair
        writes, reads = up.blocks, down.blocks
        for job in down_jobs.jobs:
            wanted = [
                u
                for u in up_jobs.jobs
                if any(
                    oracle.meet(writes[b][0], reads[d][1])
                    for b, d in itertools.product(present(up_jobs, u), present(down_jobs, job))
                )
            ]
            assert needed_jobs(down_jobs, job, up_jobs) == wanted

    @given(st.data())
    def test_a_job_is_present_iff_a_block_is(self, data: st.DataObject) -> None:
        jobs = data.draw(job_grids(data.draw(grid_cases(empty=False))))
        found = jobs.job_presence()
        if found is not None:
            assert index_of(found) == [job for job in jobs.jobs if present(jobs, job)]

    @given(st.data())
    def test_jobs_of_is_the_smallest_box(self, data: st.DataObject) -> None:
        jobs = data.draw(job_grids(data.draw(grid_cases(empty=False))))
        corners = st.tuples(*(st.integers(0, n) for n in jobs.grid.shape))
        blocks = Box(data.draw(corners), data.draw(corners))
        inside = set(blocks)
        wanted = [job for job in jobs.jobs if inside & set(jobs.members(job))]
        assert list(jobs.jobs_of(blocks)) == wanted
