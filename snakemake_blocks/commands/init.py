"""A pipeline to start from: what can be read from arrays is read, the rest says what to change."""

from __future__ import annotations

import keyword
import math
import os.path
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.storage.arrays import stored_array
from snakemake_blocks.storage.foreign import format_meant, zarr_beside
from snakemake_blocks.storage.lattice import Lattice, StoredArray
from snakemake_blocks.system.files import write_atomically
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.units import conversion, unit_name

__all__ = ["init_pipeline"]

# About so much of an array is one block, if its chunks allow.
_BLOCK_BYTES = 16 << 20
# What an axis of time is called; it has no place, and a block is one point of it.
_TIME = ("t", "time")
_FUNCTIONS = '''"""What the tasks of pipeline.yaml call."""


def process({arguments}):
    """Return what is to be written for a block; its arrays come with the context around it."""
    return {first}
'''


def init_pipeline(arrays: Sequence[str], path: Path) -> list[str]:
    """Write a pipeline.yaml for arrays, and a functions.py beside it if there is none.

    Parameters
    ----------
    arrays : sequence of str
        Paths of what is read, at least one; the first one is the region that is written.
    path : Path
        Of the pipeline; nothing may be there.

    Returns
    -------
    list of str
        What was written, and what to do next, a line each.

    Raises
    ------
    InputError
        If there is something at ``path``, or an array cannot be read.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: is there already; choose another path with -o")
    found, unit = _described([_seen_from(path.parent, a) for a in arrays], path.parent)
    names = _names([array.path for array in found])
    write_atomically(path, _text(dict(zip(names, found, strict=True)), unit).encode())
    told = [f"{path}: written; `snakemake-blocks check {path}` says what is missing"]
    functions = path.parent / "functions.py"
    if functions.exists():
        return [
            *told,
            f"{functions}: is there already; write `process({', '.join(names)})` into it",
        ]
    text = _FUNCTIONS.format(arguments=", ".join(names), first=names[0])
    write_atomically(functions, text.encode())
    return [*told, f"{functions}: written; it copies {names[0]}, change what it returns"]


def _seen_from(folder: Path, path: str) -> str:
    """Return a path as the pipeline is to name it: relative if it was given so."""
    return path if os.path.isabs(path) else os.path.relpath(path, folder)


def _described(paths: Sequence[str], folder: Path) -> tuple[list[StoredArray], str]:
    """Return the arrays, and the finest of the units of length that they name, if there are more.

    Sizes are given in voxels, so it is of no matter whether these are whole numbers of it.
    """
    found = [_array(path, folder, "") for path in paths]
    named = {unit_name(axis.unit) for array in found for axis in array.place.axes} - {""}
    if len(named) <= 1:
        return found, ""
    unit = min(named, key=lambda name: conversion(name, "meter"))
    return [_array(path, folder, unit) for path in paths], unit


def _array(path: str, folder: Path, unit: str) -> StoredArray:
    found = stored_array(path, folder, unit=unit)
    if found is None:
        raise InputError(f"{path}: there is no array")
    return found


def _names(paths: Sequence[str]) -> list[str]:
    """Return a name of an argument for every array, by the last word of its path that is one."""
    names: list[str] = []
    for number, path in enumerate(paths):
        words = [re.sub(r"\.ome|\.zarr|\W", "", part) for part in Path(path).parts]
        word = next((w for w in reversed(words) if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", w)), "raw")
        taken = word in (*names, "block", "processed") or keyword.iskeyword(word)
        names.append(f"{word}_{number}" if taken else word)
    return names


def _result(path: str) -> str:
    """Return where the result goes: beside the store, under a name of its own."""
    head, dot, rest = path.rpartition(".zarr")
    head, suffix = (head.removesuffix(".ome"), ".ome") if head.endswith(".ome") else (head, "")
    if format_meant(path):
        return zarr_beside(path, "_processed")
    return f"{head}_processed{suffix}{dot}{rest}" if dot else f"{path}_processed"


def _seen(arrays: Sequence[StoredArray]) -> list[ArrayInfo]:
    """Return the arrays as a task sees them that cuts the first one, along time as well."""
    lattice = Lattice.of([array.measured for array in arrays])
    axes = arrays[0].task_axes(_TIME)
    return [array.info(lattice, axes, named=_TIME) for array in arrays]


def _block(arrays: Sequence[ArrayInfo], is_time: Sequence[bool]) -> Index:
    """Return voxels of a block of the first array: about so many as make a call worth its while.

    They are whole chunks, as far as the array has more than one, and whole voxels of all arrays,
    and one point in time.
    """
    array = arrays[0]
    units = [math.lcm(*size) // size[0] for size in zip(*(a.steps for a in arrays), strict=True)]
    chunks = zip(map(array.tile_chunk, range(array.ndim)), array.shape, units, is_time, strict=True)
    block = [1 if time else math.lcm(min(chunk, n), unit) for chunk, n, unit, time in chunks]
    while math.prod(block) * array.itemsize < _BLOCK_BYTES:
        sides = enumerate(zip(block, array.shape, is_time, strict=True))
        growing = [a for a, (b, n, time) in sides if b < n and not time]
        if not growing:
            break
        block[min(growing, key=lambda a: block[a])] *= 2
    return tuple(block)


def _flow(value: Any) -> str:
    """Return a value in one line of YAML, quoted where it has to be."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def _about(array: StoredArray) -> str:
    """Return in one line what is known of an array."""
    sides = [
        f"{n} {axis.name}".rstrip() for n, axis in zip(array.shape, array.place.axes, strict=True)
    ]
    measured = [axis for axis in array.place.axes if axis.is_measured]
    sizes = " x ".join(f"{float(array.world(axis).voxel_size):.6g}" for axis in measured)
    unit = array.unit or next((axis.unit for axis in measured if axis.unit), "world units")
    return f"{array.path}: {array.dtype}, {' x '.join(sides)} voxels of {sizes} {unit}"


def _text(arrays: dict[str, StoredArray], unit: str) -> str:
    """Return the text of the pipeline."""
    first = next(iter(arrays.values()))
    seen, axes = _seen(list(arrays.values())), first.task_axes(_TIME)
    channels = {"channels": list(seen[0].channels)} if seen[0].channels else {}
    write = {"array": _result(first.path), "dtype": first.dtype, **channels}
    lines = [
        *(f"# {comment(_about(array))}" for array in arrays.values()),
        *([f"unit: {unit}    # a world unit: arrays are converted to it"] if unit else []),
        "tasks:",
        "  process:",
        "    function: functions:process    # `process` of functions.py, beside this file",
        "    call: arrays                   # it gets arrays, and returns what is to be written",
        "    reads:                         # each is an argument of this name",
    ]
    for name, array in arrays.items():
        read = {"array": array.path, "fill": "reflect"}
        lines.append(f"      {name}: {_flow(read)}")
    block = _block(seen, [not axis.is_measured for axis in axes])
    names = [axis.name for axis in axes]
    by_name = all(names) and len(set(names)) == len(names)
    sizes = _flow(dict(zip(names, block, strict=True)) if by_name else list(block))
    return "\n".join(
        [
            *lines,
            "    writes:                        # made when it is not there",
            f"      processed: {_flow(write)}",
            f"    roi: {_flow(first.path)}",
            f"    block_size: {{voxels: {sizes}}}    # whole chunks: what one call writes",
            "    context: {voxels: 0}           # how far beyond the block the function has to see",
            "    fit: shrink                    # the last blocks end with the array",
            "",
        ]
    )
