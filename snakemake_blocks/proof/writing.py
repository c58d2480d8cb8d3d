"""Proof that blocks and jobs tile the region, and that what they write has a place."""

from __future__ import annotations

from collections.abc import Sequence

from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.plan.dependencies import JobGrid
from snakemake_blocks.proof.coverage import first_gap
from snakemake_blocks.proof.findings import DEFECT, Subject
from snakemake_blocks.proof.overlaps import as_text
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["check_writing"]


def check_writing(s: Subject) -> None:
    """Prove that blocks and jobs tile the region, and that what they write has a place."""
    task, grid = s.task, s.task.grid
    if grid != s.declared.grid:
        s.refuse("block_size", "the plan is for another tiling; plan again")
        return
    if not all(_tiles(axis) for axis in grid.axes) or not _partitions(task.jobs):
        s.refuse("block_size", f"blocks or jobs miss a part of the roi or overlap; {DEFECT}")
        return
    if task.operation.call.is_once and not task.operation.writes:
        s.prove("it runs once")
        return
    _warn_of_fit(s)
    before = s.refused
    for name, write in task.operation.writes.items():
        array, place = write.array, f"writes.{name}"
        if sum(map(array.meets, task.operation.written)) > 1:
            s.refuse(place, f"every block writes {array.path} twice; name it once")
        if _cuts_voxels(grid, array):
            s.refuse(
                place,
                f"blocks cut voxels of {array.path}, so two blocks would write the same voxel; let "
                f"roi and block_size be multiples of its voxel size {s.sizes(array.voxel_size)}",
            )
        lost = first_gap(task, grid.extent.intersect(s.roi), [array.roi], grid.writing)
        if lost is not None:
            s.refuse(
                place,
                f"{s.span(lost[0])} is written by block {as_text(lost[1])} and lies outside "
                f"of {array.path}, which covers {s.span(array.roi)}; write to another array or "
                "make the roi smaller",
            )
    if s.refused == before:
        masked = f", {task.num_masked:,} masked blocks apart" if task.num_masked else ""
        arrays = task.operation.written
        s.prove(
            f"{task.num_blocks:,} blocks{_voxels_text(grid, arrays)} in {task.num_jobs:,} jobs "
            "write every voxel of "
            f"{s.span(grid.extent.intersect(s.roi))} exactly once{masked}"
        )


def _voxels_text(grid: Grid, arrays: Sequence[ArrayInfo]) -> str:
    """Return how large blocks are in voxels, where these are not of size 1."""
    size = arrays[0].steps if arrays else ()
    if all(v == 1 for v in size):
        return ""
    voxels = (step // v for step, v in zip(grid.block_size, size, strict=True))
    return f" of {' x '.join(map(str, voxels))} voxels"


def _tiles(axis: Axis) -> bool:
    """Tell whether the write intervals of an axis follow one another from begin to end.

    Both ends of an interval are linear in the index, but for the cut of the last one: what holds
    for the first two and for the last two holds for all.
    """
    n = len(axis)
    spans = {k: axis.write(k) for k in (0, 1, n - 2, n - 1) if 0 <= k < n}
    return (
        n > 0
        and (spans[0][0], spans[n - 1][1]) == (axis.begin, axis.end)
        and all(low < high for low, high in spans.values())
        and all(spans[k][1] == spans[k + 1][0] for k in spans if k + 1 in spans)
    )


def _partitions(jobs: JobGrid) -> bool:
    """Tell whether every block is in exactly one job, and what the job writes is its blocks'."""
    shape, coarse = jobs.grid.shape, jobs.jobs
    if not all(_tiles(axis) for axis in coarse.axes):
        return False
    corners = [tuple(min(k, n - 1) for n in coarse.shape) for k in (0, 1)]
    corners += [tuple(max(0, n - k) for n in coarse.shape) for k in (2, 1)]
    for job in corners:
        members = jobs.members(job)
        last = tuple(e - 1 for e in members.end)
        hull = jobs.grid.write(members.begin).union(jobs.grid.write(last))
        if hull != coarse.write(job):
            return False
    return jobs.members(corners[0]).begin == (0,) * len(shape) and members.end == shape


def _warn_of_fit(s: Subject) -> None:
    roi, extent = s.roi, s.task.grid.extent
    short = tuple(r - e for r, e in zip(roi.end, extent.end, strict=True))
    if any(x > 0 for x in short):
        s.warn(
            "fit",
            f"valid leaves {s.lengths(max(0, x) for x in short)} at the upper end of "
            f"the roi unwritten: the roi is {s.span(roi)}, written is {s.span(extent)}; use fit: "
            "shrink to write all",
        )
    if any(x < 0 for x in short):
        s.warn(
            "fit",
            f"overhang writes {s.lengths(max(0, -x) for x in short)} beyond the roi: "
            f"the roi is {s.span(roi)}, written is {s.span(extent)}, and what lies outside of an "
            "array is dropped; use fit: shrink to write the roi alone",
        )


def _cuts_voxels(grid: Grid, array: ArrayInfo) -> bool:
    """Tell whether blocks end within voxels, or share the one along an axis that is not stored."""
    sides = zip(grid.axes, array.offset, array.voxel_size, array.places, strict=True)
    return any(
        len(axis) > 1
        if place < 0
        else (axis.begin - o) % v or (axis.end - o) % v or (len(axis) > 1 and axis.step % v)
        for axis, o, v, place in sides
    )
