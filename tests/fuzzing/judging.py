"""One verb on a damaged project: what it did, and what of that is bad."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np
import zarr

from fuzzing.cases import Kind, is_small, params_problem
from fuzzing.projects import BIN
from snakemake_blocks.cli import main

# Of computing, so that it does not depend on what else a machine does; what waits is killed.
SECONDS = 5.0
BYTES = 1 << 30
KILLED_AFTER = 40
_RUN_SECONDS = 120.0  # for what is not refused and starts Snakemake
_WATCH_SECONDS = 0.5
# Only who reads all results anew can see that a chunk has other bytes than were written.
_OTHER_BYTES = re.compile(r"s\.zarr/out/c/\S+: (?:cut|flip|more|nested|sparse|swap)\b")
# What dead processes have left may go at any time.
_LEFT = re.compile(r"\.lock(\.takeover)?$|/locks/\w+\.json$|/\.snakemake/(locks|incomplete)\b")
_READING = {"check", "plan", "status", "verify", "check-context", "-n", "list", "show"}


@dataclass
class Result:
    """What came of some cases."""

    cases: int = 0
    bad: list[tuple[str, str, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[int, str] = (0, "")
    statuses: Counter[str] = field(default_factory=Counter)

    def add(self, other: Result) -> None:
        """Count what another child found."""
        self.cases += other.cases
        self.bad += other.bad
        self.slowest = max(self.slowest, other.slowest)
        self.largest = max(self.largest, other.largest)
        self.statuses += other.statuses


@dataclass(frozen=True)
class Done:
    """What a verb did: exit status, all that it printed, and the exception that escaped it."""

    status: int
    said: str
    escaped: str = ""


class TooLongError(BaseException):
    """A case has run for so long that it is ended."""


def expired(*_: object) -> None:
    """End a case: the handler of SIGALRM."""
    raise TooLongError


def run_case(kind: Kind, template: Path, folder: Path, seed: str, found: Result) -> None:
    """Make one case in a folder, and judge what each of its verbs does."""
    os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
    _copy(template, folder)
    for number, verbs in enumerate(kind.verbs(folder, Random(seed))):
        if number:
            _copy(template, folder)
        words = kind.damage(folder, Random(seed))
        for arguments in verbs:
            if kind.name == "zarr" and arguments[0] == "work" and not is_small(folder):
                break  # it would be right to compute for minutes
            label = f"{seed} {' '.join(arguments)} | {words}"
            if _judge(kind, folder, arguments, label, found) and arguments[0] == "generate":
                break  # there is nothing to work on


def _copy(template: Path, folder: Path) -> None:
    os.chdir("/")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    os.chdir(folder)


def _judge(kind: Kind, folder: Path, arguments: list[str], label: str, found: Result) -> int:
    """Run a verb and note what was bad; return its exit status."""
    starts = "--import" in arguments or (arguments[0] == "run" and "-n" not in arguments)
    before, began, peak, computed = _tree(folder), time.monotonic(), _peak(), _computed()
    done = _process(folder, arguments) if starts else _here(arguments)
    took, grown, computed = time.monotonic() - began, _peak() - peak, _computed() - computed
    label = ascii(f"{kind.name} {label}".replace(f"{folder}/", ""))[1:-1]
    changed = set(before.items()) ^ set(_tree(folder).items())
    found.cases += 1
    found.statuses[f"{kind.name} {arguments[0]} {done.status}"] += 1
    found.slowest = max(found.slowest, (took, label))
    found.largest = max(found.largest, (grown, label))
    works = starts or arguments[0] == "work"
    most = _RUN_SECONDS if works and done.status != 2 else SECONDS
    limits = {
        f"took {took:.1f} s, {computed:.1f} s of computing": computed > most,
        f"grew by {grown >> 20} MB": grown > BYTES,
    }
    problems = [
        *(problem for problem, is_bad in limits.items() if is_bad),
        *_problems(arguments, done),
        *_wrong_writes(folder, arguments, done, {path for path, _ in changed}),
        *_wrong_results(kind, folder, arguments, done, label),
    ]
    found.bad += [(kind.name, problem, label) for problem in problems]
    return done.status


def _problems(arguments: list[str], done: Done) -> Iterator[str]:
    """Yield what a verb should not have said, or ended with."""
    if done.escaped:
        yield done.escaped
    elif done.status not in (0, 1, 2, *([130] if "--watch" in arguments else [])):
        yield f"status {done.status} {done.said[-200:]}"
    if "Traceback (most" in done.said and arguments[0] != "block":
        yield f"prints a traceback: {_last_error(done.said)}"
    if done.status == 2 and not done.said.strip():
        yield "says nothing"
    lost = re.search(r"progress cannot be shown \((?!InputError).*", done.said)
    if lost:
        yield lost[0]


def _last_error(said: str) -> str:
    lines = [line for line in said.splitlines() if re.match(r"\w*(Error|Exception)\b", line)]
    return lines[-1][:150] if lines else ""


def _wrong_writes(
    folder: Path, arguments: list[str], done: Done, changed: set[str]
) -> Iterator[str]:
    """Yield what was written by who only reads, or refused."""
    only_reads = bool(_READING & set(arguments[:3])) and not {"--csv", "--picture"} & set(arguments)
    refused = done.status == 2 and arguments[0] in ("generate", "run", "reset", "profile")
    if refused:
        changed = {path for path in changed if not _LEFT.search(path)}
    if changed and (only_reads or refused):
        yield f"wrote {sorted(path.replace(str(folder), '') for path in changed)[:4]}"


def _wrong_results(
    kind: Kind, folder: Path, arguments: list[str], done: Done, label: str
) -> Iterator[str]:
    """Yield what is wrong although the verb says that all is well."""
    if done.status:
        return
    if kind.name == "yaml" and arguments[0] == "generate":
        with contextlib.suppress(FileNotFoundError):  # another run directory
            if problem := params_problem(folder):
                yield problem
    if kind.name == "runs" and arguments[0] == "run" and "-n" not in arguments:
        verified = _here(["verify", str(folder / "blocks")])
        if verified.status:
            yield f"run is complete, verify is not: {verified.said[-200:]}"
        elif (
            not _OTHER_BYTES.search(label)
            and (np.asarray(zarr.open_array(folder / "s.zarr" / "out", mode="r")[...]) != 7).any()
        ):
            yield "verified, and wrong"


def _here(arguments: list[str]) -> Done:
    """Run a verb in this process."""
    out = io.StringIO()
    if "--watch" in arguments:
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C
        signal.setitimer(signal.ITIMER_REAL, _WATCH_SECONDS)
    else:
        signal.signal(signal.SIGALRM, expired)
        signal.alarm(2 * KILLED_AFTER if arguments[0] == "work" else KILLED_AFTER)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main.main(arguments, prog_name="snakemake-blocks", standalone_mode=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1 if end.code else 0
        return Done(status, out.getvalue())
    except BaseException as error:  # a case must not end the others
        if arguments[0] in ("block", "check-context") and _is_of_function(error):
            return Done(1, out.getvalue())
        return Done(-1, out.getvalue(), _mechanism())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Done(0, out.getvalue())


def _process(folder: Path, arguments: list[str]) -> Done:
    """Run a verb as a user does, with all that it starts."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    process = subprocess.Popen(
        [str(BIN / "snakemake-blocks"), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (hard, hard)),
    )
    try:
        said, _ = process.communicate(timeout=_RUN_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return Done(-1, said, f"was killed after {_RUN_SECONDS:.0f} s: {said[-200:]!r}")
    return Done(process.returncode, said)


def _is_of_function(error: BaseException) -> bool:
    """Tell whether the user's function raised it: that goes up as it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "snakemake_blocks" in frame.filename]
    return bool(ours) and "function(" in (ours[-1].line or "")


def _mechanism() -> str:
    """Return the exception, and the last lines of ours that it came through."""
    kind, error, trace = sys.exc_info()
    assert kind is not None
    frames = [f for f in traceback.extract_tb(trace) if "snakemake_blocks" in f.filename]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])
    return f"{kind.__name__}: {str(error)[:100]} [{where}]"


def _tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of everything in a folder."""
    found = {}
    for parent, folders, files in os.walk(folder):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in (*files, *folders):
            state = os.lstat(os.path.join(parent, name))
            times = (0, 0) if name in folders else (state.st_size, state.st_mtime_ns)
            found[os.path.join(parent, name)] = (state.st_mode, *times)
    return found


def _usages() -> list[resource.struct_rusage]:
    """Return what this process, and those that it waited for, have used."""
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _peak() -> int:
    return max(used.ru_maxrss for used in _usages()) * 1024


def _computed() -> float:
    return sum(used.ru_utime + used.ru_stime for used in _usages())
