from __future__ import annotations

import itertools
import os
from collections import Counter
from typing import Any

import pytest
from faults import SIZE, Scene, hurry, line

from snakemake_blocks.errors import BusyError, InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.state import forgetting
from snakemake_blocks.state.ledger import Ledger
from snakemake_blocks.state.reset import reset_blocks
from snakemake_blocks.system.locks import held


@pytest.fixture
def scene(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Scene:
    hurry(monkeypatch)
    return scene


def changed(before: dict[Index, int], after: dict[Index, int]) -> set[Index]:
    """Return the blocks that ran again."""
    assert before.keys() == after.keys()
    return {index for index in before if before[index] != after[index]}


def reset(scene: Scene, name: str = "task", **more: Any) -> int:
    return reset_blocks(scene.in_place, scene.root, name, **more)


class TestOneTask:
    def test_all(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=2))
        scene.run_all()
        scene.done()
        assert reset(scene) == 4
        assert scene.stamps() == {}
        assert not list(scene.root.glob("task/p*/*/*.json"))
        assert not scene.paths.done("task").exists()
        assert all(result.complete for result in scene.run_all().values())
        assert Counter(scene.called) == {str(n): 2 for n in range(4)}

    def test_a_region(self, scene: Scene) -> None:
        scene.plan(line(shape=(4, 4), blocks_per_job=2))
        scene.run_all()
        before = scene.stamps()
        assert reset(scene, roi=Box((15, 0), (21, 1))) == 2
        scene.run_all()
        assert changed(before, scene.stamps()) == {(1, 0), (2, 0)}

    def test_twice_is_once(self, scene: Scene) -> None:
        scene.plan(line())
        scene.run_all()
        assert [reset(scene), reset(scene)] == [4, 0]

    def test_what_never_ran_is_not_counted(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=1))
        scene.run(index=(2,))
        assert reset(scene) == 1

    def test_later_phase_neighbours_have_read_it(self, scene: Scene) -> None:
        """Phases 0 1 0 1: block 1 read the output of block 0; block 2 read nothing of it."""
        scene.plan(line(context=SIZE, blocks_per_job=1))
        scene.run_all()
        before = scene.stamps()
        assert reset(scene, roi=Box((0,), (1,))) == 2
        scene.run_all()
        assert changed(before, scene.stamps()) == {(0,), (1,)}
        before = scene.stamps()
        assert reset(scene, roi=Box((10,), (11,))) == 1
        scene.run_all()
        assert changed(before, scene.stamps()) == {(1,)}

    @pytest.mark.parametrize("batch", [1, [3, 3], [2, 1]])
    def test_transitively(self, scene: Scene, batch: Any) -> None:
        scene.plan(line(shape=(3, 3), context=SIZE, blocks_per_job=batch))
        scene.run_all()
        task, before = scene.in_place.tasks["task"], scene.stamps()
        wanted, frontier = {(0, 0)}, [(0, 0)]
        for u in frontier:
            for v in itertools.product(range(3), repeat=2):
                near = all(abs(a - b) <= 1 for a, b in zip(u, v, strict=True))
                if near and v not in wanted and task.order(v) > task.order(u):
                    wanted.add(v)
                    frontier.append(v)
        assert reset(scene, roi=Box((0, 0), (1, 1))) == len(wanted)
        scene.run_all()
        assert changed(before, scene.stamps()) == wanted

    def test_failed_ones_alone(self, scene: Scene) -> None:
        scene.functions("def f(block):\n    note(block)\n    1 / (block.index[0] % 2)\n")
        scene.plan(line(function="functions:f"))
        scene.run()
        before = scene.stamps()
        assert reset(scene, only_failed=True) == 2
        assert scene.stamps() == before
        scene.functions("def f(block): note(block)")
        assert scene.run(attempt=2).complete
        assert before.items() <= scene.stamps().items()

    def test_cut_short_it_leaves_nothing_that_has_read_forgotten_output(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.plan(line(shape=(5,), context=SIZE, blocks_per_job=1))
        scene.run_all()
        task = scene.in_place.tasks["task"]
        real, count = Ledger.append, itertools.count()

        def dies(*arguments: Any, **more: Any) -> None:
            if next(count) == 5:
                raise KeyboardInterrupt
            real(*arguments, **more)

        monkeypatch.setattr(forgetting.Ledger, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            reset(scene)
        kept = scene.stamps().keys()
        assert 0 < len(kept) < 5
        for index in kept:
            near = task.block_phases.conflicting(index)
            assert all(u in kept for u in near if task.order(u) < task.order(index))


class TestDownstream:
    """Upstream is partly reset: exactly the affected blocks run again, and no other."""

    def chain(self, scene: Scene, batch: Any = 1, context: int = SIZE) -> None:
        up = line("up", shape=(4, 4), blocks_per_job=batch)
        middle = line(
            "middle",
            shape=(4, 4),
            context=context,
            read_write_conflict=False,
            upstream_tasks=[up],
            blocks_per_job=batch,
        )
        other = line("other", shape=(4, 4), upstream_tasks=[up], blocks_per_job=[4, 4])
        last = line("last", shape=(2, 2), upstream_tasks=[middle], blocks_per_job=[2, 2])
        scene.plan(up, middle, other, last)
        scene.run_all()
        for name in ("last", "other"):
            scene.done(name)

    @pytest.mark.parametrize("batch", [1, [2, 2], [4, 4], [1, 4]])
    def test_exactly_the_affected_blocks(self, scene: Scene, batch: Any) -> None:
        self.chain(scene, batch)
        names = ("up", "middle", "other", "last")
        before = {name: scene.stamps(name) for name in names}
        assert reset(scene, "up", roi=Box((0, 30), (1, 31))) == 1
        assert not scene.paths.done("other").exists()
        for result in scene.run_all().values():
            assert result.complete
        ran = {name: changed(before[name], scene.stamps(name)) for name in names}
        assert ran == {
            "up": {(0, 3)},
            "middle": {(0, 2), (0, 3), (1, 2), (1, 3)},
            "other": {(0, 3)},
            # blocks 0 and 1 along each axis; (1, 3) and (1, 2) are none of theirs
            "last": set(),
        }

    def test_down_to_the_last(self, scene: Scene) -> None:
        self.chain(scene)
        before = scene.stamps("last")
        reset(scene, "up", roi=Box((0, 0), (1, 1)))
        scene.run_all()
        assert changed(before, scene.stamps("last")) == set(before)

    def test_only_downstream(self, scene: Scene) -> None:
        self.chain(scene)
        before = {name: scene.stamps(name) for name in ("up", "middle", "other")}
        reset(scene, "middle")
        scene.run_all()
        assert changed(before["up"], scene.stamps("up")) == set()
        assert changed(before["other"], scene.stamps("other")) == set()
        assert changed(before["middle"], scene.stamps("middle")) == set(before["middle"])


class TestRefusing:
    def test_unknown(self, scene: Scene) -> None:
        scene.plan(line())
        with pytest.raises(InputError, match="there is no task 'x'; known are task"):
            reset(scene, "x")
        with pytest.raises(InputError, match="--roi has 2 axes, task task has 1"):
            reset(scene, roi=Box((0, 0), (1, 1)))

    def test_while_a_job_runs(self, scene: Scene) -> None:
        scene.plan(line(blocks_per_job=1))
        scene.run(index=(0,))
        with (
            held(scene.paths.job_lock("task", (1,)), {}),
            pytest.raises(BusyError, match="job task/1 is run by"),
        ):
            reset(scene)
        assert len(scene.stamps()) == 1


# faults: kind 12
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["done.json", "notes/x", "logs/0/0.log"])
def test_what_is_in_the_way_is_named_before_anything_is_forgotten(scene: Scene, name: str) -> None:
    scene.plan(line(blocks_per_job=2))
    scene.run_all()
    before = scene.stamps()
    path = scene.root / "task" / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"{path}: is no file; move it away"):
        reset(scene)
    assert scene.stamps() == before
    path.unlink()
    assert reset(scene) == 4


# faults: kind 12
@pytest.mark.parametrize("name", ["done.json", "ledger/0/0", "notes/x"])
def test_so_is_what_is_too_large(scene: Scene, name: str) -> None:
    scene.plan(line(blocks_per_job=2))
    scene.run_all()
    path = scene.root / "task" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match=f"{path}: is larger than anything that belongs here"):
        reset(scene)
    assert path.stat().st_size == 1 << 40
