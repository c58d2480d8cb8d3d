"""Where things lie in a run directory, and how task ids become names of files and rules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index

__all__ = ["RunPaths", "SentinelName", "find_run_directory", "rows_beside", "shard", "slug"]

# A folder holds at most about this many entries, whatever the number of jobs.
_FOLDER_ENTRIES = 1000
# File systems end names at 255 bytes; some of ours get endings.
_LONGEST_SLUG = 120
_RESERVED = {"functions", "masks", "envs", "all", "locks", "stop", "Snakefile"}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def slug(task_id: str) -> str:
    """Return an injective name for a task id, fit for files and Snakemake rules.

    Plain names stay as they are; any other text becomes ``x_`` and the code points of its
    special characters. Of what would be too long for a file the end is replaced by a hash, which
    makes it longer than any other name.
    """
    if _PLAIN.fullmatch(task_id) and task_id not in _RESERVED and not task_id.startswith("x_"):
        name = task_id
    else:
        plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
        name = "x_" + "".join(c if c in plain else f"_{ord(c):x}_" for c in task_id)
    if len(name) <= _LONGEST_SLUG:
        return name
    digest = hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()
    return f"{name[: _LONGEST_SLUG - 63]}{digest}"


def index_name(index: Sequence[int]) -> str:
    """Return ``i-j-k``."""
    return "-".join(map(str, index))


def index_of(name: str) -> Index | None:
    """Return the index that has a name, None if it is the name of none."""
    if not re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})*", name):
        return None
    return tuple(map(int, name.split("-")))


def shard(index: Sequence[int]) -> str:
    """Return the folder of an index: neighbouring indices share one, up to about a thousand.

    It depends on the index alone, so a grown region leaves every file where it is.
    """
    side = int(round(_FOLDER_ENTRIES ** (1 / len(index)), 9))
    return index_name([k // side for k in index])


def job_name(index: Sequence[int]) -> str:
    """Return ``shard/i-j-k``, which names a job inside its task."""
    return f"{shard(index)}/{index_name(index)}"


@dataclass(frozen=True, slots=True)
class SentinelName:
    """A sentinel's path taken apart."""

    run_directory: Path
    task_slug: str
    phase: int
    index: Index

    @classmethod
    def from_path(cls, path: Path) -> SentinelName:
        """Return what ``RUN_DIR/<task>/p<phase>/<shard>/<i>-<j>-<k>.json`` names.

        Raises
        ------
        InputError
            If the path has another form.
        """
        index = index_of(path.stem) if path.suffix == ".json" else None
        deep = len(path.parents) > 3
        phase = re.fullmatch(r"p([0-9]{1,18})", path.parents[1].name) if deep else None
        if index is None or phase is None:
            raise InputError(
                f"{path}: is not a sentinel; one looks like "
                "blocks/<task>/p<phase>/<shard>/<i>-<j>-<k>.json"
            )
        return cls(path.parents[3], path.parents[2].name, int(phase[1]), index)


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Files of one run directory."""

    root: Path

    @property
    def plan(self) -> Path:
        """The frozen plan."""
        return self.root / "plan.json"

    @property
    def functions(self) -> Path:
        """Folder of pickled functions."""
        return self.root / "functions"

    @property
    def lock(self) -> Path:
        """Lock of `run` and `generate`."""
        return self.root / "locks" / "run.json"

    @property
    def moving(self) -> Path:
        """Lock of whoever changes state between jobs; no job begins while it is held."""
        return self.root / "locks" / "moving.json"

    @property
    def drain(self) -> Path:
        """While this file exists, no new block is started."""
        return self.root / "stop"

    def mask(self, name: str) -> Path:
        """Presence of the blocks of a masked task."""
        return self.root / "masks" / f"{name}.npz"

    def next_mask(self, name: str) -> Path:
        """The same for a plan that is about to take the place of the present one."""
        return self.root / "masks" / f"{name}.next.npz"

    def task(self, task_slug: str) -> Path:
        """Folder of a task."""
        return self.root / task_slug

    def sentinel(self, task_slug: str, phase: int, index: Sequence[int]) -> Path:
        """Sentinel of a job."""
        return self.root / task_slug / f"p{phase}" / f"{job_name(index)}.json"

    def ledger(self, task_slug: str, index: Sequence[int]) -> Path:
        """Ledger of a job."""
        return self.ledgers(task_slug) / job_name(index)

    def tables(self, task_slug: str, name: str) -> Path:
        """Folder of a table of a task."""
        return self.root / task_slug / "tables" / name

    def rows(self, task_slug: str, name: str, index: Sequence[int]) -> Path:
        """Rows that the blocks of a job gave to a table."""
        return self.tables(task_slug, name) / job_name(index)

    def job_lock(self, task_slug: str, index: Sequence[int]) -> Path:
        """Lock of a job."""
        return self.ledgers(task_slug) / f"{job_name(index)}.lock"

    def identity(self, task_slug: str, fingerprint: int) -> Path:
        """What a fingerprint of a task stood for."""
        return self.root / task_slug / "identities" / f"{fingerprint:016x}.json"

    def logs(self, task_slug: str) -> Path:
        """Folder of what the jobs of a task print, and of their failures."""
        return self.root / task_slug / "logs"

    def failures(self, task_slug: str, index: Sequence[int]) -> Path:
        """Failed attempts of a job with their tracebacks, one JSON object a line."""
        return self.logs(task_slug) / f"{job_name(index)}.failures.jsonl"

    def log(self, task_slug: str, index: Sequence[int]) -> Path:
        """Output of a job."""
        return self.logs(task_slug) / f"{job_name(index)}.log"

    def notes(self, task_slug: str) -> Path:
        """Folder of what is said once of a task, a line per file."""
        return self.root / task_slug / "notes"

    def ledgers(self, task_slug: str) -> Path:
        """Folder of the ledgers of a task's jobs."""
        return self.root / task_slug / "ledger"

    def products(self, task_slug: str) -> Path:
        """What the files of a task held when it was done."""
        return self.root / task_slug / "products.json"

    def leftovers(self, task_slug: str) -> Path:
        """Is there where a task's outputs may hold something that no record tells of."""
        return self.root / task_slug / "leftovers"

    def done(self, task_slug: str) -> Path:
        """Aggregate of a whole task."""
        return self.aggregate(task_slug, "done")

    def aggregate(self, task_slug: str, name: str) -> Path:
        """Aggregate of up to 128 jobs or aggregates of the level below, by its name."""
        return self.root / task_slug / f"{name}.json"


def rows_beside(ledger: Path, name: str) -> Path:
    """Return where a job, named by its ledger, keeps what its blocks give to a table."""
    return ledger.parents[2] / "tables" / name / ledger.parent.name / ledger.name


def find_run_directory(path: Path) -> Path:
    """Return the nearest folder at or above ``path`` that holds a plan.

    Raises
    ------
    InputError
        If there is none.
    """
    for folder in (path, *path.parents):
        if RunPaths(folder).plan.is_file():
            return folder
    raise InputError(f"{path}: no plan.json here or above; run `snakemake-blocks generate` first")
