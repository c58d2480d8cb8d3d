"""The same tilings as daisy's, block by block, but where daisy is known to be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from daisy.environment import DaisyProcess, daisy_process
from funlib.geometry import Roi
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import AxisCase, GridCase, grid_cases

from snakemake_blocks.geometry.block import block_of
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.phases import Phases, context_reach
from snakemake_blocks.plan.dependencies import needed_blocks

pytestmark = pytest.mark.e2e

Json = dict[str, Any]
Edges = set[tuple[int, int]]


@pytest.fixture(scope="module", params=["1.2.3", "2.0.0"])
def daisy(request: pytest.FixtureRequest) -> Iterator[DaisyProcess]:
    """One version of daisy after the other, in an environment of its own; skips without it."""
    with daisy_process(request.param, getattr(request.config, "cache", None)) as process:
        yield process


@st.composite
def chains(draw: st.DrawFn) -> tuple[GridCase, GridCase]:
    """Draw an upstream and a downstream tiling."""
    ndim = st.just(draw(st.integers(1, 3)))
    return draw(grid_cases(ndim=ndim, empty=False)), draw(grid_cases(ndim=ndim, empty=False))


def roi(region: Roi) -> Json:
    return {"offset": list(map(int, region.offset)), "shape": list(map(int, region.shape))}


def tiling(case: GridCase) -> Json:
    """Return a tiling as the driver wants it."""
    total, read, write = map(roi, case.rois)
    return {"total_roi": total, "read_roi": read, "write_roi": write, "fit": case.fit}


def region_to_write(case: GridCase) -> Box:
    """Return the region that the user asked for, whatever the fit makes of it."""
    return Box(tuple(a.begin for a in case.axes), tuple(a.end for a in case.axes))


def number(case: GridCase, index: Index) -> int:
    """Return our id of a block."""
    block_id = block_of(case.grid, index, task_id="task").block_id
    return int(block_id[1])


def our_edges(up: GridCase, down: GridCase) -> Edges:
    return {
        (number(up, u), number(down, d))
        for d in down.grid
        for u in needed_blocks(down.grid, d, up.grid)
    }


def assert_same_but(theirs: Any, ours: Edges, *, excused: Edges, version: str) -> None:
    """Demand the same edges, no matter what daisy says of those that are excused.

    daisy asks for the blocks of an empty region where one task has nothing to do with the other:
    1.2.3 crashes and 2.0.0 takes the last block, which leaves the other one pending for ever.
    """
    if isinstance(theirs, dict):
        assert version == "1.2.3" and theirs["error"].startswith("TypeError") and excused
        return
    found = {tuple(edge) for edge in theirs}
    assert found >= ours
    assert found - ours <= excused


@given(grid_cases())
def test_same_blocks_rois_ids_and_levels(daisy: DaisyProcess, case: GridCase) -> None:
    answer = daisy.ask({"ask": "tiling", **tiling(case)})
    grid = case.grid
    assert answer["num_blocks"] == len(answer["blocks"]) == len(grid)
    blocks = [block_of(grid, index, task_id="task") for index in grid]
    ours = {b.block_id[1]: (roi(b.read_roi), roi(b.write_roi)) for b in blocks}
    assert {b["id"]: (b["read"], b["write"]) for b in answer["blocks"]} == ours
    if len(grid):
        assert answer["refused"] is None
        assert answer["num_levels"] == len(Phases(grid.shape, context_reach(grid)))
    else:  # a defect: zero blocks with the conflict flag crash; we refuse such a task
        assert answer["refused"].split(":")[0] in ("IndexError", "PanicException")


@given(grid_cases(empty=False))
def test_levels_put_the_same_blocks_together(daisy: DaisyProcess, case: GridCase) -> None:
    """Their order is another one: daisy's level 0 has the largest offsets."""
    answer = daisy.ask({"ask": "tiling", **tiling(case)})
    theirs: dict[int, set[int]] = {}
    for block in answer["blocks"]:
        theirs.setdefault(block["level"], set()).add(block["id"])
    phases = Phases(case.grid.shape, context_reach(case.grid))
    ours = [{number(case, node) for node in phases.nodes(p)} for p in range(len(phases))]
    assert sorted(map(sorted, theirs.values())) == sorted(map(sorted, ours))


@given(chains())
@settings(max_examples=60)
def test_same_edges_between_tasks(daisy: DaisyProcess, chain: tuple[GridCase, GridCase]) -> None:
    up, down = chain
    answer = daisy.ask({"ask": "chain", "upstream": tiling(up), "downstream": tiling(down)})
    ours = our_edges(up, down)
    asked = region_to_write(up)
    idle = [d for d in down.grid if not down.grid.read(d).meets(asked)]
    excused = {(number(up, u), number(down, d)) for d in idle for u in up.grid}
    assert_same_but(answer["edges"], ours, excused=excused, version=daisy.version)


@given(chains())
@settings(max_examples=60)
def test_same_edges_seen_from_upstream(
    daisy: DaisyProcess, chain: tuple[GridCase, GridCase]
) -> None:
    """With symmetric contexts; with others daisy loses edges or crashes."""
    up, down = chain
    down = GridCase(tuple(_symmetric(a) for a in down.axes))
    answer = daisy.ask({"ask": "chain", "upstream": tiling(up), "downstream": tiling(down)})
    asked = region_to_write(down)
    unread = [
        u
        for u in up.grid
        if not up.grid.write(u).grow(down.grid.lower, down.grid.upper).meets(asked)
    ]
    excused = {(number(up, u), number(down, d)) for u in unread for d in down.grid}
    assert_same_but(
        answer["reverse_edges"], our_edges(up, down), excused=excused, version=daisy.version
    )


def _symmetric(axis: AxisCase) -> AxisCase:
    return replace(axis, upper=axis.lower)


def test_edges_that_daisy_loses(daisy: DaisyProcess) -> None:
    """A downstream task with asymmetric context: right seen from one side, wrong from the other."""
    up = GridCase((AxisCase(0, 40, 10, 0, 0, "valid"),))
    down = GridCase((AxisCase(0, 30, 10, 0, 10, "valid"),))
    answer = daisy.ask({"ask": "chain", "upstream": tiling(up), "downstream": tiling(down)})
    assert {tuple(edge) for edge in answer["edges"]} == our_edges(up, down)
    assert answer["reverse_edges"] != answer["edges"]


def test_ids_far_from_the_origin(daisy: DaisyProcess) -> None:
    """1.2.3 divides floats and is off by one; 2.0.0 and we are exact."""
    n = 200_000
    far = GridCase(tuple(AxisCase(10 * k, 10, 10, 10 * k, 0, "valid") for k in (n, n, n + 1)))
    answer = daisy.ask({"ask": "tiling", **tiling(far)})
    ours = number(far, (0, 0, 0))
    assert ours == 36000440001500001
    assert answer["blocks"][0]["id"] == ours - (daisy.version == "1.2.3")
