"""What the user declared, checked as a whole: tasks in an order in which upstream comes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from funlib.geometry import Roi

from snakemake_blocks.errors import SpecError
from snakemake_blocks.system.location import Names
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.task import After, Task

__all__ = ["Pipeline", "set_up_name"]


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """Tasks that belong together.

    Parameters
    ----------
    tasks : tuple of Task
        Upstream tasks first.
    upstream : dict of str to tuple of str
        Names of the direct upstream tasks of every task.
    name : str
        For messages and headers, e.g. ``pipeline.yaml``.
    folder : Path
        Where array paths and modules of functions are looked up.
    run_directory : Path
        Where state is kept.
    """

    tasks: tuple[Task, ...]
    upstream: dict[str, tuple[str, ...]]
    name: str
    folder: Path
    run_directory: Path

    @classmethod
    def from_tasks(
        cls,
        tasks: Sequence[Task],
        *,
        folder: Path,
        run_directory: Path,
        name: str = "python",
    ) -> Pipeline:
        """Return the pipeline of ``tasks`` and of the upstream tasks that they name.

        Raises
        ------
        SpecError
            Without any task, on duplicate names, dangling names and cycles.
        """
        names_of = Names(folder)
        found = [_renamed(task, names_of) for task in _with_upstream(tasks)]
        found = [part for task in found for part in _with_set_up(task, found)]
        if not found:
            raise SpecError(["there is no task; give at least one"])
        names = [task.task_id for task in found]
        problems = [
            f"task {n}: there are {names.count(n)} different tasks of this name; rename all but one"
            for n in sorted(set(names))
            if names.count(n) > 1
        ]
        if problems:
            raise SpecError(problems)
        upstream = {task.task_id: _upstream_names(task, found) for task in found}
        problems = [*_mask_problems(found), *_table_problems(found)]
        problems += [
            f"task {n}: after: there is no task {up!r}; known are {', '.join(names)}"
            for n in names
            for up in upstream[n]
            if up not in names
        ]
        if problems:
            raise SpecError(problems)
        order = _sorted(names, upstream)
        by_name = {task.task_id: task for task in found}
        problems = list(_shared_problems([by_name[n] for n in order], upstream))
        if problems:
            raise SpecError(problems)
        return cls(tuple(by_name[n] for n in order), upstream, name, folder, run_directory)


def _with_upstream(tasks: Sequence[Task]) -> Iterator[Task]:
    """Yield the tasks and, before each, the upstream task objects it names; each object once."""
    seen: set[int] = set()

    def visit(task: Task) -> Iterator[Task]:
        if id(task) in seen:
            return
        seen.add(id(task))
        for up in task.upstream_tasks or ():
            yield from visit(up)
        yield task

    for task in tasks:
        yield from visit(task)


def _with_set_up(task: Task, tasks: Sequence[Task]) -> list[Task]:
    """Return a task with the one that runs before its first block, if it asks for any.

    That is a task of its own, so it is recorded, and done again, as all are: when its function or
    whatever decides what blocks compute is another, or a set-up of an upstream task is done again,
    which may have begun with a new file. Then all blocks follow, for they wait for it.
    """
    operation = task.operation
    if operation.set_up is None or operation.call.is_once:
        return [task]
    names = _upstream_names(task, tasks)
    before = [t.task_id for t in tasks if t.task_id in names and t.operation.set_up is not None]
    scope = {"block_size": list(task.scale.grid(task.grid).block_size)}
    scope |= operation.identity(task.scale)
    once = Roi((0,), (1,))
    first = Task(
        task_id=set_up_name(task.task_id),
        total_roi=once,
        read_roi=once,
        write_roi=once,
        process_function=operation.set_up.given or operation.set_up.name,
        call=Call.SET_UP,
        params=operation.params,
        max_retries=task.max_retries,
        resources=task.budget.resources,
        after=[After(set_up_name(name)) for name in before],
        scope={key: value for key, value in scope.items() if key != "params"},
    )
    return [first, task.changed(after=[*task.after, After(first.task_id, whole=True)])]


def set_up_name(task: str) -> str:
    """Return what the task is called that sets a task up."""
    return f"{task}_set_up"


def _shared_problems(tasks: Sequence[Task], upstream: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield which outputs several tasks make that have no order."""
    before: dict[str, set[str]] = {}
    makers: dict[str, str] = {}
    for task in tasks:
        name = task.task_id
        before[name] = {*upstream[name], *(n for up in upstream[name] for n in before[up])}
        for path in task.operation.outputs:
            other = makers.setdefault(path, name)
            if other != name and other not in before[name]:
                yield (
                    f"task {comment(name)}: outputs: {path} is made by task {comment(other)}, too, "
                    "and neither waits for the other; name one of them in after of the other"
                )
            makers[path] = name


def _renamed(task: Task, names: Names) -> Task:
    """Return the task with one name for every array, however it is called elsewhere."""

    def info(array: ArrayInfo) -> ArrayInfo:
        name = names.of(array.path)
        return array if name == array.path else replace(array, path=name)

    old = task.operation
    writes = {name: replace(w, array=info(w.array)) for name, w in old.writes.items()}
    reads = {name: replace(r, array=info(r.array)) for name, r in old.reads.items()}
    mask = task.mask and info(task.mask)
    outputs = tuple(map(names.of, old.outputs))
    if (writes, reads, mask, outputs) == (old.writes, old.reads, task.mask, old.outputs):
        return task
    return task.changed(reads=reads, writes=writes, outputs=outputs, mask=mask)


def _upstream_names(task: Task, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Return named upstream tasks and those that write an array which ``task`` reads."""
    names = [up.task_id for up in task.upstream_tasks or ()]
    names += [up.task for up in task.waits]
    names += [read.task for read in task.operation.table_reads.values()]
    read = {array.path for array in task.operation.inputs}
    for other in tasks:
        if other is not task and read & {array.path for array in other.operation.written}:
            names.append(other.task_id)
    return tuple(dict.fromkeys(names))


def _mask_problems(tasks: Sequence[Task]) -> Iterator[str]:
    """Yield which masks are written: they were read before anything runs."""
    writers = {array.path: task.task_id for task in tasks for array in task.operation.written}
    for task in tasks:
        if task.mask is not None and task.mask.path in writers:
            yield (
                f"task {comment(task.task_id)}: mask: {task.mask.path} is written by task "
                f"{comment(writers[task.mask.path])}, but masks are read before anything runs; "
                "make it with a pipeline of its own"
            )


def _table_problems(tasks: Sequence[Task]) -> Iterator[str]:
    """Yield which tables are read that nobody makes."""
    made = {task.task_id: list(task.operation.tables) for task in tasks}
    for task in tasks:
        for name, read in task.operation.table_reads.items():
            if read.task in made and read.table not in made[read.task]:
                known = ", ".join(made[read.task]) or "none"
                yield (
                    f"task {comment(task.task_id)}: reads.{name}: task {comment(read.task)} has no "
                    f"table {read.table!r}; known are {known}"
                )


def _sorted(names: Sequence[str], upstream: dict[str, tuple[str, ...]]) -> list[str]:
    """Return the names with upstream first, otherwise in the order given."""
    order: list[str] = []
    waiting = list(names)
    while waiting:
        ready = next((n for n in waiting if all(up in order for up in upstream[n])), None)
        if ready is None:
            raise SpecError([f"tasks {_cycle(waiting, upstream)}: wait for one another; cut one"])
        order.append(ready)
        waiting.remove(ready)
    return order


def _cycle(waiting: Sequence[str], upstream: dict[str, tuple[str, ...]]) -> str:
    path = [waiting[0]]
    while path[-1] not in path[:-1]:
        path.append(next(up for up in upstream[path[-1]] if up in waiting))
    return " -> ".join(reversed(path[path.index(path[-1]) :]))
