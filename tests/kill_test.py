"""Kill processes of real runs at random, and prove that nothing was lost, doubled or mixed up.

    python tests/kill_test.py --kills 100
    python tests/kill_test.py --kills 200 --jobs short    # many jobs of milliseconds
    python tests/kill_test.py --kills 200 --jobs long     # few, of many blocks

A chain of two tasks runs over and over; its blocks read what their neighbours write, so that
conflicting ones must never overlap. The second one returns rows, which are merged, and stores one
per block in a database. While it runs, a worker, a supervisor, the host that forks
them, Snakemake, `run` or all of them get SIGKILL, SIGTERM or SIGINT, at any time. After every
chain:

- the arrays equal those of an undisturbed, serial computation byte for byte;
- the merged rows are those of the whole array, and the database has one row per block;
- no block with a counting record has run again;
- no two conflicting blocks were at work at the same time;
- `verify` finds nothing missing, and no process is left.

While a run goes on, something has to be recorded every half minute: else it hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.judgement import Judge
from snakemake_blocks.state.ledger import Event, first_block, read_records
from snakemake_blocks.state.tables import read_table
from snakemake_blocks.view.verify import verify_run

BLOCK, CONTEXT = 10, 5
HANG_SECONDS = 30.0
MARK = "BLOCKS_KILL_TEST"
VICTIMS = ("worker", "worker", "supervisor", "supervisor", "host", "snakemake", "run", "group")
BATCHES = ("[1, 1]", "[2, 2]", "[3, 2]", "[6, 6]")
# Side of the image, mean seconds of a block, and blocks per job.
JOBS = {
    "mixed": (60, 0.04, BATCHES),
    "short": (120, 0.002, ("[1, 1]",)),
    "long": (60, 0.2, ("[3, 3]", "[6, 6]")),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

PIPELINE = """
tasks:
  smooth:
    function: functions:smooth
    call: arrays
    params: {{seconds: {seconds}}}
    reads: {{raw: {{array: s.zarr/raw, fill: 0}}}}
    writes: {{smoothed: {{array: s.zarr/smoothed, dtype: int64}}}}
    roi: s.zarr/raw
    block_size: [{block}, {block}]
    context: {context}
    retries: 9
    workers: {workers}
    blocks_per_job: {batch}
  label:
    function: functions:label
    call: arrays
    params: {{seconds: {seconds}}}
    reads: {{smoothed: {{array: s.zarr/smoothed, fill: 0}}}}
    writes: {{labels: {{array: s.zarr/labels, dtype: int64}}}}
    tables:
      parts: {{columns: {{value: int64, area: int64, place: "int64[2]", begin: "int64[2]"}}}}
    outputs: [rows.db]
    set_up: functions:prepare
    before_block: functions:drop
    roi: s.zarr/raw
    block_size: [{block}, {block}]
    context: {context}
    retries: 9
    workers: {workers}
    blocks_per_job: {batch}
  objects:
    call: reduce
    merge: functions:merge
    reads: {{rows: {{table: label.parts}}}}
"""

FUNCTIONS = """
import contextlib, os, random, sqlite3, time
import numpy as np

@contextlib.contextmanager
def rows():
    path = os.path.join(os.environ["BLOCKS_KILL_TEST_FOLDER"], "rows.db")
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection

def prepare():
    with rows() as connection:
        connection.execute("DROP TABLE IF EXISTS blocks")
        connection.execute("CREATE TABLE blocks (i INTEGER, j INTEGER, total INTEGER)")

def drop(block):
    with rows() as connection:
        connection.execute("DELETE FROM blocks WHERE i = ? AND j = ?", block.index)

def parts(labels, begin):
    values, inverse = np.unique(labels % 17, return_inverse=True)
    columns = {"value": values, "area": [], "place": [], "begin": []}
    for number in range(len(values)):
        where = np.argwhere(inverse.reshape(labels.shape) == number) + begin
        columns["area"].append(len(where))
        columns["place"].append(where.sum(axis=0))
        columns["begin"].append(where.min(axis=0))
    return columns

def merge(rows):
    values, inverse = np.unique(rows["value"].to_numpy(), return_inverse=True)
    area, place, begin = (np.array(rows[n].to_pylist()) for n in ("area", "place", "begin"))
    groups = [inverse == number for number in range(len(values))]
    return {
        "value": values,
        "area": [area[group].sum() for group in groups],
        "place": [place[group].sum(axis=0) for group in groups],
        "begin": [begin[group].min(axis=0) for group in groups],
    }

def tick(task, block):
    line = f"{task} {'-'.join(map(str, block.index))} {os.getpid()} {time.monotonic_ns()}\\n"
    handle = os.open("ticks.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(handle, line.encode())
    os.close(handle)

def work(task, block, seconds):
    end = time.monotonic() + seconds * random.uniform(0.5, 1.5)
    tick(task, block)
    while time.monotonic() < end:
        time.sleep(0.005)
        tick(task, block)

def smooth(raw, block, seconds):
    os.chdir(os.environ["BLOCKS_KILL_TEST_FOLDER"])
    work("smooth", block, seconds)
    total = sum(raw[5 + i : raw.shape[0] - 5 + i, 5 + j : raw.shape[1] - 5 + j]
                for i in range(-5, 6) for j in range(-5, 6))
    tick("smooth", block)
    return total

def label(smoothed, block, seconds):
    os.chdir(os.environ["BLOCKS_KILL_TEST_FOLDER"])
    work("label", block, seconds)
    inner = smoothed[5:-5, 5:-5]
    found = (inner > smoothed[:-10, :-10]) + 2 * (inner > smoothed[10:, 10:]) + 7 * inner
    begin = np.array(block.write_roi.begin)
    with rows() as connection:
        connection.execute("INSERT INTO blocks VALUES (?, ?, ?)", (*block.index, int(found.sum())))
    tick("label", block)
    return {"labels": found, "parts": parts(found, begin)}
"""


def expected(raw: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return what an undisturbed, serial run computes: the whole image at once."""
    n = len(raw)
    padded = np.pad(raw, 5)
    smoothed = sum(padded[5 + i : 5 + i + n, 5 + j : 5 + j + n] for i in range(-5, 6)
                   for j in range(-5, 6))  # fmt: skip
    wide = np.pad(np.asarray(smoothed), 5)
    inner = wide[5:-5, 5:-5]
    labels = (inner > wide[:-10, :-10]) + 2 * (inner > wide[10:, 10:]) + 7 * inner
    return {"smoothed": np.asarray(smoothed), "labels": labels}


@dataclass
class KillTest:
    """Chains that are killed, until there were enough kills.

    Parameters
    ----------
    folder : Path
        Where to work.
    seed : int
        Of the random choices; the outcome depends on timing as well.
    jobs : str
        Which jobs, a key of :data:`JOBS`.
    seconds : float or None
        Mean time of a block; default: by the jobs.
    executors : tuple of str
        Snakemake's executors; each run takes one of them.
    """

    folder: Path
    seed: int = 0
    jobs: str = "mixed"
    seconds: float | None = None
    cores: int = 2
    executors: tuple[str, ...] = ("blocks", "local")
    verbose: bool = True
    kills: Counter[str] = field(default_factory=Counter)
    chains: int = 0
    runs: int = 0
    longest: float = 0.0
    _chance: random.Random = field(init=False)
    _mark: str = field(init=False)
    _run: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._mark = uuid.uuid4().hex

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.folder / "blocks"

    def go(self, kills: int) -> None:
        """Kill so many times, and prove every chain.

        Raises
        ------
        AssertionError
            With what is not as it has to be.
        """
        while self.kills.total() < kills:
            raw = self._new_chain()
            self._kill_until_complete(kills)
            self._prove(raw)
            self.chains += 1
            self._say(f"chain {self.chains} proved; {self.kills.total()} kills, {self.runs} runs")

    def _say(self, text: str) -> None:
        if self.verbose:
            print(time.strftime("%H:%M:%S"), text, flush=True)

    def _new_chain(self) -> NDArray[np.int64]:
        """Begin anew, with other data; return these."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        side = JOBS[self.jobs][0]
        raw = np.random.default_rng(self._chance.randrange(2**32)).integers(0, 99, (side, side))
        group = zarr.open_group(self.folder / "s.zarr", mode="a")
        group.create_array("raw", shape=raw.shape, chunks=(BLOCK, BLOCK), dtype="int64")[:] = raw
        (self.folder / "functions.py").write_text(FUNCTIONS)
        self._write_pipeline()
        return raw

    def _write_pipeline(self) -> None:
        """Write pipeline.yaml, with another batch shape each time."""
        text = PIPELINE.format(
            seconds=JOBS[self.jobs][1] if self.seconds is None else self.seconds,
            block=BLOCK,
            context=CONTEXT,
            workers=self._chance.choice([1, 2]),
            batch=self._chance.choice(JOBS[self.jobs][2]),
        )
        (self.folder / "pipeline.yaml").write_text(text)

    def _kill_until_complete(self, most: int) -> None:
        while True:
            self._start()
            kills = self.kills.total()
            watched = self._recorded(), time.monotonic()
            while self._run is not None and self._run.poll() is None:
                if (recorded := self._recorded()) != watched[0]:
                    watched = recorded, time.monotonic()
                self.longest = max(self.longest, time.monotonic() - watched[1])
                assert self.longest < HANG_SECONDS, "nothing is recorded any more: the run hangs"
                if self.kills.total() < most:
                    self._wait_for_the_moment()
                    self._kill()
                else:
                    self._wait(1.0)
            assert self._run is not None
            status = self._run.returncode
            self._await_end()
            self._say(f"run ended with {status}, {len(self._done())} blocks done")
            if status == 0:
                return
            undisturbed = kills == self.kills.total()
            output = (self.folder / "output.txt").read_text()
            assert not undisturbed, f"a run that nobody disturbed ended with {status}:\n{output}"
            if self._chance.random() < 0.3:
                self._write_pipeline()

    def _recorded(self) -> int:
        """Return how many bytes all ledgers have together."""
        total = 0
        for path in self.root.glob("*/ledger/*/*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _start(self) -> None:
        self.runs += 1
        command = [
            str(Path(sys.executable).parent / "snakemake-blocks"),
            *("run", "pipeline.yaml", "--cores", str(self.cores), "--quiet"),
            *("--", "--executor", self._chance.choice(self.executors)),
        ]
        environment = {
            **os.environ,
            MARK: self._mark,
            f"{MARK}_FOLDER": str(self.folder),
            "PYTHONUNBUFFERED": "1",
        }
        with (self.folder / "output.txt").open("wb") as output:
            self._run = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_the_moment(self) -> None:
        """Wait: mostly into the middle of the work, sometimes just so long."""
        if self._chance.random() < 0.3:
            self._wait(self._chance.uniform(0.05, 3.0))
            return
        assert self._run is not None
        while self._run.poll() is None and "worker" not in dict(self._processes()):
            self._wait(0.05)
        self._wait(self._chance.uniform(0.0, 0.8))

    def _wait(self, seconds: float) -> None:
        assert self._run is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._run.wait(seconds)

    def _kill(self) -> None:
        """Send a signal to some process, if there is one of the kind."""
        victim, number = self._chance.choice(VICTIMS), self._chance.choice(SIGNALS)
        found = self._processes()
        pids = [pid for kind, pid in found if victim in (kind, "group")]
        if not pids or self._run is None or self._run.poll() is not None:
            return
        if victim != "group":
            pids = [self._chance.choice(pids)]
        elif self._chance.random() < 0.5:
            self._chance.shuffle(pids)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        self.kills[f"{number.name} {victim}"] += 1
        self._say(f"{number.name} to {victim} ({len(pids)} of {len(found)} processes)")

    def _processes(self) -> list[tuple[str, int]]:
        """Return our processes and what they are."""
        mine = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                environment = Path("/proc", name, "environ").read_bytes()
                if f"{MARK}={self._mark}".encode() in environment.split(b"\0"):
                    command = Path("/proc", name, "cmdline").read_bytes()
                    stat = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                    if stat[0] not in "ZX":
                        mine[int(name)] = (command, int(stat[1]))
            except (OSError, IndexError):
                continue
        return [(self._kind(pid, mine), pid) for pid in mine]

    def _kind(self, pid: int, mine: dict[int, tuple[bytes, int]]) -> str:
        assert self._run is not None
        command, parent = mine[pid]
        if pid == self._run.pid:
            return "run"
        if b"be_snakemake" in command:
            return "snakemake"
        forked = parent in mine and mine[parent][0] == command
        if b"snakemake_blocks.work.host" in command:
            if not forked:
                return "host"
            grandparent = mine[parent][1]
            twice = grandparent in mine and mine[grandparent][0] == command
            return "worker" if twice else "supervisor"
        if b"\0work\0" in command:
            return "worker" if forked else "supervisor"
        return "shell"

    def _await_end(self) -> None:
        """See to it that nothing is left; what a killed run left stops by itself."""
        give_up = time.monotonic() + 30
        while left := self._processes():
            assert time.monotonic() < give_up, f"these processes are left: {left}"
            time.sleep(0.05)

    def _done(self) -> list[tuple[str, tuple[int, ...]]]:
        if not RunPaths(self.root).plan.exists():
            return []
        plan = Plan.load(self.root)
        judge = Judge(plan, self.root)
        return [
            (name, tuple(map(int, index)))
            for name, task in plan.tasks.items()
            for index in np.argwhere(judge.judge_all(task).done)
        ]

    def _prove(self, raw: NDArray[np.int64]) -> None:
        for name, values in expected(raw).items():
            found = zarr.open_array(self.folder / "s.zarr" / name, mode="r")[:]
            assert np.asarray(found).tobytes() == values.tobytes(), f"{name} differs"
            if name == "labels":
                self._prove_rows(values)
        plan = Plan.load(self.root)
        missing = verify_run(plan, self.root).missing
        assert not missing, missing
        self._prove_records(plan)
        self._prove_order(plan)

    def _prove_rows(self, labels: NDArray[np.int64]) -> None:
        """The merged rows are those of the whole array, and each block has its row once."""
        found = read_table(self.root, "objects", "parts").to_pylist()
        wanted = []
        for value in np.unique(labels % 17).tolist():
            where = np.argwhere(labels % 17 == value)
            place, begin = where.sum(axis=0).tolist(), where.min(axis=0).tolist()
            wanted.append({"value": value, "area": len(where), "place": place, "begin": begin})
        assert found == wanted, "the merged rows are not those of the whole array"
        n = len(labels) // BLOCK
        totals = labels.reshape(n, BLOCK, n, BLOCK).sum(axis=(1, 3))
        with contextlib.closing(sqlite3.connect(self.folder / "rows.db")) as connection:
            stored = list(connection.execute("SELECT i, j, total FROM blocks ORDER BY i, j"))
        assert stored == [(i, j, int(totals[i, j])) for i, j in np.ndindex(n, n)], "rows of blocks"

    def _prove_records(self, plan: Plan) -> None:
        """No block was begun again after it was done: upstream, too, was done but once."""
        for task in plan.tasks.values():
            done: set[tuple[int, ...]] = set()
            for job in task.jobs.jobs:
                path = RunPaths(self.root).ledger(task.slug, job)
                for record in read_records(path, first_block(task.own_grid)):
                    index = tuple(record["index"].tolist())
                    if record["event"] in (Event.DONE, Event.SKIPPED):
                        assert index not in done, f"{task.name} {index} was done twice"
                        done.add(index)
                    elif record["event"] == Event.STARTED:
                        assert index not in done, f"{task.name} {index} was begun again"
            assert done == set(task.grid)

    def _prove_order(self, plan: Plan) -> None:
        """No tick of an attempt lies between two ticks of an attempt in conflict with it."""
        spans: dict[tuple[str, tuple[int, ...], str, int], list[int]] = {}
        begun: Counter[tuple[str, str, str]] = Counter()
        last: dict[str, tuple[str, str, str]] = {}
        for line in (self.folder / "ticks.txt").read_text().splitlines():
            name, block, pid, at = line.split()
            if last.get(pid) != (name, block, pid):
                begun[name, block, pid] += 1
                last[pid] = (name, block, pid)
            index = tuple(map(int, block.split("-")))
            spans.setdefault((name, index, pid, begun[name, block, pid]), []).append(int(at))
        for name, task in plan.tasks.items():
            own = sorted(
                (min(ticks), max(ticks), key[1]) for key, ticks in spans.items() if key[0] == name
            )
            for k, (_, end, one) in enumerate(own):
                near = task.block_phases.conflicting(one)
                for begin, _, other in own[k + 1 :]:
                    if begin > end:
                        break
                    assert not near.contains(other), f"{name}: {one} and {other} overlapped"


def main() -> None:
    """Run the test as the arguments say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", choices=JOBS, default="mixed")
    parser.add_argument("--seconds", type=float, default=None, help="mean time of a block")
    parser.add_argument(
        "--executor", choices=KillTest.executors, help="default: now this, now that"
    )
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="blocks-kill-")) / "chain"
    # What a shell starts in the background ignores it, and what that starts, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    test = KillTest(folder, seed=seed, jobs=arguments.jobs, seconds=arguments.seconds)
    if arguments.jobs == "short":
        test.executors = ("blocks",)  # the other one starts a Python for each
    if arguments.executor:
        test.executors = (arguments.executor,)
    test.go(arguments.kills)
    for kind, count in sorted(test.kills.items()):
        print(f"{count:4} {kind}")
    print(
        f"{test.kills.total()} kills in {test.runs} runs of {test.chains} chains: all proved; "
        f"nothing was recorded for {test.longest:.1f} s at most"
    )
    shutil.rmtree(folder.parent)


if __name__ == "__main__":
    main()
