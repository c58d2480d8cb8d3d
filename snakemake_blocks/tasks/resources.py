"""Amounts of time and memory in resources, written as text, as Snakemake reads them."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["amount_problem", "as_number", "grows"]

# Of more digits no amount has a use, and floats become infinite.
_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"
_SIZE = re.compile(_NUMBER + r"\s*([kmgtpe]?)(i?)b?", re.IGNORECASE)
_TIME = re.compile(
    _NUMBER + r"\s*([smhdw]|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?)?",
    re.IGNORECASE,
)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_POWERS = ("", "k", "m", "g", "t", "p", "e")
# Texts that Snakemake turns into numbers; whatever else it takes as it is.
_AMOUNTS = {
    "mem": (_SIZE, "2GB"),
    "disk": (_SIZE, "10GB"),
    "runtime": (_TIME, "90m, or a number of minutes"),
}
# Resources in a fixed unit, of which Snakemake takes no text.
_COUNTS = {
    "mem_mb": "mem: 10GB",
    "mem_mib": "mem: 10GB",
    "disk_mb": "disk: 10GB",
    "disk_mib": "disk: 10GB",
}
_GROWING = frozenset({"mem", "mem_mb", "mem_mib", "runtime"})


def amount_problem(name: str, value: Any) -> str:
    """Return what is wrong with the value of a resource, nothing if Snakemake takes it."""
    if not isinstance(value, str):
        return ""
    if name in _COUNTS and not re.fullmatch("[0-9]{1,18}", value):
        return f"{value!r:.60} is no number; write a whole number, or {_COUNTS[name]} instead"
    if name not in _AMOUNTS:
        return ""
    pattern, example = _AMOUNTS[name]
    return "" if pattern.fullmatch(value) else f"{value!r:.60} is no amount; write e.g. {example}"


def as_number(name: str, value: Any) -> Any:
    """Return the number that Snakemake makes of a text, and any other value as it is.

    Parameters
    ----------
    name : str
        The resource: ``runtime`` becomes minutes, ``mem`` and ``disk`` megabytes.
    value : number or str
        Its value.
    """
    if name not in _AMOUNTS or not isinstance(value, str) or amount_problem(name, value):
        return value
    if value.isdecimal():
        return int(value)
    if name == "runtime":
        amount, unit = _TIME.fullmatch(value).groups()  # type: ignore[union-attr]
        return max(round(float(amount) * _SECONDS[(unit or "")[:1].lower()]) // 60, 1)
    amount, unit, binary = _SIZE.fullmatch(value).groups()  # type: ignore[union-attr]
    size = float(amount) * (1024 if binary else 1000) ** _POWERS.index(unit.lower())
    return max(math.ceil(int(size) / 1e6), 1)


def grows(name: str, value: Any) -> bool:
    """Tell whether a resource is multiplied by the attempt.

    A job that was killed for memory or time would be killed again with the same.
    """
    return name in _GROWING and isinstance(value, int | float)
