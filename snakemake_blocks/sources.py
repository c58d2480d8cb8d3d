"""What a function's source tells without importing it: planning must not load a model."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from snakemake_blocks.functions import importable_from
from snakemake_blocks.planning import FunctionFacts

__all__ = ["facts_of", "missing_function"]


def facts_of(function: Callable[..., Any] | str, folder: Path) -> FunctionFacts:
    """Return what planning has to know of a function; imports parent packages at most."""
    if isinstance(function, str):
        node, text = _find(function, folder)
        if node is None:
            return FunctionFacts()
        segment = ast.get_source_segment(text, node) or ""
        return FunctionFacts(_short_hash(segment), isinstance(node, ast.ClassDef))
    while isinstance(function, partial):
        function = function.func
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = ""
    return FunctionFacts(_short_hash(source) if source else "", inspect.isclass(function))


def missing_function(name: str, folder: Path) -> str:
    """Return what is wrong with ``module:name``, empty if it can be found."""
    module, _, attribute = name.partition(":")
    path = _module_file(module, folder)
    if path is None:
        return f"there is no module {module}; put {module}.py beside the pipeline or install it"
    if path.suffix != ".py":
        return ""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"{path.name}:{error.lineno}: {error.msg}"
    first = attribute.partition(".")[0]
    if first in _bound_names(tree):
        return ""
    return f"module {module} has no {first}"


def _find(name: str, folder: Path) -> tuple[ast.stmt | None, str]:
    module, _, attribute = name.partition(":")
    path = _module_file(module, folder)
    if path is None or path.suffix != ".py":
        return None, ""
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    found: ast.stmt | None = None
    for part in attribute.split("."):
        found = next((n for n in body if getattr(n, "name", None) == part), None)
        if found is None:
            return None, text
        body = getattr(found, "body", [])
    return found, text


def _module_file(module: str, folder: Path) -> Path | None:
    """Return the file of a module, None if there is no such module."""
    with importable_from(folder):
        importlib.invalidate_caches()
        try:
            spec = importlib.util.find_spec(module)
        except (ModuleNotFoundError, ValueError):
            return None
    if spec is None:
        return None
    return Path(spec.origin) if spec.origin else folder


def _bound_names(tree: ast.Module) -> set[str]:
    """Return the names that the top level of a module binds (any, after a star import)."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((a.asname or a.name).partition(".")[0] for a in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _short_hash(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]
