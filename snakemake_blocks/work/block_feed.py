"""Where a worker's function gets its blocks from, one at a time."""

from __future__ import annotations

from typing import Protocol

from snakemake_blocks.geometry.block import Block

__all__ = ["BlockFeed"]


class BlockFeed(Protocol):
    """Hands out blocks, and is told how each of them ended."""

    def next(self) -> Block | None:
        """Return the next block, None when there is none left."""

    def finish(self, error: BaseException | None) -> None:
        """Say how the block in hand ended."""

    def accept(self, block: Block) -> None:
        """Raise if the block is not done."""
