"""Programs of others, each in an environment of its own, made once and kept.

They are kept in the folder named by the variable ``BLOCKS_PEERS``, or else in pytest's cache.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_SECONDS = 300


class PeerUnavailableError(Exception):
    """A program cannot be installed or started here."""


def peers_folder(cache: pytest.Cache | None) -> Path:
    """Return where environments are kept; without any place the test is skipped."""
    named = os.environ.get("BLOCKS_PEERS")
    if named:
        return Path(named)
    if cache is None:
        pytest.skip("no place for environments: set BLOCKS_PEERS or leave pytest its cache")
    return Path(cache.mkdir("blocks-peers"))


def installed(name: str, requirements: Path, folder: Path) -> Path:
    """Return the interpreter of an environment of this name, made if it is not there.

    Processes that ask at the same time wait for the first. An environment is made anew when its
    pins or the Python that runs this change.

    Raises
    ------
    PeerUnavailableError
        If it cannot be made; the message holds the installer's last line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / name
    python = home / "bin" / "python"
    content = f"# {sys.version}\n{requirements.read_text()}"
    complete = home / "complete"  # written last
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.is_file() and complete.read_text() == content:
            return python
        shutil.rmtree(home, ignore_errors=True)
        for command in _commands(home, python, requirements):
            _run(command)
        complete.write_text(content)
    return python


def _commands(home: Path, python: Path, requirements: Path) -> list[list[str]]:
    """Return how to make an environment, with uv where there is one."""
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    if len(uv) > 1 or shutil.which("uv"):
        return [
            [*uv, "venv", "--quiet", "--python", sys.executable, str(home)],
            [*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        ]
    return [
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
    ]


def _run(command: list[str]) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            timeout=INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        said = error.stdout.strip().splitlines()[-1:] or ["no message"]
        raise PeerUnavailableError(f"{' '.join(command[:4])} ...: {said[0]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailableError(str(error)) from error
