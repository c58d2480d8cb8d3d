from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from project import Project

from snakemake_blocks.errors import BlocksError, InputError, SpecError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.operations.registry import json_schema, load_pipeline

FUNCTIONS = """
    CONSTANT = 3

    def smooth(raw, sigma=1):
        return raw

    def segment(block):
        pass

    def needy(raw, *, window):
        return raw

    class Model:
        def __init__(self, path):
            pass

        def __call__(self, block):
            pass
"""
SMOOTH: dict[str, Any] = {
    "function": "functions:smooth",
    "call": "arrays",
    "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
    "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
    "roi": "s.zarr/raw",
    "block_size": [16, 16],
    "context": 2,
}
PLAIN: dict[str, Any] = {
    "function": "functions:segment",
    "roi": {"offset": [0, 0], "shape": [64, 64]},
    "block_size": [16, 16],
}
MISSING = object()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions and the arrays that the tables below name."""
    project = Project(tmp_path_factory.mktemp("template"))
    project.functions(FUNCTIONS)
    flat = np.ones((64, 64), np.uint8)
    project.array("s.zarr/raw", flat, offset=[0, 0], voxel_size=[1, 1])
    project.array("s.zarr/raw3", np.ones((8, 8, 8), np.uint8), voxel_size=[1, 1, 1])
    project.array("s.zarr/coarse", np.ones((16, 32), np.uint8), voxel_size=[4, 2])
    project.array("s.zarr/fraction", flat, voxel_size=[0.29898804047838085, 2])
    project.array("s.zarr/zero", flat, voxel_size=[0, 2])
    project.array("s.zarr/last", np.ones((8, 8, 3)), axis_names=["y", "x", "c^"])
    project.array("s.zarr/out16", np.ones((64, 64), np.uint16), voxel_size=[1, 1])
    project.array("s.zarr/half", np.ones((32, 64), np.uint8), voxel_size=[1, 1])
    project.array("s.zarr/nothing", np.zeros((64, 64), np.uint8), voxel_size=[1, 1])
    return project.folder


@pytest.fixture
def stored(project: Project, template: Path) -> Project:
    """A project with a copy of the template."""
    shutil.copytree(template, project.folder, dirs_exist_ok=True)
    return project


def changed(task: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a task with keys replaced, or left out where they are MISSING."""
    return {k: v for k, v in {**task, **changes}.items() if v is not MISSING}


def refused(path: Path) -> list[str]:
    """Return what is said of a pipeline, one line per problem."""
    with pytest.raises(SpecError) as caught:
        load_pipeline(path)
    return list(caught.value.problems)


# Each entry: changes of SMOOTH, and what is said of tasks.smooth.
ONE_MISTAKE: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt key": (
        {"blocksize": [1, 1]},
        "blocksize: is not a known key; did you mean block_size?",
    ),
    "a foreign key": (
        {"reads": {"raw": {"array": "s.zarr/raw", "colour": 0}}},
        "reads.raw.colour: is not a known key; known are array, fill, context, select",
    ),
    "no roi": ({"roi": MISSING}, "roi: is missing"),
    "no function": ({"function": MISSING}, "function: is missing"),
    # types
    "another key than voxels": (
        {"block_size": {"voxels": 16, "units": 4}},
        "block_size.units: is not a known key; known are voxels",
    ),
    "no voxels": (
        {"block_size": {"voxels": [16, 0]}},
        "block_size.voxels.1: must be at least 1, got 0",
    ),
    "too few voxels": (
        {"block_size": {"voxels": [16]}},
        "block_size: 1 size for a 2-D roi; give one per axis",
    ),
    "voxels on one side": (
        {"context": {"voxels": {"lover": 2}}},
        "context: there is no axis lover to cut; its array names none; give a list, or give lower "
        "and upper",
    ),
    "a truth for a size": (
        {"block_size": [True, 16]},
        "block_size.0: must be a whole number, got true",
    ),
    "a fraction for a size": (
        {"block_size": [16.5, 16]},
        "block_size.0: must be a whole number, got 16.5",
    ),
    "text for a size": (
        {"block_size": ["16", 16]},
        'block_size.0: must be a whole number, got "16"',
    ),
    "no size": ({"block_size": [0, 16]}, "block_size.0: must be at least 1, got 0"),
    "too large a size": (
        {"block_size": [10**30, 16]},
        f"block_size.0: must be at most 9007199254740992, got {10**30}",
    ),
    "negative context": ({"context": -2}, "context: must be at least 0, got -2"),
    "negative upper context": (
        {"context": {"lower": 0, "upper": [1, -1]}},
        "context.upper.1: must be at least 0, got -1",
    ),
    "a truth for a context": ({"context": True}, "context: must be a whole number, got true"),
    "text for a context": (
        {"context": "wide"},
        "context: must be a whole number, a list with one per axis, or sizes by the names of axes, "
        'or {lower: ..., upper: ...}, or {voxels: ...}, got "wide"',
    ),
    "an unknown fit": ({"fit": "srink"}, 'fit: must be valid, overhang or shrink, got "srink"'),
    "an unknown call": (
        {"call": "array"},
        'call: must be block, arrays, worker, once or reduce, got "array"',
    ),
    "a number for a truth": ({"conflict": 1}, "conflict: must be true or false, got 1"),
    "negative retries": ({"retries": -1}, "retries: must be at least 0, got -1"),
    "a truth for retries": ({"retries": True}, "retries: must be a whole number, got true"),
    "no worker": ({"workers": 0}, "workers: must be at least 1, got 0"),
    "an unknown time": (
        {"timeout": "5 parsecs"},
        "timeout: '5 parsecs' is not a time; write seconds, or 90s, 10m, 2h, 1d",
    ),
    "a truth for a time": (
        {"timeout": True},
        "timeout: must be seconds, or a time like 90s, 10m, 2h, 1d, got true",
    ),
    "a time without end": (
        {"timeout": "9" * 400 + "h"},
        f"timeout: '{'9' * 59} is not a time; write seconds, or 90s, 10m, 2h, 1d",
    ),
    "no time": ({"timeout": 0}, "timeout: must be positive, got 0; leave it out for none"),
    "never": ({"timeout": float("inf")}, "timeout: must be a finite number, got Infinity"),
    "an unknown batch": (
        {"blocks_per_job": "many"},
        'blocks_per_job: must be auto, a whole number, or a list with one per axis, got "many"',
    ),
    "a list of resources": (
        {"resources": {"mem_mb": [1]}},
        "resources.mem_mb: must be a number or text, got [1]",
    ),
    "a Python word": (
        {"resources": {"lambda": 1}},
        "resources.lambda: cannot be the name of a resource; choose another",
    ),
    "our own resource": (
        {"resources": {"attempt": 1}},
        "resources.attempt: cannot be the name of a resource; choose another",
    ),
    "a name that Snakemake needs": (
        {"resources": {"items": 1}},
        "resources.items: cannot be the name of a resource; choose another",
    ),
    "no amount of memory": (
        {"resources": {"mem": "lots"}},
        "resources.mem: 'lots' is no amount; write e.g. 2GB",
    ),
    "no amount of time": (
        {"resources": {"runtime": "2x"}},
        "resources.runtime: '2x' is no amount; write e.g. 90m, or a number of minutes",
    ),
    "more workers than allowed": (
        {"workers": 4, "max_workers": 2},
        "max_workers: 2 processes over all jobs are fewer than the 4 workers of one job",
    ),
    "the workers' resource": (
        {"resources": {"smooth_workers": 1}, "max_workers": 2},
        "resources.smooth_workers: is made from max_workers; use that",
    ),
    "a name with a space": (
        {"resources": {"my mem": 1}},
        "resources.my mem: a name here has to begin with a letter; only letters, digits and _ "
        "may follow",
    ),
    "a parameter that is no JSON": (
        {
            "function": "functions:Model",
            "call": "block",
            "reads": {},
            "writes": {},
            "params": {"path": {1, 2}},
        },
        "params.path: {1, 2} of the type set would arrive as another; give a list, and "
        "make the set in the function",
    ),
    # functions
    "a path for a function": (
        {"function": "functions.smooth"},
        'function: must be a function as module:name, got "functions.smooth"',
    ),
    "no such module": (
        {"function": "funtions:smooth"},
        "function: there is no module funtions; put funtions.py beside the pipeline or install it",
    ),
    "no such function": (
        {"function": "functions:smoothe"},
        "function: functions.py defines no smoothe",
    ),
    "a constant": (
        {"function": "functions:CONSTANT"},
        "function: CONSTANT of functions.py is 3, not a function",
    ),
    "no such method": (
        {"function": "functions:Model.go"},
        "function: Model of functions.py defines no go",
    ),
    "no such check": ({"check": "functions:nope"}, "check: functions.py defines no nope"),
    "no such check after": (
        {"check": {"after": "functions:nope"}},
        "check.after: functions.py defines no nope",
    ),
    "an unknown parameter": (
        {"params": {"sigmoid": 2}},
        "params.sigmoid: functions:smooth has no argument of this name; it takes raw, sigma",
    ),
    "a missing parameter": (
        {"function": "functions:needy"},
        "function: functions:needy needs window; add to reads or params",
    ),
    "a parameter like a read": (
        {"params": {"raw": 2}},
        "params.raw: the function gets another argument of this name",
    ),
    # geometry
    "a size too few": ({"block_size": [16]}, "block_size: 1 size for a 2-D roi; give one per axis"),
    "a context too many": (
        {"context": [1, 2, 3]},
        "context: 3 sizes for a 2-D roi; give one per axis",
    ),
    "a batch too many": (
        {"blocks_per_job": [2, 2, 2]},
        "blocks_per_job: 3 counts for a 2-D roi; give one per axis",
    ),
    "a roi too small": (
        {"roi": {"offset": [0, 0], "shape": [8, 64]}},
        "roi: no block of (16, 16) fits into (8, 64) with fit valid; use a smaller block or "
        "fit: shrink",
    ),
    "a roi of two minds": (
        {"roi": {"offset": [0], "shape": [64, 64]}},
        "roi: 1 axes by offset, 2 by shape; give both an entry per axis",
    ),
    "a roi without axes": (
        {"roi": {"offset": [], "shape": [8]}},
        "roi.offset: must not be empty, got []",
    ),
    # arrays
    "no such array": (
        {"reads": {"raw": "s.zarr/nope"}},
        "reads.raw: s.zarr/nope: there is no array, and no task writes one there",
    ),
    "a group": (
        {"roi": "s.zarr"},
        "roi: s.zarr: is a group, not an array; it holds coarse, "
        "fraction, half, last, nothing, out16, raw, raw3, zero",
    ),
    "a file": ({"roi": "functions.py"}, "roi: functions.py: is a file, not a Zarr array"),
    "a remote array": (
        {"reads": {"raw": "s3://a/b"}},
        "reads.raw: s3://a/b: is remote; only local paths work yet",
    ),
    "another dimension": (
        {"reads": {"raw": "s.zarr/raw3"}},
        "reads.raw: s.zarr/raw3 has 3 spatial axes, the roi 2",
    ),
    "a fractional voxel size": (
        {"reads": {"raw": "s.zarr/fraction"}},
        "reads.raw: s.zarr/fraction: voxel_size [0.29898804047838085, 2] is no simple fraction of "
        "the voxels of the other arrays of its tasks; store it on the same raster, or use it in a "
        "pipeline of its own",
    ),
    "no voxel size": (
        {"reads": {"raw": "s.zarr/zero"}},
        "reads.raw: s.zarr/zero: voxel_size [0, 2] is not positive",
    ),
    "channels last": (
        {"reads": {"raw": "s.zarr/last"}},
        "reads.raw: s.zarr/last: channel axes have to lead, spatial axes are [0, 1] of 3; store "
        "the array transposed",
    ),
    "a fill that does not fit": (
        {"reads": {"raw": {"array": "s.zarr/raw", "fill": 300}}},
        "reads.raw.fill: uint8 of s.zarr/raw cannot hold 300",
    ),
    "a fill above all whole numbers": (
        {"reads": {"raw": {"array": "s.zarr/raw", "fill": 2**64}}},
        "reads.raw.fill: must be at most 18446744073709551615, got 18446744073709551616",
    ),
    "a block of half voxels": (
        {
            "reads": {"raw": {"array": "s.zarr/coarse", "fill": 0}},
            "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8", "voxel_size": [1, 1]}},
            "block_size": [18, 16],
            "context": 0,
        },
        "block_size: block size (18, 16) is not a multiple of the voxel size (4, 2) of "
        "s.zarr/coarse (reads.raw); use (16, 16) or (20, 16)",
    ),
    "an unknown type": (
        {"writes": {"out": {"array": "s.zarr/out", "dtype": "unit8"}}},
        "writes.out.dtype: 'unit8' is not a numpy type of numbers",
    ),
    "objects": (
        {"writes": {"out": {"array": "s.zarr/out", "dtype": "object"}}},
        "writes.out.dtype: 'object' is not a numpy type of numbers",
    ),
    "another type on disk": (
        {"writes": {"out": {"array": "s.zarr/out16", "dtype": "uint8"}}},
        "writes.out.dtype: s.zarr/out16 has uint16, not uint8; write to another array or delete "
        "this one",
    ),
    "other channels on disk": (
        {"writes": {"out": {"array": "s.zarr/out16", "dtype": "uint16", "channels": [3]}}},
        "writes.out.channels: s.zarr/out16 has [], not [3]; write to another array or delete "
        "this one",
    ),
    "too small an output on disk": (
        {"writes": {"out": {"array": "s.zarr/half", "dtype": "uint8"}}},
        "writes.out: s.zarr/half covers (0, 0) to (32, 64), less than the roi, (0, 0) to "
        "(64, 64); write to another array or delete this one",
    ),
    "an array in an array": (
        {"writes": {"out": {"array": "s.zarr/raw/out", "dtype": "uint8"}}},
        "writes.out: s.zarr/raw/out: s.zarr/raw is an array, and an array holds no other; choose "
        "another path",
    ),
    "a path for a write": (
        {"writes": {"out": "s.zarr/out"}},
        'writes.out: must be {array: ..., dtype: ...}, got "s.zarr/out"',
    ),
    "one array under two names": (
        {
            "writes": {
                n: {"array": p, "dtype": "uint8"}
                for n, p in (("out", "s.zarr/out"), ("two", "s.zarr//out"))
            }
        },
        "writes.two: s.zarr/out is written under another name already",
    ),
    "nothing written": (
        {"writes": {}},
        "writes: call: arrays needs at least one array to write, a table or an output",
    ),
    "a mask of another dimension": (
        {"mask": "s.zarr/raw3"},
        "mask: s.zarr/raw3 has 3 spatial axes, the roi 2",
    ),
    "a mask of zeros": (
        {"mask": "s.zarr/nothing"},
        "mask: s.zarr/nothing is zero wherever this task writes; no block is left",
    ),
    "its own mask": (
        {"mask": "s.zarr/out"},
        "mask: s.zarr/out is written by smooth, but masks are read before anything runs; make it "
        "with a pipeline of its own",
    ),
    # other tasks
    "a dangling name": ({"after": ["smoth"]}, "after: there is no task smoth; known are smooth"),
    "itself": ({"after": ["smooth"]}, "after: smooth would wait for itself; remove it"),
}


class TestOneMistake:
    @pytest.mark.parametrize("name", ONE_MISTAKE)
    def test_is_named_with_its_place(self, stored: Project, name: str) -> None:
        changes, problem = ONE_MISTAKE[name]
        task = changed(SMOOTH, changes)
        if name == "a parameter that is no JSON":
            stored.pipeline.write_text(yaml.dump({"tasks": {"smooth": task}}))  # !!set
        else:
            stored.write(("smooth", task))
        assert refused(stored.pipeline) == [f"pipeline.yaml: tasks.smooth.{problem}"]

    def test_without_any_the_pipeline_is_read(self, stored: Project) -> None:
        stored.write(("smooth", SMOOTH))
        assert [task.task_id for task in load_pipeline(stored.pipeline).tasks] == ["smooth"]


# What stands in the file, and what is said of it.
NO_PIPELINE = {
    "": "is empty; describe your tasks under the key tasks",
    "# soon\n": "is empty; describe your tasks under the key tasks",
    "tasks\n": "is not a mapping of keys to values; describe your tasks under the key tasks",
    "- tasks\n": "is not a mapping of keys to values; describe your tasks under the key tasks",
    "tasks: [1, 2\n": "line 2, column 1: not YAML: expected ',' or ']', but got '<stream end>'",
    "tasks:\n\ta: 1\n": (
        "line 2, column 1: not YAML: found character '\\t' that cannot start any token"
    ),
    "tasks: \x00\n": "not YAML: special characters are not allowed",
    "tasks: 2001-99-99\n": "line 1, column 8: 2001-99-99 is no value of the type timestamp",
    "a: !!python/object:os.system x\n": "line 1, column 4: not YAML: could not determine a "
    "constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
    "[" * 1500: "is nested too deeply",
    "tasks: {}\ntasks: {}\n": "line 2, column 1: tasks is given twice; remove one",
    "tasks:\n  a: {fit: valid, fit: shrink}\n": "line 2, column 19: fit is given twice; remove one",
    "tasks:\n": "tasks: must be a mapping of keys to values, got nothing",
    "tasks: {}\n": "tasks: must not be empty, got {}",
    "tasks: [1]\n": "tasks: must be a mapping of keys to values, got [1]",
    "tasks: {a: }\n": "tasks.a: must be a mapping of keys to values, got nothing",
    "run_directory: a\n": "tasks: is missing",
}


class TestTheFile:
    @pytest.mark.parametrize("text", NO_PIPELINE)
    def test_that_is_no_pipeline(self, project: Project, text: str) -> None:
        project.pipeline.write_text(text)
        assert refused(project.pipeline) == [f"pipeline.yaml: {NO_PIPELINE[text]}"]

    def test_that_is_no_text(self, project: Project) -> None:
        project.pipeline.write_bytes(b"tasks: \xff\xfe")
        assert refused(project.pipeline) == [
            "pipeline.yaml: is not UTF-8 text (invalid start byte)"
        ]

    def test_that_is_not_there(self, project: Project) -> None:
        with pytest.raises(InputError, match=r"pipeline\.yaml: No such file or directory"):
            load_pipeline(project.pipeline)

    def test_that_is_a_folder(self, project: Project) -> None:
        with pytest.raises(InputError, match="is a folder, not a file"):
            load_pipeline(project.folder)

    @pytest.mark.parametrize("name", ["2smooth", "my-task", "my task", ""])
    def test_names_of_tasks(self, stored: Project, name: str) -> None:
        stored.write((name, SMOOTH))
        problem = "a name here has to begin with a letter; only letters, digits and _ may follow"
        assert refused(stored.pipeline) == [f"pipeline.yaml: tasks.{name or repr('')}: {problem}"]

    def test_a_name_that_yaml_takes_for_a_number(self, stored: Project) -> None:
        stored.pipeline.write_text("tasks: {7: {}}\n")
        assert "YAML reads this name as 7; put it in quotes" in refused(stored.pipeline)[0]

    def test_a_name_that_yaml_takes_for_a_truth(self, stored: Project) -> None:
        stored.pipeline.write_text("tasks: {yes: {}}\n")
        assert "YAML reads this name as true; put it in quotes" in refused(stored.pipeline)[0]

    def test_anchors_and_merges_work(self, stored: Project) -> None:
        stored.pipeline.write_text(
            "tasks:\n"
            "  a: &a {function: functions:segment, roi: s.zarr/raw, block_size: [16, 16]}\n"
            "  b: {<<: *a, block_size: [32, 32]}\n"
        )
        a, b = load_pipeline(stored.pipeline).tasks
        assert (a.grid.shape, b.grid.shape) == ((4, 4), (2, 2))


class TestAllAtOnce:
    def test_five_mistakes_of_form_and_geometry(self, stored: Project) -> None:
        wrong = {
            "function": "functions.smooth",
            "call": "array",
            "block_size": [16],
            "context": -2,
            "fit": "srink",
        }
        stored.write(("smooth", {**SMOOTH, **wrong}))
        said = refused(stored.pipeline)
        assert len(said) == 5
        for key in wrong:
            assert (
                sum(line.startswith(f"pipeline.yaml: tasks.smooth.{key}: ") for line in said) == 1
            )

    def test_seven_mistakes_found_on_disk(self, stored: Project) -> None:
        wrong = {
            "function": "functions:smoothe",
            "block_size": [16],
            "context": [1, 1, 1],
            "writes": {"out": {"array": "s.zarr/out", "dtype": "unit8"}},
            "mask": "s.zarr/raw3",
            "timeout": "soon",
            "after": ["nobody"],
        }
        stored.write(("smooth", {**SMOOTH, **wrong}))
        said = refused(stored.pipeline)
        assert len(said) == 7
        for key in wrong:
            assert sum(line.startswith(f"pipeline.yaml: tasks.smooth.{key}") for line in said) == 1

    def test_a_mistake_is_not_held_against_those_who_depend_on_it(self, stored: Project) -> None:
        reader = {**SMOOTH, "reads": {"raw": "s.zarr/out"}, "roi": "s.zarr/out"}
        reader["writes"] = {"out": {"array": "s.zarr/out2", "dtype": "uint8"}}
        stored.write(("a", {**SMOOTH, "block_size": [16]}), ("b", {**reader, "fit": "srink"}))
        assert refused(stored.pipeline) == [
            'pipeline.yaml: tasks.b.fit: must be valid, overhang or shrink, got "srink"',
            "pipeline.yaml: tasks.a.block_size: 1 size for a 2-D roi; give one per axis",
        ]

    def test_a_mistake_of_form_hides_no_writer(self, stored: Project) -> None:
        reader = {**SMOOTH, "reads": {"raw": "s.zarr/out"}, "after": ["a"]}
        reader["writes"] = {"out": {"array": "s.zarr/out2", "dtype": "uint8"}}
        stored.write(("a", {**SMOOTH, "block_size": "16"}), ("b", reader))
        assert refused(stored.pipeline) == [
            "pipeline.yaml: tasks.a.block_size: must be a whole number, a list with one per "
            'axis, or sizes by the names of axes, or {voxels: ...}, got "16"'
        ]

    def test_one_array_that_is_missing_is_named_once(self, stored: Project) -> None:
        stored.write(("smooth", {**SMOOTH, "reads": {"raw": "s.zarr/no"}, "roi": "s.zarr/no"}))
        assert len(refused(stored.pipeline)) == 1


class TestCycles:
    def test_through_after(self, stored: Project) -> None:
        stored.write(("a", {**PLAIN, "after": ["b"]}), ("b", {**PLAIN, "after": ["a"]}))
        assert refused(stored.pipeline) == [
            "pipeline.yaml: tasks.a.after: a waits for b, b waits for a; cut one of these needs"
        ]

    def test_through_arrays_that_do_not_exist_yet(self, stored: Project) -> None:
        one = {**SMOOTH, "reads": {"raw": "s.zarr/two"}}
        two = {**SMOOTH, "reads": {"raw": "./s.zarr//out"}}
        two["writes"] = {"out": {"array": "s.zarr/two", "dtype": "uint8"}}
        stored.write(("one", one), ("two", two))
        assert refused(stored.pipeline) == [
            "pipeline.yaml: tasks.one.after: one waits for two, two waits for one; cut one of "
            "these needs"
        ]


class TestTasks:
    def test_the_roi_is_the_write_roi(self, stored: Project) -> None:
        stored.write(("smooth", {**SMOOTH, "context": {"lower": [3, 0], "upper": 1}}))
        task = load_pipeline(stored.pipeline).tasks[0]
        assert task.write_extent == Box((0, 0), (64, 64))
        assert Box.from_roi(task.total_roi) == Box((-3, 0), (65, 65))
        assert (task.lower, task.upper) == ((3, 0), (1, 1))

    def test_defaults_are_the_designs(self, stored: Project) -> None:
        stored.write(("plain", PLAIN))
        task = load_pipeline(stored.pipeline).tasks[0]
        assert (task.operation.call, task.fit, task.read_write_conflict) == ("block", "valid", True)
        assert (task.max_retries, task.timeout, task.budget.max_workers) == (2, None, None)
        assert (task.budget.workers, task.budget.threads, task.chunks) == (1, 1, "color")
        assert task.blocks_per_job == "auto"

    @pytest.mark.parametrize(
        ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400), (2, 2)]
    )
    def test_times(self, stored: Project, text: Any, seconds: float) -> None:
        stored.write(("plain", {**PLAIN, "timeout": text}))
        assert load_pipeline(stored.pipeline).tasks[0].timeout == seconds

    @pytest.mark.parametrize(
        "resources",
        [
            {"mem": "2GB", "disk": "1.5 TiB", "runtime": "90m"},
            {"mem": "500 MB", "runtime": "2 hours", "gpu": 1, "slurm_partition": "a b"},
            {"mem_mb": 100, "runtime": 1.5, "disk_mb": 3},
        ],
    )
    def test_resources_that_snakemake_understands(
        self, stored: Project, resources: dict[str, Any]
    ) -> None:
        stored.write(("plain", {**PLAIN, "resources": resources}))
        assert load_pipeline(stored.pipeline).tasks[0].budget.resources == resources

    def test_readers_are_linked_to_writers_however_paths_are_written(self, stored: Project) -> None:
        reader = {**SMOOTH, "reads": {"raw": f"{stored.folder}/s.zarr/./out"}, "context": 0}
        reader["writes"] = {"out": {"array": "s.zarr/out2", "dtype": "uint8"}}
        stored.write(("reader", reader), ("writer", SMOOTH))
        pipeline = load_pipeline(stored.pipeline)
        assert pipeline.upstream == {"writer": (), "reader": ("writer",)}
        assert [task.task_id for task in pipeline.tasks] == ["writer", "reader"]

    def test_an_array_to_be_made_takes_after_what_is_read(self, stored: Project) -> None:
        stored.array("n.zarr/raw", np.ones((2, 16, 32), np.uint8), offset=[-64, 8],
                     voxel_size=[4, 2], units=["nm", "nm"])  # fmt: skip
        out = {"out": {"array": "n.zarr/out", "dtype": "float32", "channels": [3]}}
        stored.write(("smooth", {**SMOOTH, "reads": {"raw": "n.zarr/raw"}, "roi": "n.zarr/raw",
                                 "writes": out, "block_size": [32, 16], "context": 0}))  # fmt: skip
        array = load_pipeline(stored.pipeline).tasks[0].operation.writes["out"].array
        assert (array.offset, array.voxel_size, array.units) == ((-64, 8), (4, 2), ("nm", "nm"))
        assert (array.shape, array.channels, array.chunks) == ((16, 32), (3,), (3, 8, 8))
        assert not array.exists

    def test_an_overhanging_output_holds_the_overhang(self, stored: Project) -> None:
        stored.write(("smooth", {**SMOOTH, "block_size": [40, 64], "fit": "overhang"}))
        array = load_pipeline(stored.pipeline).tasks[0].operation.writes["out"].array
        assert array.roi == Box((0, 0), (80, 64))

    def test_masked_blocks_are_absent(self, stored: Project) -> None:
        mask = np.zeros((64, 64), np.uint8)
        mask[20, 20] = 1
        stored.array("s.zarr/mask", mask, voxel_size=[1, 1])
        stored.write(("smooth", {**SMOOTH, "mask": "s.zarr/mask"}))
        present = load_pipeline(stored.pipeline).tasks[0].present
        assert present is not None
        assert np.argwhere(present).tolist() == [[1, 1]]

    def test_the_run_directory_lies_beside_the_pipeline(self, stored: Project) -> None:
        stored.write(("plain", PLAIN), run_directory="state/here")
        assert load_pipeline(stored.pipeline).run_directory == stored.folder / "state" / "here"

    def test_nothing_is_written(self, stored: Project) -> None:
        stored.write(("smooth", SMOOTH))
        before = stored.files()
        load_pipeline(stored.pipeline)
        assert stored.files() == before


class TestVoxels:
    """Sizes counted in voxels of the roi's array, else of the first one read."""

    COARSE: ClassVar[dict[str, Any]] = {
        **SMOOTH,
        "reads": {"raw": {"array": "s.zarr/coarse", "fill": 0}},
        "roi": "s.zarr/coarse",
        "context": 0,
    }

    def same(self, stored: Project, one: dict[str, Any], other: dict[str, Any]) -> None:
        """Both changes of a task give the same blocks, and the same arrays to make."""
        found = []
        for change in (one, other):
            stored.write(("smooth", {**self.COARSE, **change}))
            (task,) = load_pipeline(stored.pipeline).tasks
            context = task.operation.reads["raw"].context
            found.append((task.grid, task.write_extent, task.operation.written, context))
        assert found[0] == found[1]

    def test_are_those_of_the_rois_array(self, stored: Project) -> None:
        """Its voxels are 4 by 2."""
        self.same(
            stored,
            {
                "block_size": {"voxels": [4, 8]},
                "context": {"voxels": {"lower": 1, "upper": [0, 3]}},
            },
            {"block_size": [16, 16], "context": {"lower": [4, 2], "upper": [0, 6]}},
        )

    def test_one_number_is_for_all_axes(self, stored: Project) -> None:
        self.same(
            stored,
            {"block_size": {"voxels": 4}, "context": {"voxels": 2}},
            {"block_size": [16, 8], "context": [8, 4]},
        )
        self.same(stored, {"block_size": 16}, {"block_size": [16, 16]})

    def test_of_a_read(self, stored: Project) -> None:
        def read(context: Any) -> dict[str, Any]:
            one = {"array": "s.zarr/coarse", "fill": 0, "context": context}
            return {"reads": {"raw": one}, "context": 0}

        self.same(stored, read({"voxels": 1}), read([4, 2]))

    def test_of_a_region_they_are_counted_from_the_arrays_first_one(self, stored: Project) -> None:
        stored.array("s.zarr/far", np.ones((16, 32)), voxel_size=[4, 2], offset=[40, -6])
        reads = {"reads": {"raw": {"array": "s.zarr/far", "fill": 0}}, "block_size": {"voxels": 4}}
        self.same(
            stored,
            {**reads, "roi": {"voxels": {"offset": [1, -2], "shape": [8, 16]}}},
            {**reads, "roi": {"offset": [44, -10], "shape": [32, 32]}},
        )

    def test_without_an_array_there_are_none(self, stored: Project) -> None:
        stored.write(("plain", {**PLAIN, "block_size": {"voxels": 16}, "context": {"voxels": 1}}))
        assert refused(stored.pipeline) == [
            f"pipeline.yaml: tasks.plain.{key}: there is no array whose voxels could be counted; "
            "use world units"
            for key in ("block_size", "context")
        ]


class TestUnit:
    """What a world unit is, and arrays that are in other units."""

    @pytest.fixture
    def measured(self, stored: Project) -> Project:
        micrometers = {"units": ["micrometer"] * 2, "voxel_size": [0.5, 2], "offset": [-1.5, 0]}
        stored.array("s.zarr/um", np.ones((64, 64), np.uint8), **micrometers)
        stored.array("s.zarr/nm", np.ones((32, 64), np.uint8), units="nm", voxel_size=[1000, 2000])
        stored.array("s.zarr/feet", np.ones((32, 64), np.uint8), units="foot", voxel_size=[1, 1])
        return stored

    @staticmethod
    def task(**more: Any) -> tuple[str, dict[str, Any]]:
        reads = {"raw": {"array": "s.zarr/um", "fill": 0}}
        return "smooth", {**SMOOTH, "reads": reads, "roi": "s.zarr/um", **more}

    @pytest.mark.parametrize("unit", ["nanometer", "nm"])
    def test_arrays_are_converted_to_it(self, measured: Project, unit: str) -> None:
        task = self.task(block_size=[8000, 32000], context=2000)
        (found,) = load_pipeline(measured.write(task, unit=unit)).tasks
        assert found.write_extent == Box((-1500, 0), (30500, 128000))
        array = found.operation.writes["out"].array
        assert (array.voxel_size, array.units) == ((500, 2000), ("nanometer", "nanometer"))
        assert array.chunks == (16, 16)

    def test_without_it_the_arrays_own_numbers_are_world_units(self, measured: Project) -> None:
        (found,) = load_pipeline(measured.write(self.task(context=[2, 4]))).tasks
        assert found.scale.array == "s.zarr/um"
        grid = found.scale.grid(found.grid)
        assert (grid.block_size, grid.lower, grid.extent) == (
            (32, 8),
            (4, 2),
            Box((0, 0), (64, 64)),
        )

    def test_world_units_that_cut_voxels_name_the_voxels_to_write(self, measured: Project) -> None:
        with pytest.raises(SpecError) as caught:
            load_pipeline(measured.write(self.task(context=[2, 3])))
        assert str(caught.value) == (
            "pipeline.yaml: tasks.smooth.context: [2, 3] world units are no whole voxels of "
            "s.zarr/um, but (4, 1.5); use {voxels: [4, 1]} or {voxels: [4, 2]}"
        )

    def test_an_array_without_units_is_taken_to_be_in_it(self, measured: Project) -> None:
        task = self.task(reads={"raw": "s.zarr/coarse"}, roi="s.zarr/coarse", context=0)
        (found,) = load_pipeline(measured.write(task, unit="nm")).tasks
        array = found.operation.reads["raw"].array
        assert (array.voxel_size, array.units) == ((4, 2), ("nanometer", "nanometer"))

    @pytest.mark.parametrize("unit", ["voxel", "second", "", "furlong"])
    def test_only_lengths_are_units(self, measured: Project, unit: str) -> None:
        with pytest.raises(SpecError, match="unit: is not a unit of length; write "):
            load_pipeline(measured.write(self.task(), unit=unit))

    def test_arrays_in_different_units_are_refused_without_it(self, measured: Project) -> None:
        reads = {"raw": "s.zarr/nm", "other": "s.zarr/feet", "unknown": "s.zarr/raw"}
        task = self.task(
            call="block",
            function="functions:segment",
            reads=reads,
            roi="s.zarr/nm",
            block_size=[8000, 32000],
            context=0,
            writes={},
        )
        expected = "reads: s.zarr/nm is in nanometer, s.zarr/feet in foot; set unit: nanometer"
        with pytest.raises(SpecError, match=expected):
            load_pipeline(measured.write(task))
        del reads["other"]
        assert load_pipeline(measured.write(task)).tasks


class TestErrorTexts:
    def test_are_one_line_each_and_end_without_a_stop(self, stored: Project) -> None:
        for changes, text in ONE_MISTAKE.values():
            assert "\n" not in text and not text.endswith((".", " ")), changes
            assert "pydantic" not in text and "Model" not in text.removeprefix("function: Model")

    def test_every_error_is_ours(self, stored: Project) -> None:
        stored.pipeline.write_text("tasks: &a\n  smooth: *a\n")
        with pytest.raises(BlocksError):
            load_pipeline(stored.pipeline)


class TestSchema:
    def test_the_shipped_file_is_fresh(self, golden: Callable[[str, str], None]) -> None:
        text = json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
        golden("../../workflow/schemas/pipeline.schema.json", text)

    def test_every_key_is_described(self) -> None:
        known = json_schema()["$defs"]
        for model in (name for name in known if name.endswith(("Model", "Params"))):
            for key, entry in known[model]["properties"].items():
                # the same words are not said twice
                form = known.get(entry.get("$ref", "").rpartition("/")[2], {})
                assert entry.get("description") or form.get("description"), f"{model}.{key}"


# faults: kind 12
@pytest.mark.parametrize(
    "change, place",
    [
        ('run_directory: "a\\0b"', "run_directory"),
        ('run_directory: "a\\nb"', "run_directory"),
        ("<word>: 1", "<word>"),
        ('"[key]": 1', "[key]"),
        ('"": 1', "''"),
    ],
)
def test_hostile_keys_and_paths(project: Project, change: str, place: str) -> None:
    text = project.pipeline.read_text() if project.pipeline.exists() else ""
    project.pipeline.write_text(f"{change}\n{text or 'tasks: {}'}")
    assert any(line.startswith(f"pipeline.yaml: {place}: ") for line in refused(project.pipeline))
