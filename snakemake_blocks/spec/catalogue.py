"""The arrays that a pipeline names, and what the tasks that share some of them count in."""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.spec.schema import (
    FormModel,
    RoiModel,
    SidesModel,
    TableReadModel,
    TaskModel,
    VoxelContextModel,
    VoxelRoiModel,
    VoxelSizesModel,
)
from snakemake_blocks.storage.arrays import stored_array
from snakemake_blocks.storage.foreign import NONE, Correction
from snakemake_blocks.storage.lattice import Lattice, StoredArray
from snakemake_blocks.system.location import Names
from snakemake_blocks.tasks.operation import Call

__all__ = ["Catalogue", "paths_of", "read_paths", "roi_path", "tables_read"]


@dataclass(slots=True)
class Catalogue:
    """The arrays of a pipeline, by their places.

    Parameters
    ----------
    folder : Path
        Where paths begin.
    models : mapping
        The usable forms by name of the task.
    written : sequence of (str, str)
        Path and task of every array written, also by tasks without a usable form.
    unit : str
        Full name of the unit of length that world units are, empty where none is declared.
    """

    folder: Path
    models: Mapping[str, FormModel]
    written: Sequence[tuple[str, str]]
    unit: str = ""
    problems: list[str] = field(default_factory=list)
    _names: Names = field(init=False)
    _writers: dict[str, str] = field(init=False)
    _known: dict[str, StoredArray | InputError | None] = field(default_factory=dict, init=False)
    _said: set[str] = field(default_factory=set, init=False)
    _corrections: dict[str, Correction] = field(default_factory=dict, init=False)
    _lattices: dict[str, Lattice] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._names = Names(self.folder)
        for path, _ in self.written:
            self.plain(path)  # the first task's name of an array is the one that counts
        self._writers = {self.plain(path): name for path, name in reversed(self.written)}
        for name, model in self.models.items():
            for path, correction in model.corrections.items():
                if self._corrections.setdefault(self.plain(path), correction) != correction:
                    text = f"{path} is corrected in another way by another task; give one"
                    self.say(f"tasks.{name}.params", text)

    def say(self, place: str, text: str) -> None:
        """Note a problem."""
        self.problems.append(f"{place}: {text}")

    def plain(self, path: str) -> str:
        """Return the one name in plans of the place that a path leads to."""
        shown = os.path.normpath(path)
        folder = os.path.abspath(self.folder)
        inside = os.path.isabs(shown) and os.path.commonpath([shown, folder]) == folder
        if "://" in path or "\0" in path:
            return shown  # no place of ours; it is refused where it is looked up
        return self._names.of(path, os.path.relpath(shown, folder) if inside else shown)

    def writer(self, path: str) -> str | None:
        """Return the task that writes an array."""
        return self._writers.get(self.plain(path))

    def keep_written(self, task: str, paths: Iterable[str]) -> None:
        """Forget all that a task was to write but for some arrays."""
        kept = set(map(self.plain, paths))
        for path in [p for p, writer in self._writers.items() if writer == task and p not in kept]:
            del self._writers[path]

    def array(self, path: str, place: str) -> StoredArray | None:
        """Return an array that exists or will be made; a problem is noted if it is neither.

        Of an array that causes a problem elsewhere nothing is said again.
        """
        found = self.existing(path, place)
        path = self.plain(path)
        if found is None and not self.is_unusable(path) and path not in self._writers:
            self.say(place, f"{path}: there is no array, and no task writes one there")
            self._said.add(path)
        return found

    def existing(self, path: str, place: str) -> StoredArray | None:
        """Return an array that exists or was declared; a problem is noted if it is unusable."""
        found = self._look_up(path)
        if not isinstance(found, InputError):
            return found
        if not self.is_unusable(plain := self.plain(path)):
            self.say(place, str(found))
            self._said.add(plain)
        return None

    def is_unusable(self, path: str) -> bool:
        """Tell whether a problem of the array at a (plain) path was noted before."""
        return path in self._said

    def declare(self, array: StoredArray) -> None:
        """Remember an array that will be made."""
        self._known[array.path] = array

    @property
    def named_axes(self) -> frozenset[str]:
        """The axes for which the pipeline names a size: blocks are cut along them."""
        return frozenset(name for model in self.models.values() for name in _names_in(model))

    def lattice(self, task: str) -> Lattice:
        """Return what a task counts in, with all tasks that it has to do with."""
        if not self._lattices:
            self._lattices = dict(self._all_lattices())
        return self._lattices[task]

    def _all_lattices(self) -> Iterator[tuple[str, Lattice]]:
        for tasks in self._groups():
            models = [self.models[name] for name in tasks]
            paths = dict.fromkeys(path for model in models for path in paths_of(model))
            stored = [found for path in paths if (found := self._stored(path)) is not None]
            rulers = [self._stored(path) for model in models for path in paths_of(model)[:1]]
            with_world = any(ruler is not None and ruler.is_whole for ruler in rulers)
            lattice = Lattice.of([array.measured for array in stored], with_world=with_world)
            yield from ((name, lattice) for name in tasks)

    def _groups(self) -> list[list[str]]:
        """Return the tasks that have to do with one another, by arrays or because one waits."""
        group = {name: {name} for name in self.models}
        for once in filter(self._measures_nothing, self.models):
            del group[once]
        users: dict[str, str] = {}
        for name, model in self.models.items():
            if self._measures_nothing(name):
                continue
            others = [users.setdefault(self.plain(path), name) for path in paths_of(model)]
            waits = [*(up.task for up in model.waits), *tables_read(model)]
            for other in (*others, *(up for up in waits if up in group)):
                group[name] |= group[other]
                for member in group[name]:
                    group[member] = group[name]
        found: dict[int, list[str]] = {}
        for name in group:
            found.setdefault(id(group[name]), []).append(name)
        return list(found.values())

    def _measures_nothing(self, task: str) -> bool:
        model = self.models[task]
        return isinstance(model, TaskModel) and model.kind is Call.ONCE and not model.writes

    def _stored(self, path: str) -> StoredArray | None:
        found = self._look_up(path)
        return None if isinstance(found, InputError) else found

    def _look_up(self, path: str) -> StoredArray | InputError | None:
        plain = self.plain(path)
        if plain not in self._known:
            try:
                if "://" in path:
                    raise InputError(f"{path}: is remote; only local paths work yet")
                correction = self._corrections.get(plain, NONE)
                self._known[plain] = stored_array(
                    plain, self.folder, unit=self.unit, correction=correction
                )
            except InputError as error:
                self._known[plain] = error
        found = self._known[plain]
        if found is None:
            del self._known[plain]  # it may be declared
        return found


def paths_of(model: FormModel) -> list[str]:
    """Return all arrays that a form names, the one whose voxels are counted first."""
    reads = read_paths(model, model.aside)
    roi = list(filter(None, [roi_path(model.roi)]))
    mask = [model.mask] if model.mask is not None else []
    return [*roi, *reads, *model.written_paths, *mask]


def roi_path(roi: str | RoiModel | VoxelRoiModel | None) -> str | None:
    """Return the array whose region, or whose voxels, a form names; None if it names none."""
    return roi.array if isinstance(roi, VoxelRoiModel) else roi if isinstance(roi, str) else None


def read_paths(model: FormModel, but: Sequence[str] = ()) -> list[str]:
    """Return the arrays that a form reads, but for some."""
    reads = (read for name, read in model.reads.items() if name not in but)
    arrays = (read for read in reads if not isinstance(read, TableReadModel))
    return [read if isinstance(read, str) else read.array for read in arrays]


def tables_read(model: FormModel) -> list[str]:
    """Return the tasks of which a form reads tables."""
    reads = (read for read in model.reads.values() if isinstance(read, TableReadModel))
    return [read.table.partition(".")[0] for read in reads]


def _names_in(model: FormModel) -> Iterable[str]:
    """Yield the axes that a form names sizes of."""
    for value in (model.block_size, getattr(model, "context", None)):
        if value is None:
            continue
        inner = value.voxels if isinstance(value, VoxelSizesModel | VoxelContextModel) else value
        sides = [inner.lower, inner.upper] if isinstance(inner, SidesModel) else [inner]
        yield from (name for side in sides if isinstance(side, Mapping) for name in side)
