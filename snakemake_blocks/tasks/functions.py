"""The user's functions: named in a plan, loaded in a worker.

A function with an import path travels as ``module:name``. Anything else (closures, partials,
functions of a notebook) is pickled with cloudpickle into the run directory, and the plan names
the hash of the pickle, so that nothing else is ever unpickled.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import json
import os
import pickletools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import read_file
from snakemake_blocks.tasks.forms import fitting, is_text, matching

__all__ = [
    "FunctionRef",
    "import_name",
    "importable_from",
    "is_function_form",
    "load",
    "modules_of",
    "stable_text",
]


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """A function by name.

    Parameters
    ----------
    name : str
        ``module:qualified.name``; for a pickled function a readable description.
    pickle : str
        sha256 of the pickle in the run directory's ``functions`` folder; empty for an import.
    given : callable, optional
        The function itself, in the program that it was given to.
    """

    name: str
    pickle: str = ""
    given: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, function: Callable[..., Any] | str) -> FunctionRef:
        """Return the reference to a function; nothing is pickled."""
        if isinstance(function, str):
            return cls(function)
        return cls(import_name(function) or _describe(function), given=function)

    def pickled(self) -> tuple[FunctionRef, bytes]:
        """Return how other processes find the function, and its pickle (empty for an import).

        Raises
        ------
        InputError
            If the function, or something that it holds, cannot be pickled.
        """
        if self.given is None or import_name(self.given):
            return FunctionRef(self.name, self.pickle), b""
        import cloudpickle

        try:
            payload: bytes = cloudpickle.dumps(self.given)
        except Exception as error:
            raise InputError(_why_not_pickled(self.name, self.given, error)) from None
        return FunctionRef(self.name, hashlib.sha256(payload).hexdigest()), payload

    def to_json(self) -> dict[str, str]:
        """Return a JSON-ready mapping."""
        return {"name": self.name, "pickle": self.pickle}

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> FunctionRef:
        """Return the reference described by :meth:`to_json`."""
        return cls(data["name"], data["pickle"])


is_function_form = fitting({"name": is_text, "pickle": matching("|[0-9a-f]{64}")})
"""Tells whether what JSON gave describes a function as :meth:`FunctionRef.to_json` does."""


def import_name(function: Callable[..., Any]) -> str:
    """Return ``module:name`` by which a function can be imported, empty if it cannot."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if module not in (None, "__main__") and _leads_to(module, name, function):
        return f"{module}:{name}"
    return ""


def _why_not_pickled(name: str, function: Callable[..., Any], error: Exception) -> str:
    import cloudpickle

    culprit = ""
    for what, value in _held_by(function):
        try:
            cloudpickle.dumps(value)
        except Exception as reason:
            culprit, error = f"{what} is a {type(value).__name__}: ", reason
            break
    text = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"{name} cannot be sent to workers ({culprit}{text[0]}); open or make it inside the "
        "function or in a class (built once per worker), or put the function into a module, or run "
        "with multiprocessing=False"
    )


def _held_by(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what travels with a function, as (words for it, value)."""
    if isinstance(function, functools.partial):
        yield from ((f"bound argument {n}", v) for n, v in enumerate(function.args))
        yield from ((f"bound argument {name!r}", v) for name, v in function.keywords.items())
        yield from _held_by(function.func)
        return
    owner = getattr(function, "__self__", None)
    if owner is not None and not inspect.ismodule(owner):
        yield from ((f"attribute {name!r} of its object", v) for name, v in _attributes(owner))
    elif not inspect.isroutine(function) and not inspect.isclass(function):
        yield from ((f"attribute {name!r}", v) for name, v in _attributes(function))
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is not None:
        found = inspect.getclosurevars(function)
        yield from ((f"variable {name!r}", v) for name, v in found.nonlocals.items())
        yield from ((f"global variable {name!r}", v) for name, v in found.globals.items())
        defaults = getattr(function, "__defaults__", None) or ()
        yield from (("a default argument", value) for value in defaults)


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(owner, "__dict__", {}).items()


def _leads_to(module: str, name: str, function: Callable[..., Any]) -> bool:
    """Tell whether importing a name gives this function, and not one that it wraps or binds."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def _describe(function: Callable[..., Any]) -> str:
    """Return a stable name: two processes that run the same script give the same."""
    if isinstance(function, functools.partial):
        bound = [stable_text(a) for a in function.args]
        bound += [f"{k}={stable_text(v)}" for k, v in sorted(function.keywords.items())]
        return f"{_describe(function.func)}({', '.join(bound)})"
    module = getattr(function, "__module__", type(function).__module__)
    name = f"{module}:{getattr(function, '__qualname__', type(function).__qualname__)}"
    owner = getattr(function, "__self__", None)
    return name if owner is None or inspect.ismodule(owner) else f"{name} of {stable_text(owner)}"


def stable_text(value: Any) -> str:
    """Return a text that depends on the value and not on the process."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        text = repr(value)
        return type(value).__qualname__ if " at 0x" in text else text


def load(ref: FunctionRef, functions: Path) -> Callable[..., Any]:
    """Return the function that a plan names; the one at hand, where it was given.

    Parameters
    ----------
    ref : FunctionRef
        The reference.
    functions : Path
        Folder of the pickles.

    Raises
    ------
    InputError
        If there is no such module, name or pickle, or the pickle is not the one of the plan.
    """
    if ref.given is not None:
        return ref.given
    if ref.pickle:
        return _unpickle(ref, functions)
    module_name, _, name = ref.name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise InputError(
            f"{ref.name}: there is no module {module_name}; put {module_name}.py beside the "
            "pipeline or install it"
        ) from None
    if other := _taken_by(module_name.partition(".")[0]):
        raise InputError(f"{ref.name}: {other}; rename one of the two")
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"{ref.name}: module {module_name} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{ref.name}: is a {type(found).__name__}, not a function or class")
    return found  # type: ignore[no-any-return]


def _taken_by(package: str) -> str:
    """Say that another module has a name already than the one found now; empty if it has not.

    Python imports a name once: what was imported first stays, wherever it lies.
    """
    found = PathFinder.find_spec(package)
    wanted = found.origin if found is not None and found.has_location else None
    there = getattr(sys.modules.get(package), "__file__", None)
    if wanted is None or (there and os.path.realpath(there) == os.path.realpath(wanted)):
        return ""
    return (
        f"{wanted} is meant, but {there or 'a part of Python'} is imported under its name already"
    )


def modules_of(ref: FunctionRef, functions: Path) -> set[str]:
    """Return the modules that :func:`load` imports; nothing is imported or unpickled.

    Parameters
    ----------
    ref : FunctionRef
        The reference.
    functions : Path
        Folder of the pickles.

    Raises
    ------
    InputError
        If the pickle is missing or is not the one of the plan.
    """
    if not ref.pickle:
        return {ref.name.partition(":")[0]}
    found: set[str] = set()
    memo: list[object] = []
    last: list[object] = [None, None]  # the two values pushed last; only texts matter
    for opcode, argument, _ in pickletools.genops(_payload(ref, functions)):
        if opcode.name == "MEMOIZE":
            memo.append(last[1])
        elif opcode.name not in ("FRAME", "PROTO"):
            value: object = argument
            if opcode.name in ("BINGET", "LONG_BINGET"):
                value = memo[int(argument or 0)]
            module = value
            if opcode.name == "STACK_GLOBAL":
                module, value = last
            elif last[1] != "subimport":  # cloudpickle's function that imports a module
                module = None
            if isinstance(module, str):
                found.add(module)
            last = [last[1], value]
    return found


def _unpickle(ref: FunctionRef, functions: Path) -> Callable[..., Any]:
    import cloudpickle

    return cloudpickle.loads(_payload(ref, functions))  # type: ignore[no-any-return]


def _payload(ref: FunctionRef, functions: Path) -> bytes:
    path = functions / f"{ref.pickle}.pkl"
    try:
        payload = read_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: the pickle of {ref.name} is missing; plan again") from None
    if hashlib.sha256(payload).hexdigest() != ref.pickle:
        raise InputError(f"{path}: is not the pickle that the plan names; plan again")
    return payload


@contextlib.contextmanager
def importable_from(folder: Path) -> Iterator[None]:
    """Let modules of ``folder`` be imported, as Python does for a script's own folder."""
    text = str(folder.resolve())
    sys.path.insert(0, text)
    try:
        yield
    finally:
        sys.path.remove(text)
