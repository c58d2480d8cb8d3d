"""Feed damaged pipelines, arrays and run directories to every verb; print what it did badly.

A case is bad if it ends in a traceback or with another exit status than 0, 1 or 2, wrote something
although it refused, took over 5 s, or over 1 GB more than before. By hand, for long::

    python tests/fuzz.py --yaml 20000 --zarr 5000 --runs 1000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
import zarr

from snakemake_blocks import claiming, locks
from snakemake_blocks.cli import main
from snakemake_blocks.processes import process_host

SECONDS = 5.0
BYTES = 1 << 30
_KILLED_AFTER = 20
_CHILD = 50

FUNCTIONS = """
    import numpy as np

    def smooth(raw):
        return {"out": raw}

    def count(block, factor=1):
        return None
"""
PIPELINE: dict[str, Any] = {
    "tasks": {
        "smooth": {
            "function": "functions:smooth",
            "call": "arrays",
            "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
            "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
            "roi": "s.zarr/raw",
            "block_size": [8, 8],
            "context": {"lower": 2, "upper": [2, 2]},
            "fit": "shrink",
            "conflict": False,
            "mask": "s.zarr/mask",
            "timeout": "10m",
            "resources": {"mem_mb": 100},
        },
        "count": {
            "function": "functions:count",
            "call": "block",
            "params": {"factor": 2},
            "reads": {"out": "s.zarr/out"},
            "roi": {"offset": [0, 0], "shape": [16, 16]},
            "block_size": [8, 8],
            "blocks_per_job": [1, 2],
            "retries": 0,
            "after": ["smooth"],
        },
    }
}
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**53, 2**63, 10**30, 10**400, float("nan"), float("inf"), 1e308,
    "", " ", "x", "a\0b", "a\nb: c", "\N{FACE WITH TEARS OF JOY}" * 3, "../..", "/dev/zero",
    "1" * 400, [], {}, [[]], [None], [1, 2, 3], [0, 0], [2**62, 2**62], {"a": 1}, {"array": []},
    "a" * 5000, list(range(64)), "{wildcards}", "s.zarr", "s.zarr/raw", "~", "*",
)  # fmt: skip
TEXTS = (
    "!!int 1x", "!!bool maybe", "!!float x", "!!timestamp x", "!!binary x", "!!set {a, b}",
    "!!python/object:os.system x", "!!null x", "&a [*a]", "&a {x: *a}", "*b", "<<: *c", "<<: [1]",
    "\0", "\t", "\x85", "\ufeff", "? [1]", "? {a: 1}", "- ", "---", "...", "%YAML 9.9", "{", "]",
    "'", '"', "|", ">", "0x" + "f" * 5000, "9" * 5000, "1e999999", "0o777777777777777777777777",
    "1:2:3:4", "2001-13-45", "2001-01-01", "[" * 2000, "{a: " * 500, "-" * 3000, "\\ud800", "=",
    '"\\ud800"', "!!omap [a: 1]", "!!pairs x", "1_0_0", ".inf", "0b2", "~: 1", "1: 2", "&x",
)  # fmt: skip


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


# --- values and files that do not belong there ---------------------------------------------------


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a tree, the tree itself left out."""
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [p for key, value in items for p in ((*path, key), *places(value, (*path, key)))]


def mutated(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a tree in which one value is another, is gone, or stands twice; and in words what."""
    tree = copy.deepcopy(tree)
    found = places(tree)
    if not found or rng.random() < 0.02:
        value = rng.choice(VALUES)
        return value, f"all = {value!r:.60}"
    path = rng.choice(found)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    kind, key = rng.random(), path[-1]
    if kind < 0.75:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
        return tree, f"{path} = {parent[key]!r:.60}"
    if kind < 0.87 or isinstance(parent, list):
        del parent[key]
        return tree, f"{path} removed"
    name = rng.choice([v for v in VALUES if not isinstance(v, (list, dict))])
    parent[name] = parent.pop(key) if kind < 0.93 else copy.deepcopy(parent[key])
    return tree, f"{path} renamed {name!r:.60}"


def _is_plain(path: Path) -> bool:
    """Tell whether there is a file that is not damaged too much to be read here."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20


def _plain(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if _is_plain(p))


def damaged(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Damage one file, or put something else in its place."""
    kind = rng.choice(
        [
            "cut",
            "flip",
            "empty",
            "folder",
            "full",
            "fifo",
            "dangling",
            "device",
            "sparse",
            "json",
            "json",
            "json",
            "swap",
            "more",
        ]
    )
    data = path.read_bytes()
    if kind == "json":
        try:
            tree = json.loads(data)
        except ValueError:
            kind = "flip"
        else:
            tree, words = mutated(tree, rng)
            path.write_text(json.dumps(tree))
            return f"{path}: {words}"
    if kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif kind == "flip":
        content = bytearray(data)
        for _ in range(rng.choice((1, 3, 30)) if content else 0):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
    elif kind == "more":
        path.write_bytes(data + rng.randbytes(rng.choice((1, 64, 1000))))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "sparse":
        os.truncate(path, 1 << rng.choice((31, 40)))
    elif kind == "swap":
        path.write_bytes(rng.choice(others).read_bytes())
    else:
        path.unlink()
        if kind in ("folder", "full"):
            path.mkdir()
            if kind == "full":
                (path / "x").touch()
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere" if kind == "dangling" else "/dev/zero")
    return f"{path}: {kind}"


# --- projects ------------------------------------------------------------------------------------


def project(folder: Path, zarr_format: Literal[2, 3] = 3, tree: Any = None) -> None:
    """Write the arrays, functions and pipeline that are then damaged."""
    group = zarr.open_group(folder / "s.zarr", mode="w", zarr_format=zarr_format)
    for name, value in {"raw": 7, "mask": 1}.items():
        array = group.create_array(name, shape=(16, 16), chunks=(8, 8), dtype="uint8")
        array[...] = value
        array.attrs.update({"voxel_size": [1, 1], "offset": [0, 0]})
    (folder / "functions.py").write_text(textwrap.dedent(FUNCTIONS))
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(tree or PIPELINE, sort_keys=False))


def image(folder: Path, zarr_format: int, rng: random.Random) -> None:
    """Make the store a multiscale image as OME-Zarr has it."""
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scales = [
        {"type": "scale", "scale": [1.0, 1.0]},
        {"type": "translation", "translation": [0.0, 0.0]},
    ]
    levels = [{"path": n, "coordinateTransformations": scales} for n in ("raw", "mask")]
    scale = {"axes": axes, "datasets": levels, "name": "x"}
    if zarr_format == 2:
        attributes: Any = {"multiscales": [{**scale, "version": "0.4"}]}
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": [scale]}}
    group = zarr.open_group(folder / "s.zarr", mode="a")
    group.attrs.update(attributes)
    for name in rng.sample(["raw", "mask"], rng.randrange(3)):
        array = zarr.open_array(folder / "s.zarr" / name, mode="a")
        for key in ("voxel_size", "offset"):
            del array.attrs[key]


def yaml_case(folder: Path, rng: random.Random) -> tuple[str, list[list[str]]]:
    """Damage the text or the tree of the pipeline."""
    path, words = folder / "pipeline.yaml", []
    if rng.random() < 0.6:
        tree: Any = PIPELINE
        for _ in range(rng.choice((1, 1, 2, 3))):
            tree, said = mutated(tree, rng)
            words.append(said)
        with contextlib.suppress(ValueError, yaml.YAMLError):  # what Python itself cannot write
            path.write_bytes(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())
    else:
        text = path.read_text()
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(len(text) + 1)
            value_ends = [i for i, c in enumerate(text) if c == "\n"] or [0]
            kind = rng.random()
            if kind < 0.1:
                text, said = text[:place], f"cut at {place}"
            elif kind < 0.2:
                text, said = (
                    text[:place] + chr(rng.randrange(0xD000)) + text[place + 1 :],
                    f"{place}",
                )
            elif kind < 0.5:
                new = rng.choice(TEXTS)
                text, said = text[:place] + new + text[place:], f"{place}: {new!r:.40}"
            else:  # in place of a value
                end, new = rng.choice(value_ends), rng.choice(TEXTS)
                begin = max(text.rfind(mark, 0, end) for mark in (": ", "- ", "\n")) + 1
                text, said = text[:begin] + " " + new + text[end:], f"{begin}: {new!r:.40}"
            words.append(said)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    verb = rng.choice((["check"], ["plan"], ["plan", "--json"], ["generate"]))
    return "; ".join(words), [[*verb, str(path)]]


def zarr_case(folder: Path, rng: random.Random) -> tuple[str, list[list[str]]]:
    """Damage metadata or chunks of the arrays; some are made OME-Zarr images before."""
    zarr_format: Literal[2, 3] = 2 if rng.random() < 0.5 else 3
    project(folder, zarr_format, _pipeline(rng))
    if rng.random() < 0.4:
        image(folder, zarr_format, rng)
    words = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        files = _plain(folder / "s.zarr")
        metadata = [p for p in files if p.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
        path = rng.choice(
            metadata if metadata and rng.random() < 0.85 else files or [folder / "functions.py"]
        )
        if rng.random() < 0.3 and path in metadata:
            words.append(_absurd(path, rng))
        else:
            words.append(damaged(path, rng, files))
    verb = rng.choice((["check"], ["plan"], ["plan", "--json"], ["generate"]))
    return f"v{zarr_format} " + "; ".join(words), [[*verb, str(folder / "pipeline.yaml")]]


def _pipeline(rng: random.Random) -> Any:
    """Return the pipeline with other rois and masks now and then."""
    tree = copy.deepcopy(PIPELINE)
    smooth = tree["tasks"]["smooth"]
    kind = rng.random()
    if kind < 0.2:
        del smooth["mask"]
    elif kind < 0.3:
        smooth["mask"] = "s.zarr/raw"
    if rng.random() < 0.2:
        smooth["roi"] = {"offset": [0, 0], "shape": [10 ** rng.randrange(1, 9)] * 2}
        smooth["block_size"] = [10 ** rng.randrange(1, 4)] * 2
    return tree


def _absurd(path: Path, rng: random.Random) -> str:
    """Give an array a shape, chunks or a type that nothing on disk agrees with."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "nothing"
    if not isinstance(tree, dict):
        return "nothing"
    size, chunk = 10 ** rng.randrange(1, 19), 10 ** rng.randrange(0, 19)
    if rng.random() < 0.8:
        tree["shape"] = [size, size]
    if rng.random() < 0.7:
        tree["chunks"] = [chunk, rng.choice((1, chunk))]
        tree["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": tree["chunks"]}}
    if rng.random() < 0.2:
        tree["dtype"] = tree["data_type"] = rng.choice(
            ("float64", "<f8", "|S9", "string", "|O", "<M8[s]", 3)
        )
    path.write_text(json.dumps(tree))
    return f"{path}: shape {tree.get('shape')!r:.50} chunks {tree.get('chunks')!r:.50}"


VERBS = (
    ["check", "P"], ["plan", "P", "--json"], ["generate", "P"], ["status", "R"],
    ["status", "R", "--json"], ["verify", "R"], ["reset", "R", "smooth"],
    ["reset", "R", "count", "--failed"], ["reset", "R", "smooth", "--roi", "0:8,0:8"],
    ["stop", "R"], ["block", "R", "smooth", "0-0"], ["work", "S"], ["work", "T"],
    ["status", "R", "--csv", "C"],
)  # fmt: skip


def run_case(folder: Path, rng: random.Random) -> tuple[str, list[list[str]]]:
    """Damage files of a finished run; then one verb, or several."""
    root, words = folder / "blocks", []
    files = _plain(root)
    sentinels = [p for p in files if p.suffix == ".json" and p.parent.parent.parent.parent == root]
    for _ in range(rng.choice((1, 1, 2, 4))):
        files = [p for p in files if _is_plain(p)]
        kinds = sorted({_kind(p, root) for p in files})
        if not kinds:
            break
        kind = rng.choice(kinds)
        words.append(damaged(rng.choice([p for p in files if _kind(p, root) == kind]), rng, files))
    if rng.random() < 0.15:
        extra = rng.choice(
            (
                "x",
                "smooth/x",
                "smooth/p0/x",
                "smooth/ledger/x",
                "smooth/tree/x/x.json",
                "smooth/p0/0-0/x.json",
                "smooth/ledger/0/9-9",
                "smooth/p0/0/9.json",
                "smooth/tree/1/x.json",
                "smooth/pX/0/0-0.json",
            )
        )
        path = root / extra
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.choice((b"", b"{}", b"x" * 100)))
            words.append(f"{extra} foreign")
    names = {
        "P": str(folder / "pipeline.yaml"),
        "R": str(root),
        "S": str(rng.choice(sentinels)),
        "T": str(root / rng.choice(("smooth", "count"))),
        "C": str(folder / "table.csv"),
    }
    verbs = rng.sample(VERBS, rng.choice((1, 2, 3)))
    return "; ".join(words), [[names.get(v, v) for v in verb] for verb in verbs]


def _kind(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return "/".join(p if not any(c.isdigit() for c in p) else "#" for p in parts[1:]) + (
        parts[0] if len(parts) == 1 else ""
    )


def finished_run(folder: Path) -> None:
    """Make a run directory in which every kind of file is."""
    tree = copy.deepcopy(PIPELINE)
    tree["tasks"]["smooth"]["blocks_per_job"] = 1
    project(folder, 3, tree)
    assert _cli(["generate", str(folder / "pipeline.yaml")])[0] == 0
    assert _cli(["work", str(folder / "blocks" / "smooth")])[0] == 0
    assert _cli(["work", str(folder / "blocks" / "count")])[0] == 0
    # Another plan, so that there is an identity; a stop and locks as a kill leaves them behind.
    tree["tasks"]["count"]["params"]["factor"] = 3
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert _cli(["generate", str(folder / "pipeline.yaml")])[0] == 0
    _cli(["work", str(folder / "blocks" / "count")])
    ledger = next((folder / "blocks" / "count" / "ledger").glob("*/*"))
    holder = locks.Holder(process_host(), 2**22 - 1, 1, "", "0" * 16)
    lock = locks.Lock(ledger.with_name(ledger.name + ".lock"), holder)
    ledger.with_name(ledger.name + ".lock").write_bytes(lock._content())


# --- running cases -------------------------------------------------------------------------------


class TooLongError(BaseException):
    """A case has run for so long that it is ended."""


def _cli(arguments: list[str]) -> tuple[int, str, str]:
    """Run a verb in this process; return status, words and traceback if there is one."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main.main(arguments, prog_name="snakemake-blocks", standalone_mode=True)
    except SystemExit as end:
        return (end.code if isinstance(end.code, int) else 1 if end.code else 0), out.getvalue(), ""
    except TooLongError:
        return -1, out.getvalue(), _mechanism()
    except BaseException:  # a case must not end the others
        return -1, out.getvalue(), _mechanism()


def _mechanism() -> str:
    """Return the exception, and the last lines of ours that it came through."""
    kind, error, trace = sys.exc_info()
    assert kind is not None
    frames = [f for f in traceback.extract_tb(trace) if "snakemake_blocks" in f.filename]
    where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[:-4:-1])
    return f"{kind.__name__}: {str(error)[:100]} [{where}]"


def _tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for parent, folders, files in os.walk(folder):
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in (*files, *folders):
            state = os.lstat(os.path.join(parent, name))
            is_folder = name in folders
            found[os.path.join(parent, name)] = (
                state.st_mode,
                0 if is_folder else state.st_size,
                0 if is_folder else state.st_mtime_ns,
            )
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _expired(*_: object) -> None:
    raise TooLongError


@dataclass(frozen=True)
class Kind:
    """One kind of cases: what is there before, and how it is damaged."""

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[Path, random.Random], tuple[str, list[list[str]]]]


KINDS = {
    "yaml": Kind("yaml", project, yaml_case),
    "zarr": Kind("zarr", lambda folder: None, zarr_case),
    "runs": Kind("runs", finished_run, run_case),
}


def run_one(kind: Kind, template: Path, folder: Path, seed: str, found: Result) -> None:
    """Make one case in an empty folder, and judge what each of its verbs does."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder, symlinks=True)
    os.chdir(folder)
    words, verbs = kind.damage(folder, random.Random(seed))
    for arguments in verbs:
        before, began = _tree(folder), time.monotonic()
        peak = _peak()
        signal.alarm(_KILLED_AFTER)
        try:
            status, said, trace = _cli(arguments)
        finally:
            signal.alarm(0)
        took, grown = time.monotonic() - began, _peak() - peak
        label = f"{kind.name} {seed} {' '.join(arguments)} | {words}".replace(str(folder) + "/", "")
        found.cases += 1
        found.statuses[f"{kind.name} {arguments[0]} {status}"] += 1
        found.slowest = max(found.slowest, (took, label))
        found.largest = max(found.largest, (grown, label))
        refused = status == 2 and arguments[0] in ("check", "plan", "generate")
        problems = {
            trace: bool(trace),
            f"status {status} {said[-200:]}": not trace and status not in (0, 1, 2),
            f"took {took:.1f} s": took > SECONDS,
            f"grew by {grown >> 20} MB": grown > BYTES,
            "prints a traceback": "Traceback (most" in said and arguments[0] != "block",
            "says nothing": status == 2 and not said.strip(),
        }
        if refused and (changed := set(before.items()) ^ set(_tree(folder).items())):
            paths = sorted({p.replace(str(folder), "") for p, _ in changed})
            problems[f"wrote {paths[:4]}"] = True
        found.bad += [(kind.name, problem, label) for problem, is_bad in problems.items() if is_bad]


def _child(kind: Kind, template: Path, folder: Path, seeds: list[str], results: Any) -> None:
    """Run cases in this process, a fork that dies with what they leave in memory."""
    os.setsid()
    sys.stdin = open(os.devnull)  # noqa: SIM115 - kept for the process
    signal.signal(signal.SIGALRM, _expired)
    with open("/proc/self/statm") as statm:
        base = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (base + 3 * BYTES, resource.RLIM_INFINITY))
    found = Result()
    for seed in seeds:
        results.send(seed)
        run_one(kind, template, folder, seed, found)
    results.send(found)
    os._exit(0)  # threads that wait for something are not waited for


def _collect(kind: Kind, template: Path, folder: Path, seeds: list[str]) -> Result:
    """Run cases in a child; one that it does not come back from is bad, too."""
    total, context = Result(), multiprocessing.get_context("fork")
    while seeds:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(kind, template, folder, seeds, theirs))
        child.start()
        theirs.close()
        current = ""
        try:
            while ours.poll(6 * _KILLED_AFTER):
                message = ours.recv()
                if isinstance(message, Result):
                    total.add(message)
                    current, seeds = "", []
                    break
                current = message
        except EOFError:
            pass
        with contextlib.suppress(ProcessLookupError):
            if child.pid and current:
                os.killpg(child.pid, signal.SIGKILL)
        child.join(10)
        if seeds:
            total.cases += 1
            total.bad.append((kind.name, f"the process ended ({child.exitcode})", current))
            seeds = seeds[seeds.index(current) + 1 :] if current in seeds else []
    return total


def fuzz(counts: dict[str, int], *, seed: int, seconds: float = float("inf")) -> Result:
    """Run so many cases of every kind, fewer if they take longer than their share of the time."""
    for module in ("funlib.persistence", "snakemake_blocks.generating", "yaozarrs.v04"):
        importlib.import_module(module)  # once, and not in every case
    total = Result()
    share = seconds / max(1, sum(n > 0 for n in counts.values()))
    claiming._IDLE_SECONDS = 0.5
    locks.TIMING.standstill, locks.TIMING.unreadable = 1.0, 0.2
    with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
        for name, count in counts.items():
            if not count:
                continue
            kind, template, folder = KINDS[name], Path(base) / f"{name}-0", Path(base) / name
            template.mkdir()
            maker = multiprocessing.get_context("fork").Process(
                target=kind.prepare, args=(template,)
            )
            maker.start()
            maker.join()
            assert maker.exitcode == 0, f"{name} could not be prepared"
            end = time.monotonic() + share
            for first in range(0, count, _CHILD):
                if time.monotonic() >= end:
                    break
                seeds = [f"{seed}-{i}" for i in range(first, min(first + _CHILD, count))]
                total.add(_collect(kind, template, folder, seeds))
    return total


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
        with tempfile.TemporaryDirectory(prefix="fuzz-") as base:
            template, folder = Path(base) / "a", Path(base) / "b"
            template.mkdir()
            KINDS[name].prepare(template)
            found = Result()
            signal.signal(signal.SIGALRM, _expired)
            run_one(KINDS[name], template, folder, seed, found)
            os.chdir("/")
    else:
        found = fuzz(
            {name: getattr(chosen, name) for name in KINDS},
            seed=chosen.seed,
            seconds=chosen.seconds,
        )
    print(text_of(found))
    return 1 if found.bad else 0


if __name__ == "__main__":
    sys.exit(_main())
