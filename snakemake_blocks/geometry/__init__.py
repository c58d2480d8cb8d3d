"""Boxes, grids, blocks and their order; integers only."""
