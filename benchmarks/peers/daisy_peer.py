"""What the daisy scripts share: one task, run with the settings that suit daisy best.

Works with daisy 1.2.3 and 2.0.0.

Settings: no progress bar, no summary, the server on the loopback interface, which saves looking up
a host name. Daisy 2.0.0 records finished blocks only if given a ``tracking_path``; 1.2.3 never
does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import daisy
from loads import Box, Cube

IS_2 = version("daisy").startswith("2.")
HOST = "127.0.0.1"
TIMEOUT = 24 * 3600
"""Seconds; daisy 2.0.0 would otherwise watch blocks with its default of 600."""


def roi(box: Box) -> daisy.Roi:
    """Return a box as a daisy Roi."""
    return daisy.Roi(*box)


def cube_task(
    task_id: str, cube: Cube, function: Callable[..., Any], *, conflict: bool, **more: Any
) -> Any:
    """Return a daisy task over a cubic tiling."""
    return task(
        task_id, cube.total, cube.read, cube.write, function, read_write_conflict=conflict, **more
    )


def task(
    task_id: str,
    total: Box,
    read: Box,
    write: Box,
    function: Callable[..., Any],
    *,
    workers: int,
    **more: Any,
) -> Any:
    """Return a daisy task; ``workers`` are processes."""
    return daisy.Task(
        task_id,
        roi(total),
        roi(read),
        roi(write),
        function,
        timeout=TIMEOUT,
        **{"max_workers" if IS_2 else "num_workers": workers},
        **more,
    )


def run(tasks: list[Any]) -> bool:
    """Return whether every block of every task was done; upstream tasks must be listed."""
    if IS_2:
        states = daisy.run_blockwise(
            tasks, progress=False, summary=False, host=HOST, return_states=True
        )
    else:  # the server, because daisy 1's own run_blockwise says True even if all blocks failed
        states = daisy.Server(host=HOST).run_blockwise(tasks)
    return all(state.completed_count == state.total_block_count for state in states.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Run daisy in a scratch folder for its logs, and keep its output off standard output."""
    warnings.simplefilter("ignore")
    here = os.getcwd()
    output = os.dup(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.dup2(2, 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(output, 1)
            os.close(output)
            os.chdir(here)
