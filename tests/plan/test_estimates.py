from __future__ import annotations

from declared import array, line, plan_of

from snakemake_blocks.plan.estimates import estimate_plan
from snakemake_blocks.tasks.operation import Context, Read, Write


def memory(context: Context | None) -> int:
    """Return what a job of blocks of 10 with a context of 4 has of two arrays in memory."""
    reads = {"raw": Read(array(), 0, context)}
    task = line(call="arrays", reads=reads, writes={"out": Write(array(path="out.zarr"))})
    return estimate_plan(plan_of(task))["smooth"].memory


def test_an_array_is_counted_as_far_as_it_is_read() -> None:
    assert memory(None) == 18 + 18
    assert memory(((1,), (0,))) == 11 + 18
