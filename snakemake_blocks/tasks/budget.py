"""What a task may take: attempts, time, processes, and what Snakemake hands out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from snakemake_blocks.tasks.forms import is_number, is_text, mapping_of, maybe, whole
from snakemake_blocks.tasks.keys import Kind, Problem, check_keys, key
from snakemake_blocks.tasks.resources import resource_problems

__all__ = ["Budget"]


def _count(least: int) -> Kind:
    """Return the kind of whole numbers."""

    def problems(value: Any) -> Iterator[Problem]:
        if type(value) is not int:
            yield "", f"must be a whole number, got {value!r:.60}"
        elif value < least:
            yield "", f"must be at least {least}, got {value}"

    return Kind(whole(least), problems)


def _or_none(kind: Kind) -> Kind:
    """Return the kind of values that may be left out."""
    return Kind(maybe(kind.fits), lambda value: () if value is None else kind.problems(value))


def _time_problems(value: Any) -> Iterator[Problem]:
    if type(value) not in (int, float):
        yield "", f"must be seconds, got {value!r:.60}"
    elif not value > 0:
        yield "", f"must be positive, got {value}; leave it out for none"


_SECONDS = Kind(lambda value: is_number(value) and value > 0, _time_problems)
_RESOURCES = Kind(
    mapping_of(lambda value: is_number(value) or is_text(value)), resource_problems, dict
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one job, and one attempt of a block, may take.

    Parameters
    ----------
    retries : int
        Attempts of a block in one run, less one.
    timeout : float, optional
        Seconds per attempt.
    workers, threads : int
        Processes per job, threads per process.
    max_workers : int, optional
        Processes over all jobs.
    resources : mapping
        Snakemake resources of a job.

    Raises
    ------
    InvalidKeysError
        If a value is none that its key can have.
    """

    retries: int = key(_count(0), 2)
    timeout: float | None = key(_or_none(_SECONDS), None)
    workers: int = key(_count(1), 1)
    threads: int = key(_count(1), 1)
    max_workers: int | None = key(_or_none(_count(1)), None)
    resources: Mapping[str, int | float | str] = key(_RESOURCES, {})

    def __post_init__(self) -> None:
        check_keys(self)

    @property
    def cores(self) -> int:
        """Cores that a job takes."""
        return self.workers * self.threads
