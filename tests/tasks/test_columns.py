from __future__ import annotations

from typing import Any

import pytest
from declared import make_task
from strategies import FUNCTION

from snakemake_blocks.errors import SpecError
from snakemake_blocks.tasks.tables import Column, Table, TableRead, column_of


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("uint64", Column("uint64")), ("float", Column("float64")), ("bool", Column("bool")),
        ("string", Column("string")), ("str", Column("string")), ("int8[3]", Column("int8", 3)),
        ("float64[1048576]", Column("float64", 2**20)),
        ("float64[1048577]", None), ("int[0]", None), ("complex64", None), ("string[2]", None),
        ("object", None), ("", None), ("int8[]", None), ("int8[a]", None), ("datetime64[s]", None),
        ("longdouble", None), ("int8 [3]", None),
    ],
)  # fmt: skip
def test_types_of_columns(text: str, column: Column | None) -> None:
    assert column_of(text) == column
    if column is not None:
        assert column_of(str(column)) == column


def task(**more: Any) -> list[str]:
    """Return what is wrong with a task that has tables."""
    known = {"tables": {"objects": Table({"id": "uint64"})}, "call": "block", **more}
    try:
        make_task(**known)
    except SpecError as error:
        return [line.removeprefix("task smooth: ") for line in error.problems]
    return []


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({}, []),
        ({"call": "arrays"}, []),
        ({"tables": {"t": Table({})}}, ["tables.t.columns: must not be empty"]),
        ({"tables": {"t": Table({"a b": "int8"})}},
         ["tables.t.columns: 'a b' cannot be the name of a column"]),
        ({"tables": {"t": Table({"a": "int"}, ), "u": Table({"a": "x"})}},
         ["tables.u.columns.a: 'x' is no type of a column; write a numpy type such as float64, "
          "string, binary, or several as float64[3]"]),
        ({"call": "worker"},
         ["tables: call: worker returns nothing; use call: block or arrays"]),
        ({"check_function": FUNCTION},
         ["check_function: of a block that is found done before it ran no rows are known; give "
          "after alone"]),
        ({"check_function": (None, FUNCTION)}, []),
    ],
)  # fmt: skip
def test_refusals(more: dict[str, Any], problem: list[str]) -> None:
    assert task(**more) == problem


def test_identity_has_the_columns_and_not_where_parquet_lies() -> None:
    one, other = (
        make_task(tables={"t": Table({"a": "int8"}, parquet)}).operation.identity()
        for parquet in ("", "a.parquet")
    )
    assert one == other
    assert one["tables"] == {"t": {"a": "int8"}}
    read = make_task(table_reads={"rows": TableRead("up", "t")}).operation.identity()
    assert read["table_reads"] == {"rows": {"task": "up", "table": "t", "whole": False}}
