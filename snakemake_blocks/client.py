"""``Client``: for worker scripts that ask for their blocks themselves, as with daisy.

In the worker's own process a client takes blocks straight from the worker. A script that the
worker function starts as a subprocess finds a folder with a named pipe in its environment; the
worker answers there. Nothing listens on a network.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from funlib.geometry import Roi

from snakemake_blocks.block import Block, BlockStatus
from snakemake_blocks.errors import InputError

__all__ = ["Client", "serving"]

_VARIABLE = "SNAKEMAKE_BLOCKS_CLIENT"


class Source(Protocol):
    """Where a client's blocks come from."""

    def next(self) -> Block | None:
        """Return the next block, None when there is none left."""

    def finish(self, error: BaseException | None) -> None:
        """Say how the block in hand ended."""

    def accept(self, block: Block) -> None:
        """Raise if the block is not done."""


_here: Source | None = None


class Client:
    """Asks for blocks inside a ``call: worker`` function or a script that it started.

    Raises
    ------
    InputError
        Outside of a worker.
    """

    def __init__(self) -> None:
        if _here is not None:
            self._source: Source = _here
        elif folder := os.environ.get(_VARIABLE):
            self._source = _PipeSource(Path(folder))
        else:
            raise InputError(
                "Client() works inside a job only: in a function without arguments "
                "(call: worker), or in a script that such a function starts"
            )

    @contextlib.contextmanager
    def acquire_block(self) -> Iterator[Block | None]:
        """Yield the next block, or None when there is none left.

        An exception inside the ``with`` block, or ``block.status`` set to FAILED, fails this
        attempt of the block; the loop goes on.
        """
        block = self._source.next()
        if block is None:
            yield None
            return
        block.status = BlockStatus.PROCESSING
        try:
            yield block
            self._source.accept(block)
        except (Exception, SystemExit) as error:
            self._source.finish(error)
        except BaseException as error:
            self._source.finish(error)
            raise
        else:
            self._source.finish(None)


@contextlib.contextmanager
def serving(source: Source, task_id: str) -> Iterator[None]:
    """Let clients in this process and in its subprocesses take blocks from ``source``."""
    global _here
    with tempfile.TemporaryDirectory(prefix="blocks-client-") as name:
        folder = Path(name)
        os.mkfifo(folder / "requests", 0o600)
        os.mkfifo(folder / "replies", 0o600)
        thread = threading.Thread(target=_serve, args=(folder, source, task_id), daemon=True)
        thread.start()
        _here = source
        os.environ[_VARIABLE] = name
        try:
            yield
        finally:
            _here = None
            del os.environ[_VARIABLE]
            _say_goodbye(folder, thread)


def _say_goodbye(folder: Path, thread: threading.Thread) -> None:
    """End the serving thread, which may be waiting for a script to open its pipe."""
    while thread.is_alive():
        with contextlib.suppress(OSError):
            handle = os.open(folder / "requests", os.O_WRONLY | os.O_NONBLOCK)
            os.write(handle, b'{"verb": "goodbye"}\n')
            os.close(handle)
        thread.join(0.05)


def _serve(folder: Path, source: Source, task_id: str) -> None:
    """Answer scripts, one after the other, until told goodbye."""
    while True:
        with open(folder / "requests", encoding="utf-8") as requests:
            in_hand: Block | None = None
            for line in requests:
                request = json.loads(line)
                if request["verb"] == "goodbye":
                    return
                if request["verb"] == "next":
                    in_hand = source.next()
                    if not _answer(folder, in_hand):
                        break
                else:
                    _finish(source, in_hand, request)
                    in_hand = None
            if in_hand is not None:
                source.finish(RuntimeError("the worker script ended with a block in its hands"))


def _finish(source: Source, block: Block | None, request: dict[str, Any]) -> None:
    """Pass on how a script's block ended."""
    error: BaseException | None = None
    if request["error"]:
        error = RuntimeError(request["error"])
    elif block is not None:
        try:
            source.accept(block)
        except Exception as refused:  # recorded as the block's failure
            error = refused
    source.finish(error)


def _answer(folder: Path, block: Block | None) -> bool:
    """Send a block (or None) to the script; false if the script is gone."""
    data = None if block is None else _block_to_json(block)
    try:
        handle = os.open(folder / "replies", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as replies:
        replies.write(json.dumps(data) + "\n")
    return True


def _block_to_json(block: Block) -> dict[str, Any]:
    return {
        "task_id": block.task_id,
        "index": block.index,
        "block_id": block.block_id[1],
        "read": [list(block.read_roi.begin), list(block.read_roi.shape)],
        "write": [list(block.write_roi.begin), list(block.write_roi.shape)],
    }


class _PipeSource:
    """Client side of the pipes, in a script."""

    def __init__(self, folder: Path) -> None:
        try:
            # Both ways, so that the pipe has a reader as long as this process lives.
            handle = os.open(folder / "replies", os.O_RDWR)
            self._replies = os.fdopen(handle, "rb", buffering=0)
            self._requests = open(folder / "requests", "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"the worker that started this script is gone ({error})") from None

    def next(self) -> Block | None:
        """Return the next block, None when there is none left."""
        self._ask({"verb": "next"})
        data = json.loads(self._replies.readline())
        if data is None:
            self._requests.close()
            self._replies.close()
            return None
        return Block(
            total_roi=Roi(*data["read"]),
            read_roi=Roi(*data["read"]),
            write_roi=Roi(*data["write"]),
            block_id=(data["task_id"], data["block_id"]),
            task_id=data["task_id"],
            index=tuple(data["index"]),
        )

    def finish(self, error: BaseException | None) -> None:
        """Say how the block in hand ended."""
        text = "" if error is None else f"{type(error).__name__}: {error}"
        self._ask({"verb": "finish", "error": text})

    def accept(self, block: Block) -> None:
        """Raise if the block's status is FAILED; the check after it runs in the worker."""
        if block.status is BlockStatus.FAILED:
            raise RuntimeError("the script set block.status to FAILED")

    def _ask(self, request: dict[str, Any]) -> None:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
