from __future__ import annotations

import io
import os
import pdb
import threading
import time
from typing import Any

import numpy as np
import pytest
from faults import Scene, hurry, line
from funlib.geometry import Roi

from snakemake_blocks.commands.debug import find_block, run_one_block
from snakemake_blocks.commands.generate import make_plan
from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.system.locks import held
from snakemake_blocks.tasks.task import Task

# Digits for Python, but none that a block has; and more of them than Python takes.
_ODD = ["\u00b2", "\u0663-\u0663", "9" * 100, "9" * 5000]


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hurry(monkeypatch)
    return scene


def run(scene: Scene, block: str, name: str = "task", *, debugger: bool = False) -> None:
    run_one_block(scene.in_place, scene.root, name, block, debugger=debugger)


class TestFinding:
    def test_by_index_and_by_daisys_id(self, scene: Scene) -> None:
        scene.plan(line(shape=(3, 4)))
        task = scene.in_place.tasks["task"]
        for index in task.grid:
            assert find_block(task, "-".join(map(str, index))) == index
            assert find_block(task, str(task.block(index).block_id[1])) == index

    def test_by_id_in_a_vast_grid_and_with_context(self) -> None:
        wide = Roi((-30, -30), (10 * 10**5 + 60,) * 2)
        block = Roi((0, 0), (10, 10))
        vast = Task("task", wide, block.grow((30, 30), (30, 30)), block, "os.path:exists")
        task = make_plan(vast).tasks["task"]
        for index in ((0, 0), (99_999, 12_345)):
            assert find_block(task, str(task.block(index).block_id[1])) == index
        with pytest.raises(InputError, match="has no block with the id 0"):
            find_block(task, "0")

    def test_on_one_axis_a_number_is_an_index(self, scene: Scene) -> None:
        scene.plan(line(shape=(4,), context=10))
        assert find_block(scene.in_place.tasks["task"], "2") == (2,)

    @pytest.mark.parametrize("text", ["", "a", "1-", "1-x", "-1", "3-0-0", "9-9", "999", *_ODD])
    def test_nonsense(self, scene: Scene, text: str) -> None:
        scene.plan(line(shape=(3, 4)))
        with pytest.raises(InputError):
            find_block(scene.in_place.tasks["task"], text)

    def test_masked(self, scene: Scene) -> None:
        scene.plan(line(present=np.array([True, False, True, True])))
        with pytest.raises(InputError, match="block 1 of task task is masked"):
            find_block(scene.in_place.tasks["task"], "1")


class TestRunning:
    def test_in_this_process_and_without_a_record(self, scene: Scene) -> None:
        scene.functions("def f(block): note(block)")
        scene.plan(line(function="functions:f", timeout=1e-9))
        run(scene, "2")
        assert [call[:2] for call in scene.calls] == [["2", str(os.getpid())]]
        assert scene.events() == []
        assert not scene.paths.job_lock("task", (0,)).exists()

    def test_a_class_is_closed(self, scene: Scene) -> None:
        scene.functions(
            """
            class Model:
                def __call__(self, block): note(block)
                def close(self): open("closed", "w").close()
            """
        )
        scene.plan(line(function="functions:Model"))
        run(scene, "0")
        assert (scene.folder / "closed").exists()

    # faults: kind 8
    def test_a_class_is_closed_after_an_exception(self, scene: Scene) -> None:
        scene.functions(
            """
            class Model:
                def __call__(self, block): raise ZeroDivisionError("here")
                def close(self): open("closed", "w").close()
            """
        )
        scene.plan(line(function="functions:Model"))
        with pytest.raises(ZeroDivisionError):
            run(scene, "0")
        assert (scene.folder / "closed").exists()

    def test_exceptions_come_out(self, scene: Scene) -> None:
        scene.functions("def f(block): raise ZeroDivisionError('here')")
        scene.plan(line(function="functions:f"))
        with pytest.raises(ZeroDivisionError, match="here"):
            run(scene, "0")
        assert not scene.paths.job_lock("task", (0,)).exists()

    def test_the_debugger_is_where_it_was_raised(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.functions("def f(block):\n    local = 41\n    raise ZeroDivisionError('here')")
        scene.plan(line(function="functions:f"))
        seen: list[Any] = []

        def look(trace: Any) -> None:
            while trace.tb_next:
                trace = trace.tb_next
            seen.append(trace.tb_frame.f_locals["local"])

        monkeypatch.setattr(pdb, "post_mortem", look)
        with pytest.raises(ZeroDivisionError):
            run(scene, "0", debugger=True)
        assert seen == [41]

    def test_while_its_job_runs(self, scene: Scene) -> None:
        scene.plan(line())
        with (
            held(scene.paths.job_lock("task", (0,)), {}),
            pytest.raises(BusyError, match="the job of block 1: is held by"),
        ):
            run(scene, "1")

    def test_refused(self, scene: Scene) -> None:
        scene.functions("def loop(): pass")
        scene.plan(line(function="functions:loop", call="worker"))
        with pytest.raises(InputError, match="is a worker loop"):
            run(scene, "0")
        with pytest.raises(InputError, match="there is no task 'x'"):
            run(scene, "0", "x")


def test_a_real_debugger(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.functions("def f(block):\n    local = 41\n    raise ZeroDivisionError('here')")
    scene.plan(line(function="functions:f"))
    monkeypatch.setattr("sys.stdin", io.StringIO("p local + 1\nq\n"))
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(ZeroDivisionError):
        run(scene, "0", debugger=True)
    assert "42" in out.getvalue()


# faults: see README.md, beside the kinds
class TestNeighbours:
    """Blocks that read each other's output are in nobody else's hands meanwhile."""

    def plan(self, scene: Scene) -> list[int]:
        """Plan four jobs in conflict with their neighbours; return their phases."""
        scene.plan(line(shape=(4,), context=5, blocks_per_job=1))
        task = scene.in_place.tasks["task"]
        return [task.phases.of((k,)) for k in range(4)]

    @pytest.mark.parametrize("neighbour", [1, 3])
    def test_a_neighbour_in_hand_refuses(self, scene: Scene, neighbour: int) -> None:
        self.plan(scene)
        lock = scene.paths.job_lock("task", (neighbour,))
        with (
            held(lock, os.environ, what="job"),
            pytest.raises(BusyError, match=rf"job task/{neighbour} is in hand of process \d+"),
        ):
            run(scene, "2")
        assert scene.called == []

    def test_others_in_hand_do_not(self, scene: Scene) -> None:
        self.plan(scene)
        with held(scene.paths.job_lock("task", (0,)), os.environ, what="job"):
            run(scene, "2")
        assert scene.called == ["2"]

    def test_who_changes_the_state_refuses(self, scene: Scene) -> None:
        self.plan(scene)
        with (
            held(scene.paths.moving, os.environ, what="state"),
            pytest.raises(BusyError, match="the state is in hand of"),
        ):
            run(scene, "2")

    def test_a_job_waits_for_a_block_of_a_done_neighbour(self, scene: Scene) -> None:
        """And lets go of its own lock meanwhile, so that no two wait for each other."""
        phases = self.plan(scene)
        late = max(range(1, 3), key=lambda k: phases[k])
        early = next(k for k in (late - 1, late + 1) if phases[k] < phases[late])
        for k in sorted(range(4), key=lambda k: phases[k]):
            if k != late:
                scene.run(index=(k,))
        path, mine = (scene.paths.job_lock("task", (k,)) for k in (early, late))
        done: list[bool] = []
        with held(path, os.environ, what="block"):
            thread = threading.Thread(target=lambda: done.append(scene.run(index=(late,)).complete))
            thread.start()
            give_up = time.monotonic() + 30
            seen = set[bool]()
            while len(seen) < 2 and time.monotonic() < give_up:
                seen.add(mine.exists())
                time.sleep(0.001)
            assert done == [] and scene.called.count(str(late)) == 0
        thread.join(60)
        assert done == [True]
