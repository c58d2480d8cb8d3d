"""Arrays in ``.npy``: they say nothing but shape and type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.storage.foreign_header import Header, check_regular, native, rows, words
from snakemake_blocks.storage.spatial import Place, PlacedAxis

__all__ = ["NpyReader"]


@dataclass(frozen=True, slots=True)
class NpyReader:
    """A file of numpy.

    Parameters
    ----------
    path : str
        What it is called.
    file : Path
        Where it is.
    """

    path: str
    file: Path
    can_fork: bool = True

    def header(self) -> Header:
        """Return what the file says."""
        values = self.mapped()
        is_reversed = values.ndim > 1 and values.flags.f_contiguous
        return Header(
            "NumPy",
            Place(self.path, (PlacedAxis("", is_measured=True),) * values.ndim),
            values.shape,
            rows(values.shape, is_reversed=is_reversed),
            native(values.dtype),
        )

    def source(self) -> _NpySource:
        """Open it."""
        return _NpySource(self)

    def mapped(self) -> NDArray[Any]:
        """Return the values, in the file."""
        check_regular(self.file)
        try:
            found: NDArray[Any] = np.load(self.file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(
                f"{self.path}: is no .npy file of numbers, or is cut off ({words(error)}); "
                "restore it"
            ) from None
        return found


@dataclass(frozen=True, slots=True)
class _NpySource:
    reader: NpyReader

    def read(self, voxels: Box) -> NDArray[Any]:
        # Mapped anew for every read: what was read before would count as memory.
        return np.array(self.reader.mapped()[voxels.slices])

    def part(self, voxels: Box) -> str:
        return f"voxels {list(voxels.begin)} to {list(voxels.end)}"
