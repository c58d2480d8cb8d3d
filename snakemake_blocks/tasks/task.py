"""One blockwise operation, as a user declares it."""

from __future__ import annotations

import datetime
import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
from funlib.geometry import Roi
from numpy.typing import NDArray

from snakemake_blocks.errors import SpecError, TilingError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.dtypes import holds, number_type
from snakemake_blocks.tasks.resources import amount_problem

__all__ = ["RESERVED_RESOURCES", "After", "Call", "Chunks", "Read", "SourceChange", "Task", "Write"]

Function = Callable[..., Any] | str

RESERVED_RESOURCES = frozenset(
    {"attempt", "self", *dir(list), *dir(dict), *dir(type), *keyword.kwlist}
)
"""Every rule sets ``attempt`` itself, and Snakemake keeps resources in a list with keys."""


class Call(StrEnum):
    """How the function of a task is called."""

    BLOCK = "block"
    ARRAYS = "arrays"
    WORKER = "worker"


class Chunks(StrEnum):
    """What to do when two blocks would write one storage chunk."""

    COLOR = "color"
    REFUSE = "refuse"


class SourceChange(StrEnum):
    """What to do with results when the source of the function has changed since."""

    WARN = "warn"
    RERUN = "rerun"


@dataclass(frozen=True, slots=True)
class After:
    """A task to wait for; ``whole``: every block waits for all of it, whatever the block reads."""

    task: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """An array that a task reads; outside of it ``fill`` is read, or nothing without one."""

    array: ArrayInfo
    fill: int | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", _plain(self.fill))


@dataclass(frozen=True, slots=True)
class Write:
    """An array that a task writes."""

    array: ArrayInfo


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One blockwise operation over a region.

    The first thirteen parameters and their defaults are daisy's.

    Parameters
    ----------
    task_id : str
        Any text; unique in a pipeline.
    total_roi : Roi
        The region that all blocks together may READ (context included), in world units.
    read_roi, write_roi : Roi
        One block. Only their sizes and relative position matter; ``read_roi`` has to contain
        ``write_roi``.
    process_function : callable or str
        ``f(block)``, a class (built once per worker, then called per block), a function without
        arguments that uses ``Client``, or ``"module:name"``.
    check_function : callable, str or pair of them, optional
        ``f(block) -> bool``: before the block (true: it is done already); in a pair, the second
        one after the block (false: the attempt failed).
    init_callback_fn : callable, optional
        Called once in every worker before its first block; if it has a parameter, with a mapping
        that holds ``hostname``, ``task_id``, ``worker_id`` (a number from 0) and ``logdir``.
    read_write_conflict : bool
        Never run two blocks at once of which one reads what the other writes.
    num_workers : int
        Processes of this task at any time, over all jobs.
    max_retries : int
        Attempts of a block in one run, less one.
    fit : {"valid", "overhang", "shrink"}
        What to do where the region is not a multiple of the block.
    timeout : float, optional
        Seconds that one attempt may take.
    upstream_tasks : sequence of Task, optional
        Tasks whose results this one reads.
    max_workers : int, optional
        daisy 2's name of ``num_workers``.
    skip_mask : ndarray of bool, optional
        As in daisy 2, one value per block of the grid: True where there is nothing to do.
    requires : mapping of str to int
        As in daisy 2, what one worker takes of the budgets that ``run_blockwise(...,
        resources=...)`` gives, e.g. ``{"gpu": 1}``; added to ``resources``.
    after : sequence of str or After
        Names of upstream tasks, beside ``upstream_tasks``. Of these a block waits for what its
        read Roi meets; with ``After(name, whole=True)`` for every block of the task.
    present : ndarray of bool, optional
        Per block of the grid: False where it is masked.

    Raises
    ------
    SpecError
        With all that is wrong with the task.

    Notes
    -----
    ``call``, ``params``, ``reads``, ``writes``, ``mask``, ``workers``, ``threads``,
    ``blocks_per_job``, ``chunks``, ``source`` and ``resources`` are as in pipeline.yaml; arrays are
    given as ``Read``, ``Write`` and ``ArrayInfo``, and ``mask`` goes with ``present`` made from it.
    """

    task_id: str
    total_roi: Roi
    read_roi: Roi
    write_roi: Roi
    process_function: Function
    check_function: Function | tuple[Function | None, Function | None] | None = None
    init_callback_fn: Function | None = None
    read_write_conflict: bool = True
    num_workers: int | None = 1
    max_retries: int = 2
    fit: Fit | str = Fit.VALID
    timeout: float | None = None
    upstream_tasks: Sequence[Task] | None = None
    _: KW_ONLY
    max_workers: int | None = None
    skip_mask: NDArray[np.bool_] | None = None
    requires: Mapping[str, int] = field(default_factory=dict)
    call: Call | str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    reads: Mapping[str, Read] = field(default_factory=dict)
    writes: Mapping[str, Write] = field(default_factory=dict)
    mask: ArrayInfo | None = None
    present: NDArray[np.bool_] | None = None
    workers: int = 1
    threads: int = 1
    blocks_per_job: int | Sequence[int] | str = "auto"
    chunks: Chunks | str = Chunks.COLOR
    source: SourceChange | str = SourceChange.WARN
    resources: Mapping[str, int | float | str] = field(default_factory=dict)
    after: Sequence[str | After] = ()

    def __post_init__(self) -> None:
        self._take_in_defaults()
        self._take_in_masks()
        problems = self.problems()
        if problems:
            raise SpecError(
                [f"task {comment(self.task_id)}: {name}: {text}" for name, text in problems]
            )
        for name, kind in (("fit", Fit), ("chunks", Chunks), ("source", SourceChange)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in ("total_roi", "read_roi", "write_roi"):
            object.__setattr__(self, name, getattr(self, name).copy())
        object.__setattr__(self, "call", Call(self.call or _call_of(self.process_function)))
        needed = {name: count * self.workers for name, count in self.requires.items()}
        object.__setattr__(self, "resources", {**self.resources, **needed})

    def _take_in_defaults(self) -> None:
        """Take None for an optional argument as its default; of workers it means no limit."""
        for argument in fields(self):
            value = getattr(self, argument.name)
            if value is not None or argument.name == "num_workers":
                object.__setattr__(self, argument.name, _plain(value))
            elif argument.default is not MISSING:
                object.__setattr__(self, argument.name, argument.default)
            elif argument.default_factory is not MISSING:
                object.__setattr__(self, argument.name, argument.default_factory())

    def _take_in_masks(self) -> None:
        """Say with ``present`` what ``skip_mask`` says, so that one of them tells all."""
        given = {n: m for n in ("present", "skip_mask") if (m := getattr(self, n)) is not None}
        if len(given) > 1:
            raise SpecError(
                [f"task {comment(self.task_id)}: skip_mask: there is present, too; give one"]
            )
        for name, mask in given.items():
            flags = _as_flags(mask)
            if flags is None:
                text = "must be an array of bool, or of numbers that are 0 where it is false"
                raise SpecError([f"task {comment(self.task_id)}: {name}: {text}"])
            object.__setattr__(self, "present", flags if name == "present" else ~flags)
            object.__setattr__(self, "skip_mask", None)

    def problems(self) -> list[tuple[str, str]]:
        """Return what is wrong, as (parameter, explanation)."""
        wrong_fit = _enum_problems("fit", self.fit, Fit)
        found = [
            *wrong_fit,
            *_enum_problems("chunks", self.chunks, Chunks),
            *_enum_problems("source", self.source, SourceChange),
            *(_enum_problems("call", self.call, Call) if self.call else []),
            *_count_problems(self),
            *_requires_problems(self),
            *_json_problems(self),
            *_resource_problems(self),
        ]
        geometry = [] if wrong_fit else _geometry_problems(self)
        if wrong_fit or geometry:
            return found + geometry
        return found + _array_problems(self)

    @property
    def lower(self) -> Index:
        """Context below the write Roi, in world units."""
        return tuple(int(x) for x in self.write_roi.begin - self.read_roi.begin)

    @property
    def upper(self) -> Index:
        """Context above the write Roi, in world units."""
        return tuple(int(x) for x in self.read_roi.end - self.write_roi.end)

    @property
    def write_extent(self) -> Box:
        """The region to write: ``total_roi`` without the context, in world units.

        With ``fit`` shrink, and a fill for every read, its end is rounded up to whole voxels of the
        arrays written that begin in step with it; a last voxel may reach outside of what is read.
        """
        found = Box.from_roi(self.total_roi).grow(
            [-x for x in self.lower], [-x for x in self.upper]
        )
        filled = all(read.fill is not None for read in self.reads.values())
        if self.fit != Fit.SHRINK or not self.reads or not filled:
            return found
        return _whole_voxels(found, [write.array for write in self.writes.values()])

    @property
    def grid(self) -> Grid:
        """The tiling; O(axes)."""
        return Grid.from_write_extent(
            self.write_extent,
            block_size=[int(x) for x in self.write_roi.shape],
            lower=self.lower,
            upper=self.upper,
            fit=Fit(self.fit),
        )

    @property
    def checks(self) -> tuple[Function | None, Function | None]:
        """The checks before and after a block."""
        if isinstance(self.check_function, tuple):
            return self.check_function
        return self.check_function, None

    @property
    def waits(self) -> tuple[After, ...]:
        """What ``after`` says, plain names written out."""
        return tuple(up if isinstance(up, After) else After(up) for up in self.after)

    @property
    def whole(self) -> frozenset[str]:
        """Names of the tasks of which every block waits for all."""
        return frozenset(up.task for up in self.waits if up.whole)

    @property
    def most_workers(self) -> int | None:
        """Processes of this task over all jobs, None for no limit."""
        return self.max_workers if self.max_workers is not None else self.num_workers


def _plain(value: Any) -> Any:
    """Return a number of numpy as Python's, which files take; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _as_flags(mask: Any) -> NDArray[np.bool_] | None:
    """Return a mask as an array of bool; None if some of it is no number."""
    values = np.asarray(mask)
    is_known = values.dtype.kind in "biuf" and not np.isnan(values).any()
    return values.astype(bool) if is_known else None


def _whole_voxels(extent: Box, arrays: Sequence[ArrayInfo]) -> Box:
    """Return an extent with its end rounded up to whole voxels of arrays in step with its begin."""
    step = (1,) * extent.ndim
    for array in arrays:
        sides = zip(extent.begin, array.offset, array.voxel_size, strict=False)
        if array.ndim == extent.ndim and all((b - o) % v == 0 for b, o, v in sides):
            step = tuple(map(math.lcm, step, array.voxel_size))
    pairs = zip(extent.begin, extent.end, step, strict=True)
    return Box(extent.begin, tuple(e + (b - e) % v for b, e, v in pairs))


def _call_of(function: Function) -> Call:
    """Return how a Python function wants to be called: without arguments it is a worker."""
    if isinstance(function, str) or inspect.isclass(function):
        return Call.BLOCK
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # builtins without a signature take the block
        return Call.BLOCK
    # A partial leaves the names that it binds behind, as arguments that only go by keyword.
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    takes_block = any(p.kind not in by_name for p in parameters.values())
    return Call.BLOCK if takes_block else Call.WORKER


def _enum_problems(name: str, value: Any, kind: type[StrEnum]) -> list[tuple[str, str]]:
    names = [str(member) for member in kind]
    if str(value) in names:
        return []
    return [(name, f"{value!r} is not one of {', '.join(names)}")]


def _count_problems(task: Task) -> list[tuple[str, str]]:
    least = {"max_retries": 0, "workers": 1, "threads": 1, "num_workers": 1, "max_workers": 1}
    found = []
    for name, low in least.items():
        value = getattr(task, name)
        if value is not None and value < low:
            found.append((name, f"must be at least {low}, got {value}"))
    if task.timeout is not None and task.timeout <= 0:
        found.append(("timeout", f"must be positive, got {task.timeout}; leave it out for none"))
    return found


def _requires_problems(task: Task) -> list[tuple[str, str]]:
    """Budgets are Snakemake resources, whole numbers under a name that Snakemake takes."""
    found = []
    count: Any
    for name, count in task.requires.items():
        place = f"requires.{name}"
        if not _RESOURCE.fullmatch(name) or name in RESERVED_RESOURCES:
            found.append((place, "cannot be the name of a resource; choose another"))
        elif isinstance(count, bool) or not isinstance(count, int) or count < 0:
            found.append((place, f"must be a whole number, got {count!r}"))
        elif name in task.resources and task.resources[name] != count * task.workers:
            found.append((place, "is among resources, too; give it once"))
    return found


def _json_problems(task: Task) -> list[tuple[str, str]]:
    """Parameters travel to the workers in plan.json, and have to arrive as they were given."""
    return [
        (f"params.{name}", problem)
        for name, value in task.params.items()
        if (problem := _changed_by_json(value))
    ]


def _changed_by_json(value: Any, depth: int = 0) -> str:
    """Return why a value would not be the same after a way through JSON, empty if it would."""
    kind = type(value)
    if value is None or kind in (bool, float):
        return ""
    if kind is int:
        return "" if value.bit_length() <= _MOST_BITS else "has too many digits to be written"
    if kind is str:
        return "" if value.isascii() or _is_text(value) else "half of a surrogate pair is no text"
    if depth > _DEEPEST:
        return "is nested too deeply, or holds itself"
    if kind is list:
        inner = ((f"[{n}]", below) for n, below in enumerate(value))
    elif kind is dict:
        for key in value:
            if type(key) is not str or not _is_text(key):
                return f"key {key!r:.60} would arrive as text; use keys of text (quotes in YAML)"
        inner = ((f"[{key!r:.60}]", below) for key, below in value.items())
    else:
        advice = _INSTEAD.get(kind, "use numbers, text, lists and mappings")
        return f"{value!r:.60} of the type {kind.__name__} would arrive as another; {advice}"
    found = ((place, _changed_by_json(below, depth + 1)) for place, below in inner)
    place, problem = next(((p, text) for p, text in found if text), ("", ""))
    glue = "" if not problem or problem.startswith("[") else ": "
    return f"{place}{glue}{problem}"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_MOST_BITS = 1000
_DEEPEST = 50
_INSTEAD: Mapping[type, str] = {
    tuple: "give a list, and make the tuple in the function",
    set: "give a list, and make the set in the function",
    bytes: "give text, and encode it in the function",
    datetime.date: "give text (quotes in YAML), and parse it in the function",
    datetime.datetime: "give text (quotes in YAML), and parse it in the function",
}


def _resource_problems(task: Task) -> list[tuple[str, str]]:
    """Names of resources stand in the Snakefile, and Snakemake takes numbers and text."""
    found = []
    value: Any
    for name, value in task.resources.items():
        place = f"resources.{name!s:.60}"
        if type(name) is not str or not _RESOURCE.fullmatch(name) or name in RESERVED_RESOURCES:
            found.append((ascii(place)[1:-1], "cannot be the name of a resource; choose another"))
        elif name == "tmpdir" and type(value) is not str:
            found.append((place, f"must be the path of a folder, got {value!r:.60}"))
        elif type(value) not in (int, float, str):
            found.append((place, f"must be a number or text, got {value!r:.60}"))
        elif isinstance(value, str):
            if not value.isprintable():
                found.append((place, "has control characters in it; write plain text"))
            elif problem := amount_problem(name, value):
                found.append((place, problem))
        elif not 0 <= value < 2**53:
            found.append((place, f"must be between 0 and 2**53, got {value:.3g}"))
    for name in ("mem", "disk"):
        if name in task.resources and f"{name}_mb" in task.resources:
            found.append((f"resources.{name}", f"and {name}_mb are the same; give one of them"))
    return found


_RESOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _geometry_problems(task: Task) -> list[tuple[str, str]]:
    rois = {n: getattr(task, n) for n in ("total_roi", "read_roi", "write_roi")}
    for name, roi in rois.items():
        if not isinstance(roi, Roi) or roi.unbounded:
            return [(name, f"must be a bounded Roi, got {roi!r}")]
    found = [
        (name, f"{roi.dims} sizes for a {task.total_roi.dims}-D roi; give one per axis")
        for name, roi in rois.items()
        if roi.dims != task.total_roi.dims
    ]
    if found:
        return found
    if any(w <= 0 for w in task.write_roi.shape):
        return [("write_roi", f"sizes must be positive, got {_text(task.write_roi.shape)}")]
    if any(c < 0 for c in task.lower + task.upper):
        return [("read_roi", f"{task.read_roi} does not contain the write Roi {task.write_roi}")]
    try:
        grid = task.grid
    except TilingError as error:
        return [("total_roi", str(error))]
    blocks = math.prod(-(-(axis.end - axis.begin) // axis.step) for axis in grid.axes)
    if blocks > _MOST_BLOCKS:
        return [
            (
                "write_roi",
                f"{_text(grid.block_size)} makes {blocks:.2g} blocks of the region of "
                f"{_text(task.write_extent.shape)}, more than can be planned ({_MOST_BLOCKS:.0e}); "
                "give the sizes of blocks in world units (voxels times voxel size)",
            )
        ]
    if blocks == 0:
        return [
            (
                "total_roi",
                f"no block of {_text(grid.block_size)} fits into {_text(task.write_extent.shape)}"
                f" with fit {task.fit}; use a smaller block or fit: shrink",
            )
        ]
    if task.present is not None and task.present.shape != grid.shape:
        found.append(
            (
                "present",
                f"tells of {_text(task.present.shape)} blocks, the grid has {_text(grid.shape)}",
            )
        )
    return found + _numbering_problems(grid) + _batch_problems(task, grid)


# Numbers of blocks, and of what lies between them, stay below 2**63.
_MOST_BLOCKS = 2**62


def _numbering_problems(grid: Grid) -> list[tuple[str, str]]:
    """Ledgers number blocks from the world's origin, with 32 bits for an axis."""
    return [
        (
            "total_roi",
            f"blocks are numbered {first:,} to {first + len(axis) - 1:,} along axis {a}, more than "
            "32 bits can tell; use larger blocks, or an offset nearer to 0",
        )
        for a, axis in enumerate(grid.axes)
        if (first := axis.begin // axis.step) < -(2**31) or first + len(axis) > 2**31
    ]


def _batch_problems(task: Task, grid: Grid) -> list[tuple[str, str]]:
    value: Any = task.blocks_per_job
    if isinstance(value, str):
        wrong = value != "auto"
    elif not isinstance(value, Sequence):
        wrong = not isinstance(value, int) or value < 1
    elif len(value) != grid.ndim:
        return [
            ("blocks_per_job", f"{len(value)} counts for a {grid.ndim}-D roi; give one per axis")
        ]
    else:
        wrong = any(x < 1 for x in value)
    return [("blocks_per_job", f"{value!r} is neither auto nor positive")] if wrong else []


def _array_problems(task: Task) -> list[tuple[str, str]]:
    found = []
    for kind in ("reads", "writes"):
        for name, use in getattr(task, kind).items():
            place, array = f"{kind}.{name}", use.array
            if not array.exists and number_type(array.dtype) != array.dtype:
                found.append(
                    (f"{place}.dtype", f"{array.dtype!r} is not numpy's name of a type of numbers")
                )
            if array.ndim != task.total_roi.dims:
                found.append(
                    (
                        place,
                        f"{array.path} has {array.ndim} spatial axes, the roi has "
                        f"{task.total_roi.dims}",
                    )
                )
                continue
            found += _multiple_problems(task, place, array)
            found += _fill_problems(place, use) if isinstance(use, Read) else []
    if task.mask is not None and task.mask.ndim != task.total_roi.dims:
        found.append(
            (
                "mask",
                f"{task.mask.path} has {task.mask.ndim} axes, the roi has {task.total_roi.dims}",
            )
        )
    if task.call == Call.ARRAYS and not task.writes:
        found.append(("writes", "call: arrays needs at least one array to write"))
    return found


def _fill_problems(place: str, read: Read) -> list[tuple[str, str]]:
    fill: Any = read.fill
    if fill is None or (isinstance(fill, int | float) and holds(read.array.dtype, fill)):
        return []
    return [(f"{place}.fill", f"{read.array.dtype} of {read.array.path} cannot hold {fill!r}")]


def _multiple_problems(task: Task, place: str, array: ArrayInfo) -> list[tuple[str, str]]:
    """Blocks and contexts have to be whole voxels of every array."""
    found = []
    lengths = {
        "write_roi": tuple(task.write_roi.shape),
        "read_roi": tuple(max(x) for x in zip(task.lower, task.upper, strict=True)),
    }
    lengths["read_roi"] = tuple(
        low if low % v else up
        for low, up, v in zip(task.lower, task.upper, array.voxel_size, strict=True)
    )
    words = {"write_roi": "block size", "read_roi": "context"}
    for name, sizes in lengths.items():
        if any(size % v for size, v in zip(sizes, array.voxel_size, strict=True)):
            found.append(
                (
                    name,
                    f"{words[name]} {_text(sizes)} is not a multiple of the voxel size "
                    f"{_text(array.voxel_size)} of {array.path} ({place})",
                )
            )
    begin, end = task.write_extent.begin, task.write_extent.end
    edges = begin if task.fit != Fit.SHRINK else begin + end
    offsets = array.offset if task.fit != Fit.SHRINK else array.offset * 2
    sizes = array.voxel_size if task.fit != Fit.SHRINK else array.voxel_size * 2
    if any((e - o) % v for e, o, v in zip(edges, offsets, sizes, strict=True)):
        found.append(
            (
                "total_roi",
                f"the region to write, {_text(begin)} to {_text(end)}, cuts voxels of {array.path}"
                f" ({place}) with offset {_text(array.offset)} and voxel size "
                f"{_text(array.voxel_size)}; make it whole voxels",
            )
        )
    return found


def _text(numbers: Sequence[int]) -> str:
    return "(" + ", ".join(str(int(n)) for n in numbers) + ")"
