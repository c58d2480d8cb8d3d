"""pipeline.yaml -> Pipeline: reads the file and says all that is wrong with it at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.spec.catalogue import Catalogue
from snakemake_blocks.spec.description import UNKNOWN_FUNCTION, Describer
from snakemake_blocks.spec.operation_form import OperationModel, pipeline_model
from snakemake_blocks.spec.schema import PipelineModel, problems_of
from snakemake_blocks.spec.yaml_text import YamlError, parse_yaml
from snakemake_blocks.storage.lattice import StoredArray
from snakemake_blocks.system.files import read_file
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.task import Task

__all__ = ["load_pipeline", "tasks_of"]

# Reading more takes longer than anyone should wait for a message.
_MOST = 1 << 20
# Stand in for what is wrong, such that nothing else is held against the task.
_HARMLESS: dict[str, dict[str, Any]] = {
    "fit": {"fit": "overhang"},
    "function": {"function": UNKNOWN_FUNCTION},
    "map": {"map": UNKNOWN_FUNCTION},
    "merge": {"merge": UNKNOWN_FUNCTION},
    "writes": {"call": "block"},
}


def load_pipeline(path: Path | str, operations: Sequence[type[OperationModel]] = ()) -> Pipeline:
    """Return the pipeline that a YAML file describes, with all arrays looked up.

    Parameters
    ----------
    path : path
        The file.
    operations : sequence of classes
        What ``use`` may name in it.

    Raises
    ------
    InputError
        If there is no such file.
    SpecError
        With every problem of the file at once.
    """
    path = Path(path)
    try:
        return _pipeline(path, _mapping(path), pipeline_model(operations))
    except SpecError as error:
        raise SpecError([f"{path.name}: {p}" for p in dict.fromkeys(error.problems)]) from None


def tasks_of(
    name: str,
    form: Mapping[str, Any],
    operations: Sequence[type[OperationModel]],
    upstream: Sequence[Task],
    *,
    unit: str = "",
) -> list[Task]:
    """Return the tasks that one form becomes, in the folder in which this process is.

    Parameters
    ----------
    name : str
        The task.
    form : mapping
        As in a file.
    operations : sequence of classes
        What ``use`` may name.
    upstream : sequence of Task
        Tasks that write arrays which are still to be made.
    unit : str
        What a world unit is.

    Raises
    ------
    SpecError
        With all that is wrong.
    """
    data = {"tasks": {name: dict(form)}, **({"unit": unit} if unit else {})}
    model, problems, _ = _model(data, pipeline_model(operations))
    arrays = Catalogue(Path.cwd(), model.tasks, _written(data, model), model.unit or "")
    made = (array for task in upstream for array in task.operation.written if not array.exists)
    for array in made:
        arrays.declare(StoredArray.of_new(array))
    tasks = Describer(arrays, [name], set()).tasks()
    if problems or arrays.problems:
        raise SpecError(problems + arrays.problems)
    return tasks


def _pipeline(path: Path, data: dict[Any, Any], form: type[PipelineModel]) -> Pipeline:
    model, problems, unsure = _model(data, form)
    names = [str(name) for name in data["tasks"]]
    arrays = Catalogue(path.parent, model.tasks, _written(data, model), model.unit or "")
    tasks = Describer(arrays, names, unsure).tasks()
    if problems or arrays.problems:
        raise SpecError(problems + arrays.problems)
    return Pipeline.from_tasks(
        tasks,
        folder=path.parent,
        run_directory=path.parent / model.run_directory,
        name=path.name,
    )


def _mapping(path: Path) -> dict[Any, Any]:
    """Return what the file says, before its form is checked."""
    try:
        data = parse_yaml(read_file(path, most=_MOST).decode())
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError([f"is not UTF-8 text ({error.reason})"]) from None
    except YamlError as error:
        raise SpecError([str(error)]) from None
    if not isinstance(data, dict):
        what = "is empty" if data is None else "is not a mapping of keys to values"
        raise SpecError([f"{what}; describe your tasks under the key tasks"])
    return data


def _model(
    data: dict[Any, Any], form: type[PipelineModel]
) -> tuple[PipelineModel, list[str], set[str]]:
    """Return the checked form, what is wrong and left out of it, and of which tasks.

    So the rest can still be checked against the arrays on disk, and everything is said at once.
    """
    try:
        return form.model_validate(data), [], set()
    except ValidationError as error:
        found = problems_of(error)
    problems = [f"{'.'.join(str(k) or repr('') for k in place)}: {text}" for place, text in found]
    tasks = {str(place[1]) for place, _ in found if len(place) > 1}
    try:
        rest = form.model_validate(_without(data, [place for place, _ in found]))
        return rest, problems, tasks
    except ValidationError:
        raise SpecError(problems) from None


def _without(data: dict[Any, Any], places: Iterable[tuple[Any, ...]]) -> dict[Any, Any]:
    """Return the data without what is wrong, and without tasks that cannot do without it."""
    rest = copy.deepcopy(data)
    for top, *inner in places:
        tasks = rest.get("tasks")
        if not inner or not isinstance(tasks, dict):
            rest.pop(top, None)
            continue
        name, *keys = inner
        if not keys or keys[0] in ("roi", "block_size") or "use" in (tasks.get(name) or ()):
            tasks.pop(name, None)
        elif name in tasks:
            tasks[name].pop(keys[0], None)
            tasks[name].update(_HARMLESS.get(keys[0], {}))
    return rest


def _written(data: dict[Any, Any], model: PipelineModel) -> list[tuple[str, str]]:
    """Return path and task of every array written, as far as the form allows to tell."""
    named = [
        (write["array"] if isinstance(write, dict) else write, str(name))
        for name, task in data["tasks"].items()
        if isinstance(task, dict) and isinstance(task.get("writes"), dict)
        for write in task["writes"].values()
        if isinstance(write, str) or (isinstance(write, dict) and "array" in write)
    ]
    forms = [(path, name) for name, form in model.tasks.items() for path in form.written_paths]
    return [(path, name) for path, name in dict.fromkeys(named + forms) if isinstance(path, str)]
