from __future__ import annotations

import io
import re
import shutil
import threading
import time

import pytest
from faults import SIZE, Scene, line

from snakemake_blocks.state.ledger import Event, Ledger, first_block
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.view import progress
from snakemake_blocks.view.progress import Count, ProgressView, Tracker, watch_run


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


# faults: kind 5
@pytest.mark.parametrize("name", ["[/red] x", "[bold]x[/]", "a\nb\u2028c", "{task.fields[x]} %s"])
def test_a_name_is_no_markup(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class One(Tracker):
        def __init__(self) -> None: ...

        def poll(self) -> dict[str, Count]:
            return {name: Count(done=4, total=4)}

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    view = ProgressView(One(), stream)
    view.start()
    view.stop()
    assert comment(name) in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


@pytest.fixture
def scene(scene: Scene) -> Scene:
    scene.functions("def picky(block):\n    if block.index == (1,): raise ValueError('no')\n")
    up = line("up", "functions:picky", shape=(4,), blocks_per_job=2)
    more = {"upstream_tasks": [up], "read_write_conflict": False, "blocks_per_job": 1}
    scene.plan(up, line("down", shape=(4,), context=SIZE, **more))
    return scene


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
        ledger = Ledger(scene.ledger("up"), first_block(job.task.own_grid))
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


# faults: kind 8
class TestDamage:
    @pytest.mark.parametrize("damage", [b"torn", bytes(400), b"\x02" * 5000])
    def test_a_torn_record_costs_itself_alone(self, scene: Scene, damage: bytes) -> None:
        """All that was appended behind it was read as nonsense: 0 of 40 for ever."""
        tracker = Tracker(scene.in_place, scene.root)
        path = scene.paths.ledger("up", (1,))
        path.parent.mkdir(parents=True)
        path.write_bytes(damage)
        assert tracker.poll()["up"] == Count(total=4)
        scene.run("up", (1,))
        assert tracker.poll()["up"] == Count(total=4, done=2)
        with path.open("ab") as file:
            file.write(damage)
        assert tracker.poll()["up"] == Count(total=4, done=2)
        assert Tracker(scene.in_place, scene.root).poll()["up"] == Count(total=4, done=2)

    def test_who_watches_sees_the_end(self, scene: Scene) -> None:
        """That is what `status --watch` does."""
        scene.functions("def picky(block): pass")
        for number in (0, 1):
            path = scene.paths.ledger("up", (number,))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"torn")
            scene.run("up", (number,))
        for number in range(4):
            scene.run("down", (number,))
        stream = io.StringIO()
        watch_run(scene.in_place, scene.root, stream)
        assert "up: 4 of 4 blocks done" in stream.getvalue()

    def test_folders_may_go_while_it_looks(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.run("up", (1,))
        tracker = Tracker(scene.in_place, scene.root)
        (scene.paths.task("up") / "ledger" / "file").touch()
        shutil.rmtree(scene.paths.ledger("up", (1,)).parent)
        assert tracker.poll()["up"] == Count(total=4, done=2)


# faults: kind 8
class TestTrouble:
    """Showing progress is a courtesy: no trouble with it may end or hang a run."""

    class Broken(Tracker):
        def __init__(self, errors: int) -> None:
            self.errors = errors

        def poll(self) -> dict[str, Count]:
            if threading.current_thread() is not threading.main_thread() and self.errors:
                self.errors -= 1
                raise PermissionError("no longer")
            return {"one": Count(done=4, total=4)}

    def test_an_exception_is_said_once_and_the_next_look_may_succeed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "_POLL_SECONDS", 0.001)
        stream = io.StringIO()
        view = ProgressView(self.Broken(3), stream)
        view.start()
        give_up = time.monotonic() + 10
        while not view.is_complete and time.monotonic() < give_up:
            time.sleep(0.001)
        view.stop()
        assert view.is_complete
        text = stream.getvalue()
        assert text.count("progress cannot be shown (PermissionError: no longer)") == 1
        assert "one: 4 of 4 blocks done" in text

    def test_the_end_does_not_wait_for_a_disk_that_hangs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "_STOP_SECONDS", 0.05)
        answers = threading.Event()

        class Hanging(Tracker):
            def __init__(self) -> None: ...

            def poll(self) -> dict[str, Count]:
                if threading.current_thread() is not threading.main_thread():
                    answers.wait(30)
                return {"one": Count(total=4)}

        view = ProgressView(Hanging(), io.StringIO())
        view.start()
        began = time.monotonic()
        view.stop()
        answers.set()
        assert time.monotonic() - began < 5
