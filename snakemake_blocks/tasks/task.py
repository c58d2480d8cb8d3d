"""One blockwise operation over a region, as a user declares it in daisy's words."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from funlib.geometry import Roi
from numpy.typing import NDArray

from snakemake_blocks.errors import SpecError, TilingError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.borders import Border
from snakemake_blocks.tasks.budget import Budget
from snakemake_blocks.tasks.dtypes import holds, number_type
from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.keys import InvalidKeysError, Problem, not_among
from snakemake_blocks.tasks.operation import Call, Operation, Read, Write
from snakemake_blocks.tasks.resources import is_resource_name
from snakemake_blocks.tasks.scale import WORLD, Scale
from snakemake_blocks.tasks.tables import Table, TableRead

__all__ = ["PARAMETERS", "After", "Chunks", "SourceChange", "Task", "TaskError"]

Function = Callable[..., Any] | str
_NOTHING: Mapping[str, Any] = MappingProxyType({})

PARAMETERS: Mapping[str, str] = {
    "roi": "total_roi",
    "context": "read_roi",
    "block_size": "write_roi",
    "function": "process_function",
    "check": "check_function",
    "init": "init_callback_fn",
    "conflict": "read_write_conflict",
    "retries": "max_retries",
}
"""What the keys of pipeline.yaml are called here, where daisy has another word."""

# Keys of an operation or a budget that are made from arguments of daisy's.
_MADE = frozenset(
    {"function", "check_before", "check_after", "init", "retries", "timeout", "max_workers"}
)
_KEYS = frozenset(f.name for kind in (Operation, Budget) for f in fields(kind)) - _MADE

T = TypeVar("T", Operation, Budget)


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


class TaskError(SpecError):
    """All that is wrong with one task.

    Parameters
    ----------
    task_id : str
        The task.
    found : sequence of Problem
        Keys in the words of pipeline.yaml; the message has the names of arguments.
    """

    def __init__(self, task_id: str, found: Iterable[Problem]) -> None:
        self.found = tuple(found)
        lines = []
        for key, text in self.found:
            head, dot, rest = key.partition(".")
            lines.append(
                f"task {comment(task_id)}: {PARAMETERS.get(head, head)}{dot}{rest}: {text}"
            )
        super().__init__(lines)


@dataclass(frozen=True, slots=True, eq=False, init=False)
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
    scale : optional
        What Rois of blocks are to count, where that is not what these arguments count.
    requires : mapping of str to int
        As in daisy 2, what one worker takes of the budgets that ``run_blockwise(...,
        resources=...)`` gives, e.g. ``{"gpu": 1}``; added to ``resources``.
    after : sequence of str or After
        Names of upstream tasks, beside ``upstream_tasks``. Of these a block waits for what its
        read Roi meets; with ``After(name, whole=True)`` for every block of the task.
    present : ndarray of bool, optional
        Per block of the grid: False where it is masked.
    keys : mapping, optional
        The keyword arguments below, together.
    **more
        ``call``, ``params``, ``reads``, ``writes``, ``tables``, ``outputs``, ``before_block``,
        ``set_up``, ``workers``, ``threads``, ``resources``: as in pipeline.yaml, with arrays as
        ``Read``, ``Write`` and ``ArrayInfo``. ``tables`` are columns by name, and their types;
        ``table_reads={"rows": "task.table"}`` gives tables of upstream tasks.

    Raises
    ------
    SpecError
        With all that is wrong with the task.
    TypeError
        If there is no such argument.

    Notes
    -----
    ``mask``, ``blocks_per_job``, ``chunks`` and ``source`` are as in pipeline.yaml, too; ``mask``
    goes with ``present`` made from it. Other code finds what it needs in ``operation`` and
    ``budget``, which are made from the arguments.
    """

    task_id: str
    total_roi: Roi
    read_roi: Roi
    write_roi: Roi
    process_function: Function
    check_function: Function | tuple[Function | None, Function | None] | None
    init_callback_fn: Function | None
    read_write_conflict: bool
    num_workers: int | None
    max_retries: int
    fit: Fit
    timeout: float | None
    upstream_tasks: Sequence[Task] | None
    max_workers: int | None
    requires: Mapping[str, int]
    mask: ArrayInfo | None
    present: NDArray[np.bool_] | None
    blocks_per_job: int | Sequence[int] | str
    chunks: Chunks
    source: SourceChange
    after: Sequence[str | After]
    scale: Scale
    keys: Mapping[str, Any]
    operation: Operation = field(init=False)
    budget: Budget = field(init=False)

    def __init__(
        self,
        task_id: str,
        total_roi: Roi,
        read_roi: Roi,
        write_roi: Roi,
        process_function: Function,
        check_function: Function | tuple[Function | None, Function | None] | None = None,
        init_callback_fn: Function | None = None,
        read_write_conflict: bool = True,
        num_workers: int | None = 1,
        max_retries: int = 2,
        fit: Fit | str = Fit.VALID,
        timeout: float | None = None,
        upstream_tasks: Sequence[Task] | None = None,
        *,
        max_workers: int | None = None,
        skip_mask: NDArray[np.bool_] | None = None,
        requires: Mapping[str, int] = _NOTHING,
        mask: ArrayInfo | None = None,
        present: NDArray[np.bool_] | None = None,
        blocks_per_job: int | Sequence[int] | str = "auto",
        chunks: Chunks | str = Chunks.COLOR,
        source: SourceChange | str = SourceChange.WARN,
        after: Sequence[str | After] = (),
        scale: Scale = WORLD,
        keys: Mapping[str, Any] = _NOTHING,
        **more: Any,
    ) -> None:
        given = {
            n: value for n, value in locals().items() if n not in ("self", "skip_mask", "more")
        }
        given["present"] = _presence(task_id, present, skip_mask)
        given["keys"] = _known_keys({**(keys or {}), **more})
        for name, value in given.items():
            if value is None and name != "num_workers":  # there it means no limit
                value = _DEFAULTS[name]
            object.__setattr__(self, name, _plain(value))
        problems = [*self._take_operation(), *self._take_budget(), *self._problems()]
        if problems:
            raise TaskError(task_id, problems)
        for name, kind in _ENUMS.items():
            object.__setattr__(self, name, kind(getattr(self, name)))
        for name in ("total_roi", "read_roi", "write_roi"):
            object.__setattr__(self, name, getattr(self, name).copy())

    def changed(self, **arguments: Any) -> Task:
        """Return the task with other arguments.

        Raises
        ------
        SpecError
            With all that is wrong with it then.
        """
        return replace(self, **arguments)

    def _take_operation(self) -> Iterable[Problem]:
        """Make the operation, and return what is wrong with its keys."""
        before, after = self.checks
        functions = {
            "function": self.process_function,
            "check_before": before,
            "check_after": after,
            "init": self.init_callback_fn,
            "then": self.keys.get("then"),
            "before_block": self.keys.get("before_block"),
            "set_up": self.keys.get("set_up"),
        }
        refs = {name: FunctionRef.of(f) for name, f in functions.items() if f is not None}
        call = self.keys.get("call") or _call_of(self.process_function)
        tables, reads = (self.keys.get(name) or {} for name in ("tables", "table_reads"))
        made = {
            "call": call,
            "tables": {name: Table.of(table) for name, table in tables.items()},
            "table_reads": {name: TableRead.of(read) for name, read in reads.items()},
        }
        operation, found = _made(Operation, {**self.keys, **refs, **made})
        object.__setattr__(self, "operation", operation)
        return found

    def _take_budget(self) -> Iterable[Problem]:
        """Make the budget, and return what is wrong with its keys and with ``requires``."""
        own = "num_workers" if self.max_workers is None else "max_workers"
        made = {
            "retries": self.max_retries,
            "timeout": self.timeout,
            "max_workers": getattr(self, own),
        }
        budget, found = _made(Budget, {**made, **self.keys})
        found = [(own if name == "max_workers" else name, text) for name, text in found]
        wrong = list(_requires_problems(self.requires, budget.resources))
        if not wrong:
            needed = {name: count * budget.workers for name, count in self.requires.items()}
            budget = replace(budget, resources={**budget.resources, **needed})
        object.__setattr__(self, "budget", budget)
        return [*found, *wrong]

    def _problems(self) -> list[Problem]:
        """Return what is wrong, beside the keys of operation and budget."""
        wrong = {n: p for n, kind in _ENUMS.items() if (p := not_among(kind, getattr(self, n)))}
        geometry = [] if "fit" in wrong else _geometry_problems(self)
        arrays = [] if "fit" in wrong or geometry else _array_problems(self)
        return [*wrong.items(), *geometry, *arrays]

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
        reads = self.operation.reads.values()
        filled = all(read.fill is not None for read in reads)
        if self.fit != Fit.SHRINK or not reads or not filled:
            return found
        return _whole_voxels(found, self.operation.written)

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
        is_once = self.operation.call.is_once
        tables = (r for r in self.operation.table_reads.values() if r.whole or is_once)
        waits = (up.task for up in self.waits if up.whole)
        return frozenset((*waits, *(read.task for read in tables)))


_ENUMS: Mapping[str, type[StrEnum]] = {"fit": Fit, "chunks": Chunks, "source": SourceChange}
_DEFAULTS = {name: p.default for name, p in inspect.signature(Task).parameters.items()}


def _known_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given by keyword, without what is left at its default."""
    for name in keys:
        if name not in _KEYS:
            near = difflib.get_close_matches(name, [*_DEFAULTS, *_KEYS], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"Task() got an unexpected keyword argument {name!r}{hint}")
    return {name: _plain(value) for name, value in keys.items() if value is not None}


def _made(kind: type[T], values: Mapping[str, Any]) -> tuple[T, list[Problem]]:
    """Return an operation or a budget without the keys that are wrong, and what is."""
    own = {f.name: values[f.name] for f in fields(kind) if f.name in values}
    try:
        return kind(**own), []
    except InvalidKeysError as error:
        wrong = {name.partition(".")[0] for name, _ in error.found}
        rest = {name: value for name, value in own.items() if name not in wrong}
        return kind(**rest), list(error.found)


def _plain(value: Any) -> Any:
    """Return a number of numpy as Python's, which files take; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _presence(task_id: str, present: Any, skip_mask: Any) -> NDArray[np.bool_] | None:
    """Return what ``present`` and ``skip_mask`` say, of which one can be given."""
    given = {n: m for n, m in (("present", present), ("skip_mask", skip_mask)) if m is not None}
    if len(given) > 1:
        raise TaskError(task_id, [("skip_mask", "there is present, too; give one")])
    for name, mask in given.items():
        values = np.asarray(mask)
        if values.dtype.kind not in "biuf" or np.isnan(values).any():
            text = "must be an array of bool, or of numbers that are 0 where it is false"
            raise TaskError(task_id, [(name, text)])
        flags = values.astype(bool)
        return flags if name == "present" else ~flags
    return None


def _whole_voxels(extent: Box, arrays: Sequence[ArrayInfo]) -> Box:
    """Return an extent with its end rounded up to whole voxels of arrays in step with its begin."""
    step = (1,) * extent.ndim
    for array in arrays:
        sides = zip(extent.begin, array.offset, array.steps, strict=False)
        if array.ndim == extent.ndim and all((b - o) % v == 0 for b, o, v in sides):
            step = tuple(map(math.lcm, step, array.steps))
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


def _requires_problems(
    requires: Mapping[str, Any], resources: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield what is wrong with budgets; they are resources, whole numbers under such a name."""
    for name, count in requires.items():
        place = f"requires.{name}"
        if not is_resource_name(name):
            yield place, "cannot be the name of a resource; choose another"
        elif type(count) is not int or count < 0:
            yield place, f"must be a whole number, got {count!r}"
        elif name in resources:
            yield place, "is among resources, too; give it once"


def _is_bounded(roi: Any) -> bool:
    return isinstance(roi, Roi) and not roi.unbounded


def _geometry_problems(task: Task) -> list[Problem]:
    rois = {"roi": task.total_roi, "context": task.read_roi, "block_size": task.write_roi}
    for name, roi in rois.items():
        if not _is_bounded(roi):
            return [(name, f"must be a bounded Roi, got {roi!r}")]
    found = [
        (name, f"{roi.dims} sizes for a {task.total_roi.dims}-D roi; give one per axis")
        for name, roi in rois.items()
        if roi.dims != task.total_roi.dims
    ]
    if found:
        return found
    if any(w <= 0 for w in task.write_roi.shape):
        return [("block_size", f"sizes must be positive, got {_text(task.write_roi.shape)}")]
    if any(c < 0 for c in task.lower + task.upper):
        return [("context", f"{task.read_roi} does not contain the write Roi {task.write_roi}")]
    try:
        grid = task.grid
    except TilingError as error:
        return [("roi", str(error))]
    if not task.scale.fits(grid):
        unit = f"voxels of {task.scale.array}" if task.scale.array else "world units"
        sizes, region = task.scale.sizes(grid.block_size), task.scale.span(grid.extent)
        text = f"blocks of {sizes} of {region} with their context are no whole {unit}"
        return [("block_size", f"{text}; use sizes that are")]
    blocks = math.prod(-(-(axis.end - axis.begin) // axis.step) for axis in grid.axes)
    if blocks > _MOST_BLOCKS:
        return [
            (
                "block_size",
                f"{task.scale.sizes(grid.block_size)} makes {blocks:.2g} blocks of the region of "
                f"{task.scale.sizes(task.write_extent.shape)}, more than can be planned "
                f"({_MOST_BLOCKS:.0e}); give the sizes of blocks in world units (voxels times "
                "voxel size), or as {voxels: ...}",
            )
        ]
    if blocks == 0:
        return [
            (
                "roi",
                f"no block of {task.scale.sizes(grid.block_size)} fits into "
                f"{task.scale.sizes(task.write_extent.shape)} with fit {task.fit}; use a smaller "
                "block or fit: shrink",
            )
        ]
    if task.present is not None and task.present.shape != grid.shape:
        found.append(
            (
                "present",
                f"tells of {_text(task.present.shape)} blocks, the grid has {_text(grid.shape)}",
            )
        )
    return found + _numbering_problems(task.scale.grid(grid)) + _batch_problems(task, grid)


# Numbers of blocks, and of what lies between them, stay below 2**63.
_MOST_BLOCKS = 2**62


def _numbering_problems(grid: Grid) -> list[Problem]:
    """Ledgers number blocks from the world's origin, with 32 bits for an axis."""
    return [
        (
            "roi",
            f"blocks are numbered {first:,} to {first + len(axis) - 1:,} along axis {a}, more than "
            "32 bits can tell; use larger blocks, or an offset nearer to 0",
        )
        for a, axis in enumerate(grid.axes)
        if (first := axis.begin // axis.step) < -(2**31) or first + len(axis) > 2**31
    ]


def _batch_problems(task: Task, grid: Grid) -> list[Problem]:
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


def _array_problems(task: Task) -> list[Problem]:
    found, misplaced = [], False
    written = task.operation.written
    for kind in ("reads", "writes"):
        for name, use in getattr(task.operation, kind).items():
            place, array = f"{kind}.{name}", use.array
            if task.operation.call.is_once and isinstance(use, Read):
                continue  # it is opened as a whole
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
            outside = _context_problems(task, place, use) if isinstance(use, Read) else []
            misplaced |= bool(outside)
            found += outside or _cut_problems(task, place, use)
            found += _fill_problems(place, use, written) if isinstance(use, Read) else []
    found += [] if misplaced else _multiple_problems(task)
    if task.mask is not None and task.mask.ndim != task.total_roi.dims:
        found.append(
            (
                "mask",
                f"{task.mask.path} has {task.mask.ndim} axes, the roi has {task.total_roi.dims}",
            )
        )
    return found + _result_problems(task)


def _result_problems(task: Task) -> list[Problem]:
    """What a function returns has a place, and rows are known of every block that is done."""
    operation = task.operation
    found = []
    made = (*operation.writes, *operation.tables, *operation.outputs)
    elsewhere = operation.before_block is not None  # rows in a database, which it deletes
    if operation.call in (Call.ARRAYS, Call.ONCE) and not made and not elsewhere:
        needs = f"call: {operation.call} needs at least one array to write, a table or an output"
        found.append(("writes", needs))
    if operation.call.is_once:
        found += [
            (
                f"reads.{name}",
                f"{read.array.path} is written, too; an argument of that name gets it",
            )
            for name, read in operation.own_reads.items()
        ]
    if operation.before_block is not None and operation.call.is_once:
        found.append(("before_block", "call: once has no blocks; remove it"))
    if operation.then is not None and operation.call is not Call.ARRAYS:
        found.append(("then", "takes what a function of call: arrays returns; use that"))
    if operation.tables and operation.call is Call.WORKER:
        found.append(("tables", "call: worker returns nothing; use call: block or arrays"))
    if operation.tables and operation.check_before is not None:
        text = "of a block that is found done before it ran no rows are known; give after alone"
        found.append(("check", text))
    twice = operation.tables.keys() & operation.writes.keys()
    found += [(f"tables.{name}", "is the name of an array, too") for name in sorted(twice)]
    return found


def _fill_problems(place: str, read: Read, written: Collection[ArrayInfo]) -> list[Problem]:
    fill: Any = read.fill
    if fill is Border.WRAP and any(map(read.array.meets, written)):
        text = "wrap would show what blocks on the other side write; give a number, or edge"
        return [(f"{place}.fill", text)]
    if fill is None or isinstance(fill, Border):
        return []
    if isinstance(fill, int | float) and holds(read.array.dtype, fill):
        return []
    return [(f"{place}.fill", f"{read.array.dtype} of {read.array.path} cannot hold {fill!r}")]


def _context_problems(task: Task, place: str, read: Read) -> list[Problem]:
    """A context of its own lies inside of the read Roi."""
    if read.context is None:
        return []
    if any(len(side) != task.total_roi.dims for side in read.context):
        sizes = max(map(len, read.context))
        text = f"{sizes} sizes for a {task.total_roi.dims}-D roi; give one per axis"
        return [(f"{place}.context", text)]
    sides = zip(read.context, (task.lower, task.upper), strict=True)
    if all(0 <= mine <= most for own, all_ in sides for mine, most in zip(own, all_, strict=True)):
        return []
    lower, upper = map(task.scale.sizes, read.context)
    return [(f"{place}.context", f"{lower} below and {upper} above are not in the read Roi")]


def _multiple_problems(task: Task) -> list[Problem]:
    """Blocks and contexts have to be whole voxels of every array that they are read or written."""
    operation, ndim = task.operation, task.total_roi.dims
    placed = {} if operation.call.is_once else operation.reads
    reads = {f"reads.{n}": r for n, r in placed.items() if r.array.ndim == ndim}
    writes = {f"writes.{n}": w.array for n, w in operation.writes.items() if w.array.ndim == ndim}
    arrays = {**{place: read.array for place, read in reads.items()}, **writes}
    found = _no_multiple(task, "block_size", [tuple(task.write_roi.shape)], arrays)
    own = {place: read for place, read in reads.items() if read.context is not None}
    if not reads or len(own) < len(reads):
        shared = {place: array for place, array in arrays.items() if place not in own}
        found += _no_multiple(task, "context", [task.lower, task.upper], shared)
    for place, read in own.items():
        found += _no_multiple(task, f"{place}.context", read.context or (), {place: read.array})
    return found


def _no_multiple(
    task: Task, key: str, sides: Iterable[Sequence[int]], arrays: Mapping[str, ArrayInfo]
) -> list[Problem]:
    """Return the first side that is no multiple of the voxels of all arrays, and what is next."""
    for sizes in sides:
        wrong = {
            place: array
            for place, array in arrays.items()
            if any(n % v for n, v in zip(sizes, array.steps, strict=True))
        }
        if not wrong:
            continue
        voxels = " and ".join(
            f"{task.scale.sizes(array.steps)} of {array.path} ({place})"
            for place, array in wrong.items()
        )
        step = [math.lcm(*along) for along in zip(*(a.steps for a in arrays.values()), strict=True)]
        least = 1 if key == "block_size" else 0
        pairs = list(zip(sizes, step, strict=True))
        below = [max(least, n // v) * v for n, v in pairs]
        above = [-(-n // v) * v for n, v in pairs]
        near = " or ".join(dict.fromkeys(map(task.scale.sizes, (below, above))))
        what = "block size" if key == "block_size" else "context"
        text = f"{what} {task.scale.sizes(sizes)} is not a multiple of the voxel size {voxels}"
        return [(key, f"{text}; use {near}")]
    return []


def _cut_problems(task: Task, place: str, use: Read | Write) -> list[Problem]:
    """The region to write ends between voxels of every array."""
    found, array = [], use.array
    begin, end = task.write_extent.begin, task.write_extent.end
    edges = begin if task.fit != Fit.SHRINK else begin + end
    offsets = array.offset if task.fit != Fit.SHRINK else array.offset * 2
    sizes = array.steps if task.fit != Fit.SHRINK else array.steps * 2
    if any((e - o) % v for e, o, v in zip(edges, offsets, sizes, strict=True)):
        offset = task.scale.span(Box(array.offset, array.offset)).partition(" to ")[0]
        found.append(
            (
                "roi",
                f"the region to write, {task.scale.span(Box(begin, end))}, cuts voxels of "
                f"{array.path} ({place}) with offset {offset} and voxel size "
                f"{task.scale.sizes(array.steps)}; make it whole voxels",
            )
        )
    lacking = [a for a, p in enumerate(array.places) if p < 0 and isinstance(use, Write)]
    if any(len(task.grid.axes[a]) > 1 for a in lacking):
        text = f"{array.path} lacks an axis along which there are several blocks"
        found.append((place, f"{text}; let one block write all of it there"))
    return found


def _text(numbers: Sequence[int]) -> str:
    return "(" + ", ".join(str(int(n)) for n in numbers) + ")"
