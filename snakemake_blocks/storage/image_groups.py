"""OME-Zarr: groups that name the images below them, ``labels`` and wells of plates.

A label image has to have as many levels as its image, and readers of version 0.5 open neither the
image nor the plate around it where ``labels`` names one with fewer. So it is named when the last of
its levels is made, and levels beyond those of the image are none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_blocks.storage.groups import Group, groups_around
from snakemake_blocks.storage.multiscales import images_of, paths_of_levels

__all__ = ["Label", "list_field", "unlisted_levels", "with_ome"]


@dataclass(frozen=True, slots=True)
class Label:
    """A group that is a label image, or becomes one.

    Parameters
    ----------
    group : Group
        The group.
    holder : Group
        The group ``labels`` above it.
    most : int or None
        Levels of its image, where readers demand as many of the label.
    """

    group: Group
    holder: Group
    most: int | None

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Label | None:
        """Return the label image that the last of some groups is, None if it is none."""
        at = next((n for n, g in enumerate(groups[:-1]) if g.where.name == "labels"), None)
        if at is None:
            return None
        is_new = at > 0 and groups[at].zarr_format == 3
        return cls(groups[-1], groups[at], (len(_levels(groups[at - 1])) if is_new else 0) or None)

    @property
    def name(self) -> str:
        """What ``labels`` calls it."""
        return self.group.where.relative_to(self.holder.where).as_posix()

    @property
    def levels(self) -> list[str]:
        """The paths of the levels that it lists."""
        return _levels(self.group)

    @property
    def lacking(self) -> int:
        """How many more levels its image has, where readers demand as many."""
        return max(0, (self.most or 0) - len(self.levels))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What tells that it is a label image."""
        version = {} if self.group.zarr_format == 3 else {"version": "0.4"}
        up = "../" * (len(Path(self.name).parts) + 1)
        made = {**version, "source": {"image": up}}
        found: Mapping[str, Any] = _ome(self.group).get("image-label", made)
        return found

    def list(self) -> None:
        """Name it in ``labels``, unless levels are lacking; without that key there is no group."""
        listed = _ome(self.holder).get("labels", [])
        if isinstance(listed, list) and self.name not in listed:
            more = [] if self.lacking else [self.name]
            _put(self.holder, {"labels": [*listed, *more]})


def list_field(well: Group, name: str) -> None:
    """Name an image in the group above it, if that is the well of a plate."""
    known = _ome(well).get("well")
    images = known.get("images") if isinstance(known, dict) else None
    if not isinstance(known, dict) or not isinstance(images, list):
        return
    if name not in [image.get("path") for image in images if isinstance(image, dict)]:
        _put(well, {"well": {**known, "images": [*images, {"path": name}]}})


def unlisted_levels(paths: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield what to say of arrays of label images that no viewer finds.

    Parameters
    ----------
    paths : iterable of str
        The arrays.
    folder : Path
        Where their paths begin.
    """
    for path in paths:
        label = Label.of(groups_around(folder / path))
        if label is None or not label.levels or not label.most:
            continue
        if Path(path).name not in label.levels:
            yield f"{path}: is no level of {label.name}, whose image has only {label.most}"
        elif label.lacking and Path(path).name == label.levels[-1]:
            yield (
                f"{path}: viewers find {label.name} when it has as many levels as its image, "
                f"{label.most}; write {label.lacking} more, each reduced from the one before"
            )


def with_ome(
    attributes: Mapping[str, Any], more: Mapping[str, Any], *, in_ome: bool
) -> dict[str, Any]:
    """Return attributes with more OME-Zarr metadata, where the version has them."""
    if not in_ome:
        return {**attributes, **more}
    ome = attributes.get("ome")
    ome = ome if isinstance(ome, dict) else {}
    return {**attributes, "ome": {"version": "0.5", **ome, **more}}


def _ome(group: Group) -> Mapping[str, Any]:
    """Return the OME-Zarr metadata of a group, where its version has them."""
    attributes = group.attributes
    found = attributes.get("ome") if group.zarr_format == 3 else attributes
    return found if isinstance(found, dict) else {}


def _put(group: Group, more: Mapping[str, Any]) -> None:
    group.put(with_ome(group.attributes, more, in_ome=group.zarr_format == 3))


def _levels(group: Group) -> list[str]:
    """Return the paths of the levels of the image that a group is."""
    entries, _ = images_of(group.attributes)
    return paths_of_levels(entries[0]) if entries else []
