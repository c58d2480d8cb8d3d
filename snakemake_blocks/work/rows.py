"""Rows that a function returns, in whatever form: as values per column of the declared types."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from snakemake_blocks.errors import InputError
from snakemake_blocks.state.row_files import Rows, as_batch
from snakemake_blocks.tasks.dtypes import as_values, fitted
from snakemake_blocks.tasks.tables import Column, Table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["merged", "number_of_rows", "rows_of", "takes_two"]


def rows_of(returned: Any, table: Table, place: str) -> tuple[Rows, str]:
    """Return rows by column, and of what fractions were cut off, empty if of nothing.

    Parameters
    ----------
    returned : mapping, table or None
        Columns by name as a dict of sequences, a DataFrame of pandas or polars, or a Table or
        RecordBatch of Arrow; None for no rows.
    table : Table
        What is declared.
    place : str
        What to name in errors.

    Raises
    ------
    InputError
        If there are other columns than are declared, of different lengths, or with values that
        their type cannot hold.
    """
    if returned is None:
        returned = {name: [] for name in table.columns}
    names = _names(returned, place)
    if set(names) != set(table.columns):
        raise InputError(
            f"{place}: returned the columns {', '.join(map(str, names)) or 'none'}; declared are "
            f"{', '.join(table.columns)}"
        )
    found: Rows = {}
    noted = ""
    for name, column in table.types.items():
        found[name], cut = _values(returned[name], column, f"{place}.{name}")
        noted = noted or (cut and f"{name}: {cut}")
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise InputError(f"{place}: columns have different lengths: {text}")
    return found, noted


def merged(
    function: Callable[..., Any], parts: Sequence[pa.Table], table: Table, place: str
) -> Any:
    """Return the rows of several blocks as a function makes one's of them.

    Parameters
    ----------
    function : callable
        ``f(a, b)``, which is called for one after the other.
    parts : sequence of pyarrow.Table
        Rows of each block, in the order of the blocks, at least of one.
    table : Table
        Whose columns they all have.
    place : str
        What to name in errors.

    Raises
    ------
    InputError
        If it returns other columns.
    """
    import pyarrow as pa

    def both(one: pa.Table, other: pa.Table) -> pa.Table:
        rows, _ = rows_of(function(one, other), table, place)
        return pa.Table.from_batches([as_batch(table, [rows])])

    return functools.reduce(both, parts)


def takes_two(function: Callable[..., Any]) -> bool:
    """Tell whether a function merges two: it cannot be called with one."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return True
    except ValueError:  # builtins without a signature
        return False
    return False


def number_of_rows(rows: Rows) -> int:
    """Return how many rows there are."""
    return len(next(iter(rows.values())))


def _names(returned: Any, place: str) -> list[Any]:
    """Return the names of the columns that a function returned."""
    if isinstance(returned, Mapping):
        return list(returned)
    for attribute in ("column_names", "columns"):  # Arrow has both, with other things in the second
        names = getattr(returned, attribute, None)
        if isinstance(names, Iterable):
            return list(names)
    schema = getattr(returned, "schema", None)  # a record batch of Arrow
    if schema is not None and hasattr(schema, "names"):
        return list(schema.names)
    raise InputError(
        f"{place}: returned {type(returned).__name__}, which is no table; return a dict of columns"
    )


def _values(given: Any, column: Column, place: str) -> tuple[Any, str]:
    """Return the values of a column, and what was cut off."""
    if hasattr(given, "to_pylist"):  # of Arrow
        is_listed = column.is_plain or column.width
        given = given.to_pylist() if is_listed else given.to_numpy()
    elif hasattr(given, "to_numpy"):  # of pandas or polars
        given = given.to_numpy()
    if column.is_plain:
        kind, called = (str, "text") if column.is_text else (bytes, "bytes")
        objects = list(given)
        wrong = [value for value in objects if not isinstance(value, kind)]
        if wrong:
            raise InputError(f"{place}: {wrong[0]!r:.60} is no {called}; declare another type")
        return [kind(value) for value in objects], ""
    values = as_values(
        given if isinstance(given, np.ndarray | list | tuple) else list(given), place
    )
    if values.dtype == object and column.width:
        values = as_values([list(row) for row in values], place)
    if not values.size:
        return np.zeros((0, *((column.width,) if column.width else ())), column.dtype), ""
    shape = (len(values), column.width) if column.width else (len(values),) if values.ndim else ()
    if values.shape != shape:
        rows = f"rows of {column.width} values" if column.width else "one value per row"
        raise InputError(f"{place}: has shape {values.shape}, {column} is {rows}")
    found, cut = fitted(values, column.dtype, place)
    return np.array(found), cut  # the function may change what it returned
