from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from declared import Field
from faults import SIZE, Scene, hurry, line
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.state import moving
from snakemake_blocks.state.completion import is_sentinel_of
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.moving import move_state, refuse_running, settle_sentinels
from snakemake_blocks.state.sentinel import read_sentinel
from snakemake_blocks.system import locks
from snakemake_blocks.system.locks import Holder, Lock, held
from snakemake_blocks.tasks.task import Task

GRID = (3, 3)


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hurry(monkeypatch)
    return scene


def grid(batch: int | list[int], **more: Any) -> Task:
    return line(shape=GRID, blocks_per_job=batch, **more)


def places(scene: Scene, name: str = "task") -> set[Box]:
    """Return what the blocks that are done have written, in world units."""
    task = scene.in_place.tasks[name]
    return {task.grid.write(index) for index in scene.stamps(name)}


def told_done(scene: Scene) -> set[tuple[str, Index]]:
    """Return the jobs whose sentinels the plan in place takes for its own."""
    plan = scene.in_place
    found = set()
    for task in plan.tasks.values():
        for job in plan.jobs(task.name):
            node = "-".join(map(str, job.index))
            if is_sentinel_of(task, node, read_sentinel(Path(job.sentinel))):
                found.add((task.name, job.index))
    return found


def check(scene: Scene) -> None:
    """Assert that what is called done is done."""
    plan = scene.in_place
    for name, index in told_done(scene):
        task = plan.tasks[name]
        members = task.jobs.members(index)
        part = scene.judgement(name).part(members)
        present = task.jobs.presence(members)
        assert part.done[present].all()


def finish(scene: Scene) -> None:
    """Run what is left; every block has then been called for once."""
    for result in scene.run_all().values():
        assert result.complete
    counts = Counter(scene.called)
    assert set(counts.values()) == {1}


class TestBatches:
    @pytest.mark.parametrize("first, second", [(1, [4, 4]), ([4, 4], 1), ([2, 1], [1, 3])])
    def test_changed_in_the_middle(self, scene: Scene, first: Any, second: Any) -> None:
        scene.plan(grid(first))
        jobs = [job.index for job in scene.in_place.jobs("task")]
        if len(jobs) > 1:
            for index in jobs[: len(jobs) // 2]:
                scene.run(index=index)
        else:
            scene.functions("def noop(block):\n    note(block)\n    1 // (block.index[0] < 2)\n")
            scene.run()
            scene.functions("")
            (scene.folder / "calls.txt").write_text(
                "\n".join(" ".join(c) for c in scene.calls if int(c[0][0]) < 2) + "\n"
            )
        stamps = scene.stamps()
        assert 0 < len(stamps) < 9
        scene.plan(grid(second))
        assert scene.stamps() == stamps
        check(scene)
        finish(scene)
        assert len(scene.called) == 9

    def test_back_and_forth(self, scene: Scene) -> None:
        scene.plan(grid(1))
        for batch in (1, [4, 4], [2, 2], [3, 1], 1, [4, 4], 1):
            scene.plan(grid(batch))
            done = len(scene.called)
            job = next(
                job.index
                for job in scene.in_place.jobs("task")
                if ("task", job.index) not in told_done(scene)
            )
            stamps = scene.stamps()
            assert len(stamps) == done
            if batch == 1:
                scene.run(index=job)
        finish(scene)
        assert len(scene.called) == 9

    def test_complete_jobs_have_their_sentinels_at_once_with_one_time(self, scene: Scene) -> None:
        scene.plan(grid([4, 4]))
        scene.run()
        scene.done()
        scene.plan(grid(1))
        assert len(told_done(scene)) == 9
        assert len({job.stat().st_mtime_ns for job in scene.root.glob("task/p0/*/*.json")}) == 1
        assert not scene.paths.done("task").exists()

    def test_what_stays_keeps_its_time(self, scene: Scene) -> None:
        """Else everything that depends on it would look old."""
        scene.plan(grid(1))
        scene.run_all()
        done = scene.done()
        files = [done, scene.paths.plan, *scene.root.glob("task/p0/*/*.json")]
        before = {path: path.stat().st_mtime_ns for path in files}
        time.sleep(0.02)
        scene.plan(grid(1))
        assert {path: path.stat().st_mtime_ns for path in files} == before

    def test_files_of_the_old_plan_go(self, scene: Scene) -> None:
        scene.plan(grid(1))
        scene.run_all()
        scene.plan(grid([4, 4]))
        left = [p.name for p in scene.root.glob("task/ledger/*/*") if p.is_file()]
        assert left == ["0-0"]
        assert [p.name for p in scene.root.glob("task/p0/*/*")] == ["0-0.json"]

    def test_attempts_are_not_counted_twice(self, scene: Scene) -> None:
        scene.functions("def fails(block): raise ValueError")
        scene.plan(grid(1, function="functions:fails", max_retries=9))
        scene.run(index=(0, 0), attempt=1)
        for batch in ([2, 2], 1, [4, 4]):
            scene.plan(grid(batch, function="functions:fails", max_retries=9))
            assert scene.judgement().attempts.sum() == 10


class TestRegions:
    def test_grown_at_its_end(self, scene: Scene) -> None:
        scene.plan(line(shape=(4,), blocks_per_job=2))
        scene.run_all()
        stamps = scene.stamps()
        scene.plan(line(shape=(7,), blocks_per_job=2))
        assert scene.stamps() == stamps
        check(scene)
        scene.run_all()
        assert scene.called == [str(n) for n in range(7)]

    def test_grown_at_its_begin(self, scene: Scene) -> None:
        """The old blocks 0 to 3 are now 3 to 6."""
        scene.plan(line(shape=(4,), blocks_per_job=2))
        scene.run_all()
        stamps = scene.stamps()
        scene.plan(line(begin=(-3,), shape=(7,), blocks_per_job=2))
        assert scene.stamps() == {(k + 3,): stamp for (k,), stamp in stamps.items()}
        check(scene)
        scene.run_all()
        assert scene.called == ["0", "1", "2", "3", "0", "1", "2"]
        assert scene.judgement().done.all()

    def test_grown_at_both_ends_in_the_middle_of_it(self, scene: Scene) -> None:
        scene.plan(line(shape=(4,), blocks_per_job=1))
        for index in ((0,), (2,)):
            scene.run(index=index)
        before = places(scene)
        scene.plan(line(begin=(-2,), shape=(8,), blocks_per_job=3))
        assert places(scene) == before
        scene.run_all()
        assert len(scene.called) == 8

    def test_shifted_by_less_than_a_block_it_is_another_tiling(self, scene: Scene) -> None:
        scene.plan(line(shape=(4,)))
        scene.run_all()
        shifted = replace(line(shape=(4,)), total_roi=line(shape=(4,)).total_roi + 3)
        scene.plan(shifted)
        assert scene.stamps() == {}
        check(scene)
        scene.run_all()
        assert len(scene.called) == 8

    def test_a_block_that_the_end_had_cut_off_runs_again(self, scene: Scene) -> None:
        whole = line(shape=(4,), fit="shrink")
        cut = replace(whole, total_roi=replace(whole).total_roi.grow(0, -5))
        scene.plan(cut)
        scene.run_all()
        scene.plan(whole)
        assert list(scene.stamps()) == [(0,), (1,), (2,)]
        scene.run_all()
        assert Counter(scene.called) == {"0": 1, "1": 1, "2": 1, "3": 2}

    def test_downstream_of_a_grown_task(self, scene: Scene) -> None:
        """Only the old last block reads what is new."""

        def chain(count: int) -> list[Task]:
            up = line("up", shape=(count,))
            more = {"context": SIZE, "upstream_tasks": [up], "read_write_conflict": False}
            return [up, line("down", shape=(count,), **more)]

        scene.plan(*chain(4))
        scene.run_all()
        before = scene.stamps("down")
        scene.plan(*chain(6))
        check(scene)
        assert scene.stamps("down") == {k: s for k, s in before.items() if k != (3,)}
        scene.run_all()
        after = scene.stamps("down")
        assert [k for k in before if after[k] != before[k]] == [(3,)]


class TestIdentity:
    def test_a_renamed_task_is_new(self, scene: Scene) -> None:
        scene.plan(line("one"))
        scene.run_all()
        scene.plan(line("other"))
        assert scene.stamps("other") == {}
        scene.run_all()
        assert len(scene.called) == 8

    def test_other_parameters_are_another_result(self, scene: Scene) -> None:
        scene.functions("def f(block, x): note(block, x)")
        for x in (1, 2):
            scene.plan(line(function="functions:f", params={"x": x}, blocks_per_job=1))
            assert told_done(scene) == set() and scene.stamps() == {}
            scene.run_all()
            assert scene.judgement().done.all()
        scene.plan(line(function="functions:f", params={"x": 1}, blocks_per_job=1))
        assert scene.stamps() == {}

    def test_a_new_mask(self, scene: Scene) -> None:
        def masked(*present: int) -> Task:
            here = np.isin(np.arange(6), present)
            return line(shape=(6,), present=here, blocks_per_job=2)

        scene.plan(masked(0, 1, 2))
        scene.run_all()
        scene.plan(masked(1, 2, 3, 5))
        assert list(scene.stamps()) == [(1,), (2,)]
        check(scene)
        scene.run_all()
        assert scene.called == ["0", "1", "2", "3", "5"]
        scene.plan(line(shape=(6,), blocks_per_job=2))
        scene.run_all()
        assert Counter(scene.called) == {str(n): 1 for n in range(6)}


class TestSettling:
    """`generate` makes sentinels say what ledgers say, whatever happened to either."""

    def test_a_lost_sentinel_below_a_present_done(self, scene: Scene) -> None:
        """Snakemake alone would say that there is nothing to be done."""
        scene.plan(grid(1))
        scene.run_all()
        done = scene.done()
        content, whole = scene.sentinel().read_bytes(), done.read_bytes()
        scene.sentinel().unlink()
        scene.plan(grid(1))
        assert scene.sentinel().read_bytes() == content
        assert done.read_bytes() == whole

    def test_lost_with_its_ledger(self, scene: Scene) -> None:
        scene.plan(grid(1))
        scene.run_all()
        done = scene.done()
        scene.sentinel().unlink()
        scene.ledger().unlink()
        scene.plan(grid(1))
        assert not scene.sentinel().exists() and not done.exists()
        scene.run_all()
        assert Counter(scene.called) == Counter(dict.fromkeys(scene.called, 1)) + Counter(["0-0"])

    @pytest.mark.parametrize(
        "noise", [b"", b"\x00" * 500, Random(1).randbytes(5000)], ids=["none", "zeros", "noise"]
    )
    def test_noise_over_the_ledger(self, scene: Scene, noise: bytes) -> None:
        scene.plan(grid(1))
        scene.run_all()
        scene.done()
        scene.ledger().write_bytes(noise)
        scene.plan(grid(1))
        assert len(told_done(scene)) == 8
        assert not scene.paths.done("task").exists()
        scene.run_all()
        assert Counter(scene.called)["0-0"] == 2

    @pytest.mark.parametrize(
        "noise", [b"", b"{}", Random(1).randbytes(300)], ids=["none", "json", "noise"]
    )
    def test_noise_over_a_sentinel(self, scene: Scene, noise: bytes) -> None:
        scene.plan(grid(1))
        scene.run_all()
        content = scene.sentinel().read_bytes()
        scene.sentinel().write_bytes(noise)
        scene.plan(grid(1))
        assert scene.sentinel().read_bytes() == content

    def test_a_sentinel_of_another_plan(self, scene: Scene) -> None:
        scene.functions("def f(block, x): note(block, x)")
        scene.plan(line(function="functions:f", params={"x": 1}))
        scene.run()
        foreign = scene.sentinel().read_bytes()
        scene.plan(line(function="functions:f", params={"x": 2}))
        scene.sentinel().parent.mkdir(parents=True, exist_ok=True)
        scene.sentinel().write_bytes(foreign)
        assert told_done(scene) == set()
        scene.plan(line(function="functions:f", params={"x": 2}))
        assert not scene.sentinel().exists()

    def test_noise_over_an_aggregate(self, scene: Scene) -> None:
        scene.plan(grid(1))
        scene.run_all()
        done = scene.done()
        done.write_bytes(os.urandom(50))
        scene.plan(grid(1))
        assert not done.exists()

    def test_twice_is_once(self, scene: Scene) -> None:
        scene.plan(grid([2, 2]))
        scene.run(index=(0, 1))
        snapshot = {p: p.read_bytes() for p in scene.root.rglob("*") if p.is_file()}
        settle_sentinels(Judge(scene.in_place, scene.root), scene.root)
        assert {p: p.read_bytes() for p in scene.root.rglob("*") if p.is_file()} == snapshot


class TestRefusing:
    def lock(self, scene: Scene, holder: Holder) -> Lock:
        path = scene.paths.job_lock("task", (0,))
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(path, holder)
        path.write_bytes(lock._content())
        return lock

    def test_while_a_job_runs(self, scene: Scene) -> None:
        scene.plan(line())
        before = scene.paths.plan.read_bytes()
        with (
            held(scene.paths.job_lock("task", (0,)), {}),
            pytest.raises(BusyError, match=r"job task/0 is run by process \d+ on .*stop"),
        ):
            scene.plan(line(shape=(9,)))
        assert scene.paths.plan.read_bytes() == before

    def test_a_job_that_is_just_ending_is_waited_for(self, scene: Scene) -> None:
        scene.plan(line())
        lock = Lock(scene.paths.job_lock("task", (0,)), Holder.this_process({}))
        lock.acquire()
        threading.Timer(0.4, lock.release).start()
        refuse_running(scene.root, patience=5)
        assert not lock.path.exists()

    def test_a_dead_job_refuses_nothing(self, scene: Scene) -> None:
        scene.plan(line())
        me = Holder.this_process({})
        self.lock(scene, replace(me, start=me.start - 1))
        refuse_running(scene.root, patience=0)
        assert scene.plan(line(shape=(9,))).tasks["task"].num_blocks == 9

    def test_a_job_of_a_dead_host_refuses_nothing_for_ever(self, scene: Scene) -> None:
        scene.plan(line())
        self.lock(scene, replace(Holder.this_process({}), host="node7"))
        began = time.monotonic()
        refuse_running(scene.root, patience=0)
        assert time.monotonic() - began >= locks.TIMING.standstill

    def test_a_living_job_of_another_host_refuses(self, scene: Scene) -> None:
        scene.plan(line())
        lock = self.lock(scene, replace(Holder.this_process({}), host="node7"))

        def beat() -> None:
            lock._counter += 1
            lock.path.write_bytes(lock._content())

        threading.Timer(0.2, beat).start()
        with pytest.raises(BusyError, match="on node7"):
            refuse_running(scene.root, patience=0)

    def test_two_who_move_at_once(self, scene: Scene) -> None:
        scene.plan(line())
        with held(scene.paths.moving, {}), pytest.raises(BusyError, match="the state of"):
            scene.plan(line(shape=(9,)))


class Killed(BaseException):
    """Stands for SIGKILL."""


@dataclass
class Killer:
    """Raises before the ``at``-th change of the file system, and lets all later ones pass."""

    at: int
    count: int = 0

    def __call__(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise Killed
            return real(*arguments, **more)

        return call

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("replace", "unlink", "utime"):
            monkeypatch.setattr(os, name, self(getattr(os, name)))


def killed_at_every_step(
    scene: Scene, tasks: list[Task], restore: Callable[[], None]
) -> Iterator[int]:
    """Yield after `generate` was killed before each of its changes to the file system in turn."""
    for at in range(1, 10**4):
        restore()
        killer = Killer(at)
        with pytest.MonkeyPatch.context() as patch:
            killer.patch(patch)
            # Taking and letting go of the lock is told apart: it is dead after a real kill.
            patch.setattr(moving, "held", lambda *_, **__: contextlib.nullcontext())
            try:
                scene.plan(*tasks)
            except Killed:
                pass
            else:
                assert killer.count < at
                return
        yield at


class TestKilled:
    @pytest.mark.parametrize(
        "first, second",
        [
            (lambda: grid(1), lambda: grid([4, 4])),
            (lambda: grid([4, 4]), lambda: grid(1)),
            (lambda: grid([2, 2]), lambda: grid([1, 3])),
            (lambda: grid(1), lambda: line(shape=(4, 5), begin=(-1, -1), blocks_per_job=1)),
            (
                lambda: grid(1, present=np.arange(9).reshape(GRID) % 3 > 0),
                lambda: grid([2, 2], present=np.arange(9).reshape(GRID) % 4 > 0),
            ),
        ],
        ids=["to one", "to many", "across", "grown", "masked"],
    )
    def test_before_every_step(
        self, scene: Scene, first: Callable[[], Task], second: Callable[[], Task]
    ) -> None:
        scene.plan(first())
        scene.functions("def noop(block):\n    note(block)\n    1 // (sum(block.index) % 3 > 0)\n")
        scene.run_all()
        before = places(scene)
        saved = {p: (p.read_bytes(), p.stat()) for p in scene.root.rglob("*") if p.is_file()}

        def restore() -> None:
            for path in scene.root.rglob("*"):
                if path.is_file() and path not in saved:
                    path.unlink()
            for path, (content, facts) in saved.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

        old, (new, _) = first(), scene.draft(second())
        kept = {
            new.tasks["task"].grid.write(tuple(map(int, i)))
            for i in np.argwhere(new.tasks["task"].jobs.presence(new.tasks["task"].grid.indices))
        }
        steps = 0
        for _ in killed_at_every_step(scene, [second()], restore):
            steps += 1
            assert places(scene) in (before, before & kept)
            check(scene)
            # Whichever is planned next: nothing is lost, nothing is called done that is not.
            for task in (second(),) if steps % 2 else (old, second()):
                scene.plan(task)
                assert before & kept <= places(scene) <= before
                check(scene)
        assert steps > 10


@st.composite
def regions(draw: st.DrawFn) -> Task:
    """Draw the same task over another region, batched otherwise."""
    begin = draw(st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    batch = list(draw(st.tuples(st.integers(1, 4), st.integers(1, 4))))
    return line(begin=begin, shape=shape, blocks_per_job=batch)


@settings(max_examples=40)
@given(plans=st.lists(regions(), min_size=2, max_size=5), data=st.data())
def test_law(
    tmp_path_factory: pytest.TempPathFactory, plans: list[Task], data: st.DataObject
) -> None:
    """Whatever is planned after whatever, killed or not: what is done is what was done."""
    scene = Scene(tmp_path_factory.mktemp("law"))
    done: dict[Box, int] = {}
    stamp = 0
    for number, task in enumerate(plans):
        at = data.draw(st.none() | st.integers(1, 40)) if number else None
        with pytest.MonkeyPatch.context() as patch:
            if at is not None:
                Killer(at).patch(patch)
                patch.setattr(moving, "held", lambda *_, **__: contextlib.nullcontext())
            with contextlib.suppress(Killed):
                scene.plan(task)
        plan = scene.in_place
        here = {plan.tasks["task"].grid.write(index) for index in plan.tasks["task"].grid}
        done = {box: n for box, n in done.items() if box in here}
        for index in plan.tasks["task"].grid:
            box = plan.tasks["task"].grid.write(index)
            if box not in done and data.draw(st.booleans()):
                stamp += 1
                Field(plan, scene.root).do(index, stamp)
                done[box] = stamp
        found = {plan.tasks["task"].grid.write(k): s for k, s in scene.stamps().items()}
        assert found == done
        settle_sentinels(Judge(plan, scene.root), scene.root)
        check(scene)


def test_nothing_is_moved_the_first_time(scene: Scene) -> None:
    new, payloads = scene.draft(line())
    move_state(None, new, scene.root, payloads)
    assert scene.in_place.to_bytes() is not None
    assert not list(scene.root.glob("task/*"))


# faults: kind 12
@pytest.mark.parametrize("name", ["Snakefile", "stop", "envs/blocks.yaml", "task/logs/0/0.log"])
def test_what_is_in_the_way_is_named_before_anything_changes(scene: Scene, name: str) -> None:
    scene.plan(grid(1))
    before = scene.paths.plan.read_bytes()
    path = scene.root / name
    path.mkdir(parents=True)
    new, payloads = scene.draft(grid([2, 2]))
    with pytest.raises(InputError, match=f"{path}: is no file; move it away"):
        move_state(scene.in_place, new, scene.root, payloads)
    assert scene.paths.plan.read_bytes() == before


# faults: kind 12
@pytest.mark.parametrize("name", ["tree/0/0.json", "tree/1/0.json", "ledger/0/9", "ledger/0/9-9"])
def test_what_the_plan_does_not_have_goes(scene: Scene, name: str) -> None:
    scene.plan(grid(1))
    scene.run_all()
    stamps = scene.stamps()
    path = scene.root / "task" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{}")
    scene.plan(grid([2, 2]))
    assert scene.stamps() == stamps
    assert not path.exists()


# faults: kind 12
@pytest.mark.parametrize("name", ["ledger/0-0/\u00b2", "ledger/0-0/x", "ledger/0-0/1-x"])
def test_what_is_none_of_ours_stays(scene: Scene, name: str) -> None:
    scene.plan(grid(1))
    scene.run_all()
    stamps = scene.stamps()
    (scene.root / "task" / name).write_bytes(b"{}")
    scene.plan(grid([2, 2]))
    assert scene.stamps() == stamps
    assert (scene.root / "task" / name).exists()


# faults: kind 12
class TestWithoutThePlan:
    @pytest.mark.parametrize("damage", [b"{", b'{"format": 0}', None])
    @pytest.mark.parametrize("batch", [1, [2, 2], [4, 4]])
    def test_records_are_kept(self, scene: Scene, damage: bytes | None, batch: Any) -> None:
        scene.plan(grid([2, 1]))
        for job in list(scene.in_place.jobs("task"))[:4]:
            scene.run(index=job.index)
        stamps = scene.stamps()
        assert 0 < len(stamps) < 9
        scene.paths.plan.unlink()
        if damage is not None:
            scene.paths.plan.write_bytes(damage)
        new, payloads = scene.draft(grid(batch))
        move_state(None, new, scene.root, payloads)
        assert scene.stamps() == stamps
        check(scene)
        finish(scene)

    def test_a_block_in_two_ledgers_is_done_anew(self, scene: Scene) -> None:
        scene.plan(grid(1))
        scene.run(index=(0, 0))
        scene.run(index=(0, 1))
        one, other = (scene.paths.ledger("task", (0, k)) for k in (0, 1))
        other.write_bytes(other.read_bytes() + one.read_bytes())
        scene.paths.plan.unlink()
        new, payloads = scene.draft(grid([3, 3]))
        move_state(None, new, scene.root, payloads)
        assert scene.stamps().keys() == {(0, 1)}
