"""The test clusters themselves, with plain Snakemake and none of our package."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .keeper import MARK, marked
from .lsf import LSF_WALLTIME_SIGNALS, LsfStandIn, StandInError
from .slurm import SlurmCluster
from .toy import SnakemakeRun, starts, write_toy

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the test clusters find processes in /proc"
    ),
]

REPOSITORY = Path(__file__).resolve().parents[2]
FOUR = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}
ARGUMENTS = ("--jobs", "20", "--keep-going", "--latency-wait", "3")
LONG = 300.0


def outputs(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("out/*")}


def wait_for_start(slurm: SlurmCluster, folder: Path, job: str) -> None:
    slurm.wait_for(lambda: starts(folder, job) == 1, what=f"{job} to start")


# SLURM: the real thing, through Snakemake


def test_slurm_runs_jobs(cluster_python: Path, tmp_path: Path, slurm: SlurmCluster) -> None:
    write_toy(tmp_path, FOUR)
    arguments = (*slurm.snakemake_arguments, *ARGUMENTS)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=slurm.env) as run:
        assert run.wait() == 0
        assert outputs(tmp_path) == set(FOUR)
        assert [job.state for job in slurm.jobs("rule_toy*")] == ["COMPLETED"] * 4


def test_slurm_job_fails_when_cancelled_or_out_of_time(
    cluster_python: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    write_toy(tmp_path, {"fine": 0.0, "cancelled": LONG, "overtime": LONG})
    arguments = (*slurm.snakemake_arguments, *ARGUMENTS)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=slurm.env) as run:
        for job in ("overtime", "cancelled"):
            wait_for_start(slurm, tmp_path, job)
        slurm.expire(slurm.wait_for_job("*overtime"))
        slurm.cancel(slurm.wait_for_job("*cancelled"))
        assert run.wait() == 1
        assert outputs(tmp_path) == {"fine"}
        states = {job.comment: job.state for job in slurm.jobs()}
        assert states == {
            "rule_toy_wildcards_fine": "COMPLETED",
            "rule_toy_wildcards_cancelled": "CANCELLED",
            "rule_toy_wildcards_overtime": "TIMEOUT",
        }
        assert "SLURM status is: 'CANCELLED'" in run.log
        assert "SLURM status is: 'TIMEOUT'" in run.log


def test_slurm_jobs_outlive_its_daemons(
    cluster_python: Path, tmp_path: Path, slurm: SlurmCluster
) -> None:
    write_toy(tmp_path, {"a": 6.0, "b": 6.0})
    arguments = (*slurm.snakemake_arguments, *ARGUMENTS)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=slurm.env) as run:
        wait_for_start(slurm, tmp_path, "a")
        slurm.kill("slurmd")
        slurm.restart("slurmctld")
        time.sleep(1)
        slurm.start("slurmd")
        assert run.wait() == 0
        assert outputs(tmp_path) == {"a", "b"}
        assert starts(tmp_path, "a") == 1


# The stand-in for LSF, through Snakemake and the real plugin


def test_lsf_runs_jobs(cluster_python: Path, tmp_path: Path, lsf: LsfStandIn) -> None:
    write_toy(tmp_path, FOUR)
    project = ("--default-resources", "lsf_project=volumes", "lsf_queue=normal")
    arguments = (*lsf.snakemake_arguments, *ARGUMENTS, *project)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=lsf.env) as run:
        assert run.wait() == 0
        assert outputs(tmp_path) == set(FOUR)
    assert [job["state"] for job in lsf.jobs("Snakemake_rule_toy:job=*")] == ["DONE"] * 4
    assert {(job["project"], job["slots"], job["minutes"]) for job in lsf.jobs()} == {
        ("volumes", 1, 30)
    }
    assert all("rusage[mem=100.0]" in call for call in lsf.calls("bsub"))


def test_lsf_plugin_takes_unknown_for_success(
    cluster_python: Path, tmp_path: Path, lsf: LsfStandIn
) -> None:
    """The danger against which our sentinels stand: nothing ran, and Snakemake is content.

    Only a declared output that must appear, and that Snakemake does not make itself, shows it.
    """
    touched, written = tmp_path / "touched", tmp_path / "written"
    lsf.report("UNKWN", jobs="*job=never*")
    runs = []
    for folder in (touched, written):
        folder.mkdir()
        write_toy(folder, {"never": 0.0}, touch=folder == touched)
        arguments = (*lsf.snakemake_arguments, *ARGUMENTS)
        runs.append(SnakemakeRun(cluster_python, folder, *arguments, env=lsf.env))
    with runs[0] as believer, runs[1] as doubter:
        assert believer.wait() == 0
        assert doubter.wait() == 1
        assert "MissingOutputException" in doubter.log
    assert outputs(touched) == {"never"}
    assert outputs(written) == set()
    assert starts(touched, "never") == starts(written, "never") == 0
    assert {job["state"] for job in lsf.jobs()} == {"UNKWN"}


def test_lsf_job_fails_when_killed_or_out_of_time_and_bjobs_may_fail_for_a_while(
    cluster_python: Path, tmp_path: Path, lsf: LsfStandIn
) -> None:
    write_toy(tmp_path, {"fine": 0.0, "killed": LONG, "overtime": LONG}, minutes={"overtime": 1})
    arguments = (*lsf.snakemake_arguments, *ARGUMENTS)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=lsf.env) as run:
        lsf.kill(lsf.wait_for_job("*job=killed*"))
        lsf.fail_bjobs(calls=2)
        assert run.wait() == 1
        assert outputs(tmp_path) == {"fine"}
        assert "LSF is down" in run.log
        assert run.log.count("LSF status is: 'EXIT'") == 2
    assert "RUNLIMIT" in lsf.jobs("*overtime*")[0]["reason"]
    assert "owner" in lsf.jobs("*killed*")[0]["reason"]


def test_lsf_jobs_end_with_an_interrupted_snakemake(
    cluster_python: Path, tmp_path: Path, lsf: LsfStandIn
) -> None:
    write_toy(tmp_path, {"a": LONG, "b": LONG}, threads=3)  # there are 4 slots
    arguments = (*lsf.snakemake_arguments, *ARGUMENTS)
    with SnakemakeRun(cluster_python, tmp_path, *arguments, env=lsf.env) as run:
        # A job whose submission Snakemake has not noted yet would be left to itself.
        lsf.wait_for(lambda: run.log.count("has been submitted") == 2, what="all submissions")
        time.sleep(0.5)
        assert [job["state"] for job in lsf.jobs()] == ["RUN", "PEND"]
        run.interrupt()
        assert run.wait() == 1
    lsf.wait_for(lambda: len(lsf.jobs(state="EXIT")) == 2, what="all jobs to end")
    assert len(lsf.calls("bkill")) == 1


# The stand-in for LSF, its commands


def submit(lsf: LsfStandIn, name: str, command: str, *options: str) -> None:
    log = str(lsf.directory / f"{name}.log")
    lsf.run("bsub", "-J", name, "-o", log, "-e", log, "-env", "all", *options, command)


def look(lsf: LsfStandIn, pattern: str) -> str:
    return lsf.run("bjobs", "-noheader", "-o", "jobid stat", "-aJ", pattern).strip()


def test_lsf_commands_need_the_state_directory() -> None:
    with LsfStandIn() as lsf:
        env = {"PATH": lsf.env["PATH"]}
    done = subprocess.run(["bjobs"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "LSF_STANDIN_DIRECTORY" in done.stderr


def test_lsf_job_gets_shell_environment_and_folder(lsf: LsfStandIn, tmp_path: Path) -> None:
    command = 'pwd; echo "$LSB_JOBID $PROBE"; echo oops >&2; exit 3'
    lsf.env["PROBE"] = "a b"
    submit(lsf, "it's", command, "-cwd", str(tmp_path))
    job = lsf.wait_for_job(state="EXIT")
    assert job["exit_code"] == 3
    log = (lsf.directory / "it's.log").read_text().splitlines()
    assert log[:3] == [str(tmp_path), "1 a b", "oops"]
    assert "Exited with exit code 3." in log


def test_lsf_slots_limit_what_runs(lsf: LsfStandIn) -> None:
    gate = lsf.directory / "gate"
    for name, slots in (("first", "3"), ("wide", "2"), ("narrow", "1"), ("never", "5")):
        submit(lsf, name, f"until [ -e {gate} ]; do sleep 0.05; done", "-n", slots)
    assert [job["state"] for job in lsf.jobs()] == ["RUN", "PEND", "RUN", "PEND"]
    gate.touch()
    lsf.wait_for_job("wide", state="DONE")
    assert look(lsf, "never") == "4 PEND"


@pytest.mark.parametrize(
    ("signals", "first"),
    [((signal.SIGTERM, signal.SIGKILL), "TERM"), (LSF_WALLTIME_SIGNALS, "USR2")],
)
def test_lsf_walltime_signals(signals: tuple[signal.Signals, ...], first: str) -> None:
    with LsfStandIn(minute=0.5, grace=0.3, walltime_signals=signals) as lsf:
        traps = f"trap '' INT TERM; trap 'echo warned' {first}"
        submit(lsf, "stubborn", f"{traps}; while true; do sleep 0.05; done", "-W", "1")
        submit(lsf, "meek", "sleep 300", "-W", "0:01")
        assert lsf.wait_for_job("stubborn", state="EXIT")["exit_code"] == 128 + signal.SIGKILL
        assert lsf.wait_for_job("meek", state="EXIT")["exit_code"] == 128 + signals[0]
        log = (lsf.directory / "stubborn.log").read_text()
        assert log.count("warned") == 1
        assert "TERM_RUNLIMIT" in log


def test_lsf_refuses_what_it_is_told_and_what_it_does_not_know(lsf: LsfStandIn) -> None:
    lsf.refuse(jobs="bad*", times=1)
    with pytest.raises(StandInError, match="Job not submitted"):
        submit(lsf, "bad", "true")
    submit(lsf, "bad", "true")
    for option, value in {"-q": "no", "-R": "rusage[mem=1", "-n": "0", "-W": "x", "-Z": ""}.items():
        with pytest.raises(StandInError, match="Job not submitted"):
            submit(lsf, "good", "true", option, value)
    assert len(lsf.jobs()) == 1


def test_lsf_reports_what_it_is_told(lsf: LsfStandIn) -> None:
    gate = lsf.directory / "gate"
    lsf.report("UNKWN", jobs="hidden*", run=True)
    submit(lsf, "hidden", f"until [ -e {gate} ]; do sleep 0.05; done")
    assert look(lsf, "*hid*") == "1 UNKWN"
    gate.touch()
    lsf.wait_for_job("hidden", state="DONE")
    assert look(lsf, "*hid*") == "1 DONE"
    lsf.fail_bjobs(calls=1, seconds=60)
    with pytest.raises(StandInError, match="LSF is down"):
        look(lsf, "*")
    with pytest.raises(StandInError, match="LSF is down"):
        look(lsf, "*")
    lsf.behave()
    lsf.lose(jobs="hidden", events=True)
    events = lsf.directory / "share" / "standin" / "logdir" / "lsb.events"
    with pytest.raises(StandInError, match="is not found"):
        look(lsf, "*")
    assert '"JOB_STATUS"' in events.read_text()
    lsf.lose(jobs="hidden")
    assert events.read_text() == ""


def test_lsf_crash_leaves_nothing_of_a_job_but_its_unknown_state(lsf: LsfStandIn) -> None:
    submit(lsf, "lost", "setsid sleep 300 & sleep 300")
    job = lsf.jobs("lost")[0]
    lsf.wait_for(lambda: len(lsf.processes(job)) >= 3, what="the processes of the job")
    lsf.crash(job)
    lsf.wait_for(lambda: not lsf.processes(job), what="their end")
    assert look(lsf, "lost") == "1 UNKWN"
    lsf.kill(job)
    assert look(lsf, "lost") == "1 EXIT"


# Nothing is left behind

OWNER = """\
import os, signal
from tests.cluster.{module} import {name}
with {name}() as cluster:
    cluster.run(*{submit!r}, "setsid sleep 300 & sleep 300")
    cluster.wait_for_job(state="RUN*")
    print(cluster.directory, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "raise SystemExit(1)"])
@pytest.mark.parametrize(
    ("module", "name", "submit"),
    [
        ("lsf", "LsfStandIn", ("bsub",)),
        ("slurm", "SlurmCluster", ("sbatch", "--output=/dev/null", "--wrap")),
    ],
)
def test_nothing_outlives_the_owner(
    module: str, name: str, submit: tuple[str, ...], end: str, request: pytest.FixtureRequest
) -> None:
    if module == "slurm":
        request.getfixturevalue("slurm")  # skips where there is none
    script = OWNER.format(module=module, name=name, submit=submit, end=end)
    owner = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert owner.returncode == (-signal.SIGKILL if "SIGKILL" in end else 1)
    directory = Path(owner.stdout.strip())
    deadline = time.monotonic() + 60
    while (directory.exists() or marked(MARK, str(directory))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(MARK, str(directory))
    assert not directory.exists()
