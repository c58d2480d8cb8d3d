from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi
from project import Project

import snakemake_blocks as sb
from snakemake_blocks.commands.blockwise import RunResult
from snakemake_blocks.errors import SpecError


def task(name: str, function: Any, **more: Any) -> sb.Task:
    """Return a task of four blocks along a line, with context."""
    return sb.Task(name, Roi((-3,), (46,)), Roi((-3,), (16,)), Roi((0,), (10,)), function, **more)


def run(*tasks: sb.Task) -> RunResult:
    return sb.run_blockwise(tasks, multiprocessing=False, summary=False)


class TestOrder:
    def test_is_that_of_the_plan(self, project: Project) -> None:
        seen: list[tuple[str, int]] = []

        def note(block: sb.Block) -> None:
            assert block.task_id is not None
            seen.append((block.task_id, block.index[0]))

        first = task("first", note)
        second = task("second", note, upstream_tasks=[first], read_write_conflict=False)
        result = run(second)
        plan = sb.make_plan([second])
        assert [n for t, n in seen if t == "first"] == [b.index[0] for b in plan.blocks("first")]
        assert seen[4:] == [("second", n) for n in range(4)], "upstream comes first"
        assert result
        assert [s.completed_count for s in result.values()] == [4, 4]
        assert result.run_directory is None
        assert project.files() == set()

    def test_holds_inside_of_jobs(self, project: Project) -> None:
        seen: list[int] = []
        plan = sb.make_plan(
            batched := task("a", lambda b: seen.append(b.index[0]), blocks_per_job=4)
        )
        assert plan.tasks["a"].num_jobs == 1
        assert run(batched)
        phases = plan.tasks["a"].block_phases
        assert sorted(seen) == [0, 1, 2, 3]
        assert [phases.of((n,)) for n in seen] == [0, 0, 1, 1]

    def test_leaves_masked_blocks_out(self, project: Project) -> None:
        seen: list[int] = []
        result = run(
            task("a", lambda b: seen.append(b.index[0]), skip_mask=np.array([0, 1, 0, 0], bool))
        )
        assert sorted(seen) == [0, 2, 3]
        assert result and result["a"].masked_count == 1


class TestExceptions:
    def test_the_first_goes_up_as_it_was_raised(self, project: Project) -> None:
        error, calls = KeyError("mine"), []

        def fail(block: sb.Block) -> None:
            calls.append(block)
            raise error

        with pytest.raises(KeyError) as caught:
            run(task("a", fail, max_retries=5))
        assert caught.value is error
        assert caught.traceback[-1].name == "fail"
        assert len(calls) == 1

    def test_of_a_block_that_a_client_took(self, project: Project) -> None:
        error, taken = ValueError("mine"), []

        def loop() -> None:
            client = sb.Client()
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        break
                    taken.append(block)
                    raise error

        with pytest.raises(ValueError) as caught:
            run(task("a", loop))
        assert caught.value is error
        assert len(taken) == 1, "after a failure there is nothing left to take"

    def test_a_worker_function_has_to_take_the_blocks(self, project: Project) -> None:
        with pytest.raises(RuntimeError, match="never asked for a block"):
            run(task("a", lambda: None))


# faults: kind 8
class TestFailed:
    """Without an exception a block fails as anywhere else: tried again, counted, orphans left."""

    @pytest.mark.parametrize("how", ["status", "check", "client"])
    def test_is_counted(self, project: Project, how: str) -> None:
        calls: list[int] = []

        def fail(block: sb.Block) -> None:
            calls.append(block.index[0])
            if how != "check" and block.index == (0,):
                block.status = sb.BlockStatus.FAILED

        def loop() -> None:
            client = sb.Client()
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        break
                    fail(block)

        checks = (None, (lambda block: block.index != (0,)) if how == "check" else None)
        function = loop if how == "client" else fail
        up = task("up", function, max_retries=2, check_function=checks, blocks_per_job=1)
        down = task("down", lambda block: None, upstream_tasks=[up], read_write_conflict=False)
        result = run(down)
        assert not result
        assert sorted(calls) == [0, 0, 0, 2, 3], "3 attempts; 1 conflicts with what failed"
        counts = result["up"]
        assert (counts.completed_count, counts.failed_count, counts.orphaned_count) == (2, 1, 1)
        counts = result["down"]
        assert (counts.completed_count, counts.failed_count, counts.orphaned_count) == (1, 0, 3)
        (failure,) = result.status.tasks["up"].failures
        assert (failure.index, failure.attempt) == ((0,), 3)

    def test_a_later_attempt_may_succeed(self, project: Project) -> None:
        seen: list[int] = []

        def fail(block: sb.Block) -> None:
            seen.append(block.index[0])
            if seen.count(block.index[0]) < 2:
                block.status = sb.BlockStatus.FAILED

        result = run(task("a", fail, max_retries=1))
        assert result
        assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]


# faults: kind 8
class TestPickling:
    def test_is_not_needed(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        import cloudpickle

        def refuse(*_: object) -> bytes:
            raise AssertionError("pickled")

        monkeypatch.setattr(cloudpickle, "dumps", refuse)
        lock, seen = threading.Lock(), []

        def hold(block: sb.Block) -> None:
            with lock:
                seen.append(block.index[0])

        checks = (lambda block: block.index == (3,), lambda block: lock is not None)
        assert run(task("a", hold, check_function=checks))
        assert sorted(seen) == [0, 1, 2]

    def test_what_cannot_be_pickled_is_named(self, project: Project) -> None:
        lock = threading.Lock()

        def hold(block: sb.Block) -> None:
            with lock:
                pass

        class Holder:
            def __init__(self) -> None:
                self.handle = lock

            def __call__(self, block: sb.Block) -> None: ...

            def method(self, block: sb.Block) -> None: ...

        def bound(block: sb.Block, lock: Any = None) -> None: ...

        for function, culprit in (
            (hold, "variable 'lock' is a lock"),
            (Holder(), "attribute 'handle' is a lock"),
            (Holder().method, "attribute 'handle' of its object is a lock"),
            (partial(bound, lock=lock), "bound argument 'lock' is a lock"),
        ):
            with pytest.raises(SpecError) as caught:
                sb.run_blockwise(task("sync", function), summary=False, progress=False)
            text = str(caught.value)
            assert "task sync: " in text and culprit in text
            assert "multiprocessing=False" in text and "\n" not in text


class TestFunctions:
    def test_run_here(self, project: Project) -> None:
        def check(where: dict[str, int], block: sb.Block) -> None:
            where.update(pid=os.getpid(), thread=threading.get_ident())

        found: dict[str, int] = {}
        assert run(task("a", partial(check, found)))
        assert found == {"pid": os.getpid(), "thread": threading.get_ident()}

    def test_checks_are_asked(self, project: Project) -> None:
        seen: list[int] = []
        checks = (lambda b: b.index[0] < 2, lambda b: b.index[0] != 9)
        result = run(task("a", lambda b: seen.append(b.index[0]), check_function=checks))
        assert sorted(seen) == [2, 3]
        assert (result["a"].completed_count, result["a"].skipped_count) == (4, 2)

    def test_init_comes_first(self, project: Project) -> None:
        seen: list[str] = []
        assert run(
            task("a", lambda b: seen.append("block"), init_callback_fn=lambda: seen.append("init"))
        )
        assert seen == ["init", *["block"] * 4]

    def test_init_and_clients_are_told_who_they_are(self, project: Project) -> None:
        told: list[dict[str, Any]] = []

        def loop() -> None:
            client = sb.Client()
            while True:
                with client.acquire_block() as block:
                    if block is None:
                        return
                    told.append({**client.context, "worker_id": client.worker_id})

        def init(context: dict[str, Any]) -> None:
            told.append(context)

        assert run(task("a", loop, init_callback_fn=init))
        facts = {"hostname": os.uname().nodename, "task_id": "a", "worker_id": 0}
        assert told == [{**facts, "logdir": os.getcwd()}] * 5

    def test_generators_fail(self, project: Project) -> None:
        def lazy(block: sb.Block) -> Any:
            yield block

        result = run(task("a", lazy))
        assert not result
        assert result["a"].failed_count > 0

    def test_declared_arrays_are_made_and_what_lower_phases_wrote_is_seen(
        self, project: Project
    ) -> None:
        from snakemake_blocks.operations.registry import load_pipeline

        project.array("s.zarr/raw", np.arange(40), voxel_size=[1], offset=[0])
        project.functions("def f(raw, own): return raw + own.max()")
        writes = {"own": {"array": "s.zarr/own", "dtype": "int64"}}
        reads = {
            "raw": {"array": "s.zarr/raw", "fill": 0},
            "own": {"array": "s.zarr/own", "fill": 0},
        }
        geometry = {"roi": "s.zarr/raw", "block_size": [10], "context": 1}
        how = {"function": "functions:f", "call": "arrays", "reads": reads, "writes": writes}
        path = project.write(("f", {**how, **geometry}))
        tasks = load_pipeline(path).tasks
        assert sb.run_blockwise(tasks, multiprocessing=False, summary=False)
        serial = project.read("s.zarr/own")
        phase0 = serial[:10].tolist(), serial[20:30].tolist()
        assert phase0 == (list(range(10)), list(range(20, 30))), "there is nothing to see yet"
        assert serial[10] == 10 + 20 and serial[30] == 30 + 29


SCRIPT = """
import sys
from snakemake_blocks import Client
client = Client()
while True:
    with client.acquire_block() as block:
        if block is None:
            break
        if block.index[0] == int(sys.argv[1]):
            raise OSError("the script's")
        print(block.index[0], file=open("seen.txt", "a"))
"""


class TestScripts:
    def start(self, bad: int) -> None:
        subprocess.run([sys.executable, "script.py", str(bad)])

    def test_take_their_blocks_here(self, project: Project) -> None:
        Path("script.py").write_text(SCRIPT)
        assert run(task("a", partial(self.start, -1)))
        assert sorted(Path("seen.txt").read_text().split()) == ["0", "1", "2", "3"]

    def test_tell_of_their_exceptions(self, project: Project) -> None:
        Path("script.py").write_text(SCRIPT)
        with pytest.raises(Exception, match="the script's"):
            run(task("a", partial(self.start, 0)))
