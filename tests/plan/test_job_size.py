from __future__ import annotations

from typing import Any

import pytest
from declared import line, plan_of

from snakemake_blocks.plan.job_size import BlockCosts, job_size
from snakemake_blocks.plan.plan import PlannedTask


def task(blocks: int = 100_000, **more: Any) -> PlannedTask:
    return plan_of(line(blocks=blocks, context=0, read_write_conflict=False, **more)).tasks[
        "smooth"
    ]


@pytest.mark.parametrize(
    ("seconds", "blocks"),
    [(600, 1), (1000, 1), (200, 3), (60, 10), (9.3, 64), (1, 600), (0.9, 660), (0.01, 60_000)],
)
def test_a_job_lasts_about_ten_minutes(seconds: float, blocks: int) -> None:
    found = job_size(task(), BlockCosts(4, seconds, seconds, 100))
    assert found.blocks_per_job == blocks
    assert found.jobs == -(-100_000 // blocks)
    assert found.job_seconds == pytest.approx(blocks * seconds)
    assert 500 < found.job_seconds <= 600 or blocks == 1


def test_workers_share_a_job() -> None:
    found = job_size(task(workers=4), BlockCosts(4, 60, 60, 1000))
    assert found.blocks_per_job == 40
    assert found.job_seconds == 600
    assert found.mem_mb == 500 + 4 * 1300


def test_a_small_task_is_one_job() -> None:
    found = job_size(task(blocks=7), BlockCosts(7, 0.1, 0.5, 10))
    assert (found.blocks_per_job, found.jobs) == (7, 1)
    assert (found.mem_mb, found.runtime) == (600, 5)


def test_time_and_memory_have_room() -> None:
    found = job_size(task(), BlockCosts(4, 60, 240, 3333))
    assert found.runtime == 30, "2 * (600 + 180) s + 120 s"
    assert found.mem_mb == 4900


def test_no_time_at_all() -> None:
    assert job_size(task(), BlockCosts(1, 0.0, 0.0, 0)).jobs == 1
