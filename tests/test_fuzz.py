"""Damaged input of every kind, made at random but always the same; see fuzz.py."""

from __future__ import annotations

import pytest
from fuzz import fuzz, text_of


# faults: kind 12
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damaged_input_ends_in_one_line_and_writes_nothing() -> None:
    found = fuzz({"yaml": 1000, "zarr": 600, "runs": 150}, seed=20, seconds=60)
    assert found.cases > 100
    assert not found.bad, text_of(found)
