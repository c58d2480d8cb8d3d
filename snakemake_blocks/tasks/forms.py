"""What values look like in a file of ours; checks by hand, for they cost no import.

A check takes what JSON gave and tells whether it is as it was written: the right type, no number
too large, no key missing or unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "LARGEST",
    "Check",
    "fitting",
    "is_number",
    "is_text",
    "list_of",
    "mapping_of",
    "matching",
    "maybe",
    "unfit_key",
    "whole",
]

Check = Callable[[Any], bool]
LARGEST = 2**60
"""Far above all coordinates, and sums of some still fit into 64 bits."""


def unfit_key(
    data: Any, form: Mapping[str, Check], newer: Mapping[str, Check] | None = None
) -> str | None:
    """Return the first key that is missing, unknown or wrong, None if there is none.

    Parameters
    ----------
    data : anything
        What JSON gave; if it is no mapping, the empty key is wrong.
    form : mapping of str to Check
        Keys that have to be there.
    newer : mapping of str to Check, optional
        Keys that may be there.
    """
    if not isinstance(data, dict):
        return ""
    for key, check in form.items():
        if key not in data or not check(data[key]):
            return key
    more = newer or {}
    return next(
        (str(k) for k in data if k not in form and not (k in more and more[k](data[k]))), None
    )


def fitting(form: Mapping[str, Check]) -> Check:
    """Return the check of a mapping with these keys and no others."""
    return lambda value: unfit_key(value, form) is None


def whole(least: int) -> Check:
    """Return the check of a whole number."""
    return lambda value: type(value) is int and least <= value <= LARGEST


def list_of(check: Check) -> Check:
    """Return the check of a list."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def mapping_of(check: Check) -> Check:
    """Return the check of a mapping with keys of any name."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def maybe(check: Check) -> Check:
    """Return the check of a value that may be null."""
    return lambda value: value is None or check(value)


def matching(pattern: str) -> Check:
    """Return the check of a text that a pattern matches as a whole."""
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_text(value: Any) -> bool:
    """Tell whether a value is a text."""
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, or true or false."""
    return type(value) in (int, float, bool)
