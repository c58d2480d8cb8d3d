"""What a function will import when it is called, so that it can be imported before.

Many functions have their imports inside. A worker then pays for them at its first block, unless the
process that it was forked from has imported the same.
"""

from __future__ import annotations

import contextlib
import dis
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any, NamedTuple

__all__ = ["Import", "imports_of", "perform"]


class Import(NamedTuple):
    """A module, and names of it that are used; some modules load what is behind one only then."""

    module: str
    names: tuple[str, ...] = ()


def imports_of(function: Callable[..., Any]) -> list[Import]:
    """Return what a function, or the methods of a class, import when they are called.

    Functions of the same module that they call are looked into as well. It is what stands in their
    code, whether it will come to it or not.
    """
    found: dict[Import, None] = {}
    seen: set[CodeType] = set()
    for one in _functions_of(function):
        _collect(one, found, seen)
    return list(found)


def perform(wanted: Import) -> bool:
    """Import a module and touch its names; false if the module cannot be imported."""
    try:
        module = importlib.import_module(wanted.module)
    except Exception:  # it may stand behind a condition, or in a try: the function will see
        return False
    for name in wanted.names:
        with contextlib.suppress(Exception):
            getattr(module, name, None)
    return True


def _functions_of(function: Any) -> Iterator[FunctionType]:
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else function
    if inspect.isclass(function):
        yield from (f for f in vars(function).values() if inspect.isfunction(f))
    elif inspect.ismethod(function):
        yield from _functions_of(type(function.__self__))
    elif inspect.isfunction(function):
        yield function
    elif not inspect.isbuiltin(function):
        yield from _functions_of(type(function))


def _collect(function: FunctionType, found: dict[Import, None], seen: set[CodeType]) -> None:
    """Add what a function imports, and those that it calls by a global name."""
    if function.__code__ in seen:
        return
    package = function.__globals__.get("__package__") or ""
    for code in _codes(function.__code__):
        seen.add(code)
        used = tuple(sorted(set(code.co_names)))
        for name, names in _import_statements(code, package):
            found[Import(name, names or used)] = None
            for inner in names:  # which may be a module, too
                found[Import(f"{name}.{inner}", used)] = None
        for name in used:
            other = function.__globals__.get(name)
            if inspect.isfunction(other) and other.__module__ == function.__module__:
                _collect(other, found, seen)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _import_statements(code: CodeType, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield module and ``from`` names of every import statement in a code object."""
    constants: list[Any] = [0, None]  # the two that were loaded last
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level, names = constants
            name = "." * (level or 0) + str(step.argval)
            with contextlib.suppress(ImportError):  # relative, and in no package
                yield (
                    importlib.util.resolve_name(name, package) if level else name,
                    tuple(n for n in names or () if n != "*"),
                )
        elif step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants = [constants[-1], step.argval]
