"""Runs one job of the LSF stand-in, as LSF's sbatchd does: limits, signals, exit code, report."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from ..keeper import marked
from .book import CLUSTER, JOB_MARK, Book, Job

_LOOK_EVERY = 0.05


def run(book: Book, job_id: int) -> None:
    """Run a job that was just started, until its end, and note how it ended.

    Parameters
    ----------
    book : Book
        The stand-in's state.
    job_id : int
        A job in state RUN.
    """
    with book.changing() as jobs:  # waits until whoever started this has saved
        job = jobs[job_id - 1]
    with _open(job["output"]) as output, _open(job["error"]) as error:
        try:
            process = _start(book, job, output, error)
        except OSError as problem:
            code, reason = 1, f"TERM_CWD_NOTEXIST: {problem}"
        else:
            code, reason = _watch(book, job, process)
        output.write(_summary(job, code, reason).encode())
    with book.changing() as jobs:
        job = jobs[job_id - 1]
        if job["state"] == "RUN":  # else a test took it out of our hands
            state = "EXIT" if code or reason else "DONE"
            job.update({"state": state, "runner": None, "ended": time.time()})
            job.update({"exit_code": code, "reason": reason})


def _start(book: Book, job: Job, output: BinaryIO, error: BinaryIO) -> subprocess.Popen[bytes]:
    submission = book.submission(job["id"])
    host = os.uname().nodename
    return subprocess.Popen(
        ["/bin/sh", "-c", submission["command"]],
        cwd=job["cwd"],
        env={
            **submission["environment"],
            "LSB_JOBID": str(job["id"]),
            "LSB_JOBINDEX": "0",
            "LSB_JOBNAME": job["name"],
            "LSB_QUEUE": job["queue"],
            "LSB_HOSTS": " ".join([host] * job["slots"]),
            "LSB_MCPU_HOSTS": f"{host} {job['slots']}",
            "LSB_DJOB_NUMPROC": str(job["slots"]),
            "LS_SUBCWD": job["cwd"],
            JOB_MARK: book.job_mark(job["id"]),
        },
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output if job["error"] in (None, job["output"]) else error,
        start_new_session=True,
    )


def _watch(book: Book, job: Job, process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code, and why the job was ended if it did not end by itself."""
    settings = book.settings()
    deadline = float("inf")
    if job["minutes"] is not None:
        deadline = time.monotonic() + job["minutes"] * settings["minute"]
    reason = ""
    while process.poll() is None:
        time.sleep(_LOOK_EVERY)
        if book.asked_to_kill(job["id"]):
            reason = "TERM_OWNER: job killed by owner."
            _end(book, job, process, settings["kill_signals"])
        elif time.monotonic() > deadline:
            reason = "TERM_RUNLIMIT: job killed after reaching LSF run time limit."
            _end(book, job, process, settings["walltime_signals"])
    code = process.returncode
    return (code if code >= 0 else 128 - code), reason


def _end(book: Book, job: Job, process: subprocess.Popen[bytes], signals: Sequence[int]) -> None:
    """Send signals to all processes of the job, with a grace between them, until it ends."""
    for number in signals:
        for pid in marked(JOB_MARK, book.job_mark(job["id"])):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it ended by itself
        try:
            process.wait(None if number == signal.SIGKILL else book.settings()["grace"])
        except subprocess.TimeoutExpired:
            continue
        return


def _open(path: str | None) -> BinaryIO:
    if path is None:
        return open(os.devnull, "ab")  # LSF would send mail
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return open(path, "ab", buffering=0)


def _summary(job: Job, code: int, reason: str) -> str:
    lines = [
        "",
        "-" * 60,
        "Sender: the stand-in for LSF",
        f"Subject: Job {job['id']}: <{job['name']}> in cluster <{CLUSTER}> "
        + ("Exited" if code or reason else "Done"),
        *([reason] if reason else []),
        f"Exited with exit code {code}." if code else "Successfully completed.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the job whose id is the argument."""
    run(Book.from_environment(), int(sys.argv[1]))
    return 0
