"""Rows of blocks, and their reduction, beside the same rows written at once.

    python benchmarks/reduce.py --side 100      # blocks per axis: 10^6 in all; some minutes
    python benchmarks/reduce.py --side 47 --changed     # one of 10^5 blocks is another

In one run: blocks that do nothing; the same blocks with ten rows each; these with a reduction over
them; and the rows of all, made and written by pandas and by pyarrow in one process. With
``--changed``: how many merges run again after one block was done anew, and whether the result has
the bytes of a run from nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import ours
import pandas
import pyarrow as pa
import pyarrow.parquet

from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import Event
from snakemake_blocks.state.tables import read_table

FUNCTIONS = """
import os
import numpy as np

KEYS, ONES = np.arange(10), np.ones(10, np.int64)

def nothing(block):
    pass

def rows(block):
    more = not any(block.index) and os.path.exists("changed")
    return {"key": KEYS, "count": ONES + more}

def add(rows):
    found = rows.group_by("key").aggregate([("count", "sum")])
    return {"key": found["key"], "count": found["count_sum"]}
"""
COLUMNS = {"key": "int64", "count": "int64"}
ROWS = 10
RUN = ("snakemake-blocks", "run", "pipeline.yaml", "--cores", str(os.cpu_count()))


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder and all below it."""
    found = (Path(top, name) for top, _, names in os.walk(folder) for name in names)
    return sum(path.stat().st_size for path in found)


def run(side: int, *, rows: bool = False, reduced: bool = False) -> tuple[float, float, int]:
    """Return wall and processor seconds of `run`, and the bytes of its tables."""
    folder = Path(tempfile.mkdtemp())
    describe(folder, side, rows=rows, reduced=reduced)
    took = ours.command(*RUN, folder=folder)
    size = sum(map(bytes_in, folder.glob("blocks/*/tables")))
    shutil.rmtree(folder)
    return took.seconds, took.cpu, size


def describe(folder: Path, side: int, *, rows: bool, reduced: bool) -> None:
    """Write a pipeline of side^3 blocks."""
    size = {"roi": {"offset": [0] * 3, "shape": [10 * side] * 3}, "block_size": [10] * 3}
    tasks = {"a": {"function": "functions:rows" if rows else "functions:nothing", **size}}
    if rows:
        tasks["a"]["tables"] = {"sums": {"columns": COLUMNS}}
    if reduced:
        reads = {"rows": {"table": "a.sums"}}
        tasks["b"] = {"call": "reduce", "merge": "functions:add", "reads": reads}
    ours.describe(folder, FUNCTIONS, **tasks)


def records(root: Path) -> dict[str, int]:
    """Return how often blocks of each task of the reduction were done."""
    plan = Plan.load(root)
    merging = [task for name, task in plan.tasks.items() if name != "a"]
    judge = Judge(plan, root)
    return {
        task.name: sum(
            int((judge.records(task, job)["event"] == Event.DONE).sum()) for job in task.jobs.jobs
        )
        for task in merging
    }


def change_one(side: int) -> None:
    """Print which merges run again after one block was done anew, and what comes of it."""
    folder, scratch = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    describe(folder, side, rows=True, reduced=True)
    first = ours.command(*RUN, folder=folder)
    before = records(folder / "blocks")
    (folder / "changed").touch()
    words = ("snakemake-blocks", "reset", "blocks", "a", "--roi", "0:10,0:10,0:10")
    ours.command(*words, folder=folder)
    again = ours.command(*RUN, folder=folder)
    after = records(folder / "blocks")
    for name, count in before.items():
        print(f"{name}: {count:,} merges, {after[name] - count} of them again")
    describe(scratch, side, rows=True, reduced=True)
    (scratch / "changed").touch()
    ours.command(*RUN, folder=scratch)
    results = [read_table(f / "blocks", "b", "sums").to_batches() for f in (folder, scratch)]
    parts = [b"".join(batch.serialize() for batch in batches) for batches in results]
    assert parts[0] == parts[1], "the result is another than that of a run from nothing"
    print(f"{len(parts[0])} bytes, as of a run from nothing")
    print(f"first run {first.seconds:.1f} s, after the change {again.seconds:.1f} s")
    shutil.rmtree(folder)
    shutil.rmtree(scratch)


def at_once(count: int, writer: str) -> tuple[float, int]:
    """Return seconds and bytes of the rows of all blocks, made and written in one go."""
    begin = time.perf_counter()
    keys, ones = np.tile(np.arange(ROWS), count), np.ones(ROWS * count, np.int64)
    with tempfile.NamedTemporaryFile() as file:
        if writer == "pandas":
            pandas.DataFrame({"key": keys, "count": ones}).to_parquet(file.name)
        else:
            table = pa.table({"key": keys, "count": ones})
            with pa.ipc.new_file(file.name, table.schema) as sink:
                sink.write_table(table)
        return time.perf_counter() - begin, os.stat(file.name).st_size


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=40, help="blocks per axis")
    parser.add_argument("--changed", action="store_true", help="change one block")
    options = parser.parse_args()
    count = options.side**3
    print(f"{count:,} blocks, {ROWS} rows each, {os.cpu_count()} cores")
    if options.changed:
        change_one(options.side)
        return
    print("| what | seconds | processor seconds | bytes |")
    print("|---|---|---|---|")
    kinds = {"no rows": {}, "rows": {"rows": True}, "reduced": {"rows": True, "reduced": True}}
    for word, kind in kinds.items():
        wall, cpu, size = run(options.side, **kind)
        print(f"| {word} | {wall:,.1f} | {cpu:,.1f} | {size:,} |", flush=True)
    for writer in ("pandas", "pyarrow"):
        wall, size = at_once(count, writer)
        print(f"| {writer}, at once | {wall:,.1f} | | {size:,} |", flush=True)


if __name__ == "__main__":
    main()
