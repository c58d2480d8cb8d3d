"""Fixtures of the cluster tests: environments with the executor plugins, and clusters.

What cannot be had here is skipped with a reason, or fails when ``BLOCKS_REQUIRE_CLUSTER`` is set,
as CI does. ``BLOCKS_CLUSTER_VENV`` names an existing environment to use as it is.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

import pytest

from . import slurm as slurm_module
from .lsf import LsfStandIn
from .slurm import SlurmCluster

_REPOSITORY = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("BLOCKS_REQUIRE_CLUSTER"):
        pytest.fail(f"BLOCKS_REQUIRE_CLUSTER is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster_python(environment_folder: Path) -> Path:
    """Python of an environment with Snakemake and both executor plugins."""
    if given := os.environ.get("BLOCKS_CLUSTER_VENV"):
        return Path(given).absolute() / "bin" / "python"
    try:
        return _environment(environment_folder, "plugins")
    except subprocess.CalledProcessError as error:
        _cannot(f"the environment could not be made: {error.stderr.strip()}")


@pytest.fixture(scope="session")
def blocks_python(cluster_python: Path, environment_folder: Path) -> Path:
    """Like `cluster_python`, with this project installed in editable form, as it is now."""
    if not os.environ.get("BLOCKS_CLUSTER_VENV"):
        return _environment(environment_folder, "project")
    subprocess.run([str(cluster_python), "-c", "import snakemake_blocks"], check=True)
    return cluster_python


@pytest.fixture
def slurm() -> Iterator[SlurmCluster]:
    """A SLURM of its own for each test, up in 0.2 s."""
    verdict = slurm_module.available()
    if not verdict:
        _cannot(verdict.reason)
    with SlurmCluster() as cluster:
        yield cluster
        print(cluster.logs())  # pytest shows it with a failure


@pytest.fixture
def lsf() -> Iterator[LsfStandIn]:
    """A stand-in for LSF of its own for each test, whose minutes last 4 s."""
    if not sys.platform.startswith("linux"):
        _cannot(f"the stand-in for LSF needs Linux, this is {sys.platform}")
    with LsfStandIn(minute=4.0) as stand_in:
        yield stand_in
        print(stand_in.logs())


@pytest.fixture(scope="session")
def environment_folder(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Where the environment is kept, from session to session if pytest has its cache."""
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    return tmp_path_factory.mktemp("cluster") if cache is None else Path(cache.mkdir("cluster"))


def _environment(folder: Path, content: Literal["plugins", "project"]) -> Path:
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
