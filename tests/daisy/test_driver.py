"""The driver answers what daisy does, and survives what daisy does to it."""

from __future__ import annotations

from typing import Any

import pytest
from environment import DaisyProcess

Json = dict[str, Any]


def roi(offset: int, shape: int, dims: int = 1) -> Json:
    """Return a ROI with the same extent along every axis."""
    return {"offset": [offset] * dims, "shape": [shape] * dims}


def tiling(
    total: Json, read: Json, write: Json, fit: str = "valid", *, conflict: bool = True
) -> Json:
    """Return a tiling as the driver wants it."""
    return {
        "total_roi": total,
        "read_roi": read,
        "write_roi": write,
        "fit": fit,
        "conflict": conflict,
    }


def test_lists_blocks_in_enumeration_order(daisy: DaisyProcess) -> None:
    """The example of facts: total [0, 29), read [0, 14), write [4, 10), shrink."""
    answer = daisy.ask({"ask": "tiling", **tiling(roi(0, 29), roi(0, 14), roi(4, 6), "shrink")})
    assert answer["num_blocks"] == 4
    assert answer["num_levels"] == 2
    assert answer["refused"] is None
    rows = [(block["id"], block["level"], block["upstream"]) for block in answer["blocks"]]
    assert rows == [(1, 0, []), (3, 0, []), (0, 1, [1]), (2, 1, [1, 3])]
    assert answer["blocks"][1]["read"] == roi(18, 11)
    assert answer["blocks"][1]["write"] == roi(22, 3)


@pytest.mark.parametrize("dims, levels", [(1, 2), (2, 4), (3, 8)])
def test_levels_are_told_apart(daisy: DaisyProcess, dims: int, levels: int) -> None:
    """A context below one block makes two levels per axis, and none is lost or split."""
    blocks = tiling(roi(0, 54, dims), roi(0, 14, dims), roi(2, 10, dims))
    answer = daisy.ask({"ask": "tiling", **blocks})
    assert answer["num_levels"] == levels
    assert {block["level"] for block in answer["blocks"]} == set(range(levels))
    assert len(answer["blocks"]) == answer["num_blocks"] == 5**dims


def test_finds_the_blocks_of_a_region(daisy: DaisyProcess) -> None:
    """By what they write and by what they read."""
    question = {"ask": "subgraph", **tiling(roi(0, 54), roi(0, 14), roi(2, 10))}
    region = {"sub_roi": roi(12, 10)}
    assert daisy.ask({**question, **region, "by": "write"}) == {"ids": [1]}
    assert daisy.ask({**question, **region, "by": "read"}) == {"ids": [0, 1, 2]}


def test_wires_a_chain(daisy: DaisyProcess) -> None:
    """Symmetric context: what one block needs and what the other frees is the same."""
    first = tiling(roi(0, 40), roi(0, 10), roi(0, 10), conflict=False)
    second = tiling(roi(0, 40), roi(0, 12), roi(2, 8), "shrink", conflict=False)
    answer = daisy.ask({"ask": "chain", "upstream": first, "downstream": second})
    assert answer["refused"] is None
    assert answer["edges"] == answer["reverse_edges"]
    assert [0, 0] in answer["edges"] and [1, 0] in answer["edges"]
    assert len(answer["downstream"]) == 5


def test_shows_the_defect_of_asymmetric_chains(daisy: DaisyProcess) -> None:
    """Edges found downwards are lost (2.0.0) or a crash (1.2.3); upwards they are right."""
    first = tiling(roi(0, 40), roi(0, 10), roi(0, 10))
    second = tiling(roi(0, 40), roi(0, 20), roi(0, 10))
    answer = daisy.ask({"ask": "chain", "upstream": first, "downstream": second})
    assert answer["edges"] == [[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2]]
    assert answer["reverse_edges"] != answer["edges"]


def test_reports_what_daisy_raises(daisy: DaisyProcess) -> None:
    """An unknown fit: KeyError in Python, a panic in Rust; the next question is answered."""
    answer = daisy.ask({"ask": "tiling", **tiling(roi(0, 29), roi(0, 14), roi(4, 6), "tight")})
    assert answer["error"].split(":")[0] in ("KeyError", "PanicException")
    assert daisy.ask({"ask": "version", "echo": 7})["echo"] == 7


def test_reports_a_refused_task(daisy: DaisyProcess) -> None:
    """A conflict task of zero blocks breaks the scheduler of both versions."""
    answer = daisy.ask({"ask": "tiling", **tiling(roi(0, 12), roi(0, 14), roi(4, 6))})
    assert answer["blocks"] == []
    assert answer["refused"].split(":")[0] in ("IndexError", "PanicException")


def test_survives_a_hang(daisy: DaisyProcess) -> None:
    """A question that takes too long costs its own answer only."""
    endless = tiling(roi(0, 10**9), roi(0, 14), roi(4, 6))
    assert daisy.ask({"ask": "tiling", **endless, "timeout": 0.5}) == {"error": "hang"}
    assert daisy.ask({"ask": "version"}) == {"version": daisy.version}
