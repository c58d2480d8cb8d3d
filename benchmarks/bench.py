"""Everything that the project promises about speed, in one run beside its peers.

    make bench        (or python benchmarks/bench.py; --quick for a look whether all of it works,
                       --only WORD for some of the loads; both write nothing)

Every load runs in snakemake-blocks by its command line, in daisy 2.0.0, where they can in daisy
1.2.3 and dask, each from PyPI in an environment of its own. Runs are interleaved, times are those
of whole processes, start included, and of several runs the median counts. Writes RESULTS.md and
costs.png beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import ours  # isort: skip  (finds the peers' modules)
import failing
import run
import smoothing

HERE = Path(__file__).parent.resolve()
US = "snakemake-blocks"
Runner = Callable[[], tuple[float, float]]
"""Does a load once; returns wall and processor seconds."""


@dataclass(slots=True)
class Load:
    """One load and who carries it.

    Parameters
    ----------
    name : str
        What it is.
    target : str
        What DESIGN promises, empty if nothing.
    runners : dict
        By participant.
    repeats : int
        How often each runs.
    """

    name: str
    target: str
    runners: dict[str, Runner]
    repeats: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def carry(self) -> None:
        """Run everybody, interleaved."""
        for turn in range(self.repeats):
            for who, runner in self.runners.items():
                seconds, cpu = runner()
                self.seconds.setdefault(who, []).append(seconds)
                self.cpu.setdefault(who, []).append(cpu)
                print(
                    f"{self.name}, {who}, {turn + 1} of {self.repeats}: {seconds:.1f} s", flush=True
                )

    def median(self, who: str) -> float:
        """Return the median of the seconds of one participant."""
        return statistics.median(self.seconds[who])

    def rows(self) -> list[list[str]]:
        """Return the table's rows of this load."""
        mine = self.median(US)
        rows = []
        for who, seconds in self.seconds.items():
            ratio = "" if who == US else f"{mine / self.median(who):.2f}"
            spread = f"{min(seconds):.1f}-{max(seconds):.1f}" if len(seconds) > 1 else "one run"
            cpu = f"{statistics.median(self.cpu[who]):.1f}"
            target = self.target if who == US else ""
            rows.append([self.name, who, f"{self.median(who):.1f}", spread, cpu, ratio, target])
        return rows


@dataclass(frozen=True, slots=True)
class Bench:
    """Where it runs, and how big."""

    folder: Path
    environments: Path
    workers: int
    repeats: int
    quick: bool

    def peer(self, who: str, script: str, *options: str) -> Runner:
        """Return a peer's runner."""
        python = run.environment(who, self.environments)

        def once() -> tuple[float, float]:
            found = run.run(python, script, ["--workers", str(self.workers), *options])
            return found["process_seconds"], found["cpu_seconds"]

        return once

    def us(self, name: str, work: Callable[[Path], ours.Took]) -> Runner:
        """Return our runner; every run has a new folder."""

        def once() -> tuple[float, float]:
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self.folder) as place:
                took = work(Path(place))
            return took.seconds, took.cpu

        return once

    def noop(self, blocks: int, *, conflict: bool, peers: list[str], target: str = "") -> Load:
        """Return the load of blocks that do nothing."""
        words = ["--blocks", str(blocks)]
        daisy = [*words, "--conflict"] if conflict else words
        runners = {
            US: self.us(
                "noop",
                lambda at: ours.noop(at, blocks=blocks, conflict=conflict, workers=self.workers),
            )
        }
        for who in peers:
            script, options = ("noop_dask", words) if who == "dask" else ("noop_daisy", daisy)
            runners[who] = self.peer(who, script, *options)
        name = f"{blocks:,} no-op blocks{', in conflict' if conflict else ''}"
        return Load(name, target, runners, 1 if blocks >= 10**6 else self.repeats)

    def chain(self, blocks: int) -> Load:
        """Return the load of two tasks of blocks that do nothing."""
        words = ["--blocks", str(blocks)]
        runners = {
            US: self.us("chain", lambda at: ours.chain(at, blocks=blocks, workers=self.workers)),
            "daisy-2": self.peer("daisy-2", "chain_daisy", *words),
            "dask": self.peer("dask", "chain_dask", *words),
        }
        return Load(f"chain of two, 2 x {blocks:,} no-op blocks", "", runners, self.repeats)

    def failing(self, retries: int) -> Load:
        """Return the load of the cells of daisy's tutorial in which half of the attempts fail."""
        store = self.folder / f"failing-{retries}.zarr"

        def anew(runner: Runner) -> Runner:
            def once() -> tuple[float, float]:
                failing.prepare(str(store))
                return runner()

            return once

        words = [str(store), "--retries", str(retries), "--workers", "5"]
        runners = {
            US: self.us("failing", lambda at: ours.failing(at, store, retries=retries, workers=5)),
            "daisy-1": self.peer("daisy-1", "failing_daisy", *words),
        }
        name = f"64 blocks, half of the attempts fail, {retries} retries, 5 workers"
        runners = {who: anew(runner) for who, runner in runners.items()}
        return Load(name, "<= 2 x daisy-1, CPU too", runners, self.repeats)

    def smooth(self) -> Load:
        """Return the load of real smoothing; the arrays are made once."""
        size = 256 if self.quick else smoothing.volume.SIZE
        source, target = self.folder / "raw.zarr", self.folder / "smooth.zarr"
        words = [str(source), str(target), "--size", str(size)]
        load = smoothing.from_options(smoothing.arguments(None).parse_args(words))
        load.prepare()
        runners = {
            US: self.us("smooth", lambda at: ours.smooth(at, load, workers=self.workers)),
            "daisy-2": self.peer("daisy-2", "smooth_daisy", *words),
            "daisy-1": self.peer("daisy-1", "smooth_daisy", *words),
            "dask": self.peer("dask", "smooth_dask", *words),
            "bare pool of processes": self.peer("dask", "smooth_bare", *words),
            "compute-bound limit": self.peer("dask", "smooth_bare", *words, "--no-io"),
        }
        name = f"Gaussian smoothing, {size}^3 voxels"
        return Load(name, "<= daisy-2, dask; >= 90 % of the limit", runners, self.repeats)


def measure(bench: Bench, only: str) -> tuple[list[Load], list[str]]:
    """Return the loads that were carried, and lines about what has no peer.

    Parameters
    ----------
    bench : Bench
        Where, and how big.
    only : str
        Part of the names of the loads that are wanted.
    """
    every = ["daisy-2", "daisy-1", "dask"]
    tiny, small, middle, big = (8, 512, 1000, 8000) if bench.quick else (1000, 8000, 64_000, 10**6)
    loads = [
        # daisy 1.2.3 takes minutes for 8,000 of them.
        bench.noop(tiny, conflict=False, peers=every),
        bench.noop(small, conflict=False, peers=["daisy-2", "dask"]),
        bench.noop(small, conflict=True, peers=["daisy-2"]),
        bench.noop(middle, conflict=False, peers=["daisy-2", "dask"], target="<= daisy-2"),
        bench.noop(middle, conflict=True, peers=["daisy-2"]),
        bench.noop(big, conflict=False, peers=["daisy-2"], target="<= 1/4 of daisy-2"),
        bench.chain(small),
        bench.failing(retries=2),
        bench.failing(retries=0),
        bench.smooth(),
    ]
    loads = [load for load in loads if only in load.name]
    for load in loads:
        load.carry()
    lines = []
    if only in "resume":
        lines += _resume(bench, big)
    if only in "jobs of one block":
        lines += _one_block_jobs(bench)
    return loads, lines


def _resume(bench: Bench, blocks: int) -> list[str]:
    """Measure what it costs to run what is done, over what Snakemake's start costs."""
    seconds = {}
    for count in (8, blocks):
        place = bench.folder / f"resume-{count}"
        ours.noop(place, blocks=count, conflict=False, workers=bench.workers)
        took = [ours.again(place, workers=bench.workers).seconds for _ in range(3)]
        seconds[count] = statistics.median(took)
    over = seconds[blocks] - seconds[8]
    return [
        f"Resume with {blocks:,} blocks done: {seconds[blocks]:.1f} s, that is {over:.1f} s more "
        "than with 8 blocks (target: < 3 s over Snakemake's start)."
    ]


def _one_block_jobs(bench: Bench) -> list[str]:
    """Measure jobs of one block through plain Snakemake with the executor ``blocks``."""
    lines = []
    for blocks in (400, 800) if bench.quick else (4000, 16_000):
        place = bench.folder / f"jobs-{blocks}"
        all_of_them, start = ours.one_block_jobs(place, blocks=blocks, workers=bench.workers)
        net = all_of_them.seconds - start.seconds
        lines.append(
            f"{blocks:,} jobs of one no-op block, `snakemake --profile profiles/local --cores "
            f"{bench.workers}`: {all_of_them.seconds:.1f} s; {blocks / net:.0f} jobs/s net of "
            f"start-up ({start.seconds:.1f} s); `verify` passes (target: > 200 jobs/s)."
        )
    return lines


def exponent(points: list[tuple[int, float]]) -> float:
    """Return the slope of a straight line through the logarithms, by least squares."""
    x = [math.log(n) for n, _ in points]
    y = [math.log(seconds) for _, seconds in points]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def growth(loads: list[Load]) -> dict[str, list[tuple[int, float]]]:
    """Return blocks and seconds of the no-op loads without conflict, by participant."""
    found: dict[str, list[tuple[int, float]]] = {}
    for load in loads:
        if load.name.endswith(" no-op blocks") and "chain" not in load.name:
            blocks = int(load.name.split()[0].replace(",", ""))
            for who in load.seconds:
                found.setdefault(who, []).append((blocks, load.median(who)))
    return {who: points for who, points in found.items() if len(points) > 1}


def draw(points: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw how the cost grows with the number of blocks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for who, found in points.items():
        axes.loglog(*zip(*found, strict=True), marker="o", label=f"{who}, ~N^{exponent(found):.2f}")
    axes.set(xlabel="no-op blocks", ylabel="seconds, start included")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def machine() -> str:
    """Return one line about the machine."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return f"{names[0] if names else model}, {os.cpu_count()} cores; load before: {load}"


def others(environments: Path) -> list[str]:
    """Return what the benchmarks of planning and of the worker print."""
    lines = []
    for script in ("planning.py", "worker.py"):
        words = ["--environments", environments] if script == "planning.py" else []
        done = subprocess.run(
            [sys.executable, HERE / script, *words], check=True, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout, flush=True)
        lines += [
            f"## `python benchmarks/{script}`",
            "",
            "```text",
            done.stdout.rstrip(),
            "```",
            "",
        ]
    return lines


def table(loads: list[Load]) -> str:
    """Return the table of all loads, as Markdown."""
    head = ["load", "who", "seconds", "spread", "CPU s", "ours / theirs", "target"]
    rows = [head, ["---"] * len(head), *(row for load in loads for row in load.rows())]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environments", type=Path, default=HERE.parent / ".venv-peers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny loads, nothing is written")
    parser.add_argument("--only", default="", metavar="WORD", help="loads whose name has this word")
    options = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory(prefix="blocks-bench-") as name:
        bench = Bench(
            Path(name), options.environments, options.workers, options.repeats, options.quick
        )
        loads, lines = measure(bench, options.only)
    points = growth(loads)
    grows = [f"{who}: N^{exponent(found):.2f}" for who, found in points.items()]
    text = [
        "# Results of `make bench`",
        "",
        f"{datetime.date.today()}, {about}; Python {platform.python_version()}, snakemake-blocks "
        f"{version('snakemake-blocks')}, Snakemake {version('snakemake')}; {options.workers} "
        "workers. Seconds of whole processes, start included; medians.",
        "",
        table(loads),
        "",
        f"How the seconds of no-op blocks grow with their number N: {', '.join(grows)}.",
        "",
        "![Seconds over blocks](costs.png)",
        "",
        *(f"- {line}" for line in lines),
        "",
    ]
    if not options.quick and not options.only:
        text += others(options.environments)
        draw(points, HERE / "costs.png")
        (HERE / "RESULTS.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
