"""Every block of a conflict task with its dependencies, in daisy; nothing runs.

``scheduler_seconds`` is what daisy itself does before a run: it makes its scheduler, and finds
blocks and dependencies later, as it goes. Runs in an environment with daisy 1.2.3 or 2.0.0 and
prints one JSON line.
"""

from __future__ import annotations

from typing import Any

import loads  # isort: skip  (starts the clock)
import daisy
from daisy_peer import cube_task, quiet, roi


def nothing(block: Any) -> None:
    """Do nothing."""


def main() -> None:
    """Run the load."""
    options = loads.arguments(__doc__, blocks=1_000_000).parse_args()
    cube = loads.Cube(options.blocks)

    def enumerate_all() -> tuple[int, int]:
        graph = daisy.BlockwiseDependencyGraph(
            "plan", roi(cube.read), roi(cube.write), True, "valid", total_read_roi=roi(cube.total)
        )
        blocks = edges = 0
        for _, upstream in graph.enumerate_all_dependencies():
            blocks += 1
            edges += len(upstream)
        return blocks, edges

    with quiet():
        task = cube_task("plan", cube, nothing, conflict=True, workers=options.workers)
        scheduler = loads.timed(lambda: daisy.Scheduler([task]))
        took = loads.timed(enumerate_all)
    blocks, edges = took.result
    loads.report(
        "daisy",
        "plan",
        took,
        ok=blocks == cube.blocks,
        blocks=blocks,
        edges=edges,
        scheduler_seconds=round(scheduler.seconds, 4),
    )


if __name__ == "__main__":
    main()
