from __future__ import annotations

import io
from pathlib import Path

import pytest
from faults import SIZE, Scene, line

from snakemake_blocks.ledger import Event, Ledger, first_block
from snakemake_blocks.progress import Count, ProgressView, Tracker


def test_a_notebook_gets_lines_and_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says FORCE_COLOR, but is no terminal on which a bar could be drawn again."""
    monkeypatch.setenv("FORCE_COLOR", "1")

    class Two(Tracker):
        def __init__(self) -> None: ...

        def poll(self) -> dict[str, Count]:
            return {"one": Count(done=3, failed=1, total=4)}

    stream = io.StringIO()
    view = ProgressView(Two(), stream)
    view.start()
    view.stop()
    assert "\x1b[?25l" not in stream.getvalue()
    assert "one: 3 of 4 blocks done, 1 failed" in stream.getvalue()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    made = Scene(tmp_path)
    made.functions("def picky(block):\n    if block.index == (1,): raise ValueError('no')\n")
    up = line("up", "functions:picky", shape=(4,), blocks_per_job=2)
    more = {"upstream_tasks": [up], "read_write_conflict": False, "blocks_per_job": 1}
    made.plan(up, line("down", shape=(4,), context=SIZE, **more))
    return made


class TestTracker:
    def test_it_follows_the_ledgers(self, scene: Scene) -> None:
        tracker = Tracker(scene.in_place, scene.root)
        assert tracker.poll() == {"up": Count(total=4), "down": Count(total=4)}
        scene.run("up", (1,))
        assert tracker.poll() == {"up": Count(total=4, done=2), "down": Count(total=4)}

    def test_what_a_block_left_out_is_no_state(self, scene: Scene) -> None:
        tracker = Tracker(scene.in_place, scene.root)
        scene.run("up", (1,))
        job = scene.job("up", (0,))
        ledger = Ledger(scene.ledger("up"), first_block(job.task.grid))
        for event in (Event.STARTED, Event.EMPTY):
            ledger.append(event, (0,), fingerprint=job.task.fingerprint, stamp=3)
        ledger.close()
        assert tracker.poll()["up"] == Count(total=4, done=2, running=1)

    def test_what_a_failed_block_makes_impossible_is_counted(self, scene: Scene) -> None:
        """The second block of `up` is read by the first three of `down`."""
        tracker = Tracker(scene.in_place, scene.root)
        scene.run("up", (0,))
        counts = tracker.poll()
        assert counts["up"] == Count(total=4, done=1, failed=1)
        assert counts["up"].left == 2
        assert counts["down"] == Count(total=4, orphaned=3)
        assert counts["down"].left == 1

    def test_a_retry_that_succeeds_takes_it_back(self, scene: Scene) -> None:
        tracker = Tracker(scene.in_place, scene.root)
        scene.run("up", (0,))
        assert tracker.poll()["down"].orphaned == 3
        scene.functions("def picky(block): pass")
        assert scene.run("up", (0,)).complete
        assert tracker.poll()["down"].orphaned == 0

    def test_done_before_it_began(self, scene: Scene) -> None:
        scene.run("up", (1,))
        assert Tracker(scene.in_place, scene.root).poll()["up"] == Count(total=4, done=2)


def test_the_line_names_orphans(scene: Scene) -> None:
    stream = io.StringIO()
    view = ProgressView(Tracker(scene.in_place, scene.root), stream)
    view.start()
    scene.run("up", (0,))
    view.stop()
    assert "up: 1 of 4 blocks done, 1 failed, " in stream.getvalue()
    assert "down: 0 of 4 blocks done, 0 failed, 3 orphaned\n" in stream.getvalue()
