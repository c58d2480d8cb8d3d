"""What a function's source tells without importing it: planning must not load a model."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import read_file
from snakemake_blocks.tasks.functions import FunctionRef, import_name, importable_from
from snakemake_blocks.tasks.operation import Call
from snakemake_blocks.tasks.source_hash import hash_of_module, hash_of_object

__all__ = ["FunctionFacts", "call_problems", "facts_of", "missing_function"]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """What is known of a task's function without running it.

    Parameters
    ----------
    source : str
        Short hash of its code, empty if there is none to read; see :mod:`.source_hash`.
    has_setup : bool
        It is a class, built once per worker.
    """

    source: str = ""
    has_setup: bool = False


def facts_of(function: FunctionRef, folder: Path) -> FunctionFacts:
    """Return what planning has to know of a function; imports nothing.

    Raises
    ------
    InputError
        If the function's module is missing or is not Python.
    """
    given = function.given
    if given is not None and not import_name(given):
        return FunctionFacts(hash_of_object(given, folder), inspect.isclass(given))
    module, _, attribute = function.name.partition(":")
    source = _Source.of(module, folder)
    if source is None:
        return FunctionFacts()
    node = source.definition(attribute)
    code = hash_of_module(module, source.path, folder)
    return FunctionFacts(code, isinstance(node, ast.ClassDef) or inspect.isclass(given))


def missing_function(name: str, folder: Path) -> str:
    """Return what is wrong with ``module:name``, empty if it can be found."""
    module, _, attribute = name.partition(":")
    try:
        source = _Source.of(module, folder)
    except InputError as error:
        return str(error)
    return source.lack_of(attribute) if source else ""


def call_problems(
    name: str,
    folder: Path,
    *,
    call: Call,
    reads: Collection[str],
    params: Collection[str],
    tables: Collection[str] = (),
    offered: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Return why a function cannot be called as declared, as (key, explanation).

    Empty where the source does not tell: behind decorators, and for classes that inherit.

    Parameters
    ----------
    name : str
        ``module:name``.
    folder : Path
        The pipeline's folder.
    call : Call
        How it is called.
    reads, params, tables : collection of str
        Names of what it is given; ``reads`` are arrays.
    offered : collection of str
        Names of what it is given if it has an argument of that name.
    """
    module, _, attribute = name.partition(":")
    source = _Source.of(module, folder)
    node = source.definition(attribute) if source else None
    gets_arrays = call in (Call.ARRAYS, Call.ONCE)
    given = {f"reads.{n}": n for n in (*(reads if gets_arrays else ()), *tables)}
    given_params = {f"params.{n}": n for n in params}
    first = call is Call.BLOCK
    if first and (argument := _first_argument(node)) in reads:
        return [
            (
                "call",
                f"is block, so {name} would get the block as {argument}, which is the name of an "
                "array in reads; use call: arrays, or give the argument another name",
            )
        ]
    if not isinstance(node, ast.ClassDef):
        signature = _Signature.of(node, skip=int(first))
        given |= given_params
        return signature.problems(name, given, call, offered) if signature else []
    built, called = (_method(node, n) for n in ("__init__", "__call__"))
    signature = _Signature.of(built, skip=1)
    found = signature.problems(f"{name}.__init__", given_params) if signature else []
    signature = _Signature.of(called, skip=1 + first) if call is not Call.WORKER else None
    more = signature.problems(f"{name}.__call__", given, call, offered) if signature else []
    return found + more


def _first_argument(node: _Definition | None) -> str:
    """Return the name of what a block is given as; empty if it is not known."""
    at = 0
    if isinstance(node, ast.ClassDef):
        node, at = _method(node, "__call__"), 1
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return ""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return names[at] if len(names) > at else ""


@dataclass(frozen=True, slots=True)
class _Signature:
    """Keyword arguments that a function takes."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    any_more: bool
    too_few: bool

    @classmethod
    def of(cls, node: _Definition | None, *, skip: int) -> _Signature | None:
        """Return the signature without the first ``skip`` arguments, None if it is unknown."""
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            return None
        a = node.args
        positional = [*a.posonlyargs, *a.args]
        with_default = positional[len(positional) - len(a.defaults) :]
        names = [p.arg for p in positional[skip:]]
        optional = {p.arg for p in with_default}
        optional |= {p.arg for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d}
        names += [p.arg for p in a.kwonlyargs]
        return cls(
            tuple(n for n in names if n not in optional),
            tuple(n for n in names if n in optional),
            a.kwarg is not None,
            len(positional) < skip and a.vararg is None,
        )

    def problems(
        self,
        name: str,
        given: dict[str, str],
        call: Call | None = None,
        offered: Collection[str] = (),
    ) -> list[tuple[str, str]]:
        """Return why it cannot be called with the given keywords."""
        takes = (*self.required, *self.optional)
        if self.too_few:
            return [("function", f"{name} takes no block; add the argument, or use call: worker")]
        known = ", ".join(takes) or "nothing by keyword"
        found = [
            (place, f"{name} has no argument of this name; it takes {known}")
            for place, keyword in given.items()
            if keyword not in takes and not self.any_more
        ]
        own = {*given.values(), *offered, *(["block"] if call is Call.ARRAYS else [])}
        missing = [n for n in self.required if n not in own]
        where = "reads or params" if call is Call.ARRAYS else "params"
        if missing:
            found.append(("function", f"{name} needs {', '.join(missing)}; add to {where}"))
        return found


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name), None)


@dataclass(frozen=True, slots=True)
class _Source:
    """A module's file and what it means."""

    path: Path
    tree: ast.Module

    @classmethod
    def of(cls, module: str, folder: Path) -> _Source | None:
        """Return the source of a module, None if it has none (compiled, built in).

        Raises
        ------
        InputError
            If there is no such module, or it is not Python.
        """
        with importable_from(folder):
            spec = _spec(module)
        if spec is None:
            file = f"{module.replace('.', '/')}.py"
            raise InputError(
                f"there is no module {module}; put {file} beside the pipeline or install it"
            )
        path = Path(spec.origin or "")
        if path.suffix != ".py":
            return None
        try:
            return cls(path, ast.parse(read_file(path).decode()))
        except SyntaxError as error:
            raise InputError(f"{path.name}, line {error.lineno}: {error.msg}") from None
        except (RecursionError, MemoryError):
            raise InputError(f"{path.name}: is nested too deeply for Python") from None
        except (FileNotFoundError, ValueError) as error:  # ValueError: not UTF-8, null bytes
            raise InputError(f"{path.name}: cannot be read ({error})") from None

    def definition(self, attribute: str) -> _Definition | None:
        """Return where a function or class is defined, None if that is not plain to see."""
        body: list[ast.stmt] = self.tree.body
        found: _Definition | None = None
        for part in attribute.split("."):
            binding = [n for n in body if part in _bound_by(n)]
            if not binding or not isinstance(binding[-1], _Definition):
                return None
            found = binding[-1]
            body = found.body
        return found

    def lack_of(self, attribute: str) -> str:
        """Return why importing the module cannot give it a function ``a.b``, empty if it may."""
        first, _, rest = attribute.partition(".")
        if not self._binds(first):
            return f"{self.path.name} defines no {first}"
        binding = [n for n in self.tree.body if first in _bound_by(n)]
        last = binding[-1] if binding else None
        if isinstance(last, ast.Assign) and isinstance(last.value, ast.Constant):
            return f"{first} of {self.path.name} is {last.value.value!r}, not a function"
        if isinstance(last, ast.ClassDef) and rest and not last.bases and not last.keywords:
            inner = rest.partition(".")[0]
            if not any(inner in _bound_by(n) for n in last.body):
                return f"{first} of {self.path.name} defines no {inner}"
        return ""

    def _binds(self, name: str) -> bool:
        names = {n for node in self.tree.body for n in _bound_by(node)}
        for node in ast.walk(self.tree):
            names.update(node.names if isinstance(node, ast.Global) else ())
        return bool(names & {name, "*", "__getattr__"})


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module is, without importing its parent packages."""
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((s for s in found if s is not None), None)
        path = spec.submodule_search_locations if spec else None
        if spec is None or (path is None and depth < len(parts)):
            return getattr(sys.modules.get(module), "__spec__", None)
    return spec


def _bound_by(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds, those of inner statements included."""
    if isinstance(node, _Definition):
        yield node.name
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((a.asname or a.name).partition(".")[0] for a in node.names)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from _bound_by(child)
