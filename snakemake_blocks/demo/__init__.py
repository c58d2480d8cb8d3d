"""The demo: a real picture through a two-task pipeline, checked against whole-image results."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.commands.generate import Options, load_plan
from snakemake_blocks.commands.run import exit_status, run_pipeline
from snakemake_blocks.errors import InputError

__all__ = ["check_demo", "run_demo", "write_demo"]

_FILES = ("pipeline.yaml", "functions.py")


def write_demo(folder: Path) -> Path:
    """Write pipeline, functions and picture to ``folder``; return the pipeline's path.

    Raises
    ------
    InputError
        If the folder holds other files of these names, or scikit-image is missing.
    """
    try:
        from skimage.data import astronaut
    except ModuleNotFoundError as error:
        raise InputError(
            f"the demo needs {error.name}; install it with: pip install 'snakemake-blocks[demo]'"
        ) from None
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; choose another folder")
    contents = {folder / n: files(__package__).joinpath(n).read_bytes() for n in _FILES}
    for path, content in contents.items():
        if path.exists() and path.read_bytes() != content:
            raise InputError(f"{path}: is not the demo's; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_bytes(content)
    if not (folder / "sample.zarr" / "raw").exists():
        picture = np.moveaxis(astronaut(), -1, 0).astype(np.float32) / 255
        _write_picture(folder / "sample.zarr", picture)
    return folder / "pipeline.yaml"


def _write_picture(store: Path, picture: NDArray[np.float32]) -> None:
    import zarr

    array = zarr.open_group(str(store), mode="a").create_array(
        "raw", shape=picture.shape, chunks=(3, 64, 64), dtype=picture.dtype
    )
    array[:] = picture
    array.attrs.update(
        offset=[0, 0],
        voxel_size=[1, 1],
        axis_names=["c", "y", "x"],
        types=["channel", "space", "space"],
        units=["", ""],
    )


def run_demo(folder: Path, *, cores: int, echo: Callable[[str], Any]) -> int:
    """Write and run the demo, print summary and self-check, draw the picture.

    Returns
    -------
    int
        Exit status: 0 if every block is done and the self-check holds.
    """
    from rich.console import Console

    from snakemake_blocks.view.plots import draw_demo
    from snakemake_blocks.view.report import print_status

    began = time.monotonic()
    pipeline = write_demo(folder)
    echo(f"running {pipeline} on {cores} cores")
    status, state = run_pipeline(pipeline, Options(cores=cores, quiet=True))
    print_status(state, Console())
    code = exit_status(status, state)
    if code:
        return code
    good = check_demo(folder, echo)
    plan, _ = load_plan(folder)
    picture = folder / "demo.png"
    draw_demo(plan, _arrays(folder), picture)
    echo(f"picture: {picture}")
    echo(f"took {time.monotonic() - began:.1f} s; try: cd {folder} && snakemake --rulegraph")
    return 0 if good else 1


def _arrays(folder: Path) -> dict[str, NDArray[Any]]:
    import zarr

    group = zarr.open_group(str(folder / "sample.zarr"), mode="r")
    return {name: np.asarray(group[name]) for name in ("raw", "smoothed", "objects")}


def check_demo(folder: Path, echo: Callable[[str], Any]) -> bool:
    """Compare the blockwise results with what the whole image gives, and say so."""
    from skimage.filters import gaussian

    arrays = _arrays(folder)
    whole = gaussian(arrays["raw"], sigma=5.0, channel_axis=0, mode="reflect", truncate=4)
    inner = np.s_[:, 20:-20, 20:-20]
    error = float(np.abs(arrays["smoothed"][inner] - whole[inner]).max())
    smooth_ok = error <= 1e-5
    echo(
        f"self-check: smoothing differs from the whole image by {error:.1e} at most away from "
        f"the border (limit 1e-5): {_verdict(smooth_ok)}"
    )
    objects = arrays["objects"]
    changes = _label_changes(objects, 128)
    found = len(np.unique(objects)) - 1
    labels_ok = changes == 0 and found > 0
    echo(
        f"self-check: {found} objects, {changes} label changes across block borders: "
        f"{_verdict(labels_ok)}"
    )
    return smooth_ok and labels_ok


def _label_changes(objects: NDArray[Any], block: int) -> int:
    """Return how many neighbouring object pixels on two sides of a border differ in label."""
    changes = 0
    for axis in range(objects.ndim):
        moved = np.moveaxis(objects, axis, 0)
        for border in range(block, moved.shape[0], block):
            before, after = moved[border - 1], moved[border]
            changes += int(((before > 0) & (after > 0) & (before != after)).sum())
    return changes


def _verdict(good: bool) -> str:
    return "ok" if good else "FAILED"
