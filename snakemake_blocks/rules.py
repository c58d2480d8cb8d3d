"""The name that Snakefiles on disk import."""

from snakemake_blocks.engine.input_functions import Rules

__all__ = ["Rules"]
