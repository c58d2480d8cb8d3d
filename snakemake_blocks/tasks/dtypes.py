"""Which values a type of numbers can hold: one judgement for every pair of types.

numpy converts in silence: whole numbers wrap around or are rounded, large floats become infinite,
imaginary parts are dropped, and all that is not zero becomes true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from snakemake_blocks.errors import InputError

__all__ = ["as_values", "fitted", "holds", "number_type"]

_NUMBERS = "biufc"
# Bytes of the largest type of a kind that Zarr stores; on some machines numpy has larger ones.
_LARGEST = {"f": 8, "c": 16}
Values = NDArray[Any]


def number_type(name: str) -> str:
    """Return numpy's name of a type of numbers that Zarr stores, empty if there is none.

    The order of bytes is left out: it is a matter of the store, and changes no value.
    """
    try:
        found = np.dtype(name).newbyteorder("=")
    except (TypeError, ValueError, SyntaxError):
        return ""
    fits = found.kind in _NUMBERS and found.itemsize <= _LARGEST.get(found.kind, 8)
    return str(found) if fits else ""


def fitted(values: Values, dtype: DTypeLike, place: str) -> tuple[Values, str]:
    """Return values as a type of numbers, and what it cut off fractions of, empty if nothing.

    Floats are rounded to a float type as numpy does it; nothing else may change. Where a type
    holds all values of the other one, the values are not looked at.

    Parameters
    ----------
    values : ndarray
        Of any type.
    dtype : dtype
        Of numbers.
    place : str
        What to name in errors.

    Raises
    ------
    InputError
        If the type cannot hold a value.
    """
    kind = np.dtype(dtype)
    if values.dtype.kind not in _NUMBERS:
        raise InputError(
            f"{place}: values of type {values.dtype} are not numbers; return an array of {kind}"
        )
    if values.dtype.kind == "c" and kind.kind != "c":
        if (values.imag != 0).any():  # also where it is no number
            raise _refusal(
                place, values[values.imag != 0], kind, "return one part of them, or write complex64"
            )
        values = values.real
    if not values.size or _holds_all(values.dtype, kind):
        return values.astype(kind, copy=False), ""
    if kind.kind == "b":
        return _as_flags(values, place), ""
    if kind.kind in "iu":
        return _as_whole(values, kind, place)
    if values.dtype.kind in "iu":
        return _as_exact(values, kind, place), ""
    return _as_finite(values, kind, place), ""


def as_values(given: Any, place: str) -> Values:
    """Return what a function returned as an array.

    Raises
    ------
    InputError
        If some of it is masked: what lies under a mask means nothing. If it is a list whose parts
        make no array, or none that holds the whole numbers among them.
    """
    if np.ma.is_masked(given):
        raise InputError(f"{place}: values are masked; fill them in the function")
    if not isinstance(given, list | tuple):
        return np.asarray(given)
    try:
        found = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{place}: {error}") from None
    if found.dtype.kind not in "fc" or not found.size:
        return found
    parts = [np.asarray(part) for part in _parts(given)]
    if all(part.dtype.kind in "iu" for part in parts):  # of both kinds numpy makes floats
        if min(int(part.min()) for part in parts) >= 0:
            return np.asarray(given, np.uint64)
        if max(int(part.max()) for part in parts) < 2**63:
            return np.asarray(given, np.int64)
    for part in parts:
        fitted(part, found.dtype, place)
    return found


def _parts(given: Any) -> Iterator[Any]:
    """Yield the numbers and arrays in nested lists."""
    for part in given:
        yield from _parts(part) if isinstance(part, list | tuple) else (part,)


def holds(dtype: DTypeLike, value: int | float) -> bool:
    """Tell whether an array of a type can hold a value; a fraction may be rounded by floats."""
    try:
        return not fitted(np.asarray(value), dtype, "")[1]
    except InputError:
        return False


def _holds_all(given: np.dtype[Any], kind: np.dtype[Any]) -> bool:
    """Tell whether every value of one type is one of the other; numpy says so of int64, float64."""
    if given.kind in "iu" and kind.kind in "fc":
        digits = given.itemsize * 8 - (given.kind == "i")
        return digits <= min(_digits(kind), np.finfo(kind).maxexp)
    return bool(np.can_cast(given, kind))


def _digits(kind: np.dtype[Any]) -> int:
    """Return up to how many binary digits a float type holds whole numbers exactly."""
    return int(np.finfo(kind).nmant) + 1


def _as_flags(values: Values, place: str) -> Values:
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise _refusal(place, values[wrong], np.dtype(bool), "return 0 and 1, or a comparison")
    return values.astype(bool)


def _as_whole(values: Values, kind: np.dtype[Any], place: str) -> tuple[Values, str]:
    low, high, limits = values.min(), values.max(), np.iinfo(kind)
    if values.dtype.kind == "f":
        low, high = np.floor(low), np.ceil(high)
    finite = bool(np.isfinite(low) and np.isfinite(high))
    # Python compares whole numbers exactly; a limit as a float may be the next number above.
    if not (finite and limits.min <= int(low) and int(high) <= limits.max):
        raise _refusal(place, values, kind, "scale them in the function, or write another dtype")
    found = values.astype(kind)
    if values.dtype.kind != "f":
        return found, ""
    cut = np.trunc(values) != values
    if not cut.any():
        return found, ""
    first = values[cut].flat[0]
    return found, f"{first} becomes {int(first)}"


def _as_exact(values: Values, kind: np.dtype[Any], place: str) -> Values:
    """Return whole numbers as floats that are equal to them."""
    digits, largest = _digits(kind), int(np.finfo(kind).max)
    if max(-int(values.min()), int(values.max())) > min(1 << digits, largest):
        bits = values.astype(np.uint64)
        sizes = np.where(values < 0, -bits, bits)
        odd = sizes // np.maximum(sizes & -sizes, np.uint64(1))  # without the zeros at their end
        wrong = (odd >> np.uint64(min(digits, 63))) != 0
        wrong |= sizes > np.uint64(min(largest, np.iinfo(np.uint64).max))
        if wrong.any():
            raise _refusal(
                place, values[wrong], kind, f"write {values.dtype}, or convert in the function"
            )
    return values.astype(kind)


def _as_finite(values: Values, kind: np.dtype[Any], place: str) -> Values:
    with np.errstate(over="ignore"):
        found = values.astype(kind)
    lost = ~np.isfinite(found) & np.isfinite(values)
    if lost.any():
        raise _refusal(place, values[lost], kind, "scale them, or write a larger float type")
    return found


def _refusal(place: str, values: Values, kind: np.dtype[Any], way: str) -> InputError:
    """Return the error that says between which values a type cannot hold some."""
    low, high = (f"{v}" for v in (values.min(), values.max()))
    return InputError(f"{place}: values from {low} to {high} do not fit into {kind}; {way}")
