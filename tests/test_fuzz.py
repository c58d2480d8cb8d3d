"""Damaged input of every kind, made at random but always the same; see fuzz.py."""

from __future__ import annotations

import pytest
from fuzz import fuzz, text_of

# About a minute together where nothing else runs.
NUMBERS = {"yaml": 150, "zarr": 60, "runs": 2, "tasks": 1, "arguments": 30, "profiles": 2}


# faults: kind 12
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", NUMBERS)
def test_damaged_input_ends_in_one_line_and_writes_nothing(kind: str) -> None:
    found = fuzz({kind: NUMBERS[kind]}, seed=20)
    assert found.cases >= NUMBERS[kind]
    assert not found.bad, text_of(found)
