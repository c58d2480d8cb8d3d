"""The name under which functions pickled earlier look for Client."""

from snakemake_blocks.work.client import Client

__all__ = ["Client"]
