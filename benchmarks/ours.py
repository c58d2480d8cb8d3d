"""The peers' loads in snakemake-blocks, run as a user runs them: by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent.resolve()
BIN = Path(sys.executable).parent
PROFILE = HERE.parent / "profiles" / "local"
sys.path.insert(0, str(HERE / "peers"))

import failing as failing_load  # noqa: E402
import loads  # noqa: E402
import smoothing  # noqa: E402

NOTHING = """
def nothing(block):
    pass
"""
FAILING = """
import sys
sys.path.insert(0, {peers!r})
from failing import smooth
"""
SMOOTH = """
import sys
sys.path.insert(0, {peers!r})
from pathlib import Path

import smoothing
import zarr


class Smooth:
    def __init__(self, source, target, size, block, chunk, sigma):
        self.load = smoothing.Smoothing(Path(source), Path(target), size, block, chunk, sigma)
        self.source = zarr.open_array(source, mode="r")
        self.target = zarr.open_array(target, mode="r+")

    def __call__(self, block):
        self.load.smooth(self.source, self.target, tuple(block.write_roi.begin))
"""


@dataclass(frozen=True, slots=True)
class Took:
    """What a command cost.

    Parameters
    ----------
    seconds, cpu : float
        Wall and processor seconds of the command and all that it started.
    output : str
        What it printed.
    """

    seconds: float
    cpu: float
    output: str


def command(*words: str | Path, folder: Path, right: tuple[int, ...] = (0,)) -> Took:
    """Return what a command of this environment cost.

    Raises
    ------
    subprocess.CalledProcessError
        If it fails; what it printed is in ``stdout``.
    """
    before, begin = sum(os.times()[2:4]), time.perf_counter()
    done = subprocess.run(
        [BIN / words[0], *words[1:]],
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - begin
    if done.returncode not in right:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout)
    return Took(seconds, sum(os.times()[2:4]) - before, done.stdout)


def describe(folder: Path, functions: str, **tasks: dict[str, Any]) -> None:
    """Write pipeline and functions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "functions.py").write_text(functions)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"tasks": tasks}, sort_keys=False))


def cube_task(blocks: int, *, context: int, conflict: bool, **more: Any) -> dict[str, Any]:
    """Return the description of a cube of blocks that do nothing."""
    cube = loads.Cube(blocks, context=context)
    return {
        "function": "functions:nothing",
        "roi": {"offset": list(cube.write[0]), "shape": [cube.side * loads.WRITE] * 3},
        "block_size": [loads.WRITE] * 3,
        "context": context,
        "conflict": conflict,
        **more,
    }


def noop(folder: Path, *, blocks: int, conflict: bool, workers: int) -> Took:
    """Run blocks that do nothing."""
    describe(folder, NOTHING, nothing=cube_task(blocks, context=loads.CONTEXT, conflict=conflict))
    return _run(folder, workers)


def chain(folder: Path, *, blocks: int, workers: int) -> Took:
    """Run two tasks of blocks that do nothing, the second reading a context of the first."""
    describe(
        folder,
        NOTHING,
        first=cube_task(blocks, context=0, conflict=False),
        second=cube_task(blocks, context=loads.CONTEXT, conflict=False, after=["first"]),
    )
    return _run(folder, workers)


def smooth(folder: Path, load: smoothing.Smoothing, *, workers: int) -> Took:
    """Run the smoothing load; its arrays are prepared before the clock starts."""
    load.prepare()
    params = {
        "source": str(load.source),
        "target": str(load.target),
        "size": load.size,
        "block": load.block,
        "chunk": load.chunk,
        "sigma": load.sigma,
    }
    task = {
        "function": "functions:Smooth",
        "params": params,
        "roi": {"offset": [0] * 3, "shape": [load.size] * 3},
        "block_size": [load.block] * 3,
        "context": load.context,
        "conflict": False,
        "max_workers": workers,
    }
    describe(folder, SMOOTH.format(peers=str(HERE / "peers")), smooth=task)
    return _run(folder, workers)


def failing(folder: Path, store: Path, *, retries: int, workers: int) -> Took:
    """Run blocks half of whose attempts fail; those that fail for good are what it is about."""
    size, block = failing_load.SIDE, failing_load.BLOCK
    task = {
        "function": "functions:smooth",
        "params": {"store": str(store)},
        "roi": {"offset": [0, 0], "shape": [size, size]},
        "block_size": [block, block],
        "context": failing_load.CONTEXT,
        "conflict": False,
        "retries": retries,
    }
    describe(folder, FAILING.format(peers=str(HERE / "peers")), smooth=task)
    words = ("snakemake-blocks", "run", "pipeline.yaml", "--cores", str(workers))
    took = command(*words, folder=folder, right=(0, 1))
    done = failing_load.blocks_done(str(store))
    words = ("snakemake-blocks", "status", "blocks", "--json")
    told = json.loads(command(*words, folder=folder, right=(0, 1)).output)
    assert done == told["tasks"]["smooth"]["done"] > 0, (done, told)
    return took


def again(folder: Path, *, workers: int) -> Took:
    """Run what is done."""
    return _run(folder, workers)


def one_block_jobs(folder: Path, *, blocks: int, workers: int) -> tuple[Took, Took]:
    """Return what one-block jobs cost through plain Snakemake, and what one such job does."""
    took = []
    for shape in ([1, 1, 1], [blocks // 400, 20, 20]):
        place = folder / f"{shape[0]}"
        task = cube_task(1, context=0, conflict=False, blocks_per_job=1)
        task["roi"]["shape"] = [n * loads.WRITE for n in shape]
        describe(place, NOTHING, nothing=task)
        command("snakemake-blocks", "generate", "pipeline.yaml", folder=place)
        words = ("--profile", PROFILE, "--cores", str(workers), "--quiet", "all")
        took.append(command("snakemake", *words, folder=place))
        command("snakemake-blocks", "verify", "blocks", folder=place)
    return took[1], took[0]


def _run(folder: Path, workers: int) -> Took:
    took = command(
        "snakemake-blocks", "run", "pipeline.yaml", "--cores", str(workers), folder=folder
    )
    command("snakemake-blocks", "verify", "blocks", folder=folder)
    return took
