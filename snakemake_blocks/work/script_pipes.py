"""Named pipes between a worker and a script that its function starts.

A script is started by the user's own code, so it inherits no channel: it finds a folder of pipes
in its environment. A line of JSON is a message; what a script that died had begun to write is no
line, and does not stop the next one. Nothing listens on a network, and a script whose worker dies
dies with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from funlib.geometry import Roi

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block, BlockStatus
from snakemake_blocks.state.failures import BlockFailedError, ScriptError, failure_of
from snakemake_blocks.work.block_feed import BlockFeed
from snakemake_blocks.work.process_state import Surroundings

__all__ = ["PIPES", "PipeFeed", "ScriptServer", "remove_pipes"]

PIPES = "blocks-client-"
"""How the names of folders of pipes begin; the mark of their worker follows."""


def remove_pipes(mark: str) -> None:
    """Remove the pipes of workers that were killed.

    Parameters
    ----------
    mark : str
        Of the workers, ``<token>.<pid>``; may hold ``*``.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PIPES}{mark}-*"):
        shutil.rmtree(folder, ignore_errors=True)  # it may be somebody else's


class ScriptServer:
    """Worker side of the pipes: a thread that answers scripts, one after the other."""

    def __init__(self, folder: Path, feed: BlockFeed) -> None:
        self._folder = folder
        self._feed = feed
        self._block: Block | None = None  # in the hands of a script
        for name in ("requests", "replies", "life"):
            os.mkfifo(folder / name, 0o600)
        # Open as long as this process lives: a script sees the end of "life" when it dies.
        self._replies = os.open(folder / "replies", os.O_RDWR)
        self._life = os.open(folder / "life", os.O_RDWR)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, which may be waiting for a script to open its pipe."""
        while self._thread.is_alive():
            with contextlib.suppress(OSError):
                handle = os.open(self._folder / "requests", os.O_WRONLY | os.O_NONBLOCK)
                os.write(handle, b'\n{"verb": "goodbye"}\n')
                os.close(handle)
            self._thread.join(0.01)
        os.close(self._replies)
        os.close(self._life)

    def _serve(self) -> None:
        while True:
            with open(self._folder / "requests", encoding="utf-8", errors="replace") as requests:
                goes_on = all(self._answer(line) for line in requests)
            if self._block is not None:
                self._block = None
                self._feed.finish(
                    BlockFailedError("the worker script ended with a block in its hands")
                )
            if not goes_on:
                return

    def _answer(self, line: str) -> bool:
        """Do what one line asks for; false at the end."""
        try:
            request = json.loads(line)
        except ValueError:  # a script died while it wrote
            return True
        if request["verb"] == "goodbye":
            return False
        if request["verb"] == "next":
            self._block = self._feed.next()
            data = self._block and _block_to_json(self._block)
            reply = {"session": request["session"], "block": data}
            os.write(self._replies, (json.dumps(reply) + "\n").encode())
        else:
            self._finish(request["error"])
        return True

    def _finish(self, error: dict[str, str] | None) -> None:
        """Pass on how a script's block ended."""
        block, self._block = self._block, None
        if block is None:  # it was asked for another one before it ended
            return
        if error is not None:
            self._feed.finish(ScriptError(**error))
            return
        try:
            self._feed.accept(block)
        except BaseException as refused:  # recorded as the block's failure
            self._feed.finish(refused)
        else:
            self._feed.finish(None)


def _block_to_json(block: Block) -> dict[str, Any]:
    return {
        "task_id": block.task_id,
        "index": block.index,
        "block_id": block.block_id[1],
        "read": [list(block.read_roi.begin), list(block.read_roi.shape)],
        "write": [list(block.write_roi.begin), list(block.write_roi.shape)],
    }


class PipeFeed:
    """Client side of the pipes, in a script."""

    def __init__(self, folder: Path) -> None:
        self._surroundings = Surroundings()
        self._session = secrets.token_hex(8)
        try:
            self._lock = open(folder / "script", "w")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            life = os.open(folder / "life", os.O_RDONLY | os.O_NONBLOCK)
            replies = os.open(folder / "replies", os.O_RDONLY | os.O_NONBLOCK)
            requests = _open_for_writing(folder / "requests", life)
        except BlockingIOError:
            raise InputError(
                "another script takes blocks from this worker; start one at a time, and let "
                "num_workers decide how many there are"
            ) from None
        except OSError as error:
            raise InputError(f"the worker that started this script is gone ({error})") from None
        for end in (life, replies, requests):
            os.set_blocking(end, True)
        self._replies = os.fdopen(replies, "rb", buffering=0)
        self._requests = os.fdopen(requests, "w", encoding="utf-8")
        self._ended = False
        threading.Thread(target=self._die_with_worker, args=(life,), daemon=True).start()

    def _die_with_worker(self, life: int) -> None:
        """Nobody would record what this script does without its worker, or keep others away."""
        os.read(life, 1)
        if not self._ended:
            os.kill(os.getpid(), signal.SIGKILL)

    def next(self) -> Block | None:
        """Return the next block, None when there is none left."""
        if self._ended:
            return None
        self._ask({"verb": "next", "session": self._session})
        reply: dict[str, Any] = {}
        while reply.get("session") != self._session:  # an answer to a script that died
            reply = json.loads(self._replies.readline())
        self._surroundings.note()
        data = reply["block"]
        if data is None:
            self._ended = True
            for file in (self._requests, self._replies, self._lock):
                file.close()
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
        self._surroundings.restore()
        told = None
        if error is not None:
            failure = failure_of(error, (), 0, "")
            told = {"cause": failure.cause, "message": failure.message, "trace": failure.trace}
        self._ask({"verb": "finish", "error": told})

    def accept(self, block: Block) -> None:
        """Raise if the block's status is FAILED; the check after it runs in the worker."""
        if block.status is BlockStatus.FAILED:
            raise BlockFailedError("the script set block.status to FAILED")

    def _ask(self, request: dict[str, Any]) -> None:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()


def _open_for_writing(path: Path, life: int) -> int:
    """Open a pipe as soon as the worker listens, unless it has died.

    Raises
    ------
    OSError
        If the worker is gone.
    """
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        with contextlib.suppress(BlockingIOError):
            if os.read(life, 1) == b"":
                raise OSError(errno.EPIPE, "it died")
        time.sleep(0.001)
