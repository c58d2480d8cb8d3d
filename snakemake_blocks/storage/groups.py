"""Zarr stores on disk: the groups around an array, their attributes, their consolidated metadata.

Metadata are read and written as the JSON that they are: writing the attributes of a group through
zarr drops the consolidated metadata that stand in the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.metadata import check_metadata, is_array, read_metadata
from snakemake_blocks.system.files import write_atomically

__all__ = [
    "Group",
    "arrays_in",
    "attributes_of",
    "enter",
    "format_at",
    "groups_around",
    "groups_in",
]


@dataclass(frozen=True, slots=True)
class Group:
    """A folder that is a Zarr group, or is to be one.

    Parameters
    ----------
    where : Path
        The folder.
    zarr_format : int
        2 or 3.
    """

    where: Path
    zarr_format: int

    @property
    def attributes(self) -> dict[str, Any]:
        """What is stored; nothing for a group that is not there yet."""
        return dict(attributes_of(self.where) or {})

    def as_format(self, zarr_format: int) -> Group:
        """Return the same group in a format.

        Raises
        ------
        InputError
            If it is there, in the other one.
        """
        if _format_of(self.where) not in (0, zarr_format):
            raise InputError(
                f"{self.where}: is of Zarr format {self.zarr_format}; write to another store"
            )
        return replace(self, zarr_format=zarr_format)

    def make(self) -> None:
        """Store the metadata that make the folder a group, unless there are some."""
        if self.zarr_format == 2 and not (self.where / ".zgroup").exists():
            _store(self.where / ".zgroup", {"zarr_format": 2})
        elif self.zarr_format == 3 and not (self.where / "zarr.json").exists():
            whole = {"zarr_format": 3, "node_type": "group", "attributes": {}}
            _store(self.where / "zarr.json", whole)

    def put(self, attributes: Mapping[str, Any]) -> None:
        """Store attributes; the group is there."""
        if self.zarr_format == 2:
            _store(self.where / ".zattrs", attributes)
        else:
            file = self.where / "zarr.json"
            _store(file, {**(read_metadata(file) or {}), "attributes": dict(attributes)})


def attributes_of(group: Path) -> Mapping[str, Any] | None:
    """Return the attributes of a group, None if there is no group.

    Raises
    ------
    InputError
        If its metadata are damaged.
    """
    for name in ("zarr.json", ".zattrs", ".zgroup"):
        data = read_metadata(group / name)
        if data is None:
            continue
        if name == ".zgroup":
            return {}
        found = data.get("attributes", {}) if name == "zarr.json" else data
        return found if isinstance(found, dict) else {}
    return None


def groups_around(path: Path) -> tuple[Group, ...]:
    """Return the groups above an array, the store's root first; none if it lies in no store.

    Folders between groups count as groups too, and so does a folder ``*.zarr`` without metadata.
    """
    above = list(path.parents)
    marked = [n for n, p in enumerate(above) if p.suffix == ".zarr" or _format_of(p)]
    if not marked:
        return ()
    top = max([marked[0], *(n for n in marked if above[n].suffix == ".zarr")])
    while top + 1 in marked:
        top += 1
    inside = above[: top + 1]
    zarr_format = next(filter(None, map(_format_of, inside)), None) or _format_inside(above[top])
    return tuple(Group(where, zarr_format) for where in reversed(inside))


def format_at(path: Path, wanted: int = 0) -> int:
    """Return the Zarr format that an array made there will have.

    Raises
    ------
    InputError
        If it is wanted in another one than its store is in.
    """
    groups = groups_around(path)
    if wanted:
        groups = tuple(group.as_format(wanted) for group in groups)
    return groups[-1].zarr_format if groups else wanted or 3


def _format_of(folder: Path) -> int:
    """Return the Zarr format of a group, 0 if the folder is none."""
    if (folder / "zarr.json").exists():
        return 3
    return 2 if (folder / ".zgroup").exists() else 0


def _format_inside(folder: Path) -> int:
    """Return the format of the arrays in a folder that is no group yet."""
    found = next(arrays_in(folder), None)
    return 2 if found is not None and (found / ".zarray").exists() else 3


def arrays_in(group: Path) -> Iterator[Path]:
    """Yield the arrays right inside a group, by name; hidden ones are still being made.

    Those with damaged metadata are left out: nobody can be like them.
    """
    for child in _folders(group):
        if is_array(child) and _is_sound(child):
            yield child


def _is_sound(folder: Path) -> bool:
    try:
        check_metadata(folder)
    except InputError:
        return False
    return True


def groups_in(group: Path) -> Iterator[Path]:
    """Yield the groups right inside a group, by name."""
    for child in _folders(group):
        if (child / ".zgroup").exists() or _mapping(child / "zarr.json").get(
            "node_type"
        ) == "group":
            yield child


def _folders(group: Path) -> list[Path]:
    if not group.is_dir():
        return []
    return sorted(p for p in group.iterdir() if not p.name.startswith(".") and p.is_dir())


def enter(groups: Sequence[Group], array: Path, metadata: Path) -> None:
    """Enter an array and the groups around it into consolidated metadata, where a group has them.

    Parameters
    ----------
    groups : sequence of Group
        Those around the array.
    array : Path
        Where it will be.
    metadata : Path
        The folder in which its metadata are now.
    """
    nodes = {**{group.where: group.where for group in groups}, array: metadata}
    for group in groups:
        file = group.where / (".zmetadata" if group.zarr_format == 2 else "zarr.json")
        data = _mapping(file)
        holder = data if group.zarr_format == 2 else data.get("consolidated_metadata")
        table = holder.get("metadata") if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or not isinstance(table, dict):
            continue
        for node, stored in nodes.items():
            if node.is_relative_to(group.where):
                name = node.relative_to(group.where).as_posix()
                table.update(_entries(name, stored, group.zarr_format))
        # zarr reads only the last run of a group's nodes: all have to stand together.
        holder["metadata"] = dict(sorted(table.items(), key=lambda e: (e[0].count("/"), e[0])))
        _store(file, data)


def _entries(name: str, stored: Path, zarr_format: int) -> dict[str, Any]:
    """Return what consolidated metadata say of a node, by key."""
    if zarr_format == 3:
        node = _mapping(stored / "zarr.json")
        node.pop("consolidated_metadata", None)
        return {} if name == "." else {name: node}
    prefix = "" if name == "." else f"{name}/"
    kinds = [kind for kind in (".zgroup", ".zarray") if (stored / kind).exists()]
    return {f"{prefix}{kind}": _mapping(stored / kind) for kind in (*kinds, ".zattrs")}


def _mapping(file: Path) -> dict[str, Any]:
    """Return what a metadata file holds, nothing if it is missing or damaged."""
    try:
        return read_metadata(file) or {}
    except InputError:
        return {}


def _store(file: Path, data: Mapping[str, Any]) -> None:
    write_atomically(file, json.dumps(data, indent=2).encode(), durable=False)
