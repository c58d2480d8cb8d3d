from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from declared import line, plan_of
from rich.console import Console

from snakemake_blocks.plan.estimates import Estimate
from snakemake_blocks.proof.findings import Proof
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.failures import Failure
from snakemake_blocks.state.status import RunStatus, TaskStatus
from snakemake_blocks.view.report import print_plan, print_proof, print_status


def status(name: str = "smooth", **more: object) -> RunStatus:
    """Return the status of one task: 7 done, 3 failed, 2 orphaned, 1 pending of 13 blocks."""
    counts = dict.fromkeys(State, 0)
    counts |= {State.DONE: 7, State.FAILED: 3, State.ORPHANED: 2, State.PENDING: 1}
    failures = (
        Failure((0, 1), 3, "ValueError at f.py:3", "ValueError: dark [bold]", "", "b/l/0-1.log"),
        Failure((2, 2), 3, "worker was killed by SIGKILL (out of memory?)", "", "", "b/l/2-2.log"),
        Failure((0, 3), 3, "ValueError at f.py:3", "ValueError: darker", "", "b/l/0-3.log"),
    )
    values = {"failures": failures, "orphans": ((1, 1), (1, 2)), **more}
    return RunStatus({name: TaskStatus(name, counts, **values)})  # type: ignore[arg-type]


def printed(found: RunStatus, width: int = 60) -> list[str]:
    """Return the lines that are printed."""
    out = io.StringIO()
    print_status(found, Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


class TestPrintStatus:
    def test_counts_stand_in_a_table(self) -> None:
        row = next(line for line in printed(status(), 100) if line.startswith("│ smooth"))
        assert [int(cell) for cell in row.split("│")[2:-1]] == [1, 0, 7, 3, 2, 0, 13]

    def test_failures_stand_by_cause_with_block_message_and_log(self) -> None:
        lines = printed(status())
        begin = lines.index("smooth: 2 failed: 0-1, 0-3")
        assert lines[begin : begin + 4] == [
            "smooth: 2 failed: 0-1, 0-3",
            "  cause: ValueError at f.py:3",
            "  ValueError: darker",
            "  log: b/l/0-3.log",
        ]
        assert "smooth: 1 failed: 2-2" in lines
        assert "  cause: worker was killed by SIGKILL (out of memory?)" in lines
        assert "smooth: 2 orphaned (they need a failed block): 1-1, 1-2" in lines

    def test_what_will_run_again_is_explained(self) -> None:
        found = status(
            skipped=4,
            stale=1,
            held={"up/0": 1},
            reasons={"params.sigma is 6, was 5": 1200},
            other_source=3,
            lost_sentinels=2,
        )
        lines = printed(found)
        assert "smooth: 4 of the done blocks were skipped by their check" in lines
        assert "smooth: 1,200 blocks will run again: params.sigma is 6, was 5" in lines
        assert any(line.startswith("smooth: 3 done blocks were made when the") for line in lines)
        assert any(line.startswith("smooth: 2 complete jobs have no sentinel;") for line in lines)
        assert "smooth: 1 pending blocks are held by the failed job up/0" in lines

    def test_long_lists_are_cut(self) -> None:
        orphans = tuple((k,) for k in range(1234))
        assert (
            "smooth: 1,234 orphaned (they need a failed block): 0, 1, 2, 3, 4 and 1,229 more"
            in (printed(status(orphans=orphans)))
        )

    def test_a_set_up_that_failed_has_no_block(self) -> None:
        failure = Failure((), 1, "RuntimeError: no GPU", "RuntimeError: no GPU", "", "b/l/0.log")
        lines = printed(status(failures=(failure,)))
        begin = lines.index("smooth: set-up failed")
        assert lines[begin + 1 :][:2] == ["  cause: RuntimeError: no GPU", "  log: b/l/0.log"]

    @pytest.mark.parametrize("name", ["a [bold] task", "[/]", "seg[0]"])
    def test_any_text_may_be_a_name(self, name: str) -> None:
        lines = printed(status(name), 100)
        assert any(line.startswith(f"│ {name}") for line in lines)
        assert f"{name}: 2 failed: 0-1, 0-3" in lines


def test_a_proof_names_the_file_where_something_stands_against_it() -> None:
    out = io.StringIO()
    proof = Proof(("tasks.a.roi: too small",), ("tasks.a.after: odd [red]",), ("a: 3 blocks",))
    print_proof("pipeline.yaml", proof, Console(file=out, width=80))
    assert out.getvalue().splitlines() == [
        "a: 3 blocks",
        "warning: pipeline.yaml: tasks.a.after: odd [red]",
        "refused: pipeline.yaml: tasks.a.roi: too small",
    ]


@pytest.mark.parametrize(
    ("warnings", "verdict"),
    [
        ((), "proved, it can be run"),
        (("a",), "proved, it can be run, with 1 warning to look at"),
        (("a", "b"), "proved, it can be run, with 2 warnings to look at"),
    ],
)
def test_a_proof_that_holds_ends_with_a_verdict(warnings: tuple[str, ...], verdict: str) -> None:
    out = io.StringIO()
    print_proof("p.yaml", Proof((), warnings, ("a: 3 blocks",)), Console(file=out, width=99))
    assert out.getvalue().splitlines()[-1] == f"p.yaml: {verdict}"


def test_the_costs_of_a_plan_stand_in_a_table() -> None:
    plan = plan_of(line("up"), line("down"))
    costs = Estimate(inputs=7, path=5, memory=3 << 20, files=1234, cpu_hours=1.5)
    estimates = {"up": costs, "down": replace(costs, cpu_hours=None, memory=0)}
    out = io.StringIO()
    print_plan(plan, estimates, Console(file=out, width=120))
    cells = {}
    for row in out.getvalue().splitlines():
        if row.startswith("│"):
            name, *values = (cell.strip() for cell in row.split("│")[1:-1])
            cells[name] = values[-5:]
    assert cells == {
        "up": ["7", "5", "3.0 MiB", "1,234", "1.50"],
        "down": ["7", "5", "-", "1,234", "-"],
    }
    assert "CPU h: hours of all blocks, by the block times on record" in " ".join(
        out.getvalue().split()
    )


def test_the_status_as_json_can_be_read_back() -> None:
    found = json.loads(json.dumps(status().to_json()))
    assert found["complete"] is False
    failures = found["tasks"]["smooth"]["failures"]
    assert [failure["blocks"] for failure in failures] == [[[0, 1], [0, 3]], [[2, 2]]]
