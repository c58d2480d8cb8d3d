"""What the worker costs: blocks inside a job, its start, its ledger, and going on with a big one.

    python benchmarks/worker.py

Prints one line per figure with its target. Times are the best of several runs, on one core where
it says so: what else the machine does only adds to them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import yaml

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.judgement import Judge, block_fingerprints
from snakemake_blocks.state.ledger import Event, first_block, record_dtype, write_records

BIN = Path(sys.executable).parent
FUNCTIONS = """
import time

def noop(block):
    pass

def note(block):
    with open("first.txt", "x") as file:
        file.write(repr(time.monotonic()))
"""
# Runs one job and says how long that took, and what memory the supervisor had at its most.
JOB = """
import json, os, sys, time
from pathlib import Path
if sys.argv[2] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from snakemake_blocks.work.job import work_sentinel

def peak():
    # Not getrusage: its figure begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

before = peak()
begin = time.perf_counter()
assert work_sentinel(Path(sys.argv[1]), attempt=1, environment={}) == 0
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "cpu": sum(os.times()[:4]), "mib": peak(), "before": before}))
"""


def planned(
    folder: Path, shape: tuple[int, ...], function: str = "noop", batch: object = "auto"
) -> Plan:
    """Plan a task of so many blocks in an empty folder; return the plan."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "functions.py").write_text(FUNCTIONS)
    task = {
        "function": f"functions:{function}",
        "roi": {"offset": [0] * len(shape), "shape": list(shape)},
        "block_size": [1] * len(shape),
        "conflict": False,
        "blocks_per_job": batch,
    }
    pipeline = folder / "pipeline.yaml"
    pipeline.write_text(yaml.safe_dump({"tasks": {"task": task}}))
    generate(pipeline)
    return Plan.load(folder / "blocks")


def fill_ledgers(plan: Plan, root: Path, *, but: int = 0) -> None:
    """Write ledgers in which every block is done, but so many of each job's last ones."""
    task = plan.tasks["task"]
    for job in plan.jobs("task"):
        members = task.jobs.members(job.index)
        records = np.zeros(members.size, record_dtype(task.grid.ndim))
        records["fingerprint"] = block_fingerprints(task, members).ravel()
        records["stamp"] = np.random.default_rng(1).integers(1, 2**63, members.size)
        records["event"] = Event.DONE
        places = np.unravel_index(np.arange(members.size), members.shape)
        records["index"] = np.stack(places, axis=-1) + members.begin + first_block(task.grid)
        size, data = records.itemsize, records.tobytes()
        bodies = (data[at : at + size - 4] for at in range(0, len(data), size))
        records["crc"] = [zlib.crc32(body) for body in bodies]
        write_records(RunPaths(root).ledger(task.slug, job.index), records[: len(records) - but])


def best(times: int, measure: Callable[[], float]) -> float:
    """Return the smallest of several measurements."""
    return min(measure() for _ in range(times))


def run_job(folder: Path, plan: Plan, *, cores: str = "all") -> dict[str, float]:
    """Run the first job of a plan in a process of its own."""
    path = next(plan.jobs("task")).sentinel
    command = [sys.executable, "-c", JOB, path, cores]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def noop_blocks(folder: Path) -> tuple[float, float]:
    """Return no-op blocks per second, and per CPU second: one job, one worker, one core."""
    count = 200_000
    plan = planned(folder, (count,), batch=[count])
    found = run_job(folder, plan, cores="one")
    return count / found["seconds"], count / found["cpu"]


def first_block_after(folder: Path) -> float:
    """Return the seconds from the start of a job's process to its first block."""
    plan = planned(folder, (1,), "note", batch=1)
    begin = time.monotonic()
    command = [str(BIN / "snakemake-blocks"), "work", next(plan.jobs("task")).sentinel]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return float((folder / "first.txt").read_text()) - begin


def judged(plan: Plan, root: Path) -> float:
    """Return the seconds that reading and judging all ledgers takes."""
    begin = time.perf_counter()
    assert Judge(plan, root).judge_all(plan.tasks["task"]).done.all()
    return time.perf_counter() - begin


def run_again(folder: Path, shape: tuple[int, ...]) -> float:
    """Return the seconds of `run` where everything is done."""
    plan = planned(folder, shape)
    fill_ledgers(plan, folder / "blocks")
    command = [str(BIN / "snakemake-blocks"), "run", "pipeline.yaml", "--quiet"]

    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - begin

    once()  # writes what depends on the sentinels
    return best(3, once)


def figures(folder: Path, side: int) -> Iterator[tuple[str, str, str]]:
    """Yield what was measured, the figure, and its target."""
    cube, count = (side,) * 3, f"{side**3:,}"
    rates = [noop_blocks(folder) for _ in range(3)]
    rate, of_cpu = (max(column) for column in zip(*rates, strict=True))
    yield "no-op blocks inside one job, one worker, one core", f"{rate:,.0f} /s", "> 20,000 /s"
    yield "the same per second of CPU, imports included", f"{of_cpu:,.0f} /s", ""
    seconds = best(5, lambda: first_block_after(folder))
    yield "start of a job's process to its first block", f"{seconds:.2f} s", "< 0.5 s"

    plan = planned(folder, cube, batch=list(cube))
    fill_ledgers(plan, folder / "blocks")
    seconds = best(3, lambda: judged(plan, folder / "blocks"))
    yield f"{count} records of one job read and judged", f"{seconds:.2f} s", "about 1 s"
    fill_ledgers(plan, folder / "blocks", but=1)
    found = run_job(folder, plan)
    yield f"a job of {count} blocks, all but one done", f"{found['seconds']:.2f} s", "< 3 s"
    memory = found["mib"] - found["before"]
    yield "its supervisor's memory, over that of imports", f"{memory:,.0f} MiB", ""
    plan = planned(folder, cube, batch=list(cube))
    found = run_job(folder, plan)
    memory = found["mib"] - found["before"]
    yield f"supervisor's memory, {count} blocks to do", f"{memory:,.0f} MiB", ""
    rate = side**3 / found["seconds"]
    yield f"{count} no-op blocks in one job, two cores", f"{rate:,.0f} /s", ""

    plan = planned(folder, cube)
    fill_ledgers(plan, folder / "blocks")
    seconds = best(3, lambda: judged(plan, folder / "blocks"))
    jobs = f"{plan.tasks['task'].num_jobs:,}"
    yield f"{count} records of {jobs} jobs read and judged", f"{seconds:.2f} s", "about 1 s"
    seconds = run_again(folder, cube) - run_again(folder, (1, 1, 1))
    text = f"`run` with {count} blocks done, over one with 1 block done"
    yield text, f"{seconds:.2f} s", "< 3 s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=100, help="the big task has side**3 blocks")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory(prefix="blocks-bench-") as name:
        os.chdir(name)
        for what, figure, target in figures(Path(name) / "run", side):
            print(f"{what:62} {figure:>16}   {target}", flush=True)


if __name__ == "__main__":
    main()
