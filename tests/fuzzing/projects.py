"""Projects that are damaged then: arrays, functions, pipelines, and what runs leave behind."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import textwrap
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any, Literal

import yaml
import zarr
from funlib.geometry import Roi

import snakemake_blocks as sb
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.system import locks
from snakemake_blocks.system.processes import process_host

BIN = Path(sys.executable).parent

MANY = "many blocks"
"""The task of :func:`finished_tasks`."""

FUNCTIONS = """
    from pathlib import Path

    def smooth(raw):
        return {"out": raw + 0.25}  # of which a note is made

    def count(block, **params):
        if Path(__file__).with_name("broken").exists() and block.index == (1, 1):
            raise ValueError("broken")
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
MOVIE: dict[str, Any] = {
    "tasks": {
        "smooth": {
            "function": "functions:smooth",
            "call": "arrays",
            "reads": {"raw": {"array": "m.ome.zarr/0", "select": {"c": 0}, "fill": "reflect"}},
            "writes": {
                "out": {
                    "array": "n.ome.zarr/0",
                    "dtype": "float32",
                    "shards": "auto",
                    "chunks": {"y": 4, "x": 4},
                    "compressor": "zstd",
                }
            },
            "roi": "m.ome.zarr/0",
            "block_size": {"voxels": {"t": 1, "y": 8, "x": 8}},
            "context": {"voxels": {"lower": 2, "upper": {"x": 2}}},
            "fit": "shrink",
        },
        "count": {
            "function": "functions:count",
            "params": {"factor": 2},
            "reads": {"out": {"array": "n.ome.zarr/0", "select": {"t": 0}}},
            "roi": {"voxels": {"offset": [0, 0], "shape": [16, 16]}},
            "block_size": {"voxels": 8},
            "retries": 0,
        },
    }
}
"""The other pipeline: a movie with measured voxels, in which all newer keys are used."""


def project(folder: Path, zarr_format: Literal[2, 3] = 3, tree: Any = None) -> None:
    """Write the arrays, functions and pipeline that are then damaged."""
    group = zarr.open_group(folder / "s.zarr", mode="w", zarr_format=zarr_format)
    for name, value in {"raw": 7, "mask": 1}.items():
        array = group.create_array(name, shape=(16, 16), chunks=(8, 8), dtype="uint8")
        array[...] = value
        array.attrs.update({"voxel_size": [1, 1], "offset": [0, 0]})
    movie = zarr.open_group(folder / "m.ome.zarr", mode="w", zarr_format=3)
    frames = movie.create_array("0", shape=(3, 2, 16, 16), chunks=(1, 1, 8, 8), dtype="uint8")
    frames[...] = 7
    kinds = {"t": "time", "c": "channel"}
    scale = {"type": "scale", "scale": [0.5, 1.0, 0.29898804047838085, 6.5 / 60]}
    movie.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": n, "type": kinds.get(n, "space")} for n in "tcyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [scale]}],
            }
        ],
    }
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


def finished_run(folder: Path) -> None:
    """Make a run directory in which is every kind of file."""
    tree = copy.deepcopy(PIPELINE)
    tree["tasks"]["smooth"]["blocks_per_job"] = 1
    project(folder, 3, tree)
    (folder / "broken").touch()
    _run(folder, "run", "pipeline.yaml", "--cores", "2")
    # Another plan, so that there is an identity of what was before.
    tree["tasks"]["count"]["params"]["factor"] = 3
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    _run(folder, "generate", "pipeline.yaml")
    for task in ("smooth", "count"):
        _run(folder, "work", f"blocks/{task}")
    _leave_as_killed(folder, folder / "blocks")


def _run(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [str(BIN / "snakemake-blocks"), *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr


def _leave_as_killed(folder: Path, root: Path) -> None:
    """Leave locks and marks as processes do that are killed."""
    holder = locks.Holder(process_host(), 2**22 - 1, 1, "", "0" * 16)
    paths = RunPaths(root)
    ledger = next(p for p in (root / "count" / "ledger").glob("*/*") if not p.suffix)
    for path in (paths.lock, paths.moving, ledger.with_name(ledger.name + ".lock")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(locks.Lock(path, holder)._content())
    sentinel = next(root.glob("count/p0/*/*.json")).relative_to(folder)
    mark = folder / ".snakemake" / "incomplete" / urlsafe_b64encode(bytes(sentinel)).decode()
    lock = folder / ".snakemake" / "locks" / "0.input.lock"
    for path in (mark, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{sentinel}\n" if path == lock else "")


def finished_tasks(folder: Path) -> None:
    """Run a pickled function in more jobs than one aggregate holds."""
    os.chdir(folder)
    steps = [7]

    def step(block: sb.Block) -> None:
        assert steps

    roi = Roi((0, 0), (12, 11))
    one = Roi((0, 0), (1, 1))
    task = sb.Task(MANY, roi, one, one, step, read_write_conflict=False, blocks_per_job=1)
    done = sb.run_blockwise(task, run_directory="blocks", cores=2, progress=False, summary=False)
    assert done
