"""State of the LSF stand-in: its settings, its jobs, and what a test told it to do.

All of it is files in one directory, whose path the commands find in the variable `DIRECTORY`.
"""

import fcntl
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypedDict

DIRECTORY = "LSF_STANDIN_DIRECTORY"
JOB_MARK = "LSF_STANDIN_JOB"  # in the environment of every process of a job
CLUSTER = "standin"
FINISHED = ("DONE", "EXIT")

# As in lsb.events; the plugin reads them.
_STATE_NUMBERS = {
    "PEND": 1,
    "PSUSP": 2,
    "RUN": 4,
    "SSUSP": 8,
    "USUSP": 16,
    "EXIT": 32,
    "DONE": 64,
    "UNKWN": 65536,
}
_JOB_NAME_FIELD = 42
_SBATCHD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sbatchd")


class Settings(TypedDict):
    """What the stand-in is; fixed for its life."""

    slots: int
    queues: list[str]  # the first is the default
    minute: float  # seconds that a minute of -W lasts
    grace: float  # seconds between the signals that end a job
    walltime_signals: list[int]
    kill_signals: list[int]


class Report(TypedDict):
    """bjobs is to say this state of these jobs until they are finished."""

    jobs: str
    state: str
    run: bool  # whether jobs submitted from now on are run at all


class Refusal(TypedDict):
    """bsub is to refuse these jobs, this often or always."""

    jobs: str
    times: int | None


class Loss(TypedDict):
    """bjobs is to forget these jobs, and lsb.events too unless told otherwise."""

    jobs: str
    events: bool


class Told(TypedDict):
    """What a test told the stand-in to do."""

    reports: list[Report]
    refusals: list[Refusal]
    losses: list[Loss]
    outage_until: float  # bjobs fails until then, in seconds since the epoch
    outage_calls: int  # and for so many calls


class Job(TypedDict):
    """A job that bsub accepted."""

    id: int
    name: str
    project: str
    queue: str
    slots: int
    minutes: float | None  # of -W
    cwd: str
    output: str | None
    error: str | None
    state: str
    runner: int | None  # process id, while the job runs
    submitted: float  # this and the following: seconds since the epoch
    started: float | None
    ended: float | None
    exit_code: int | None
    reason: str  # as LSF words it; empty if the job ended by itself


class Submission(TypedDict):
    """What a job runs, kept apart from `Job` because environments are large."""

    command: str
    environment: dict[str, str]


def told_nothing() -> Told:
    """The state of a stand-in that behaves."""
    return {"reports": [], "refusals": [], "losses": [], "outage_until": 0.0, "outage_calls": 0}


def matches(job_name: str, pattern: str) -> bool:
    """Whether a shell pattern matches a job's name, case and all."""
    return fnmatch.fnmatchcase(job_name, pattern)


class Book:
    """State directory of a stand-in.

    Parameters
    ----------
    directory : str
        Made by `create`.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @classmethod
    def from_environment(cls) -> "Book":
        """The book that the environment names.

        Raises
        ------
        SystemExit
            If it names none.
        """
        directory = os.environ.get(DIRECTORY)
        if not directory:
            raise SystemExit(f"this is a stand-in for LSF and needs the variable {DIRECTORY}")
        return cls(directory)

    @classmethod
    def create(cls, directory: str, settings: Settings) -> "Book":
        """A new book in an empty directory."""
        book = cls(directory)
        os.makedirs(book._path("jobs"))
        os.makedirs(os.path.dirname(book.events_file))
        os.makedirs(os.path.join(book.configuration_folder, "lsbatch", CLUSTER, "configdir"))
        with open(
            os.path.join(book.configuration_folder, "lsbatch", CLUSTER, "configdir", "lsb.params"),
            "w",
        ) as file:
            file.write(f"Begin Parameters\nDEFAULT_QUEUE = {settings['queues'][0]}  # the first\n")
            file.write("End Parameters\n")
        book._write("settings.json", settings)
        book.tell(told_nothing())
        book._write("jobs.json", [])
        open(book.events_file, "w").close()
        return book

    @property
    def configuration_folder(self) -> str:
        """What LSF calls LSF_CONFDIR."""
        return self._path("conf")

    @property
    def shared_folder(self) -> str:
        """What LSF calls LSB_SHAREDIR."""
        return self._path("share")

    @property
    def events_file(self) -> str:
        """Where the plugin looks for jobs that bjobs does not know."""
        return os.path.join(self.shared_folder, CLUSTER, "logdir", "lsb.events")

    def settings(self) -> Settings:
        """What was given to `create`."""
        settings: Settings = self._read("settings.json")
        return settings

    def told(self) -> Told:
        """What was given to the last `tell`."""
        told: Told = self._read("told.json")
        return told

    def tell(self, told: Told) -> None:
        """Replace what the stand-in is told to do."""
        self._write("told.json", told)

    def jobs(self) -> list[Job]:
        """All jobs in the order of their ids."""
        jobs: list[Job] = self._read("jobs.json")
        return jobs

    @contextmanager
    def changing(self) -> Iterator[list[Job]]:
        """All jobs, to be changed in place; at the end they are saved and what fits is started.

        One process at a time is inside.
        """
        with open(self._path("lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            jobs = self.jobs()
            yield jobs
            self._dispatch(jobs)
            self._write("jobs.json", jobs)
            self._write_events(jobs)

    def submission(self, job_id: int) -> Submission:
        """What a job runs."""
        submission: Submission = self._read(f"jobs/{job_id}.json")
        return submission

    def keep_submission(self, job_id: int, submission: Submission) -> None:
        """Store what a job runs."""
        self._write(f"jobs/{job_id}.json", submission)

    def ask_to_kill(self, job_id: int) -> None:
        """Leave word for the runner of a job."""
        open(self._path(f"jobs/{job_id}.kill"), "w").close()

    def asked_to_kill(self, job_id: int) -> bool:
        """Whether `ask_to_kill` was called."""
        return os.path.exists(self._path(f"jobs/{job_id}.kill"))

    def job_mark(self, job_id: int) -> str:
        """Value of `JOB_MARK` in a job's processes."""
        return f"{self.directory}#{job_id}"

    def log_call(self, command: str, arguments: Sequence[str]) -> None:
        """Note that a command was called."""
        line = json.dumps({"command": command, "arguments": list(arguments), "at": time.time()})
        with open(self._path("calls.jsonl"), "a") as file:
            file.write(line + "\n")

    def calls(self, command: str) -> list[list[str]]:
        """Arguments of all calls of a command so far."""
        path = self._path("calls.jsonl")
        if not os.path.exists(path):
            return []
        with open(path) as file:
            calls = [json.loads(line) for line in file]
        return [call["arguments"] for call in calls if call["command"] == command]

    def _dispatch(self, jobs: list[Job]) -> None:
        """Start waiting jobs, older ones first, that fit into the free slots."""
        free = self.settings()["slots"] - sum(j["slots"] for j in jobs if j["state"] == "RUN")
        for job in jobs:
            if job["state"] == "PEND" and job["slots"] <= free:
                free -= job["slots"]
                runner = self._start(job["id"])
                job.update({"state": "RUN", "started": time.time(), "runner": runner})

    def _start(self, job_id: int) -> int:
        with open(self._path(f"jobs/{job_id}.sbatchd"), "ab") as complaints:
            runner = subprocess.Popen(
                [sys.executable, "-S", "-E", _SBATCHD, str(job_id)],
                cwd=self.directory,
                env={k: v for k, v in os.environ.items() if k != JOB_MARK},  # a job may submit jobs
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
            )
        runner.returncode = 0  # it outlives this process, which must not warn about that
        return runner.pid

    def _write_events(self, jobs: list[Job]) -> None:
        """Write the two kinds of lines of lsb.events that the plugin reads."""
        losses = self.told()["losses"]
        lines = []
        for job in jobs:
            if any(matches(job["name"], loss["jobs"]) and not loss["events"] for loss in losses):
                continue
            stamp = int(job["ended"] or job["submitted"])
            new = ["0"] * _JOB_NAME_FIELD
            new[:6] = ['"JOB_NEW"', '"10.1"', str(stamp), str(job["id"]), str(os.geteuid()), "0"]
            new[_JOB_NAME_FIELD - 1] = f'"{job["name"]}"'
            number = _STATE_NUMBERS[job["state"]]
            lines.append(" ".join(new))
            lines.append(f'"JOB_STATUS" "10.1" {stamp} {job["id"]} {number}')
        self._write_text(self.events_file, "".join(line + "\n" for line in lines))

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _read(self, name: str) -> Any:
        with open(self._path(name)) as file:
            return json.load(file)

    def _write(self, name: str, content: object) -> None:
        self._write_text(self._path(name), json.dumps(content, indent=1))

    def _write_text(self, path: str, text: str) -> None:
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w") as file:
            file.write(text)
        os.replace(temporary, path)
