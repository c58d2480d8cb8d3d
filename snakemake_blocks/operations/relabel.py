"""``use: relabel``: a look-up table applied block by block.

The table is sorted once; a block looks only at the part of it that it needs, which stays on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from snakemake_blocks.errors import InputError
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import ArrayPath, TableReadModel

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RelabelModel", "relabelled", "sort"]

_HERE = "snakemake_blocks.operations.relabel"


class RelabelParams(BaseModel):
    """Where new labels stand, and what labels get that have none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parquet: ArrayPath | None = Field(None, description="The look-up table, as Parquet.")
    old: str = Field("", description="Its column of labels; default: the first one.")
    new: str = Field("", description="Its column of new labels; default: the second one.")
    missing: Literal["error", "keep", "zero"] = Field(
        "error", description="What happens to labels that it does not name; 0 always stays."
    )


class RelabelModel(OperationModel):
    """New labels by a look-up table: of a task, as Parquet, or an array by old labels."""

    inputs = ("labels", "lut")
    results = ("labels",)
    needed_inputs = ("labels",)
    needed_results = ("labels",)
    aside = ("lut",)

    use: Literal["relabel"] = Field(description="Which operation.")
    params: RelabelParams = Field(
        RelabelParams.model_validate({}), description="Where new labels stand."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        return ["sort", "label"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        given: dict[str, Any] = {"old": self.params.old, "new": self.params.new}
        reads: dict[str, Any] = {}
        lut = self.reads.get("lut")
        if (lut is None) == (self.params.parquet is None):
            text = (
                "give {lut: {table: task.table}}, the path of an array, or params: {parquet: ...}"
            )
            frame.say("reads.lut", text)
            return {}
        if self.params.parquet is not None:
            file = frame.folder / self.params.parquet
            if not file.is_file():
                frame.say("params.parquet", f"{self.params.parquet}: there is no such file")
                return {}
            with file.open("rb") as data:  # so that another table of this name is another one
                digest = hashlib.file_digest(data, "sha256").hexdigest()
            given |= {"parquet": str(file.absolute()), "sha256": digest}
        elif isinstance(lut, TableReadModel):
            reads = {"lut": {"table": lut.table, "batches": True}}
        else:
            reads = {"array": self.read("lut")}
            given = {}
        labels = {"labels": self.read("labels")}
        dtype = frame.array.dtype if frame.array is not None else "uint64"
        return {
            "sort": self.once(
                {
                    "function": f"{_HERE}:sort",
                    "params": given,
                    "reads": reads,
                    "tables": {"lut": {"columns": {"old": "uint64", "new": "uint64"}}},
                }
            ),
            "label": self.blockwise(
                frame,
                {
                    "function": f"{_HERE}:relabelled",
                    "params": {"missing": self.params.missing},
                    "reads": {**labels, "lut": {"table": f"{frame.task}_sort.lut", "whole": True}},
                    "writes": {"labels": self.write("labels", dtype=dtype)},
                },
            ),
        }


def sort(
    lut: Iterable[pa.Table] = (),
    array: Any = None,
    old: str = "",
    new: str = "",
    parquet: str = "",
    sha256: str = "",
) -> dict[str, NDArray[np.uint64]]:
    """Return a look-up table in the order of old labels.

    Takes about 48 bytes of memory per row.

    Parameters
    ----------
    lut : iterable of pyarrow.Table
        The table, in parts.
    array : array, optional
        Instead: new labels by old ones, one axis.
    old, new : str
        Columns; by default the first and the second one.
    parquet, sha256 : str
        Instead: the file, and its digest.

    Raises
    ------
    InputError
        If a label has two new ones, a label is negative, or the table lacks a column.
    """
    if array is not None:
        values = np.asarray(array[...])
        if values.ndim != 1:
            raise InputError(f"the look-up table has {values.ndim} axes; an array of one is needed")
        return {"old": np.arange(len(values), dtype=np.uint64), "new": _labels(values)}
    if parquet:
        import pyarrow.parquet

        lut = [pyarrow.parquet.read_table(parquet)]
    parts = [_columns(part, old, new) for part in lut] or [(np.zeros(0, np.uint64),) * 2]
    keys, values = (np.concatenate(side) for side in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    same = keys[1:] == keys[:-1]
    if (wrong := same & (values[1:] != values[:-1])).any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"label {keys[at]} becomes {values[at]} and {values[at + 1]}; give it once"
        )
    first = np.concatenate([[True], ~same]) if len(keys) else np.zeros(0, bool)
    return {"old": keys[first], "new": values[first]}


def _columns(table: pa.Table, old: str, new: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    names = table.column_names
    chosen = [old or names[0], new or names[min(1, len(names) - 1)]]
    for name in chosen:
        if name not in names:
            raise InputError(
                f"the look-up table has no column {name}; known are {', '.join(names)}"
            )
    if chosen[0] == chosen[1]:
        raise InputError(f"the look-up table has one column, {chosen[0]}; two are needed")
    one, other = (_labels(table.column(name).to_numpy()) for name in chosen)
    return one, other


def _labels(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return labels as they are compared.

    Raises
    ------
    InputError
        If they are no whole numbers from 0 on.
    """
    if values.dtype.kind not in "bui" or (values.dtype.kind == "i" and values.min(initial=0) < 0):
        least = values.min(initial=0) if values.dtype.kind == "i" else values.dtype
        raise InputError(f"labels are whole numbers from 0 on; the look-up table has {least}")
    return values.astype(np.uint64, copy=False)


def relabelled(labels: NDArray[Any], lut: pa.Table, missing: str = "error") -> NDArray[np.uint64]:
    """Return the new labels of a block.

    Parameters
    ----------
    labels : ndarray
        Old labels, of any shape.
    lut : pyarrow.Table
        Columns ``old``, in order, and ``new``; only what is needed is looked at.
    missing : str
        What happens to labels that it does not name: ``error``, ``keep`` or ``zero``.

    Raises
    ------
    InputError
        If there are such labels, and that is an error.
    """
    found, places = unique(labels)
    found = _labels(found)
    keys, values = (_in_place(lut.column(name)) for name in ("old", "new"))
    at = np.searchsorted(keys, found)
    known = at < len(keys)
    known[known] = keys[at[known]] == found[known]
    lost = found[~known & (found != 0)]
    if len(lost) and missing == "error":
        names = ", ".join(map(str, lost[:3])) + (", ..." if len(lost) > 3 else "")
        raise InputError(
            f"{len(lost)} labels have no new one: {names}; add them, or say missing: keep, or zero"
        )
    new = found.copy() if missing == "keep" else np.zeros_like(found)
    new[known] = values[at[known]]
    return new[places].reshape(labels.shape)


def _in_place(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Return a column without a copy, where it lies in one piece."""
    if column.num_chunks == 1:
        return column.chunk(0).to_numpy(zero_copy_only=True)  # type: ignore[no-any-return]
    return column.to_numpy()  # type: ignore[no-any-return]


def unique(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the different labels in order, and of every voxel which of them it has."""
    try:
        import fastremap
    except ImportError:
        found, places = np.unique(labels, return_inverse=True)
    else:
        plain = np.ascontiguousarray(labels.view(np.uint8) if labels.dtype == np.bool_ else labels)
        found, places = fastremap.unique(plain, return_inverse=True)
    return found, np.reshape(places, labels.shape)
