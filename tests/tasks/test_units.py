from __future__ import annotations

from fractions import Fraction

import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.tasks.units import conversion, exact, unit_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nanometer", "nanometer"), ("nm", "nanometer"), ("nanometers", "nanometer"),
        ("Micrometre", "micrometer"), ("um", "micrometer"), ("µm", "micrometer"),
        ("\u03bcm", "micrometer"), ("micron", "micrometer"), ("Å", "angstrom"), ("m", "meter"),
        ("mm", "millimeter"), ("Mm", "megameter"), ("inch", "inch"),
        ("", ""), ("pixel", ""), ("second", ""), ("s", ""), ("MM", ""),
    ],
)  # fmt: skip
def test_names(text: str, name: str) -> None:
    assert unit_name(text) == name


@pytest.mark.parametrize(
    ("unit", "into", "factor"),
    [
        ("micrometer", "nanometer", Fraction(1000)),
        ("nanometer", "micrometer", Fraction(1, 1000)),
        ("angstrom", "picometer", Fraction(100)),
        ("inch", "micrometer", Fraction(25400)),
        ("mile", "yard", Fraction(1760)),
        ("yard", "foot", Fraction(3)),
        ("meter", "meter", Fraction(1)),
    ],
)
def test_conversions(unit: str, into: str, factor: Fraction) -> None:
    assert conversion(unit, into) == factor


@given(st.integers(-(10**14), 10**14), st.integers(0, 6))
def test_a_float_stands_for_the_decimal_that_was_written(digits: int, places: int) -> None:
    assert exact(digits / 10**places) == Fraction(digits, 10**places)


@pytest.mark.parametrize(("number", "text"), [(0.1 * 3, "3/10"), (0.325 / 2, "13/80"), (4, "4")])
def test_noise_of_floats_is_no_digit(number: float, text: str) -> None:
    assert exact(number) == Fraction(text)


# faults: kind 6
@pytest.mark.parametrize(
    "text",
    [
        "0.29898804047838085", "123456789.12345678", "0.3333333333333333",
        "9007199254740993", "-0.10000000000123457",
    ],
)  # fmt: skip
def test_more_digits_than_noise_leaves_are_kept(text: str) -> None:
    assert exact(float(text) if "." in text else int(text)) == Fraction(text)
