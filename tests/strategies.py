"""Random geometry, masks and pipelines, small enough for the oracle to look at every pair."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import oracle
from funlib.geometry import Roi
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Axis, Fit, Grid
from snakemake_blocks.plan.dependencies import JobGrid
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Write
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Chunks, Task

FUNCTION = "os.path:join"
"""Stands for a user's function: planning looks it up and never calls it."""

MOST_BLOCKS = {1: 16, 2: 7, 3: 4, 4: 3}
"""Blocks along an axis, by number of axes."""


_NDIM = st.integers(1, 4)


@dataclass(frozen=True, slots=True)
class AxisCase:
    """How a user describes one axis."""

    begin: int
    length: int
    step: int
    lower: int
    upper: int
    fit: str

    @property
    def end(self) -> int:
        """One past the last coordinate to write."""
        return self.begin + self.length

    @property
    def axis(self) -> Axis:
        """Our tiling."""
        return Axis.from_extent(
            self.begin,
            self.end,
            step=self.step,
            lower=self.lower,
            upper=self.upper,
            fit=Fit(self.fit),
        )

    @property
    def blocks(self) -> list[tuple[frozenset[int], frozenset[int]]]:
        """The oracle's tiling."""
        return oracle.axis_blocks(
            self.begin,
            self.end,
            step=self.step,
            lower=self.lower,
            upper=self.upper,
            fit=self.fit,
        )


@st.composite
def axis_cases(
    draw: DrawFn, *, most: int = 9, fit: str | None = None, empty: bool = True
) -> AxisCase:
    """Draw an axis of up to ``most`` blocks, with contexts of up to three blocks on either side."""
    step = draw(st.integers(1, 5))
    context = st.integers(0, 3 * step)
    fit = fit or draw(st.sampled_from([f.value for f in Fit]))
    least = 0 if empty else step if fit == "valid" else 1
    return AxisCase(
        begin=draw(st.integers(-20, 20)),
        length=draw(st.integers(least, most * step)),
        step=step,
        lower=draw(context),
        upper=draw(context),
        fit=fit,
    )


@dataclass(frozen=True, slots=True)
class GridCase:
    """How a user describes a grid: one fit, everything else per axis."""

    axes: tuple[AxisCase, ...]

    @property
    def fit(self) -> str:
        """The fit of all axes."""
        return self.axes[0].fit

    @property
    def grid(self) -> Grid:
        """Our tiling."""
        return Grid(tuple(a.axis for a in self.axes))

    @property
    def blocks(self) -> dict[Index, oracle.Block]:
        """The oracle's tiling."""
        return oracle.grid_blocks([a.blocks for a in self.axes])

    @property
    def rois(self) -> tuple[Roi, Roi, Roi]:
        """Total read Roi, and the read and write Roi of some block, as daisy wants them."""
        total = Box(
            tuple(a.begin - a.lower for a in self.axes),
            tuple(a.end + a.upper for a in self.axes),
        )
        read = Box.from_shape([a.lower + a.step + a.upper for a in self.axes])
        write = Roi([a.lower for a in self.axes], [a.step for a in self.axes])
        return total.to_roi(), read.to_roi(), write

    def task(self, name: str, **more: object) -> Task:
        """Return a Python task with this geometry."""
        return Task(name, *self.rois, FUNCTION, fit=self.fit, **more)  # type: ignore[arg-type]


@st.composite
def grid_cases(draw: DrawFn, *, ndim: SearchStrategy[int] = _NDIM, empty: bool = True) -> GridCase:
    """Draw a grid of up to four axes; one in ten has no block, unless ``empty`` is false."""
    axes = draw(ndim)
    fit = draw(st.sampled_from([f.value for f in Fit]))
    empty = empty and draw(st.integers(0, 9)) == 9
    some = axis_cases(most=MOST_BLOCKS[axes], fit=fit, empty=empty)
    return GridCase(tuple(draw(some) for _ in range(axes)))


def masks(shape: Index) -> SearchStrategy[NDArray[np.bool_]]:
    """Return masks of a grid, from nothing present to everything."""
    size = math.prod(shape)
    return st.lists(st.booleans(), min_size=size, max_size=size).map(
        lambda present: np.array(present, dtype=bool).reshape(shape)
    )


def batches(shape: Index) -> SearchStrategy[Index]:
    """Return blocks per job for a grid, some beyond its borders."""
    return st.tuples(*(st.integers(1, n + 1) for n in shape))


def regions(case: GridCase) -> SearchStrategy[Box]:
    """Return boxes in and around a grid, some of them empty."""
    corners = [(a.begin - 2 * a.step, a.end + 2 * a.step) for a in case.axes]
    point = st.tuples(*(st.integers(low, high) for low, high in corners))
    return st.builds(Box, point, point)


@st.composite
def job_grids(draw: DrawFn, case: GridCase) -> JobGrid:
    """Draw batches and, half of the time, a mask for a grid."""
    grid = case.grid
    present = draw(st.none() | masks(grid.shape))
    return JobGrid(grid, draw(batches(grid.shape)), present)


@st.composite
def outputs(draw: DrawFn, case: GridCase, name: str) -> dict[str, Write]:
    """Draw no array to write, or one whose chunks have little to do with the blocks."""
    if draw(st.booleans()):
        return {}

    def chunk(step: int) -> int:
        return draw(st.sampled_from([step, 2 * step, 3 * step]) | st.integers(1, 3 * step))

    array = ArrayInfo(
        path=f"{name}.zarr",
        offset=tuple(a.begin - draw(st.just(0) | st.integers(0, 5)) for a in case.axes),
        voxel_size=(1,) * len(case.axes),
        shape=tuple(a.length + 20 for a in case.axes),
        channels=draw(st.sampled_from([(), (3,)])),
        dtype="uint8",
        chunks=tuple(chunk(a.step) for a in case.axes),
    )
    return {"out": Write(replace(array, chunks=array.channels + array.chunks))}


@st.composite
def pipelines(draw: DrawFn, *, most: int = 4) -> tuple[Pipeline, dict[str, GridCase]]:
    """Draw up to ``most`` tasks that read from one another: chains, diamonds, or apart."""
    ndim = draw(st.integers(1, 3))
    cases: dict[str, GridCase] = {}
    tasks: list[Task] = []
    for name in "abcd"[: draw(st.integers(1, most))]:
        case = cases[name] = draw(grid_cases(ndim=st.just(ndim), empty=False))
        shape = case.grid.shape
        upstream = draw(st.lists(st.sampled_from(tasks), unique_by=id)) if tasks else []
        tasks.append(
            case.task(
                name,
                read_write_conflict=draw(st.booleans()),
                present=draw(st.none() | masks(shape)),
                blocks_per_job=draw(st.just("auto") | st.integers(1, 9) | batches(shape)),
                upstream_tasks=upstream,
                writes=draw(outputs(case, name)),
                chunks=draw(st.sampled_from(list(Chunks))),
            )
        )
    folder = Path("somewhere")
    pipeline = Pipeline.from_tasks(
        draw(st.permutations(tasks)), folder=folder, run_directory=folder / "blocks"
    )
    return pipeline, cases


def index_of(region: NDArray[np.bool_]) -> list[Index]:
    """Return the indices at which a mask is true."""
    return [tuple(map(int, i)) for i in np.argwhere(region)]
