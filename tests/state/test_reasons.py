from __future__ import annotations

from typing import Any

from faults import SIZE, Scene, line
from funlib.geometry import Roi

from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.reasons import blocks_of_other_source, jobs_without_sentinel, reasons_of
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.tasks.sources import FunctionFacts
from snakemake_blocks.tasks.task import Task


def reasons(scene: Scene, name: str = "task") -> dict[str, int]:
    plan = scene.in_place
    judge, task = Judge(plan, scene.root), plan.tasks[name]
    now = judge.judge_all(task)
    return reasons_of(judge, task, now.todo)


def chain(scene: Scene, **more: Any) -> None:
    """Six blocks, six that read these and their neighbours, and six that read the last."""
    up = line("up", shape=(6,), **more)
    down = line("down", shape=(6,), context=SIZE, read_write_conflict=False, after=["up"])
    scene.plan(up, down, line("last", shape=(6,), after=["down"]))


class TestNothing:
    def test_that_never_ran_needs_a_reason(self, scene: Scene) -> None:
        chain(scene)
        assert reasons(scene, "up") == reasons(scene, "down") == {}

    def test_that_is_done(self, scene: Scene) -> None:
        chain(scene)
        scene.run_all()
        assert reasons(scene, "up") == reasons(scene, "last") == {}


class TestInputs:
    def test_of_reset_blocks(self, scene: Scene) -> None:
        chain(scene, blocks_per_job=1)
        scene.run_all()
        reset_blocks(scene.in_place, scene.root, "up", only_failed=False)
        assert reasons(scene, "up") == {"they were reset, or what they wrote is gone": 6}
        assert reasons(scene, "down") == {"what they read from up is to be done again": 6}
        assert reasons(scene, "last") == {"what they read from down is to be done again": 6}

    def test_that_were_done_anew(self, scene: Scene) -> None:
        chain(scene, blocks_per_job=1)
        scene.run_all()
        scene.ledger("up", (2,)).unlink()
        scene.run("up", (2,))
        assert reasons(scene, "up") == {}
        assert reasons(scene, "down") == {"what they read from up was done anew": 3}
        assert reasons(scene, "last") == {"what they read from down is to be done again": 3}

    def test_the_first_upstream_task_that_lacks_something_is_named(self, scene: Scene) -> None:
        tasks = line("a"), line("b", blocks_per_job=1), line("c", after=["a", "b"])
        scene.plan(*tasks)
        scene.run_all()
        scene.ledger("b", (1,)).unlink()
        assert reasons(scene, "c") == {"what they read from b is to be done again": 1}
        scene.run("b", (1,))
        assert reasons(scene, "c") == {"what they read from a or b was done anew": 1}


class TestIdentity:
    def test_parameters(self, scene: Scene) -> None:
        scene.functions("def f(block, x): pass")
        for x in (1, 2, 3):
            scene.plan(line(function="functions:f", params={"x": x}, blocks_per_job=2))
            if x < 3:
                scene.run(index=(x - 1,))
        assert reasons(scene) == {"params.x is 3, was 1": 2, "params.x is 3, was 2": 2}

    def test_a_plan_not_yet_read_from_its_file(self, scene: Scene) -> None:
        scene.functions("def f(block, x, y): pass")
        for y in (1, 2):
            task = line(function="functions:f", params={"x": [1, 2], "y": y})
            scene.plan(task)
            if y == 1:
                scene.run_all()
        plan, _ = scene.draft(task)
        judge, planned = Judge(plan, scene.root), plan.tasks["task"]
        found = reasons_of(judge, planned, ~judge.judge_all(planned).done)
        assert found == {"params.y is 2, was 1": 4}

    def test_context_function_and_upstream(self, scene: Scene) -> None:
        scene.functions("def f(block): pass")
        scene.plan(line("a"), line("b"))
        scene.run_all()
        scene.plan(line("a"), line("b", "functions:f", context=5, after=["a"], blocks_per_job=4))
        assert reasons(scene, "b") == {
            'after is ["a"], was []; context.lower is [5], was [0]; context.upper is [5], was [0]; '
            'function is "functions:f", was "functions:noop"': 4
        }

    def test_block_size(self, scene: Scene) -> None:
        scene.plan(line())
        scene.run_all()
        half = Roi((0,), (SIZE // 2,))
        scene.plan(Task("task", Roi((0,), (4 * SIZE,)), half, half, "functions:noop"))
        assert reasons(scene) == {"block_size is [5], was [10]": 4}

    def test_a_block_that_was_cut_off(self, scene: Scene) -> None:
        block = Roi((0,), (SIZE,))
        for end in (35, 50):
            extent = Roi((0,), (end,))
            scene.plan(Task("task", extent, block, block, "functions:noop", fit="shrink"))
            if end == 35:
                scene.run_all()
        assert reasons(scene) == {
            "their results are of other regions: the roi ended elsewhere, or the tiling was "
            "another": 1
        }

    def test_a_lost_note_is_survived(self, scene: Scene) -> None:
        scene.functions("def f(block, x): pass")
        for x in (1, 2):
            scene.plan(line(function="functions:f", params={"x": x}))
            scene.run_all()
        for path in scene.root.glob("task/identities/*"):
            path.unlink()
        scene.plan(line(function="functions:f", params={"x": 3}))
        assert list(reasons(scene).values()) == [4]


class TestLosses:
    def test_a_ledger_below_its_sentinel(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=2))
        scene.run_all()
        scene.ledger(index=(1,)).unlink()
        assert reasons(scene) == {
            "their job's sentinel is there and their records are not: the ledger was damaged": 2
        }
        scene.plan(line(blocks_per_job=2))
        assert reasons(scene) == {}

    def test_sentinels(self, scene: Scene) -> None:
        def lost() -> int:
            plan = scene.in_place
            return jobs_without_sentinel(Judge(plan, scene.root), plan.tasks["task"])

        scene.plan(line(blocks_per_job=1))
        assert lost() == 0
        scene.run(index=(0,))
        scene.run(index=(2,))
        assert lost() == 0
        scene.sentinel(index=(2,)).unlink()
        assert lost() == 1
        assert reasons(scene) == {}

    def test_what_was_begun_and_not_ended(self, scene: Scene) -> None:
        scene.plan(line())
        scene.run_all()
        path = scene.ledger()
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 8])  # the last block's end
        assert reasons(scene) == {
            "they were begun and not ended, their worker or job was killed": 1
        }


class TestSource:
    def plan(self, scene: Scene, mark: str, **more: Any) -> None:
        scene.facts = {"task": FunctionFacts(mark)}
        scene.plan(line(blocks_per_job=2, **more))

    def other(self, scene: Scene) -> int:
        plan = scene.in_place
        return blocks_of_other_source(Judge(plan, scene.root), plan.tasks["task"])

    def test_another_one_is_told_and_what_is_done_counts(self, scene: Scene) -> None:
        self.plan(scene, "1" * 16)
        scene.run(index=(0,))
        assert self.other(scene) == 0
        self.plan(scene, "2" * 16)
        assert self.other(scene) == 2 and reasons(scene) == {}
        scene.run(index=(1,))
        assert self.other(scene) == 2
        assert scene.judgement().done.all()
        self.plan(scene, "")
        assert self.other(scene) == 0

    def test_it_may_count_as_another_task(self, scene: Scene) -> None:
        for source in ("1" * 16, "2" * 16):
            self.plan(scene, source, source="rerun")
            assert not scene.judgement().done.any()
            scene.run(index=(0,))
        assert reasons(scene) == {}
        self.plan(scene, "3" * 16, source="rerun")
        assert reasons(scene) == {"the source of the function changed": 2}

    # faults: kind 8
    def test_a_change_of_policy_alone_changes_nothing(self, scene: Scene) -> None:
        self.plan(scene, "1" * 16)
        scene.run(index=(0,))
        done = scene.judgement().done
        assert done.any()
        fingerprint = scene.in_place.tasks["task"].fingerprint
        for policy in ("rerun", "warn", "rerun"):
            self.plan(scene, "1" * 16, source=policy)
            assert (scene.judgement().done == done).all()
            assert scene.in_place.tasks["task"].fingerprint == fingerprint
        self.plan(scene, "2" * 16, source="rerun")
        assert not scene.judgement().done.any()
        self.plan(scene, "2" * 16, source="warn")
        assert (scene.judgement().done == done).all(), "and they count again"
        self.plan(scene, "", source="rerun")
        assert (scene.judgement().done == done).all(), "what is not known counts"
