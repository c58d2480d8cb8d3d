from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from declared import array, line, make_task, plan_of, roi, waits
from hypothesis import given
from hypothesis import strategies as st
from strategies import GridCase, pipelines

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.paths import SentinelName
from snakemake_blocks.plan.plan import DamagedPlanError, Plan
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.tasks.operation import Write
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Chunks, Task


def share(task: Task, one: Index, other: Index) -> bool:
    """Tell whether two blocks write one storage chunk, where that is a reason to wait."""

    def chunks(block: Index, write: Write) -> Box:
        array, region = write.array, task.grid.write(block)
        sizes = array.chunks[len(array.channels) :]
        per_axis = list(zip(region.begin, region.end, array.offset, sizes, strict=True))
        return Box(
            tuple((b - o) // c for b, _, o, c in per_axis),
            tuple((e - 1 - o) // c + 1 for _, e, o, c in per_axis),
        )

    writes = task.operation.writes.values() if task.chunks is Chunks.COLOR else ()
    return any(chunks(one, write).meets(chunks(other, write)) for write in writes)


class TestByHand:
    def test_counts(self) -> None:
        found = plan_of(line(blocks=10, blocks_per_job=2)).tasks["smooth"]
        assert (found.num_blocks, found.num_masked, found.num_jobs) == (10, 0, 5)
        assert found.num_phases == 2

    def test_counts_of_a_masked_task(self) -> None:
        present = np.array([True, True, False, False, True])
        found = plan_of(line(blocks=5, present=present, blocks_per_job=2)).tasks["smooth"]
        assert (found.num_blocks, found.num_masked, found.num_jobs) == (3, 2, 2)
        assert found.num_phases == 1
        assert [found.job_number(i) for i in [(0,), (2,)]] == [0, 1]
        assert [found.job_index(n) for n in range(2)] == [(0,), (2,)]
        assert list(found.blocks_of((0,))) == [(0,), (1,)]

    def test_jobs_come_phase_by_phase(self) -> None:
        plan = plan_of(line())
        jobs = [(job.name, job.phase, job.conflicts) for job in plan.jobs("smooth")]
        first, third = "blocks/smooth/p0/0/0.json", "blocks/smooth/p0/0/2.json"
        assert jobs == [
            ("smooth/0", 0, []),
            ("smooth/2", 0, []),
            ("smooth/1", 1, [first, third]),
            ("smooth/3", 1, [third]),
        ]

    def test_a_job_knows_its_files_and_blocks(self) -> None:
        plan = plan_of(line("dummy:1", blocks_per_job=3))
        job = next(plan.jobs("dummy:1"))
        assert job.name == "dummy:1/0"
        assert job.sentinel == "blocks/x_dummy_3a_1/p0/0/0.json"
        assert job.log == "blocks/x_dummy_3a_1/logs/0/0.log"
        assert [block.block_id for block in job.blocks()] == [("dummy:1", k) for k in range(3)]

    def test_a_job_waits_for_what_it_reads(self) -> None:
        up = line("up", context=0, read_write_conflict=False)
        plan = plan_of(line("down", upstream_tasks=[up], read_write_conflict=False))
        assert waits(plan)["down", (0,)] == [("up", (0,)), ("up", (1,))]
        assert waits(plan)["down", (2,)] == [("up", (1,)), ("up", (2,)), ("up", (3,))]

    def test_a_block_sees_only_output_that_is_done(self) -> None:
        """Blocks share chunks in pairs; the jobs are these pairs and wait for nobody."""
        write = Write(array(shape=(60,), chunks=(20,)))
        pairs = line(blocks=6, blocks_per_job=2, read_write_conflict=False, writes={"out": write})
        found = plan_of(pairs).tasks["smooth"]
        assert found.num_phases == 1
        assert [found.visible_output((k,)) for k in range(4)] == [
            [],
            [Box((0,), (10,))],
            [],
            [Box((20,), (30,))],
        ]

    def test_blocks_of_all_jobs(self) -> None:
        plan = plan_of(line(blocks=5, blocks_per_job=2, read_write_conflict=False))
        assert [block.index for block in plan.blocks("smooth")] == [(k,) for k in range(5)]

    def test_many_upstream_jobs_are_waited_for_through_the_tree(self) -> None:
        up = line("up", blocks=1000, context=0, blocks_per_job=1)
        down = line("down", blocks=1, context=5000, upstream_tasks=[up])
        plan = plan_of(down)
        (job,) = plan.jobs("down")
        assert job.upstream == [f"blocks/up/tree/1/{node}.json" for node in range(4)]

    def test_a_part_of_the_tree_is_enough(self) -> None:
        up = line("up", blocks=1000, context=0, blocks_per_job=1)
        down = make_task(
            task_id="down",
            total_roi=roi(3000, 2000),
            read_roi=roi(3000, 2000),
            write_roi=roi(3000, 2000),
            upstream_tasks=[up],
        )
        (job,) = plan_of(down).jobs("down")
        assert job.upstream == [f"blocks/up/tree/1/{node}.json" for node in (2, 3)]

    def test_the_tree_counts_only_jobs_that_exist(self) -> None:
        present = np.arange(1000) % 2 == 1
        up = line("up", blocks=1000, context=0, blocks_per_job=1, present=present)
        (job,) = plan_of(line("down", blocks=1, context=5000, upstream_tasks=[up])).jobs("down")
        found = plan_of(up).tasks["up"]
        wanted = [found.job_number((k,)) for k in range(0, 501) if k % 2]
        assert job.upstream == [
            f"blocks/up/tree/1/{node}.json" for node in sorted({n // 128 for n in wanted})
        ]


class TestJobAt:
    PLAN = plan_of(line(blocks=4))

    def find(self, path: str) -> Any:
        return self.PLAN.job_at(SentinelName.from_path(Path(path)))

    def test_finds_every_job(self) -> None:
        for job in self.PLAN.jobs("smooth"):
            assert self.find(job.sentinel).index == job.index

    @pytest.mark.parametrize(
        "path, message",
        [
            ("blocks/other/p0/0/0.json", "the plan has no task other; plan again"),
            ("blocks/smooth/p1/0/0.json", "the plan has no job p1/0/0 of task smooth"),
            ("blocks/smooth/p0/0/4.json", "the plan has no job p0/0/4 of task smooth"),
            ("blocks/smooth/p0/0-0/0-0.json", "the plan has no job p0/0-0/0-0 of task smooth"),
        ],
    )
    def test_refuses_others(self, path: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            self.find(path)

    def test_refuses_masked_jobs(self) -> None:
        plan = plan_of(line(present=np.array([True, False, True, True])))
        with pytest.raises(InputError, match="no job p0/0/1"):
            plan.job_at(SentinelName.from_path(Path("blocks/smooth/p0/0/1.json")))


def stored(plan: Plan, root: Path) -> Plan:
    """Return the plan after a round trip over files."""
    paths = plan.paths
    for task in plan.tasks.values():
        if task.jobs.present is not None:
            path = root / paths.mask(task.slug)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plan.mask_bytes(task))
    (root / paths.plan).parent.mkdir(parents=True, exist_ok=True)
    (root / paths.plan).write_bytes(plan.to_bytes())
    return Plan.load(root / "blocks")


class TestFile:
    def test_everything_comes_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        first = line("a b", present=np.array([True, False, True, True]), params={"sigma": [1, 2.5]})
        plan = plan_of(
            line("down", upstream_tasks=[first], check_function=(None, "os.path:exists"), timeout=3)
        )
        again = stored(plan, Path("."))
        assert again.to_bytes() == plan.to_bytes()
        assert again.fingerprint == plan.fingerprint
        assert waits(again) == waits(plan)
        assert again.tasks["a b"].operation.params == {"sigma": [1, 2.5]}
        assert again.tasks["down"].operation.check_after == plan.tasks["down"].operation.check_after

    def test_its_size_does_not_depend_on_the_number_of_blocks(self) -> None:
        small, large = plan_of(line(blocks=10)), plan_of(line(blocks=10**9))
        assert len(large.to_bytes()) < len(small.to_bytes()) + 50

    def test_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no plan; run `snakemake-blocks generate`"):
            Plan.load(tmp_path)

    @pytest.mark.parametrize("kept", [0, 1, 100, -3])
    def test_a_torn_one_is_refused(self, tmp_path: Path, kept: int) -> None:
        (tmp_path / "plan.json").write_bytes(plan_of(line()).to_bytes()[:kept])
        with pytest.raises(InputError, match=r"plan\.json: is damaged .*; plan again"):
            Plan.load(tmp_path)

    def test_another_format_is_refused(self, tmp_path: Path) -> None:
        data = json.loads(plan_of(line()).to_bytes())
        (tmp_path / "plan.json").write_text(json.dumps({**data, "format": 99}))
        with pytest.raises(
            InputError, match="has format 99, this version reads 1: it was made by a newer"
        ):
            Plan.load(tmp_path)

    @pytest.mark.parametrize("damage", ["missing", "changed"])
    def test_a_mask_that_is_not_the_plans_is_refused(self, tmp_path: Path, damage: str) -> None:
        plan = plan_of(line(present=np.array([True, False, True, True])))
        stored(plan, tmp_path)
        mask = tmp_path / plan.paths.mask("smooth")
        if damage == "missing":
            mask.unlink()
        else:
            other = plan_of(line(present=np.array([True, True, True, False])))
            mask.write_bytes(other.mask_bytes(other.tasks["smooth"]))
        with pytest.raises(InputError, match="is missing or not the one that the plan names"):
            Plan.load(tmp_path / "blocks")

    @given(pipelines(), st.uuids())
    def test_law(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        case: tuple[Pipeline, dict[str, GridCase]],
        unique: Any,
    ) -> None:
        plan = plan_pipeline(case[0], facts={})
        again = stored(plan, tmp_path_factory.getbasetemp() / str(unique))
        assert list(again.tasks) == list(plan.tasks)
        for name, task in plan.tasks.items():
            assert again.tasks[name].fingerprint == task.fingerprint
            assert [job.index for job in again.jobs(name)] == [job.index for job in plan.jobs(name)]
            assert list(again.blocks(name)) == list(plan.blocks(name))


class TestLaws:
    """A plan against the oracle: nothing that must wait can run, and nothing else waits."""

    @given(pipelines())
    def test_every_present_block_is_in_exactly_one_job(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        pipeline, cases = case
        plan = plan_pipeline(pipeline, facts={})
        for task in pipeline.tasks:
            blocks = [block.index for block in plan.blocks(task.task_id)]
            here = np.ones(task.grid.shape) if task.present is None else task.present
            assert sorted(blocks) == [i for i in cases[task.task_id].blocks if here[i]]
            found = plan.tasks[task.task_id]
            assert found.num_blocks == len(blocks)
            assert found.num_jobs == len(list(plan.jobs(task.task_id)))
            numbers = sorted(found.job_number(job.index) for job in plan.jobs(task.task_id))
            assert numbers == list(range(found.num_jobs))
            assert all(found.job_number(found.job_index(n)) == n for n in numbers)

    @given(pipelines())
    def test_conflicting_blocks_are_ordered(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        """By a path between their jobs, or by their phases inside one job."""
        pipeline, cases = case
        plan = plan_pipeline(pipeline, facts={})
        before = oracle.ancestors(waits(plan))
        for task in pipeline.tasks:
            name, found = task.task_id, plan.tasks[task.task_id]
            blocks = cases[name].blocks
            homes = [(b.index, (name, job.index)) for job in plan.jobs(name) for b in job.blocks()]
            for (one, here), (other, there) in itertools.combinations(homes, 2):
                reading = oracle.conflict(blocks[one], blocks[other])
                if not (share(task, one, other) or (reading and task.read_write_conflict)):
                    continue
                if here == there:
                    assert found.block_phases.of(one) != found.block_phases.of(other)
                else:
                    assert here in before[there]
                    assert found.order(one) < found.order(other)

    @given(pipelines())
    def test_what_a_block_sees_of_its_own_task_is_done(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        """And with the flag, of two blocks that read each other one sees the other."""
        pipeline, cases = case
        plan = plan_pipeline(pipeline, facts={})
        before = oracle.ancestors(waits(plan))
        for task in pipeline.tasks:
            name, found = task.task_id, plan.tasks[task.task_id]
            blocks = cases[name].blocks
            sees: dict[Index, set[Index]] = {}
            for block in plan.blocks(name):
                regions = found.visible_output(block.index)
                seen = [next(iter(task.grid.writing(region))) for region in regions]
                assert [task.grid.write(u) for u in seen] == regions
                sees[block.index] = set(seen)
            for block, seen_by in sees.items():
                here = (name, found.job_of(block))
                for other in seen_by:
                    earlier = found.block_phases.of(other) < found.block_phases.of(block)
                    there = (name, found.job_of(other))
                    assert earlier if here == there else there in before[here]
                    assert other in sees
            for one, other in itertools.combinations(sees, 2):
                if task.read_write_conflict and oracle.conflict(blocks[one], blocks[other]):
                    assert (one in sees[other]) != (other in sees[one])

    @given(pipelines())
    def test_without_a_reason_nothing_waits_inside_a_task(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        plan = plan_pipeline(case[0], facts={})
        for task in case[0].tasks:
            sharing = task.operation.writes and task.chunks is Chunks.COLOR
            if not task.read_write_conflict and not sharing:
                assert plan.tasks[task.task_id].num_phases <= 1
                assert not any(job.conflicts for job in plan.jobs(task.task_id))

    @given(pipelines())
    def test_jobs_wait_for_exactly_what_their_blocks_read(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        pipeline, cases = case
        plan = plan_pipeline(pipeline, facts={})
        written = {
            name: [
                (job.sentinel, [cases[name].blocks[b.index][0] for b in job.blocks()])
                for job in plan.jobs(name)
            ]
            for name in plan.tasks
        }
        for name in plan.tasks:
            for job in plan.jobs(name):
                reads = [cases[name].blocks[b.index][1] for b in job.blocks()]
                wanted = [
                    sentinel
                    for up in plan.tasks[name].upstream
                    for sentinel, writes in written[up]
                    if any(oracle.meet(w, r) for w, r in itertools.product(writes, reads))
                ]
                assert sorted(job.upstream) == sorted(wanted)

    @given(pipelines())
    def test_phases_of_dense_jobs_are_as_few_as_can_be(
        self, case: tuple[Pipeline, dict[str, GridCase]]
    ) -> None:
        """Where contexts are symmetric, jobs of one window are in conflict each with each."""
        pipeline, cases = case
        plan = plan_pipeline(pipeline, facts={})
        for name, task in plan.tasks.items():
            axes = task.grid.axes
            if task.jobs.present is not None or any(a.lower != a.upper for a in axes):
                continue
            if task.operation.writes:
                continue
            blocks = cases[name].blocks
            jobs = {job.index: [b.index for b in job.blocks()] for job in plan.jobs(name)}

            def clash(one: Index, other: Index) -> bool:
                pairs = itertools.product(jobs[one], jobs[other])  # noqa: B023
                return any(oracle.conflict(blocks[a], blocks[b]) for a, b in pairs)  # noqa: B023

            window = list(itertools.product(*(range(m) for m in task.phases.moduli)))
            assert len(window) == task.num_phases == math.prod(task.phases.moduli)
            if task.num_phases > 1:
                assert all(clash(a, b) for a, b in itertools.combinations(window, 2))


# faults: kind 12
class TestDamagedPlan:
    def test_every_value_replaced_by_one_of_another_kind(self, tmp_path: Path) -> None:
        text = plan_of(line(), line("next", after=["smooth"])).to_bytes()
        wrong: list[Any] = [None, True, -1, 10**400, 1.5, "x", [], [None], {}, {"": 0}]
        refused = 0
        for place in _places(json.loads(text)):
            for value in wrong:
                data = json.loads(text)
                inner = data
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = value
                try:
                    (tmp_path / "plan.json").write_text(json.dumps(data))
                except ValueError:  # Python itself writes no such number
                    (tmp_path / "plan.json").write_text(text.decode().replace("10", "9" * 5000))
                try:
                    Plan.load(tmp_path)
                except InputError as error:
                    assert "\n" not in str(error) and "plan.json: " in str(error)
                    refused += 1
        assert refused > 500

    def test_a_missing_and_an_unknown_key(self, tmp_path: Path) -> None:
        for change in ({"axes": None}, {"more": 1}):
            data = json.loads(plan_of(line()).to_bytes())
            data["tasks"][0].update(change)
            (tmp_path / "plan.json").write_text(json.dumps(data))
            name = next(iter(change))
            with pytest.raises(DamagedPlanError, match=rf"tasks\.0\.{name}' .*; plan again"):
                Plan.load(tmp_path)


def _places(data: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys that lead to every value in lists and mappings."""
    if isinstance(data, dict):
        items: list[tuple[Any, Any]] = list(data.items())
    else:
        items = list(enumerate(data)) if isinstance(data, list) else []
    return [p for k, v in items for p in [(*before, k), *_places(v, (*before, k))]]
