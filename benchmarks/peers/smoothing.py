"""The smoothing load: a 3-D Gaussian filter, zarr in, zarr out, in blocks.

Every peer filters the same blocks with the same context, of exactly the filter's radius, so that
all of them, and scipy on the whole volume, give the same bytes. At the border of the volume the
context is cut off and scipy reflects there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import loads
import volume
from scipy.ndimage import gaussian_filter

TRUNCATE = 4
"""Radius of the filter in sigmas, scipy's default."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """What to smooth, and how.

    Parameters
    ----------
    source, target : Path
        Zarr arrays; the target is made anew.
    size, block : int
        Voxels per axis of the volume and of what a block writes.
    chunk : int
        Voxels per axis of a storage chunk, in and out; divides ``block``.
    sigma : int
        In voxels.
    """

    source: Path
    target: Path
    size: int
    block: int
    chunk: int
    sigma: int

    def __post_init__(self) -> None:
        if self.size % self.block or self.block % self.chunk:
            raise ValueError(
                f"chunk {self.chunk} must divide block {self.block}, and that size {self.size}"
            )

    @property
    def context(self) -> int:
        """Voxels that a block reads beyond what it writes."""
        return TRUNCATE * self.sigma

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int((self.size // self.block) ** 3)

    def begins(self) -> Iterator[tuple[int, ...]]:
        """Yield where each block begins to write."""
        return product(range(0, self.size, self.block), repeat=3)

    def prepare(self) -> None:
        """Make the input if it is not there, and an empty output."""
        volume.make(self.source, size=self.size, chunk=self.chunk)
        volume.create(self.target, size=self.size, chunk=self.chunk)

    def read_slices(self, begin: tuple[int, ...]) -> tuple[slice, ...]:
        """Return what a block reads, cut at the border of the volume."""
        return tuple(
            slice(max(0, at - self.context), min(self.size, at + self.block + self.context))
            for at in begin
        )

    def smooth(self, source: Any, target: Any, begin: tuple[int, ...]) -> None:
        """Smooth one block."""
        reading = self.read_slices(begin)
        values = smoothed(source[reading], sigma=self.sigma)
        inside = tuple(
            slice(at - read.start, at - read.start + self.block)
            for at, read in zip(begin, reading, strict=True)
        )
        target[tuple(slice(at, at + self.block) for at in begin)] = values[inside]


def smoothed(values: Any, *, sigma: int) -> Any:
    """Return values after the filter."""
    return gaussian_filter(values, sigma, truncate=TRUNCATE)


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of this load."""
    parser = loads.arguments(doc)
    parser.add_argument("source", type=Path, help="input zarr array, made if not there")
    parser.add_argument("target", type=Path, help="output zarr array, made anew")
    parser.add_argument("--size", type=int, default=volume.SIZE, help="voxels per axis")
    parser.add_argument("--block", type=int, default=128, help="voxels per axis")
    parser.add_argument("--chunk", type=int, default=volume.CHUNK, help="voxels per axis")
    parser.add_argument("--sigma", type=int, default=8, help="voxels")
    parser.add_argument("--digest", action="store_true", help="report the output's SHA-256")
    return parser


def from_options(options: argparse.Namespace) -> Smoothing:
    """Return the load that the command line asks for."""
    return Smoothing(
        options.source.absolute(),
        options.target.absolute(),
        options.size,
        options.block,
        options.chunk,
        options.sigma,
    )


def report(
    peer: str,
    load: Smoothing,
    options: argparse.Namespace,
    took: loads.Timed,
    *,
    ok: bool,
    **more: Any,
) -> None:
    """Print the JSON line of this load."""
    if options.digest:
        more["digest"] = volume.digest(load.target)
    settings = {
        name: getattr(load, name) for name in ("size", "block", "chunk", "sigma", "context")
    }
    loads.report(
        peer,
        "smooth",
        took,
        ok=ok,
        blocks=load.blocks,
        workers=options.workers,
        **settings,
        **more,
    )
