"""Whether there is room for the files and bytes that a plan will make, before it makes any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snakemake_blocks.plan.estimates import files_of, outputs_of
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.system.room import Room, room_at
from snakemake_blocks.tasks.array_info import ArrayInfo, Compressor

__all__ = ["room_findings"]

# Labels shrink so far, images much less: above that there is no hope.
_MOST_COMPRESSION = 20


@dataclass(frozen=True, slots=True)
class _Need:
    """What something to be made takes."""

    key: str
    files: int
    bytes: int
    is_compressed: bool = True


def room_findings(plan: Plan, folder: Path, root: Path) -> tuple[list[str], list[str]]:
    """Return violations and warnings: what does not fit its filesystem, and what may not.

    Only arrays that are not there yet are looked at, and a run directory without a plan: of others
    it is not known what they still take.

    Parameters
    ----------
    plan : Plan
        Just made: which arrays are there is not kept in its file.
    folder, root : Path
        Where paths begin, and the run directory.
    """
    needs: defaultdict[int, list[_Need]] = defaultdict(list)
    rooms: dict[int, Room] = {}
    for path, need in _needs(plan, folder, root):
        room = room_at(path)
        rooms[room.device] = room
        needs[room.device].append(need)
    violations: list[str] = []
    warnings: list[str] = []
    for device, here in needs.items():
        room = rooms[device]
        files = sum(need.files for need in here)
        if room.files is not None and files > room.files:
            most = max(here, key=lambda need: need.files)
            violations.append(
                f"{most.key}: about {files:,} files are to be made at {room.where}, which has "
                f"room for {room.files:,}; use larger blocks, or shards: auto"
            )
        least = sum(n.bytes // _MOST_COMPRESSION if n.is_compressed else n.bytes for n in here)
        total = sum(need.bytes for need in here)
        if total > room.bytes:
            most = max(here, key=lambda need: need.bytes)
            text = (
                f"{most.key}: {total:,} bytes before compression are to be written at "
                f"{room.where}, which has room for {room.bytes:,}"
            )
            (violations if least > room.bytes else warnings).append(text)
    return violations, warnings


def _needs(plan: Plan, folder: Path, root: Path) -> Iterator[tuple[Path, _Need]]:
    is_new = not RunPaths(root).plan.exists()
    for task in plan.tasks.values():
        key = f"tasks.{task.name}"
        if is_new:
            yield root, _Need(key, files_of(task), 0)
        outputs = {output.path: output for output in outputs_of(task)}
        for name, write in task.operation.writes.items():
            array = write.array
            if not array.exists:
                found = outputs[array.path]
                yield (
                    folder / array.path,
                    _Need(f"{key}.writes.{name}", found.files, found.bytes, _shrinks(array)),
                )


def _shrinks(array: ArrayInfo) -> bool:
    return array.making is None or array.making.compressor is not Compressor.NONE
