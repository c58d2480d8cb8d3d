"""One block at a time: set-up once, then check, call, check, record. Runs in a worker process."""

from __future__ import annotations

import contextlib
import inspect
import os
import resource
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.block import Block, BlockStatus
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.plan.paths import index_name, slug
from snakemake_blocks.plan.plan import PlannedTask
from snakemake_blocks.state.failures import BlockFailedError
from snakemake_blocks.state.ledger import Measurement
from snakemake_blocks.state.notes import note_once
from snakemake_blocks.state.row_files import Rows
from snakemake_blocks.storage.arrays import open_array, write_region
from snakemake_blocks.storage.held import Held, write_held
from snakemake_blocks.storage.presence import Stored
from snakemake_blocks.tasks.functions import FunctionRef, importable_from, load
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.work.array_call import ArrayCall, named_results, taken
from snakemake_blocks.work.once_call import OnceCall
from snakemake_blocks.work.rows import merged, rows_of, takes_two
from snakemake_blocks.work.table_input import TableInput

__all__ = ["Meter", "Work"]

# Reading /proc costs as much as a tiny block; bytes are measured for longer ones.
_WORTH_MEASURING = 0.005
# What a call returns that has only been prepared.
_UNRUN = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
# getrusage gives KiB, on macOS bytes.
_PEAK_UNIT = 1024 if sys.platform == "darwin" else 1


@dataclass(slots=True)
class Meter:
    """Measures what an attempt costs the process."""

    _wall: float = 0.0
    _cpu: float = 0.0
    _start: float = 0.0
    _bytes: tuple[int, int] = field(default_factory=lambda: _bytes_so_far())

    def begin(self) -> Measurement:
        """Start an attempt; return when."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._start, self._wall = time.time(), time.perf_counter()
        self._cpu = usage.ru_utime + usage.ru_stime
        return Measurement(self._start)

    def end(self) -> Measurement:
        """Return the cost since :meth:`begin`."""
        wall = time.perf_counter() - self._wall
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime - self._cpu
        peak = usage.ru_maxrss // _PEAK_UNIT
        if wall < _WORTH_MEASURING:
            return Measurement(self._start, wall, cpu, peak)
        before, self._bytes = self._bytes, _bytes_so_far()
        read, written = (now - was for now, was in zip(self._bytes, before, strict=True))
        return Measurement(self._start, wall, cpu, peak, max(0, read), max(0, written))


def _bytes_so_far() -> tuple[int, int]:
    """Return bytes read and written by system calls of this process; zeros without /proc."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return 0, 0
    fields = dict(line.split(": ") for line in text.splitlines())
    return int(fields["rchar"]), int(fields["wchar"])


@dataclass(slots=True)
class Work:
    """The user's functions of one task, set up, and how a block is put through them.

    Parameters
    ----------
    task : PlannedTask
        The task.
    folder : Path
        The pipeline's folder, for arrays and modules.
    functions : Path
        Folder of pickled functions.
    stores : bool
        Whether results will be stored; arrays to write need not be there otherwise.
    logs : Path, optional
        Folder of the task's logs.
    worker_id : int
        Number among the workers of the task.
    guard : callable
        Called before each store; raises, or does not return, if that is not ours any more.
    notes : Path, optional
        Folder of what is said once per task; without it, once per worker.
    tables : TableInput, optional
        Where blocks get the tables that they read.
    has_leftovers : bool
        Whether there may be something of blocks of which nothing is on record.
    """

    task: PlannedTask
    folder: Path
    functions: Path
    stores: bool = True
    logs: Path | None = None
    worker_id: int = 0
    guard: Callable[[], None] = lambda: None
    notes: Path | None = None
    tables: TableInput | None = None
    has_leftovers: bool = False
    absent: int = field(default=0, init=False)
    """Which chunks the last block has left out."""
    rows: dict[str, Rows] = field(default_factory=dict, init=False)
    """What the last block gave to tables, by name."""
    holds: bool = field(default=False, init=False)
    """Whether results, and records, wait for :meth:`store_held`."""
    _held: dict[str, Held] | None = field(default=None, init=False, repr=False)
    _call: Callable[..., Any] = field(init=False, repr=False)
    _before: Callable[..., Any] | None = field(init=False, repr=False)
    _after: Callable[..., Any] | None = field(init=False, repr=False)
    _clear: Callable[..., Any] | None = field(init=False, repr=False)
    _close: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack, init=False, repr=False
    )
    _arrays: ArrayCall | None = field(default=None, init=False, repr=False)
    _outputs: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _stored: Stored = field(init=False, repr=False)
    _noted: set[str] = field(default_factory=set, init=False, repr=False)

    @property
    def context(self) -> dict[str, Any]:
        """What daisy's context tells a worker of where it is."""
        return {
            "hostname": os.uname().nodename,
            "task_id": self.task.name,
            "worker_id": self.worker_id,
            "logdir": str(self.logs or self.folder),
        }

    def set_up(self) -> None:
        """Import the user's functions, build a class, open declared arrays: once per worker."""
        self._close.enter_context(importable_from(self.folder))
        self._stored = Stored(self.task.operation.written, self.folder)
        self._before = self._load("check_before")
        self._after = self._load("check_after")
        self._clear = self._load("before_block")
        init = self._load("init")
        function = self._load("function")
        assert function is not None
        if init is not None:
            _refuse_unrun(_initialise(init, self.context))
        if self.task.operation.call is Call.WORKER:
            self._call = function
            return
        if inspect.isclass(function):
            function = self._build(function)
            params: dict[str, Any] = {}
        else:
            params = dict(self.task.operation.params)
        if self.task.operation.call is Call.ARRAYS:
            self._arrays = ArrayCall(
                self.task.operation,
                self.folder,
                function,
                params,
                self.task.scale,
                self._given,
                self._load("then"),
            )
            self._open_outputs()
            self._call = self._compute_and_store
        elif self.task.operation.call is Call.MERGE:
            by_pairs = takes_two(function)
            self._call = lambda block: self._merge(block, function, by_pairs=by_pairs)
        elif self.task.operation.call is Call.SET_UP:
            self._call = lambda block: function(**taken(function, params))
        elif self.task.operation.call is Call.ONCE:
            once = OnceCall(self.task.operation, self.folder, function, params)
            self._open_outputs()
            self._call = lambda block: self._run_once(block, once)
        elif self.task.operation.tables or self.task.operation.table_reads:
            self._call = lambda block: self._take(function(block, **self._given(block), **params))
        elif params:
            self._call = lambda block: function(block, **params)
        else:
            self._call = function

    def _merge(self, block: Block, function: Callable[..., Any], *, by_pairs: bool) -> None:
        """Merge the rows of the blocks that a block covers."""
        assert self.tables is not None, "not set up for a task that reads tables"
        ((name, table),) = self.task.operation.tables.items()
        place = f"{self.task.operation.function.name}: {name}"
        if by_pairs:
            parts = self.tables.parts_of(block.index)
            found = merged(function, parts, table, place) if parts else None
        else:  # rows of a box of blocks are read as one, 64 times as fast
            found = function(self.tables.of(block.index)[name])
        self.rows[name], _ = rows_of(found, table, place)

    def _run_once(self, block: Block, once: OnceCall) -> None:
        target = self.task.scale.planned(Box.from_roi(block.write_roi))
        values, rows = once.results(target, self._given(block), self._outputs)
        self._store(block, values)
        self._take_rows(rows)

    def _given(self, block: Block) -> Mapping[str, Any]:
        """Return the tables that a block reads."""
        return {} if self.tables is None else self.tables.of(block.index)

    def _take(self, returned: Any) -> Any:
        """Take in the rows that a function of ``call: block`` returned."""
        if not self.task.operation.tables:
            return returned
        self._take_rows(named_results(_refuse_unrun(returned), self.task.operation))
        return None

    def _take_rows(self, returned: Mapping[str, Any]) -> None:
        operation = self.task.operation
        for name, table in operation.tables.items():
            place = f"{operation.function.name}: {name}"
            self.rows[name], cut = rows_of(returned[name], table, place)
            if cut and name not in self._noted:
                self._noted.add(name)
                self._note(f"fractions.{slug(name)}", f"{place}: {cut}; declare a float type")

    def _open_outputs(self) -> None:
        for name, write in self.task.operation.writes.items() if self.stores else ():
            self._outputs[name] = open_array(write.array, self.folder, writable=True)

    def _load(self, role: str) -> Callable[..., Any] | None:
        """Return the task's function of a role, None if it has none."""
        ref: FunctionRef | None = getattr(self.task.operation, role)
        return None if ref is None else load(ref, self.functions)

    def _build(self, kind: type) -> Callable[..., Any]:
        made = kind(**self.task.operation.params)
        if hasattr(made, "__exit__"):
            made = self._close.enter_context(made)
        elif hasattr(made, "close"):
            self._close.callback(made.close)
        if not callable(made):
            raise InputError(
                f"{self.task.operation.function.name}: has no __call__, so it cannot take blocks"
            )
        return made  # type: ignore[no-any-return]

    def tear_down(self) -> None:
        """Close what was set up."""
        self._close.close()

    def __enter__(self) -> Self:
        try:
            self.set_up()
        except BaseException:
            self.tear_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.tear_down()

    def run_worker_function(self) -> None:
        """Call a ``call: worker`` function, which asks for blocks itself."""
        self._call(**self.task.operation.params)

    def is_done(self, block: Block) -> bool:
        """Ask the check before the block; false without one."""
        if self._before is None or not _refuse_unrun(self._before(block)):
            return False
        self.absent = self.settle(block)
        return True

    def clear(self, block: Block, *, again: bool) -> None:
        """Call the hook before a block, where something of an earlier attempt may be there.

        Parameters
        ----------
        block : Block
            The block.
        again : bool
            Whether it may have run before.
        """
        if self._clear is not None and (again or self.has_leftovers):
            params = self.task.operation.params
            _refuse_unrun(self._clear(block, **taken(self._clear, params)))

    def process(self, block: Block) -> None:
        """Put one block through the function and the check after it.

        Raises
        ------
        BlockFailedError
            If the block is not done although nothing was raised.
        """
        block.status = BlockStatus.PROCESSING
        _refuse_unrun(self._call(block))
        self.accept(block)

    def accept(self, block: Block) -> None:
        """Refuse a block whose status is FAILED or whose check after it says no."""
        _refuse_failed(block)
        if self._after is not None and not _refuse_unrun(self._after(block)):
            name = self.task.operation.check_after.name if self.task.operation.check_after else ""
            raise BlockFailedError(f"the check {name} after the block says that it is not done")
        if not self.holds:
            self.absent = self.settle(block)
        block.status = BlockStatus.SUCCESS

    def settle(self, block: Block) -> int:
        """Wait until what a block wrote is on disk, and return which chunks it left out."""
        # Not by its Rois: a tiny block would pay for making them, and a function may change them.
        if not self.task.operation.writes:
            return 0
        return self._stored.settle(self.task.grid.write(block.index))

    def hold(self) -> None:
        """Let results of blocks that are stored together wait for :meth:`store_held`.

        Rows wait in any case. Arrays do where nobody looks at them before: the check after a block
        would.
        """
        if self.task.group and self._arrays is not None and self._after is None:
            self._held = {}
        self.holds = self._held is not None or bool(self.task.operation.tables)

    def store_held(self) -> None:
        """Store the results that wait, each box of blocks at once.

        Raises
        ------
        InputError
            As :func:`.write_region`.
        """
        if self._held is None:
            return
        held, self._held = self._held, {}
        for name, waiting in held.items():
            self.guard()
            write_held(self._outputs[name], waiting)

    def compute(self, block: Block, visible: Sequence[Box]) -> dict[str, NDArray[Any]]:
        """Return what the function of a ``call: arrays`` task makes of a block; store nothing.

        Parameters
        ----------
        block : Block
            The block.
        visible : sequence of Box
            Where the function sees its task's own output, in world units.

        Raises
        ------
        BlockFailedError
            If the function sets the block's status to FAILED.
        InputError
            If it returns something else than the task writes.
        """
        assert self._arrays is not None, "not set up for a task with call: arrays"
        found = self._arrays.results(block, visible)
        _refuse_failed(block)
        self._take_rows(self._arrays.rows)
        return found

    def _compute_and_store(self, block: Block) -> None:
        self._store(block, self.compute(block, self.task.visible_output(block.index)))

    def _store(self, block: Block, results: Mapping[str, NDArray[Any]]) -> None:
        """Write results, which are shaped as the write Roi."""
        target = self.task.scale.planned(Box.from_roi(block.write_roi))
        for name in results:
            write = self.task.operation.writes[name]
            self.guard()
            if self._held is not None:
                waiting = self._held.setdefault(name, Held(write.array))
                cut = waiting.add(target, results[name])
            else:
                cut = write_region(self._outputs[name], write.array, target, results[name])
            if cut and name not in self._noted:
                self._noted.add(name)
                self._note_fractions(name, cut, block)

    def _note_fractions(self, name: str, cut: str, block: Block) -> None:
        """Say once per task that an array's type cuts off fractions."""
        array = self.task.operation.writes[name].array
        self._note(
            f"fractions.{slug(name)}",
            f"{array.path}: {array.dtype} cuts fractions off what the function returns, "
            f"e.g. {cut} in block {index_name(block.index)}; round or scale in the "
            "function, or write a float type",
        )

    def _note(self, name: str, text: str) -> None:
        note_once(self.notes, f"{name}.{self.task.fingerprint:016x}", text)


def _refuse_failed(block: Block) -> None:
    if block.status is BlockStatus.FAILED:
        raise BlockFailedError("the function set block.status to FAILED")


def _refuse_unrun(result: Any) -> Any:
    """Return what a function returned, unless that says that nothing of it has run."""
    if isinstance(result, _UNRUN):
        what = type(result).__name__.replace("_", " ")
        raise BlockFailedError(
            f"{result.__qualname__} returned a {what}, so nothing of it has run; "
            "take `yield` or `async` out of it"
        )
    return result


def _initialise(init: Callable[..., Any], context: Mapping[str, Any]) -> Any:
    """Call what has to be called before the first block, with what it may want to know."""
    try:
        takes_context = bool(inspect.signature(init).parameters)
    except ValueError:  # builtins without a signature take nothing
        takes_context = False
    return init(context) if takes_context else init()
