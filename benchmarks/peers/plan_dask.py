"""The optimised graph of a ``map_overlap`` over many blocks, in dask; nothing runs.

What comes closest to planning there: dask has no conflicts, so this is the graph of blocks that
read a context of their neighbours, built and optimised as before a run. Prints one JSON line.
"""

from __future__ import annotations

from typing import Any

import loads  # isort: skip  (starts the clock)
import dask
import dask.array


def nothing(block: Any) -> Any:
    """Return a block as it is."""
    return block


def main() -> None:
    """Run the load."""
    options = loads.arguments(__doc__, blocks=8000).parse_args()
    cube = loads.Cube(options.blocks)

    def graph() -> tuple[int, int]:
        volume = dask.array.zeros((cube.side * loads.WRITE,) * 3, chunks=loads.WRITE, dtype="uint8")
        mapped = volume.map_overlap(nothing, depth=cube.context, boundary="none", dtype="uint8")
        (optimised,) = dask.optimize(mapped)
        return mapped.npartitions, len(dict(optimised.__dask_graph__()))

    took = loads.timed(graph)
    blocks, tasks = took.result
    loads.report("dask", "plan", took, ok=blocks == cube.blocks, blocks=blocks, tasks=tasks)


if __name__ == "__main__":
    main()
