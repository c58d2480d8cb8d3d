"""Both versions of daisy, for every test in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from environment import DaisyProcess, daisy_process


def cache_of(request: pytest.FixtureRequest) -> pytest.Cache | None:
    """Return pytest's cache, or None if its plugin is off."""
    return getattr(request.config, "cache", None)


@pytest.fixture(scope="session")
def daisy_1(request: pytest.FixtureRequest) -> Iterator[DaisyProcess]:
    """Daisy 1.2.3, or skip."""
    with daisy_process("1.2.3", cache_of(request)) as process:
        yield process


@pytest.fixture(scope="session")
def daisy_2(request: pytest.FixtureRequest) -> Iterator[DaisyProcess]:
    """Daisy 2.0.0, or skip."""
    with daisy_process("2.0.0", cache_of(request)) as process:
        yield process


@pytest.fixture(params=["1.2.3", "2.0.0"])
def daisy(request: pytest.FixtureRequest) -> DaisyProcess:
    """One version of daisy after the other."""
    fixture = {"1.2.3": "daisy_1", "2.0.0": "daisy_2"}[request.param]
    process: DaisyProcess = request.getfixturevalue(fixture)
    return process
