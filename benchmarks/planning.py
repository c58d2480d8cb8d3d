"""What planning costs: 10^6 and 10^9 blocks in conflict, and what Snakemake makes of 10^7.

    python benchmarks/planning.py [--environments DIR]

Prints one line per figure with its target, and last how daisy 2.0.0 from PyPI does on the same
10^6 blocks in the same run; its environment is made in DIR when missing, which needs the network.
Seconds are the best of three runs: what else the machine does only adds to them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
BIN = Path(sys.executable).parent
sys.path.insert(0, str(HERE / "peers"))

import loads  # noqa: E402
import run  # noqa: E402

# Plans from the pipeline.yaml in the folder, and proves the plan, in a process of its own.
PLAN = """
import json, resource, sys, time

def mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

start = mib()
begin = time.perf_counter()
from snakemake_blocks.proof.proof import check_plan
from snakemake_blocks.commands.generate import make_plan, to_pipeline
imported = time.perf_counter()
pipeline = to_pipeline("pipeline.yaml")
plan = make_plan(pipeline)
planned = time.perf_counter()
proof = check_plan(plan, pipeline.tasks)
checked = time.perf_counter()
print(json.dumps({
    "imports": imported - begin, "plan": planned - imported, "check": checked - planned,
    "mib": mib() - start, "holds": proof.holds,
    "blocks": plan.tasks["task"].num_blocks, "phases": len(plan.tasks["task"].block_phases),
}))
"""
# Asks for the dependencies of every block, as if no two blocks were alike.
EVERY = """
import json, sys, time
from snakemake_blocks.commands.generate import make_plan

task = make_plan("pipeline.yaml").tasks["task"]
begin = time.perf_counter()
edges = sum(len(task.block_phases.predecessors(index)) for index in task.grid)
print(json.dumps({"seconds": time.perf_counter() - begin, "edges": edges}))
"""


def write_pipeline(folder: Path, cube: loads.Cube) -> None:
    """Write the pipeline of a cube of blocks of which neighbours conflict."""
    (folder / "functions.py").write_text("def nothing(block):\n    pass\n")
    task = {
        "function": "functions:nothing",
        "roi": {"offset": [0] * 3, "shape": [cube.side * loads.WRITE] * 3},
        "block_size": [loads.WRITE] * 3,
        "context": cube.context,
    }
    text = json.dumps({"tasks": {"task": task}})  # JSON is YAML
    (folder / "pipeline.yaml").write_text(text)


def ask(folder: Path, script: str) -> dict[str, Any]:
    """Return what a script says, run in the folder by an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def best_of(folder: Path, *command: str) -> float:
    """Return the wall seconds of a command, the best of three."""
    line = [BIN / command[0], *command[1:]]

    def once() -> float:
        begin = time.perf_counter()
        subprocess.run(line, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - begin

    return min(once() for _ in range(3))


def planned(folder: Path, blocks: int) -> dict[str, Any]:
    """Return the best of three plans of so many blocks."""
    write_pipeline(folder, loads.Cube(blocks))
    found = min((ask(folder, PLAN) for _ in range(3)), key=lambda one: one["plan"])
    assert found["holds"] and found["blocks"] == blocks and found["phases"] == 8
    return found


def figures(folder: Path, environments: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what was measured, the figure, and its target."""
    ours = {}
    for blocks in (10**6, 10**9):
        found = ours[blocks] = planned(folder, blocks)
        what = f"plan of {blocks:,} blocks in conflict"
        yield what, f"{found['plan']:.3f} s", "< 1 s"
        yield "  its proof", f"{found['check']:.3f} s", ""
        yield "  imports", f"{found['imports']:.3f} s", ""
        memory = f"{found['mib']:,.0f} MB"
        yield "  memory, imports included, over the interpreter's", memory, "< 200 MB"
    write_pipeline(folder, loads.Cube(216**3))
    generate = best_of(folder, "snakemake-blocks", "generate", "pipeline.yaml")
    dry = best_of(folder, "snakemake", "-n", "-q")
    (folder / "empty.smk").write_text("rule all:\n")
    empty = best_of(folder, "snakemake", "-n", "-q", "-s", "empty.smk")
    yield f"generate, {216**3:,} blocks", f"{generate:.1f} s", ""
    yield "  and snakemake -n -q", f"{generate + dry:.1f} s", "< 10 s"
    yield "  of which an empty Snakefile takes", f"{empty:.1f} s", ""

    write_pipeline(folder, loads.Cube(10**6))
    every = ask(folder, EVERY)
    yield "dependencies of 1,000,000 blocks, one by one", f"{every['seconds']:.1f} s", ""
    daisy = run.run(run.environment("daisy-2", environments), "plan_daisy", [])
    name = f"the same in daisy {daisy['version']}"
    yield name, f"{daisy['seconds']:.1f} s", ""
    yield "  that is, times ours one by one", f"{daisy['seconds'] / every['seconds']:.1f}", ""
    yield "  and times our plan", f"{daisy['seconds'] / ours[10**6]['plan']:,.0f}", ""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--environments",
        type=Path,
        default=HERE.parent / ".venv-peers",
        help="folder of the peers' environments (default: .venv-peers in the checkout)",
    )
    environments = parser.parse_args().environments
    with tempfile.TemporaryDirectory(prefix="blocks-bench-") as name:
        for what, figure, target in figures(Path(name), environments):
            print(f"{what:52} {figure:>12}   {target}", flush=True)


if __name__ == "__main__":
    main()
