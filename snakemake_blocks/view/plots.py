"""Pictures: tilings coloured by phase, and the demo's result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.plan.plan import Plan, PlannedTask

__all__ = ["draw_demo", "draw_plan"]

_MASKED = "0.85"
# More blocks than this along an axis cannot be told apart; the middle of the slice is drawn.
_MOST_BLOCKS = 48
_PALETTE = [
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99",
]  # fmt: skip


def draw_plan(plan: Plan, path: Path) -> None:
    """Draw a slice of every task's tiling, coloured by phase, into a PNG.

    Raises
    ------
    InputError
        If the path names a file that is no picture.
    """
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise InputError(f"{path}: is not the name of a picture; give one like plan.png")
    tasks = list(plan.tasks.values())
    figure = Figure(figsize=(5.2 * len(tasks), 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        draw_tiling(axes, task)
    figure.savefig(path, dpi=120)


def draw_demo(plan: Plan, arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Draw raw, smoothed, segmented and the segmentation's tiling into a PNG."""
    figure = Figure(figsize=(12, 12.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2).ravel()
    panels[0].imshow(_rgb(arrays["raw"]))
    panels[0].set_title("raw")
    panels[1].imshow(_rgb(arrays["smoothed"]))
    panels[1].set_title("smoothed in blocks of 64 x 64 with a context of 20")
    _, labels = np.unique(arrays["objects"], return_inverse=True)
    colours = ["black", *(_PALETTE[i % len(_PALETTE)] for i in range(labels.max()))]
    panels[2].imshow(
        labels.reshape(arrays["objects"].shape),
        cmap=ListedColormap(colours),
        interpolation="nearest",
    )
    panels[2].set_title("blue objects, labels agreed between neighbouring blocks")
    panels[3].imshow(_rgb(arrays["raw"]), alpha=0.35)
    draw_tiling(panels[3], plan.tasks["segment"])
    figure.savefig(path, dpi=100)


def draw_tiling(axes: Axes, task: PlannedTask) -> None:
    """Draw a slice of a task's blocks by phase, one read Roi and one write Roi.

    The slice lies in the middle of all axes but the last two; a 1-D tiling is drawn as a row.
    """
    grid = task.own_grid
    middle = tuple(n // 2 for n in grid.shape)
    first = tuple(max(0, m - _MOST_BLOCKS // 2) for m in middle)
    blocks = Box(
        first, tuple(min(f + _MOST_BLOCKS, n) for f, n in zip(first, grid.shape, strict=True))
    )
    window = Box(
        middle[:-2] + blocks.begin[-2:], tuple(m + 1 for m in middle[:-2]) + blocks.end[-2:]
    )
    patches, colours = [], []
    for index in window:
        patches.append(_rectangle(grid.write(index)))
        here = task.jobs.present is None or bool(task.jobs.present[index])
        colours.append(
            _PALETTE[task.phases.of(task.job_of(index)) % len(_PALETTE)] if here else _MASKED
        )
    axes.add_collection(
        PatchCollection(patches, facecolors=colours, edgecolors="white", alpha=0.75)
    )
    example = _example(task, window)
    for box, style in ((grid.read(example), "--"), (grid.write(example), "-")):
        axes.add_patch(_rectangle(box, fill=False, edgecolor="black", linewidth=2, linestyle=style))
    region = grid.read(window.begin).union(grid.read(tuple(e - 1 for e in window.end)))
    axes.set_xlim(region.begin[-1], region.end[-1])
    if grid.ndim > 1:
        axes.set_ylim(region.end[-2], region.begin[-2])
    axes.set_aspect("equal" if grid.ndim > 1 else "auto")
    axes.set_title(
        f"{_plain(task.name)}: {task.num_blocks:,} blocks, {task.num_phases} phases\n"
        "one write Roi (solid) and its read Roi (dashed)"
    )


def _plain(name: str) -> str:
    """Return a name such that matplotlib does not read it as mathematics."""
    return name.replace("$", r"\$")


def _example(task: PlannedTask, window: Box) -> Index:
    """Return a present block near the middle of the window."""
    middle = tuple((b + e) // 2 for b, e in zip(window.begin, window.end, strict=True))
    if task.jobs.present is None or task.jobs.present[middle]:
        return middle
    return next((i for i in window if task.jobs.present[i]), middle)


def _rectangle(box: Box, **style: Any) -> Rectangle:
    row = box.begin[-2] if box.ndim > 1 else 0
    height = box.shape[-2] if box.ndim > 1 else 1
    return Rectangle((box.begin[-1], row), box.shape[-1], height, **style)


def _rgb(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a picture of channels first, values 0 to 1, as matplotlib draws it in any version."""
    values = np.clip(np.moveaxis(picture, 0, -1), 0, 1) * 255
    rgb: NDArray[np.uint8] = values.astype(np.uint8)
    return rgb
