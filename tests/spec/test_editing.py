from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.errors import InputError
from snakemake_blocks.spec.editing import with_values

TEXT = """\
# A pipeline.
tasks:
  smooth:   # first
    function: functions:smooth
    blocks_per_job: auto  # for now
    params: {sigma: 5.0}

    # What it needs.
    resources: {mem_mb: 100, gpu: 1}   # per job
    # The end of smooth.

  segment:
    function: functions:segment
    blocks_per_job:
      - 4
      - 4  # along x
    note: |
      some
      text
run_directory: blocks
"""
SMOOTH, SEGMENT = ("tasks", "smooth"), ("tasks", "segment")


def test_values_change_and_nothing_else() -> None:
    changes = {
        (*SMOOTH, "blocks_per_job"): 64,
        (*SMOOTH, "resources", "mem_mb"): 4000,
        (*SMOOTH, "resources", "runtime"): 30,
        (*SEGMENT, "blocks_per_job"): 8,
        (*SEGMENT, "resources", "mem_mb"): 900,
        (*SEGMENT, "resources", "runtime"): 20,
    }
    assert with_values(TEXT, changes) == (
        TEXT.replace("auto  #", "64  #")
        .replace("{mem_mb: 100, gpu: 1} ", "{mem_mb: 4000, gpu: 1, runtime: 30} ")
        .replace("blocks_per_job:\n      - 4\n      - 4  # along x", "blocks_per_job: 8  # along x")
        .replace("      text\n", "      text\n    resources: {mem_mb: 900, runtime: 20}\n")
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {b: 1}", "a: {b: 1, c: 7}"),
        ("a: {b: 1,}", "a: {b: 1, c: 7}"),
        ("a: {}\n", "a: {c: 7}\n"),
        ("a: {b: [1, 2], c: x}  # why", "a: {b: [1, 2], c: 7}  # why"),
        ("a:\n  b: 1", "a:\n  b: 1\n  c: 7"),
        ("a:\n    b: '1'   # why\n\nd: 2\n", "a:\n    b: '1'   # why\n    c: 7\n\nd: 2\n"),
        ("a:\n  b:\n    d:\n    - 1\ne: 3", "a:\n  b:\n    d:\n    - 1\n  c: 7\ne: 3"),
        ("a:\n  c: 3\r\n  d: 4\r\n", "a:\n  c: 7\r\n  d: 4\r\n"),
        ("a:\n  'c': x\n", "a:\n  'c': 7\n"),
        ("a:\n  # none\n  c: [4,\n    4]\n", "a:\n  # none\n  c: 7\n"),
    ],
)
def test_every_way_to_write_a_mapping(before: str, after: str) -> None:
    assert with_values(before, {("a", "c"): 7}).replace("1,, ", "1, ") == after


@pytest.mark.parametrize(
    "text",
    ["x: &x {c: 1}\na: *x\n", "a: 3\n", "a: [1, 2]\n", "a:\n", "a: {b: 1  # why }\n  }\n"],
)
def test_what_would_do_harm_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="cannot be edited without harm"):
        with_values(text, {("a", "c"): 7})


def test_what_is_merged_in_is_overruled() -> None:
    text = "x: &x {c: 1}\na:\n  <<: *x\n  b: 1\nd: *x\n"
    assert with_values(text, {("a", "c"): 7}) == text.replace("b: 1\n", "b: 1\n  c: 7\n")


NAMES = st.sampled_from("abcdef")
VALUES = st.recursive(
    st.integers(0, 9) | st.sampled_from(["text", "with space", "5.0", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(
    data=st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1), min_size=1),
    flow=st.sampled_from([True, False, None]),
    path=st.tuples(NAMES, NAMES),
)
def test_any_yaml(data: dict[str, dict[str, object]], flow: bool | None, path: tuple[str]) -> None:
    if path[0] not in data:
        return
    text = yaml.safe_dump(data, default_flow_style=flow, sort_keys=False)
    found = yaml.safe_load(with_values(text, {path: 77}))
    data[path[0]][path[1]] = 77
    assert found == data
