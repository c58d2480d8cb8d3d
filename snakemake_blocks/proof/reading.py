"""Proof that what blocks read exists, or is written by blocks that they wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.proof.coverage import first_gap
from snakemake_blocks.proof.findings import Subject
from snakemake_blocks.proof.overlaps import as_text, writers_of
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Call, Read

__all__ = ["check_after", "check_reading"]


def check_reading(s: Subject) -> None:
    """Prove that declared reads find what they need."""
    task = s.task
    for name, read in task.operation.reads.items():
        array, key = read.array, f"reads.{name}"
        if task.operation.call.is_once:
            _check_opened(s, key, array)
            continue
        grid = task.grid if read.context is None else task.grid.with_context(*read.context)
        if read.fill is None:
            outside = first_gap(task, _reach(grid), [array.roi], grid.reading)
            if outside is not None:
                s.refuse(
                    key,
                    f"{s.span(outside[0])} is read by block {as_text(outside[1])} and lies "
                    f"outside of {array.path}, which covers {s.span(array.roi)}; declare a fill, "
                    "or make roi or context smaller",
                )
        if s.is_own(array):
            _check_in_place(s, key, array)
        else:
            _check_read(s, key, read, grid)


def _check_opened(s: Subject, key: str, array: ArrayInfo) -> None:
    """Prove that an array is there when a task opens it that runs once."""
    writers = [up.name for up in writers_of(s.plan, array)]
    if not writers and not array.exists:
        s.refuse(key, f"{array.path} is missing and no task writes it; make it first")
    else:
        by = f"written by {', '.join(writers)}, all of it before" if writers else "existing data"
        s.prove(f"it opens {array.path}, which is {by}")


def _reach(grid: Grid) -> Box:
    """Return what all blocks read together."""
    return grid.extent.grow(grid.lower, grid.upper)


def _check_read(s: Subject, key: str, read: Read, grid: Grid) -> None:
    array, reach = read.array, _reach(grid)
    wanted = reach.intersect(s.roi)
    if read.fill is not None:  # it stands for all outside of the array, inside of the roi too
        wanted = wanted.intersect(array.roi)
    writers = writers_of(s.plan, array)
    waited = [w for w in writers if w.name in s.task.upstream]
    far = read.is_far(s.task.grid)
    if far:
        wanted = array.roi
        others = [w.name for w in writers if w not in waited]
        if others:
            s.refuse(
                key,
                f"fill: {read.fill} shows voxels from elsewhere in {array.path}, which "
                f"{', '.join(others)} may be writing; name it in after, or write to another array",
            )
            return
    if not writers and not array.exists:
        s.refuse(key, f"{array.path} is missing and no task writes it; make it first")
        return
    covers = [w.grid.extent.intersect(array.roi) for w in waited] if writers else [array.roi]
    if read.fill is not None and not reach.meets(array.roi):
        s.warn(
            key,
            f"nothing of {array.path} is read, only the fill: it covers {s.span(array.roi)}, "
            f"blocks read {s.span(reach)}; look at offset and unit of both",
        )
    gap = first_gap(s.task, wanted, covers, _anywhere(s) if far else grid.reading)
    if gap is None:
        by = f"written by {', '.join(w.name for w in waited)}" if writers else "existing data"
        s.prove(f"all that it reads of {array.path} inside its roi is {by}")
        return
    where = f"{s.span(gap[0])} of {array.path} is read by block {as_text(gap[1])}"
    if not writers:
        s.refuse(
            key,
            f"{where}, but the array covers {s.span(array.roi)} only; make the roi, "
            f"{s.span(s.roi)}, smaller",
        )
    else:
        s.refuse(key, f"{where}, but {_writers_text(s, waited, gap[0])}")


def _anywhere(s: Subject) -> Callable[[Box], Box]:
    """Return what takes every part of an array for one that any block may see."""
    return lambda part: s.task.grid.indices


def _writers_text(s: Subject, waited: Sequence[PlannedTask], gap: Box) -> str:
    """Return who does not write a region that is read, and what to do about it."""
    if not waited:
        return "no task that this one waits for writes it; name its writer in after"
    wrote = ", ".join(f"{up.name} writes {s.span(up.grid.extent)}" for up in waited)
    for up in waited:
        if up.fit == Fit.VALID and s.tasks[up.name].write_extent.meets(gap):
            return f"{wrote} and leaves the rest out by fit: valid; use fit: shrink in {up.name}"
    return f"{wrote} only; give {waited[0].name} a larger roi, or this task a smaller one"


def _check_in_place(s: Subject, key: str, array: ArrayInfo) -> None:
    """Say what a task finds in an array that it writes itself."""
    others = [w.name for w in writers_of(s.plan, array) if w.name != s.task.name]
    if s.task.operation.call is not Call.ARRAYS:
        s.prove(f"it changes {array.path} in place, conflicting blocks one after the other")
    elif others:
        s.refuse(
            key,
            f"with call: arrays a task that writes {array.path} sees only what its own blocks "
            f"wrote there, never what {', '.join(others)} wrote; write to another array",
        )
    elif not any(s.task.phases.reach) and any(s.task.grid.lower + s.task.grid.upper):
        s.warn(
            key,
            f"conflict: false, so a block sees of {array.path} only the fill, never what "
            "neighbours wrote; set conflict: true or do not read it",
        )
    else:
        s.prove(
            f"of {array.path}, which it writes itself, a block sees what conflicting blocks of "
            "earlier phases wrote, and fill elsewhere"
        )


def _check_far_reads(s: Subject, up: PlannedTask) -> None:
    """Warn of a function that could read, by itself, more of an array than its blocks wait for."""
    if up.name in s.task.whole:
        s.prove(f"every block waits for all of {up.name}")
        return
    if s.task.operation.call is Call.ARRAYS:
        return  # the worker reads for it
    reach = _reach(s.task.toward(up).grid)
    for name, read in s.task.operation.reads.items():
        part = up.grid.extent.intersect(read.array.roi)
        if any(map(read.array.meets, up.operation.written)) and not reach.covers(part):
            s.warn(
                f"reads.{name}",
                f"a block waits only for what its read Roi meets, together {s.span(reach)} of "
                f"{s.span(part)} that {up.name} writes of {read.array.path}; add after: "
                f"[{_whole(up)}] if the function reads more",
            )


def _whole(up: PlannedTask) -> str:
    return f"{{task: {up.name}, whole: true}}"


def _prove_tables(s: Subject, up: PlannedTask) -> None:
    """Say which blocks' rows a block gets; they are all that it waits for."""
    if up.grid.ndim != s.task.grid.ndim and up.name not in s.task.whole:
        s.refuse(
            "reads",
            f"{up.name} has {up.grid.ndim} axes and this task {s.task.grid.ndim}; read all of its "
            "table, with whole: true",
        )
        return
    of = "all blocks" if up.name in s.task.whole else "the blocks that its read Roi meets"
    s.prove(f"every block waits for {of} of {up.name}, whose rows it gets")


def check_after(s: Subject) -> None:
    """Prove for upstream tasks without a declared array in common that blocks wait for all."""
    task = s.task
    reach = _reach(task.grid).intersect(s.roi)
    for up in (s.plan.tasks[name] for name in task.upstream):
        if any(read.task == up.name for read in task.operation.table_reads.values()):
            _prove_tables(s, up)
            continue
        if any(array.meets(out) for array in task.operation.inputs for out in up.operation.written):
            _check_far_reads(s, up)
            continue
        if up.name in task.whole:
            s.prove(f"every block waits for all of {up.name}")
            continue
        if up.grid.ndim != task.grid.ndim:
            s.refuse(
                "after",
                f"{up.name} has {up.grid.ndim} axes and this task {task.grid.ndim}; give both "
                f"rois the same number of axes, or wait for all of it: after: [{_whole(up)}]",
            )
            continue
        gap = first_gap(task, reach, [up.grid.extent], task.grid.reading)
        if gap is None:
            s.prove(f"every block waits for all that {up.name} does in its read Roi")
            continue
        text = f"{s.span(gap[0])} is read by block {as_text(gap[1])}, but "
        text += _writers_text(s, [up], gap[0])
        if task.operation.reads:
            s.warn("after", f"{text}; or ignore this if what it reads there is not from {up.name}")
        else:
            s.refuse("after", f"{text}, or declare reads and writes")
