"""Pipelines that would lose data, waste a night or never end: `check` names what is wrong.

All is on disk as users have it, in Zarr format 2 and 3. What each check decides, and that it
decides it as enumeration does, is tested in test_check.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from project import Project

COUNT: dict[str, Any] = {"function": "functions:count", "block_size": [16, 16]}
SMOOTH: dict[str, Any] = {
    "function": "functions:smooth",
    "call": "arrays",
    "reads": {"raw": {"array": "s.zarr/raw", "fill": 0}},
    "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
    "roi": "s.zarr/raw",
    "block_size": [16, 16],
    "conflict": False,
}


def writes(path: str, dtype: str = "uint8", **more: Any) -> dict[str, Any]:
    return {"out": {"array": f"s.zarr/{path}", "dtype": dtype, **more}}


def after(**more: Any) -> dict[str, Any]:
    """Return a task that reads what `smooth` writes."""
    return {**SMOOTH, "reads": {"raw": "s.zarr/out"}, "writes": writes("late"), **more}


# Tasks, and what is said: place and pattern.
WRONG: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "misaligned chunk": (
        {"smooth": {**SMOOTH, "writes": writes("chunks24"), "chunks": "refuse"}},
        r"tasks\.smooth\.block_size: chunks: refuse, and blocks of \(16, 16\) from \(0, 0\) on "
        r"share storage chunks \(or shards\) of \(24, 16\) world units of s\.zarr/chunks24 on "
        r"axis 0; use block_size \(24, 16\)",
    ),
    "misaligned shard": (
        {"smooth": {**SMOOTH, "writes": writes("shards32"), "chunks": "refuse"}},
        r"tasks\.smooth\.block_size: .* of \(32, 32\) world units .*; use block_size \(32, 32\)",
    ),
    "misaligned roi": (
        {
            "smooth": {
                **SMOOTH,
                "writes": writes("chunks16"),
                "chunks": "refuse",
                "roi": {"offset": [8, 0], "shape": [32, 32]},
            }
        },
        r"tasks\.smooth\.roi: .* on axis 0 the roi begins 8 world units into a chunk, begin it at "
        r"0 or 16",
    ),
    "gap left by valid": (
        {
            "smooth": {**SMOOTH, "block_size": [24, 16]},
            "late": after(roi="s.zarr/raw"),
        },
        r"tasks\.late\.reads\.raw: \(48, 0\) to \(64, 64\) of s\.zarr/out is read by block "
        r"\(3, 0\), but smooth writes \(0, 0\) to \(48, 64\) and leaves the rest out by fit: "
        r"valid; use fit: shrink in smooth",
    ),
    "overlapping writers": (
        {"one": SMOOTH, "two": SMOOTH},
        r"tasks\.two\.writes\.out: writes s\.zarr/out, and so does one \(writes\.out\), and "
        r"neither waits for the other where they meet; add after: \[one\]",
    ),
    "missing input": (
        {"smooth": {**SMOOTH, "reads": {"raw": "s.zarr/row"}}},
        r"tasks\.smooth\.reads\.raw: s\.zarr/row: there is no array, and no task writes one there",
    ),
    "block of half a voxel": (
        {"smooth": {**SMOOTH, "reads": {"raw": "s.zarr/coarse"}, "block_size": [18, 16]}},
        r"tasks\.smooth\.block_size: block size \(18, 16\) is not a multiple of the voxel size "
        r"\(4, 4\) of s\.zarr/coarse",
    ),
    "output of another voxel size": (
        {"smooth": {**SMOOTH, "writes": writes("coarse", voxel_size=[2, 2])}},
        r"tasks\.smooth\.writes\.out\.voxel_size: s\.zarr/coarse has \[4, 4\], not \[2, 2\]",
    ),
    "output of another type": (
        {"smooth": {**SMOOTH, "writes": writes("chunks16", "float32")}},
        r"tasks\.smooth\.writes\.out\.dtype: s\.zarr/chunks16 has uint8, not float32",
    ),
    "output of another shape": (
        {"smooth": {**SMOOTH, "writes": writes("half")}},
        r"tasks\.smooth\.writes\.out: s\.zarr/half covers \(0, 0\) to \(32, 64\), less than the "
        r"roi",
    ),
    "context beyond the array": (
        {"smooth": {**SMOOTH, "reads": {"raw": "s.zarr/raw"}, "context": 4}},
        r"tasks\.smooth\.reads\.raw: \(-4, -4\) to \(0, 68\) is read by block \(0, 0\) and lies "
        r"outside of s\.zarr/raw, which covers \(0, 0\) to \(64, 64\); declare a fill",
    ),
    "more to read than is written": (
        {
            "smooth": {**SMOOTH, "roi": "s.zarr/half"},
            "late": after(roi={"offset": [0, 0], "shape": [48, 32]}, reads={"raw": "s.zarr/out"}),
        },
        r"tasks\.late\.reads\.raw: .*is read by block \(2, 0\)",
    ),
    "a circle": (
        {"one": {**SMOOTH, "reads": {"raw": "s.zarr/late"}}, "two": after()},
        r"tasks\.\w+\.after: .*one waits for two.*; cut one of these needs",
    ),
    "tasks of different axes": (
        {
            "flat": {**COUNT, "roi": {"offset": [0, 0], "shape": [16, 16]}},
            "deep": {
                **COUNT,
                "roi": {"offset": [0] * 3, "shape": [16] * 3},
                "block_size": [16] * 3,
                "after": ["flat"],
            },
        },
        r"tasks\.deep\.after: flat has 2 axes and this task 3",
    ),
}


@pytest.fixture
def stored(project: Project) -> Project:
    """A project with functions and arrays of several kinds."""
    project.functions("def smooth(raw):\n    return raw\n\ndef count(block):\n    pass\n")
    plain = np.ones((64, 64), np.uint8)
    place: dict[str, Any] = {"offset": [0, 0], "voxel_size": [1, 1]}
    project.array("s.zarr/raw", plain, **place)
    project.array("s.zarr/chunks16", plain, chunks=(16, 16), **place)
    project.array("s.zarr/shards32", plain, chunks=(8, 8), shards=(32, 32), **place)
    project.array("s.zarr/half", plain[:32], **place)
    project.array("s.zarr/coarse", plain[::4, ::4], offset=[0, 0], voxel_size=[4, 4])
    project.array("v2.zarr/chunks24", plain, chunks=(24, 16), zarr_format=2, **place)
    (project.folder / "v2.zarr/chunks24").rename(project.folder / "s.zarr/chunks24")
    return project


@pytest.mark.parametrize("verb", ["check", "generate"])
@pytest.mark.parametrize("name", WRONG)
def test_is_named_and_nothing_is_written(stored: Project, name: str, verb: str) -> None:
    tasks, expected = WRONG[name]
    stored.write(*tasks.items())
    before = stored.files()
    result = stored.cli(verb, "pipeline.yaml")
    assert result.exit_code == 2
    assert re.search(rf"pipeline\.yaml: {expected}", result.output), result.output
    assert "Traceback" not in result.output
    assert stored.files() == before


@pytest.mark.parametrize("array", ["out", "chunks16", "shards32"])
def test_a_right_one_is_proved(stored: Project, array: str) -> None:
    size = [32, 32] if array == "shards32" else [16, 16]
    task = {**SMOOTH, "writes": writes(array), "block_size": size, "chunks": "refuse", "context": 4}
    stored.write(("smooth", task), ("late", after(reads={"raw": f"s.zarr/{array}"})))
    result = stored.cli("check", "pipeline.yaml")
    assert (result.exit_code, result.output.splitlines()[-1]) == (
        0,
        "pipeline.yaml: proved, it can be run",
    )
