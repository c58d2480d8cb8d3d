from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from snakemake_blocks.errors import InputError
from snakemake_blocks.tasks.dtypes import as_values, fitted, holds, number_type

# faults: kind 5

WHOLE = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64", "longdouble"]
COMPLEX = ["complex64", "complex128"]
TYPES = ["bool", *WHOLE, *FLOATS, *COMPLEX]
TARGETS = [name for name in TYPES if name != "longdouble"]

EDGES = [n + d for n in (0, *(s << k for s in (1, -1) for k in (7, 8, 11, 15, 16, 24, 31, 32, 53,
         63, 64))) for d in (-1, 0, 1)]  # fmt: skip
ODD = [0.5, -0.5, 255.5, 1e5, 65519.0, 65520.0, 1e39, 1e308, -1e308, math.inf, -math.inf, math.nan]


def exact(value: Any) -> Fraction | float:
    """Return a real value as Python knows it exactly; no number and infinities as floats."""
    if isinstance(value, bool | np.bool_ | int | np.integer):
        return Fraction(int(value))
    if not np.isfinite(value):
        return float(value)
    whole = np.trunc(value)
    return Fraction(int(whole)) + Fraction(float(value - whole))


def verdict(value: Any, kind: np.dtype[Any]) -> str:
    """Return what has to become of one value, found the slow way: fits, cut or refused."""
    if isinstance(value, np.complexfloating):
        parts = [value.real, value.imag]
        if kind.kind != "c":
            return verdict(parts[0], kind) if parts[1] == 0 else "refused"
        return "refused" if "refused" in [verdict(p, kind) for p in parts] else "fits"
    number = exact(value)
    if kind.kind == "b":
        return "fits" if number in (0, 1) else "refused"
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        if isinstance(number, float) or not limits.min <= number <= limits.max:
            return "refused"
        return "fits" if number.denominator == 1 else "cut"
    return _by_float(value, number, kind)


def _by_float(value: Any, number: Fraction | float, kind: np.dtype[Any]) -> str:
    if isinstance(number, float):
        return "fits"
    part = np.dtype(f"f{kind.itemsize // (2 if kind.kind == 'c' else 1)}").type
    with np.errstate(over="ignore"):
        found = exact(part(value if isinstance(value, np.floating) else int(value)))
    if isinstance(found, float):
        return "refused"
    return "fits" if isinstance(value, np.floating) or found == number else "refused"


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], str]:
    source: np.dtype[Any] = np.dtype(draw(st.sampled_from(TYPES)))
    plain = st.sampled_from([*EDGES, *ODD])
    values: list[Any] = []
    for _ in range(draw(st.integers(0, 4))):
        if source.kind in "iub":
            limits: Any = np.iinfo(source) if source.kind != "b" else None
            low, high = (int(limits.min), int(limits.max)) if limits else (0, 1)
            inside = [n for n in EDGES if low <= n <= high]
            values.append(draw(st.sampled_from(inside) | st.integers(low, high)))
        elif source.kind == "f":
            values.append(draw(plain | st.floats()))
        else:
            values.append(complex(draw(plain), draw(st.sampled_from([0, 0, 0, 1, math.nan, 1e39]))))
    with np.errstate(over="ignore"):
        return np.array(values, source), draw(st.sampled_from(TARGETS))


@given(case=cases())
def test_law(case: tuple[np.ndarray[Any, Any], str]) -> None:
    """Every pair of types, against what Python's exact numbers say of each value."""
    values, dtype = case
    found = [verdict(v, np.dtype(dtype)) for v in values]
    if "refused" in found:
        with pytest.raises(InputError, match=r"^a: values from .* do not fit into"):
            fitted(values, dtype, "a")
        return
    stored, cut = fitted(values, dtype, "a")
    assert stored.dtype == dtype
    assert bool(cut) == ("cut" in found)
    real = values if stored.dtype.kind == "c" else values.real
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(stored, real.astype(dtype))


@given(values=hnp.arrays(np.float64, 3, elements=st.floats(-300, 300)))
def test_law_of_fractions(values: Any) -> None:
    if (np.floor(values) < -128).any() or (np.ceil(values) > 127).any():
        with pytest.raises(InputError):
            fitted(values, "int8", "a")
    else:
        assert fitted(values, "int8", "a")[0].tolist() == [int(v) for v in values]


@pytest.mark.parametrize(
    ("value", "source", "dtype"),
    [
        (2147483648.0, "float32", "int32"),
        (1 + 2j, "complex64", "float32"),
        (2**53 + 1, "int64", "float64"),
        (2**64 - 1, "uint64", "float32"),
        (1e39, "float64", "float32"),
        (70000, "int32", "float16"),
        (2, "uint8", "bool"),
        (-1, "int8", "uint64"),
        (2**63, "uint64", "int64"),
        (9223372036854775808.0, "float64", "int64"),
        (math.nan, "float32", "bool"),
        (math.nan, "float32", "uint8"),
    ],
)
def test_what_numpy_changes_in_silence(value: Any, source: str, dtype: str) -> None:
    with pytest.raises(InputError, match=f"s.zarr/a: values from .* do not fit into {dtype}; "):
        fitted(np.array([0, value, 1], source), dtype, "s.zarr/a")


@pytest.mark.parametrize("values", [[None], ["a"], [2**64], [b"a"]])
def test_what_is_no_number(values: list[Any]) -> None:
    with pytest.raises(InputError, match=r"a: values of type .* are not numbers; return an array"):
        fitted(np.array(values), "uint8", "a")


def test_what_is_masked() -> None:
    with pytest.raises(InputError, match="a: values are masked; fill them in the function"):
        as_values(np.ma.masked_equal([1, 2], 2), "a")
    assert as_values(np.ma.masked_equal([1, 2], 3), "a").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ([2**63 + 1, 0], "uint64"),
        ([[2**64 - 1], [1]], "uint64"),
        ((np.uint64(2**63 + 1), np.int64(3)), "uint64"),
        ([np.array([2**62 + 1], np.uint64), np.array([-(2**62) - 1])], "int64"),
        ([2**62 + 1, True], "int64"),
    ],
)
def test_whole_numbers_of_a_list_stay_whole(given: Any, dtype: str) -> None:
    """numpy makes floats of lists in which some are beyond 2**63, or of two kinds."""
    want = np.array(given, object).astype(dtype).tolist()
    assert fitted(as_values(given, "a"), dtype, "a")[0].tolist() == want


@pytest.mark.parametrize("given", [[2**53 + 1, 0.5], [2**63, -1, 2**63 + 1], [2**53 + 1, 1j]])
def test_a_list_that_no_type_holds_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match=r"a: values from .* do not fit into (float|complex)"):
        as_values(given, "a")


def test_a_list_of_rows_that_differ_is_refused() -> None:
    with pytest.raises(InputError, match=r"a: .*inhomogeneous"):
        as_values([[1], [1, 2]], "a")
    assert as_values([[], []], "a").shape == (2, 0)


def test_an_example_of_a_cut_fraction() -> None:
    assert fitted(np.array([1.0, 0.75]), "uint8", "a")[1] == "0.75 becomes 0"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (">u2", "uint16"), ("<f8", "float64"), ("bool_", "bool"), ("half", "float16"),
        ("complex", "complex128"), ("float128", ""), ("clongdouble", ""), ("longdouble", ""),
        ("M8[ns]", ""), ("m8", ""), ("U5", ""), ("u1,u2", ""), ("O", ""), ("what", ""), ("", ""),
    ],
)  # fmt: skip
def test_types_of_numbers_that_zarr_stores(name: str, dtype: str) -> None:
    assert number_type(name) == dtype


def test_safe_pairs_are_not_looked_at() -> None:
    """No pass over the data: the very array comes back, or a plain conversion of it."""
    values = np.zeros(10**6, np.uint8)
    assert fitted(values, "uint8", "a")[0] is values


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("uint64", 2**64 - 1, True),
        ("int64", 9007199254740993, True),
        ("float64", 9007199254740993, False),
        ("float32", 16777217, False),
        ("float32", 0.1, True),
        ("float32", 1e300, False),
        ("uint8", 255.0, True),
        ("uint8", 0.5, False),
        ("uint8", math.nan, False),
        ("float16", math.inf, True),
        ("bool", 1.0, True),
        ("bool", 2, False),
        ("int64", 2**64, False),
    ],
)
def test_holds(dtype: str, value: float, fits: bool) -> None:
    assert holds(dtype, value) is fits
