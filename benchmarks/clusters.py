"""What a block costs on SLURM, in jobs of many blocks and in jobs of one.

    python benchmarks/clusters.py [--blocks 10000] [--jobs 25] [--single 200]

Brings up the one-node SLURM of the tests (``python -m tests.cluster.slurm install`` installs it)
and runs blocks that do nothing through ``snakemake --profile slurm``. The profile is the shipped
one, but for how it asks for states: this SLURM has no accounting, and is asked more often.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.cluster.environment import environment  # noqa: E402 - found by the line above
from tests.cluster.slurm import SlurmCluster  # noqa: E402

SETTINGS = {
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": "5",
    "max-status-checks-per-second": "1",
    "latency-wait": "5",
}
PIPELINE = """\
tasks:
  task:
    function: functions:noop
    roi: {{offset: [0], shape: [{blocks}]}}
    block_size: [1]
    conflict: false
    blocks_per_job: {per_job}
    resources: {{mem_mb: 200, runtime: 10}}
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """One run: so many blocks in so many jobs took so long."""

    blocks: int
    jobs: int
    seconds: float

    def row(self) -> str:
        """Return a line of the table."""
        block = self.seconds / self.blocks
        return (
            f"| {self.blocks:,} | {self.jobs:,} | {self.blocks / self.jobs:,.0f} "
            f"| {self.seconds:,.0f} | {self.seconds / self.jobs:,.1f} | {block * 1000:,.1f} |"
        )


def measure(cluster: SlurmCluster, python: Path, folder: Path, blocks: int, per_job: int) -> Figure:
    """Run a task and see that it is complete.

    Raises
    ------
    subprocess.CalledProcessError
        If anything fails.
    """
    folder.mkdir()
    (folder / "functions.py").write_text("def noop(block):\n    pass\n")
    (folder / "pipeline.yaml").write_text(PIPELINE.format(blocks=blocks, per_job=per_job))
    env = {
        **cluster.env,
        "HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "home" / "config"),
        "XDG_CACHE_HOME": str(folder / "home" / "cache"),
    }

    def command(program: str, *arguments: str) -> None:
        line = [str(python.parent / program), *arguments]
        with (folder / "log").open("ab") as log:
            subprocess.run(
                line, cwd=folder, env=env, check=True, stdout=log, stderr=subprocess.STDOUT
            )

    pairs = (text for k, v in SETTINGS.items() for text in ("--set", f"{k}={v}"))
    command("snakemake-blocks", "profile", "install", "slurm", *pairs)
    command("snakemake-blocks", "generate", "pipeline.yaml", "--target", "cluster")
    before = len(cluster.jobs())
    begin = time.monotonic()
    command("snakemake", "--profile", "slurm")
    seconds = time.monotonic() - begin
    command("snakemake-blocks", "verify")
    return Figure(blocks, len(cluster.jobs()) - before, seconds)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=10_000, help="in jobs of many")
    parser.add_argument("--jobs", type=int, default=25, help="that they make")
    parser.add_argument("--single", type=int, default=200, help="blocks in jobs of one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blocks-") as name:
        folder = Path(name)
        (folder / "environment").mkdir()
        python = environment(folder / "environment", "project")
        with SlurmCluster(cpus=8) as cluster:
            version = cluster.run("sinfo", "--version").strip()
            print(f"{version}, one node with {os.cpu_count()} cores, Python", end=" ")
            print(f"{platform.python_version()}, load {os.getloadavg()[0]:.1f}\n")
            print("| blocks | jobs | blocks/job | s | s/job | ms/block |")
            print("|---|---|---|---|---|---|", flush=True)
            many = measure(
                cluster, python, folder / "many", asked.blocks, -(-asked.blocks // asked.jobs)
            )
            print(many.row(), flush=True)
            single = measure(cluster, python, folder / "single", asked.single, 1)
            print(single.row())
        ratio = single.seconds / single.blocks / (many.seconds / many.blocks)
        print(f"\na block of its own job costs {ratio:,.0f} times as much")


if __name__ == "__main__":
    main()
