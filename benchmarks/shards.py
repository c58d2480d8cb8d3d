"""Files of an array of many blocks of 64^3, with and without shards.

    python benchmarks/shards.py --side 100      # blocks per axis: 10^6 in all; half an hour

Both runs are whole ones: `run`, then `verify`. Every block stores 64^3 voxels of uint8 that
compress to little, so this is about files and what they cost, not about bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import ours
import zarr

FUNCTIONS = """
import numpy as np

BLOCK = np.zeros((64, 64, 64), np.uint8)

def make(block):
    return np.broadcast_to(np.uint8(block.index[-1] % 251), BLOCK.shape)
"""
BLOCK = 64


def files_in(folder: Path) -> int:
    """Return the number of files in a folder and all below it."""
    return sum(len(names) for _, _, names in os.walk(folder))


def measure(folder: Path, side: int, more: dict[str, object]) -> tuple[int, int, float, float]:
    """Return files of the array and of the run, seconds of `run` and of `verify`."""
    zarr.create_array(
        folder / "raw.zarr", shape=(BLOCK * side,) * 3, chunks=(640,) * 3, dtype="uint8"
    )
    task = {
        "function": "functions:make",
        "call": "arrays",
        "writes": {"out": {"array": "out.zarr", "dtype": "uint8", "chunks": BLOCK, **more}},
        "roi": "raw.zarr",
        "block_size": {"voxels": BLOCK},
    }
    ours.describe(folder, FUNCTIONS, make=task)
    program, cores = "snakemake-blocks", str(os.cpu_count())
    ran = ours.command(program, "run", "pipeline.yaml", "--cores", cores, folder=folder)
    verified = ours.command(program, "verify", "blocks", folder=folder)
    array, run = (files_in(folder / name) for name in ("out.zarr", "blocks"))
    return array, run, ran.seconds, verified.seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=30, help="blocks per axis")
    parser.add_argument("--shards", default="auto", help="auto, or voxels")
    parser.add_argument("--only", choices=("with", "without"), help="one of the two")
    options = parser.parse_args()
    shards = options.shards if options.shards == "auto" else int(options.shards)
    print(f"{options.side**3:,} blocks of {BLOCK}^3, {os.cpu_count()} cores")
    print("| shards | files of the array | of the run | `run`, s | `verify`, s |")
    print("|---|---|---|---|---|")
    for word, more in (("with", {"shards": shards}), ("without", {})):
        if options.only in (None, word):
            folder = Path(tempfile.mkdtemp())
            array, run, *seconds = measure(folder, options.side, more)
            took = " | ".join(f"{s:,.1f}" for s in seconds)
            print(f"| {word} | {array:,} | {run:,} | {took} |", flush=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
