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
from snakemake_blocks.storage.arrays import describe
from snakemake_blocks.system.files import write_atomically
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.units import unit_name

__all__ = ["init_pipeline"]

# About so much of an array is one block, if its chunks allow.
_BLOCK_BYTES = 16 << 20
# Units to try where voxels are no whole numbers of what arrays are in.
_UNITS = ("nanometer", "angstrom", "picometer")
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


def _described(paths: Sequence[str], folder: Path) -> tuple[list[ArrayInfo], str]:
    """Return the arrays, and the unit of length in which all of their voxels are whole numbers.

    Where the arrays' own numbers are whole and of one unit, there is no need of one.
    """
    problems = []
    for unit in ("", *_UNITS):
        try:
            found = [_array(path, folder, unit) for path in paths]
        except InputError as error:
            problems.append(error)
            continue
        named = {unit_name(text) for array in found for text in array.units} - {""}
        if unit or len(named) <= 1:
            return found, unit
    raise problems[0]


def _array(path: str, folder: Path, unit: str) -> ArrayInfo:
    found = describe(path, folder, unit=unit)
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
    return f"{head}_processed{suffix}{dot}{rest}" if dot else f"{path}_processed"


def _block(arrays: Sequence[ArrayInfo]) -> Index:
    """Return voxels of a block of the first array: about so many as make a call worth its while.

    They are whole chunks, as far as the array has more than one, and whole voxels of all arrays.
    """
    array = arrays[0]
    sizes = zip(*(a.voxel_size for a in arrays if a.ndim == array.ndim), strict=True)
    units = [math.lcm(*size) // size[0] for size in sizes]
    chunks = zip(map(array.tile_chunk, range(array.ndim)), array.shape, units, strict=True)
    block = [math.lcm(min(chunk, n), unit) for chunk, n, unit in chunks]
    while math.prod(block) * array.itemsize < _BLOCK_BYTES:
        growing = [a for a, (b, n) in enumerate(zip(block, array.shape, strict=True)) if b < n]
        if not growing:
            break
        block[min(growing, key=lambda a: block[a])] *= 2
    return tuple(block)


def _flow(value: Any) -> str:
    """Return a value in one line of YAML, quoted where it has to be."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def _about(array: ArrayInfo) -> str:
    """Return in one line what is known of an array."""
    channels = f", {' x '.join(map(str, array.channels))} channels" if array.channels else ""
    unit = next((u for u in array.units if u), "world units")
    sides = " x ".join(map(str, array.shape))
    return (
        f"{array.path}: {array.dtype}{channels}, {sides} voxels of "
        f"{' x '.join(map(str, array.voxel_size))} {unit}"
    )


def _text(arrays: dict[str, ArrayInfo], unit: str) -> str:
    """Return the text of the pipeline."""
    first = next(iter(arrays.values()))
    channels = {"channels": list(first.channels)} if first.channels else {}
    write = {"array": _result(first.path), "dtype": first.dtype, **channels}
    lines = [
        *(f"# {comment(_about(array))}" for array in arrays.values()),
        *([f"unit: {unit}    # a world unit: all voxels are whole numbers of it"] if unit else []),
        "tasks:",
        "  process:",
        "    function: functions:process    # `process` of functions.py, beside this file",
        "    call: arrays                   # it gets arrays, and returns what is to be written",
        "    reads:                         # each is an argument of this name",
    ]
    for name, array in arrays.items():
        read = {"array": array.path, "fill": "reflect"}
        lines.append(f"      {name}: {_flow(read)}")
    block = _flow(list(_block(list(arrays.values()))))
    return "\n".join(
        [
            *lines,
            "    writes:                        # made when it is not there",
            f"      processed: {_flow(write)}",
            f"    roi: {_flow(first.path)}",
            f"    block_size: {{voxels: {block}}}    # whole chunks: what one call writes",
            "    context: {voxels: 0}           # how far beyond the block the function has to see",
            "    fit: shrink                    # the last blocks end with the array",
            "",
        ]
    )
