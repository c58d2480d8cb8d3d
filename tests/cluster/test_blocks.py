"""Pipelines of snakemake-blocks on clusters: what comes out, and what is lost when things die."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from snakemake_blocks.state.ledger import Event

from .chain import BLOCKS, Chain, wait_for
from .lsf import LSF_WALLTIME_SIGNALS, LsfStandIn
from .slurm import SlurmCluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the test clusters find processes in /proc"
    ),
]

# What differs from the shipped profiles because nobody wants to wait, or because the test
# cluster has no accounting.
SLURM = {
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": "3",
    "max-status-checks-per-second": "1",
    "latency-wait": "3",
}
LSF = {
    "seconds-between-status-checks": "2",
    "max-status-checks-per-second": "1",
    "latency-wait": "3",
}

# The job of the first four blocks of `smooth`: its comment in SLURM, its name in LSF.
SLURM_HELD = "*smooth_p0_*0-0?0-0"
LSF_HELD = "*smooth_p0:job=0-0___0-0___*"
LSF_OTHER = "*smooth_p0:job=0-0___0-1___*"

Make = Callable[..., Chain]


@pytest.fixture
def on_slurm(slurm: SlurmCluster, blocks_python: Path, tmp_path: Path) -> Make:
    """Return a function that writes a chain, and installs the profile of SLURM."""
    return _maker(slurm, blocks_python, tmp_path, "slurm", SLURM)


@pytest.fixture
def on_lsf(lsf: LsfStandIn, blocks_python: Path, tmp_path: Path) -> Make:
    """Return a function that writes a chain, and installs the profile of LSF."""
    return _maker(lsf, blocks_python, tmp_path, "lsf", LSF)


def _maker(
    cluster: SlurmCluster | LsfStandIn,
    python: Path,
    folder: Path,
    profile: str,
    standard: dict[str, str],
) -> Make:
    def make(settings: dict[str, str] = standard, **smooth: Any) -> Chain:
        chain = Chain(folder / "chain", python, cluster.env, **smooth)
        pairs = (text for k, v in settings.items() for text in ("--set", f"{k}={v}"))
        chain.blocks("profile", "install", profile, *pairs)
        return chain

    return make


@pytest.fixture(scope="session")
def local_results(
    blocks_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Return what the chain writes when it runs on this machine alone."""
    chain = Chain(
        tmp_path_factory.mktemp("local") / "chain", blocks_python, {"PATH": "/usr/bin:/bin"}
    )
    chain.blocks("run", "pipeline.yaml", "--cores", "2")
    assert chain.times(Event.DONE) == BLOCKS
    return chain.results()


def assert_complete(chain: Chain, expected: dict[str, bytes]) -> None:
    """See that every block was done once, and that the results are those of a local run."""
    assert chain.times(Event.DONE) == BLOCKS
    assert chain.results() == expected
    chain.blocks("verify")


# SLURM: the real thing


def test_slurm_gives_the_bytes_of_a_local_run(
    on_slurm: Make, slurm: SlurmCluster, local_results: dict[str, bytes]
) -> None:
    # As shipped but for what there is no accounting for.
    chain = on_slurm({"slurm-status-command": "squeue"})
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "slurm") as run:
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert [job.state for job in slurm.jobs()] == ["COMPLETED"] * 4
    again = chain.command("snakemake", "--snakefile", "blocks/Snakefile", "--profile", "slurm")
    assert again.returncode == 0 and "Nothing to be done" in again.stderr, again.stderr


def test_slurm_job_that_is_cancelled_goes_on_where_it_was(
    on_slurm: Make, slurm: SlurmCluster, local_results: dict[str, bytes]
) -> None:
    chain = on_slurm()
    chain.blocks("generate", "pipeline.yaml", "--target", "cluster")
    with chain.start("snakemake", "--profile", "slurm") as run:
        with chain.held("smooth", 2):
            chain.wait_until_running("smooth", 2)
            before = chain.happened("smooth", Event.DONE)
            assert {(0, 0), (0, 1)} <= {index for index, _ in before}
            job = slurm.wait_for_job(SLURM_HELD)
            slurm.cancel(job)
            slurm.wait_for_job(job.comment, state="CANCELLED")
            wait_for(
                lambda: slurm.programs(job) == {},
                lambda: f"its processes to end: {slurm.programs(job)}",
            )
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert set(before) <= set(chain.happened("smooth", Event.DONE))
    assert chain.times(Event.STARTED) == {"smooth": 9, "label": 2}


def test_slurm_job_out_of_time_goes_on_where_it_was(
    on_slurm: Make, slurm: SlurmCluster, local_results: dict[str, bytes]
) -> None:
    chain = on_slurm(resources={"runtime": 5, "mem_mb": 500})
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "slurm") as run:
        with chain.held("smooth", 2):
            chain.wait_until_running("smooth", 2)
            before = chain.happened("smooth", Event.DONE)
            job = slurm.wait_for_job(SLURM_HELD)
            slurm.expire(job)
            slurm.wait_for_job(job.comment, state="TIMEOUT")
            wait_for(
                lambda: slurm.programs(job) == {},
                lambda: f"its processes to end: {slurm.programs(job)}",
            )
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert set(before) <= set(chain.happened("smooth", Event.DONE))
    again = slurm.jobs(SLURM_HELD)[-1]
    limits = slurm.run("squeue", "--noheader", "--states=all", "--format=%l %m", f"-j{again.id}")
    assert limits.split() == ["10:00", "1000M"], "a second attempt gets twice as much"


def test_slurm_blocks_outlive_its_daemons(
    on_slurm: Make, slurm: SlurmCluster, local_results: dict[str, bytes]
) -> None:
    chain = on_slurm()
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "slurm") as run:
        with chain.held("smooth", 2):
            chain.wait_until_running("smooth", 2)
            slurm.kill("slurmd")
            slurm.restart("slurmctld")  # which makes it save its state: the job is known now
            slurm.kill("slurmctld")
            slurm.start("slurmctld")
        slurm.start("slurmd")
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert chain.times(Event.STARTED) == BLOCKS


def test_slurm_jobs_end_with_an_interrupted_run(
    on_slurm: Make, slurm: SlurmCluster, local_results: dict[str, bytes]
) -> None:
    chain = on_slurm()
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "slurm") as run:
        with chain.held("smooth", 2), chain.held("smooth", 6):
            for column in (2, 6):
                chain.wait_until_running("smooth", column)
            run.interrupt()
            assert run.wait() == 130
            slurm.wait_for(
                lambda: not any(slurm.processes(job) for job in slurm.jobs()),
                what="all processes to be gone",
            )
        assert [job.state for job in slurm.jobs()] == ["CANCELLED"] * 2
    goes_on(chain, "slurm", local_results)


def goes_on(chain: Chain, profile: str, expected: dict[str, bytes]) -> None:
    """See that the next run does what is left, and only that."""
    before = chain.happened("smooth", Event.DONE)
    assert {index for index, _ in before} == {(0, 0), (0, 1), (0, 4), (0, 5)}
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", profile) as run:
        assert run.wait() == 0
    assert_complete(chain, expected)
    assert set(before) <= set(chain.happened("smooth", Event.DONE))


# The stand-in for LSF, with the real plugin


def test_lsf_profile_is_installed_and_just_works(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf({}, resources={"lsf_extra": "-gpu num=1"})
    chain.blocks("generate", "pipeline.yaml", "--target", "cluster")
    with chain.start("snakemake", "--profile", "lsf") as run:
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert [job["state"] for job in lsf.jobs()] == ["DONE"] * 4
    assert {job["minutes"] for job in lsf.jobs()} == {60}
    assert ["num=1" in call for call in lsf.calls("bsub")] == [True, True, False, False]


def test_lsf_job_that_never_ran_is_not_taken_for_done(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf()
    lsf.report("UNKWN", jobs=LSF_OTHER)
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
        assert run.wait() == 1
        assert "MissingOutputException in rule smooth_p0" in run.log
        assert "blocks/smooth/p0/0-0/0-1.json" in run.log
    assert len(lsf.jobs(LSF_OTHER)) == 3, "it was tried three times"
    told = chain.command("snakemake-blocks", "verify")
    assert told.returncode == 1
    assert "smooth: 4 of 8 blocks have no counting record: 0-4, 0-5, 0-6, 0-7" in told.stderr
    before = chain.happened("smooth", Event.DONE)
    lsf.behave()
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert set(before) <= set(chain.happened("smooth", Event.DONE))


def test_lsf_job_taken_for_done_while_it_runs_is_waited_for(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf()
    lsf.report("DONE", jobs=LSF_HELD, run=True)
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
        with chain.held("smooth", 2):
            lsf.wait_for(lambda: len(lsf.jobs(LSF_HELD)) == 2, what="a second attempt")
            lsf.behave()
            log = chain.folder / "blocks/smooth/logs/0-0/0-0.log"
            wait_for(
                lambda: log.exists() and "waiting" in log.read_text(),
                "the second attempt to wait",
            )
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert chain.times(Event.STARTED) == BLOCKS


def test_lsf_job_whose_host_is_lost_is_done_again_from_there(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf()
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
        with chain.held("smooth", 2):
            chain.wait_until_running("smooth", 2)
            before = chain.happened("smooth", Event.DONE)
            lsf.crash(lsf.wait_for_job(LSF_HELD))
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert set(before) <= set(chain.happened("smooth", Event.DONE))
    assert chain.times(Event.STARTED) == {"smooth": 9, "label": 2}


def test_lsf_jobs_outlive_a_killed_run_and_are_not_disturbed(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf()
    with chain.held("smooth", 2):
        with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
            chain.wait_until_running("smooth", 2)
            run.kill()
        busy = chain.command("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf")
        assert busy.returncode == 2
        assert "job smooth/0-0 is run by process" in busy.stderr
    lsf.wait_for(lambda: not lsf.jobs(state="RUN"), what="the jobs to end")
    assert chain.times(Event.DONE) == {"smooth": 8, "label": 0}
    with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
        assert run.wait() == 0
    assert_complete(chain, local_results)
    assert chain.times(Event.STARTED) == BLOCKS


def test_lsf_job_out_of_time_goes_on_where_it_was(
    blocks_python: Path, tmp_path: Path, local_results: dict[str, bytes]
) -> None:
    with LsfStandIn(minute=6.0, grace=2.0, walltime_signals=LSF_WALLTIME_SIGNALS) as lsf:
        chain = _maker(lsf, blocks_python, tmp_path, "lsf", LSF)(resources={"runtime": 2})
        with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
            with chain.held("smooth", 2):
                chain.wait_until_running("smooth", 2)
                before = chain.happened("smooth", Event.DONE)
                job = lsf.wait_for_job(LSF_HELD, state="EXIT")
            assert run.wait() == 0
        assert "RUNLIMIT" in job["reason"] and job["exit_code"] == 128 + signal.SIGUSR2
        assert [job["minutes"] for job in lsf.jobs(LSF_HELD)] == [2, 4]
        assert_complete(chain, local_results)
        assert set(before) <= set(chain.happened("smooth", Event.DONE))


def test_lsf_job_stops_by_itself_before_its_walltime(
    blocks_python: Path, tmp_path: Path, local_results: dict[str, bytes]
) -> None:
    with LsfStandIn(minute=60.0) as lsf:
        chain = _maker(lsf, blocks_python, tmp_path, "lsf", LSF)(resources={"runtime": 1})
        with chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run:
            with chain.held("smooth", 2):
                chain.wait_until_running("smooth", 2)
                log = chain.folder / "blocks/smooth/logs/0-0/0-0.log"
                wait_for(
                    lambda: "stopped before the walltime" in log.read_text(),
                    "the job to give its block back",
                )
            assert run.wait() == 0
        assert [job["minutes"] for job in lsf.jobs(LSF_HELD)][:2] == [1, 2]
        assert (0, 2) in [index for index, _ in chain.happened("smooth", Event.RELEASED)]
        assert_complete(chain, local_results)


def test_lsf_jobs_end_with_an_interrupted_run(
    on_lsf: Make, lsf: LsfStandIn, local_results: dict[str, bytes]
) -> None:
    chain = on_lsf()
    with (
        chain.start("snakemake-blocks", "run", "pipeline.yaml", "--profile", "lsf") as run,
        chain.held("smooth", 2),
        chain.held("smooth", 6),
    ):
        for column in (2, 6):
            chain.wait_until_running("smooth", column)
        run.interrupt()
        assert run.wait() == 130
        jobs = lsf.jobs()
        assert len(jobs) == 2
        lsf.wait_for(
            lambda: not any(lsf.processes(job) for job in jobs), what="all processes to be gone"
        )
    goes_on(chain, "lsf", local_results)


# Settings


@pytest.mark.parametrize("name", ["slurm", "lsf"])
def test_snakemake_and_plugins_know_every_setting(
    name: str, blocks_python: Path, tmp_path: Path
) -> None:
    chain = Chain(tmp_path / "chain", blocks_python, {"PATH": "/usr/bin:/bin"})
    chain.blocks("generate", "pipeline.yaml")
    chain.blocks("profile", "install", name)
    known = chain.command("snakemake", "-n", "--profile", name)
    assert known.returncode == 0, known.stderr
    chain.blocks("profile", "install", name, "--force", "--set", f"{name}-no-such-setting=1")
    unknown = chain.command("snakemake", "-n", "--profile", name)
    assert unknown.returncode != 0 and f"{name}-no-such-setting" in unknown.stderr
