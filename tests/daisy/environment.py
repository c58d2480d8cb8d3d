"""Daisy in an environment of its own, as a process that answers questions.

The questions and answers are those of ``driver.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from peers import PeerUnavailableError, installed, peers_folder

Json = dict[str, Any]

HERE = Path(__file__).parent
REQUIREMENTS = {"1.2.3": HERE / "requirements-1.txt", "2.0.0": HERE / "requirements-2.txt"}
GRACE_SECONDS = 60.0
"""How much longer than a question's own time-out to wait for the driver itself."""


class DaisyProcess:
    """One version of daisy, ready to be asked.

    Parameters
    ----------
    python : Path
        Interpreter of an environment with daisy.

    Raises
    ------
    PeerUnavailableError
        If daisy does not start there.
    """

    def __init__(self, python: Path) -> None:
        self._python = python
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = self._start()
        try:
            self.version: str = self.ask({"ask": "version"})["version"]
        except PeerUnavailableError:
            self.close()
            raise

    def ask(self, question: Json) -> Json:
        """Return daisy's answer, ``{"error": ...}`` where it raises or hangs.

        Raises
        ------
        PeerUnavailableError
            If the driver itself ended; the message holds what it last said.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        patience = question.get("timeout", 0) + GRACE_SECONDS
        if not select.select([process.stdout], [], [], patience)[0]:
            self._stop()
            self._process = self._start()
            return {"error": "hang"}
        line = process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()[-5:]
            raise PeerUnavailableError(f"daisy's driver ended: {' | '.join(said) or 'no message'}")
        answer: Json = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._stop()
        self._errors.close()

    def _stop(self) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the child that is still answering
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # -I: neither PYTHONPATH nor this folder, which is called daisy, may hide the real daisy
        return subprocess.Popen(
            [str(self._python), "-I", str(HERE / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )


def daisy_process(version: str, cache: pytest.Cache | None = None) -> DaisyProcess:
    """Return daisy as a process, or skip the test that asks.

    Parameters
    ----------
    version : str
        ``"1.2.3"`` or ``"2.0.0"``.
    cache : pytest.Cache, optional
        Where environments are kept if ``BLOCKS_PEERS`` is not set.
    """
    folder = peers_folder(cache)
    try:
        return DaisyProcess(installed(f"daisy-{version}", REQUIREMENTS[version], folder))
    except PeerUnavailableError as error:
        pytest.skip(f"daisy {version} is not available: {error}")
