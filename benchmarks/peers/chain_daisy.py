"""Two tasks of blocks that do nothing, the second reading a context of the first, in daisy.

Runs in an environment with daisy 1.2.3 or 2.0.0 and prints one JSON line. ``--workers`` is the
number of processes of each task, as daisy counts it; ``blocks`` in the answer counts both tasks.
"""

from __future__ import annotations

from typing import Any

import loads  # isort: skip  (starts the clock)
from daisy_peer import cube_task, quiet, run


def nothing(block: Any) -> None:
    """Do nothing."""


def main() -> None:
    """Run the load."""
    options = loads.arguments(__doc__, blocks=8000).parse_args()
    plain, context = loads.Cube(options.blocks, context=0), loads.Cube(options.blocks)
    with quiet():
        first = cube_task("first", plain, nothing, conflict=False, workers=options.workers)
        second = cube_task(
            "second",
            context,
            nothing,
            conflict=False,
            workers=options.workers,
            upstream_tasks=[first],
        )
        took = loads.timed(lambda: run([first, second]))
    loads.report(
        "daisy", "chain", took, ok=took.result, blocks=2 * plain.blocks, workers=options.workers
    )


if __name__ == "__main__":
    main()
