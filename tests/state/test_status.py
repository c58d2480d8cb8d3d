from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.failures import Failure, append_failure
from snakemake_blocks.state.judgement import block_fingerprints
from snakemake_blocks.state.ledger import Event, Ledger, first_block
from snakemake_blocks.state.status import RunStatus, read_status
from snakemake_blocks.system.locks import Holder, Lock
from snakemake_blocks.work.job import work_sentinel

ROOT = Path("blocks")
FUNCTIONS = """
    import os

    def work(block):
        if os.path.exists(f"bad-{block.task_id}-{block.block_id[1]}"):
            raise ValueError(f"bad block {block.index}")

    def is_done(block):
        return os.path.exists(f"skip-{block.task_id}-{block.block_id[1]}")

    class Model:
        def __init__(self):
            raise RuntimeError("no GPU")

        def __call__(self, block):
            pass
"""


def chain(project: Project, **more: Any) -> Plan:
    """Plan two tasks of six blocks along a line; the second reads its neighbours' blocks."""
    project.functions(FUNCTIONS)
    common = {"function": "functions:work", "roi": {"offset": [0], "shape": [24]}, "retries": 0}
    project.write(
        ("up", {**common, "block_size": [4], "conflict": False, **more}),
        ("down", {**common, "block_size": [4], "context": 4, "conflict": False, "after": ["up"]}),
    )
    plan, _ = generate(project.pipeline)
    return plan


def work(plan: Plan, task: str) -> None:
    """Run the jobs of a task that may run, as Snakemake would."""
    for job in plan.jobs(task):
        if all(Path(path).exists() for path in job.inputs):
            work_sentinel(Path(job.sentinel), attempt=1, environment={})


def counts(status: RunStatus, task: str) -> dict[str, int]:
    """Return the states of a task that occur."""
    return {str(state): n for state, n in status.tasks[task].counts.items() if n}


class TestStates:
    def test_before_anything_ran(self, project: Project) -> None:
        status = read_status(chain(project), ROOT)
        assert counts(status, "up") == counts(status, "down") == {"pending": 6}
        assert not status.complete

    def test_when_everything_is_done(self, project: Project) -> None:
        plan = chain(project)
        for task in plan.tasks:
            work(plan, task)
        status = read_status(plan, ROOT)
        assert counts(status, "up") == counts(status, "down") == {"done": 6}
        assert status.complete
        assert status.tasks["up"].seconds > 0

    def test_failed_blocks_orphan_what_reads_them(self, project: Project) -> None:
        plan = chain(project)
        bad = plan.tasks["up"].block((2,)).block_id[1]
        (project.folder / f"bad-up-{bad}").touch()
        for task in plan.tasks:
            work(plan, task)
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"done": 5, "failed": 1}
        assert counts(status, "down") == {"done": 3, "orphaned": 3}
        assert status.tasks["down"].orphans == ((1,), (2,), (3,))
        (failure,) = status.tasks["up"].failures
        assert failure.index == (2,) and failure.cause == "ValueError at functions.py:6"
        assert "bad block (2,)" in failure.message
        assert failure.log == "blocks/up/logs/0/2.log"

    def test_paths_of_logs_are_seen_from_where_one_stands(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        plan = chain(project)
        bad = plan.tasks["up"].block((2,)).block_id[1]
        (project.folder / f"bad-up-{bad}").touch()
        work(plan, "up")
        monkeypatch.chdir(tmp_path)
        root = Path("project/blocks")
        (failure,) = read_status(Plan.load(root), root).tasks["up"].failures
        assert failure.log == "project/blocks/up/logs/0/2.log"

    def test_skipped_blocks_are_done(self, project: Project) -> None:
        plan = chain(project, check="functions:is_done")
        for index in ((0,), (3,)):
            number = plan.tasks["up"].block(index).block_id[1]
            (project.folder / f"skip-up-{number}").touch()
        work(plan, "up")
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"done": 6}
        assert status.tasks["up"].skipped == 2

    def test_masked_blocks_need_nothing(self, project: Project) -> None:
        mask = np.array([1, 1, 0, 0, 1, 1], np.uint8)
        project.array("s.zarr/mask", mask, offset=[0], voxel_size=[4])
        plan = chain(project, mask="s.zarr/mask")
        for task in plan.tasks:
            work(plan, task)
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"done": 4, "masked": 2}
        assert counts(status, "down") == {"done": 6}
        assert status.complete

    # faults: kind 12
    @pytest.mark.parametrize("name", ["x", "0-0", "\u00b2", "99"])
    def test_failures_of_no_job_are_none(self, project: Project, name: str) -> None:
        plan = chain(project)
        append_failure(ROOT / "up/logs/0" / f"{name}.failures.jsonl", Failure((), 1, "x", "x"))
        assert not read_status(plan, ROOT).tasks["up"].failures

    def test_a_set_up_that_fails_is_told_although_no_block_began(self, project: Project) -> None:
        plan = chain(project, function="functions:Model", blocks_per_job=6)
        work(plan, "up")
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"pending": 6}
        (failure,) = status.tasks["up"].failures
        assert failure.index == () and "no GPU" in failure.message
        assert not status.complete

    def test_a_result_that_no_longer_counts_is_pending_and_stale(self, project: Project) -> None:
        plan = chain(project)
        for task in plan.tasks:
            work(plan, task)
        text = project.pipeline.read_text().replace("conflict: false", "conflict: true", 1)
        project.pipeline.write_text(text)
        plan, _ = generate(project.pipeline)
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"pending": 6}
        assert status.tasks["up"].stale == 6


class TestBlocksInHand:
    def started(self, plan: Plan, index: tuple[int, ...]) -> None:
        task = plan.tasks["up"]
        ledger = Ledger(RunPaths(ROOT).ledger("up", index), first_block(task.own_grid))
        box = Box(index, tuple(k + 1 for k in index))
        fingerprint = int(block_fingerprints(task, box).ravel()[0])
        ledger.append(Event.STARTED, index, fingerprint=fingerprint, attempt=1)
        ledger.close()

    def test_run_while_their_jobs_process_lives(self, project: Project) -> None:
        plan = chain(project)
        self.started(plan, (1,))
        lock = Lock(RunPaths(ROOT).job_lock("up", (1,)), Holder.this_process({}))
        lock.acquire()
        assert counts(read_status(plan, ROOT), "up") == {"pending": 5, "running": 1}
        lock.release()

    def test_have_failed_if_it_died_and_no_attempt_is_left(self, project: Project) -> None:
        plan = chain(project)
        self.started(plan, (1,))
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"pending": 5, "failed": 1}

    def test_are_pending_again_if_attempts_are_left(self, project: Project) -> None:
        plan = chain(project, retries=1)
        self.started(plan, (1,))
        assert counts(read_status(plan, ROOT), "up") == {"pending": 6}


class TestConflicts:
    def test_what_comes_after_a_failed_block_is_orphaned_what_comes_before_is_done(
        self, project: Project
    ) -> None:
        project.functions(FUNCTIONS)
        task = {"function": "functions:work", "roi": {"offset": [0], "shape": [24]}, "retries": 0}
        project.write(("alone", {**task, "block_size": [4], "context": 4}))
        plan, _ = generate(project.pipeline)
        planned = plan.tasks["alone"]
        bad = planned.block((2,)).block_id[1]
        (project.folder / f"bad-alone-{bad}").touch()
        work(plan, "alone")
        status = read_status(plan, ROOT)
        later = {(k,) for k in (1, 3) if planned.order((k,)) > planned.order((2,))}
        assert later == {(1,), (3,)}
        assert set(status.tasks["alone"].orphans) == later
        assert counts(status, "alone") == {"done": 3, "failed": 1, "orphaned": 2}

    def test_blocks_that_only_wait_for_the_rest_of_a_failed_job_are_held(
        self, project: Project
    ) -> None:
        plan = chain(project, blocks_per_job=3)
        bad = plan.tasks["up"].block((0,)).block_id[1]
        (project.folder / f"bad-up-{bad}").touch()
        for task in plan.tasks:
            work(plan, task)
        status = read_status(plan, ROOT)
        assert counts(status, "up") == {"done": 5, "failed": 1}
        assert status.tasks["down"].orphans == ((0,), (1,))
        assert status.tasks["down"].held == {"up/0": 2}
        assert counts(status, "down") == {"done": 2, "orphaned": 2, "pending": 2}


class TestJson:
    def test_says_all_and_adds_up(self, project: Project) -> None:
        plan = chain(project)
        bad = plan.tasks["up"].block((2,)).block_id[1]
        (project.folder / f"bad-up-{bad}").touch()
        for task in plan.tasks:
            work(plan, task)
        found = read_status(plan, ROOT).to_json()
        assert found["complete"] is False
        for task in found["tasks"].values():
            assert sum(task[str(state)] for state in State) == task["total"]
        assert found["tasks"]["down"]["orphaned_blocks"] == [[1], [2], [3]]
        (failure,) = found["tasks"]["up"]["failures"]
        assert failure == {
            "cause": "ValueError at functions.py:6",
            "message": "ValueError: bad block (2,)",
            "blocks": [[2]],
            "log": "blocks/up/logs/0/2.log",
        }
