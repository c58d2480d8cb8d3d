"""Forms of pipeline.yaml -> tasks: looks up arrays, masks and functions, collects what is wrong."""

from __future__ import annotations

import graphlib
import importlib.util
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from funlib.geometry import Roi
from pydantic import ValidationError

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.spec.catalogue import Catalogue, read_paths, roi_path, tables_read
from snakemake_blocks.spec.frames import frame_of
from snakemake_blocks.spec.measures import Measures
from snakemake_blocks.spec.operation_form import OperationModel, Step
from snakemake_blocks.spec.outputs import Outputs
from snakemake_blocks.spec.region import Region
from snakemake_blocks.spec.schema import (
    CallWord,
    CheckModel,
    FormModel,
    ReadModel,
    TableReadModel,
    TaskModel,
    problems_of,
)
from snakemake_blocks.storage.arrays import block_presence
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.dtypes import holds
from snakemake_blocks.tasks.operation import Call, Context, Read, Write
from snakemake_blocks.tasks.reduction import merging_tasks
from snakemake_blocks.tasks.sources import call_problems, missing_function
from snakemake_blocks.tasks.tables import Table, TableRead
from snakemake_blocks.tasks.task import PARAMETERS, Task, TaskError
from snakemake_blocks.tasks.units import conversion, unit_name

__all__ = ["UNKNOWN_FUNCTION", "Describer"]

UNKNOWN_FUNCTION = "unknown:unknown"
"""Stands where the function's name was wrong already; nothing is said of it again."""

# The presence of more blocks takes more than a gigabyte to plan with.
_MOST_MASKED = 10**7
# Keys of a form that a task gets as what they lead to; others go on as they are.
_LOOKED_UP = frozenset(
    {
        "call",
        "map",
        "merge",
        "roi",
        "block_size",
        "context",
        "check",
        "timeout",
        "reads",
        "writes",
        "tables",
        "mask",
        "after",
    }
)
# Keys of a form that mean nothing where there are no blocks.
_OF_BLOCKS = frozenset(
    {
        "roi",
        "block_size",
        "context",
        "fit",
        "conflict",
        "mask",
        "check",
        "before_block",
        "set_up",
        "blocks_per_job",
        "chunks",
        "workers",
        "max_workers",
    }
)
# Keys of a form that mean nothing where rows of a table are merged that is there.
_OF_MAPS = frozenset({"params", "after", "writes", "outputs"})
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(slots=True)
class Describer:
    """Turns checked forms into tasks, and collects what does not fit the arrays on disk.

    Parameters
    ----------
    arrays : Catalogue
        Knows the arrays, and takes the problems.
    names : sequence of str
        All tasks, those without a usable form included.
    unsure : collection of str
        Tasks whose form lacks something that was wrong.
    """

    arrays: Catalogue
    names: Sequence[str]
    unsure: Collection[str]

    steps: dict[str, TaskModel] = field(default_factory=dict, init=False)
    """The forms of the tasks that operations become, by name of the task."""

    @property
    def models(self) -> Mapping[str, FormModel]:
        """The usable forms by name of the task."""
        return self.arrays.models

    def tasks(self) -> list[Task]:
        """Return the tasks without problems, in the order of the file."""
        found: dict[str, list[Task]] = {}
        for name in self._writers_first():
            model = self.models[name]
            if isinstance(model, OperationModel):
                found[name] = self._expanded(name, model, found)
            elif isinstance(model, TaskModel):
                found[name] = _TaskDescriber(self, name, model, found).tasks()
        return [task for name in self.models for task in found[name]]

    def task_called(self, name: str, table: str = "") -> str:
        """Return the task that a name means: of an operation, the step that makes its result.

        Parameters
        ----------
        name : str
            As in the description.
        table : str
            Which of its tables is meant, if one is.
        """
        model = self.models.get(name)
        if not isinstance(model, OperationModel):
            return name
        steps = [f"{name}_{step}" for step in model.step_names]
        made = [step for step in steps if step in self.steps]
        having = [step for step in made if table in self.steps[step].tables]
        return (having or made or steps)[-1]

    def _expanded(
        self, name: str, model: OperationModel, found: dict[str, list[Task]]
    ) -> list[Task]:
        """Return the tasks that an operation becomes."""
        before, place = len(self.arrays.problems), f"tasks.{name}"
        frame = frame_of(self.arrays, name, model)
        for library in model.libraries:
            if importlib.util.find_spec(library) is None:
                text = f"{model.use} needs {library}: pip install 'snakemake-blocks[{model.extra}]'"
                self.arrays.say(place, text)
        forms = {} if frame is None else model.expand(frame)
        for step in model.steps.keys() - forms.keys() if forms else ():
            known = ", ".join(forms)
            self.arrays.say(f"{place}.steps.{step}", f"there is no such step; known are {known}")
        tasks: list[Task] = []
        for step, form in forms.items():
            if (called := f"{name}_{step}") in self.names:
                text = f"becomes a task {called}, and there is one; rename one of the two"
                self.arrays.say(place, text)
                continue
            made = self._step(f"{place}.steps.{step}", _changed(form, model.steps.get(step, {})))
            if made is None:
                continue
            self.steps[called] = made
            found[called] = _TaskDescriber(self, called, made, found, owner=name).tasks()
            tasks += found[called]
        if len(self.arrays.problems) > before:
            return []
        self.arrays.keep_written(name, [p for m in self.steps.values() for p in m.written_paths])
        return tasks

    def _step(self, place: str, form: Mapping[str, Any]) -> TaskModel | None:
        try:
            return TaskModel.model_validate(form)
        except ValidationError as error:
            for keys, text in problems_of(error):
                self.arrays.say(".".join([place, *map(str, keys)]), text)
            return None

    def _writers_first(self) -> list[str]:
        """Return the names so that arrays to be made are known before they are read."""
        needs = {name: self._needs(name, model) for name, model in self.models.items()}
        try:
            return list(graphlib.TopologicalSorter(needs).static_order())
        except graphlib.CycleError as error:
            cycle = error.args[1][::-1]
            steps = itertools.pairwise(cycle)
            text = ", ".join(f"{one} waits for {other}" for one, other in steps)
            self.arrays.say(f"tasks.{cycle[0]}.after", f"{text}; cut one of these needs")
            return list(self.models)

    def _needs(self, name: str, model: FormModel) -> list[str]:
        paths = [*read_paths(model), *filter(None, [roi_path(model.roi)])]
        writers = filter(None, map(self.arrays.writer, paths))
        needs = [*(up.task for up in model.waits), *tables_read(model), *writers]
        forms = map(self._form_of, needs)
        return [n for n in forms if n in self.models and n != name]

    def _form_of(self, task: str) -> str:
        """Return the form of a task: one of its name, or the operation whose step it is."""
        operations = ((n, m) for n, m in self.models.items() if isinstance(m, OperationModel))
        steps = {f"{name}_{step}": name for name, m in operations for step in m.step_names}
        return steps.get(task, task)


def _changed(form: Step, more: Mapping[str, Any]) -> Step:
    """Return the form of a step with keys of the user; in mappings key by key."""
    both = {
        key: {**form[key], **value}
        for key, value in more.items()
        if isinstance(value, Mapping) and isinstance(form.get(key), Mapping)
    }
    return {**form, **more, **both}


@dataclass(slots=True)
class _TaskDescriber:
    """Turns one checked form into a task.

    Parameters
    ----------
    all : Describer
        Knows the other tasks, and the arrays.
    name : str
        The task.
    model : TaskModel
        Its form.
    before : mapping of str to list of Task
        Tasks of the forms that come before it, by the name of the form.
    owner : str
        The operation whose step it is, empty if it is none.
    """

    all: Describer
    name: str
    model: TaskModel
    before: Mapping[str, list[Task]]
    owner: str = ""

    @property
    def _arrays(self) -> Catalogue:
        return self.all.arrays

    def _say(self, key: str, text: str) -> None:
        self._arrays.say(f"{self._place}.{key}", text)

    @property
    def _place(self) -> str:
        step = self.name.removeprefix(f"{self.owner}_")
        return f"tasks.{self.owner}.steps.{step}" if self.owner else f"tasks.{self.name}"

    def tasks(self) -> list[Task]:
        """Return the tasks that are meant: one, but for a reduction; none if something is wrong."""
        before = len(self._arrays.problems)
        if self.model.call is CallWord.REDUCE:
            found = self._reduction()
        else:
            for key in ("map", "merge"):
                if getattr(self.model, key) is not None:
                    self._say(key, "has a meaning with call: reduce alone; remove it")
            if self.model.function is None:
                self._say("function", "is missing")
            task = self.task()
            found = [task] if task is not None else []
        return found if len(self._arrays.problems) == before else []

    def _reduction(self) -> list[Task]:
        """Return the tasks of a reduction: one that makes rows, if it is no other, and merges."""
        model = self.model
        if model.merge is None:
            self._say("merge", "is missing")
        elif model.merge != UNKNOWN_FUNCTION and (
            problem := missing_function(model.merge, self._arrays.folder)
        ):
            self._say("merge", problem)
        if model.map is not None and model.function is not None:
            self._say("map", "is what function is here; give one of the two")
        if self._makes_rows:
            if len(model.tables) != 1:
                self._say("tables", "call: reduce makes one table; declare it")
            made = self.task()
            if made is None or len(model.tables) != 1:
                return []
            ((name, declared),) = model.tables.items()
            return [made, *self._merges(made, name, name, declared.parquet or "")]
        source = self._reduced()
        if source is None:
            return []
        ((_, read),) = self._table_reads().items()
        columns, name, parquet = source.operation.tables[read.table].columns, read.table, ""
        for name, declared in model.tables.items():  # at most one
            parquet = declared.parquet or ""
            if list(declared.columns.items()) != list(columns.items()):
                text = ", ".join(f"{column}: {kind}" for column, kind in columns.items())
                self._say(f"tables.{name}.columns", f"{read.task}.{read.table} has {text}")
        return self._merges(source, read.table, name, parquet)

    @property
    def _makes_rows(self) -> bool:
        """Whether a reduction has a function for blocks, or was to have one."""
        return bool(self.model.map or self.model.function) or self.name in self.all.unsure

    def _reduced(self) -> Task | None:
        """Return the task whose rows a reduction without a function for blocks merges."""
        model, before = self.model, len(self._arrays.problems)
        for key in sorted(model.model_fields_set & (_OF_BLOCKS | _OF_MAPS)):
            self._say(key, "has no meaning without map; remove it, or add a map")
        reads = self._table_reads()
        if len(model.reads) != 1 or len(reads) != 1:
            text = "without map it is one table that is merged; read that: {rows: {table: ...}}"
            self._say("reads", text)
        if len(model.tables) > 1:
            self._say("tables", "call: reduce makes one table")
        if len(self._arrays.problems) > before:
            return None
        ((_, read),) = reads.items()
        known = (task for tasks in self.before.values() for task in tasks)
        return next((task for task in known if task.task_id == read.task), None)

    def _merges(self, source: Task, table: str, name: str, parquet: str) -> list[Task]:
        return merging_tasks(
            self.name,
            source,
            table,
            self.model.merge,
            name=name,
            parquet=parquet,
            max_retries=self.model.retries,
            timeout=self._timeout(),
            resources=self.model.resources,
        )

    def task(self) -> Task | None:
        """Return the task; None, and why among the problems, if there is something wrong."""
        model, before = self.model, len(self._arrays.problems)
        self._check_after()
        self._check_names()
        self._check_resources()
        self._check_functions()
        timeout, table_reads = self._timeout(), self._table_reads()
        stored = self._stored_reads(is_own=False)
        if model.kind is Call.ONCE:
            stored |= self._stored_reads(is_own=True)
            for key in sorted(model.model_fields_set & _OF_BLOCKS):
                if key != "roi" or not model.writes:
                    self._say(key, "has no meaning with call: once; remove it")
            table_reads = {n: replace(read, whole=True) for n, read in table_reads.items()}
            if not model.writes:
                return self._once(timeout, table_reads, stored, before)
        is_once = model.kind is Call.ONCE
        needed = ("roi", *(() if is_once else ("block_size",)))
        lacking = [key for key in needed if getattr(model, key) is None]
        if lacking and not (is_once and stored):
            for key in lacking:
                self._say(key, "is missing")
            return None
        region = Region(self._arrays, self.owner or self.name, self._place, model.roi)
        ruler = region.ruler(stored)
        mask = self._mask()
        measures = region.measures(ruler)
        roi = region.written(measures) if measures else None
        if measures is None or roi is None:
            return None
        ruler = ruler if measures.ruler else None
        reads = {} if is_once else self._reads(measures, stored)
        block_size = roi.shape
        if model.block_size is not None and not is_once:
            block_size = measures.sizes(model.block_size, "block_size", roi.shape)
        writes = Outputs(self.name, model, self._arrays, measures, roi, block_size).writes(ruler)
        if is_once:
            reads = {name: Read(array.opened()) for name, array in stored.items()}
        else:
            reads |= self._reads(measures, self._stored_reads(is_own=True))
        context, reads = self._contexts(measures, reads)
        masked = measures.info(mask, "mask")
        ruled = measures.ruler if isinstance(model.roi, str) else None
        self._check_units(ruled, [*reads.values(), *writes.values()], masked)
        if len(self._arrays.problems) > before:
            return None
        end = tuple(b + w for b, w in zip(roi.begin, block_size, strict=True))
        block = Box(roi.begin, end)
        task = self._task(
            total_roi=roi.grow(*context).to_roi(),
            read_roi=block.grow(*context).to_roi(),
            write_roi=block.to_roi(),
            timeout=timeout,
            reads=reads,
            writes=writes,
            tables=self._tables(),
            table_reads=table_reads,
            mask=masked,
            scale=measures.scale,
        )
        return task if task is None or masked is None else self._masked(task, masked)

    def _once(
        self,
        timeout: float | None,
        table_reads: Mapping[str, TableRead],
        stored: Mapping[str, StoredArray],
        before: int,
    ) -> Task | None:
        """Return a task that runs once and writes no array: it has one block, of no place."""
        if len(self._arrays.problems) > before:
            return None
        one = Roi((0,), (1,))
        return self._task(
            total_roi=one,
            read_roi=one,
            write_roi=one,
            timeout=timeout,
            reads={name: Read(array.opened()) for name, array in stored.items()},
            tables=self._tables(),
            table_reads=table_reads,
        )

    def _task(self, **made: Any) -> Task | None:
        model, check = self.model, self.model.check
        pair = (check.before, check.after) if isinstance(check, CheckModel) else check
        given = {key: getattr(model, key) for key in type(model).model_fields}
        plain = {PARAMETERS.get(k, k): v for k, v in given.items() if k not in _LOOKED_UP}
        if model.map or model.function is None:
            plain["process_function"] = model.map or UNKNOWN_FUNCTION
        try:
            return Task(
                task_id=f"{self.name}_map" if model.call is CallWord.REDUCE else self.name,
                call=model.kind,
                check_function=pair,
                num_workers=None,
                after=[replace(up, task=self.all.task_called(up.task)) for up in model.waits],
                **made,
                **plain,
            )
        except TaskError as error:
            for key, text in error.found:
                self._say(key, text)
            return None

    def _masked(self, task: Task, mask: ArrayInfo) -> Task | None:
        if len(task.grid) > _MOST_MASKED:
            self._say(
                "mask",
                f"would be kept for each of {len(task.grid):,} blocks, at most {_MOST_MASKED:,} "
                "can be; use larger blocks or a smaller roi",
            )
            return None
        present = block_presence(mask, task.grid, self._arrays.folder)
        if not present.any():
            self._say("mask", f"{mask.path} is zero wherever this task writes; no block is left")
            return None
        return task.changed(present=present)

    def _tables(self) -> dict[str, Table]:
        """Return the tables that blocks make; of a reduction, the result is written."""
        is_whole = self.model.call is not CallWord.REDUCE
        return {
            name: Table(table.columns, (is_whole and table.parquet) or "")
            for name, table in self.model.tables.items()
        }

    def _table_reads(self) -> dict[str, TableRead]:
        """Return the tables that are read; a problem is noted of those that nobody makes."""
        found = {}
        for name, read in self.model.reads.items():
            if not isinstance(read, TableReadModel):
                continue
            named, _, table = read.table.partition(".")
            task = self.all.task_called(named, table)
            form = self.all.steps.get(task) or self.all.models.get(task)
            made = form.tables if isinstance(form, TaskModel) else {}
            if task == self.name:
                self._say(f"reads.{name}", "a task cannot read its own table; make another task")
            elif named not in self.all.names and task not in self.all.steps:
                known = ", ".join(self.all.names)
                self._say(f"reads.{name}", f"there is no task {task}; known are {known}")
            elif table not in made and named not in self.all.unsure:
                known = ", ".join(made) or "none"
                self._say(f"reads.{name}", f"task {task} has no table {table}; known are {known}")
            if read.batches and self.model.kind is not Call.ONCE:
                self._say(f"reads.{name}.batches", "has a meaning with call: once alone; remove it")
            found[name] = TableRead(task, table, read.whole, read.batches)
        return found

    def _check_after(self) -> None:
        for up in (wait.task for wait in self.model.waits):
            if up == self.name:
                self._say("after", f"{up} would wait for itself; remove it")
            elif up not in self.all.names and up not in self.all.steps:
                known = ", ".join(self.all.names)
                self._say("after", f"there is no task {up}; known are {known}")

    def _check_names(self) -> None:
        """Refuse names that would meet when the function is called."""
        model = self.model
        for name in model.params if model.kind is Call.ARRAYS else ():
            if name in model.reads or name == "block":
                self._say(f"params.{name}", "the function gets another argument of this name")
        if model.kind is Call.ARRAYS and "block" in model.reads:
            self._say("reads.block", "the argument block receives the Block; choose another name")

    def _check_resources(self) -> None:
        """Refuse what Snakemake would refuse, or we could not keep."""
        model = self.model
        if f"{self.name}_workers" in model.resources:
            self._say(f"resources.{self.name}_workers", "is made from max_workers; use that")
        if model.max_workers is not None and model.workers > model.max_workers:
            self._say(
                "max_workers",
                f"{model.max_workers} processes over all jobs are fewer than the {model.workers} "
                "workers of one job",
            )

    def _check_functions(self) -> None:
        model, folder = self.model, self._arrays.folder
        check = model.check
        key, function = ("map", model.map) if model.map else ("function", model.function)
        named = {key: function or ""}
        named |= {name: getattr(model, name) or "" for name in ("then", "set_up", "before_block")}
        if isinstance(check, CheckModel):
            named |= {"check.before": check.before or "", "check.after": check.after or ""}
        else:
            named["check"] = check or ""
        for place, name in named.items():
            if name in ("", UNKNOWN_FUNCTION):
                continue
            problem = missing_function(name, folder)
            if problem:
                self._say(place, problem)
            elif place == key and self.name not in self.all.unsure:
                tables = [n for n, r in model.reads.items() if isinstance(r, TableReadModel)]
                for at, text in call_problems(
                    name,
                    folder,
                    call=model.kind,
                    reads=[n for n in model.reads if n not in tables],
                    params=model.params,
                    tables=tables,
                    offered=model.writes if model.kind is Call.ONCE else (),
                ):
                    self._say(key if at == "function" else at, text)

    def _timeout(self) -> float | None:
        value = self.model.timeout
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([smhd]?)", value)
        if match is None:
            self._say("timeout", f"{value!r:.60} is not a time; write seconds, or 90s, 10m, 2h, 1d")
            return None
        return float(match[1]) * _SECONDS[match[2] or "s"]

    def _stored_reads(self, *, is_own: bool) -> dict[str, StoredArray]:
        """Return the arrays that are read, of the task's own outputs or of others."""
        own = set(map(self._arrays.plain, self.model.written_paths))
        found: dict[str, StoredArray] = {}
        for name, read in self.model.reads.items():
            if isinstance(read, TableReadModel):
                continue
            path = read if isinstance(read, str) else read.array
            if (self._arrays.plain(path) in own) is is_own:
                stored = self._arrays.array(path, f"{self._place}.reads.{name}")
                found |= {name: stored} if stored is not None else {}
        return found

    def _reads(self, measures: Measures, stored: Mapping[str, StoredArray]) -> dict[str, Read]:
        found = {}
        for name, array in stored.items():
            model = self.model.reads[name]
            assert not isinstance(model, TableReadModel)  # of that no array is stored
            select, fill = ({}, None) if isinstance(model, str) else (model.select, model.fill)
            info = measures.info(array, f"reads.{name}", select)
            if info is None:
                continue
            found[name] = Read(info, fill)
            if isinstance(fill, int | float) and not holds(info.dtype, fill):
                path = model if isinstance(model, str) else model.array
                self._say(f"reads.{name}.fill", f"{info.dtype} of {path} cannot hold {fill}")
        return found

    def _mask(self) -> StoredArray | None:
        path = self.model.mask
        if path is None:
            return None
        writer = self._arrays.writer(path)
        if writer is not None:
            self._say(
                "mask",
                f"{path} is written by {writer}, but masks are read before anything runs; make "
                "it with a pipeline of its own",
            )
            return None
        return self._arrays.array(path, f"{self._place}.mask")

    def _check_units(
        self, ruler: ArrayInfo | None, uses: Iterable[Read | Write], mask: ArrayInfo | None
    ) -> None:
        """Refuse arrays that measure one axis in different units, unless all are converted."""
        first: dict[int, tuple[ArrayInfo, str]] = {}
        for array in filter(None, [ruler, *(use.array for use in uses), mask]):
            for axis, text in enumerate(array.units):
                name = unit_name(text)
                if not name:
                    continue
                other, wanted = first.setdefault(axis, (array, name))
                if name != wanted:
                    finer = min(name, wanted, key=lambda unit: conversion(unit, "meter"))
                    self._say(
                        "reads",
                        f"{other.path} is in {wanted}, {array.path} in {name}; set unit: {finer} "
                        "at the top, then both are converted to it",
                    )
                    return

    def _contexts(
        self, measures: Measures, reads: dict[str, Read]
    ) -> tuple[Context, dict[str, Read]]:
        """Return what a block reads of all arrays together, and the reads with that of each.

        Where no read says how much, none is told apart from the others.
        """
        default = measures.sides(self.model.context, "context")
        own = {
            name: measures.sides(read.context, f"reads.{name}.context")
            for name, read in self.model.reads.items()
            if isinstance(read, ReadModel) and read.context is not None
        }
        if not own:
            return default, reads
        found = {name: replace(r, context=own.get(name, default)) for name, r in reads.items()}
        lower, upper = (tuple(map(max, *side)) for side in zip(default, *own.values(), strict=True))
        return (lower, upper), found
