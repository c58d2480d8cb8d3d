from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.engine.lookahead import LookAhead

PATIENCE = 30.0


class Machine:
    """Jobs named by numbers; each runs until it is told to end."""

    def __init__(self, cores: int) -> None:
        self.begun: list[int] = []
        self.told: list[list[int]] = []
        self.failures: list[BaseException] = []
        self.broken = False
        self.news = threading.Condition()
        self.queue: LookAhead[int] = LookAhead(
            cores, begin=self.begun.append, tell=self.take, fail=self.failures.append
        )

    def take(self, jobs: list[int]) -> None:
        with self.news:
            if self.broken:
                self.broken = False
                raise ValueError("cannot be told")
            self.told.append(jobs)
            self.news.notify_all()

    def end(self, job: int) -> None:
        self.queue.has_ended(job)
        self.queue.to_tell(job)

    def until_told(self, count: int) -> list[int]:
        with self.news:
            assert self.news.wait_for(lambda: sum(map(len, self.told)) >= count, PATIENCE)
            return sorted(job for jobs in self.told for job in jobs)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(cores=2)
    yield made
    made.queue.close()


class TestQueue:
    def test_begins_as_many_as_there_are_cores_for(self, machine: Machine) -> None:
        for job in range(4):
            machine.queue.add(job, 1)
        assert machine.begun == [0, 1]
        machine.end(1)
        assert machine.begun == [0, 1, 2]
        for job in (0, 2, 3):
            machine.end(job)

    def test_small_ones_do_not_overtake_a_large_one(self, machine: Machine) -> None:
        for job, cores in enumerate((1, 2, 1)):
            machine.queue.add(job, cores)
        assert machine.begun == [0]
        machine.end(0)
        assert machine.begun == [0, 1]
        machine.end(1)
        assert machine.begun == [0, 1, 2]
        machine.end(2)

    def test_one_without_cores_waits_only_for_its_turn(self, machine: Machine) -> None:
        for job in (0, 1):
            machine.queue.add(job, 1)
        machine.queue.add(2, 0)
        assert machine.begun == [0, 1, 2]
        for job in (0, 1, 2):
            machine.end(job)

    def test_what_is_dropped_does_not_begin(self, machine: Machine) -> None:
        for job in range(4):
            machine.queue.add(job, 2)
        assert machine.queue.drop() == [1, 2, 3]
        machine.end(0)
        assert machine.begun == [0]

    def test_closing_waits_for_what_runs_and_drops_the_rest(self) -> None:
        machine = Machine(cores=1)
        for job in range(3):
            machine.queue.add(job, 1)
        closing = threading.Thread(target=machine.queue.close)
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        machine.end(0)
        closing.join(PATIENCE)
        assert (machine.begun, machine.told) == ([0], [[0]])

    def test_jobs_that_end_as_they_begin(self) -> None:
        """They end in the thread that begins them; thousands in a row are no recursion."""
        begun = []

        def begin(job: int) -> None:
            begun.append(job)
            if job:
                queue.has_ended(job)

        queue: LookAhead[int] = LookAhead(1, begin=begin, tell=print, fail=print)
        for job in range(5000):
            queue.add(job, 1)
        queue.has_ended(0)
        assert begun == list(range(5000))
        queue.close()

    def test_a_begin_that_raises_does_not_block_the_others(self) -> None:
        begun = []

        def begin(job: int) -> None:
            begun.append(job)
            if job == 0:
                raise ValueError

        queue: LookAhead[int] = LookAhead(1, begin=begin, tell=print, fail=print)
        with pytest.raises(ValueError):
            queue.add(0, 1)
        queue.has_ended(0)
        queue.add(1, 1)
        assert begun == [0, 1]
        queue.has_ended(1)
        queue.close()

    def test_ctrl_c_while_a_job_begins(self) -> None:
        """That job never ends; who closes must not wait for it, only for those that began."""

        def begin(job: int) -> None:
            if job == 1:
                raise KeyboardInterrupt

        queue: LookAhead[int] = LookAhead(2, begin=begin, tell=print, fail=print)
        queue.add(0, 1)
        with pytest.raises(KeyboardInterrupt):
            queue.add(1, 1)
        ending = threading.Timer(0.2, queue.has_ended, [0])
        ending.start()
        queue.close()
        assert ending.finished.is_set(), "the first job was waited for"
        queue.has_ended(1)  # it had begun after all

    def test_closing_waits_for_a_job_that_another_thread_begins(self) -> None:
        began, goes_on = threading.Event(), threading.Event()

        def begin(job: int) -> None:
            began.set()
            assert goes_on.wait(PATIENCE)

        queue: LookAhead[int] = LookAhead(1, begin=begin, tell=print, fail=print)
        beginning = threading.Thread(target=queue.add, args=(0, 1))
        closing = threading.Thread(target=queue.close)
        beginning.start()
        assert began.wait(PATIENCE)
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        goes_on.set()
        beginning.join(PATIENCE)
        queue.has_ended(0)
        closing.join(PATIENCE)
        assert not closing.is_alive()


class TestTelling:
    def test_each_job_once(self, machine: Machine) -> None:
        for job in range(100):
            machine.queue.add(job, 1)
            machine.end(job)
        assert machine.until_told(100) == list(range(100))

    # faults: kind 9
    def test_an_exception_is_handed_on_and_later_ends_are_told(self, machine: Machine) -> None:
        machine.broken = True
        machine.queue.add(0, 1)
        machine.end(0)
        give_up = time.monotonic() + PATIENCE
        while not machine.failures:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        machine.queue.add(1, 1)
        machine.end(1)
        assert machine.until_told(1) == [1]
        assert [str(error) for error in machine.failures] == ["cannot be told"]

    @pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
    def test_nothing_that_is_raised_ends_the_thread(
        self, kind: type[BaseException], capfd: pytest.CaptureFixture[str]
    ) -> None:
        told: list[int] = []

        def tell(jobs: list[int]) -> None:
            told.extend(jobs)
            if 0 in jobs:
                raise kind("cannot be told")

        def fail(error: BaseException) -> None:
            raise RuntimeError("cannot fail") from error

        queue: LookAhead[int] = LookAhead(1, begin=lambda job: None, tell=tell, fail=fail)
        for job in range(2):
            queue.add(job, 1)
            queue.has_ended(job)
            queue.to_tell(job)
            give_up = time.monotonic() + PATIENCE
            while job not in told:
                assert time.monotonic() < give_up
                time.sleep(0.001)
        queue.close()
        assert "cannot fail" in capfd.readouterr().err

    def test_nothing_is_withheld_from_who_has_nothing_to_do(self, machine: Machine) -> None:
        for job in range(3):
            machine.queue.add(job, 1)
            machine.end(job)
            assert machine.until_told(job + 1) == list(range(job + 1))
        assert machine.told == [[0], [1], [2]]

    def test_while_enough_jobs_wait_they_are_told_together(self, machine: Machine) -> None:
        for job in range(40):
            machine.queue.add(job, 1)
            machine.end(job)
        machine.until_told(40)
        assert machine.queue.wanted > 30
        for job in range(40, 240):
            machine.queue.add(job, 1)
        before = len(machine.told)
        for job in range(40, 60):
            machine.end(job)
        assert machine.until_told(60) == list(range(60))
        assert len(machine.told) - before <= 3
        for job in range(60, 240):
            machine.end(job)


class TestWanted:
    def test_nothing_before_a_job_has_ended(self, machine: Machine) -> None:
        assert machine.queue.wanted == 0

    def test_none_for_long_jobs_many_for_short_ones(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now)

        def run(count: int, seconds: float) -> int:
            nonlocal now
            for _ in range(count):
                machine.queue.add(0, 1)
                now += seconds
                machine.queue.has_ended(0)
            return machine.queue.wanted

        assert run(50, 2.0) == 0
        assert run(50, 0.01) == 49
        assert run(200, 0.0001) == 256
        assert run(1, 10.0) == 0


@given(st.lists(st.integers(0, 4), max_size=40), st.randoms(use_true_random=False))
def test_cores_are_never_exceeded_and_order_is_kept(cores: list[int], chance: object) -> None:
    machine = Machine(cores=4)
    running: list[int] = []
    seen = 0

    def look() -> None:
        nonlocal seen
        running.extend(machine.begun[seen:])
        seen = len(machine.begun)
        assert sum(cores[job] for job in running) <= 4

    for job, needed in enumerate(cores):
        machine.queue.add(job, needed)
        look()
        if running and chance.random() < 0.5:  # type: ignore[attr-defined]
            machine.end(running.pop(chance.randrange(len(running))))  # type: ignore[attr-defined]
            look()
    while running:
        machine.end(running.pop())
        look()
    assert machine.begun == list(range(len(cores)))
    machine.queue.close()
    assert sorted(job for jobs in machine.told for job in jobs) == machine.begun
