"""Whether all that a pipeline names has a place of its own, and its functions are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from snakemake_blocks.storage.foreign import is_foreign
from snakemake_blocks.storage.metadata import is_array
from snakemake_blocks.system.location import is_inside, lost_link, place_of, way_to
from snakemake_blocks.system.quoting import comment
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.pipeline import Pipeline
from snakemake_blocks.tasks.sources import missing_function
from snakemake_blocks.tasks.task import Task

__all__ = ["place_problems"]


def place_problems(pipeline: Pipeline) -> list[str]:
    """Return what is wrong with the places of arrays, files, functions and the run directory."""
    return [
        *_run_directory_problems(pipeline),
        *_nesting_problems(pipeline),
        *_file_problems(pipeline),
        *(text for task in pipeline.tasks for text in _function_problems(pipeline, task)),
    ]


def _run_directory_problems(pipeline: Pipeline) -> list[str]:
    """Return why Snakefiles cannot name the run directory, or state would mix with data."""
    root, place = pipeline.run_directory, f"{pipeline.name}: run_directory"
    if is_inside(pipeline.folder, root):
        return [f"{place}: {root} holds the pipeline itself; name a folder of its own"]
    in_the_way = next(p for p in (root, *root.absolute().parents) if p.exists())
    if not in_the_way.is_dir():
        return [f"{place}: {in_the_way} is a file; name a folder"]
    if lost := lost_link(root):
        return [f"{place}: {lost}"]
    for path in map(os.path.realpath, (root, pipeline.folder)):
        if "{" in path or "}" in path:
            return [f"{place}: {path}: Snakemake takes what is in braces for a name; rename it"]
    name = way_to(root, pipeline.folder)
    wrong = sorted({c for c in name if c in '{}"\\*?[]$`' or not c.isprintable()})
    if wrong:
        return [f"{place}: {name!r} has {' '.join(map(repr, wrong))} in it; choose a plain name"]
    return []


def _nesting_problems(pipeline: Pipeline) -> Iterator[str]:
    """Yield which arrays or files lie in others or in the run directory, or that in one of them.

    It is told by where they lie, be they there or still to be made.
    """
    root = f"{pipeline.name}: run_directory"
    things = {root: pipeline.run_directory}
    for task in pipeline.tasks:
        operation = task.operation
        for name in (*_arrays_of(task), *operation.outputs, *operation.parquet):
            things.setdefault(name, pipeline.folder / name)
    places = {place_of(path): name for name, path in reversed(things.items())}
    # Of one file, or of a volume with scales, several arrays may be read.
    paths = {array.path for task in pipeline.tasks for array in _inputs_of(task)}
    read = {path for path in paths if is_foreign(path, pipeline.folder)}
    for name, path in things.items():
        above = Path(os.path.realpath(path)).parents
        inside = next((n for p in above if (n := places.get(place_of(p))) not in (None, name)), "")
        if name == root and not inside:
            inside = next((str(p) for p in above if is_array(p)), "")
        if inside and not (name in read and inside in read):
            yield f"{name}: lies inside of {inside}; choose another path"


def _arrays_of(task: Task) -> list[str]:
    return [array.path for array in (*_inputs_of(task), *task.operation.written)]


def _inputs_of(task: Task) -> list[ArrayInfo]:
    return [*task.operation.inputs, *([task.mask] if task.mask else ())]


def _file_problems(pipeline: Pipeline) -> Iterator[str]:
    """Yield which files that tasks make are arrays, or the Parquet file of another table."""
    folder, tasks = pipeline.folder, pipeline.tasks
    taken = {place_of(folder / path): "an array" for t in tasks for path in _arrays_of(t)}
    for task in tasks:
        for path in task.operation.outputs:
            if what := taken.get(place_of(folder / path)):
                yield f"task {comment(task.task_id)}: outputs: {path} is {what}; name another file"
    for task in tasks:
        taken |= {place_of(folder / path): "an output" for path in task.operation.outputs}
    for task in tasks:
        for path in task.operation.parquet:
            if what := taken.get(place := place_of(folder / path)):
                yield f"task {comment(task.task_id)}: parquet: {path} is {what}; name another file"
            taken[place] = "the Parquet file of another table"


def _function_problems(pipeline: Pipeline, task: Task) -> list[str]:
    return [
        f"task {comment(task.task_id)}: {key}: {text}"
        for key, function in task.operation.functions.items()
        if function.given is None and (text := missing_function(function.name, pipeline.folder))
    ]
