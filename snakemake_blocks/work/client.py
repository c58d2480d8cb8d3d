"""``Client``: for worker scripts that ask for their blocks themselves, as with daisy.

In the worker's own process a client takes blocks straight from the worker; in a script that the
worker function starts, through the pipes of :mod:`.script_pipes`.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block, BlockStatus
from snakemake_blocks.state.failures import BlockFailedError
from snakemake_blocks.system.processes import MARK
from snakemake_blocks.work.block_feed import BlockFeed
from snakemake_blocks.work.script_pipes import PIPES, PipeFeed, ScriptServer

__all__ = ["Client", "serving"]

_VARIABLE = "SNAKEMAKE_BLOCKS_CLIENT"
_CONTEXT = "context.json"


class _Desk:
    """Where all clients of a process get their blocks: one at a time, whatever threads ask."""

    def __init__(self, feed: BlockFeed, context: Mapping[str, Any]) -> None:
        self.feed = feed
        self.context = context
        self.process = os.getpid()
        self._closed = False
        self._lock = threading.RLock()
        self._block: Block | None = None
        self._thread = 0
        # Threads that called acquire_block() and have not entered what it returned.
        self._callers: set[int] = set()

    def call(self) -> None:
        """Refuse callers that would never get a block, and never an end.

        Raises
        ------
        InputError
            In another process, or without ``with``.
        """
        if self.process != os.getpid():
            raise InputError("this Client() is another process's; make one where it is used")
        thread = threading.get_ident()
        if thread in self._callers:
            raise InputError(
                "acquire_block() was called without `with`; write "
                "`with client.acquire_block() as block:`"
            )
        self._callers.add(thread)

    def take(self) -> Block | None:
        """Return the next block, None at the end.

        Raises
        ------
        InputError
            If another thread has one in its hands.
        """
        thread = threading.get_ident()
        self._callers.discard(thread)
        with self._lock:
            if self._closed:
                return None
            if self._block is not None and self._thread != thread:
                raise InputError(
                    "another thread has this worker's block in its hands; take one at a time, "
                    "and let num_workers decide how many there are"
                )
            self._block, self._thread = None, thread
            self._block = self.feed.next()
            return self._block

    def finish(self, block: Block, error: BaseException | None) -> None:
        """Say how a block ended; of one that is not in hand any more that is known."""
        with self._lock:
            if self._block is block and not self._closed:
                self._block = None
                self.feed.finish(error)

    def close(self) -> None:
        """Give nothing out any more."""
        self._closed = True


# The desk of the worker itself, and that of a script.
_here: _Desk | None = None
_script: _Desk | None = None


def _desk() -> _Desk:
    """Return where the clients of this process get their blocks."""
    global _script
    if _here is not None and _here.process == os.getpid():
        return _here
    if name := os.environ.get(_VARIABLE):
        if _script is None or _script.process != os.getpid():
            feed = PipeFeed(Path(name))
            _script = _Desk(feed, json.loads(Path(name, _CONTEXT).read_text()))
        return _script
    raise InputError(
        "Client() works inside a job only: in a function without arguments "
        "(call: worker), or in a script that such a function starts"
    )


class Client:
    """Asks for blocks inside a ``call: worker`` function or a script that it started.

    All clients of a process are one worker.

    Parameters
    ----------
    context : mapping, optional
        As daisy's clients take it; what the worker knows of itself counts more.

    Attributes
    ----------
    context : mapping
        ``hostname``, ``task_id``, ``worker_id`` and ``logdir``, the folder of the task's logs.

    Raises
    ------
    InputError
        Outside of a worker.
    """

    def __init__(self, context: Mapping[str, Any] | None = None) -> None:
        self._desk = _desk()
        self.context: Mapping[str, Any] = {**dict(context or {}), **self._desk.context}

    @property
    def task_id(self) -> str:
        """The task whose blocks these are."""
        return str(self.context["task_id"])

    @property
    def worker_id(self) -> int:
        """Number of this worker among those of the task that live now, counted from 0."""
        return int(self.context["worker_id"])

    def acquire_block(self) -> contextlib.AbstractContextManager[Block | None]:
        """Return a context that holds the next block, or None when there is none left.

        An exception inside the ``with`` block, or ``block.status`` set to FAILED, fails this
        attempt of the block; the loop goes on.

        Raises
        ------
        InputError
            If what the last call returned was not entered. On entering: if another thread has a
            block in its hands.
        """
        self._desk.call()
        return self._acquired()

    @contextlib.contextmanager
    def _acquired(self) -> Iterator[Block | None]:
        block = self._desk.take()
        if block is None:
            yield None
            return
        block.status = BlockStatus.PROCESSING
        try:
            yield block
            self._desk.feed.accept(block)
        except (Exception, SystemExit) as error:
            self._desk.finish(block, error)
        except GeneratorExit:
            dropped = BlockFailedError("the block was dropped inside its `with`")
            self._desk.finish(block, dropped)
            raise
        except BaseException as error:
            self._desk.finish(block, error)
            raise
        else:
            self._desk.finish(block, None)


@contextlib.contextmanager
def serving(feed: BlockFeed, context: Mapping[str, Any]) -> Iterator[None]:
    """Let clients in this process and in its subprocesses take blocks from ``feed``.

    Parameters
    ----------
    feed : BlockFeed
        Of the blocks.
    context : mapping
        What :class:`Client` tells of the worker.
    """
    global _here
    with tempfile.TemporaryDirectory(prefix=f"{PIPES}{os.environ.get(MARK, '')}-") as name:
        Path(name, _CONTEXT).write_text(json.dumps(dict(context)))
        server = ScriptServer(Path(name), feed)
        desk = _here = _Desk(feed, context)
        os.environ[_VARIABLE] = name
        try:
            yield
        finally:
            desk.close()
            _here = None
            os.environ.pop(_VARIABLE, None)
            server.close()
