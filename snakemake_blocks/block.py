"""The name under which functions pickled earlier look for Block."""

from snakemake_blocks.geometry.block import Block, BlockStatus

__all__ = ["Block", "BlockStatus"]
