"""Run one load in one peer, in an environment of the peer's own.

``python run.py ENVIRONMENTS PEER SCRIPT [OPTIONS OF THE SCRIPT]`` prints the script's JSON line
with ``process_seconds`` added, the wall seconds of the whole process. ``ENVIRONMENTS`` is a folder
that keeps the environments; they are made when missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
PEERS = ("daisy-2", "daisy-1", "dask")


def environment(peer: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, made when missing or pinned anew.

    Raises
    ------
    subprocess.CalledProcessError
        If it cannot be made.
    """
    requirements = HERE / f"requirements-{peer}.txt"
    home = folder.absolute() / peer
    python = home / "bin" / "python"
    complete = home / "complete"  # written last
    if complete.is_file() and complete.read_text() == requirements.read_text():
        return python
    shutil.rmtree(home, ignore_errors=True)
    commands: list[list[str | Path]]
    if uv := shutil.which("uv"):
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, home],
            [uv, "pip", "install", "--quiet", "--python", python, "-r", requirements],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", home],
            [python, "-m", "pip", "install", "--quiet", "-r", requirements],
        ]
    for command in commands:
        subprocess.run(command, check=True, stdout=sys.stderr)
    complete.write_text(requirements.read_text())
    return python


def run(
    python: Path, script: str, options: list[str], *, timeout: float | None = None
) -> dict[str, Any]:
    """Return what a script reports, with ``process_seconds`` added.

    Raises
    ------
    subprocess.CalledProcessError
        If the load went wrong; what the script said is in ``stderr``.
    subprocess.TimeoutExpired
        If it takes longer than ``timeout`` seconds.
    """
    begin = time.perf_counter()
    done = subprocess.run(
        [python, HERE / f"{script}.py", *options],
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return {**report, "process_seconds": round(time.perf_counter() - begin, 3)}


def main() -> None:
    """Run what the command line says."""
    scripts = sorted(
        path.stem for name in ("daisy", "dask", "bare") for path in HERE.glob(f"*_{name}.py")
    )
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", type=Path)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("script", choices=scripts)
    parser.add_argument("options", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    try:
        report = run(
            environment(options.peer, options.environments), options.script, options.options
        )
    except subprocess.CalledProcessError as error:
        sys.exit(f"{options.script} in {options.peer} failed:\n{error.stderr or error}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
