"""A pipeline's folder, made for one test: arrays, functions, pipeline.yaml, and the commands."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zarr
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from snakemake_blocks.cli import main
from snakemake_blocks.commands.generate import generate
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.ledger import Event, first_block, read_records
from snakemake_blocks.state.status import read_status
from snakemake_blocks.view.verify import verify_run
from snakemake_blocks.work.job import work_sentinel

BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Project:
    """The folder and what a user does in it."""

    folder: Path

    @property
    def pipeline(self) -> Path:
        return self.folder / "pipeline.yaml"

    def array(
        self,
        path: str,
        data: Any,
        *,
        zarr_format: int = 3,
        chunks: Sequence[int] | None = None,
        shards: Sequence[int] | None = None,
        **attributes: Any,
    ) -> NDArray[Any]:
        """Store an array with the attributes, in the Zarr format; return its values."""
        values = np.asarray(data)
        store, _, name = path.partition(".zarr/")
        group = zarr.open_group(self.folder / f"{store}.zarr", mode="a", zarr_format=zarr_format)
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=tuple(chunks or values.shape),
            shards=tuple(shards) if shards else None,
            dtype=values.dtype,
            overwrite=True,
        )
        array[...] = values
        array.attrs.update(attributes)
        return values

    def read(self, path: str) -> NDArray[Any]:
        """Return the values of a stored array."""
        return np.asarray(zarr.open_array(self.folder / path, mode="r")[...])

    def functions(self, text: str, name: str = "functions") -> None:
        """Write a module beside the pipeline."""
        (self.folder / f"{name}.py").write_text(textwrap.dedent(text))

    def write(self, *tasks: tuple[str, dict[str, Any]], **more: Any) -> Path:
        """Write pipeline.yaml from names and mappings; return its path."""
        text = yaml.safe_dump({"tasks": dict(tasks), **more}, sort_keys=False)
        self.pipeline.write_text(text)
        return self.pipeline

    def cli(self, *arguments: str) -> Result:
        """Run the command line in this process; only for verbs that start none."""
        return CliRunner().invoke(main, arguments, catch_exceptions=False)

    def blocks(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run `snakemake-blocks` as a user does; what `run` or `demo` calls complete is proved."""
        done = self._run("snakemake-blocks", *arguments, timeout=timeout)
        if done.returncode == 0 and not {"--roi", "--probe", "-n", "--dry-run"} & set(arguments):
            folder = {"run": "blocks", "demo": "demo/blocks"}.get(arguments[0])
            if folder is not None:
                root = self.folder / folder
                assert verify_run(Plan.load(root), root).missing == ()
        return done

    def work(self, *, complete: bool = True) -> Plan:
        """Do all jobs of all tasks, and note their ends, in this process and without Snakemake.

        What is to be complete afterwards is proved.
        """
        plan, _ = generate(self.pipeline)
        root = plan.paths.root
        for name, task in plan.tasks.items():
            jobs = [Path(job.sentinel) for job in plan.jobs(name)]
            codes = {work_sentinel(path, attempt=1, environment={}) for path in jobs}
            assert codes == {0} or not complete
            for aggregate in task.aggregates if complete else ():
                path = plan.paths.aggregate(task.slug, task.aggregates.name(aggregate))
                if not path.exists():
                    assert work_sentinel(path, attempt=1, environment={}) == 0
        if complete:
            assert verify_run(plan, root).missing == ()
            assert read_status(plan, root).complete
        return plan

    def snakemake(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run plain `snakemake`, started by its path, with a PATH that knows nothing of it."""
        return self._run("snakemake", *arguments, timeout=timeout)

    def _run(
        self, program: str, *arguments: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        bare = {**os.environ, "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
        return subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.folder,
            env=bare,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def records(self, task: str, event: Event = Event.DONE) -> dict[tuple[int, ...], Any]:
        """Return the last record of an event for every block of a task that has one."""
        return {
            tuple(int(k) for k in record["index"]): record
            for record in self.all_records(task)
            if record["event"] == event
        }

    def all_records(self, task: str) -> list[Any]:
        """Return the records of a task, job after job."""
        root = self.folder / "blocks"
        planned = Plan.load(root).tasks[task]
        first = first_block(planned.own_grid)
        return [
            record
            for job in planned.jobs.jobs
            for record in read_records(RunPaths(root).ledger(planned.slug, job), first)
        ]

    def files(self) -> set[Path]:
        """Return all files and folders, to see what a command wrote."""
        return {
            p.relative_to(self.folder)
            for p in self.folder.rglob("*")
            if "__pycache__" not in p.parts
        }


def stamps(records: dict[tuple[int, ...], Any]) -> dict[tuple[int, ...], int]:
    """Return the stamp of every record: a block that runs again gets another one."""
    return {index: int(record["stamp"]) for index, record in records.items()}
