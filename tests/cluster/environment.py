"""An environment with Snakemake, both executor plugins and, if wanted, this project."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_REPOSITORY = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def environment(folder: Path, content: Literal["plugins", "project"]) -> Path:
    """Python of the environment in a folder, once that content is installed.

    Nothing is done when requirements, project metadata and Python are what they were the last time.

    Raises
    ------
    subprocess.CalledProcessError
        If something cannot be installed; its output is printed.
    """
    python = folder / "venv" / "bin" / "python"
    wanted = ["-r", str(_REQUIREMENTS)]
    state = hashlib.sha256(sys.version.encode() + _REQUIREMENTS.read_bytes())
    if content == "project":
        wanted += ["--editable", str(_REPOSITORY)]
        state.update((_REPOSITORY / "pyproject.toml").read_bytes())
    done = folder / f"{content}-{state.hexdigest()[:16]}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of pytest-xdist
        if not (done.exists() and python.exists()):
            for old in folder.glob("*-*" if content == "plugins" else "project-*"):
                old.unlink()
            if content == "plugins":
                shutil.rmtree(folder / "venv", ignore_errors=True)
            _install(python, wanted)
            done.touch()
    return python


def _install(python: Path, wanted: Sequence[str]) -> None:
    """Make an environment if there is none and install, by uv if it is there, else by pip."""
    environment = python.parents[1]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        create = [sys.executable, "-m", "venv", str(environment)]
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    else:
        create = [uv, "venv", "--quiet", "--python", sys.executable, str(environment)]
        install = [uv, "pip", "install", "--quiet", "--python", str(python), *wanted]
    for command in [install] if python.exists() else [create, install]:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            print(error.stdout, error.stderr)
            raise
