from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from faults import SIZE, Scene, line
from funlib.geometry import Roi
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import GridCase, grid_cases, job_grids

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases, colour
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.state import judgement
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.judgement import Judge, block_fingerprints, fingerprints_at
from snakemake_blocks.state.ledger import Event, Ledger, first_block
from snakemake_blocks.tasks.budget import Budget
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.operation import Operation


class Writer:
    """Appends events as a worker would, at any block."""

    def __init__(self, plan: Plan, root: Path, name: str) -> None:
        self.plan, self.root, self.task = plan, root, plan.tasks[name]
        self.stamps = itertools.count(1)

    def __call__(self, event: Event, index: Index, **more: Any) -> int:
        """Append; return the stamp of the record."""
        judgement = Judge(self.plan, self.root).judge_all(self.task)
        stamp = next(self.stamps) if event in (Event.DONE, Event.SKIPPED) else 0
        prints = block_fingerprints(self.task, self.task.grid.indices)
        facts = {
            "fingerprint": int(prints[index]),
            "seen": int(judgement.seen[index]),
            "stamp": stamp,
            "attempt": 1,
            **more,
        }
        job = self.task.job_of(index)
        path = Judge(self.plan, self.root)._path(self.task, job)
        ledger = Ledger(path, first_block(self.task.own_grid))
        ledger.append(event, index, **facts)
        ledger.close()
        return stamp


E, S = Event, State


class TestOneBlock:
    @pytest.mark.parametrize(
        "events, state, attempts, outdated",
        [
            ([], S.PENDING, 0, False),
            ([E.STARTED], S.RUNNING, 1, False),
            ([E.STARTED, E.DONE], S.DONE, 0, False),
            ([E.STARTED, E.SKIPPED], S.DONE, 0, False),
            ([E.STARTED, E.FAILED], S.FAILED, 1, False),
            ([E.STARTED, E.FAILED, E.STARTED], S.RUNNING, 2, False),
            ([E.STARTED, E.FAILED, E.STARTED, E.DONE], S.DONE, 0, False),
            ([E.STARTED, E.RELEASED], S.PENDING, 0, False),
            ([E.STARTED, E.FAILED, E.STARTED, E.RELEASED], S.PENDING, 1, False),
            ([E.STARTED, E.STARTED], S.RUNNING, 2, False),
            ([E.STARTED, E.FAILED, E.BUDGET], S.FAILED, 0, False),
            ([E.STARTED, E.FAILED, E.BUDGET, E.STARTED], S.RUNNING, 1, False),
            ([E.STARTED, E.DONE, E.RESET], S.PENDING, 0, True),
            # What began after a result may have overwritten it.
            ([E.STARTED, E.DONE, E.STARTED], S.RUNNING, 1, True),
            ([E.STARTED, E.DONE, E.RESET, E.STARTED, E.FAILED], S.FAILED, 1, True),
            ([E.STARTED, E.DONE, E.RESET, E.STARTED, E.DONE], S.DONE, 0, False),
            # A torn record of a begin or of an end
            ([E.DONE], S.DONE, 0, False),
            ([E.FAILED], S.FAILED, 0, False),
        ],
    )
    def test_by_hand(
        self, scene: Scene, events: list[Event], state: State, attempts: int, outdated: bool
    ) -> None:
        write = Writer(scene.plan(line()), scene.root, "task")
        for event in events:
            write(event, (2,))
        found = scene.judgement()
        assert found.state.tolist() == [S.PENDING, S.PENDING, state, S.PENDING]
        assert found.attempts.tolist() == [0, 0, attempts, 0]
        assert found.outdated.tolist() == [False, False, outdated, False]
        assert (found.stamp[2] != 0) == (state is S.DONE) == found.done[2]
        assert found.skipped.tolist() == [
            False,
            False,
            state is S.DONE and events[-1] is E.SKIPPED,
            False,
        ]

    def test_a_record_of_another_plan_does_not_count(self, scene: Scene) -> None:
        write = Writer(scene.plan(line()), scene.root, "task")
        write(Event.DONE, (0,), fingerprint=5)
        write(Event.FAILED, (1,), fingerprint=5)
        write(Event.STARTED, (2,), fingerprint=5)
        found = scene.judgement()
        assert found.state.tolist() == [S.PENDING] * 4
        assert found.attempts.tolist() == [0] * 4
        assert found.stale.tolist() == found.outdated.tolist() == [True, False, False, False]

    def test_of_another_plan_it_may_have_overwritten_the_result(self, scene: Scene) -> None:
        """Parameters changed, one attempt, changed back: what lies there now?"""
        write = Writer(scene.plan(line()), scene.root, "task")
        write(Event.DONE, (0,))
        write(Event.STARTED, (0,), fingerprint=5)
        assert scene.judgement().state[0] == S.PENDING

    def test_the_place_belongs_to_the_fingerprint(self, scene: Scene) -> None:
        """The block that the end cut off is not the whole block that stands there later."""
        cut = line(shape=(4,), fit="shrink")
        cut = replace(cut, total_roi=Roi((0,), (35,)), blocks_per_job=4)
        write = Writer(scene.plan(cut), scene.root, "task")
        for block in range(4):
            write(Event.DONE, (block,))
        assert scene.judgement().done.tolist() == [True] * 4
        scene.plan(line(shape=(4,), fit="shrink"))
        assert scene.judgement().done.tolist() == [True, True, True, False]


class TestUpstream:
    def chain(self, scene: Scene, **more: Any) -> tuple[Writer, Writer]:
        """Return writers for four blocks, and for four more that each read one to either side."""
        up = line("up")
        down = line("down", context=SIZE, upstream_tasks=[up], read_write_conflict=False, **more)
        plan = scene.plan(up, down)
        return Writer(plan, scene.root, "up"), Writer(plan, scene.root, "down")

    def test_results_stand_on_what_they_read(self, scene: Scene) -> None:
        up, down = self.chain(scene)
        for block in range(4):
            up(Event.DONE, (block,))
        assert scene.judgement("down").ready.tolist() == [True] * 4
        for block in range(4):
            down(Event.DONE, (block,))
        assert scene.judgement("down").done.all()
        up(Event.RESET, (0,))
        found = scene.judgement("down")
        assert found.ready.tolist() == [False, False, True, True]
        assert found.done.tolist() == [False, False, True, True]
        assert found.stale.tolist() == [True, True, False, False]
        up(Event.DONE, (0,))
        found = scene.judgement("down")
        assert found.ready.all()
        assert found.done.tolist() == [False, False, True, True]

    def test_the_same_stamps_count_again(self, scene: Scene) -> None:
        """Content, not clocks: nothing else says whether a result is fresh."""
        up, down = self.chain(scene)
        for block in range(4):
            up(Event.DONE, (block,), stamp=100 + block)
            down(Event.DONE, (block,)) if block > 1 else None
        down(Event.DONE, (3,))
        assert scene.judgement("down").done[3]
        up(Event.DONE, (3,), stamp=7)
        assert not scene.judgement("down").done[3]
        up(Event.DONE, (3,), stamp=103)
        assert scene.judgement("down").done[3]

    def test_swapped_stamps_are_told_apart_between_tasks(self, scene: Scene) -> None:
        one, other = line("one", shape=(1,)), line("other", shape=(1,))
        down = line("down", shape=(1,), upstream_tasks=[one, other])
        plan = scene.plan(one, other, down)
        writers = {name: Writer(plan, scene.root, name) for name in plan.tasks}
        writers["one"](Event.DONE, (0,), stamp=1)
        writers["other"](Event.DONE, (0,), stamp=2)
        writers["down"](Event.DONE, (0,))
        assert scene.judgement("down").done.all()
        writers["one"](Event.DONE, (0,), stamp=2)
        writers["other"](Event.DONE, (0,), stamp=1)
        assert not scene.judgement("down").done.any()

    def test_masked_upstream_blocks_are_not_waited_for(self, scene: Scene) -> None:
        up = line("up", present=np.array([True, False, False, True]), shape=(4,))
        down = line("down", upstream_tasks=[up])
        write = Writer(scene.plan(up, down), scene.root, "up")
        assert scene.judgement("down").ready.tolist() == [False, True, True, False]
        assert scene.judgement("up").state.tolist() == [S.PENDING, S.MASKED, S.MASKED, S.PENDING]
        write(Event.DONE, (0,))
        assert scene.judgement("down").ready.tolist() == [True, True, True, False]

    def test_a_mask_overrules_records(self, scene: Scene) -> None:
        write = Writer(scene.plan(line()), scene.root, "task")
        write(Event.DONE, (1,))
        scene.plan(line(present=np.array([True, False, True, True])))
        found = scene.judgement()
        assert found.state[1] == S.MASKED and found.stamp[1] == 0 and not found.done[1]


@dataclass
class Model:
    """The oracle: which records count, block by block, with nothing clever.

    A result is remembered with the very set of upstream stamps that it has seen.
    """

    task: PlannedTask
    reads: dict[Index, list[tuple[Model, Index]]]
    log: dict[Index, list[tuple[Event, bool, Any, int]]]

    def append(self, event: Event, block: Index, *, fits: bool, stamp: int) -> None:
        blocks = [block]
        if event is Event.BUDGET:
            blocks = list(self.task.jobs.members(self.task.job_of(block)))
        for b in blocks:
            self.log[b].append((event, fits, self.seen(b), stamp))

    def last(self, block: Index) -> tuple[Event | None, bool, Any, int]:
        """Return the last event that says something of the block."""
        own = [entry for entry in self.log[block] if entry[0] not in (Event.BUDGET, Event.EMPTY)]
        return own[-1] if own else (None, False, None, 0)

    def absent(self, block: Index) -> int:
        """Return what the last result left out: said in its attempt, before it."""
        ends = (Event.BUDGET, Event.DONE, Event.SKIPPED)
        own = [entry for entry in self.log[block] if entry[0] not in ends]
        return own[-1][3] if own and own[-1][0] is Event.EMPTY else 0

    def present(self, block: Index) -> bool:
        return self.task.jobs.present is None or bool(self.task.jobs.present[block])

    def stamp(self, block: Index) -> int:
        """Return the stamp of the counting record, 0 if none counts."""
        event, fits, seen, stamp = self.last(block)
        result = event in (Event.DONE, Event.SKIPPED) and self.present(block)
        return stamp if result and fits and self.ready(block) and seen == self.seen(block) else 0

    def seen(self, block: Index) -> frozenset[Any]:
        return frozenset((id(up), u, up.stamp(u)) for up, u in self.reads[block] if up.stamp(u))

    def ready(self, block: Index) -> bool:
        return all(up.stamp(u) or not up.present(u) for up, u in self.reads[block])

    def state(self, block: Index) -> State:
        event, fits, _, _ = self.last(block)
        if not self.present(block):
            return S.MASKED
        if self.stamp(block):
            return S.DONE
        ended = {Event.STARTED: S.RUNNING, Event.FAILED: S.FAILED}.get(event, S.PENDING)
        return ended if fits else S.PENDING

    def outdated(self, block: Index) -> bool:
        ends = (Event.DONE, Event.SKIPPED, Event.RESET)
        return not self.stamp(block) and any(event in ends for event, *_ in self.log[block])

    def attempts(self, block: Index) -> int:
        count = 0
        for event, fits, _, _ in self.log[block]:
            if event in (Event.DONE, Event.SKIPPED, Event.RESET, Event.BUDGET):
                count = 0
            elif fits:
                count += {Event.STARTED: 1, Event.RELEASED: -1}.get(event, 0)
        return count


def planned(name: str, case: GridCase, upstream: tuple[str, ...], draw: Any) -> PlannedTask:
    """Return a planned task with the geometry, batched and masked at random."""
    jobs = draw(job_grids(case))
    present = jobs.job_presence()
    reach = (0,) * jobs.grid.ndim
    return PlannedTask(
        name=name,
        slug=name,
        jobs=jobs,
        reach=reach,
        phases=Phases(jobs.jobs.shape, reach) if present is None else colour(present, reach),
        upstream=upstream,
        operation=Operation(FunctionRef("os.path:join")),
        budget=Budget(),
        fingerprint=draw(st.integers(0, 2**64 - 1)),
    )


@st.composite
def chains(draw: st.DrawFn) -> tuple[Plan, dict[str, Model]]:
    """Draw up to three tasks, each of which reads from some before it."""
    ndim = st.just(draw(st.integers(1, 2)))
    cases: dict[str, GridCase] = {}
    tasks: dict[str, PlannedTask] = {}
    models: dict[str, Model] = {}
    for name in "abc"[: draw(st.integers(1, 3))]:
        case = draw(grid_cases(ndim=ndim, empty=False))
        upstream = tuple(up for up in tasks if draw(st.booleans()))
        tasks[name] = planned(name, case, upstream, draw)
        blocks = {up: cases[up].blocks for up in upstream}
        reads = {
            block: [
                (models[up], u)
                for up in upstream
                for u, (write, _) in blocks[up].items()
                if oracle.meet(write, read)
            ]
            for block, (_, read) in case.blocks.items()
        }
        cases[name] = case
        models[name] = Model(tasks[name], reads, {block: [] for block in reads})
    return Plan("python", tasks), models


class TestLaws:
    @settings(max_examples=60)
    @given(chain=chains(), data=st.data())
    def test_the_judge_agrees_with_the_oracle(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        chain: tuple[Plan, dict[str, Model]],
        data: st.DataObject,
    ) -> None:
        plan, models = chain
        root = tmp_path_factory.mktemp("law")
        events = st.sampled_from([E.STARTED, E.DONE, E.DONE, E.DONE, *Event])
        for _ in range(data.draw(st.integers(0, 30))):
            name = data.draw(st.sampled_from(list(models)))
            block = data.draw(st.sampled_from(list(models[name].log)))
            event, fits = data.draw(events), data.draw(st.integers(0, 5)) > 0
            stamped = event in (E.DONE, E.SKIPPED, E.EMPTY)
            stamp = data.draw(st.integers(1, 3)) if stamped else 0
            more = {} if fits else {"fingerprint": 3}
            Writer(plan, root, name)(event, block, stamp=stamp, **more)
            models[name].append(event, block, fits=fits, stamp=stamp)
        judge = Judge(plan, root)
        for name, model in models.items():
            found = judge.judge_all(plan.tasks[name])
            absent = judge.history(plan.tasks[name], plan.tasks[name].grid.indices).absent
            for block in model.log:
                assert absent[block] == model.absent(block)
                assert found.state[block] == model.state(block)
                assert found.attempts[block] == model.attempts(block)
                assert found.stamp[block] == model.stamp(block)
                assert found.ready[block] == model.ready(block)
                assert found.outdated[block] == model.outdated(block)
                assert bool(found.done[block]) == bool(model.stamp(block))

    @given(chain=chains(), data=st.data())
    def test_a_part_is_judged_as_the_whole(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        chain: tuple[Plan, dict[str, Model]],
        data: st.DataObject,
    ) -> None:
        plan, models = chain
        root = tmp_path_factory.mktemp("law")
        for name, model in models.items():
            write = Writer(plan, root, name)
            for block in data.draw(st.lists(st.sampled_from(list(model.log)), max_size=8)):
                write(Event.DONE, block)
        task = plan.tasks[data.draw(st.sampled_from(list(models)))]
        corners = st.tuples(*(st.integers(0, n) for n in task.grid.shape))
        region = Box(data.draw(corners), data.draw(corners))
        if region:
            whole = Judge(plan, root).judge_all(task).part(region)
            part = Judge(plan, root).judge(task, region)
            for name in ("state", "attempts", "stamp", "seen", "ready", "stale", "outdated"):
                assert np.array_equal(getattr(whole, name), getattr(part, name))

    @given(case=grid_cases(empty=False), data=st.data())
    def test_every_block_has_a_fingerprint_of_its_own(
        self, case: GridCase, data: st.DataObject
    ) -> None:
        task = planned("a", case, (), data.draw)
        prints = block_fingerprints(task, task.grid.indices)
        assert len(np.unique(prints)) == len(task.grid)

    def test_axes_of_related_steps_are_not_mixed_up(self) -> None:
        """Blocks of 2 x 1: where one axis ends at 2, the other one ends at 1."""
        axes = [(np.array([0, 2]), np.array([2, 4])), (np.array([0, 1, 2]), np.array([1, 2, 3]))]
        assert len(np.unique(fingerprints_at(0, axes))) == 6


class TestReading:
    def test_ledgers_are_read_once(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        scene.plan(line(blocks_per_job=1))
        scene.run_all()
        opened: list[Path] = []
        real = judgement.LedgerReader
        monkeypatch.setattr(
            judgement, "LedgerReader", lambda path, *a: opened.append(path) or real(path, *a)
        )
        judge = Judge(scene.in_place, scene.root)
        task = judge.plan.tasks["task"]
        for _ in range(2):
            assert judge.judge(task, task.grid.indices).done.all()
        assert len(opened) == 4
        judge.forget(task, (2,))
        assert judge.judge(task, task.grid.indices).done.all()
        assert len(opened) == 5

    def test_wall_time(self, scene: Scene) -> None:
        scene.functions("import time\ndef nap(block): time.sleep(0.02)")
        scene.plan(line(function="functions:nap"))
        scene.run_all()
        judge = Judge(scene.in_place, scene.root)
        assert 0.08 <= judge.seconds(judge.plan.tasks["task"]) < 2

    # faults: kind 12
    def test_more_blocks_than_memory_holds(self, scene: Scene) -> None:
        scene.plan(line(shape=(10**7, 10**7), blocks_per_job=[10**4, 10**4]))
        judge = Judge(scene.in_place, scene.root)
        with pytest.raises(InputError, match="task task: 100,000,000,000,000 blocks are more"):
            judge.judge_all(judge.plan.tasks["task"])
