"""The proof finds what is wrong with a plan, and nothing where nothing is."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from snakemake_blocks.errors import PlanError, SpecError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases
from snakemake_blocks.plan.plan import Plan, PlannedTask
from snakemake_blocks.plan.planning import plan_pipeline
from snakemake_blocks.proof.findings import Proof
from snakemake_blocks.proof.overlaps import _along, _Use
from snakemake_blocks.proof.proof import check_plan
from snakemake_blocks.proof.spans import context_of, sharing_of
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Read, Write
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

KINDS = ("reads", "writes")


def array(path: str, shape: Index, **keys: Any) -> ArrayInfo:
    """An array of one-unit voxels at the origin, in chunks of 64, unless told otherwise."""
    ndim = len(shape)
    given = {"offset": (0,) * ndim, "voxel_size": (1,) * ndim, "channels": (), "dtype": "uint8"}
    given["chunks"] = (64,) * ndim
    return ArrayInfo(path=path, shape=shape, **{**given, **keys})


def task(name: str, roi: Box, block: Index, context: Any = 0, **keys: Any) -> Task:
    """A task that writes ``roi``; what is read and written is given as arrays by name."""
    lower, upper = context if isinstance(context, tuple) else (context, context)
    low, up = (lower,) * roi.ndim, (upper,) * roi.ndim
    write = Box(roi.begin, tuple(b + w for b, w in zip(roi.begin, block, strict=True)))
    reads = {n: r if isinstance(r, Read) else Read(r) for n, r in keys.pop("reads", {}).items()}
    return Task(
        name,
        roi.grow(low, up).to_roi(),
        write.grow(low, up).to_roi(),
        write.to_roi(),
        "functions:f",
        reads=reads,
        writes={n: Write(w) for n, w in keys.pop("writes", {}).items()},
        read_write_conflict=keys.pop("conflict", True),
        **{"num_workers": None, "blocks_per_job": 1, **keys},
    )


def planned(*tasks: Task) -> tuple[Plan, tuple[Task, ...]]:
    pipeline = Pipeline.from_tasks(tasks, folder=Path(), run_directory=Path("blocks"))
    return plan_pipeline(pipeline, facts={}), pipeline.tasks


def proof_of(*tasks: Task) -> Proof:
    return check_plan(*planned(*tasks))


def only(messages: tuple[str, ...]) -> str:
    assert len(messages) == 1, messages
    return messages[0]


ROI = Box((0, 0), (512, 512))
RAW = array("sample.zarr/raw", (512, 512))
SMOOTHED = array("sample.zarr/smoothed", (512, 512), channels=(3,), chunks=(3, 64, 64))
LABELS = array("sample.zarr/labels", (512, 512), chunks=(128, 128))


def demo(**changes: dict[str, Any]) -> tuple[Task, ...]:
    """The two tasks of the demo, with changes by task."""
    smooth = {
        "roi": ROI,
        "block": (64, 64),
        "context": 20,
        "call": "arrays",
        "conflict": False,
        "reads": {"raw": Read(RAW, 0)},
        "writes": {"smoothed": SMOOTHED},
    }
    segment = {
        "roi": ROI,
        "block": (128, 128),
        "context": 10,
        "call": "arrays",
        "reads": {"smoothed": Read(SMOOTHED, 0), "labels": Read(LABELS, 0)},
        "writes": {"labels": LABELS},
    }
    return tuple(
        task(name, **{**keys, **changes.get(name, {})})
        for name, keys in (("smooth", smooth), ("segment", segment))
    )


def test_the_demo_is_proved() -> None:
    proof = proof_of(*demo())
    assert proof.holds
    assert proof.violations == proof.warnings == ()
    assert proof.proved == (
        "smooth: 64 blocks in 64 jobs write every voxel of (0, 0) to (512, 512) exactly once",
        "smooth: no two jobs conflict, all 64 may run together",
        "smooth: no two blocks write a common chunk or shard of sample.zarr/smoothed",
        "smooth: all that it reads of sample.zarr/raw inside its roi is existing data",
        "segment: 16 blocks in 16 jobs write every voxel of (0, 0) to (512, 512) exactly once",
        "segment: 42 pairs of jobs conflict and all are ordered, in 4 phases; a job waits for 2 of "
        "its task at most",
        "segment: no two blocks write a common chunk or shard of sample.zarr/labels",
        "segment: all that it reads of sample.zarr/smoothed inside its roi is written by smooth",
        "segment: of sample.zarr/labels, which it writes itself, a block sees what conflicting "
        "blocks of earlier phases wrote, and fill elsewhere",
    )


# --- wrong pipelines, each named


def test_misaligned_chunks_are_refused_with_the_nearest_block_size() -> None:
    proof = proof_of(*demo(smooth={"block": (48, 64), "fit": "shrink", "chunks": "refuse"}))
    assert only(proof.violations) == (
        "tasks.smooth.block_size: chunks: refuse, and blocks of (48, 64) from (0, 0) on share "
        "storage chunks (or shards) of (64, 64) world units of sample.zarr/smoothed on axis 0; "
        "use block_size (64, 64)"
    )


def test_misaligned_shards_are_refused_in_world_units() -> None:
    shards = array("x", (128, 256), voxel_size=(8, 4), chunks=(32, 64))
    wrong = task("t", shards.roi, (128, 256), writes={"x": shards}, chunks="refuse")
    assert only(proof_of(wrong).violations).endswith(
        "shards) of (256, 256) world units of x on axis 0; use block_size (256, 256)"
    )


def test_blocks_are_told_in_voxels_too() -> None:
    """A block size that was meant in voxels shows."""
    fine = array("x", (128, 256), voxel_size=(8, 4), chunks=(8, 16))
    proof = proof_of(task("t", fine.roi, (64, 64), writes={"x": fine}, conflict=False))
    assert proof.proved[0] == (
        "t: 256 blocks of 8 x 16 voxels in 256 jobs write every voxel of (0, 0) to (1024, 1024) "
        "exactly once"
    )


def test_a_roi_that_begins_inside_a_chunk_is_told_apart_from_a_wrong_block_size() -> None:
    wrong = task("t", Box((16, 0), (512, 512)), (64, 96), writes={"x": RAW}, fit="shrink")
    assert only(proof_of(replace(wrong, chunks="refuse")).violations) == (
        "tasks.t.roi: chunks: refuse, and blocks of (64, 96) from (16, 0) on share storage chunks "
        "(or shards) of (64, 64) world units of sample.zarr/raw on axes 0, 1; on axis 0 "
        "the roi begins 16 world units into a chunk, begin it at 0 or 64, and use block_size "
        "(64, 64)"
    )


def test_coloured_chunks_that_cost_phases_are_a_warning() -> None:
    proof = proof_of(*demo(smooth={"block": (48, 64), "fit": "shrink"}))
    assert proof.holds
    assert only(proof.warnings) == (
        "tasks.smooth.block_size: blocks of (48, 64) from (0, 0) on share storage chunks (or "
        "shards) of (64, 64) world units of sample.zarr/smoothed on axis 0, so jobs run in 2 "
        "phases, not 1; use block_size (64, 64)"
    )
    assert proof.proved[1:3] == (
        "smooth: 80 pairs of jobs conflict and all are ordered, in 2 phases; a job waits for 2 of "
        "its task at most",
        "smooth: blocks that write a common chunk or shard of sample.zarr/smoothed are ordered",
    )


def test_blocks_in_batches_are_ordered_by_jobs_and_inside_of_them() -> None:
    proof = proof_of(*demo(segment={"blocks_per_job": (2, 1)}))
    assert [line for line in proof.proved if "ordered" in line] == [
        "segment: 16 pairs of jobs conflict and all are ordered, in 4 phases; a job waits for 2 of "
        "its task at most",
        "segment: 42 pairs of blocks conflict and all are ordered, by jobs or inside of one",
    ]


def test_nobody_waits_who_reads_nothing_of_what_neighbours_write() -> None:
    told = "smooth: no two jobs conflict, all 64 may run together"
    assert told in proof_of(*demo(smooth={"conflict": True})).proved
    assert told not in proof_of(*demo(smooth={"conflict": True, "call": "block"})).proved


def test_a_context_of_its_own_decides_who_conflicts_and_what_is_waited_for() -> None:
    near = {"labels": Read(LABELS, 0, ((0, 0), (10, 0)))}
    reads = {"smoothed": Read(SMOOTHED, 0, ((0, 10), (0, 0))), **near}
    plan, tasks = planned(*demo(segment={"reads": reads}))
    proof, segment = check_plan(plan, tasks), plan.tasks["segment"]
    assert proof.holds
    assert segment.grid.read((1, 1)) == Box((118, 118), (266, 266)), "what the task says"
    assert segment.reach == (1, 0), "one waits for the one below it on the first axis alone"
    upstream = [path for job in plan.jobs("segment") for path in job.upstream if "1-1" in job.name]
    assert len(upstream) == 2 * 3, "and for half a block more on the second one"


def test_sharing_that_costs_no_phase_is_no_warning() -> None:
    proof = proof_of(*demo(segment={"block": (96, 96), "fit": "shrink"}))
    assert proof.holds
    assert proof.warnings == ()


def test_the_gap_that_valid_leaves_is_found_where_it_is_read() -> None:
    proof = proof_of(*demo(smooth={"block": (60, 64)}))
    assert only(proof.violations) == (
        "tasks.segment.reads.smoothed: (480, 0) to (512, 512) of sample.zarr/smoothed is read by "
        "block (3, 0), but smooth writes (0, 0) to (480, 512) and leaves the rest out by fit: "
        "valid; use fit: shrink in smooth"
    )
    assert any(
        w.startswith(
            "tasks.smooth.fit: valid leaves (32, 0) world units at the upper end of the roi "
            "unwritten: the roi is (0, 0) to (512, 512), written is (0, 0) to (480, 512);"
        )
        for w in proof.warnings
    )


def test_overlapping_writers_are_found() -> None:
    second = task("again", ROI, (64, 64), reads={"raw": RAW}, writes={"smoothed": SMOOTHED})
    assert only(proof_of(demo()[0], second).violations) == (
        "tasks.again.writes.smoothed: writes sample.zarr/smoothed, and so does smooth "
        "(writes.smoothed), and neither waits for the other where they meet; add after: [smooth] "
        "to again or the reverse, or write to another array"
    )


def test_writers_of_two_halves_do_not_overlap_unless_a_chunk_does() -> None:
    halves = [
        task(n, Box((b,), (b + 256,)), (64,), writes={"x": array("x", (512,))})
        for n, b in (("left", 0), ("right", 256))
    ]
    assert proof_of(*halves).holds
    square = array("x", (64, 64), chunks=(8, 8))
    sides = [
        task(n, Box((0, b), (64, b + 32)), (8, 8), writes={"x": square})
        for n, b in (("left", 0), ("right", 32))
    ]
    assert proof_of(*sides).holds
    coarse = [
        task(n, Box((b,), (b + 256,)), (64,), writes={"x": array("x", (512,), chunks=(96,))})
        for n, b in (("left", 0), ("right", 256))
    ]
    assert "left" in only(proof_of(*coarse).violations)


def test_masks_that_part_two_writers_are_seen() -> None:
    data = array("x", (64, 64), chunks=(16, 16))
    here = np.zeros((4, 4), bool)
    here[1:3] = True
    keys = {"writes": {"x": data}, "mask": array("mask", (1, 1))}
    one = task("one", data.roi, (16, 16), present=here, **keys)
    other = task("other", data.roi, (16, 16), present=~here, **keys)
    assert proof_of(one, other).holds
    assert proof_of(one, replace(other, after=["one"])).holds
    assert not proof_of(one, replace(other, present=here)).holds
    wide = task("wide", data.roi, (16, 16), writes={"x": data}, after=["one"])
    assert proof_of(one, wide).holds
    fine = np.zeros((8, 8), bool)
    fine[2:6] = True
    one = task("one", data.roi, (8, 8), present=fine, **keys)
    assert proof_of(one, wide).holds
    halves = task("halves", data.roi, (8, 8), writes={"x": data}, after=["one"])
    assert "chunk that (2, 0) writes" in only(proof_of(one, halves).violations)
    keys = {"mask": array("mask", (1, 1))}
    assert proof_of(one, replace(halves, present=~fine, **keys)).holds
    fine = fine.copy()
    fine[2] = False
    assert not proof_of(one, replace(halves, present=~fine, **keys)).holds


def test_blocks_that_wait_on_one_side_only_are_found() -> None:
    data = array("x", (64,), chunks=(16,))
    up = task("up", Box((0,), (64,)), (8,), writes={"x": data})
    down = {"roi": Box((0,), (64,)), "block": (8,), "writes": {"x": data}, "after": ["up"]}
    assert not proof_of(up, task("down", context=(8, 0), **down)).holds
    assert not proof_of(up, task("down", context=(0, 8), **down)).holds
    assert proof_of(up, task("down", context=(8, 8), **down)).holds


def test_only_that_counts_as_written_which_lies_in_the_array() -> None:
    small = array("x", (60,), chunks=(20,))
    up = task("up", Box((0,), (60,)), (40,), fit="overhang", writes={"x": small})
    down = task("down", Box((0,), (80,)), (20,), reads={"x": Read(small)})
    outside, unwritten = proof_of(up, down).violations
    assert "tasks.down.reads.x: (60) to (80) is read" in outside
    assert "tasks.down.reads.x: (60) to (80) of x is read" in unwritten


# faults: kind 7
def test_a_fill_stands_for_all_outside_of_an_array() -> None:
    small = array("x", (60,), chunks=(20,))
    up = task("up", Box((0,), (60,)), (20,), writes={"x": small})
    down = task("down", Box((0,), (80,)), (20,), reads={"x": Read(small, 0)})
    assert proof_of(up, down).violations == ()
    part = task("up", Box((0,), (40,)), (20,), writes={"x": small})
    assert "tasks.down.reads.x: (40) to (60) of x is read" in only(proof_of(part, down).violations)


def test_a_task_that_reads_nothing_but_the_fill_is_told() -> None:
    far = array("x", (60,), offset=(500,))
    proof = proof_of(task("t", Box((0,), (80,)), (20,), reads={"x": Read(far, 0)}))
    assert proof.warnings[-1] == (
        "tasks.t.reads.x: nothing of x is read, only the fill: it covers (500) to (560), blocks "
        "read (0) to (80); look at offset and unit of both"
    )


def test_blocks_outside_of_an_array_do_not_meet_in_it() -> None:
    aside = array("x", (64, 64), offset=(0, 64), chunks=(64, 64))
    proof = proof_of(
        task("t", Box((0, 0), (64, 64)), (8, 64), writes={"x": aside}, chunks="refuse")
    )
    assert "lies outside of x" in only(proof.violations)


def test_a_missing_region_of_the_input_is_found() -> None:
    small = array("sample.zarr/raw", (512, 400))
    proof = proof_of(*demo(smooth={"reads": {"raw": Read(small)}}))
    assert proof.violations[1] == (
        "tasks.smooth.reads.raw: (0, 400) to (512, 512) of sample.zarr/raw is read by block "
        "(0, 5), but the array covers (0, 0) to (512, 400) only; make the roi, (0, 0) to "
        "(512, 512), smaller"
    )


def test_a_missing_input_is_found() -> None:
    missing = replace(RAW, exists=False)
    text = only(proof_of(*demo(smooth={"reads": {"raw": Read(missing, 0)}})).violations)
    assert text.startswith("tasks.smooth.reads.raw: sample.zarr/raw is missing and no task writes")


def test_reading_outside_of_an_array_without_a_fill_is_found() -> None:
    proof = proof_of(*demo(smooth={"reads": {"raw": Read(RAW)}}))
    assert only(proof.violations) == (
        "tasks.smooth.reads.raw: (-20, -20) to (0, 532) is read by block (0, 0) and lies outside "
        "of sample.zarr/raw, which covers (0, 0) to (512, 512); declare a fill, or make roi or "
        "context smaller"
    )


def test_a_downstream_task_larger_than_its_upstream_is_found() -> None:
    half = Box((0, 0), (512, 256))
    proof = proof_of(*demo(smooth={"roi": half}))
    assert only(proof.violations) == (
        "tasks.segment.reads.smoothed: (0, 256) to (512, 512) of sample.zarr/smoothed is read by "
        "block (0, 1), but smooth writes (0, 0) to (512, 256) only; give smooth a larger roi, or "
        "this task a smaller one"
    )


def test_a_downstream_task_smaller_than_its_upstream_is_fine() -> None:
    assert proof_of(*demo(segment={"roi": Box((128, 128), (384, 384))})).holds


def test_undeclared_reads_of_a_larger_downstream_task_are_found() -> None:
    up = task("up", Box((0,), (90,)), (20,), 5)
    down = task("down", Box((0,), (90,)), (10,), 5, upstream_tasks=[up])
    assert only(proof_of(down).violations) == (
        "tasks.down.after: (80) to (90) is read by block (7), but up writes (0) to (80) and "
        "leaves the rest out by fit: valid; use fit: shrink in up, or declare reads and writes"
    )
    told = task("down", Box((0,), (64,)), (32,), reads={"x": array("x", (64,))}, after=["up"])
    up = task("up", Box((0,), (32,)), (32,))
    assert "tasks.down.after: (32) to (64) is read" in proof_of(up, told).warnings[-1]


def proof_unwired(*tasks: Task) -> Proof:
    """Return the proof of tasks of which those that write to ``unseen/x`` in truth write to x.

    Planning finds every edge between writer and reader; so the proof is seen to look by itself.
    """
    pipeline = Pipeline.from_tasks(tasks, folder=Path(), run_directory=Path("blocks"))

    def seen(task: Task) -> Task:
        writes = {
            name: Write(replace(w.array, path=w.array.path.removeprefix("unseen/")))
            for name, w in task.operation.writes.items()
        }
        return replace(task, writes=writes)

    pipeline = replace(pipeline, tasks=tuple(map(seen, pipeline.tasks)))
    return check_plan(plan_pipeline(pipeline, facts={}), pipeline.tasks)


def test_an_unordered_writer_and_reader_of_one_array_are_found() -> None:
    writer = task(
        "writer", ROI, (64, 64), writes={"raw": replace(RAW, path="unseen/sample.zarr/raw")}
    )
    assert proof_unwired(*demo(), writer).violations[-1] == (
        "tasks.writer.writes.raw: writes sample.zarr/raw, which is read by smooth (reads.raw), "
        "and neither waits for the other where they meet; add after: [writer] to smooth or the "
        "reverse, or write to another array"
    )


def test_a_writer_beside_what_another_task_reads_is_fine() -> None:
    x = array("x", (64,), chunks=(8,))
    writer = task("writer", Box((32,), (64,)), (8,), writes={"x": replace(x, path="unseen/x")})
    keys = {"roi": Box((0,), (32,)), "block": (8,), "reads": {"x": Read(x, 0)}}
    for context, fine in (((8, 0), True), ((0, 8), False)):
        found = proof_unwired(task("reader", context=context, **keys), writer).violations
        assert any("neither waits" in v for v in found) != fine


def test_a_downstream_task_that_overwrites_what_its_upstream_still_reads_is_found() -> None:
    data = replace(array("x", (64,), chunks=(8,)), path="unseen/x")
    up = task("up", Box((0,), (64,)), (8,), 8, reads={"x": Read(array("x", (64,)), 0)})
    up = replace(up, reads={"x": Read(replace(data, path="x"), 0)})
    down = task("down", Box((0,), (64,)), (8,), writes={"x": data}, after=["up"])
    text = next(v for v in proof_unwired(up, down).violations if v.startswith("tasks.down.writes"))
    assert "which is read by up (reads.x) while (0) overwrites it" in text


def test_an_array_that_is_smaller_than_what_is_written_is_found() -> None:
    small = replace(LABELS, shape=(512, 500))
    proof = proof_of(
        *demo(segment={"writes": {"labels": small}, "reads": {"smoothed": Read(SMOOTHED, 0)}})
    )
    assert only(proof.violations) == (
        "tasks.segment.writes.labels: (0, 500) to (512, 512) is written by block (0, 3) and lies "
        "outside of sample.zarr/labels, which covers (0, 0) to (512, 500); write to another array "
        "or make the roi smaller"
    )


def test_overhang_is_a_warning_and_may_leave_the_array() -> None:
    proof = proof_of(*demo(segment={"block": (192, 128), "fit": "overhang"}))
    assert proof.holds
    assert any("overhang writes (64, 0) world units beyond the roi" in w for w in proof.warnings)


def test_blocks_of_a_chained_writer_that_shares_chunks_are_found() -> None:
    data = array("x", (64,), chunks=(16,))
    up = task("up", Box((0,), (64,)), (8,), writes={"x": data})
    down = task("down", Box((0,), (64,)), (8,), writes={"x": data}, after=["up"])
    text = only(proof_of(up, down).violations)
    assert text.startswith("tasks.down.writes.x: writes x, and so does up (writes.x), and a")
    assert "let its blocks be whole chunks of (16) world units" in text
    assert proof_of(up, replace(down, blocks_per_job=2)).holds
    wide = task("down", Box((0,), (64,)), (16,), writes={"x": data}, after=["up"])
    assert proof_of(up, wide).holds


def test_a_task_in_place_sees_nothing_of_other_writers() -> None:
    up = task("up", ROI, (128, 128), writes={"labels": LABELS})
    text = only(proof_of(up, *demo()).violations)
    assert text.startswith("tasks.segment.reads.labels: with call: arrays a task that writes")


def test_conflicts_denied_by_a_task_that_works_in_place_are_found() -> None:
    free = {"conflict": False, "call": "block"}
    text = only(proof_of(*demo(segment=free)).violations)
    assert text.startswith("tasks.segment.conflict: is false, but blocks read what their neigh")
    assert proof_of(*demo(segment={**free, "context": 0})).holds
    assert "sees of sample.zarr/labels only the fill" in only(
        proof_of(*demo(segment={"conflict": False})).warnings
    )


def test_odd_declarations_are_found() -> None:
    other = replace(LABELS, dtype="uint64")
    twice = demo(segment={"writes": {"labels": LABELS, "more": LABELS}})
    assert "every block writes sample.zarr/labels twice" in proof_of(*twice).violations[0]
    reader = task("reader", ROI, (128, 128), reads={"labels": other})
    assert "tasks.reader.reads.labels: describes sample.zarr/labels otherwise than" in only(
        proof_of(*demo(), reader).violations
    )
    flat = task("flat", Box((0,), (64,)), (8,), after=["smooth"])
    assert "smooth has 2 axes and this task 1" in only(proof_of(*demo(), flat).violations)


def test_a_plan_of_other_tasks_is_refused() -> None:
    plan, tasks = planned(*demo())
    with pytest.raises(PlanError, match="plan again"):
        check_plan(plan, tasks[:1])
    other = demo(segment={"block": (64, 64)})
    assert only(check_plan(plan, other).violations).startswith("tasks.segment.block_size: the plan")


# --- plans that are wrong although the declaration is right


def spoiled(plan: Plan, name: str, **changes: Any) -> Plan:
    tasks = {**plan.tasks, name: replace(plan.tasks[name], **changes)}
    return replace(plan, tasks=tasks)


def test_a_plan_with_too_short_a_reach_is_found() -> None:
    plan, tasks = planned(*demo())
    jobs = plan.tasks["segment"].phases
    for changes in ({"phases": replace(jobs, reach=(1, 0))}, {"reach": (0, 1)}):
        text = only(check_plan(spoiled(plan, "segment", **changes), tasks).violations)
        assert text.startswith("tasks.segment.conflict: ")
        assert "defect" in text


def test_a_missing_input_of_a_job_is_found() -> None:
    class Forgetful(Phases):
        def predecessors(self, index: Index) -> list[Index]:
            return super().predecessors(index)[:1]

    plan, tasks = planned(*demo())
    wrong = spoiled(plan, "segment", phases=Forgetful((4, 4), (1, 1)))
    assert "conflict and are not ordered" in only(check_plan(wrong, tasks).violations)


def test_phases_that_do_not_fit_the_mask_are_found() -> None:
    present = np.ones((4, 4), bool)
    present[0, 0] = False
    plan, tasks = planned(*demo(segment={"present": present, "mask": RAW}))
    assert check_plan(plan, tasks).holds
    table = plan.tasks["segment"].phases.table
    assert table is not None
    for place, value in (((0, 0), 1), ((1, 1), int(table[1, 2]))):
        wrong = table.copy()
        wrong[place] = value
        phases = Phases((4, 4), (1, 1), wrong)
        assert not check_plan(spoiled(plan, "segment", phases=phases), tasks).holds


def test_a_billion_blocks_are_checked_in_no_time() -> None:
    size = 64_000
    big = [
        array(n, (size,) * 3, chunks=(c,) * 3, voxel_size=(1,) * 3)
        for n, c in (("raw", 100), ("a", 48), ("b", 64))
    ]
    roi = big[0].roi
    first = task("first", roi, (64,) * 3, 20, reads={"raw": Read(big[0], 0)}, writes={"a": big[1]})
    second = task("second", roi, (60,) * 3, 7, reads={"a": Read(big[1], 0)}, writes={"b": big[2]})
    plan, tasks = planned(
        *(replace(t, fit="shrink", blocks_per_job="auto") for t in (first, second))
    )
    assert plan.tasks["first"].num_blocks == 10**9
    begin = time.process_time()
    proof = check_plan(plan, tasks)
    assert time.process_time() - begin < 1
    assert proof.holds


# --- laws, against an oracle that enumerates blocks, voxels and chunks


def blocks_of(t: PlannedTask) -> list[Index]:
    return [i for i in t.grid if t.jobs.presence(Box(i, tuple(k + 1 for k in i))).all()]


def inside(box: Box, info: ArrayInfo) -> set[Index]:
    """Voxels of a box of world units that lie in the array."""
    return set(info.voxels(box).intersect(Box.from_shape(info.shape)))


def chunks_of(box: Box, info: ArrayInfo) -> set[Index]:
    size = info.chunks[len(info.channels) :]
    return {tuple(x // c for x, c in zip(v, size, strict=True)) for v in inside(box, info)}


def reads_toward(t: PlannedTask, b: Index, up: PlannedTask) -> list[Box]:
    """What a block reads of what an upstream task writes; all it reads, where nothing is said."""
    written = {w.array.path for w in up.operation.writes.values()}
    reads = [r for r in t.operation.reads.values() if r.array.path in written]
    return [read_of(t, b, r) for r in reads] or [t.grid.read(b)]


class Order:
    """Which of two blocks comes first, by nothing but the inputs that jobs have."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.upstream: dict[tuple[str, Index], set[tuple[str, Index]]] = {}
        self.above: dict[tuple[str, Index], set[tuple[str, Index]]] = {}
        for name, t in plan.tasks.items():
            for job in sorted((j.index for j in plan.jobs(name)), key=t.phases.of):
                needed = {(up, u) for up in t.upstream for u in t.needed_jobs(job, plan.tasks[up])}
                inputs = needed | {(name, u) for u in t.phases.predecessors(job)}
                self.upstream[name, job] = needed
                self.above[name, job] = inputs.union(*(self.above[i] for i in inputs))

    def job(self, name: str, block: Index) -> tuple[str, Index]:
        batch = self.plan.tasks[name].jobs.batch
        return name, tuple(k // f for k, f in zip(block, batch, strict=True))

    def __call__(self, one: tuple[str, Index], other: tuple[str, Index]) -> bool:
        jobs = self.job(*one), self.job(*other)
        if jobs[0] == jobs[1]:
            of = self.plan.tasks[one[0]].block_phases.of
            return of(one[1]) != of(other[1])
        return jobs[0] in self.above[jobs[1]] or jobs[1] in self.above[jobs[0]]

    def waits(self, late: tuple[str, Index], early: tuple[str, Index]) -> bool:
        """Whether the job of ``late`` has that of ``early`` as input; by blocks under a mask."""
        tasks = [self.plan.tasks[n] for n, _ in (late, early)]
        if all(t.jobs.present is None for t in tasks):
            return self.job(*early) in self.upstream[self.job(*late)]
        write = tasks[1].grid.write(early[1])
        return early[0] in tasks[0].upstream and any(
            read.meets(write) for read in reads_toward(tasks[0], late[1], tasks[1])
        )


def name_of(info: ArrayInfo) -> str:
    return info.path.removeprefix("./")


def read_of(t: PlannedTask, b: Index, read: Read) -> Box:
    """What a block reads of an array."""
    write = t.grid.write(b)
    return write.grow(*read.context) if read.context else t.grid.read(b)


def dangers(plan: Plan, tasks: dict[str, Task]) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of blocks, as (task, index), of which one writes what the other uses."""
    wrote, read = {}, {}
    for n, t in plan.tasks.items():
        for b in blocks_of(t):
            write = t.grid.write(b)
            voxels = {
                (name_of(w.array), v)
                for w in t.operation.writes.values()
                for v in inside(write, w.array)
            }
            chunks = {
                (name_of(w.array), "chunk", c)
                for w in t.operation.writes.values()
                for c in chunks_of(write, w.array)
            }
            wrote[n, b] = (voxels, chunks, write)
            read[n, b] = {
                (name_of(r.array), v)
                for r in t.operation.reads.values()
                for v in inside(read_of(t, b, r), r.array)
            }
    for one, other in itertools.permutations(wrote, 2):
        t = plan.tasks[one[0]]
        voxels, chunks, write = wrote[one]
        if one[0] == other[0]:
            seen = [t.grid.read(other[1])]
            written = {name_of(w.array) for w in t.operation.writes.values()}
            own = [r for r in t.operation.reads.values() if name_of(r.array) in written]
            if t.operation.call == "arrays" or (own and all(r.context for r in own)):
                seen = [read_of(t, other[1], r) for r in own]
            declared = tasks[t.name].read_write_conflict and any(map(write.meets, seen))
            meets = declared or (t.operation.call != "arrays" and voxels & read[other])
        else:
            meets = voxels & read[other]
        if meets or chunks & wrote[other][1]:
            yield one, other


def misplaced(plan: Plan, tasks: dict[str, Task]) -> Iterator[str]:
    """Yield the keys of declarations that some voxel contradicts."""
    for name, t in plan.tasks.items():
        roi, grid = tasks[name].write_extent, t.grid
        own = {name_of(w.array) for w in t.operation.writes.values()}
        for key, w in t.operation.writes.items():
            parts = [grid.write(b).intersect(roi) for b in blocks_of(t)]
            if any(len(inside(p, w.array)) < len(set(w.array.voxels(p))) for p in parts):
                yield f"{name}.writes.{key}"
        for key, r in t.operation.reads.items():
            path = name_of(r.array)
            writers = [
                u
                for u in plan.tasks.values()
                if path in {name_of(w.array) for w in u.operation.writes.values()} and u is not t
            ]
            reads = [read_of(t, b, r) for b in blocks_of(t)]
            if r.fill is None and any(not r.array.roi.covers(read) for read in reads):
                yield f"{name}.reads.{key}"
            if path in own:
                if writers and t.operation.call == "arrays":
                    yield f"{name}.reads.{key}"
                continue
            there = r.array.roi.size and inside(r.array.roi, r.array)
            if writers:
                waited = [u for u in writers if u.name in t.upstream]
                there &= {v for u in waited for v in inside(u.grid.extent, r.array)}
            read_roi = [read.intersect(roi) for read in reads]
            if r.fill is not None:
                wanted = [set(inside(read, r.array)) for read in read_roi]
            else:
                wanted = [set(r.array.voxels(read)) for read in read_roi]
            if any(not voxels <= there for voxels in wanted):
                yield f"{name}.reads.{key}"
        for up in t.upstream:
            shared = {name_of(r.array) for r in t.operation.reads.values()} & {
                w.array.path for w in plan.tasks[up].operation.writes.values()
            }
            reads = [grid.read(b).intersect(roi) for b in blocks_of(t)]
            extent = plan.tasks[up].grid.extent
            if (
                not shared
                and not t.operation.reads
                and not all(extent.covers(read) for read in reads)
            ):
                yield f"{name}.after"


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Task, ...]:
    """One to three tasks on a few arrays, as wrong as they come."""
    ndim = draw(st.integers(1, 2))
    size = 14 if ndim == 1 else 6
    voxel = draw(st.sampled_from([1, 2]))

    def numbers(low: int, high: int) -> Index:
        return tuple(voxel * draw(st.integers(low, high)) for _ in range(ndim))

    whole = draw(st.booleans())
    arrays = [
        array(
            f"x{i}",
            (size,) * ndim if whole else tuple(n // voxel for n in numbers(size - 3, size)),
            offset=(0,) * ndim if whole else numbers(-1, 1),
            voxel_size=(voxel,) * ndim,
            chunks=tuple(n // voxel for n in numbers(1, 4)),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    # The same array by another name: no order follows from it.
    arrays += [replace(x, path=f"./{x.path}") for x in arrays if draw(st.booleans())]
    tasks: list[Task] = []
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        begin = (0,) * ndim if whole else numbers(-1, 3)
        shape = (size * voxel,) * ndim if whole else numbers(1, size)
        roi = Box(begin, tuple(b + s for b, s in zip(begin, shape, strict=True)))
        use = {
            kind: draw(st.lists(st.sampled_from(arrays), max_size=2, unique_by=name_of))
            for kind in ("reads", "writes")
        }
        fill = draw(st.sampled_from([0, 0, None]))
        context = (draw(st.integers(0, 3)) * voxel, draw(st.integers(0, 3)) * voxel)
        own = st.none() | st.tuples(
            *(st.tuples(*[st.integers(0, c // voxel).map(voxel.__mul__)] * ndim) for c in context)
        )
        call = draw(st.sampled_from(["arrays", "block"])) if use["writes"] else "block"
        try:
            made = task(
                name,
                roi,
                numbers(1, 5),
                context,
                fit=draw(st.sampled_from(["valid", "shrink", "overhang"])),
                conflict=draw(st.booleans()),
                call=call,
                chunks=draw(st.sampled_from(["color", "color", "refuse"])),
                blocks_per_job=draw(st.integers(1, 5)),
                reads={x.path: Read(x, fill, draw(own)) for x in use["reads"]},
                writes={x.path: x for x in use["writes"]},
                after=draw(
                    st.lists(st.sampled_from([t.task_id for t in tasks] or [""]), max_size=1)
                )
                if tasks
                else (),
            )
        except SpecError:
            assume(False)
        if draw(st.integers(0, 2)) == 0:
            flat = draw(st.lists(st.booleans(), min_size=len(made.grid), max_size=len(made.grid)))
            assume(any(flat))
            present = np.array(flat).reshape(made.grid.shape)
            made = replace(made, present=present, mask=replace(arrays[0], path="mask"))
        tasks.append(made)
    return tuple(tasks)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(pipelines())
def test_the_proof_says_what_enumeration_says(tasks: tuple[Task, ...]) -> None:
    try:
        plan, made = planned(*tasks)
    except SpecError:  # a cycle
        assume(False)
    declared = {t.task_id: t for t in made}
    places: dict[str, set[str]] = {"refuse": set(), "conflict": set(), "misplaced": set()}
    pairs = set()
    for violation in check_plan(plan, made).violations:
        place, text = violation.removeprefix("tasks.").split(": ", 1)
        name, _, key = place.partition(".")
        if found := re.search(r"(?:and so does|which is read by) (\w)", text):
            pairs.add(frozenset((name, found[1])))
        else:
            kind = "refuse" if text.startswith("chunks") else "conflict"
            kind = "misplaced" if key.startswith(("reads", "writes", "after")) else kind
            places[kind].add(name if kind == "refuse" else place)

    assert places["misplaced"] == set(misplaced(plan, declared))
    assert places["refuse"] == {
        n for n, t in plan.tasks.items() if shares(t) and declared[n].chunks == "refuse"
    }
    order = Order(plan)
    unordered, loose = set(), set()
    far = {n for n, t in plan.tasks.items() if t.jobs.present is not None}
    for one, other in dangers(plan, declared):
        if not order(one, other):
            unordered.add(frozenset((one[0], other[0])))
        if one[0] == other[0]:
            t, jobs = plan.tasks[one[0]], [order.job(*one)[1], order.job(*other)[1]]
            near = t.block_phases.conflicting(one[1]).contains(other[1])
            far |= set() if near and t.phases.conflicting(jobs[0]).contains(jobs[1]) else {t.name}
        elif not order.waits(one, other) and not order.waits(other, one):
            loose.add(frozenset((one[0], other[0])))
    event(f"{len(places['misplaced'])} misplaced, {len(loose)} loose, {len(unordered)} unordered")
    assert pairs == loose
    assert places["conflict"] <= {f"{name}.conflict" for name in far}
    alone = {n.removesuffix(".conflict") for n in places["conflict"]}
    assert unordered <= pairs | {frozenset((n,)) for n in places["refuse"] | alone}


def shares(t: PlannedTask) -> bool:
    """Whether any two blocks, masked or not, write one chunk."""
    return any(
        chunks_of(t.grid.write(x), w.array) & chunks_of(t.grid.write(y), w.array)
        for w in t.operation.writes.values()
        for x, y in itertools.combinations(t.grid, 2)
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_advice_makes_chunks_align(data: st.DataObject) -> None:
    def numbers(low: int, high: int) -> Index:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    begin, shape = numbers(0, 20), numbers(30, 60)
    roi = Box(begin, tuple(b + s for b, s in zip(begin, shape, strict=True)))
    x = array("x", (100, 100), offset=numbers(-9, 0), chunks=numbers(1, 12))
    old = task("t", roi, numbers(4, 14), writes={"x": x}, chunks="refuse", fit="shrink")
    assert proof_of(replace(old, chunks="color")).holds == roi.intersect(x.roi).covers(roi)
    texts = [v for v in proof_of(old).violations if "chunks: refuse" in v]
    assume(texts)
    begin, size = list(begin), tuple(old.write_roi.shape)
    for axis, first, second in re.findall(
        r"on axis (\d) the roi .*?at (-?\d+) or (-?\d+)", texts[0]
    ):
        begin[int(axis)] = int(data.draw(st.sampled_from([first, second])))
    if found := re.search(r"use block_size \((\d+), (\d+)\)", texts[0]):
        size = tuple(map(int, found.groups()))
    moved = Box(tuple(begin), roi.end)
    assert (moved, size) != (roi, tuple(old.write_roi.shape))
    new = task("t", moved, size, writes={"x": x}, chunks="refuse", fit="shrink")
    assert not [v for v in proof_of(new).violations if "chunks: refuse" in v]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_order_is_proved_for_every_pair_and_of_no_other_colouring(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(1, 9 // ndim)] * ndim))
    roi = Box((0,) * ndim, tuple(2 * n for n in shape))
    context = (data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5)))
    present = np.array(
        data.draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    ).reshape(shape)
    assume(present.any())
    masks = {"mask": array("mask", (1,) * ndim), "present": present}
    made = task("t", roi, (2,) * ndim, context, **(masks if data.draw(st.booleans()) else {}))
    plan, tasks = planned(made)
    phases = plan.tasks["t"].phases
    nodes = [job.index for job in plan.jobs("t")]
    pairs = [p for p in itertools.combinations(nodes, 2) if phases.conflicting(p[0]).contains(p[1])]
    most = max(len(phases.predecessors(n)) for n in nodes)
    said = [line for line in check_plan(plan, tasks).proved if "jobs" in line and "order" in line]
    assert said == (
        [
            f"t: {len(pairs):,} pairs of jobs conflict and all are ordered, in {len(phases)} "
            f"phases; a job waits for {most} of its task at most"
        ]
        if pairs
        else []
    )
    if phases.table is None or not pairs:
        return
    values = st.integers(0, 3)
    table = np.array([data.draw(values) for _ in range(phases.table.size)], np.int32)
    table = np.where(phases.table < 0, -1, table.reshape(shape))
    wrong = spoiled(plan, "t", phases=Phases(phases.shape, phases.reach, table))
    order = Order(wrong)
    fine = all(order(("t", a), ("t", b)) for a, b in pairs)
    assert check_plan(wrong, tasks).holds == fine


@pytest.mark.parametrize("shape", [(9,), (40,), (2, 30), (5, 4), (3, 3, 12)])
@pytest.mark.parametrize("context", [0, 3, 8])
def test_the_inputs_of_every_class_of_jobs_are_looked_at(shape: Index, context: int) -> None:
    roi = Box.from_shape(tuple(4 * n for n in shape))
    plan, tasks = planned(task("t", roi, (4,) * len(shape), context))
    assert check_plan(plan, tasks).holds
    phases = plan.tasks["t"].phases
    known = set(phases._classes)
    for job in plan.jobs("t"):
        phases.predecessors(job.index)
    assert set(phases._classes) == known


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_block_of_a_class_speaks_for_all(data: st.DataObject) -> None:
    # Long periods with short looks, and short periods with long looks.
    step, chunk, look = data.draw(st.sampled_from([(29, 31, 3), (7, 9, 12), (2, 2, 60)]))

    def number(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    def some(name: str, kind: str) -> _Use:
        begin, context = number(-5, 300), (number(0, look), number(0, look))
        roi = Box((begin,), (begin + number(200, 3000),))
        made = task(name, roi, (number(step // 2, step),), context, fit="shrink", after=after)
        return _Use(planned(up, made)[0].tasks[name], kind, "x", x)

    up, after = task("up", Box((0,), (9,)), (9,)), data.draw(st.sampled_from([(), ("up",)]))
    x = array("x", (number(200, 3000),), offset=(number(-7, 300),), chunks=(number(1, chunk),))
    late, early = some("late", "writes"), some("early", data.draw(st.sampled_from(KINDS)))
    if data.draw(st.booleans()):
        late = replace(late, kind="reads")
    axes = (late.task.grid.axes[0], early.task.grid.axes[0], late.task.grid.axes[0])
    every = np.arange(len(axes[0]))
    waits = data.draw(st.booleans())

    def behaviours(k: np.ndarray | None) -> set[tuple[int, ...]]:
        found = _along(late, early, axes, 0, waits=waits, k=k)
        (a, b), (c, d) = found.meets, found.waits
        meets, empty = a < b, c == d
        shifts = [np.where(meets & ~empty, z, 0) for z in (a - c, b - d)]
        return set(zip(*(z.tolist() for z in (meets, b - a, empty, d - c, *shifts)), strict=True))

    assert behaviours(None) == behaviours(every)
    for grid in (late.task.grid, early.task.grid):
        told = context_of(grid), context_of(grid, x), sharing_of(grid, x)
        with mock.patch(
            "snakemake_blocks.proof.spans.telling", lambda axis, **_: np.arange(len(axis))
        ):
            assert (context_of(grid), context_of(grid, x), sharing_of(grid, x)) == told


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_written_is_named_to_the_voxel(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> Index:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    begin, shape, step = pair(-5, 5), pair(1, 12), pair(1, 7)
    roi = Box(begin, tuple(b + s for b, s in zip(begin, shape, strict=True)))
    fit = data.draw(st.sampled_from(["valid", "shrink", "overhang"]))
    try:
        plan, tasks = planned(task("t", roi, step, 2, fit=fit, blocks_per_job=(2, 1)))
    except SpecError:  # no block fits
        assume(False)
    proof = check_plan(plan, tasks)
    count = np.zeros((30, 30), int)
    for block in plan.blocks("t"):
        box = Box.from_roi(block.write_roi).shift((5, 5))
        count[tuple(map(slice, box.begin, box.end))] += 1
    written = re.search(
        r"write every voxel of (\(.*\) to \(.*\)) exactly once", "".join(proof.proved)
    )
    assert written
    low, high = (tuple(map(int, t[1:-1].split(", "))) for t in written[1].split(" to "))
    inner = tuple(slice(b + 5, e + 5) for b, e in zip(low, high, strict=True))
    assert (count[inner] == 1).all()
    inside = tuple(slice(b + 5, e + 5) for b, e in zip(roi.begin, roi.end, strict=True))
    assert count[inside].sum() == count[inner].sum()
    left_out = [count[inside].shape[a] - count[inner].shape[a] for a in (0, 1)]
    beyond = [max(0, np.nonzero(count)[a].max() + 1 - 5 - roi.end[a]) for a in (0, 1)]
    for word, sizes in (("leaves", left_out), ("writes", beyond)):
        said = f" {word} ({sizes[0]}, {sizes[1]}) world units"
        assert any(said in w for w in proof.warnings) == any(sizes)
