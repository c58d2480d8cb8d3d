"""One block at a time: set-up once, then check, call, check, record. Runs in a worker process."""

from __future__ import annotations

import contextlib
import inspect
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_blocks.arrays import open_array, read_region, write_region
from snakemake_blocks.block import Block, BlockStatus
from snakemake_blocks.box import Box
from snakemake_blocks.errors import InputError
from snakemake_blocks.failures import BlockFailedError
from snakemake_blocks.functions import FunctionRef, importable_from, load
from snakemake_blocks.ledger import Measurement
from snakemake_blocks.notes import note_once
from snakemake_blocks.paths import index_name, slug
from snakemake_blocks.plan import PlannedTask
from snakemake_blocks.stored import Stored
from snakemake_blocks.task import Call
from snakemake_blocks.values import as_values

__all__ = ["Meter", "Work", "lower_phase_only"]

# Reading /proc costs as much as a tiny block; bytes are measured for longer ones.
_WORTH_MEASURING = 0.005
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
        self._start, self._wall, self._cpu = time.time(), time.perf_counter(), time.process_time()
        return Measurement(self._start)

    def end(self) -> Measurement:
        """Return the cost since :meth:`begin`."""
        wall = time.perf_counter() - self._wall
        cpu = time.process_time() - self._cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _PEAK_UNIT
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
    given : mapping of FunctionRef to callable
        Functions that are at hand, and need not be loaded.
    notes : Path, optional
        Folder of what is said once per task; without it, once per worker.
    """

    task: PlannedTask
    folder: Path
    functions: Path
    given: Mapping[FunctionRef, Callable[..., Any]] = field(default_factory=dict)
    notes: Path | None = None
    absent: int = field(default=0, init=False)
    """Which chunks the last block has left out."""
    _call: Callable[..., Any] = field(init=False, repr=False)
    _before: Callable[..., Any] | None = field(init=False, repr=False)
    _after: Callable[..., Any] | None = field(init=False, repr=False)
    _close: contextlib.ExitStack = field(
        default_factory=contextlib.ExitStack, init=False, repr=False
    )
    _arrays: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _stored: Stored = field(init=False, repr=False)
    _noted: set[str] = field(default_factory=set, init=False, repr=False)

    def set_up(self) -> None:
        """Import the user's functions, build a class, open declared arrays: once per worker."""
        self._close.enter_context(importable_from(self.folder))
        self._stored = Stored([w.array for w in self.task.writes.values()], self.folder)
        self._before = self._load(self.task.check_before)
        self._after = self._load(self.task.check_after)
        init = self._load(self.task.init)
        function = self._load(self.task.function)
        assert function is not None
        if init is not None:
            _initialise(init, self.task.name)
        if self.task.call is Call.WORKER:
            self._call = function
            return
        if inspect.isclass(function):
            function = self._build(function)
            params: dict[str, Any] = {}
        else:
            params = dict(self.task.params)
        if self.task.call is Call.ARRAYS:
            self._call = self._on_arrays(function, params)
        elif params:
            self._call = lambda block: function(block, **params)
        else:
            self._call = function

    def _load(self, ref: FunctionRef | None) -> Callable[..., Any] | None:
        if ref is None:
            return None
        return self.given[ref] if ref in self.given else load(ref, self.functions)

    def _build(self, kind: type) -> Callable[..., Any]:
        made = kind(**self.task.params)
        if hasattr(made, "__exit__"):
            made = self._close.enter_context(made)
        elif hasattr(made, "close"):
            self._close.callback(made.close)
        if not callable(made):
            raise InputError(
                f"{self.task.function.name}: has no __call__, so it cannot take blocks"
            )
        return made  # type: ignore[no-any-return]

    def tear_down(self) -> None:
        """Close what was set up."""
        self._close.close()

    def run_worker_function(self) -> None:
        """Call a ``call: worker`` function, which asks for blocks itself."""
        self._call(**self.task.params)

    def is_done(self, block: Block) -> bool:
        """Ask the check before the block; false without one."""
        if self._before is None or not self._before(block):
            return False
        self._settle(block)
        return True

    def process(self, block: Block) -> None:
        """Put one block through the function and the check after it.

        Raises
        ------
        BlockFailedError
            If the block is not done although nothing was raised.
        """
        block.status = BlockStatus.PROCESSING
        self._call(block)
        self.accept(block)

    def accept(self, block: Block) -> None:
        """Refuse a block whose status is FAILED or whose check after it says no."""
        if block.status is BlockStatus.FAILED:
            raise BlockFailedError("the function set block.status to FAILED")
        if self._after is not None and not self._after(block):
            name = self.task.check_after.name if self.task.check_after else ""
            raise BlockFailedError(f"the check {name} after the block says that it is not done")
        self._settle(block)
        block.status = BlockStatus.SUCCESS

    def _settle(self, block: Block) -> None:
        """Wait until what a block wrote is on disk, and note what it left out."""
        self.absent = self._stored.settle(Box.from_roi(block.write_roi))

    def _on_arrays(
        self, function: Callable[..., Any], params: dict[str, Any]
    ) -> Callable[[Block], None]:
        """Return ``f(block)`` that opens, reads, pads, calls ``function``, crops and writes."""
        task = self.task
        written = {w.array.path: name for name, w in task.writes.items()}
        for name, read in task.reads.items():
            self._arrays[name] = open_array(read.array, self.folder, writable=False)
        for name, write in task.writes.items():
            self._arrays[f"writes.{name}"] = open_array(write.array, self.folder, writable=True)
        takes_block = "block" in inspect.signature(function).parameters

        def call(block: Block) -> None:
            region = Box.from_roi(block.read_roi)
            inputs: dict[str, Any] = {}
            for name, read in task.reads.items():
                data = read_region(self._arrays[name], read, region)
                if read.array.path in written:
                    keep = task.visible_output(block.index)
                    data = lower_phase_only(data, read.array, region, keep, read.fill)
                inputs[name] = data
            if takes_block:
                inputs["block"] = block
            self._store(block, region, function(**inputs, **params))

        return call

    def _store(self, block: Block, region: Box, result: Any) -> None:
        """Write the results, cropped to the write Roi where they cover the read Roi."""
        writes = self.task.writes
        if not isinstance(result, dict):
            if len(writes) != 1:
                raise InputError(
                    f"{self.task.function.name}: writes {', '.join(writes)}; return a dict with "
                    "these names"
                )
            result = {next(iter(writes)): result}
        if set(result) != set(writes):
            raise InputError(
                f"{self.task.function.name}: returned {sorted(result)}, writes {sorted(writes)}"
            )
        target = Box.from_roi(block.write_roi)
        for name, write in writes.items():
            array = write.array
            values = as_values(result[name], f"{self.task.function.name}: {name}")
            for box in (region, target):
                if values.shape == array.channels + array.voxels(box).shape:
                    break
            else:
                raise InputError(
                    f"{self.task.function.name}: {name} has shape {values.shape}; expected "
                    f"{array.channels + array.voxels(region).shape} (read Roi) or "
                    f"{array.channels + array.voxels(target).shape} (write Roi)"
                )
            inside = array.voxels(target).shift([-b for b in array.voxels(box).begin])
            lead = (slice(None),) * len(array.channels)
            crop = lead + tuple(slice(b, e) for b, e in zip(inside.begin, inside.end, strict=True))
            cut = write_region(self._arrays[f"writes.{name}"], array, target, values[crop])
            if cut and name not in self._noted:
                self._noted.add(name)
                note_once(
                    self.notes,
                    f"fractions.{slug(name)}.{self.task.fingerprint:016x}",
                    f"{array.path}: {array.dtype} cuts fractions off what the function returns, "
                    f"e.g. {cut} in block {index_name(block.index)}; round or scale in the "
                    "function, or write a float type",
                )


def _initialise(init: Callable[..., Any], task: str) -> None:
    """Call what has to be called before the first block, with what it may want to know."""
    try:
        takes_context = bool(inspect.signature(init).parameters)
    except ValueError:  # builtins without a signature take nothing
        takes_context = False
    if takes_context:
        init({"task_id": task, "worker_id": os.getpid(), "hostname": os.uname().nodename})
    else:
        init()


def lower_phase_only(
    data: Any, array: Any, region: Box, keep: list[Box], fill: int | float | None
) -> Any:
    """Return ``data`` with everything outside of the boxes ``keep`` replaced by the fill.

    What a task reads of its own output is then what lower phases wrote in this plan, and
    neither a leftover of an earlier run nor a matter of timing.
    """
    import numpy as np

    clean = np.full_like(data, 0 if fill is None else fill)
    origin = array.voxels(region).begin
    lead = (slice(None),) * len(array.channels)
    for box in keep:
        voxels = array.voxels(box.intersect(region)).shift([-b for b in origin])
        if box.meets(region):
            part = lead + tuple(slice(b, e) for b, e in zip(voxels.begin, voxels.end, strict=True))
            clean[part] = data[part]
    return clean
