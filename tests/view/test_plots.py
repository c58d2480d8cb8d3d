from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from funlib.geometry import Roi
from matplotlib.figure import Figure
from skimage.io import imread

from snakemake_blocks.errors import InputError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task
from snakemake_blocks.view.plots import draw_plan, draw_tiling


def planned(ndim: int, *, masked: bool = False, blocks: int = 6) -> Plan:
    """Return the plan of a task of some blocks along each of some axes, all in conflict."""
    shape = (blocks,) * ndim
    task = Task(
        "tile",
        Roi((-2,) * ndim, (10 * blocks + 4,) * ndim),
        Roi((0,) * ndim, (14,) * ndim),
        Roi((2,) * ndim, (10,) * ndim),
        "os.path:join",
        present=np.indices(shape).sum(axis=0) % 2 == 0 if masked else None,
        blocks_per_job=1,
    )
    folder = Path()
    return plan_pipeline(Pipeline.from_tasks([task], folder=folder, run_directory=folder), facts={})


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_a_picture_is_drawn_of_any_number_of_axes(ndim: int, masked: bool, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    draw_plan(planned(ndim, masked=masked), picture)
    pixels = imread(picture)
    assert pixels.shape[0] > 100 and pixels.shape[1] > 100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_blocks_are_coloured_by_phase_and_masked_ones_are_grey() -> None:
    task = planned(2, masked=True).tasks["tile"]
    axes = Figure().subplots()
    draw_tiling(axes, task)
    (tiles,) = axes.collections
    colours = tiles.get_facecolor()[:, :3].reshape(6, 6, 3)
    assert task.jobs.present is not None
    assert np.allclose(colours[~task.jobs.present], 0.85)
    seen = {}
    for index in map(tuple, np.argwhere(task.jobs.present)):
        seen.setdefault(task.phases.of(index), set()).add(tuple(colours[index]))
    assert all(len(found) == 1 for found in seen.values())
    assert len(set.union(*seen.values())) == task.num_phases


def test_of_a_huge_tiling_only_the_middle_is_drawn(tmp_path: Path) -> None:
    task = planned(3, blocks=10**6).tasks["tile"]
    axes = Figure().subplots()
    draw_tiling(axes, task)
    assert len(axes.collections[0].get_paths()) == 48 * 48


# faults: kind 12
def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pipeline\.yaml: is not the name of a picture"):
        draw_plan(planned(2), tmp_path / "pipeline.yaml")
    assert not list(tmp_path.iterdir())
