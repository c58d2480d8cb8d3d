from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest
from declared import array, line, make_task, plan_of
from strategies import FUNCTION

from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.plan.plan_form import form_problem
from snakemake_blocks.tasks.budget import Budget
from snakemake_blocks.tasks.forms import is_text, whole
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.keys import (
    InvalidKeysError,
    Kind,
    check_keys,
    forms_of,
    from_json,
    key,
    to_json,
)
from snakemake_blocks.tasks.operation import Call, Operation, Read, Write


@dataclass(frozen=True, slots=True)
class Nap:
    """Two keys made up: text that is stored backwards, and a number."""

    where: str = key(
        Kind(
            is_text,
            lambda value: [("end", "must not snore")] if value.endswith("z") else [],
            lambda value: value[::-1],
            lambda value: value[::-1],
        )
    )
    minutes: int = key(Kind(whole(1)), 20)

    def __post_init__(self) -> None:
        check_keys(self)


class TestKeys:
    def test_by_hand(self) -> None:
        nap = Nap("sofa")
        assert to_json(nap) == {"where": "afos", "minutes": 20}
        assert from_json(Nap, {"where": "deb", "minutes": 3, "other": 1}) == Nap("bed", 3)

    def test_what_came_later_has_its_default(self) -> None:
        assert from_json(Nap, {"where": "deb"}) == Nap("bed", 20)

    def test_what_is_wrong_says_where(self) -> None:
        with pytest.raises(InvalidKeysError, match=r"where\.end: must not snore"):
            Nap("buzz")

    def test_their_forms(self) -> None:
        forms = forms_of(Nap)
        assert forms["where"]("x") and not forms["where"](1)
        assert forms["minutes"](1) and not forms["minutes"](0) and not forms["minutes"](True)

    def test_a_mapping_by_default_is_its_own(self) -> None:
        one, other = Budget(), Budget()
        assert one.resources == {} and one.resources is not other.resources


FULL = Operation(
    FunctionRef("m:f"),
    Call.ARRAYS,
    FunctionRef("m:before"),
    FunctionRef("", "0" * 64),
    FunctionRef("m:init"),
    {"sigma": 2.5, "steps": [1, {"b": None}]},
    {"raw": Read(array(), 0), "out": Read(array(path="out.zarr"))},
    {"out": Write(array(path="out.zarr", channels=(3,), chunks=(3, 10)))},
)


@pytest.mark.parametrize(
    "value",
    [
        FULL,
        Operation(FunctionRef("m:f")),
        Budget(),
        Budget(0, 1.5, 2, 3, 4, {"mem_mb": 100, "queue": "long"}),
    ],
)
def test_what_is_written_is_read_again(value: Any) -> None:
    stored = json.loads(json.dumps(to_json(value)))
    assert all(form(stored[name]) for name, form in forms_of(type(value)).items())
    assert from_json(type(value), stored) == value


@pytest.mark.parametrize("kind", [Operation, Budget])
@pytest.mark.parametrize("wrong", [[], -1, "no", {"a": object()}, {"a": {"array": 1}}])
def test_what_a_file_cannot_hold_does_not_fit(kind: Any, wrong: Any) -> None:
    takes = {"params": dict, "scope": dict, "outputs": list, "resources": ()}
    for name, form in forms_of(kind).items():
        if not isinstance(wrong, takes.get(name, ())):
            assert not form(wrong) or (name, wrong) == ("resources", {}), name


class TestInAPlan:
    def plan(self) -> tuple[Plan, dict[str, Any]]:
        plan = plan_of(line(threads=3, params={"a": 1}, max_retries=7, timeout=9))
        return plan, json.loads(plan.to_bytes())

    def test_a_key_that_every_plan_has_must_be_there(self) -> None:
        # Plans of earlier versions have none of these.
        later = {"tables", "table_reads", "outputs", "set_up", "before_block", "scope", "then"}
        for f in (*fields(Operation), *fields(Budget)):
            _, data = self.plan()
            assert form_problem(data) is None
            del data["tasks"][0][f.name]
            assert form_problem(data) == (None if f.name in later else f"tasks.0.{f.name}")

    def test_the_description_arrives_unchanged(self) -> None:
        task = line(threads=3, params={"a": 1}, max_retries=7, timeout=9)
        planned = plan_of(task).tasks["smooth"]
        assert (planned.operation, planned.budget) == (task.operation, task.budget)
        assert planned.budget == Budget(7, 9, 1, 3, 1)


class TestIdentity:
    def test_checks_and_set_up_do_not_decide_what_is_computed(self) -> None:
        hooks = {"before_block": FUNCTION, "set_up": FUNCTION, "outputs": ["a.db"]}
        checked = make_task(check_function=FUNCTION, init_callback_fn=FUNCTION, **hooks)
        assert checked.operation.identity() == make_task().operation.identity()

    def test_all_else_does(self) -> None:
        base = Operation(FunctionRef("m:f")).identity()
        for change in (
            {"function": FunctionRef("m:g")},
            {"call": Call.WORKER},
            {"params": {"a": 1}},
            {"params": {"a": {"y": 1, "x": 2}}},
            {"reads": {"raw": Read(array())}},
            {"writes": {"raw": Write(array())}},
            {"scope": {"function": "m:g"}},
        ):
            assert Operation(**{"function": FunctionRef("m:f"), **change}).identity() != base

    def test_that_of_the_plan_before_there_were_keys(self) -> None:
        """Of such a plan no word may change: what was done under it stays done."""
        assert FULL.identity() == {
            "call": "arrays",
            "function": "m:f",
            "params": {"sigma": 2.5, "steps": [1, {"b": None}]},
            "reads": {
                "raw": {
                    "array": "sample.zarr/raw",
                    "dtype": "uint8",
                    "offset": [0],
                    "voxel_size": [1],
                    "fill": 0.0,
                },
                "out": {
                    "array": "out.zarr",
                    "dtype": "uint8",
                    "offset": [0],
                    "voxel_size": [1],
                    "fill": None,
                },
            },
            "writes": {
                "out": {"array": "out.zarr", "dtype": "uint8", "voxel_size": [1], "channels": [3]}
            },
        }
