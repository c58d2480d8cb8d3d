from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from faults import SIZE, Scene, line
from hypothesis import given
from hypothesis import strategies as st
from strategies import grid_cases

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Write
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.work.block_queue import BlockQueue, Item, items_of


def plan_of(task: Task) -> Plan:
    folder = Path("nowhere")
    pipeline = Pipeline.from_tasks([task], folder=folder, run_directory=folder / "blocks")
    return plan_pipeline(pipeline, facts={})


def queue_of(task: Task, *, budget: int = 1) -> BlockQueue:
    """Return the queue of a task's only job, of which nothing is done."""
    plan = plan_of(task)
    planned = next(iter(plan.tasks.values()))
    members = planned.grid.indices
    return BlockQueue(planned, members, Judge(plan, Path("nowhere")).judge_all(planned), budget)


def take(queue: BlockQueue, most: int, worker: int = 1, *, alone: bool = True) -> list[Item]:
    return items_of(queue.take(most, worker, alone=alone))


def indices(items: list[Item]) -> list[Index]:
    return [item.index for item in items]


class TestByHand:
    def test_in_order_of_the_grid(self) -> None:
        queue = queue_of(line(shape=(2, 3)))
        assert len(queue) == 6 and not queue.exhausted
        assert indices(take(queue, 4)) == [(0, 0), (0, 1), (0, 2), (1, 0)]
        assert indices(take(queue, 4)) == [(1, 1), (1, 2)]
        assert take(queue, 4) == [] and not queue.exhausted
        queue.succeeded(6)
        assert queue.exhausted and queue.done == 6

    def test_a_phase_begins_when_the_one_before_has_ended(self) -> None:
        queue = queue_of(line(context=SIZE))
        assert indices(take(queue, 9)) == [(0,), (2,)]
        assert take(queue, 9) == []
        queue.succeeded(1)
        assert take(queue, 9) == []
        queue.succeeded(1)
        assert indices(take(queue, 9)) == [(1,), (3,)]

    def test_a_retry_goes_to_another_worker_and_to_the_back(self) -> None:
        queue = queue_of(line(), budget=3)
        first = take(queue, 2, 1, alone=False)
        assert queue.attempt_failed(first[0].number, 1)
        queue.succeeded(1)
        rest = take(queue, 9, 1, alone=False)
        assert indices(rest) == [(2,), (3,)]
        (again,) = take(queue, 9, 2, alone=False)
        assert (again.index, again.attempt) == ((0,), 2)
        assert queue.attempt_failed(again.number, 2)
        (again,) = take(queue, 9, 2, alone=True)
        assert again.attempt == 3
        assert not queue.attempt_failed(again.number, 2)
        queue.succeeded(2)
        assert queue.exhausted and queue.failed == {0}

    def test_what_failed_for_good_orphans_what_comes_after(self) -> None:
        """Of 0 2 | 1 3 block 0 fails: 1 is orphaned, 3 is not."""
        queue = queue_of(line(context=SIZE))
        first = take(queue, 9)
        queue.attempt_failed(first[0].number, 1)
        queue.succeeded(1)
        assert indices(take(queue, 9)) == [(3,)]
        queue.succeeded(1)
        assert queue.exhausted
        assert (queue.failed, queue.orphaned) == ({0}, {1})

    def test_orphans_make_orphans(self) -> None:
        """Reach 1 in two axes: phases 0 to 3; a failed block of phase 0 takes all around it."""
        queue = queue_of(line(shape=(3, 3), context=SIZE))
        done: list[Index] = []
        while not queue.exhausted:
            for item in take(queue, 99):
                if item.index == (0, 0):
                    queue.attempt_failed(item.number, 1)
                else:
                    queue.succeeded(1)
                    done.append(item.index)
        lost = {queue.index_of(n) for n in queue.orphaned}
        assert lost == {(0, 1), (1, 0), (1, 1), (2, 1), (1, 2)} - set(done)
        assert (0, 1) in lost and (1, 1) in lost and (0, 2) in done

    def test_taken_back_first(self) -> None:
        queue = queue_of(line())
        items = take(queue, 3)
        queue.give_back([items[1].number, items[2].number])
        queue.succeeded(1)
        again = take(queue, 9)
        assert indices(again) == [(3,), (1,), (2,)] or indices(again) == [(1,), (2,), (3,)]
        assert {item.attempt for item in again} == {1}

    def test_spent_blocks_are_failed_from_the_start(self, tmp_path: Path) -> None:
        scene = Scene(tmp_path)
        scene.functions("def fails(block):\n    note(block)\n    if block.index[0] == 0: 1 / 0")
        scene.plan(line(function="functions:fails", context=SIZE))
        assert scene.run().failed == 1
        assert scene.run(attempt=2).failed == 1
        assert scene.called == ["0", "2", "3"]

    def test_masked_blocks_are_not_there(self) -> None:
        queue = queue_of(line(present=np.array([False, True, True, False])))
        assert indices(take(queue, 9)) == [(1,), (2,)]

    def test_a_job_in_the_middle_of_the_grid(self) -> None:
        plan = plan_of(line(shape=(4, 4), blocks_per_job=[2, 2]))
        planned = plan.tasks["task"]
        members = planned.jobs.members((1, 0))
        judge = Judge(plan, Path("nowhere"))
        queue = BlockQueue(planned, members, judge.judge(planned, members), 1)
        assert indices(take(queue, 9)) == [(2, 0), (2, 1), (3, 0), (3, 1)]


@given(case=grid_cases(empty=False), data=st.data())
def test_law(case: object, data: st.DataObject) -> None:
    """However workers fail, die and hand back: every block ends once, conflicts never meet."""
    task = case.task("a", blocks_per_job=[99] * len(case.axes), max_retries=0)  # type: ignore[attr-defined]
    budget, workers = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    queue = queue_of(task, budget=budget)
    chance = random.Random(data.draw(st.integers(0, 9999)))
    planned = queue.task
    out: dict[int, list[Item]] = {w: [] for w in range(workers)}
    done: set[Index] = set()
    attempts: dict[Index, int] = {}
    order: dict[Index, int] = {}
    for step in range(10**5):
        if queue.exhausted:
            break
        worker = chance.randrange(workers)
        if not out[worker]:
            for item in take(queue, chance.randint(1, 4), worker, alone=workers == 1):
                running = [i.index for items in out.values() for i in items]
                box = planned.block_phases.conflicting(item.index)
                assert not any(box.contains(other) for other in running if other != item.index)
                assert item.index not in done
                out[worker].append(item)
                order[item.index] = step
            continue
        item = out[worker].pop()
        end = chance.random()
        if end < 0.6:
            done.add(item.index)
            queue.succeeded(1)
        elif end < 0.9:
            attempts[item.index] = attempts.get(item.index, 0) + 1
            assert item.attempt == attempts[item.index] <= budget
            queue.attempt_failed(item.number, worker)
        else:
            queue.give_back([item.number])
    failed = {queue.index_of(n) for n in queue.failed}
    orphaned = {queue.index_of(n) for n in queue.orphaned}
    assert failed == {i for i, n in attempts.items() if n == budget}
    assert done | failed | orphaned == set(planned.grid)
    assert len(done) + len(failed) + len(orphaned) == len(planned.grid)
    phases = planned.block_phases
    for index in planned.grid:
        before = [
            u for u in phases.conflicting(index) if u != index and phases.of(u) < phases.of(index)
        ]
        assert (index in orphaned) == any(u in failed | orphaned for u in before)
        if index in done:
            assert all(u in done and order[u] < order[index] for u in before)


@pytest.mark.parametrize("most", [1, 7, 10**6])
def test_batches_are_as_large_as_asked(most: int) -> None:
    queue = queue_of(line(shape=(40,)))
    assert len(queue.take(most, 1, alone=True)) == min(most, 40)


class TestStoredTogether:
    """Blocks of one shard go to one worker at a time, together."""

    def queue(self, blocks: int = 6, budget: int = 2) -> BlockQueue:
        out = ArrayInfo("out.zarr", (0,), (1,), (blocks * SIZE,), (), "uint8", (3 * SIZE,))
        task = line(shape=(blocks,), call="arrays", writes={"out": Write(out, shards=True)})
        queue = queue_of(task, budget=budget)
        assert queue.task.group == (3,)
        return queue

    def test_all_of_a_box_are_handed_out_at_once(self) -> None:
        queue = self.queue(8)
        assert indices(take(queue, 1)) == [(0,), (1,), (2,)]
        assert indices(take(queue, 4, 2)) == [(3,), (4,), (5,), (6,), (7,)]
        assert take(queue, 9) == []

    def test_a_failed_one_waits_for_the_worker_that_has_the_others(self) -> None:
        queue = self.queue()
        take(queue, 1, 1, alone=False)
        queue.attempt_failed(1, 1)
        assert indices(take(queue, 3, 2, alone=False)) == [(3,), (4,), (5,)]
        assert take(queue, 3, 3, alone=False) == []
        queue.succeeded(2)
        queue.release(1)
        assert indices(take(queue, 3, 3, alone=False)) == [(1,)]

    def test_those_of_a_worker_that_is_gone_are_free(self) -> None:
        queue = self.queue(3)
        items = take(queue, 1, 1, alone=False)
        queue.give_back([item.number for item in items])
        assert take(queue, 3, 2, alone=False) == []
        queue.release(1)
        assert len(take(queue, 3, 2, alone=False)) == 3
