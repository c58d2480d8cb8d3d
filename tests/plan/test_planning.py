from __future__ import annotations

import hashlib
import itertools
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from declared import array, line, make_task, plan_of, roi, waits
from funlib.geometry import Roi
from hypothesis import given
from hypothesis import strategies as st
from strategies import FUNCTION

from snakemake_blocks.commands.generate import make_plan, to_pipeline
from snakemake_blocks.errors import PlanError, SpecError
from snakemake_blocks.geometry.batching import Target
from snakemake_blocks.plan.planning import pickles, plan_pipeline
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Read, Write
from snakemake_blocks.tasks.sources import FunctionFacts
from snakemake_blocks.tasks.task import Task


class TestDefectsOfDaisy:
    """What daisy gets wrong has a right answer here, or a clear error.

    ==========================================  ====================================================
    Where daisy crashes, hangs or is silent     Test
    ==========================================  ====================================================
    context on one side only, in a chain        test_downstream_with_asymmetric_context
    upstream region larger than downstream's    test_upstream_larger_than_downstream
    downstream region larger than upstream's    test_downstream_larger_than_upstream; what is read
                                                there is refused by the proof, see test_check
    gap of a `valid` upstream task that one     test_a_gap_left_by_valid_that_one_block_reads; it is
    block reads                                 refused by the proof likewise
    last block reads nothing upstream           test_a_last_block_that_reads_nothing_of_its_upstream
    two tasks of one name                       test_duplicate_task_id
    tasks that wait for one another             test_cyclic_tasks
    no block at all                             test_no_block_at_all
    writing outside of what is read             test_writing_outside_of_what_is_read
    masks and results are counted differently   test_one_index_for_masks_ids_and_results
    the same ids recur in every region          test_the_same_ids_in_every_region_are_no_reason_...
    ==========================================  ====================================================
    """

    def test_downstream_with_asymmetric_context(self) -> None:
        """1.2.3 crashes, 2.0.0 hangs."""
        up = Task("a", roi(0, 40), roi(0, 10), roi(0, 10), FUNCTION, read_write_conflict=False)
        down = Task("b", roi(0, 40), roi(0, 20), roi(0, 10), FUNCTION, upstream_tasks=[up])
        plan = make_plan(down)
        assert plan.tasks["b"].num_blocks == 3
        assert [waits(plan)["b", (k,)][-2:] for k in range(3)] == [
            [("a", (k,)), ("a", (k + 1,))] for k in range(3)
        ]

    def test_upstream_larger_than_downstream(self) -> None:
        """1.2.3 crashes."""
        up = line("a", blocks=9, context=0)
        down = make_task(
            task_id="b",
            total_roi=roi(40, 10),
            read_roi=roi(0, 10),
            write_roi=roi(0, 10),
            upstream_tasks=[up],
        )
        assert waits(make_plan(down))["b", (0,)] == [("a", (4,))]
        assert make_plan(down).tasks["a"].num_jobs == 9

    def test_downstream_larger_than_upstream(self) -> None:
        """1.2.3 hangs. Blocks that read nothing of the upstream task wait for nothing."""
        up = line("a", blocks=2, context=0, read_write_conflict=False)
        down = line("b", blocks=5, context=0, read_write_conflict=False, upstream_tasks=[up])
        found = waits(make_plan(down))
        assert [found["b", (k,)] for k in range(5)] == [[("a", (0,))], [("a", (1,))], [], [], []]

    def test_a_gap_left_by_valid_that_one_block_reads(self) -> None:
        """Both versions hang. The upstream task writes [0, 18) of 20."""
        up = make_task(task_id="a", total_roi=roi(0, 20), read_roi=roi(0, 6), write_roi=roi(0, 6))
        down = make_task(
            task_id="b",
            total_roi=roi(0, 20),
            read_roi=roi(0, 2),
            write_roi=roi(0, 2),
            upstream_tasks=[up],
        )
        found = waits(make_plan(down))
        assert [found["b", (k,)] for k in range(7, 10)] == [[("a", (2,))], [("a", (2,))], []]

    def test_a_last_block_that_reads_nothing_of_its_upstream(self) -> None:
        """Both versions leave it pending for ever."""
        up = make_task(
            task_id="a",
            total_roi=roi(-2, 9),
            read_roi=roi(0, 5),
            write_roi=roi(0, 5),
            fit="shrink",
        )
        down = make_task(
            task_id="b",
            total_roi=roi(-8, 20),
            read_roi=roi(0, 7),
            write_roi=roi(2, 3),
            fit="overhang",
            read_write_conflict=False,
            upstream_tasks=[up],
        )
        plan = make_plan(down)
        grid = plan.tasks["b"].grid
        assert grid.read((5,)).begin[0] >= plan.tasks["a"].grid.extent.end[0]
        found = waits(plan)
        assert len(grid) == 6
        assert [len(found["b", (k,)]) for k in range(6)] == [1, 1, 2, 2, 1, 0]

    def test_duplicate_task_id(self) -> None:
        """1.2.3 drops the second one silently."""
        with pytest.raises(SpecError, match="there are 2 different tasks of this name"):
            make_plan([line("a"), line("a", blocks=7)])

    def test_cyclic_tasks(self) -> None:
        """1.2.3 loops for ever."""
        later: list[Task] = []
        first = line("a", upstream_tasks=later)
        later.append(line("b", upstream_tasks=[first]))
        with pytest.raises(SpecError, match="wait for one another; cut one"):
            make_plan(first)

    @pytest.mark.parametrize("conflict", [True, False])
    def test_no_block_at_all(self, conflict: bool) -> None:
        """Both versions crash with the conflict flag."""
        with pytest.raises(SpecError, match=r"no block of \(6\) fits into \(4\)"):
            make_task(total_roi=roi(0, 12), read_write_conflict=conflict)

    @pytest.mark.parametrize("conflict", [True, False])
    def test_writing_outside_of_what_is_read(self, conflict: bool) -> None:
        """Both versions accept it."""
        with pytest.raises(SpecError, match="does not contain the write Roi"):
            make_task(read_roi=roi(0, 8), write_roi=roi(4, 6), read_write_conflict=conflict)

    def test_one_index_for_masks_ids_and_results(self) -> None:
        """In 2.0.0 a mask has cell k, the done array cell k + floor(context / block)."""
        present = np.array([True, True, False, True])
        wide = make_task(
            total_roi=roi(0, 90), read_roi=roi(0, 60), write_roi=roi(25, 10), present=present
        )
        plan = make_plan(wide)
        blocks = sorted(plan.blocks("smooth"), key=lambda block: block.index)
        assert [(b.index, b.block_id[1], int(b.write_roi.begin[0])) for b in blocks] == [
            ((0,), 2, 25),
            ((1,), 3, 35),
            ((3,), 5, 55),
        ]

    def test_the_same_ids_in_every_region_are_no_reason_to_skip_one(self) -> None:
        """Files are named by index, and the plan knows where it begins."""
        here, there = (
            make_plan(make_task(total_roi=roi(begin, 50), read_write_conflict=False))
            for begin in (0, 1000)
        )
        assert [b.block_id for b in here.blocks("smooth")] == [
            b.block_id for b in there.blocks("smooth")
        ]
        assert here.fingerprint != there.fingerprint


class TestSharedChunks:
    def plan(self, chunk: int, **more: Any) -> Any:
        write = Write(array(shape=(60,), chunks=(chunk,)))
        known = {"blocks": 6, "context": 0, "blocks_per_job": 1, "writes": {"out": write}}
        return plan_of(line(**{**known, **more})).tasks["smooth"]

    def test_blocks_that_share_a_chunk_conflict(self) -> None:
        assert self.plan(10).num_phases == 1
        assert self.plan(20).num_phases == 2
        assert self.plan(30).num_phases == 3
        assert self.plan(20, read_write_conflict=False).num_phases == 2

    def test_jobs_of_whole_chunks_do_not(self) -> None:
        found = self.plan(20, blocks_per_job=2)
        assert found.num_phases == 1
        assert found.reach == (1,)  # inside a job the order still holds

    def test_refuse_does_not_colour(self) -> None:
        assert self.plan(20, chunks="refuse").num_phases == 1
        assert self.plan(20, chunks="refuse", context=4).num_phases == 2

    def test_the_larger_reach_counts(self) -> None:
        assert self.plan(40, context=4).num_phases == 4
        assert self.plan(20, context=34).num_phases == 5

    def test_channels_are_no_axes_of_the_grid(self) -> None:
        rgb = {c: Write(array(shape=(60,), channels=(3,), chunks=(3, c))) for c in (10, 20)}
        assert self.plan(10, writes={"out": rgb[10]}).num_phases == 1
        assert self.plan(20, writes={"out": rgb[20]}).num_phases == 2

    def test_chunks_are_counted_in_voxels(self) -> None:
        coarse = Write(array(shape=(12,), voxel_size=(5,), chunks=(2,)))
        assert self.plan(2, writes={"out": coarse}).num_phases == 1
        assert (
            self.plan(2, writes={"out": Write(replace(coarse.array, chunks=(4,)))}).num_phases == 2
        )


RAW = array(path="raw.zarr")
OUT = array(path="out.zarr", shape=(100,))


def computing(**more: Any) -> Task:
    known = {"reads": {"raw": Read(RAW, 0)}, "writes": {"out": Write(OUT)}, "context": 2, **more}
    return line(**{"params": {"sigma": 2, "mode": "reflect"}, **known})


def fingerprint(**more: Any) -> int:
    (found,) = plan_of(computing(**more)).tasks.values()
    return found.fingerprint


def reading(**change: Any) -> dict[str, Any]:
    return {"reads": {"raw": Read(replace(RAW, **change), 0)}}


def writing(**change: Any) -> dict[str, Any]:
    return {"writes": {"out": Write(replace(OUT, **change))}}


class TestFingerprint:
    @pytest.mark.parametrize(
        "change",
        [
            {},
            {"blocks": 9},
            {"blocks_per_job": 2},
            {"fit": "shrink"},
            {"max_retries": 7},
            {"timeout": 5},
            {"num_workers": 8, "workers": 2, "threads": 2, "resources": {"mem_mb": 5}},
            {"check_function": FUNCTION},
            {"chunks": "refuse"},
            {"params": {"mode": "reflect", "sigma": 2}},
            {"present": np.array([True, False, True, True])},
            reading(shape=(90,), chunks=(30,)),
            writing(shape=(90,), chunks=(5,), exists=False),
        ],
        ids=str,
    )
    def test_ignores_what_does_not_change_a_block(self, change: dict[str, Any]) -> None:
        assert fingerprint(**change) == fingerprint()

    def test_ignores_a_region_grown_by_whole_blocks(self) -> None:
        one, other = (
            make_task(total_roi=roi(begin, end - begin), read_roi=roi(0, 10), write_roi=roi(0, 10))
            for begin, end in ((0, 50), (-30, 70))
        )
        assert (
            plan_of(one).tasks["smooth"].fingerprint == plan_of(other).tasks["smooth"].fingerprint
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"name": "other"},
            {"params": {"sigma": 3, "mode": "reflect"}},
            {"params": {"sigma": 2, "mode": "reflect", "more": None}},
            {"context": 3},
            {"process_function": "os.path:exists"},
            {"read_write_conflict": False},
            {"call": "arrays"},
            {"mask": array(path="mask.zarr")},
            {"reads": {"raw": Read(RAW, 1)}},
            {"reads": {"raw": Read(RAW)}},
            {"reads": {"other": Read(RAW, 0)}},
            {"reads": {}},
            reading(path="raw2.zarr"),
            reading(dtype="uint16"),
            reading(offset=(1,)),
            reading(voxel_size=(2,)),
            writing(path="out2.zarr"),
            writing(dtype="float32"),
            writing(channels=(3,), chunks=(3, 10)),
        ],
        ids=str,
    )
    def test_reacts_to_what_changes_a_block(self, change: dict[str, Any]) -> None:
        assert fingerprint(**change) != fingerprint()

    def test_knows_the_order_inside_of_a_parameter(self) -> None:
        steps = ({"sharpen": 1, "blur": 2}, {"blur": 2, "sharpen": 1})
        one, other = (fingerprint(params={"steps": each}) for each in steps)
        assert one != other

    @pytest.mark.parametrize(
        "total, read, write",
        [
            (roi(1, 40), roi(0, 10), roi(0, 10)),  # the grid is moved
            (roi(0, 40), roi(0, 8), roi(0, 8)),  # another block size
            (roi(-1, 41), roi(0, 11), roi(1, 10)),  # context below
            (roi(0, 41), roi(0, 11), roi(0, 10)),  # context above
        ],
    )
    def test_reacts_to_geometry(self, total: Roi, read: Roi, write: Roi) -> None:
        plain = make_task(total_roi=roi(0, 40), read_roi=roi(0, 10), write_roi=roi(0, 10))
        other = make_task(total_roi=total, read_roi=read, write_roi=write)
        assert (
            plan_of(plain).tasks["smooth"].fingerprint != plan_of(other).tasks["smooth"].fingerprint
        )

    def test_masks_of_different_name_differ(self) -> None:
        one, other = (fingerprint(mask=array(path=f"{n}.zarr")) for n in "ab")
        assert one != other


class TestBatches:
    def test_auto_is_kept(self) -> None:
        """What a plan in place has resolved stays, however the region grows."""
        before = plan_of(line(blocks=900))
        assert before.tasks["smooth"].jobs.batch == (8,)
        assert plan_of(line(blocks=9000), before=before).tasks["smooth"].jobs.batch == (8,)
        assert plan_of(line(blocks=9000)).tasks["smooth"].num_jobs <= 400

    def test_another_target_resolves_it_anew(self) -> None:
        before = plan_of(line(blocks=900))
        again = plan_of(line(blocks=900), before=before, target=Target.CLUSTER)
        assert again.tasks["smooth"].jobs.batch == (5,)

    def test_what_is_given_wins(self) -> None:
        before = plan_of(line(blocks=900))
        again = plan_of(line(blocks=900, blocks_per_job=7), before=before)
        assert again.tasks["smooth"].jobs.batch == (7,)
        assert plan_of(line(blocks=900), before=again).tasks["smooth"].jobs.batch == (8,)

    @pytest.mark.parametrize("call, has_setup", [("block", True), ("worker", False)])
    def test_set_up_gets_as_many_jobs_as_workers(self, call: str, has_setup: bool) -> None:
        pipeline = to_pipeline(line(blocks=100, call=call, num_workers=3))
        facts = {"smooth": FunctionFacts(has_setup=has_setup)}
        phases = plan_pipeline(pipeline, facts=facts).tasks["smooth"].phases
        assert [len(phases.nodes(p)) for p in range(len(phases))] == [3, 3]


class TestDepth:
    def test_too_many_phases(self) -> None:
        deep = line(blocks=1000, context=4990, blocks_per_job=1)
        with pytest.raises(PlanError, match=r"task smooth: a chain of \d+ jobs .* larger blocks"):
            plan_of(deep)

    def test_larger_jobs_help(self) -> None:
        assert plan_of(line(blocks=1000, context=4990)).tasks["smooth"].num_phases <= 400

    def test_too_many_tasks_in_a_row(self) -> None:
        tasks = [line("t0")]
        for k in range(1, 250):
            tasks.append(line(f"t{k}", after=[f"t{k - 1}"]))
        assert plan_of(*tasks[:200]).tasks["t199"].num_phases == 2
        with pytest.raises(PlanError, match="task t249: a chain of 500 jobs"):
            plan_of(*tasks)

    def test_tasks_side_by_side_do_not_add_up(self) -> None:
        assert len(plan_of(*(line(f"t{k}") for k in range(300))).tasks) == 300


class TestFunctions:
    def test_functions_without_a_name_are_pickled(self) -> None:
        anonymous = line(process_function=lambda block: None)
        found = pickles(to_pipeline([anonymous, line("named")]))
        (digest,) = found
        assert hashlib.sha256(found[digest]).hexdigest() == digest
        assert plan_of(anonymous).tasks["smooth"].operation.function.pickle == digest


DESCRIBE = """
import sys
import numpy as np
from funlib.geometry import Roi
from pathlib import Path
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.tasks.task import Task

def square(offset, side):
    return Roi((offset,) * 2, (side,) * 2)

holes = [[0, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]]
params = {"names": dict.fromkeys(["x", "b", "zeta", "alpha"], 1.5), "sigma": [1, 2]}
first = Task("first", square(-5, 50), square(-5, 20), square(0, 10), "os.path:join", params=params)
masked = Task(
    "a masked one", Roi((-15, -5), (70, 50)), Roi((-15, -5), (40, 20)), square(0, 10),
    "os.path:join", upstream_tasks=[first], present=np.array(holes, dtype=bool),
    resources={"runtime": 5, "mem_mb": 100},
)
pipeline = Pipeline.from_tasks([masked], folder=Path("."), run_directory=Path("blocks"))
plan = plan_pipeline(pipeline, facts={})
assert plan.tasks["a masked one"].num_phases == 5
out = sys.stdout.buffer
out.write(plan.to_bytes())
out.write(plan.mask_bytes(plan.tasks["a masked one"]))
for name in plan.tasks:
    for job in plan.jobs(name):
        out.write(f"{job.sentinel} {job.inputs}".encode())
"""


def test_the_same_pipeline_gives_the_same_bytes_in_any_process() -> None:
    """Also where a solver coloured the jobs."""
    answers = [
        subprocess.run(
            [sys.executable, "-c", DESCRIBE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "20")
    ]
    assert len(answers[0]) > 1000
    assert answers[0] == answers[1]


class TestScale:
    """What planning may cost, without a clock."""

    @pytest.mark.parametrize("shape", [(10**9,), (1, 10**9), (10**3,) * 3, (178,) * 4])
    @pytest.mark.parametrize("blocks_per_job", ["auto", 1, 64])
    def test_a_billion_blocks(self, shape: tuple[int, ...], blocks_per_job: Any) -> None:
        ndim = len(shape)
        total = Roi((-20,) * ndim, [n * 64 + 40 for n in shape])
        block = {"read_roi": roi(-20, 104, ndim), "write_roi": roi(0, 64, ndim)}
        write = Write(
            ArrayInfo(
                "out.zarr",
                (0,) * ndim,
                (1,) * ndim,
                tuple(n * 64 for n in shape),
                (),
                "uint8",
                (48,) * ndim,
            )
        )
        up = make_task(task_id="up", total_roi=total, **block, blocks_per_job=blocks_per_job)
        down = make_task(
            task_id="down",
            total_roi=total,
            **block,
            blocks_per_job=blocks_per_job,
            writes={"out": write},
            upstream_tasks=[up],
        )
        tracemalloc.start()
        plan = make_plan(down)
        found = plan.tasks["down"]
        assert found.num_blocks == math.prod(shape) > 10**9 - 10**7
        assert len(plan.to_bytes()) < 10_000
        jobs = list(itertools.islice(plan.jobs("down"), 20))
        assert all(job.inputs for job in jobs)
        assert len(list(itertools.islice(plan.blocks("down"), 20))) == 20
        last = found.job_index(found.num_jobs - 1)
        assert len(found.phases.predecessors(last)) <= 2
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50 * 2**20

    def test_an_upstream_mask_is_all_that_grows(self) -> None:
        """A masked task costs a few bytes per block, not per job a look at every block."""
        side = 200
        present = np.zeros((side, side, side), dtype=bool)
        present[::3] = True
        masked = make_task(
            total_roi=roi(-2, side * 10 + 4, 3),
            read_roi=roi(-2, 14, 3),
            write_roi=roi(0, 10, 3),
            present=present,
        )
        tracemalloc.start()
        plan = make_plan(masked)
        assert plan.tasks["smooth"].num_blocks == present.sum()
        assert next(iter(plan.jobs("smooth"))).inputs == []
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50 * 2**20


class TestGroups:
    """Blocks that are stored together: where there are shards, and they have no order."""

    def plan(self, chunk: int, **more: Any) -> Any:
        write = Write(array(shape=(60,), chunks=(chunk,)), shards=True)
        known = {"blocks": 6, "context": 0, "writes": {"out": write}, "call": "arrays"}
        return plan_of(line(**{**known, **more})).tasks["smooth"]

    @pytest.mark.parametrize(
        ("chunk", "blocks_per_job", "expected"),
        [
            (10, 1, ((), (1,), 1)),
            (20, 2, ((2,), (2,), 1)),
            (20, 1, ((2,), (2,), 1)),  # a job has one box at least
            (20, 5, ((2,), (4,), 1)),
            (20, "auto", ((2,), (2,), 1)),
            (20, [3], ((), (3,), 2)),  # a shape that is given stays
            (100, [6], ((10,), (6,), 1)),
            (15, 1, ((), (1,), 2)),  # no whole blocks
            (5, 1, ((), (1,), 1)),  # a block is several shards
        ],
    )
    def test_by_hand(self, chunk: int, blocks_per_job: Any, expected: tuple[Any, ...]) -> None:
        found = self.plan(chunk, blocks_per_job=blocks_per_job)
        assert (found.group, found.jobs.batch, found.num_phases) == expected

    def test_blocks_with_an_order_are_stored_by_themselves(self) -> None:
        out = array(shape=(60,), chunks=(20,))
        found = self.plan(
            20, context=4, reads={"own": Read(out, 0)}, writes={"out": Write(out, shards=True)}
        )
        assert (found.group, found.num_phases > 1) == ((), True)
        assert self.plan(20, call="block", context=4).group == ()
        assert self.plan(20, call="block", context=4, read_write_conflict=False).group == (2,)

    def test_an_array_that_lies_elsewhere_has_none(self) -> None:
        shifted = array(shape=(60,), offset=(-5,), chunks=(20,))
        assert self.plan(20, writes={"out": Write(shifted, shards=True)}).group == ()

    def test_of_two_arrays_it_is_whole_for_both(self) -> None:
        writes = {
            name: Write(array(path=name, shape=(60,), chunks=(chunk,)), shards=True)
            for name, chunk in (("a", 20), ("b", 30))
        }
        assert self.plan(20, writes=writes).group == (6,)

    def test_without_shards_nothing_changes(self) -> None:
        out = Write(array(shape=(60,), chunks=(20,)))
        found = self.plan(20, writes={"out": out}, blocks_per_job=1)
        assert (found.group, found.jobs.batch, found.num_phases) == ((), (1,), 2)

    @given(
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9)), min_size=1,
                 max_size=3),
        st.one_of(st.integers(1, 40), st.just("auto")),
    )  # fmt: skip
    def test_blocks_that_share_a_file_are_in_one_box_of_one_job_or_have_an_order(
        self, axes: list[tuple[int, int, int]], blocks_per_job: Any
    ) -> None:
        """Against every pair of blocks; per axis: blocks, voxels of a block, blocks or voxels."""
        shape, size, chunk = zip(*axes, strict=True)
        chunks = tuple(c * s if c % 2 else c for s, c in zip(size, chunk, strict=True))
        voxels = tuple(n * s for n, s in zip(shape, size, strict=True))
        none = (0,) * len(axes)
        out = array(len(axes), shape=voxels, chunks=chunks)
        block = Roi(none, size)
        task = make_task(
            total_roi=Roi(none, voxels), read_roi=block, write_roi=block, call="arrays",
            writes={"out": Write(out, shards=True)}, blocks_per_job=blocks_per_job,
        )  # fmt: skip
        planned = plan_of(task).tasks["smooth"]
        files = {
            index: set(out.files(out.stored(out.voxels(planned.grid.write(index)))))
            for index in planned.grid
        }
        for one, other in itertools.combinations(planned.grid, 2):
            if files[one] & files[other]:
                job, its = planned.job_of(one), planned.job_of(other)
                if planned.group:
                    boxes = [
                        tuple(k // g for k, g in zip(i, planned.group, strict=True))
                        for i in (one, other)
                    ]
                    assert job == its
                    assert boxes[0] == boxes[1]
                else:
                    assert planned.order(one) != planned.order(other)
