"""The pipeline as a Snakemake module: plans in the main process, reads the plan in every other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_blocks.commands.generate import prepare
from snakemake_blocks.engine.input_functions import Rules
from snakemake_blocks.engine.internals import is_main_process, module_prefix, register_limit
from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.registry import load_pipeline
from snakemake_blocks.system.location import way_to

__all__ = ["module_rules"]


def module_rules(config: Mapping[str, Any], workflow: Any) -> Rules:
    """Return what workflow/Snakefile needs.

    Parameters
    ----------
    config : mapping
        ``pipeline``: path of the pipeline.yaml, relative to the folder that Snakemake runs in.
    workflow : snakemake.workflow.Workflow
        The running workflow; a module's ``prefix:`` is read from it.

    Raises
    ------
    InputError
        Without ``pipeline``.
    """
    if "pipeline" not in config:
        raise InputError("config: pipeline is missing; name the pipeline.yaml")
    pipeline = load_pipeline(Path(config["pipeline"]))
    root = way_to(pipeline.run_directory, Path.cwd())
    prefix = module_prefix(workflow)
    if is_main_process(workflow):
        prepare(replace(pipeline, run_directory=Path(prefix + root)))
    rules = Rules(root, prefix)
    for task in rules.tasks:
        if task.budget.max_workers is not None:
            register_limit(workflow, f"{task.slug}_workers", task.budget.max_workers)
    return rules
