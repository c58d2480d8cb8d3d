"""Cases: what is damaged, and which verbs are tried on it.

What a case does depends on its random numbers alone, so that it can be made again for each verb.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from fuzzing.damage import damaged, is_plain, mistyped, mutated, plain_files
from fuzzing.projects import MANY, MOVIE, PIPELINE, finished_run, finished_tasks, image, project
from snakemake_blocks.plan.paths import slug
from snakemake_blocks.plan.plan import Plan

Verbs = list[list[str]]


@dataclass(frozen=True)
class Kind:
    """One kind of cases.

    ``prepare`` makes what is there before, once. ``damage`` gets a copy of it and says what it did;
    ``verbs`` returns what is tried, each list on a fresh copy with the same damage.
    """

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[Path, random.Random], str]
    verbs: Callable[[Path, random.Random], list[Verbs]]


# --- pipeline.yaml -------------------------------------------------------------------------------

# Per key what somebody may well write there, be it right or wrong with the rest.
PLAUSIBLE: dict[str, tuple[Any, ...]] = {
    "call": ("block", "arrays", "worker", "once", "reduce"),
    "merge": ("functions:count", "functions:none", 3),
    "map": ("functions:count", "functions:smooth", "functions:none", 3),
    "outputs": (
        [], ["a.db"], ["a.db", "a.db"], ["s.zarr"], ["blocks"], ["/etc/passwd"], ["../x"], "a.db",
        ["functions.py"], ["a/b/c"], ["."], [""], [3], ["s.zarr/out"], ["blocks/plan.json"],
    ),
    "set_up": ("functions:count", "functions:none", 3),
    "before_block": ("functions:count", "functions:none", 3),
    "tables": (
        {}, {"t": {"columns": {"a": "int8"}}}, {"t": {"columns": {"a": "float64[3]"}}},
        {"t": {"columns": {}}}, {"t": {"columns": {"a": "what"}}}, {"t": {"columns": {"a b": "i"}}},
        {"out": {"columns": {"a": "string"}}}, {"t": {"columns": {"a": "int8"}, "parquet": "t.pq"}},
        {"t": {"columns": {"a": "int8[1000000]"}}, "u": {"columns": {"b": "bool"}}},
    ),
    "params": ({}, {"factor": 1.5}, {"a": {"b": [1, None, "x"]}}, {"block": 1}, {"raw": 1}),
    "roi": (
        "s.zarr/raw", "s.zarr/mask", "s.zarr/out", {"offset": [0, 0], "shape": [16, 16]},
        {"offset": [4, 0], "shape": [8, 16]}, {"offset": [-8, -8], "shape": [32, 32]},
        {"offset": [3, 5], "shape": [7, 11]}, {"offset": [0], "shape": [16]},
        {"offset": [0, 0], "shape": [17, 1]}, {"offset": [0, 0], "shape": [64, 64]},
        {"offset": [0, 0, 0], "shape": [1, 16, 16]}, {"offset": [100, 100], "shape": [8, 8]},
        {"offset": [0, 0], "shape": [10**6, 10**6]}, {"offset": [2**40, 0], "shape": [16, 16]},
        {"shape": [16, 16]}, {"offset": [0, 0], "shape": [0, 16]}, "m.ome.zarr/0", "n.ome.zarr/0",
        {"voxels": {"offset": [0, 0], "shape": [8, 16]}},
        {"voxels": {"offset": [1, 0, 0], "shape": [2, 16, 16]}}, {"voxels": {"offset": [0, 0]}},
    ),
    "block_size": (
        [4, 4], [8, 16], [16, 16], [3, 5], [2, 8], [7, 7], [1, 16], [32, 32], [8], [8, 8, 8], 8,
        [10**6, 10**6], [2**40, 1], [8, 1], {"voxels": 8}, {"voxels": [8, 4]},
        {"voxels": [1, 8, 8]}, {"voxels": {"t": 2, "x": 8}}, {"y": 8, "x": 8}, {"t": 1}, {"c": 1},
        {"voxels": {"q": 1}}, {"voxels": {"voxels": 1}}, {"voxels": {}}, {}, {"voxels": 2**50},
    ),
    "context": (
        0, 1, 4, 8, 40, [0, 3], [2, 2], [1], {"lower": 3}, {"upper": [0, 9]}, 10**6, [2**40, 0],
        {"lower": [1, 2], "upper": [2, 1]}, {"lower": 100, "upper": 0}, {"voxels": 1},
        {"voxels": {"t": 1}}, {"x": 1}, {"voxels": {"lower": {"y": 1}}}, {"voxels": {"upper": 0}},
        {"lower": {"q": 1}},
    ),
    "fit": ("valid", "overhang", "shrink"),
    "conflict": (True, False),
    "mask": ("s.zarr/mask", "s.zarr/raw", "s.zarr/out", "s.zarr", "s.zarr/none", None),
    "check": (
        "functions:count", {"before": "functions:count"}, {"after": "functions:smooth"},
        {"before": "functions:count", "after": "functions:count"}, "functions:none", {},
    ),
    "retries": (0, 1, 5, 10**9),
    "timeout": (1, 0.5, 10**9, "90s", "10m", "2h", "1d", "0s", "1.5m", "10", 1e-9, 0, "1w"),
    "workers": (1, 2, 64, 10**6),
    "threads": (1, 2, 64, 10**6),
    "max_workers": (1, 2, 10**6),
    "blocks_per_job": (1, 2, 64, [1, 2], [2, 2], [1], "auto", 10**9, [10**9, 1]),
    "chunks": ("color", "refuse"),
    "source": ("warn", "rerun", "ignore"),
    "resources": (
        {}, {"mem_mb": 2000, "runtime": 30}, {"runtime": "2h"}, {"mem": "4GB"}, {"gpu": 1},
        {"mem_mb": 0}, {"runtime": 0}, {"mem": "a lot"}, {"slurm_partition": "gpu"},
        {"mem_mb": 1.5}, {"runtime": "1e9h"}, {"disk": "-1GB"}, {"_cores": 1}, {"a b": 1},
        {"mem_mb": 2**70}, {"tmpdir": "/tmp"}, {"runtime": "2d3h"}, {"x": "'"}, {"x": "{input}"},
    ),
    "after": (
        [], ["smooth"], ["count"], [{"task": "smooth", "whole": True}], ["none"],
        ["smooth", "smooth"], [{"task": "smooth"}, "smooth"],
    ),
    "reads": (
        {}, {"raw": "s.zarr/raw"}, {"raw": {"array": "s.zarr/raw", "fill": 255}},
        {"raw": {"array": "s.zarr/raw", "fill": 256}},
        {"raw": {"array": "s.zarr/raw", "fill": "wrap"}},
        {"raw": {"array": "s.zarr/raw", "fill": "mirror"}},
        {"raw": {"array": "s.zarr/raw", "fill": 0.5}},
        {"raw": "s.zarr/out"}, {"raw": {"array": "s.zarr/out", "fill": 0}}, {"raw": "s.zarr/none"},
        {"raw": "s.zarr/raw", "mask": "s.zarr/mask"}, {"raw": "s.zarr"}, {"raw": "/etc/passwd"},
        {"raw": "s.zarr/raw", "out": {"array": "s.zarr/out", "fill": -1}}, {"block": "s.zarr/raw"},
        {"rows": {"table": "smooth.t"}}, {"rows": {"table": "count.t", "whole": True}},
        {"rows": {"table": "smooth"}}, {"rows": {"table": "smooth.out"}}, {"raw": {"table": "a.b"}},
        {"raw": "m.ome.zarr/0"}, {"raw": {"array": "m.ome.zarr/0", "select": {"c": 1}}},
        {"raw": {"array": "m.ome.zarr/0", "select": {"c": 1, "t": 2}}},
        {"raw": {"array": "m.ome.zarr/0", "select": {"c": 7}}},
        {"raw": {"array": "m.ome.zarr/0", "select": {"x": 3}}},
        {"raw": {"array": "m.ome.zarr/0", "context": {"voxels": {"x": 1}}, "fill": "wrap"}},
        {"raw": "s.zarr/../s.zarr/raw"}, {"raw": "./s.zarr/raw/"}, {"raw": "s.zarr/raw/c"},
    ),
    "writes": (
        {}, {"out": {"array": "s.zarr/out", "dtype": "float32"}},
        {"out": {"array": "s.zarr/out", "dtype": "int64", "channels": [3]}},
        {"out": {"array": "t.zarr/a/b", "dtype": "bool"}},
        {"out": {"array": "t.zarr", "dtype": "float16", "chunks": [4, 4]}},
        {"out": {"array": "s.zarr/out", "dtype": "complex64", "voxel_size": [1, 1]}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8", "voxel_size": [2, 2]}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8", "voxel_size": [3, 1]}},
        {"out": {"array": "s.zarr/raw", "dtype": "uint8"}}, {"out": {"array": "s.zarr/raw"}},
        {"out": {"array": "s.zarr", "dtype": "uint8"}}, {"out": {"array": "x", "dtype": "uint8"}},
        {"out": {"array": "blocks/x", "dtype": "uint8"}}, {"out": {"array": "blocks"}},
        {"out": {"array": "functions.py", "dtype": "uint8"}}, {"out": {"array": "s.zarr/out"}},
        {"out": {"array": "s.zarr/out", "dtype": ">u2"}},
        {"out": {"array": "s.zarr/out", "dtype": "datetime64[s]"}},
        {"out": {"array": "s.zarr/out", "dtype": "str"}},
        {"out": {"array": "s.zarr/out", "dtype": "O"}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8", "channels": [10**9, 10**9]}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8", "channels": [0]}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8"},
         "more": {"array": "s.zarr/more", "dtype": "uint8"}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "shards": "auto"}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "shards": 16, "chunks": 4}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "shards": [8, 6]}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "shards": 2**40, "chunks": {"x": 2**40}}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "compressor": "none", "chunks": [1, 1]}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "channels": [2], "select": {"c": 1}}},
        {"out": {"array": "m.ome.zarr/0", "dtype": "uint8", "select": {"c": 1}}},
        {"out": {"array": "m.ome.zarr/1", "dtype": "uint8", "voxel_size": {"voxels": 2}}},
        {"out": {"array": "n.zarr/o", "dtype": "uint8", "voxel_size": {"voxels": {"x": 2}}}},
        {"out": {"array": "s.zarr/out", "dtype": "uint8"},
         "more": {"array": "s.zarr/out", "dtype": "uint8"}},
    ),
    "function": (
        "functions:smooth", "functions:count", "functions:none", "none:none", "os.path:join",
        "functions:Path", "functions", "functions:smooth.x", "json:dumps", "functions:__name__",
    ),
}  # fmt: skip
_TOP: dict[str, tuple[Any, ...]] = {
    "run_directory": ("blocks", "a/b", ".", "..", "s.zarr", "s.zarr/x", "/tmp", "functions.py"),
    "unit": ("nanometer", "nm", "micrometer", "pixel", "parsec", "second"),
}
# Params as users write them, with what YAML makes of them.
_PARAMS = (
    "1", "-0.0", "1e3", "0.1", "9007199254740993", "18446744073709551617", "1.7976931348623157e308",
    ".nan", "-.inf", "yes", "~", "''", "'1'", "2001-01-01", "2001-01-01T12:00:00Z", "!!binary aGk=",
    "!!set {a, b}", "!!omap [a: 1]", "[1, [2.0, {a: ~}]]", "{1: a}", "{true: 1}", "{1.5: x}",
    "{~: 1}", "{a: {2: b}}", "{1: a, '1': b}", "012", "0x1F", "1_000", "12:30:45", "\U0001f600",
    "'a\\0'", '"\\0\\x7f\\u2028"', "&x [1]", "1" * 300, "[]", "{}", "{'': 1}", "4.9e-324", "1e-400",
    "!!float 1", "!!str 1", "{2001-01-01: 1}", "{[1, 2]: x}", "!!python/tuple [1]",
)  # fmt: skip


def _yaml_damage(folder: Path, rng: random.Random) -> str:
    """Damage the text or the tree of the pipeline, or write another that may be right."""
    path, kind, words = folder / "pipeline.yaml", rng.random(), []
    base = rng.choice((PIPELINE, MOVIE))
    _dump(base, path)
    if kind < 0.3:
        tree: Any = base
        for _ in range(rng.choice((1, 1, 2, 3))):
            tree, said = mutated(tree, rng)
            words.append(said)
        _dump(tree, path)
    elif kind < 0.5:
        text = path.read_text()
        for _ in range(rng.choice((1, 1, 2, 4))):
            text, said = mistyped(text, rng)
            words.append(said)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    elif kind < 0.6:
        text, value = path.read_text(), rng.choice(_PARAMS)
        words.append(f"params {value}")
        path.write_text(text.replace("factor: 2", f"factor: {value}"))
    else:
        tree = copy.deepcopy(base)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            words.append(_vary(tree, rng))
        _dump(tree, path)
    return "; ".join(words)


def _dump(tree: Any, path: Path) -> None:
    with contextlib.suppress(ValueError, yaml.YAMLError):  # what Python itself cannot write
        path.write_bytes(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


def _vary(tree: Any, rng: random.Random) -> str:
    """Give one key another value that somebody may write."""
    name = rng.choice(("smooth", "smooth", "count"))
    task, options = tree["tasks"][name], PLAUSIBLE
    if rng.random() < 0.05:
        task, options, name = tree, _TOP, "top"
    key = rng.choice(sorted(options))
    value = task[key] = copy.deepcopy(rng.choice(options[key]))
    return f"{name}.{key} = {value!r:.80}"


def _yaml_verbs(folder: Path, rng: random.Random) -> list[Verbs]:
    path = str(folder / "pipeline.yaml")
    if rng.random() < 0.3:  # as a whole: what is accepted has to work
        work = [["work", str(folder / "blocks" / task)] for task in ("smooth", "count")]
        return [[["generate", path], *work, ["verify", str(folder / "blocks")]]]
    verbs = (["check"], ["plan"], ["plan", "--json"], ["generate"], ["run", "-n"])
    return [[[*rng.choice(verbs), path], ["check-context", path, "smooth", "--samples", "2"]]]


def params_problem(folder: Path) -> str:
    """Return which params of a plan in place are not what the pipeline says, if any."""
    tree = yaml.safe_load((folder / "pipeline.yaml").read_bytes())
    plan = Plan.load(folder / tree.get("run_directory", "blocks"))
    for name, task in plan.tasks.items():
        asked = tree["tasks"][name].get("params", {})
        if repr(asked) != repr(
            dict(task.operation.params)
        ):  # types and signs of zero, too; nan is nan
            return f"params of {name} are {task.operation.params!r:.80}"
    return ""


# --- arrays --------------------------------------------------------------------------------------


def _zarr_damage(folder: Path, rng: random.Random) -> str:
    """Damage metadata or chunks of the arrays; some are made OME-Zarr images before."""
    zarr_format: Literal[2, 3] = 2 if rng.random() < 0.5 else 3
    project(folder, zarr_format, _pipeline(rng))
    if rng.random() < 0.4:
        image(folder, zarr_format, rng)
    words = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        files = plain_files(folder / "s.zarr")
        metadata = [p for p in files if p.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup")]
        path = rng.choice(
            metadata if metadata and rng.random() < 0.85 else files or [folder / "functions.py"]
        )
        if rng.random() < 0.3 and path in metadata:
            words.append(_absurd(path, rng))
        else:
            words.append(damaged(path, rng, files))
    return f"v{zarr_format} " + "; ".join(words)


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
    except (OSError, ValueError, RecursionError):
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


def _zarr_verbs(folder: Path, rng: random.Random) -> list[Verbs]:
    path = str(folder / "pipeline.yaml")
    verbs = (["check"], ["plan"], ["plan", "--json"], ["generate"], ["run", "-n"])
    work = [["work", str(folder / "blocks" / "smooth")], ["verify", str(folder / "blocks")]]
    more = [["check-context", path, "smooth", "--samples", "2"]]
    return [[[*rng.choice(verbs), path], *(work if rng.random() < 0.3 else more)]]


def is_small(folder: Path) -> bool:
    """Tell whether all blocks of a pipeline with damaged arrays can be done in seconds."""
    smooth = yaml.safe_load((folder / "pipeline.yaml").read_bytes())["tasks"]["smooth"]
    roi, (block, _) = smooth["roi"], smooth["block_size"]
    return isinstance(roi, str) or (roi["shape"][0] // block) ** 2 <= 1000


# --- run directories -----------------------------------------------------------------------------

# P: the pipeline; R: the run directory; A: a task; S: a sentinel of one; T: a task's folder;
# C: a new file; I: a block.
_OF_RUNS = (
    ["status", "R"], ["status", "R", "--json"], ["status", "R", "--csv", "C"],
    ["status", "R", "--watch"], ["verify", "R"], ["reset", "R", "A"],
    ["reset", "R", "A", "--failed"], ["reset", "R", "A", "--roi", "0:8,0:8"],
    ["reset", "R", "--missing"], ["reset", "R", "A", "--missing"], ["stop", "R"],
    ["block", "R", "A", "I"], ["work", "S"], ["work", "T"],
)  # fmt: skip
_OF_PIPELINES = (
    ["check", "P"], ["check", "P", "--import"], ["plan", "P"], ["plan", "P", "--json"],
    ["generate", "P"], ["generate", "P", "--rebatch"], ["generate", "P", "--explicit"],
    ["run", "P", "-n"], ["run", "P", "-n", "--roi", "0:8,0:8"], ["run", "P", "-n", "--probe"],
    ["check-context", "P", "smooth", "--samples", "2"], ["profile", "list"],
    ["profile", "show", "local"], ["run", "P", "--cores", "2"],
)  # fmt: skip
# Only now and then: they start other processes, which takes seconds.
_SLOW = (["check", "P", "--import"], ["run", "P", "--cores", "2"])
_FAILED = b'{"index": [], "attempt": 1, "cause": "x", "message": "x"}\n'
_FOREIGN = (
    "x", "smooth/x", "smooth/p0/x", "smooth/ledger/x", "smooth/tree/x/x.json",
    "smooth/p0/0-0/x.json", "smooth/ledger/0/9-9", "smooth/p0/0/9.json", "smooth/tree/1/x.json",
    "smooth/tree/0/0.json", "smooth/ledger/0/9", "smooth/ledger/0/x", "smooth/ledger/0/\u00b2",
    "smooth/logs/0/x.failures.jsonl", "smooth/logs/0/9.failures.jsonl",
    "smooth/pX/0/0-0.json", "stop", "smooth/notes/x.0", "functions/x.pkl", "masks/x.npz",
)  # fmt: skip


def _run_damage(folder: Path, rng: random.Random) -> str:
    """Damage files of a finished run, of its arrays, or of Snakemake's books."""
    root, words = folder / "blocks", []
    files = [
        *plain_files(root),
        *(
            f
            for place in ("locks", "incomplete")
            for f in plain_files(folder / ".snakemake" / place)
        ),
        *plain_files(folder / "s.zarr"),
    ]
    for _ in range(rng.choice((1, 1, 2, 4))):
        files = [p for p in files if is_plain(p)]
        kind = rng.choice(sorted({_kind_of(p, folder) for p in files}))
        path = rng.choice([p for p in files if _kind_of(p, folder) == kind])
        words.append(damaged(path, rng, files))
    if rng.random() < 0.15:
        path = root / rng.choice(_FOREIGN)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rng.choice((b"", b"{}", b"x" * 100, _FAILED)))
            words.append(f"{path.relative_to(root)} foreign")
    if rng.random() < 0.5:
        (folder / "broken").unlink(missing_ok=True)
    return "; ".join(words)


def _kind_of(path: Path, folder: Path) -> str:
    """Return what files of one kind share: their path without numbers and names of tasks."""
    parts = path.relative_to(folder).parts
    names = ("smooth", "count", slug(MANY))
    return "/".join("#" if p in names or any(c.isdigit() for c in p) else p for p in parts)


def _run_verbs(folder: Path, rng: random.Random) -> list[Verbs]:
    root = folder / "blocks"
    is_python = not (folder / "pipeline.yaml").exists()
    task = MANY if is_python else rng.choice(("smooth", "count"))
    place = root / slug(task)
    sentinels = [*place.glob("p*/*/*.json"), *place.glob("tree/*/*.json")]
    names = {
        "P": str(folder / "pipeline.yaml"),
        "R": str(root),
        "A": task,
        "S": str(rng.choice(sorted(sentinels) or [root])),
        "T": str(place),
        "C": str(folder / "table.csv"),
        "I": rng.choice(("0-0", "1-1", "0", "3")),
    }
    known = (*_OF_RUNS, *(() if is_python else _OF_PIPELINES))
    chosen = [v for v in known if v not in _SLOW or rng.random() < 0.1]
    verbs = [[names.get(v, v) for v in verb] for verb in chosen]
    # One after the other, each on what those before it left; or each on the same damage.
    return [rng.sample(verbs, 5)] if rng.random() < 0.5 else [[verb] for verb in verbs]


# --- arguments -----------------------------------------------------------------------------------

# In place of each ? stands something odd.
_ASKED = (
    ["block", "blocks", "smooth", "?"], ["block", "blocks", "?", "0-0"],
    ["block", "?", "smooth", "0"],
    ["reset", "blocks", "?"], ["reset", "blocks", "smooth", "--roi", "?"], ["reset", "?", "smooth"],
    ["reset", "blocks", "?", "--missing"], ["check-context", "pipeline.yaml", "?"],
    ["check-context", "pipeline.yaml", "smooth", "--samples", "?"],
    ["check-context", "pipeline.yaml", "smooth", "--context", "?"],
    ["check-context", "pipeline.yaml", "smooth", "--tolerance", "?"],
    ["run", "pipeline.yaml", "-n", "--roi", "?"], ["run", "pipeline.yaml", "-n", "--cores", "?"],
    ["run", "?", "-n"], ["check", "?"], ["plan", "?"], ["generate", "?"], ["status", "?"],
    ["verify", "?"], ["stop", "?"], ["work", "?"], ["work", "blocks/?"],
    ["work", "blocks/smooth/?"],
    ["work", "blocks/smooth/p0/0-0/?.json"], ["work", "blocks/smooth/p?/0-0/0-0.json"],
    ["work", "blocks/smooth/tree/?/0.json"], ["work", "blocks/smooth/done.json", "--attempt", "?"],
    ["profile", "show", "?"], ["profile", "show", "slurm", "--set", "?"],
    ["profile", "show", "slurm", "--set", "jobs=?"],
    ["profile", "show", "lsf", "--set", "mem_mb=?"],
    ["profile", "show", "local", "--set", "?=1"], ["plan", "pipeline.yaml", "--picture", "?"],
    ["generate", "pipeline.yaml", "-o", "?"],
)  # fmt: skip
_ODD = (
    "", " ", "x", "0", "-1", "1e5", "nan", "inf", "1e400", "\u0663", "\u00b2", "0-0", "0-0-0",
    "0--0", "9-9", "9" * 200, "9" * 5000, "1_0", "0:8", "0:8,0:8", "8:0,0:8", "0:8,0:8,0:8", ":,:",
    "x=", "9" * 5000 + ":1,0:8", f"0:{10**30},0:8", "-10:-5,0:8", f"-{2**62}:{2**62},0:8",
    "=1", ".", "..", "/dev/zero", "/dev/null", "none", "s.zarr", "s.zarr/raw", "blocks",
    "blocks/smooth", "\udcff", "a" * 5000, "a\nb", "!!int x", "&a [*a]", "[" * 3000, "a b",
    "tree/1", "0:0,0:0", "done", "~",
)  # fmt: skip


def _asked(folder: Path, rng: random.Random) -> list[Verbs]:
    return [[[word.replace("?", rng.choice(_ODD)) for word in rng.choice(_ASKED)]]]


# --- profiles ------------------------------------------------------------------------------------


def _installed_profile(folder: Path) -> None:
    """Install the local profile for a user, beside a project."""
    from snakemake_blocks.engine.profiles import profile_text

    project(folder)
    path = folder / "config" / "snakemake" / "local" / "config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(profile_text("local", {"cores": "2"}))


def _profile_damage(folder: Path, rng: random.Random) -> str:
    path = folder / "config" / "snakemake" / "local" / "config.yaml"
    if rng.random() < 0.3:
        text, words = mistyped(path.read_text(), rng)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return words
    return damaged(path, rng, [folder / "pipeline.yaml"])


def _profile_verbs(folder: Path, rng: random.Random) -> list[Verbs]:
    pipeline = str(folder / "pipeline.yaml")
    quick = (
        ["profile", "install", "local"], ["profile", "install", "local", "--force"],
        ["profile", "install", "slurm", "--set", "jobs=3"], ["profile", "list"],
        ["run", pipeline, "-n", "--profile", "local"],
    )  # fmt: skip
    return [[rng.choice(quick)], [["run", pipeline, "--profile", "local"]]]


KINDS = {
    "yaml": Kind("yaml", project, _yaml_damage, _yaml_verbs),
    "zarr": Kind("zarr", lambda folder: None, _zarr_damage, _zarr_verbs),
    "runs": Kind("runs", finished_run, _run_damage, _run_verbs),
    "tasks": Kind("tasks", finished_tasks, _run_damage, _run_verbs),
    "arguments": Kind("arguments", finished_run, lambda folder, rng: "", _asked),
    "profiles": Kind("profiles", _installed_profile, _profile_damage, _profile_verbs),
}
