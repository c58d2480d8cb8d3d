"""A chain like the demo's in numpy alone: smooth, then label with neighbours that take turns.

Blocks can be held up while they run, and what was recorded of them is read from the ledgers.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from project import Project

from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event, first_block, read_records

BLOCKS = {"smooth": 8, "label": 2}
"""Blocks of each task; their jobs have four and one."""

Index = tuple[int, ...]

_FUNCTIONS = """
    import time
    from pathlib import Path

    import numpy as np

    HERE = Path(__file__).parent


    def wait(block):
        hold = HERE / f"hold-{block.task_id}-{block.index[1]}"
        while hold.exists():
            time.sleep(0.05)


    def smooth(raw, block):
        wait(block)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(raw, 2), (5, 5))
        return around.mean(axis=(2, 3), dtype="float32")


    def label(smoothed, neighbours, block):
        wait(block)
        bright = smoothed > 0.5
        known = neighbours[bright & (neighbours > 0)]
        return (bright * (known.max() if len(known) else block.block_id[1] + 1)).astype("uint32")
"""


class Chain:
    """The chain in a folder, and a user's commands there.

    Parameters
    ----------
    folder : Path
        Where to write it; becomes the home of the user too.
    python : Path
        Python of the environment whose commands are run.
    env : mapping of str to str
        Environment, usually of a cluster.
    **smooth
        Further keys of the first task.
    """

    def __init__(self, folder: Path, python: Path, env: Mapping[str, str], **smooth: Any) -> None:
        folder.mkdir()
        self.project = Project(folder)
        self.folder = folder
        self._bin = python.parent
        self._env = {
            **env,
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home" / "config"),
            "XDG_CACHE_HOME": str(folder / "home" / "cache"),
        }
        self._write(smooth)

    def _write(self, smooth: Mapping[str, Any]) -> None:
        noise = np.random.default_rng(5).random((16, 64), dtype=np.float32)
        self.project.array("volume.zarr/raw", noise, chunks=(16, 8), voxel_size=[1, 1])
        self.project.functions(_FUNCTIONS)
        common = {"call": "arrays", "roi": "volume.zarr/raw", "block_size": [16, 8]}
        self.project.write(
            (
                "smooth",
                {
                    "function": "functions:smooth",
                    "reads": {"raw": {"array": "volume.zarr/raw", "fill": 0}},
                    "writes": {"smoothed": {"array": "volume.zarr/smoothed", "dtype": "float32"}},
                    "context": 2,
                    "conflict": False,
                    "blocks_per_job": [1, 4],
                    **common,
                    **smooth,
                },
            ),
            (
                "label",
                {
                    "function": "functions:label",
                    "reads": {
                        "smoothed": {"array": "volume.zarr/smoothed", "fill": 0},
                        "neighbours": {"array": "volume.zarr/objects", "fill": 0},
                    },
                    "writes": {"objects": {"array": "volume.zarr/objects", "dtype": "uint32"}},
                    "context": 8,
                    "conflict": True,
                    "blocks_per_job": 1,
                    **common,
                    "block_size": [16, 32],
                },
            ),
        )

    def command(
        self, program: str, *arguments: str, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's commands to its end."""
        return subprocess.run(
            [str(self._bin / program), *arguments],
            cwd=self.folder,
            env={**self._env, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def blocks(self, *arguments: str) -> str:
        """Run ``snakemake-blocks`` and return what it printed; it must succeed."""
        done = self.command("snakemake-blocks", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def start(self, program: str, *arguments: str) -> Iterator["Running"]:
        """Start a command that is killed at the end of the ``with`` block if it still runs."""
        log = self.folder / f"{program}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(self._bin / program), *arguments],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(process, log)
        try:
            yield running
        except BaseException:
            print(running.log)  # pytest shows it with the failure
            for file in sorted(self.folder.glob("blocks/*/logs/**/*.log")):
                print(f"== {file.relative_to(self.folder)}\n{file.read_text()}")
            raise
        finally:
            if process.poll() is None:
                running.kill()

    @contextmanager
    def held(self, task: str, column: int) -> Iterator[None]:
        """Let a block not return before the end of the ``with`` block."""
        hold = self.folder / f"hold-{task}-{column}"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def happened(self, task: str, event: Event) -> list[tuple[Index, int]]:
        """Block and stamp of every record of an event so far."""
        root = self.folder / "blocks"
        if not RunPaths(root).plan.exists():
            return []
        planned = Plan.load(root).tasks[task]
        return [
            (tuple(int(k) for k in record["index"]), int(record["stamp"]))
            for job in planned.jobs.jobs
            for record in read_records(
                RunPaths(root).ledger(planned.slug, job), first_block(planned.own_grid)
            )
            if record["event"] == event
        ]

    def times(self, event: Event) -> dict[str, int]:
        """How often an event was recorded of each task's blocks."""
        return {task: len(self.happened(task, event)) for task in BLOCKS}

    def wait_until_running(self, task: str, column: int) -> None:
        """Wait until a block is running."""
        wait_for(lambda: ((0, column), 0) in self.happened(task, Event.STARTED), "a block to run")

    def results(self) -> dict[str, bytes]:
        """Every file of the arrays that the chain writes."""
        store = self.folder / "volume.zarr"
        return {
            str(file.relative_to(store)): file.read_bytes()
            for name in ("smoothed", "objects")
            for file in sorted((store / name).rglob("*"))
            if file.is_file()
        }


class Running:
    """A command that was started.

    Parameters
    ----------
    process : Popen
        Its process.
    path : Path
        Where its output goes.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path) -> None:
        self._process = process
        self._path = path

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._path.read_text(errors="replace")

    def kill(self) -> None:
        """Kill it with all that it started on this machine and that is of its session."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float = 600) -> int:
        """Exit status, once it has ended."""
        return self._process.wait(timeout)


def wait_for(
    condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = 300
) -> None:
    """Wait until a condition holds; fails after some time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= give_up:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {seconds:.0f} s in vain for {told}")
        time.sleep(0.1)
