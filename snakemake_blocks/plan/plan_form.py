"""The form of plan.json, checked as strictly as it is written; a hand-made check costs no import.

What passes can be made into a plan: no number is too large, no list too short, no name unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from snakemake_blocks.plan.paths import slug
from snakemake_blocks.tasks.task import Call, SourceChange

__all__ = ["FORMAT", "form_problem"]

FORMAT = 1
# Far above all coordinates, and sums of some still fit into 64 bits.
_LARGEST = 2**60
_Check = Callable[[Any], bool]


def form_problem(data: Any) -> str:
    """Return the first place of a plan's file that is not as written, empty if all is."""
    problem = _lack(data, _PLAN)
    known: set[str] = set()
    for number, task in enumerate(data["tasks"] if not problem else ()):
        problem = problem or _task_problem(task, known)
        if problem:
            return f"tasks.{number}.{problem}"
        known.add(task["name"])
    return problem


def _task_problem(task: Any, known: set[str]) -> str:
    """Return the first place of a task that is wrong, or does not fit to another."""
    problem = _lack(task, _TASK, _NEWER)
    if problem:
        return problem
    ndim = len(task["axes"])
    if task["name"] in known or task["slug"] != slug(task["name"]):
        return "name"
    if not known.issuperset(task["upstream"]):
        return "upstream"
    for key in ("batch", "reach", "job_reach"):
        if len(task[key]) != ndim:
            return key
    for kind in ("reads", "writes"):
        if any(len(use["array"]["shape"]) != ndim for use in task[kind].values()):
            return kind
    return ""


def _lack(data: Any, form: Mapping[str, _Check], newer: Mapping[str, _Check] | None = None) -> str:
    """Return the first key that is missing, unknown or wrong; those of ``newer`` may be missing."""
    if not isinstance(data, dict):
        return "tasks"
    for key, check in form.items():
        if key not in data or not check(data[key]):
            return key
    more = newer or {}
    unfit = (k for k in data if k not in form and not (k in more and more[k](data[k])))
    return next(map(str, unfit), "")


def _whole(least: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= _LARGEST


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _maybe(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _mapping(check: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _form(form: Mapping[str, _Check]) -> _Check:
    return lambda value: isinstance(value, dict) and not _lack(value, form)


def _matching(pattern: str) -> _Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _number(value: Any) -> bool:
    return type(value) in (int, float, bool)


def _axis(value: Any) -> bool:
    """Tell whether these are begin, end, step and context of an axis."""
    if not (_list(_whole(-_LARGEST))(value) and len(value) == 5):
        return False
    begin, end, step, lower, upper = value
    return bool(
        begin < end and step > 0 and lower >= 0 and upper >= 0 and (end - begin) // step < 2**32
    )


def _axes(value: Any) -> bool:
    if not (_list(_axis)(value) and value):
        return False
    counts = (-(-(end - begin) // step) for begin, end, step, *_ in value)
    return bool(math.prod(counts) < 2**63)


def _array(value: Any) -> bool:
    if not _form(_ARRAY)(value):
        return False
    lengths = {len(value[key]) for key in ("offset", "voxel_size", "shape")}
    axes = len(value["shape"]) + len(value["channels"])
    return len(lengths) == 1 and len(value["chunks"]) == axes


def _dtype(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.dtype(value).kind in "biufc"
    except (TypeError, ValueError, SyntaxError):
        return False


_ARRAY: Mapping[str, _Check] = {
    "path": _text,
    "offset": _list(_whole(-_LARGEST)),
    "voxel_size": _list(_whole(1)),
    "shape": _list(_whole(1)),
    "channels": _list(_whole(1)),
    "dtype": _dtype,
    "chunks": _list(_whole(1)),
    "units": _list(_text),
}
_FUNCTION = _form({"name": _text, "pickle": _matching(r"|[0-9a-f]{64}")})
_TASK: Mapping[str, _Check] = {
    "name": _text,
    "slug": _text,
    "axes": _axes,
    "batch": _list(_whole(1)),
    "reach": _list(_whole(0)),
    "job_reach": _list(_whole(0)),
    "masked": _matching(r"|[0-9a-f]{64}"),
    "upstream": _list(_text),
    "call": lambda value: value in list(Call),
    "function": _FUNCTION,
    "check_before": _maybe(_FUNCTION),
    "check_after": _maybe(_FUNCTION),
    "init": _maybe(_FUNCTION),
    "params": lambda value: isinstance(value, dict),
    "reads": _mapping(_form({"array": _array, "fill": _maybe(_number)})),
    "writes": _mapping(_form({"array": _array})),
    "retries": _whole(0),
    "timeout": _maybe(lambda value: _number(value) and value > 0),
    "workers": _whole(1),
    "threads": _whole(1),
    "max_workers": _maybe(_whole(1)),
    "resources": _mapping(lambda value: _number(value) or _text(value)),
    "fingerprint": _matching("[0-9a-f]{16}"),
    "identity": lambda value: isinstance(value, dict),
    "source": _matching("|[0-9a-f]{16}"),
    "fit": _text,
    "mask": _text,
    "batching": _text,
}
# Keys that came later, and have a meaning where they are missing.
_NEWER: Mapping[str, _Check] = {
    "source_change": lambda value: value in list(SourceChange),
    "whole": _list(_text),
}
_PLAN: Mapping[str, _Check] = {
    "format": lambda value: value == FORMAT,
    "name": _text,
    "base": _text,
    "run_directory": _text,
    "tasks": lambda value: isinstance(value, list) and bool(value),
}
