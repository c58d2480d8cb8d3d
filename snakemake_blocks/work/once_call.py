"""Calling a function that runs once: arrays come opened, and what it makes comes out whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.storage.arrays import open_array
from snakemake_blocks.tasks.dtypes import as_values
from snakemake_blocks.tasks.operation import Operation
from snakemake_blocks.work.array_call import named_results, takes

__all__ = ["OnceCall"]


@dataclass(slots=True)
class OnceCall:
    """A function, and the arrays that it reads.

    Parameters
    ----------
    operation : Operation
        Of a task with ``call: once``.
    folder : Path
        The pipeline's folder.
    function : callable
        ``f(**arrays, **tables, **params)``. An array that it writes is given to it opened if it
        has a parameter of that name; of others it returns all values.
    params : mapping
        What it is given beside arrays and tables.
    """

    operation: Operation
    folder: Path
    function: Callable[..., Any]
    params: Mapping[str, Any]
    _inputs: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reads = self.operation.reads.items()
        self._inputs = {n: open_array(r.array, self.folder, writable=False) for n, r in reads}

    @property
    def given(self) -> frozenset[str]:
        """Names of the arrays that the function writes by itself."""
        return frozenset(n for n in self.operation.writes if takes(self.function, n))

    def results(
        self, target: Box, tables: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> tuple[dict[str, NDArray[Any]], Mapping[str, Any]]:
        """Return the values of arrays, and the rows of tables, that the function returns.

        Parameters
        ----------
        target : Box
            Where the arrays are written, as the plan counts.
        tables : mapping
            Tables that it reads, by name.
        outputs : mapping
            The arrays that it writes, opened.

        Raises
        ------
        InputError
            If it returns something else.
        """
        given = {name: outputs[name] for name in self.given}
        returned = named_results(
            self.function(**self._inputs, **tables, **given, **self.params),
            self.operation,
            without=self.given,
        )
        values = {
            name: self._whole(name, returned[name], target)
            for name in self.operation.writes
            if name not in given
        }
        return values, {name: returned[name] for name in self.operation.tables}

    def _whole(self, name: str, returned: Any, target: Box) -> NDArray[Any]:
        array, function = self.operation.writes[name].array, self.operation.function.name
        values = as_values(returned, f"{function}: {name}")
        wanted = array.values_shape(array.voxels(target))
        if values.shape != wanted:
            raise InputError(
                f"{function}: {name} has shape {values.shape}; {array.path} takes {wanted}. An "
                f"argument called {name} would get it opened, to write part by part"
            )
        return values
