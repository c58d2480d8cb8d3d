"""All levels below an image, beside igneous and ngff-zarr.

    python benchmarks/pyramid.py                          # 512 x 1024 x 1024 of uint8
    python benchmarks/pyramid.py --size 1024 2048 2048 --dtype uint16 --repeats 1

The image is a texture with noise, in chunks of 64^3. All take means of 2 x 2 x 2 voxels, with two
workers, and are measured as whole processes, start included: `snakemake-blocks run`, `igneous image
downsample`, and a script for ngff-zarr, whose command line would write the image once more. Images
are zstd-compressed by zarr, those of igneous by gzip, as it does by itself, and once more not at
all. igneous makes three levels, the others as many as there are until one fits into a chunk. Memory
is that of the largest process. Peers get environments of their own; one that cannot be installed is
left out. Our levels are compared with those of the whole array, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ours  # isort: skip  (finds the peers' modules)
import run
import zarr
from numpy.typing import NDArray

HERE = Path(__file__).parent.resolve()
CHUNK = 64
# Of the texture: mean, contrast, noise.
GREY = {"uint8": (110, 28, 4), "uint16": (9000, 3000, 300)}
TILE = (128, 256, 256)
PIPELINE = """
tasks:
  levels:
    use: pyramid
    reads: {image: image.ome.zarr/0}
"""


def texture(shape: tuple[int, ...], dtype: str, file: Path) -> None:
    """Store a volume that looks a little like one of a microscope."""
    from scipy import ndimage

    rng = np.random.default_rng(0)
    tile = ndimage.gaussian_filter(rng.standard_normal(TILE, np.float32), (2, 3, 3), mode="wrap")
    tile = (tile - tile.mean()) / tile.std()
    mean, contrast, noise = GREY[dtype]
    whole = np.lib.format.open_memmap(file, "w+", dtype, shape)
    for begin in np.ndindex(*(-(-n // t) for n, t in zip(shape, TILE, strict=True))):
        place = tuple(k * t for k, t in zip(begin, TILE, strict=True))
        part = whole[tuple(slice(b, b + t) for b, t in zip(place, TILE, strict=True))]
        grey = np.roll(tile, [b // 7 for b in place], (0, 1, 2)) * contrast + mean
        grey += rng.standard_normal(TILE, np.float32) * noise
        inside = tuple(map(slice, part.shape))
        part[...] = np.clip(grey, 0, np.iinfo(dtype).max)[inside]


def store(file: Path, target: Path, name: str = "0") -> None:
    """Store the volume as an OME-Zarr image of one level, and what the group says beside it."""
    whole = np.load(file, mmap_mode="r")
    group = zarr.open_group(target, mode="w", zarr_format=3)
    array = group.create_array(
        name,
        shape=whole.shape,
        dtype=whole.dtype,
        chunks=(CHUNK,) * 3,
        dimension_names=list("zyx"),
    )
    for z in range(0, len(whole), CHUNK):
        array[z : z + CHUNK] = whole[z : z + CHUNK]
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [10.0, 10.0, 10.0]}]
    datasets = [{"path": name, "coordinateTransformations": scale}]
    multiscales = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    shutil.copy(target / "zarr.json", target.with_suffix(".json"))


def halved(fine: NDArray[Any]) -> NDArray[Any]:
    """Return the next level of a whole array: means of cells of what is there, exactly."""
    total: NDArray[Any] = fine.astype(np.uint32)
    count = np.ones_like(total, shape=(1,) * fine.ndim)
    for axis, side in enumerate(fine.shape):
        cuts = range(0, side, 2)
        total = np.add.reduceat(total, cuts, axis=axis)
        sizes = np.diff([*cuts, side]).astype(np.uint32)
        count = count * sizes.reshape([-1 if a == axis else 1 for a in range(fine.ndim)])
    return np.rint(total / count).astype(fine.dtype)  # exact in float64; halves to even


def check(file: Path, image: Path) -> None:
    """Compare all levels with those of the whole array."""
    level, number = np.load(file), 0
    while max(level.shape) > CHUNK:
        level, number = halved(level), number + 1
        found = zarr.open_array(image / str(number), mode="r")[...]
        assert found.shape == level.shape and found.dtype == level.dtype
        assert np.array_equal(found, level), f"level {number} is another"
    assert not (image / str(number + 1)).exists()
    print(f"{number} levels of {image.name} have the bytes of those of the whole array", flush=True)


def measured(words: list[str | Path], folder: Path) -> tuple[float, float, float]:
    """Return wall seconds, processor seconds, and MB of the largest process."""
    log = folder / "log.txt"
    begin = time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(words, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{words} failed:\n{log.read_text()}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000


def itself(folder: Path, step: str, *words: object) -> None:
    """Do a step in another process: memory that this one has had would count for its children."""
    subprocess.run([sys.executable, __file__, "--step", step, *map(str, words)], check=True)


def levels_of(image: Path) -> list[Path]:
    """Return the levels that were made."""
    return [p for p in image.iterdir() if p.is_dir() and p.name not in ("0", "scale0")]


def runners(
    folder: Path, options: argparse.Namespace
) -> dict[str, Callable[[], tuple[float, float, float]]]:
    """Return what runs each participant once, from an image without levels."""
    image, workers = folder / "image.ome.zarr", str(options.workers)
    (folder / "pipeline.yaml").write_text(PIPELINE)

    def mine() -> tuple[float, float, float]:
        shutil.rmtree(folder / "blocks", ignore_errors=True)
        fresh(image)
        program = ours.BIN / "snakemake-blocks"
        return measured([program, "run", "pipeline.yaml", "--cores", workers], folder)

    found = {"snakemake-blocks": mine}
    count, side = 0, max(options.size)
    while side > CHUNK:
        count, side = count + 1, -(-side // 2)
    if python := environment("ngff-zarr", options.environments):
        script = HERE / "peers" / "pyramid_ngff.py"
        for method in ("dask_bin_shrink", "itkwasm_bin_shrink"):

            def ngff(python: Path = python, method: str = method) -> Any:
                fresh(folder / "ngff.ome.zarr")
                words = [python, script, folder / "ngff.ome.zarr", count, CHUNK, method, workers]
                return measured([str(w) for w in words], folder)

            found[f"ngff-zarr, {method}"] = ngff
    if python := environment("igneous", options.environments):
        program = python.parent / "igneous"
        for compression in ("gzip", "none"):
            target = folder / compression
            prepare = HERE / "peers" / "pyramid_igneous.py"
            words = [python, prepare, folder / "whole.npy", target, CHUNK, compression]
            subprocess.run([str(w) for w in words], check=True, capture_output=True)

            def igneous(target: Path = target, compression: str = compression) -> Any:
                for level in target.iterdir():
                    if level.is_dir() and level.name != "10_10_10":
                        shutil.rmtree(level)
                words = [program, "-p", workers, "image", "downsample", f"file://{target}"]
                words += ["--volumetric", "--num-mips", "3", "--compress", compression]
                return measured(words, folder)

            found[f"igneous, {compression}"] = igneous
    return found


def fresh(image: Path) -> None:
    """Remove all levels but the first, with what metadata say of them."""
    for level in levels_of(image):
        shutil.rmtree(level)
    shutil.copy(image.with_suffix(".json"), image / "zarr.json")


def environment(peer: str, folder: Path) -> Path | None:
    """Return a peer's interpreter, None where it cannot be installed."""
    try:
        return run.environment(peer, folder)
    except (subprocess.CalledProcessError, OSError):
        print(f"{peer} cannot be installed here; it is left out")
        return None


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, nargs=3, default=(512, 1024, 1024))
    parser.add_argument("--dtype", choices=sorted(GREY), default="uint8")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".venv-peers")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.step[1] if options.step else tempfile.mkdtemp())
    file, image = folder / "whole.npy", folder / "image.ome.zarr"
    if options.step:
        if options.step[0] == "check":
            check(file, image)
            return
        texture(tuple(map(int, options.step[3:])), options.step[2], file)
        store(file, image)
        store(file, folder / "ngff.ome.zarr", "scale0/image")  # where ngff-zarr looks for it
        return
    itself(folder, "make", folder, options.dtype, *options.size)
    who = runners(folder, options)
    took: dict[str, list[tuple[float, float, float]]] = {name: [] for name in who}
    for turn in range(options.repeats):
        for name, runner in who.items():
            took[name].append(runner())
            if name == "snakemake-blocks" and not turn:
                itself(folder, "check", folder)
    shape = " x ".join(map(str, options.size))
    print(f"{shape} of {options.dtype}, {options.workers} workers, {os.cpu_count()} cores")
    print("| who | seconds | spread | CPU s | MB of a process | ours / theirs |")
    print("|---|---|---|---|---|---|")
    mine = statistics.median(t for t, _, _ in took["snakemake-blocks"])
    for name, runs in took.items():
        walls, cpus, peaks = zip(*runs, strict=True)
        wall = statistics.median(walls)
        ratio = "" if name == "snakemake-blocks" else f"{mine / wall:.2f}"
        spread, cpu = f"{min(walls):.1f}-{max(walls):.1f}", statistics.median(cpus)
        print(f"| {name} | {wall:.1f} | {spread} | {cpu:.1f} | {max(peaks):.0f} | {ratio} |")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
