"""The form of plan.json, checked as strictly as it is written; a hand-made check costs no import.

What passes can be made into a plan: no number is too large, no list too short, no name unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.plan.paths import slug
from snakemake_blocks.tasks.budget import Budget
from snakemake_blocks.tasks.forms import (
    LARGEST,
    Check,
    is_text,
    list_of,
    matching,
    unfit_key,
    whole,
)
from snakemake_blocks.tasks.keys import forms_of
from snakemake_blocks.tasks.operation import Call, Operation
from snakemake_blocks.tasks.scale import Scale, is_scale_form
from snakemake_blocks.tasks.task import SourceChange

__all__ = ["FORMAT", "form_problem"]

FORMAT = 1


def form_problem(data: Any) -> str | None:
    """Return the first place of a plan's file that is not as written, None if all is."""
    problem = unfit_key(data, _PLAN)
    if problem is not None:
        return problem
    known: set[str] = set()
    for number, task in enumerate(data["tasks"]):
        problem = _task_problem(task, known)
        if problem is not None:
            return f"tasks.{number}.{problem}"
        known.add(task["name"])
    return None


def _task_problem(task: Any, known: set[str]) -> str | None:
    """Return the first place of a task that is wrong, or does not fit to another."""
    problem = unfit_key(task, _TASK, _NEWER)
    if problem is not None:
        return problem
    ndim = len(task["axes"])
    if task["name"] in known or task["slug"] != slug(task["name"]):
        return "name"
    if not known.issuperset(task["upstream"]):
        return "upstream"
    for key in ("batch", "reach", "job_reach"):
        if len(task[key]) != ndim:
            return key
    if len(task.get("group", task["axes"])) != ndim:
        return "group"
    if not _fits(task.get("scale", {}), task["axes"]):
        return "scale"
    for kind in ("reads", "writes") if not Call(task["call"]).is_once else ("writes",):
        if any(len(use["array"]["shape"]) != ndim for use in task[kind].values()):
            return kind
    return None


def _fits(scale: Any, axes: Sequence[Sequence[int]]) -> bool:
    """Tell whether a scale is as it was written, and the axes are whole numbers of it."""
    if not is_scale_form(scale, len(axes)):
        return False
    return Scale.from_json(scale).fits(Grid(tuple(Axis(*axis) for axis in axes)))


def _axis(value: Any) -> bool:
    """Tell whether these are begin, end, step and context of an axis."""
    if not (list_of(whole(-LARGEST))(value) and len(value) == 5):
        return False
    begin, end, step, lower, upper = value
    return bool(
        begin < end and step > 0 and lower >= 0 and upper >= 0 and (end - begin) // step < 2**32
    )


def _axes(value: Any) -> bool:
    if not (list_of(_axis)(value) and value):
        return False
    counts = (-(-(end - begin) // step) for begin, end, step, *_ in value)
    return bool(math.prod(counts) < 2**63)


_KEYS = {**forms_of(Operation), **forms_of(Budget)}
# Those of them that every file has; the others came later, and have a default.
_FIRST = (
    "call", "function", "check_before", "check_after", "init", "params", "reads", "writes",
    "retries", "timeout", "workers", "threads", "max_workers", "resources",
)  # fmt: skip
_TASK: Mapping[str, Check] = {
    **{name: _KEYS[name] for name in _FIRST},
    "name": is_text,
    "slug": is_text,
    "axes": _axes,
    "batch": list_of(whole(1)),
    "reach": list_of(whole(0)),
    "job_reach": list_of(whole(0)),
    "masked": matching(r"|[0-9a-f]{64}"),
    "upstream": list_of(is_text),
    "fingerprint": matching("[0-9a-f]{16}"),
    "identity": lambda value: isinstance(value, dict),
    "source": matching("|[0-9a-f]{16}"),
    "fit": is_text,
    "mask": is_text,
    "batching": is_text,
}
_NEWER: Mapping[str, Check] = {
    **{name: check for name, check in _KEYS.items() if name not in _FIRST},
    "source_change": lambda value: value in list(SourceChange),
    "whole": list_of(is_text),
    "group": list_of(whole(1)),
    "scale": lambda value: isinstance(value, dict),
}
_PLAN: Mapping[str, Check] = {
    "format": lambda value: value == FORMAT,
    "name": is_text,
    "base": is_text,
    "run_directory": is_text,
    "tasks": lambda value: isinstance(value, list) and bool(value),
}
