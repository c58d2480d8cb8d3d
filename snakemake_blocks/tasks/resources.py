"""Snakemake's resources: what they may be called, and amounts of time and memory as text."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from snakemake_blocks.tasks.keys import Problem

__all__ = ["amount_problem", "as_number", "grows", "is_resource_name", "resource_problems"]

# Every rule sets attempt itself, and Snakemake keeps resources in a list with keys.
_RESERVED = frozenset({"attempt", "self", *dir(list), *dir(dict), *dir(type), *keyword.kwlist})

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


def is_resource_name(name: Any) -> bool:
    """Tell whether a resource may have this name."""
    return (
        type(name) is str
        and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
        and name not in _RESERVED
    )


def resource_problems(resources: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with resources, as (name, explanation).

    Names stand in the Snakefile, and Snakemake takes numbers and text.
    """
    for name, value in resources.items():
        if not is_resource_name(name):
            shown = ascii(f"{name!s:.60}")[1:-1]
            yield shown, "cannot be the name of a resource; choose another"
        elif problem := _value_problem(name, value):
            yield name, problem
    for name in ("mem", "disk"):
        if name in resources and f"{name}_mb" in resources:
            yield name, f"and {name}_mb are the same; give one of them"


def _value_problem(name: str, value: Any) -> str:
    """Return what is wrong with the value of a resource, empty if nothing is."""
    if name == "tmpdir" and type(value) is not str:
        return f"must be the path of a folder, got {value!r:.60}"
    if type(value) not in (int, float, str):
        return f"must be a number or text, got {value!r:.60}"
    if isinstance(value, str):
        if not value.isprintable():
            return "has control characters in it; write plain text"
        return amount_problem(name, value)
    return "" if 0 <= value < 2**53 else f"must be between 0 and 2**53, got {value:.3g}"


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
