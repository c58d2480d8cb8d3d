"""Feed damaged pipelines, arrays, run directories, profiles to every verb; print what was bad.

A case is bad if it ends in a traceback or with another exit status than 0, 1 or 2, wrote something
although it refused or only reads, took over 5 s, or over 1 GB more than before; or if all is said
to be well and is not. By hand, for long::

    python tests/fuzz.py --yaml 20000 --zarr 5000 --runs 1000 --tasks 300 --seed 1
    python tests/fuzz.py --profiles 200 --arguments 5000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzzing.cases import KINDS, Kind
from fuzzing.judging import BYTES, KILLED_AFTER, Result, run_case

from snakemake_blocks.system import locks

_CHILD = 50
_SILENT = 6 * KILLED_AFTER


def fuzz(counts: dict[str, int], *, seed: int, seconds: float = float("inf")) -> Result:
    """Run so many cases of every kind, fewer if they take longer than their share of the time."""
    for module in ("funlib.persistence", "snakemake_blocks.commands.generate", "yaozarrs.v04"):
        importlib.import_module(module)  # once, and not in every case
    total = Result()
    share = seconds / max(1, sum(n > 0 for n in counts.values()))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        for name, count in counts.items():
            if not count:
                continue
            kind, template, folder = KINDS[name], Path(base) / f"{name}-0", Path(base) / name
            _prepare(kind, template)
            end = time.monotonic() + share
            for first in range(0, count, _CHILD):
                if time.monotonic() >= end:
                    break
                seeds = [f"{seed}-{i}" for i in range(first, min(first + _CHILD, count))]
                total.add(_collect(kind, template, folder, seeds))
    return total


def fuzz_one(name: str, seed: str) -> Result:
    """Run one case again, e.g. ``1-17`` of the yaml kind."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        template, folder = Path(base) / f"{name}-0", Path(base) / name
        _prepare(KINDS[name], template)
        return _collect(KINDS[name], template, folder, [seed])


def _prepare(kind: Kind, template: Path) -> None:
    """Make what cases of a kind damage, in another process: modules stay as they are here."""
    template.mkdir()
    context = multiprocessing.get_context("fork")
    maker = context.Process(target=kind.prepare, args=(template,))
    maker.start()
    maker.join()
    assert maker.exitcode == 0, f"{kind.name} could not be prepared"


def _collect(kind: Kind, template: Path, folder: Path, seeds: list[str]) -> Result:
    """Run cases in a child; one that it does not come back from is bad, too."""
    total, context = Result(), multiprocessing.get_context("fork")
    while seeds:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(kind, template, folder, seeds, theirs))
        child.start()
        theirs.close()
        with contextlib.suppress(EOFError):
            while seeds and ours.poll(_SILENT):
                total.add(ours.recv())
                seeds = seeds[1:]
        if seeds:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid or 0, signal.SIGKILL)
        child.join(10)
        if seeds:
            total.cases += 1
            total.bad.append((kind.name, f"the process ended ({child.exitcode})", seeds[0]))
            seeds = seeds[1:]
    return total


def _child(kind: Kind, template: Path, folder: Path, seeds: list[str], results: Any) -> None:
    """Run cases in this process, a fork that dies with what they leave in memory."""
    os.setsid()
    locks.TIMING.idle = 0.5
    locks.TIMING.standstill, locks.TIMING.unreadable = 1.0, 0.2
    sys.stdin = open(os.devnull)  # noqa: SIM115 - kept for the process
    with open("/proc/self/statm") as statm:
        base = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + 3 * BYTES, resource.RLIM_INFINITY))
    for seed in seeds:
        found = Result()
        run_case(kind, template, folder, seed, found)
        results.send(found)
    os._exit(0)  # threads that wait for something are not waited for


def text_of(found: Result, shown: int = 3) -> str:
    """Return the figures, and examples of every kind of what is bad."""
    lines = [f"{found.cases} cases, {len(found.bad)} bad"]
    lines += [f"  {name}: {n}" for name, n in sorted(found.statuses.items())]
    lines += [f"slowest {found.slowest[0]:.2f} s: {found.slowest[1][:200]}"]
    lines += [f"largest {found.largest[0] >> 20} MB: {found.largest[1][:200]}"]
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, problem, label in found.bad:
        kinds.setdefault((name, problem), []).append(label)
    for (name, problem), labels in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append(f"BAD {len(labels)} x {name}: {problem}")
        lines += [f"    {label[:300]}" for label in labels[:shown]]
    return "\n".join(lines)


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in KINDS:
        parser.add_argument(f"--{name}", type=int, default=0, help="number of cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after that time")
    parser.add_argument("--only", default="", help="one case, e.g. yaml:1-17")
    chosen = parser.parse_args()
    if chosen.only:
        name, _, seed = chosen.only.partition(":")
        found = fuzz_one(name, seed)
    else:
        counts = {name: getattr(chosen, name) for name in KINDS}
        found = fuzz(counts, seed=chosen.seed, seconds=chosen.seconds)
    print(text_of(found))
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(_main())
