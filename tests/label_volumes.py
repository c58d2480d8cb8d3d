"""Label random volumes as users do, some of them killed meanwhile, and compare with scipy.

    python tests/label_volumes.py --volumes 1000 --kills 100

Volumes have one to four axes, are masks or labels, and are cut into blocks and jobs of any size,
with and without a mask of blocks. Each is labelled twice with other blocks: the values have to be
those of `scipy.ndimage.label`, to the digit, so their digests are equal. Those that are killed run
by `snakemake-blocks run`, of which all processes get SIGKILL at any time, and run again to the end.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cc3d  # noqa: F401  # what workers import, who are forked from here
import numpy as np
import pyarrow  # noqa: F401
import yaml
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csgraph  # noqa: F401

import snakemake_blocks.operations.label  # noqa: F401
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.job import work_sentinel

COMMAND = [str(Path(sys.executable).parent / "snakemake-blocks")]
SIDES = {1: 3000, 2: 90, 3: 30, 4: 12}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=100, help="volumes whose runs are killed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    wrong = killed = 0
    for number in range(arguments.volumes):
        is_killed = number % max(1, arguments.volumes // max(1, arguments.kills)) == 0
        is_killed &= killed < arguments.kills
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            case = Case(Path(folder), chance)
            problem, times = case.problem(is_killed=is_killed)
        killed += times > 0
        if problem:
            wrong += 1
            print(f"volume {number}: {problem}: {case.told}", flush=True)
        if number % 50 == 49:
            print(f"{number + 1} volumes, {killed} of them killed, {wrong} wrong", flush=True)
    print(f"{arguments.volumes} volumes, {killed} of them killed, {wrong} wrong")
    return int(wrong > 0 or killed < arguments.kills)


class Case:
    """A volume, and a way to label it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.ndim = chance.randint(1, 4)
        shape = [chance.randint(1, SIDES[self.ndim]) for _ in range(self.ndim)]
        self.connectivity = chance.randint(1, self.ndim)
        self.kind = chance.choice(["mask", "labels"])
        noise = np.random.default_rng(chance.getrandbits(32)).random(shape)
        smooth = ndimage.gaussian_filter(noise, chance.choice([0, 0.6, 1.5]))
        levels = np.quantile(smooth, chance.choice([[0.3], [0.5], [0.8], [0.4, 0.6], [0.2, 0.9]]))
        self.values = np.digitize(smooth, levels).astype(
            chance.choice(["uint8", "int32", "uint64"])
        )
        chunks = [chance.randint(1, n) if chance.random() < 0.5 else n for n in shape]
        while np.prod([-(-n // c) for n, c in zip(shape, chunks, strict=True)]) > 200:
            chunks = [min(n, 2 * c) for n, c in zip(shape, chunks, strict=True)]
        group = zarr.open_group(folder / "s.zarr", mode="a")
        array = group.create_array("in", shape=shape, chunks=chunks, dtype=self.values.dtype)
        array[...] = self.values
        self.told: dict[str, Any] = {}

    def expected(self) -> NDArray[Any]:
        structure = ndimage.generate_binary_structure(self.ndim, self.connectivity)
        if self.kind == "mask":
            return ndimage.label(self.values != 0, structure)[0]
        found, count = np.zeros(self.values.shape, np.int64), 0
        for value in np.unique(self.values[self.values != 0]):
            labels, more = ndimage.label(self.values == value, structure)
            found[labels > 0] = labels[labels > 0] + count
            count += more
        names, first, places = np.unique(found, return_index=True, return_inverse=True)
        first[names == 0] = -1
        ranks = np.argsort(np.argsort(first))
        return (ranks + (0 if (names == 0).any() else 1))[places].reshape(found.shape)

    def form(self) -> dict[str, Any]:
        chance, shape = self.chance, self.values.shape
        size = [chance.randint(1, n) for n in shape]
        while np.prod([-(-n // w) for n, w in zip(shape, size, strict=True)]) > 16:
            size = [min(n, w + 1 + n // 8) for n, w in zip(shape, size, strict=True)]
        form = {
            "use": "label",
            "reads": {self.kind: "s.zarr/in"},
            "writes": {"labels": {"array": "s.zarr/out"}},
            "block_size": {"voxels": size},
            "params": {"connectivity": self.connectivity},
            "blocks_per_job": chance.choice(["auto", 3, 5, 16, 16]),
            "workers": chance.choice([1, 1, 2]),
        }
        if chance.random() < 0.3:
            form["mask"] = "s.zarr/in"
        return form

    def problem(self, *, is_killed: bool) -> tuple[str, int]:
        """Return what is wrong, empty if nothing is, and how often it was killed."""
        expected, digests, kills = self.expected(), set(), 0
        if not self.values.any():
            return "", 0
        for _ in range(2):
            self.told = self.form()
            text = yaml.safe_dump({"tasks": {"cells": self.told}})
            (self.folder / "pipeline.yaml").write_text(text)
            if is_killed:
                kills += self._killed()
            else:
                self._in_process()
            found = np.asarray(zarr.open_array(self.folder / "s.zarr/out")[...])
            if not np.array_equal(found, expected):
                return f"{(found != expected).sum()} voxels differ", kills
            digests.add(hashlib.sha256(found.astype("<u8").tobytes()).hexdigest())
            for name in ("blocks", "s.zarr/out"):
                shutil.rmtree(self.folder / name)
        return "" if len(digests) == 1 else "digests differ", kills

    def _in_process(self) -> None:
        plan, _ = generate(self.folder / "pipeline.yaml")
        for name in plan.tasks:
            jobs = [Path(job.sentinel) for job in plan.jobs(name)]
            self.chance.shuffle(jobs)
            for path in jobs:
                assert work_sentinel(path, attempt=1, environment={}) == 0
        assert verify_run(plan, plan.paths.root).missing == ()

    def _killed(self) -> int:
        """Run it, kill it once or twice, and run it to the end; return how often it was killed."""
        kills = 0
        run = [*COMMAND, "run", "pipeline.yaml", "--cores", "2"]
        for _ in range(self.chance.choice([1, 2])):
            going = subprocess.Popen(
                run,
                cwd=self.folder,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            end = time.monotonic() + self.chance.uniform(1.5, 6)
            while time.monotonic() < end and going.poll() is None:
                time.sleep(0.02)
            if going.poll() is None:
                os.killpg(going.pid, signal.SIGKILL)
                kills += 1
            going.wait()
        for _ in range(3):  # locks of processes that end just now
            done = subprocess.run(run, cwd=self.folder, capture_output=True, text=True)
            if done.returncode == 0:
                break
            time.sleep(2)
        assert done.returncode == 0, done.stdout + done.stderr
        root = self.folder / "blocks"
        assert verify_run(Plan.load(root), root).missing == ()
        return kills


if __name__ == "__main__":
    sys.exit(main())
