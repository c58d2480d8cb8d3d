"""Parameters of functions: they travel as JSON, and have to arrive as they were given."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from snakemake_blocks.tasks.keys import Problem

__all__ = ["param_problems", "unsorted_keys"]


def param_problems(params: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield which parameters would arrive as something else, and why."""
    for name, value in params.items():
        if problem := _changed_by_json(value):
            yield name, problem


def _changed_by_json(value: Any, depth: int = 0) -> str:
    """Return why a value would not be the same after a way through JSON, empty if it would."""
    kind = type(value)
    if value is None or kind in (bool, float):
        return ""
    if kind is int:
        return "" if value.bit_length() <= _MOST_BITS else "has too many digits to be written"
    if kind is str:
        return "" if value.isascii() or _is_text(value) else "half of a surrogate pair is no text"
    if depth > _DEEPEST:
        return "is nested too deeply, or holds itself"
    if kind is list:
        inner = ((f"[{n}]", below) for n, below in enumerate(value))
    elif kind is dict:
        for key in value:
            if type(key) is not str or not _is_text(key):
                return f"key {key!r:.60} would arrive as text; use keys of text (quotes in YAML)"
        inner = ((f"[{key!r:.60}]", below) for key, below in value.items())
    else:
        advice = _INSTEAD.get(kind, "use numbers, text, lists and mappings")
        return f"{value!r:.60} of the type {kind.__name__} would arrive as another; {advice}"
    found = ((place, _changed_by_json(below, depth + 1)) for place, below in inner)
    place, problem = next(((p, text) for p, text in found if text), ("", ""))
    glue = "" if not problem or problem.startswith("[") else ": "
    return f"{place}{glue}{problem}"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_MOST_BITS = 1000
_DEEPEST = 50
_INSTEAD: Mapping[type, str] = {
    tuple: "give a list, and make the tuple in the function",
    set: "give a list, and make the set in the function",
    bytes: "give text, and encode it in the function",
    datetime.date: "give text (quotes in YAML), and parse it in the function",
    datetime.datetime: "give text (quotes in YAML), and parse it in the function",
}


def unsorted_keys(params: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of each mapping inside of params, by its place, if they are not sorted.

    A fingerprint does not depend on the order of keys, and what a function makes of a mapping may.
    The order of the params themselves is only that of arguments with names.
    """
    found: dict[str, list[str]] = {}
    waiting = list(params.items())
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping):
            if (keys := list(value)) != sorted(keys):
                found[place] = keys
            waiting += [(f"{place}.{key}", below) for key, below in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{place}.{k}", below) for k, below in enumerate(value)]
    return found
