"""Sentinels: small files that say that all blocks of a job, or of many jobs, are done.

Written by the worker, last and atomically. The content is a function of what was done, so
writing one again gives the same bytes, and another result gives others: Snakemake compares
checksums of small files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.system.files import parse_json, read_file, write_atomically

__all__ = ["Sentinel", "digest_of_sentinels", "digest_of_stamps", "read_sentinel"]


# Many times what the name of a task and a shape take.
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Sentinel:
    """Content of a sentinel.

    Parameters
    ----------
    task : str
        The task's name.
    fingerprint : str
        The task's fingerprint, 16 hexadecimal digits.
    node : str
        Name of the job, or of the aggregate.
    batch : list of int
        Blocks per job along each axis.
    first : list of int
        How ledgers number the grid's first block: a region that grew at its begin has other jobs
        under the same names.
    blocks : int
        Blocks that are done.
    digest : str
        Hash of the stamps of their records, or of the sentinels below.
    """

    task: str
    fingerprint: str
    node: str
    batch: list[int]
    first: list[int]
    blocks: int
    digest: str

    def __post_init__(self) -> None:
        kinds = (str, str, str, list, list, int, str)
        for name, kind in zip(self.__slots__, kinds, strict=True):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} of a sentinel is no {kind.__name__}")

    @classmethod
    def from_bytes(cls, content: bytes) -> Sentinel | None:
        """Return the sentinel that a file holds, None if it is damaged."""
        try:
            return cls(**parse_json(content))
        except (ValueError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        """Return the file."""
        return (json.dumps(asdict(self), sort_keys=True) + "\n").encode()

    def write(self, path: Path) -> None:
        """Write the sentinel, whole or not at all, and wait until its content is on disk.

        One that a crash of the machine takes away is written again from the records, which are.
        """
        write_atomically(path, self.to_bytes(), durable_name=False)


def digest_of_stamps(stamps: NDArray[np.uint64]) -> str:
    """Return the digest of the stamps of a job's present blocks, in grid order."""
    return hashlib.sha256(stamps.astype("<u8").tobytes()).hexdigest()[:32]


def digest_of_sentinels(contents: Iterable[bytes]) -> str:
    """Return the digest of the sentinels that an aggregate stands on."""
    total = hashlib.sha256()
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()[:32]


def read_sentinel(path: Path) -> Sentinel | None:
    """Return the sentinel at ``path``; None if there is none or it is damaged."""
    try:
        return Sentinel.from_bytes(read_file(path, most=_MOST))
    except FileNotFoundError:
        return None
