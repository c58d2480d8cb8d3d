from __future__ import annotations

import numpy as np
import pytest
import yaml
from project import Project, stamps

from snakemake_blocks.plan.job_size import BlockCosts, JobSize
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.block_state import State
from snakemake_blocks.state.status import RunStatus, TaskStatus
from snakemake_blocks.view.report import ProbeReport, probe_text

SIZE = JobSize(blocks_per_job=64, mem_mb=3000, runtime=25, jobs=1563, job_seconds=595)


def two_tasks(project: Project) -> None:
    """Write a task of 40 blocks, and one that reads it."""
    project.array("s.zarr/raw", np.arange(160), chunks=(4,), voxel_size=[1], offset=[0])
    project.functions("def double(raw): return raw * 2\ndef negate(raw): return -raw\n")
    project.pipeline.write_text(
        """\
tasks:
  double:
    function: functions:double
    call: arrays
    reads: {raw: s.zarr/raw}
    writes: {out: {array: s.zarr/doubled, dtype: int64}}
    roi: s.zarr/raw
    block_size: [4]
    conflict: false      # nobody reads a neighbour
    resources: {mem: 4GB, gpu: 0}
  negate:
    function: functions:negate
    call: arrays
    reads: {raw: s.zarr/doubled}
    writes: {out: {array: s.zarr/negated, dtype: int64}}
    roi: s.zarr/raw
    block_size: [4]
    conflict: false
    blocks_per_job: 1    # for now
"""
    )


@pytest.mark.e2e
def test_a_probe_counts_and_writes_what_it_found(project: Project) -> None:
    two_tasks(project)
    before = project.pipeline.read_text()
    probed = project.blocks("run", "pipeline.yaml", "--cores", "2", "--probe", "--write")
    assert probed.returncode == 0, probed.stderr
    done = {name: stamps(project.records(name)) for name in ("double", "negate")}
    assert done["double"].keys() == done["negate"].keys()
    assert len(done["double"]) == 4

    text = project.pipeline.read_text()
    assert [line for line in text.splitlines() if line in before.splitlines()] == [
        line for line in before.splitlines() if "resources" not in line and "for now" not in line
    ]
    assert "  # for now" in text and "# nobody reads" in text
    written = yaml.safe_load(text)["tasks"]
    printed = yaml.safe_load(probed.stdout[probed.stdout.index("tasks:") :])["tasks"]
    assert written["double"]["blocks_per_job"] == written["negate"]["blocks_per_job"] == 40
    assert written["double"]["resources"] == {**printed["double"]["resources"], "gpu": 0}
    assert list(printed["double"]["resources"]) == ["mem", "runtime"]
    assert list(written["negate"]["resources"]) == ["mem_mb", "runtime"]
    assert Plan.load(project.folder / "blocks").tasks["double"].num_jobs == 1

    finished = project.snakemake("--cores", "2")  # the Snakefile follows what was written
    assert finished.returncode == 0, finished.stderr
    assert project.blocks("verify").returncode == 0
    for name, found in done.items():
        now = stamps(project.records(name))
        assert len(now) == 40
        assert {index: now[index] for index in found} == found
    assert project.read("s.zarr/negated").tolist() == [-2 * k for k in range(160)]


@pytest.mark.parametrize("options", [["--write"], ["--probe", "--roi", "0:8"]])
def test_options_that_do_not_go_together(project: Project, options: list[str]) -> None:
    result = project.cli("run", "pipeline.yaml", *options)
    assert result.exit_code == 2
    assert "--write goes with --probe, and --roi without it" in result.output


def test_tasks_without_measurement_are_named() -> None:
    counts = dict.fromkeys(State, 0)
    report = ProbeReport(
        snakemake=1,
        state=RunStatus({name: TaskStatus(name, counts) for name in ("a", "b")}),
        costs={"a": BlockCosts(4, 9.3, 12.25, 1800)},
        sizes={"a": SIZE},
        resources={"a": {"mem_mb": 3000, "runtime": 25}},
    )
    text = probe_text(report)
    assert text == (
        "tasks:\n"
        "  a:\n"
        "    # 4 blocks: 9.3 s each, 12.2 s at most, 1,800 MB per worker\n"
        "    # jobs: 1,563; a full one takes 9.9 minutes\n"
        "    blocks_per_job: 64\n"
        "    resources: {mem_mb: 3000, runtime: 25}\n"
        "  # b: no block was done, or one needs too many others; try `run --roi`"
    )
