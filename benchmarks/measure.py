"""A table of 10^5 objects on two workers, beside scikit-image in memory and dask.

    python benchmarks/measure.py --dask ENVIRONMENT/bin/python     # 512^3 voxels; some minutes

``--dask`` is a Python with dask-image, pandas and zarr. dask-image looks through the volume once
for each object and each number, so it gets ``--some`` objects, and what it would take for all is
computed. Every table is compared with ours. Times are those of whole processes; memory is the peak
of the largest one of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

HERE = Path(__file__).parent.resolve()
PEERS = HERE / "peers"
BIN = Path(sys.executable).parent
sys.path.insert(0, str(PEERS))

import cells  # noqa: E402

import snakemake_blocks as sb  # noqa: E402

# What a process has as its peak begins with that of the one that started it, so a small one does.
STARTER = """
import os, sys
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open("usage.txt", "w") as file:
    file.write(f"{usage.ru_utime + usage.ru_stime} {usage.ru_maxrss / 1024}")
sys.exit(os.waitstatus_to_exitcode(status))
"""


def command(*words: str | Path, folder: Path) -> tuple[float, float, float]:
    """Return wall and processor seconds of a command, and its largest process at its peak: MiB."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", STARTER, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - begin
    if done.returncode:
        sys.exit(f"{words[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    cpu, memory = map(float, (folder / "usage.txt").read_text().split())
    return took, cpu, memory


def ours(folder: Path, workers: int, block: int) -> tuple[float, float, float]:
    """Run the operation as a user does."""
    task = {
        "use": "measure",
        "reads": {"labels": "volume.zarr/labels", "image": "volume.zarr/image"},
        "block_size": {"voxels": block},
        "workers": workers,
        "params": {"origin": "center"},
        "tables": {"objects": {"parquet": "cells.parquet"}},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"tasks": {"cells": task}}))
    words = (BIN / "snakemake-blocks", "run", "pipeline.yaml", "--cores", str(workers))
    return command(*words, folder=folder)


def compare(folder: Path, peer: str) -> str:
    """Tell in how many rows a peer's table has our values; all else is an error."""
    table = sb.read_table(folder / "blocks", "cells_table", "objects")
    theirs = np.load(folder / f"{peer}.npz")
    rows = np.searchsorted(table["id"].to_numpy(), theirs["id"].astype(np.uint64))
    for name in theirs.files:
        if name in table.column_names:
            mine = table[name].to_numpy()[rows]
            np.testing.assert_allclose(theirs[name], mine, rtol=1e-9, err_msg=f"{peer} {name}")
    return f"{len(rows):,}"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="voxels per axis")
    parser.add_argument("--block", type=int, default=128, help="voxels of a block per axis")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--some", type=int, default=2, help="objects for dask-image")
    parser.add_argument("--dask", help="a Python with dask-image")
    parser.add_argument("--no-skimage", action="store_true", help="leave scikit-image out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = cells.make(name, options.side)
        print(f"{count:,} objects in {options.side}^3 voxels, {options.workers} workers")
        print("| what | seconds | processor seconds | MiB of the largest process | equal rows |")
        print("|---|---|---|---|---|")
        took, cpu, memory = ours(folder, options.workers, options.block)
        print(f"| snakemake-blocks | {took:.1f} | {cpu:.1f} | {memory:,.0f} | |", flush=True)
        if not options.no_skimage:
            script = PEERS / "measure_skimage.py"
            took, cpu, memory = command(sys.executable, script, name, folder=folder)
            same = compare(folder, "skimage")
            print(f"| scikit-image | {took:.1f} | {cpu:.1f} | {memory:,.0f} | {same} |", flush=True)
        if options.dask:
            script = PEERS / "measure_dask.py"
            took, cpu, memory = command(options.dask, script, name, "blocks", folder=folder)
            same = compare(folder, "dask_blocks")
            print(f"| dask by hand | {took:.1f} | {cpu:.1f} | {memory:,.0f} | {same} |", flush=True)
            some = str(options.some)
            took, cpu, memory = command(options.dask, script, name, "image", some, folder=folder)
            same = compare(folder, "dask_image")
            whole = f"{took / options.some * count / 3600:,.0f} hours for all"
            row = f"| dask-image, {some} objects | {took:.1f} ({whole}) | {cpu:.1f}"
            print(f"{row} | {memory:,.0f} | {same} |")


if __name__ == "__main__":
    main()
