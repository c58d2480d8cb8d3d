"""The run directory: what is written down of blocks, and what of it counts."""
