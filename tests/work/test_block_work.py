from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from faults import Scene, line

from snakemake_blocks.geometry.block import BlockStatus
from snakemake_blocks.state.failures import BlockFailedError
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.work.block_work import Meter, Work


class TestFunctions:
    def test_parameters_are_bound(self, scene: Scene) -> None:
        scene.functions("def f(block, text, *, number=3): note(block, text * number)")
        scene.plan(line(function="functions:f", shape=(1,), params={"text": "ab"}))
        assert scene.run().complete
        assert scene.calls[0][2] == "ababab"

    def test_parameters_keep_the_order_of_their_keys(self, scene: Scene) -> None:
        scene.functions("def f(block, **params): note(block, repr(params).replace(' ', ''))")
        params = {"steps": {"sharpen": {"z": 1, "a": 2}, "blur": 3}, "mode": "x"}
        scene.plan(line(function="functions:f", shape=(1,), params=params))
        assert scene.run().complete
        assert scene.calls[0][2] == repr(params).replace(" ", "")

    def test_a_closure(self, scene: Scene, tmp_path: Path) -> None:
        place = tmp_path / "seen.txt"

        def process(block: object) -> None:
            with place.open("a") as file:
                file.write(f"{block.index[0]} ")  # type: ignore[attr-defined]

        scene.plan(line(function=process))
        assert scene.run().complete
        assert place.read_text() == "0 1 2 3 "

    def test_the_modules_beside_the_pipeline_are_found(self, scene: Scene) -> None:
        (scene.folder / "helper_of_functions.py").write_text("TEXT = 'found'")
        scene.functions(
            """
            def f(block):
                import helper_of_functions
                note(block, helper_of_functions.TEXT)
            """
        )
        scene.plan(line(function="functions:f", shape=(1,)))
        assert scene.run().complete

    def test_init_runs_once_per_worker_before_its_first_block(self, scene: Scene) -> None:
        scene.functions(
            """
            ready = 0
            def init():
                global ready
                ready += 1
            def f(block): note(block, ready)
            """
        )
        scene.plan(line(function="functions:f", init_callback_fn="functions:init", workers=2))
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"1"}

    def test_init_with_a_parameter_is_told_where_it_runs(self, scene: Scene) -> None:
        scene.functions(
            """
            told = {}
            def init(context):
                told.update(context)
            def f(block):
                assert told["hostname"] == os.uname().nodename
                note(block, f'{told["task_id"]} {told["worker_id"]} {told["logdir"]}')
            """
        )
        scene.plan(line(function="functions:f", init_callback_fn="functions:init", shape=(1,)))
        assert scene.run().complete
        assert scene.calls[0][2:] == ["task", "0", str(scene.root / "task" / "logs")]


# faults: kind 9
class TestFunctionsThatDoNotRun:
    """What a generator or a coroutine returns is no sign that anything was done."""

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("def f(block): yield note(block)", "generator"),
            ("async def f(block): note(block)", "coroutine"),
            ("async def f(block): yield note(block)", "async generator"),
        ],
    )
    def test_fail(self, scene: Scene, code: str, kind: str) -> None:
        scene.functions(code)
        scene.plan(line(function="functions:f", shape=(2,)))
        result = scene.run()
        assert (result.done, result.failed, scene.called) == (0, 2, [])
        assert f"f returned a {kind}, so nothing of it has run" in scene.failures()[0].cause

    @pytest.mark.parametrize("check", [("functions:check", None), (None, "functions:check")])
    def test_are_no_checks(self, scene: Scene, check: tuple[str | None, str | None]) -> None:
        scene.functions("def check(block): yield True")
        scene.plan(line(shape=(2,), check_function=check))
        result = scene.run()
        assert (result.done, result.failed) == (0, 2)
        assert "check returned a generator" in scene.failures()[0].cause

    def test_set_nothing_up(self, scene: Scene) -> None:
        scene.functions("def init(): yield 1")
        scene.plan(line(shape=(2,), init_callback_fn="functions:init"))
        assert "init returned a generator" in scene.run().stopped

    def test_return_no_array(self, scene: Scene) -> None:
        scene.functions("def f(block): return (x for x in [])")
        scene.plan(line(function="functions:f", shape=(1,)))
        assert scene.run().failed == 1


class TestClasses:
    CODE = """
    class Model:
        def __init__(self, scale=1):
            self.scale = scale
            self.open = False
        def __enter__(self):
            self.open = True
            return self
        def __exit__(self, *_):
            open("closed", "a").write("x")
        def __call__(self, block):
            note(block, f"{self.scale}{self.open}")
    class Plain:
        def process(self, block): pass
    """

    def test_a_context_manager_is_entered_and_left(self, scene: Scene) -> None:
        scene.functions(self.CODE)
        scene.plan(line(function="functions:Model", params={"scale": 7}))
        assert scene.run().complete
        assert {call[2] for call in scene.calls} == {"7True"}
        assert (scene.folder / "closed").read_text() == "x"

    def test_a_class_that_cannot_be_called_is_refused(self, scene: Scene) -> None:
        scene.functions(self.CODE)
        scene.plan(line(function="functions:Plain"))
        assert "functions:Plain: has no __call__" in scene.run().stopped

    def test_wrong_parameters_are_a_failed_set_up(self, scene: Scene) -> None:
        scene.functions(self.CODE)
        scene.plan(line(function="functions:Model", params={"weight": 7}))
        assert "unexpected keyword argument 'weight'" in scene.run().stopped


class TestChecks:
    CODE = """
    def before(block):
        note(block, "before")
        return block.index[0] < 2
    def after(block):
        note(block, "after")
        return block.index[0] != 3
    def work(block): note(block, "work")
    def raises(block):
        note(block, "raises")
        raise LookupError("cannot tell")
    """

    def calls(self, scene: Scene) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for block, _, text in scene.calls:
            found.setdefault(block, []).append(text)
        return found

    def test_both_really_run_in_the_worker(self, scene: Scene) -> None:
        scene.functions(self.CODE)
        checks = ("functions:before", "functions:after")
        scene.plan(line(function="functions:work", check_function=checks))
        result = scene.run()
        assert (result.done, result.failed) == (3, 1)
        assert self.calls(scene) == {
            "0": ["before"],
            "1": ["before"],
            "2": ["before", "work", "after"],
            "3": ["before", "work", "after"],
        }
        assert str(os.getpid()) not in {call[1] for call in scene.calls}
        assert "functions:after after the block says that it is not done" in (
            scene.failures()[0].cause
        )

    def test_skipped_counts_as_done(self, scene: Scene) -> None:
        scene.functions(self.CODE)
        scene.plan(line(function="functions:work", shape=(2,), check_function="functions:before"))
        assert scene.run().complete
        assert [event for event, _, _ in scene.events()] == ["STARTED", "SKIPPED"] * 2
        assert scene.sentinel().exists()
        assert scene.run().complete
        assert len(scene.calls) == 2

    @pytest.mark.parametrize("when", [0, 1])
    def test_an_exception_in_a_check_is_a_failure(self, scene: Scene, when: int) -> None:
        scene.functions(self.CODE)
        checks: list[str | None] = [None, None]
        checks[when] = "functions:raises"
        scene.plan(
            line(
                function="functions:work",
                shape=(2,),
                max_retries=1,
                check_function=(checks[0], checks[1]),
            )
        )
        assert scene.run().failed == 2
        assert Counter(text for _, _, text in scene.calls)["raises"] == 4
        assert scene.failures()[0].cause.startswith("LookupError at functions.py:")

    def test_a_check_is_not_asked_about_output_known_to_be_old(self, scene: Scene) -> None:
        """A check that looks for a file would keep stale output for ever."""
        scene.functions(
            """
            def exists(block): return os.path.exists(f"out-{block.index[0]}")
            def work(block):
                note(block)
                open(f"out-{block.index[0]}", "w").close()
            """
        )
        up = line("up")
        down = line(
            "down", "functions:work", check_function="functions:exists", upstream_tasks=[up]
        )
        scene.plan(up, down)
        scene.run_all()
        assert Counter(scene.called) == {str(n): 2 for n in range(4)}
        reset_blocks(scene.in_place, scene.root, "down")
        scene.run_all()
        assert Counter(scene.called) == {str(n): 3 for n in range(4)}
        reset_blocks(scene.in_place, scene.root, "up")
        scene.run_all()
        assert Counter(scene.called) == {str(n): 5 for n in range(4)}
        assert scene.judgement("down").done.all()

    def test_it_is_asked_after_a_kill(self, scene: Scene) -> None:
        """That is what checks are for: what an earlier run has done and could not say."""
        scene.functions(
            """
            def exists(block): return os.path.exists(f"out-{block.index[0]}")
            def work(block):
                note(block)
                open(f"out-{block.index[0]}", "w").close()
                os.abort()
            """
        )
        task = line(function="functions:work", check_function="functions:exists", max_retries=1)
        scene.plan(task)
        assert scene.run().complete
        assert Counter(scene.called) == {str(n): 1 for n in range(4)}
        assert {event for event, _, n in scene.events() if n == 2} == {"STARTED", "SKIPPED"}


class TestAccepting:
    def work(self, scene: Scene) -> Work:
        scene.plan(line())
        work = Work(scene.in_place.tasks["task"], scene.folder, scene.paths.functions)
        work.set_up()
        return work

    def test_status(self, scene: Scene) -> None:
        work = self.work(scene)
        block = scene.in_place.tasks["task"].block((0,))
        work.process(block)
        assert block.status is BlockStatus.SUCCESS
        block.status = BlockStatus.FAILED
        with pytest.raises(BlockFailedError):
            work.accept(block)
        work.tear_down()

    def test_meter(self) -> None:
        meter = Meter()
        meter.begin()
        cost = meter.end()
        assert 0 <= cost.wall < 1 and cost.start > 1e9 and cost.bytes_read == 0
