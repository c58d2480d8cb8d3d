"""Connected components of a mask of random blobs, beside others.

    python benchmarks/label.py --side 1024 --dask PYTHON --igneous PYTHON
    python benchmarks/label.py --pairs 100000000      # the merge alone, of pairs that are made up

In one run: `use: label` with two workers; dask-image with two threads, stored as Zarr; `igneous
image ccl auto` with two processes, from and to precomputed; cc3d of the whole volume in memory. The
others are skipped where no interpreter is named that has them. Counts of components have to agree.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr
from scipy import ndimage
from watched import watched

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
CHUNK = 128
PIPELINE = """
tasks:
  cells:
    use: label
    reads: {{mask: s.zarr/mask}}
    writes: {{labels: s.zarr/cells}}
    block_size: {{voxels: {block}}}
"""
DASK = """
import sys, dask, dask.array as da, zarr
from dask_image.ndmeasure import label
with dask.config.set(scheduler="threads", num_workers=2):
    mask = da.from_zarr("s.zarr/mask")
    labels, count = label(mask)
    da.to_zarr(labels, "s.zarr/dask", zarr_format=3)
    print(int(count.compute()))
"""
TO_PRECOMPUTED = """
import numpy as np
from cloudvolume import CloudVolume
mask = np.load("s.npy", mmap_mode="r")
info = CloudVolume.create_new_info(1, "image", "uint8", "raw", (1, 1, 1), (0, 0, 0),
                                   mask.shape, (128, 128, 128))
volume = CloudVolume("file://s.precomputed", info=info, compress=False, progress=False)
volume.commit_info()
for z in range(0, mask.shape[0], 128):
    volume[z:z + 128] = mask[z:z + 128][..., None]
"""
COUNT = """
import numpy as np
from cloudvolume import CloudVolume
volume = CloudVolume("file://s.labels", progress=False)
found = set()
for z in range(0, volume.shape[0], 128):
    found |= set(np.unique(volume[z:z + 128]).tolist())
print(len(found - {0}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=1024, help="voxels per axis")
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=0, help="merge that many pairs alone")
    parser.add_argument("--dask", type=Path, help="interpreter that has dask-image")
    parser.add_argument("--igneous", type=Path, help="interpreter that has igneous-pipeline")
    options = parser.parse_args()
    if options.pairs:
        merge_alone(options.pairs)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.side)
        (folder / "pipeline.yaml").write_text(PIPELINE.format(block=options.block))
        run = [BIN / "snakemake-blocks", "run", "pipeline.yaml", "--cores", "2"]
        mine = watched(run, folder)
        count = int(max(part.max() for part in slabs(folder / "s.zarr/cells")))
        print(f"snakemake-blocks  {mine}; {count:,} components", flush=True)
        print(f"cc3d in memory    {in_memory(folder, count)}", flush=True)
        if options.dask:
            other = watched([options.dask, "-c", DASK], folder)
            compare("dask-image", other, mine, said(folder), count)
        if options.igneous:
            mask = np.concatenate(list(slabs(folder / "s.zarr/mask")))
            np.save(folder / "s.npy", mask)
            subprocess.run([options.igneous, "-c", TO_PRECOMPUTED], cwd=folder, check=True)
            tool = options.igneous.parent / "igneous"
            words = [
                "-p",
                "2",
                "image",
                "ccl",
                "auto",
                "--threshold-gte",
                "1",
                "file://s.precomputed",
            ]
            other = watched([tool, *words, "file://s.labels"], folder)
            done = subprocess.run(
                [options.igneous, "-c", COUNT],
                cwd=folder,
                check=True,
                capture_output=True,
                text=True,
            )
            compare("igneous ccl auto", other, mine, int(done.stdout.split()[-1]), count)


def make(folder: Path, side: int) -> None:
    """Store a mask of blobs, about 40 % of the volume, in chunks."""
    random = np.random.default_rng(0)
    group = zarr.open_group(folder / "s.zarr", mode="a")
    mask = group.create_array("mask", shape=(side,) * 3, chunks=(CHUNK,) * 3, dtype="uint8")
    for z in range(0, side, CHUNK):
        depth = min(CHUNK, side - z)
        noise = random.random((depth, side, side), np.float32)
        smooth = ndimage.gaussian_filter(noise, 4, mode="wrap")
        mask[z : z + depth] = smooth > 0.504


def slabs(path: Path) -> Iterator[np.ndarray]:
    array = zarr.open_array(path, mode="r")
    for z in range(0, array.shape[0], CHUNK):
        yield np.asarray(array[z : z + CHUNK])


def in_memory(folder: Path, count: int) -> str:
    import cc3d

    mask = np.concatenate(list(slabs(folder / "s.zarr/mask")))
    begin = time.perf_counter()
    labels, found = cc3d.connected_components(mask, connectivity=6, return_N=True)
    seconds = time.perf_counter() - begin
    assert found == count, f"{found} components, ours are {count}"
    at = 0
    for part in slabs(folder / "s.zarr/cells"):
        assert np.array_equal(part, labels[at : at + len(part)]), "numbers differ"
        at += len(part)
    return f"{seconds:7.1f} s without reading and writing; its numbers are ours"


def said(folder: Path) -> int:
    return int((folder / "watched.log").read_text().split()[-1])


def compare(who: str, other: object, mine: object, found: int, count: int) -> None:
    ratio = mine.seconds / other.seconds  # type: ignore[attr-defined]
    print(f"{who:<17} {other}; ours / theirs {ratio:.2f}", flush=True)
    assert found == count, f"{who}: {found:,} components, ours are {count:,}"


def merge_alone(count: int) -> None:
    """Merge pairs of components of 128 blocks per axis and more, in a process of its own."""
    script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import label; label.made_up({count})"
    with tempfile.TemporaryDirectory() as name:
        took = watched([sys.executable, "-c", script], Path(name))
        print((Path(name) / "watched.log").read_text(), end="")
    print(f"{count:,} pairs: {took}")


def made_up(count: int) -> None:
    """Merge a chain of blocks in which each component touches some of the next block."""
    from snakemake_blocks.operations.label import merge

    each = 4000  # components of a block
    blocks = max(2, count // (2 * each))
    ids = np.arange(1, each + 1, dtype=np.uint64)

    def counts() -> Iterator[pa.Table]:
        numbers = np.arange(blocks, dtype=np.uint64)
        yield pa.table({"block": numbers, "count": np.full(blocks, each, np.uint32)})

    def firsts() -> Iterator[pa.Table]:
        for block in range(blocks):
            yield pa.table({"first": np.uint64(block * each) + ids})

    def pairs() -> Iterator[pa.Table]:
        random = np.random.default_rng(0)
        for block in range(blocks - 1):
            here, there = (np.uint64(b) << np.uint64(32) for b in (block, block + 1))
            a = np.concatenate([ids, ids])
            b = random.integers(1, each + 1, 2 * each, dtype=np.uint64)
            yield pa.table({"a": here | a, "b": there | b})

    begin = time.perf_counter()
    found = merge(counts(), firsts(), pairs(), (blocks,), (1,))["ids"]["id"]
    print(
        f"{len(found):,} components of {blocks:,} blocks are {found.max():,}, "
        f"{time.perf_counter() - begin:.1f} s"
    )


if __name__ == "__main__":
    main()
