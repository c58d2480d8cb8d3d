"""What functions return as rows: every form of a table, and nothing lost of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from snakemake_blocks.errors import InputError
from snakemake_blocks.tasks.tables import Table
from snakemake_blocks.work.rows import number_of_rows, rows_of

TABLE = Table(
    {"id": "uint64", "area": "float32", "at": "int16[2]", "name": "string", "data": "binary"}
)
COLUMNS: dict[str, Any] = {
    "id": [1, 2**63], "area": [0.5, 2], "at": [[1, 2], [-3, 4]], "name": ["a", "b"],
    "data": [b"\0x", b""],
}  # fmt: skip
FORMS: dict[str, Any] = {
    "lists": COLUMNS,
    "arrays": {
        n: v if n == "data" else np.array(v, np.uint64) if n == "id" else np.array(v)
        for n, v in COLUMNS.items()
    },
    "another order": dict(reversed(COLUMNS.items())),
    "pandas": pd.DataFrame(COLUMNS),
    "a table of Arrow": pa.table({**COLUMNS, "id": pa.array(COLUMNS["id"], pa.uint64())}),
    "a record batch": pa.RecordBatch.from_pydict(
        {**COLUMNS, "id": pa.array(COLUMNS["id"], pa.uint64())}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form: str) -> None:
    found, cut = rows_of(FORMS[form], TABLE, "f: t")
    assert (list(found), cut, number_of_rows(found)) == (list(TABLE.columns), "", 2)
    assert found["id"].tolist() == [1, 2**63]
    assert found["at"].tolist() == [[1, 2], [-3, 4]]
    assert {n: str(v.dtype) for n, v in found.items() if n not in ("name", "data")} == {
        "id": "uint64", "area": "float32", "at": "int16"
    }  # fmt: skip
    assert found["name"] == ["a", "b"]
    assert found["data"] == [b"\0x", b""]


@pytest.mark.parametrize("empty", [None, {n: [] for n in COLUMNS}, pd.DataFrame(COLUMNS)[:0]])
def test_no_rows(empty: Any) -> None:
    found, _ = rows_of(empty, TABLE, "f: t")
    assert number_of_rows(found) == 0
    assert found["at"].shape == (0, 2)


def test_what_a_function_changes_later_is_not_changed() -> None:
    given = {**COLUMNS, "id": np.array([1, 2], np.uint64)}
    found, _ = rows_of(given, TABLE, "f: t")
    given["id"][:] = 9
    assert found["id"].tolist() == [1, 2]


def test_fractions_are_noted() -> None:
    found, cut = rows_of({"n": [1.5, 2]}, Table({"n": "int8"}), "f: t")
    assert (found["n"].tolist(), cut) == ([1, 2], "n: 1.5 becomes 1")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": [-1, 1]}, "f: t.id: values from -1 to 1 do not fit into uint64"),
        ({"id": [1]}, "columns have different lengths: id has 1, area has 2, at has 2, name has 2"),
        ({"at": [1, 2]}, "f: t.at: has shape (2,), int16[2] is rows of 2 values"),
        ({"at": [[1, 2, 3]] * 2}, "f: t.at: has shape (2, 3), int16[2] is rows of 2 values"),
        ({"area": [[1], [2]]}, "f: t.area: has shape (2, 1), float32 is one value per row"),
        ({"area": ["a", "b"]}, "f: t.area: values of type <U1 are not numbers"),
        ({"name": [1, 2]}, "f: t.name: 1 is no text; declare another type"),
        ({"name": [None, "a"]}, "f: t.name: None is no text"),
        (
            {"more": [1, 2]},
            "f: t: returned the columns id, area, at, name, data, more; declared are id, ",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        rows_of({**COLUMNS, **change}, TABLE, "f: t")
    assert str(caught.value).startswith(problem) or problem in str(caught.value)


@pytest.mark.parametrize("given", [3, "text", [1, 2], object()])
def test_what_is_no_table_is_named(given: Any) -> None:
    with pytest.raises(InputError, match="which is no table; return a dict of columns"):
        rows_of(given, TABLE, "f: t")
