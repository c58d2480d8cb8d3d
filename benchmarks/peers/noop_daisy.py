"""Blocks that do nothing, in daisy: what a block costs.

Runs in an environment with daisy 1.2.3 or 2.0.0 and prints one JSON line.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import loads  # isort: skip  (starts the clock)
from daisy_peer import IS_2, cube_task, quiet, run


def nothing(block: Any) -> None:
    """Do nothing."""


def main() -> None:
    """Run the load."""
    parser = loads.arguments(__doc__, blocks=8000)
    parser.add_argument("--conflict", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument(
        "--tracking", action="store_true", help="let daisy 2.0.0 record finished blocks"
    )
    options = parser.parse_args()
    if options.tracking and not IS_2:
        parser.error("daisy 1.2.3 cannot record finished blocks")
    cube = loads.Cube(options.blocks)
    with quiet(), tempfile.TemporaryDirectory() as tracking:
        task = cube_task(
            "nothing",
            cube,
            nothing,
            conflict=options.conflict,
            workers=options.workers,
            **({"tracking_path": tracking} if options.tracking else {}),
        )
        took = loads.timed(lambda: run([task]))
    loads.report(
        "daisy",
        "noop",
        took,
        ok=took.result,
        blocks=cube.blocks,
        workers=options.workers,
        conflict=options.conflict,
        tracking=options.tracking,
    )


if __name__ == "__main__":
    main()
