"""The commands of the LSF stand-in. Each takes its arguments and returns its exit code."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence

from .book import CLUSTER, FINISHED, Book, Job, Report, matches

Command = Callable[[Book, Sequence[str]], int]

_FAILED = 255
_BSUB_FLAGS = {"-B", "-H", "-N", "-r", "-rn", "-x", "-ul"}
_BSUB_VALUES = {
    "-G", "-J", "-M", "-P", "-R", "-U", "-W", "-We", "-a", "-app", "-c", "-cwd", "-e", "-env", "-g",
    "-gpu", "-m", "-n", "-o", "-q", "-sla", "-sp", "-w",
}  # fmt: skip


class _Refused(Exception):
    """A command's complaint, in LSF's words where known."""


def main(name: str, command: Command) -> int:
    """Log and run one command; its complaint goes to standard error.

    Parameters
    ----------
    name : str
        As it is called.
    command : callable
        One of this module's.

    Returns
    -------
    int
        Exit code.
    """
    arguments = sys.argv[1:]
    book = Book.from_environment()
    book.log_call(name, arguments)
    try:
        return command(book, arguments)
    except _Refused as refused:
        print(refused, file=sys.stderr)
        return _FAILED


def bsub(book: Book, arguments: Sequence[str]) -> int:
    """Accept a job, whose command line is run by a shell as LSF does."""
    options, words = _parse_bsub(arguments)
    settings = book.settings()
    queue = options.get("-q", settings["queues"][0])
    if queue not in settings["queues"]:
        raise _Refused(f"{queue}: No such queue. Job not submitted.")
    name = options.get("-J", " ".join(words))
    with book.changing() as jobs:
        _refuse_as_told(book, name)
        number = len(jobs) + 1
        paths = {
            key: options[key].replace("%J", str(number)) for key in ("-o", "-e") if key in options
        }
        book.keep_submission(number, {"command": " ".join(words), "environment": dict(os.environ)})
        jobs.append(
            Job(
                id=number,
                name=name,
                project=options.get("-P", "default"),
                queue=queue,
                slots=_slots(options.get("-n", "1")),
                minutes=_minutes(options["-W"]) if "-W" in options else None,
                cwd=os.path.abspath(options.get("-cwd", os.getcwd())),
                output=paths.get("-o"),
                error=paths.get("-e"),
                state=_state_at_submission(book, name),
                runner=None,
                submitted=time.time(),
                started=None,
                ended=None,
                exit_code=None,
                reason="",
            )
        )
    kind = "queue" if "-q" in options else "default queue"
    print(f"Job <{number}> is submitted to {kind} <{queue}>.")
    return 0


def bjobs(book: Book, arguments: Sequence[str]) -> int:
    """List jobs whose name matches; only the plugin's form of the call is known."""
    _fail_as_told(book)
    match arguments:
        case ["-noheader", "-o", "jobid stat", "-aJ", pattern]:
            pass
        case _:
            raise _Refused(f"bjobs: the stand-in does not know the options {list(arguments)}")
    told = book.told()
    found = [
        job
        for job in book.jobs()
        if matches(job["name"], pattern)
        and not any(matches(job["name"], loss["jobs"]) for loss in told["losses"])
    ]
    if not found:
        raise _Refused(f"Job <{pattern}> is not found")
    for job in found:
        print(job["id"], _state_to_report(job, told["reports"]))
    return 0


def bkill(book: Book, arguments: Sequence[str]) -> int:
    """End jobs by id; 0 means all."""
    if not arguments or not all(argument.isdigit() for argument in arguments):
        raise _Refused(f"bkill: the stand-in takes job ids only, not {list(arguments)}")
    failed = False
    with book.changing() as jobs:
        by_id = {job["id"]: job for job in jobs}
        wanted = [int(argument) for argument in arguments]
        if 0 in wanted:
            wanted = [job["id"] for job in jobs if job["state"] not in FINISHED]
        for number in wanted:
            job = by_id.get(number)
            if job is None:
                print(f"Job <{number}>: No matching job found", file=sys.stderr)
                failed = True
            elif job["state"] in FINISHED:
                print(f"Job <{number}>: Job has already finished", file=sys.stderr)
                failed = True
            else:
                _end(book, job)
                print(f"Job <{number}> is being terminated")
    return _FAILED if failed else 0


def badmin(book: Book, arguments: Sequence[str]) -> int:
    """Show the configuration of the master batch daemon, which the stand-in has none of."""
    if list(arguments) != ["showconf", "mbd"]:
        raise _Refused(f"badmin: the stand-in does not know {list(arguments)}")
    print(f"MBD configuration at {time.ctime()}")
    for key, value in {
        "LSB_SHAREDIR": book.shared_folder,
        "LSF_CONFDIR": book.configuration_folder,
        "LSF_UNIT_FOR_LIMITS": "MB",
    }.items():
        print(f"\t{key} = {value}")
    return 0


def lsclusters(book: Book, arguments: Sequence[str]) -> int:
    """Show the one cluster."""
    print("CLUSTER_NAME   STATUS   MASTER_HOST               ADMIN    HOSTS  SERVERS")
    print(f"{CLUSTER}        ok       {socket.gethostname()}  lsfadmin     1        1")
    return 0


def bhist(book: Book, arguments: Sequence[str]) -> int:
    """Show all jobs with their projects, from which the plugin guesses one."""
    jobs = book.jobs()
    if not jobs:
        raise _Refused("No matching job found")
    for job in jobs:
        print(
            f"Job <{job['id']}>, Job Name <{job['name']}>, Project <{job['project']}>, "
            f"Status <{job['state']}>, Queue <{job['queue']}>"
        )
    return 0


def _parse_bsub(arguments: Sequence[str]) -> tuple[dict[str, str], Sequence[str]]:
    """Options by name, of which the last counts, and the words of the command."""
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in _BSUB_FLAGS:
            continue
        if option not in _BSUB_VALUES:
            raise _Refused(f"bsub: the stand-in does not know {option}. Job not submitted.")
        if not rest:
            raise _Refused(f"bsub: {option} needs a value. Job not submitted.")
        options[option] = rest.pop(0)
        if option == "-R" and not re.fullmatch(r"(rusage|span|select)\[[^\[\]]+\]", options["-R"]):
            raise _Refused(f"{options['-R']}: Bad resource requirement syntax. Job not submitted.")
    if options.get("-env", "all") != "all":
        raise _Refused("bsub: the stand-in knows -env all only. Job not submitted.")
    if not rest:
        raise _Refused("bsub: the stand-in needs a command. Job not submitted.")
    return options, rest


def _slots(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise _Refused(f"{text}: Bad argument for option -n. Job not submitted.")
    return int(text)


def _minutes(text: str) -> float:
    parsed = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if parsed is None:
        raise _Refused(f"{text}: Bad RUNLIMIT specification. Job not submitted.")
    return 60 * int(parsed[1] or 0) + int(parsed[2])


def _refuse_as_told(book: Book, name: str) -> None:
    told = book.told()
    for refusal in told["refusals"]:
        if matches(name, refusal["jobs"]) and refusal["times"] != 0:
            if refusal["times"] is not None:
                refusal["times"] -= 1
                book.tell(told)
            raise _Refused("Request aborted by esub. Job not submitted.")


def _fail_as_told(book: Book) -> None:
    told = book.told()
    if told["outage_calls"] > 0:
        told["outage_calls"] -= 1
        book.tell(told)
    elif time.time() >= told["outage_until"]:
        return
    raise _Refused("LSF is down. Please wait ...")


def _state_at_submission(book: Book, name: str) -> str:
    for report in book.told()["reports"]:
        if matches(name, report["jobs"]) and not report["run"]:
            return report["state"]
    return "PEND"


def _state_to_report(job: Job, reports: Sequence[Report]) -> str:
    if job["state"] not in FINISHED:
        for report in reports:
            if matches(job["name"], report["jobs"]):
                return report["state"]
    return job["state"]


def _end(book: Book, job: Job) -> None:
    if job["state"] == "RUN":
        book.ask_to_kill(job["id"])
    else:
        reason = "TERM_OWNER: job killed by owner."
        job.update({"state": "EXIT", "ended": time.time(), "reason": reason})
