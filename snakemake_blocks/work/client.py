"""``Client``: for worker scripts that ask for their blocks themselves, as with daisy.

In the worker's own process a client takes blocks straight from the worker. A script that the
worker function starts as a subprocess finds a folder with named pipes in its environment; the
worker answers there. Nothing listens on a network, and a script whose worker dies dies with it.
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from funlib.geometry import Roi

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block, BlockStatus
from snakemake_blocks.state.failures import BlockFailedError, ScriptError, failure_of
from snakemake_blocks.system.processes import MARK
from snakemake_blocks.work.process_state import Surroundings

__all__ = ["Client", "remove_pipes", "serving"]

_VARIABLE = "SNAKEMAKE_BLOCKS_CLIENT"
_FOLDER = "blocks-client-"
_CONTEXT = "context.json"


class Source(Protocol):
    """Where a client's blocks come from."""

    def next(self) -> Block | None:
        """Return the next block, None when there is none left."""

    def finish(self, error: BaseException | None) -> None:
        """Say how the block in hand ended."""

    def accept(self, block: Block) -> None:
        """Raise if the block is not done."""


class _Desk:
    """Where all clients of a process get their blocks: one at a time, whatever threads ask."""

    def __init__(self, source: Source, context: Mapping[str, Any]) -> None:
        self.source = source
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
            self._block = self.source.next()
            return self._block

    def finish(self, block: Block, error: BaseException | None) -> None:
        """Say how a block ended; of one that is not in hand any more that is known."""
        with self._lock:
            if self._block is block and not self._closed:
                self._block = None
                self.source.finish(error)

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
            source = _PipeSource(Path(name))
            _script = _Desk(source, json.loads(Path(name, _CONTEXT).read_text()))
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
            self._desk.source.accept(block)
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
def serving(source: Source, context: Mapping[str, Any]) -> Iterator[None]:
    """Let clients in this process and in its subprocesses take blocks from ``source``.

    Parameters
    ----------
    source : Source
        Of the blocks.
    context : mapping
        What :class:`Client` tells of the worker.
    """
    global _here
    with tempfile.TemporaryDirectory(prefix=f"{_FOLDER}{os.environ.get(MARK, '')}-") as name:
        Path(name, _CONTEXT).write_text(json.dumps(dict(context)))
        server = _Server(Path(name), source)
        desk = _here = _Desk(source, context)
        os.environ[_VARIABLE] = name
        try:
            yield
        finally:
            desk.close()
            _here = None
            os.environ.pop(_VARIABLE, None)
            server.close()


def remove_pipes(mark: str) -> None:
    """Remove the pipes of workers that were killed.

    Parameters
    ----------
    mark : str
        Of the workers, ``<token>.<pid>``; may hold ``*``.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}{mark}-*"):
        shutil.rmtree(folder, ignore_errors=True)  # it may be somebody else's


class _Server:
    """Worker side of the pipes: a thread that answers scripts, one after the other."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
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
                self._source.finish(
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
            self._block = self._source.next()
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
            self._source.finish(ScriptError(**error))
            return
        try:
            self._source.accept(block)
        except BaseException as refused:  # recorded as the block's failure
            self._source.finish(refused)
        else:
            self._source.finish(None)


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
