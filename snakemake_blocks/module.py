"""The pipeline as a Snakemake module: plans in the main process, reads the plan in every other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.generating import prepare
from snakemake_blocks.rules import Rules
from snakemake_blocks.spec import load_pipeline

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
    root = os.path.relpath(pipeline.run_directory)
    prefix = _prefix(workflow)
    if workflow.is_main_process:
        prepare(replace(pipeline, run_directory=Path(prefix + root)))
    rules = Rules(root, prefix)
    for task in rules.tasks:
        if task.max_workers is not None:
            workflow.register_resource(f"{task.slug}_workers", task.max_workers)
    return rules


def _prefix(workflow: Any) -> str:
    """Return what Snakemake puts before the paths of the module that is being read."""
    marker = "snakemake-blocks-probe"
    modified = str(workflow.modifier.path_modifier.modify(marker, "output"))
    return modified.removesuffix(marker)
