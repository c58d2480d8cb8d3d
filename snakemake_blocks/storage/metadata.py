"""Metadata files of Zarr, read and checked before a library gets them.

What a library makes of a pipe, a list where a mapping belongs or a chunk of 10**30 voxels is
anybody's guess: it waits, fills the memory, or raises whatever comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import parse_json, read_file

__all__ = ["check_metadata", "is_array", "is_node", "read_metadata"]

_NAMES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
# Consolidated metadata of stores with thousands of arrays stay below.
_MOST = 64 << 20
_LARGEST = 2**53


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return what a metadata file says, None if there is none.

    Raises
    ------
    InputError
        If it is no file, or no mapping in JSON.
    """
    try:
        data = parse_json(read_file(path, most=_MOST))
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path}: is not JSON; restore it or store the array anew") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: is no mapping in JSON; restore it or store the array anew")
    return data


def check_metadata(folder: Path) -> None:
    """Check the metadata in the folder of an array or group, as far as libraries trust them.

    Raises
    ------
    InputError
        With the file and the key that is wrong.
    """
    for name in _NAMES:
        path = folder / name
        data = read_metadata(path)
        for key, problem in () if data is None else _problems(data, name):
            raise InputError(f"{path}: {key} {problem}; restore it or store the array anew")


def is_array(folder: Path) -> bool:
    """Tell whether a folder is that of an array; what is damaged there is none."""
    if (folder / ".zarray").exists():
        return True
    try:
        return (read_metadata(folder / "zarr.json") or {}).get("node_type") == "array"
    except InputError:
        return False


def is_node(folder: Path) -> bool:
    """Tell whether a folder is that of an array or a group of Zarr, be it damaged or not."""
    return any((folder / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def _problems(data: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    if name == "zarr.json" and not isinstance(data.get("attributes", {}), dict):
        yield "attributes", "must be a mapping"
    if name == ".zarray" or (name == "zarr.json" and data.get("node_type") == "array"):
        yield from _extent_problems("shape", data.get("shape"))
    if name == ".zarray":
        yield from _extent_problems("chunks", data.get("chunks"))
    grid = data.get("chunk_grid")
    settings = grid.get("configuration") if isinstance(grid, dict) else None
    if isinstance(settings, dict) and "chunk_shape" in settings:
        yield from _extent_problems("chunk_grid", settings["chunk_shape"])


def _extent_problems(key: str, value: Any) -> Iterator[tuple[str, str]]:
    is_list = isinstance(value, list)
    if not is_list or any(type(n) is not int or not 0 <= n <= _LARGEST for n in value):
        yield key, "must be a list of whole numbers from 0 to 2**53"
