from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.work import stop_reasons
from snakemake_blocks.work.stop_reasons import (
    CONDUCTOR,
    Deadline,
    StopReasons,
    conductor,
    deadline_of,
)

INF = float("inf")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    monkeypatch.setattr(stop_reasons, "_LOOK_SECONDS", -1.0)
    return RunPaths(tmp_path)


def seconds(deadline: Deadline | None) -> float:
    assert deadline is not None
    return round(deadline.at - time.monotonic())


class TestDeadline:
    def test_without_a_scheduler_there_is_none(self, remote: str) -> None:
        told = {CONDUCTOR: remote}
        assert deadline_of(30, attempt=1, environment=told) is None
        assert deadline_of(30, attempt=1, environment={**told, "SLURM_JOB_ID": ""}) is None
        assert deadline_of(None, attempt=1, environment={**told, "LSB_JOBID": "1"}) is None
        assert deadline_of("soon", attempt=1, environment={**told, "LSB_JOBID": "1"}) is None

    @pytest.mark.parametrize("name", ["SLURM_JOB_ID", "LSB_JOBID"])
    @pytest.mark.parametrize(
        "runtime, minutes", [(30, 30), (1.5, 1.5), ("90", 90), ("2h", 120), ("30 min", 30)]
    )
    def test_from_the_runtime(
        self, name: str, runtime: object, minutes: float, remote: str
    ) -> None:
        for attempt in (1, 2, 3):
            told = {name: "7", CONDUCTOR: remote}
            found = deadline_of(runtime, attempt=attempt, environment=told)
            assert seconds(found) == minutes * 60 * attempt

    def test_it_counts_from_the_jobs_first_process(self, remote: str) -> None:
        job = {"LSB_JOBID": f"a-test-{os.getpid()}"}
        code = "print(flush=True); input()"
        first = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **job},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert first.stdout is not None and first.stdout.readline()
        time.sleep(2.1)
        told = {**job, CONDUCTOR: remote}
        found = deadline_of(1, attempt=1, environment=told)
        first.communicate(b"\n")
        assert found is not None
        assert found.at - time.monotonic() < 58, "the job's first process began 2 s ago"

    def test_what_the_scheduler_says_goes_first(self) -> None:
        told = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 600)}
        found = deadline_of(30, attempt=2, environment=told)
        assert abs(seconds(found) - 600) <= 1

    def test_the_margin_fits_the_time_there_is(self, remote: str) -> None:
        told = {"LSB_JOBID": "7", CONDUCTOR: remote}
        margins = [
            deadline_of(minutes, attempt=1, environment=told).margin  # type: ignore[union-attr]
            for minutes in (0.1, 1, 5, 8, 600)
        ]
        assert margins == [pytest.approx(3), 30, 30, 48, 60]

    def test_a_job_that_was_not_submitted_has_no_walltime_of_its_own(self) -> None:
        """`run` inside of `bsub -Is`, or `work` by hand there: nobody kills this job."""
        assert deadline_of(1, attempt=1, environment={"LSB_JOBID": "7"}) is None
        told = {"LSB_JOBID": "7", CONDUCTOR: conductor()}
        assert deadline_of(1, attempt=1, environment=told) is None

    def test_a_conductor_that_cannot_be_looked_at_is_believed(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        told = {"LSB_JOBID": "7", CONDUCTOR: f"{gone.pid}:1"}
        assert seconds(deadline_of(1, attempt=1, environment=told)) == 60


class TestReasons:
    def test_none(self, paths: RunPaths) -> None:
        with StopReasons(paths, {CONDUCTOR: conductor()}) as stops:
            assert stops.reason() == ""
            assert stops.grace() == INF

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
    def test_a_signal(self, paths: RunPaths, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with StopReasons(paths, {}) as stops:
            os.kill(os.getpid(), number)
            assert stops.wake is not None and wait([stops.wake], 5)
            assert stops.reason() == f"stopped by {number.name}"
            assert not wait([stops.wake], 0)
            assert 19 < stops.grace() <= 20
            assert not stops.by_keyboard
        assert signal.getsignal(number) == before

    def test_ctrl_c_is_at_once_also_after_sigterm(self, paths: RunPaths) -> None:
        with StopReasons(paths, {}) as stops:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stops.grace() > 0
            os.kill(os.getpid(), signal.SIGINT)
            assert stops.grace() == 0
            assert stops.by_keyboard
            os.kill(os.getpid(), signal.SIGTERM)
            assert stops.grace() == 0

    def test_the_grace_gets_shorter(self, paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stop_reasons, "_GRACE", 0.1)
        with StopReasons(paths, {}) as stops:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.15)
            assert stops.grace() <= 0

    def test_stop_lets_blocks_finish(self, paths: RunPaths) -> None:
        with StopReasons(paths, {}) as stops:
            paths.drain.touch()
            assert stops.reason() == "stopped by `snakemake-blocks stop`"
            assert stops.grace() == INF
            os.kill(os.getpid(), signal.SIGTERM)
            assert stops.grace() <= 20

    def test_the_walltime(self, paths: RunPaths) -> None:
        now = time.monotonic()
        assert StopReasons(paths, {}, Deadline(now + 100, 60)).reason() == ""
        near = StopReasons(paths, {}, Deadline(now + 59, 60))
        assert near.reason() == "stopped before the walltime"
        assert 38 < near.grace() < 39.1

    def test_a_dead_conductor(self, paths: RunPaths) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        alive, _, rest = conductor().partition(":")
        start, _, host = rest.partition(":")
        for gone in (str(process.pid), f"{process.pid}:5:{host}", f"{alive}:{int(start) - 1}"):
            stops = StopReasons(paths, {CONDUCTOR: gone})
            assert stops.reason() == "stopped because its Snakemake process is gone"
            assert stops.grace() == 0
        for fine in ("", "x", alive, f"{alive}:{start}", f"{process.pid}:5:another/host"):
            assert StopReasons(paths, {CONDUCTOR: fine}).reason() == ""

    def test_in_another_thread_signals_are_not_ours(self, paths: RunPaths) -> None:
        found: list[object] = []

        def work() -> None:
            with StopReasons(paths, {}) as stops:
                found.extend([stops.wake, stops.reason()])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found == [None, ""]
