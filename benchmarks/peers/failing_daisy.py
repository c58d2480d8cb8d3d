"""Blocks half of whose attempts fail, in daisy: what a failure costs.

Runs in an environment with daisy 1.2.3 and prints one JSON line.
"""

from __future__ import annotations

from functools import partial

import loads  # isort: skip  (starts the clock)
import failing
from daisy_peer import quiet, run, task


def main() -> None:
    """Run the load; blocks that fail for good are what it is about."""
    parser = loads.arguments(__doc__)
    parser.add_argument("store", help="of the arrays, which `failing.prepare` made")
    parser.add_argument("--retries", type=int, default=2)
    options = parser.parse_args()
    side, block, context = failing.SIDE, failing.BLOCK, failing.CONTEXT
    with quiet():
        smoothing = task(
            "failing",
            ((-context,) * 2, (side + 2 * context,) * 2),
            ((-context,) * 2, (block + 2 * context,) * 2),
            ((0, 0), (block, block)),
            partial(failing.smooth, store=options.store),
            read_write_conflict=False,
            workers=options.workers,
            max_retries=options.retries,
        )
        took = loads.timed(lambda: run([smoothing]))
    done = failing.blocks_done(options.store)
    loads.report(
        "daisy",
        "failing",
        took,
        ok=done > 0 and took.result == (done == (side // block) ** 2),
        blocks=(side // block) ** 2,
        workers=options.workers,
        retries=options.retries,
        done=done,
    )


if __name__ == "__main__":
    main()
