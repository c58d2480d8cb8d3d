"""Two maps of blocks that do nothing, the second reading a context of the first, in dask.

``map_blocks``, then ``map_overlap``, over an array with one byte per voxel; the result is thrown
away block by block. ``blocks`` in the answer counts both maps. Prints one JSON line.
"""

from __future__ import annotations

from typing import Any

import loads  # isort: skip  (starts the clock)
import dask.array


class Nowhere:
    """An array that forgets."""

    def __setitem__(self, where: Any, values: Any) -> None:
        """Forget."""


def nothing(block: Any) -> Any:
    """Return a block as it is."""
    return block


def main() -> None:
    """Run the load."""
    parser = loads.arguments(__doc__, blocks=8000)
    parser.add_argument("--scheduler", choices=["processes", "threads"], default="threads")
    options = parser.parse_args()
    cube = loads.Cube(options.blocks)

    def run() -> bool:
        shape = (cube.side * loads.WRITE,) * 3
        volume = dask.array.zeros(shape, chunks=loads.WRITE, dtype="uint8")
        first = volume.map_blocks(nothing, dtype="uint8")
        second = first.map_overlap(nothing, depth=cube.context, boundary="none", dtype="uint8")
        second.store(
            Nowhere(), lock=False, scheduler=options.scheduler, num_workers=options.workers
        )
        return bool(second.npartitions == cube.blocks)

    took = loads.timed(run)
    loads.report(
        "dask",
        "chain",
        took,
        ok=took.result,
        blocks=2 * cube.blocks,
        workers=options.workers,
        scheduler=options.scheduler,
    )


if __name__ == "__main__":
    main()
