"""Damaged input of every kind, made at random but always the same; see fuzz.py."""

from __future__ import annotations

import pytest
from fuzz import fuzz, text_of


# faults: kind 12
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "number"), [("yaml", 150), ("zarr", 60), ("runs", 6), ("tasks", 3), ("profiles", 4)]
)
def test_damaged_input_ends_in_one_line_and_writes_nothing(kind: str, number: int) -> None:
    found = fuzz({kind: number}, seed=20)
    assert found.cases >= number
    assert not found.bad, text_of(found)
