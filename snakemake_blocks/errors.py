"""Errors that a caller of snakemake_blocks may catch."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BlocksError",
    "BusyError",
    "InputError",
    "LedgerError",
    "PlanError",
    "SpecError",
    "TilingError",
]


class BlocksError(Exception):
    """Anything that snakemake_blocks refuses or cannot do; the message says what to do next."""


class InputError(BlocksError):
    """A command was given something that does not exist or does not fit (exit code 2)."""


class TilingError(BlocksError):
    """A region cannot be tiled as asked."""


class PlanError(BlocksError):
    """Tasks are fine one by one, but together they cannot be planned."""


class LedgerError(BlocksError):
    """State in the run directory contradicts itself or the plan."""


class BusyError(BlocksError):
    """Somebody else holds the lock."""


class SpecError(BlocksError):
    """All problems of a description at once.

    Parameters
    ----------
    problems : sequence of str
        One line per problem, each ``place: what is wrong; what to do``.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
