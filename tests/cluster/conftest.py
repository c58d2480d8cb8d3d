"""Fixtures of the cluster tests: environments with the executor plugins, and clusters.

What cannot be had here is skipped with a reason, or fails when ``BLOCKS_REQUIRE_CLUSTER`` is set,
as CI does. ``BLOCKS_CLUSTER_VENV`` names an existing environment to use as it is.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from . import slurm as slurm_module
from .environment import environment
from .lsf import LsfStandIn
from .slurm import SlurmCluster


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
        return environment(environment_folder, "plugins")
    except subprocess.CalledProcessError as error:
        _cannot(f"the environment could not be made: {error.stderr.strip()}")


@pytest.fixture(scope="session")
def blocks_python(cluster_python: Path, environment_folder: Path) -> Path:
    """Like `cluster_python`, with this project installed in editable form, as it is now."""
    if not os.environ.get("BLOCKS_CLUSTER_VENV"):
        return environment(environment_folder, "project")
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
