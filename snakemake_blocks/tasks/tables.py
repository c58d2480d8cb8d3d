"""Tables: rows that blocks return beside arrays, in columns of declared types.

Types are numpy's names of numbers, ``string``, ``binary``, or a number of values as in
``float64[3]``. Nothing here imports Arrow, which takes a quarter of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from snakemake_blocks.tasks.dtypes import number_type
from snakemake_blocks.tasks.forms import is_text, mapping_of, unfit_key
from snakemake_blocks.tasks.keys import Kind, Problem

__all__ = ["TABLES", "TABLE_READS", "Column", "Table", "TableRead", "column_of"]

_NAME = re.compile(r"[^\W\d]\w*")
_OBJECTS_CALLED = {"string": "string", "str": "string", "binary": "binary", "bytes": "binary"}
_OBJECTS = frozenset(_OBJECTS_CALLED.values())
# Lists of more are arrays, and belong into one.
_WIDEST = 2**20


@dataclass(frozen=True, slots=True)
class Column:
    """The type of a column.

    Parameters
    ----------
    dtype : str
        numpy's name of a type of numbers, ``string``, or ``binary``.
    width : int
        Values per row; 0 for one that is no list.
    """

    dtype: str
    width: int = 0

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return self.dtype == "string"

    @property
    def is_plain(self) -> bool:
        """Whether it holds objects of Python, and no numbers."""
        return self.dtype in _OBJECTS

    def __str__(self) -> str:
        return f"{self.dtype}[{self.width}]" if self.width else self.dtype


def column_of(text: str) -> Column | None:
    """Return the type that a text names, None if it names none that Arrow has as well."""
    match = re.fullmatch(r"(\w+)(?:\[([0-9]{1,7})\])?", str(text))
    if match is None:
        return None
    name = _OBJECTS_CALLED.get(match[1]) or number_type(match[1])
    width = int(match[2] or 0)
    known = name in _OBJECTS or (name != "" and np.dtype(name).kind in "biuf")
    if not known or (match[2] and not 1 <= width <= _WIDEST) or (name in _OBJECTS and width):
        return None
    return Column(name, width)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that a task makes.

    Parameters
    ----------
    columns : mapping of str to str
        Types by name, in the order of the table.
    parquet : str
        Where the rows are written as Parquet when the task is done; empty for nowhere.
    """

    columns: Mapping[str, str]
    parquet: str = ""

    @property
    def types(self) -> Mapping[str, Column]:
        """The columns' types."""
        return _types(tuple(self.columns.items()))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "columns": dict(self.columns),
            **({"parquet": self.parquet} if self.parquet else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """Return what :meth:`to_json` described."""
        return cls(data["columns"], data.get("parquet", ""))

    @classmethod
    def of(cls, value: Table | Mapping[str, Any]) -> Table:
        """Return a table that is given as columns and their types, or with these as a key."""
        if isinstance(value, cls) or not isinstance(value, Mapping):
            return value  # what is no table is refused later
        if isinstance(value.get("columns"), Mapping):
            return cls(**value)
        return cls(value)


@lru_cache
def _types(columns: tuple[tuple[str, str], ...]) -> Mapping[str, Column]:
    """Return the types of columns; asked for with every block."""
    found = {name: column_of(text) for name, text in columns}
    return MappingProxyType({n: column for n, column in found.items() if column is not None})


@dataclass(frozen=True, slots=True)
class TableRead:
    """A table of another task that a task reads.

    Parameters
    ----------
    task, table : str
        Whose it is, and which.
    whole : bool
        Whether every block gets all rows; else those of the blocks that its read Roi meets.
    batches : bool
        Whether what runs once gets them as tables of the blocks of one upstream job each.
    """

    task: str
    table: str
    whole: bool = False
    batches: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        found = {"task": self.task, "table": self.table, "whole": self.whole}
        return {**found, "batches": True} if self.batches else found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TableRead:
        """Return what :meth:`to_json` described."""
        return cls(data["task"], data["table"], data["whole"], data.get("batches", False))

    @classmethod
    def of(cls, value: TableRead | str) -> TableRead:
        """Return a read that may be given as ``task.table``."""
        if not isinstance(value, str):
            return value
        task, _, table = value.rpartition(".")
        return cls(task, table)


def _table_problems(tables: Mapping[str, object]) -> Iterable[Problem]:
    """Yield what is wrong with tables that a user gave."""
    for name, table in tables.items():
        if not isinstance(table, Table) or not isinstance(table.columns, Mapping):
            yield name, f"must be columns and their types, got {table!r}"
            continue
        if not table.columns:
            yield f"{name}.columns", "must not be empty"
        for column, text in table.columns.items():
            if not _NAME.fullmatch(str(column)):
                yield f"{name}.columns", f"{column!r} cannot be the name of a column"
            elif column_of(text) is None:
                known = (
                    "write a numpy type such as float64, string, binary, or several as float64[3]"
                )
                yield f"{name}.columns.{column}", f"{text!r} is no type of a column; {known}"


def _read_problems(reads: Any) -> Iterable[Problem]:
    """Yield what is wrong with reads of tables that a user gave."""
    for name, read in reads.items():
        if not isinstance(read, TableRead):
            yield name, f"must be a TableRead, or task.table, got {read!r}"


def _is_table(value: Any) -> bool:
    """Tell whether what JSON gave describes a table as :meth:`Table.to_json` does."""
    return unfit_key(value, {"columns": _are_columns}, {"parquet": is_text}) is None


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _are_columns(value: Any) -> bool:
    return mapping_of(is_text)(value) and bool(value) and all(map(column_of, value.values()))


TABLES = Kind(
    mapping_of(_is_table),
    _table_problems,
    lambda tables: {name: table.to_json() for name, table in tables.items()},
    lambda data: {name: Table.from_json(table) for name, table in data.items()},
)
"""Tables by name."""
TABLE_READS = Kind(
    mapping_of(
        lambda value: (
            unfit_key(
                value, {"task": is_text, "table": is_text, "whole": _is_flag}, {"batches": _is_flag}
            )
            is None
        )
    ),
    _read_problems,
    to_json=lambda reads: {name: read.to_json() for name, read in reads.items()},
    from_json=lambda data: {name: TableRead.from_json(read) for name, read in data.items()},
)
"""Tables that are read, by name."""
