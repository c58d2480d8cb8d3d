"""What can be wrong with a task, beside the keys of its operation and its budget."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from funlib.geometry import Roi

from snakemake_blocks.errors import TilingError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.borders import Border
from snakemake_blocks.tasks.dtypes import holds, number_type
from snakemake_blocks.tasks.keys import Problem
from snakemake_blocks.tasks.operation import Call, Read, Write
from snakemake_blocks.tasks.resources import is_resource_name

if TYPE_CHECKING:
    from snakemake_blocks.tasks.task import Task

__all__ = ["array_problems", "geometry_problems", "requires_problems"]


def requires_problems(
    requires: Mapping[str, Any], resources: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield what is wrong with budgets; they are resources, whole numbers under such a name."""
    for name, count in requires.items():
        place = f"requires.{name}"
        if not is_resource_name(name):
            yield place, "cannot be the name of a resource; choose another"
        elif type(count) is not int or count < 0:
            yield place, f"must be a whole number, got {count!r}"
        elif name in resources:
            yield place, "is among resources, too; give it once"


def _is_bounded(roi: Any) -> bool:
    return isinstance(roi, Roi) and not roi.unbounded


def geometry_problems(task: Task) -> list[Problem]:
    """Return what is wrong with the region, the blocks and how many make a job."""
    rois = {"roi": task.total_roi, "context": task.read_roi, "block_size": task.write_roi}
    for name, roi in rois.items():
        if not _is_bounded(roi):
            return [(name, f"must be a bounded Roi, got {roi!r}")]
    found = [
        (name, f"{roi.dims} sizes for a {task.total_roi.dims}-D roi; give one per axis")
        for name, roi in rois.items()
        if roi.dims != task.total_roi.dims
    ]
    if found:
        return found
    if any(w <= 0 for w in task.write_roi.shape):
        return [("block_size", f"sizes must be positive, got {_text(task.write_roi.shape)}")]
    if any(c < 0 for c in task.lower + task.upper):
        return [("context", f"{task.read_roi} does not contain the write Roi {task.write_roi}")]
    try:
        grid = task.grid
    except TilingError as error:
        return [("roi", str(error))]
    if not task.scale.fits(grid):
        unit = f"voxels of {task.scale.array}" if task.scale.array else "world units"
        sizes, region = task.scale.sizes(grid.block_size), task.scale.span(grid.extent)
        text = f"blocks of {sizes} of {region} with their context are no whole {unit}"
        return [("block_size", f"{text}; use sizes that are")]
    blocks = math.prod(-(-(axis.end - axis.begin) // axis.step) for axis in grid.axes)
    if blocks > _MOST_BLOCKS:
        return [
            (
                "block_size",
                f"{task.scale.sizes(grid.block_size)} makes {blocks:.2g} blocks of the region of "
                f"{task.scale.sizes(task.write_extent.shape)}, more than can be planned "
                f"({_MOST_BLOCKS:.0e}); give the sizes of blocks in world units (voxels times "
                "voxel size), or as {voxels: ...}",
            )
        ]
    if blocks == 0:
        return [
            (
                "roi",
                f"no block of {task.scale.sizes(grid.block_size)} fits into "
                f"{task.scale.sizes(task.write_extent.shape)} with fit {task.fit}; use a smaller "
                "block or fit: shrink",
            )
        ]
    if task.present is not None and task.present.shape != grid.shape:
        found.append(
            (
                "present",
                f"tells of {_text(task.present.shape)} blocks, the grid has {_text(grid.shape)}",
            )
        )
    return found + _numbering_problems(task.scale.grid(grid)) + _batch_problems(task, grid)


# Numbers of blocks, and of what lies between them, stay below 2**63.
_MOST_BLOCKS = 2**62


def _numbering_problems(grid: Grid) -> list[Problem]:
    """Ledgers number blocks from the world's origin, with 32 bits for an axis."""
    return [
        (
            "roi",
            f"blocks are numbered {first:,} to {first + len(axis) - 1:,} along axis {a}, more than "
            "32 bits can tell; use larger blocks, or an offset nearer to 0",
        )
        for a, axis in enumerate(grid.axes)
        if (first := axis.begin // axis.step) < -(2**31) or first + len(axis) > 2**31
    ]


def _batch_problems(task: Task, grid: Grid) -> list[Problem]:
    value: Any = task.blocks_per_job
    if isinstance(value, str):
        wrong = value != "auto"
    elif not isinstance(value, Sequence):
        wrong = not isinstance(value, int) or value < 1
    elif len(value) != grid.ndim:
        return [
            ("blocks_per_job", f"{len(value)} counts for a {grid.ndim}-D roi; give one per axis")
        ]
    else:
        wrong = any(x < 1 for x in value)
    return [("blocks_per_job", f"{value!r} is neither auto nor positive")] if wrong else []


def array_problems(task: Task) -> list[Problem]:
    """Return what is wrong with arrays, how blocks lie in them, and with what is made."""
    found, misplaced = [], False
    written = task.operation.written
    for kind in ("reads", "writes"):
        for name, use in getattr(task.operation, kind).items():
            place, array = f"{kind}.{name}", use.array
            if task.operation.call.is_once and isinstance(use, Read):
                continue  # it is opened as a whole
            if not array.exists and number_type(array.dtype) != array.dtype:
                found.append(
                    (f"{place}.dtype", f"{array.dtype!r} is not numpy's name of a type of numbers")
                )
            if array.ndim != task.total_roi.dims:
                found.append(
                    (
                        place,
                        f"{array.path} has {array.ndim} spatial axes, the roi has "
                        f"{task.total_roi.dims}",
                    )
                )
                continue
            outside = _context_problems(task, place, use) if isinstance(use, Read) else []
            misplaced |= bool(outside)
            found += outside or _cut_problems(task, place, use)
            found += _fill_problems(place, use, written) if isinstance(use, Read) else []
    found += [] if misplaced else _multiple_problems(task)
    if task.mask is not None and task.mask.ndim != task.total_roi.dims:
        found.append(
            (
                "mask",
                f"{task.mask.path} has {task.mask.ndim} axes, the roi has {task.total_roi.dims}",
            )
        )
    return found + _result_problems(task)


def _result_problems(task: Task) -> list[Problem]:
    """What a function returns has a place, and rows are known of every block that is done."""
    operation = task.operation
    found = []
    made = (*operation.writes, *operation.tables, *operation.outputs)
    elsewhere = operation.before_block is not None  # rows in a database, which it deletes
    if operation.call in (Call.ARRAYS, Call.ONCE) and not made and not elsewhere:
        needs = f"call: {operation.call} needs at least one array to write, a table or an output"
        found.append(("writes", needs))
    if operation.call.is_once:
        found += [
            (
                f"reads.{name}",
                f"{read.array.path} is written, too; an argument of that name gets it",
            )
            for name, read in operation.own_reads.items()
        ]
    if operation.before_block is not None and operation.call.is_once:
        found.append(("before_block", "call: once has no blocks; remove it"))
    if operation.tables and operation.call is Call.WORKER:
        found.append(("tables", "call: worker returns nothing; use call: block or arrays"))
    if operation.tables and operation.check_before is not None:
        text = "of a block that is found done before it ran no rows are known; give after alone"
        found.append(("check", text))
    twice = operation.tables.keys() & operation.writes.keys()
    found += [(f"tables.{name}", "is the name of an array, too") for name in sorted(twice)]
    return found


def _fill_problems(place: str, read: Read, written: Collection[ArrayInfo]) -> list[Problem]:
    fill: Any = read.fill
    if fill is Border.WRAP and any(map(read.array.meets, written)):
        text = "wrap would show what blocks on the other side write; give a number, or edge"
        return [(f"{place}.fill", text)]
    if fill is None or isinstance(fill, Border):
        return []
    if isinstance(fill, int | float) and holds(read.array.dtype, fill):
        return []
    return [(f"{place}.fill", f"{read.array.dtype} of {read.array.path} cannot hold {fill!r}")]


def _context_problems(task: Task, place: str, read: Read) -> list[Problem]:
    """A context of its own lies inside of the read Roi."""
    if read.context is None:
        return []
    if any(len(side) != task.total_roi.dims for side in read.context):
        sizes = max(map(len, read.context))
        text = f"{sizes} sizes for a {task.total_roi.dims}-D roi; give one per axis"
        return [(f"{place}.context", text)]
    sides = zip(read.context, (task.lower, task.upper), strict=True)
    if all(0 <= mine <= most for own, all_ in sides for mine, most in zip(own, all_, strict=True)):
        return []
    lower, upper = map(task.scale.sizes, read.context)
    return [(f"{place}.context", f"{lower} below and {upper} above are not in the read Roi")]


def _multiple_problems(task: Task) -> list[Problem]:
    """Blocks and contexts have to be whole voxels of every array that they are read or written."""
    operation, ndim = task.operation, task.total_roi.dims
    placed = {} if operation.call.is_once else operation.reads
    reads = {f"reads.{n}": r for n, r in placed.items() if r.array.ndim == ndim}
    writes = {f"writes.{n}": w.array for n, w in operation.writes.items() if w.array.ndim == ndim}
    arrays = {**{place: read.array for place, read in reads.items()}, **writes}
    found = _no_multiple(task, "block_size", [tuple(task.write_roi.shape)], arrays)
    own = {place: read for place, read in reads.items() if read.context is not None}
    if not reads or len(own) < len(reads):
        shared = {place: array for place, array in arrays.items() if place not in own}
        found += _no_multiple(task, "context", [task.lower, task.upper], shared)
    for place, read in own.items():
        found += _no_multiple(task, f"{place}.context", read.context or (), {place: read.array})
    return found


def _no_multiple(
    task: Task, key: str, sides: Iterable[Sequence[int]], arrays: Mapping[str, ArrayInfo]
) -> list[Problem]:
    """Return the first side that is no multiple of the voxels of all arrays, and what is next."""
    for sizes in sides:
        wrong = {
            place: array
            for place, array in arrays.items()
            if any(n % v for n, v in zip(sizes, array.steps, strict=True))
        }
        if not wrong:
            continue
        voxels = " and ".join(
            f"{task.scale.sizes(array.steps)} of {array.path} ({place})"
            for place, array in wrong.items()
        )
        step = [math.lcm(*along) for along in zip(*(a.steps for a in arrays.values()), strict=True)]
        least = 1 if key == "block_size" else 0
        pairs = list(zip(sizes, step, strict=True))
        below = [max(least, n // v) * v for n, v in pairs]
        above = [-(-n // v) * v for n, v in pairs]
        near = " or ".join(dict.fromkeys(map(task.scale.sizes, (below, above))))
        what = "block size" if key == "block_size" else "context"
        text = f"{what} {task.scale.sizes(sizes)} is not a multiple of the voxel size {voxels}"
        return [(key, f"{text}; use {near}")]
    return []


def _cut_problems(task: Task, place: str, use: Read | Write) -> list[Problem]:
    """The region to write ends between voxels of every array."""
    found, array = [], use.array
    begin, end = task.write_extent.begin, task.write_extent.end
    edges = begin if task.fit != Fit.SHRINK else begin + end
    offsets = array.offset if task.fit != Fit.SHRINK else array.offset * 2
    sizes = array.steps if task.fit != Fit.SHRINK else array.steps * 2
    if any((e - o) % v for e, o, v in zip(edges, offsets, sizes, strict=True)):
        offset = task.scale.span(Box(array.offset, array.offset)).partition(" to ")[0]
        found.append(
            (
                "roi",
                f"the region to write, {task.scale.span(Box(begin, end))}, cuts voxels of "
                f"{array.path} ({place}) with offset {offset} and voxel size "
                f"{task.scale.sizes(array.steps)}; make it whole voxels",
            )
        )
    lacking = [a for a, p in enumerate(array.places) if p < 0 and isinstance(use, Write)]
    if any(len(task.grid.axes[a]) > 1 for a in lacking):
        text = f"{array.path} lacks an axis along which there are several blocks"
        found.append((place, f"{text}; let one block write all of it there"))
    return found


def _text(numbers: Sequence[int]) -> str:
    return "(" + ", ".join(str(int(n)) for n in numbers) + ")"
