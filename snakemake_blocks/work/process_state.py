"""What a function may change of its process, and how it is put right before the next block.

A block must not depend on which blocks came before it in the same process: not on the folder
that one of them changed to, a variable that it set, or a stream that it closed.
"""

from __future__ import annotations

# The plain functions: those of signal make enumerations of what they return, ten times slower.
import _signal  # type: ignore[import-not-found]
import fcntl
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, TextIO

__all__ = ["Surroundings"]

_STREAMS = {"stdout": 1, "stderr": 2}
_SIGNALS = tuple(
    map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE))
)
_REAL, _BLOCK = int(signal.ITIMER_REAL), int(signal.SIG_BLOCK)
# Above what a shell or a careless function closes by number.
_FAR = 200
# The raw dictionary: copying and comparing the decoded one would cost as much as a tiny block.
_ENVIRON: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]


@dataclass(slots=True)
class Surroundings:
    """Working folder, environment, umask, signals, timer, and streams of a worker's main thread.

    What other threads do is not theirs to put right: they answer scripts, which are processes of
    their own. To put right what is right costs less than to look; a tiny block pays for it, too.
    """

    _main_thread: int | None = field(
        default_factory=lambda: threading.main_thread().ident, init=False
    )
    _folder: tuple[str, int] | None = field(default=None, init=False)
    _variables: dict[Any, Any] = field(default_factory=dict, init=False)
    _modules: int = field(default=0, init=False)
    _umask: int = field(default=0, init=False)
    _handlers: list[Any] = field(default_factory=list, init=False)
    _blocked: set[Any] = field(default_factory=set, init=False)
    _timed: bool = field(default=False, init=False)
    _files: dict[int, tuple[int, int] | None] = field(default_factory=dict, init=False)
    _spare: dict[int, int] = field(default_factory=dict, init=False)
    _streams: dict[str, TextIO | None] = field(default_factory=dict, init=False)

    def note(self) -> None:
        """Take things as they are for right."""
        if threading.get_ident() != self._main_thread:
            return
        self._note_folder()
        self._variables = _ENVIRON.copy()
        self._modules = len(sys.modules)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = list(map(_signal.getsignal, _SIGNALS))
        self._blocked = _signal.pthread_sigmask(_BLOCK, ())
        self._timed = _is_timed()
        self._streams = {name: getattr(sys, name) for name in _STREAMS}
        for handle in _STREAMS.values():
            self._note_file(handle)

    def _note_folder(self) -> None:
        """Keep a handle of the working folder, if it has not been removed."""
        try:
            name = os.getcwd()
        except FileNotFoundError:
            return
        if self._folder is not None and self._folder[0] == name:
            return
        if self._folder is not None:
            os.close(self._folder[1])
        self._folder = name, _far(os.open(name, os.O_RDONLY | os.O_DIRECTORY))

    def _note_file(self, handle: int) -> None:
        """Keep a second handle of what a stream goes to."""
        which = _file_of(handle)
        if which == self._files.get(handle):
            return
        if (spare := self._spare.pop(handle, None)) is not None:
            os.close(spare)
        if which is not None:
            self._spare[handle] = _far(os.dup(handle))
        self._files[handle] = which

    def restore(self) -> None:
        """Put right what is different now.

        Raises
        ------
        OSError
            If that is not possible; the process is of no use any more.
        """
        if threading.get_ident() != self._main_thread:
            return
        for handle, spare in self._spare.items():
            os.dup2(spare, handle)
        out, err = self._streams.values()
        if sys.stdout is not out or sys.stderr is not err or _is_closed(out) or _is_closed(err):
            self._restore_streams()
        if self._folder is not None:
            os.fchdir(self._folder[1])
        if self._variables != _ENVIRON:
            self._restore_variables()
        os.umask(self._umask)
        if list(map(_signal.getsignal, _SIGNALS)) != self._handlers:
            self._restore_handlers()
        if _signal.pthread_sigmask(_BLOCK, ()) != self._blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        if not self._timed:
            _signal.alarm(0)

    def _restore_streams(self) -> None:
        for name, stream in self._streams.items():
            if stream is not None and stream.closed:
                stream = open(  # noqa: SIM115
                    _STREAMS[name],
                    "w",
                    buffering=1,
                    encoding="utf-8",
                    errors="backslashreplace",
                    closefd=False,
                )
                self._streams[name] = stream
            setattr(sys, name, stream)

    def _restore_variables(self) -> None:
        """Undo changes; what a module sets as it is imported it will not set again, so it stays."""
        before = {os.fsdecode(k): os.fsdecode(v) for k, v in self._variables.items()}
        os.environ.update(before)
        if len(sys.modules) == self._modules:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
        self._variables, self._modules = _ENVIRON.copy(), len(sys.modules)

    def _restore_handlers(self) -> None:
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if handler is not None:  # it was set outside of Python
                signal.signal(number, handler)


def _is_closed(stream: TextIO | None) -> bool:
    return stream is not None and stream.closed


def _far(handle: int) -> int:
    """Return a handle in place of another one."""
    try:
        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, _FAR)
    finally:
        os.close(handle)


def _is_timed() -> bool:
    return signal.getitimer(_REAL)[0] > 0


def _file_of(handle: int) -> tuple[int, int] | None:
    """Return which file a handle is of, None if it is closed."""
    try:
        facts = os.fstat(handle)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino
