"""What the code of a function is: parsed, without comments, with all that it stands on.

That is the function's module and every module of the pipeline's folder that it imports, however
deep; for a function without an import path (a script's or a notebook's) its own definition and
those that it refers to by name. Nothing is imported for it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import read_file
from snakemake_blocks.tasks.functions import stable_text

__all__ = ["hash_of_module", "hash_of_object"]

_VALUE = "value "
_COMPILED = (".so", ".pyd")
_IMPORTERS = ("import_module", "__import__")


def hash_of_module(name: str, path: Path, folder: Path) -> str:
    """Return a short hash of a module's code and of what it imports from ``folder``.

    Parameters
    ----------
    name : str
        The module.
    path : Path
        Its file.
    folder : Path
        The pipeline's folder.
    """
    found = _Modules(folder.resolve())
    found.add_module(name, path)
    return found.digest()


def hash_of_object(function: Callable[..., Any], folder: Path) -> str:
    """Return a short hash of the definition of a function that has no import path.

    Empty if its source is not known.
    """
    found = _Modules(folder.resolve())
    _Definitions(found, _home_of(function)).add("", function)
    known = any(not name.startswith(_VALUE) for name in found.codes)
    return found.digest() if known else ""


def _home_of(function: Any) -> str:
    """Return the module in which a function, or the class of an object, was defined."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__module__", None) or type(function).__module__


@dataclass(slots=True)
class _Modules:
    """Code by name, gathered along imports."""

    folder: Path
    codes: dict[str, str] = field(default_factory=dict)
    roots: list[Path] = field(default_factory=list)

    def digest(self) -> str:
        """Return a short hash of all that was gathered."""
        text = "\n".join(f"{name}\t{code}" for name, code in sorted(self.codes.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def add_module(self, name: str, path: Path) -> None:
        """Take in a module and what it imports from the folder, transitively."""
        parts = len(name.split(".")) + (path.stem == "__init__")
        root = path.resolve().parents[parts - 1]
        self.roots = [self.folder, *([root] if self._is_ours(root / path.name) else [])]
        waiting = [(name, path)]
        while waiting:
            name, path = waiting.pop()
            if name in self.codes:
                continue
            content = _read(path)
            parsed = None if path.suffix in _COMPILED else _parsed(content)
            self.codes[name] = parsed.code if parsed else hashlib.sha256(content).hexdigest()
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            for imported in parsed.modules(package) if parsed else ():
                waiting += self.find(imported)

    def find(self, name: str) -> Iterator[tuple[str, Path]]:
        """Yield a module of the folder and the packages around it, with their files."""
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            for root in self.roots or [self.folder]:
                path = _file_of(root.joinpath(*parts[:depth]))
                if path is not None and self._is_ours(path):
                    yield ".".join(parts[:depth]), path
                    break

    def _is_ours(self, path: Path) -> bool:
        """Tell whether a file, or a link to it, lies in the folder, and not in an environment."""
        real = path.resolve()
        return (
            any(place.is_relative_to(self.folder) for place in (path, real))
            and not {"site-packages", "dist-packages"} & set(real.parts)
            and not real.is_relative_to(sysconfig.get_path("stdlib"))
        )


def _file_of(stem: Path) -> Path | None:
    """Return the file that Python imports for a module's place, None if there is none."""
    package = stem / "__init__.py"
    if package.is_file():
        return package
    if not stem.parent.is_dir():
        return None
    compiled = [p for p in stem.parent.glob(f"{stem.name}.*") if p.suffix in _COMPILED]
    if compiled:
        return min(compiled)
    module = stem.with_name(f"{stem.name}.py")
    return module if module.is_file() else None


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except (OSError, InputError):  # who runs it will be told
        return b""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The code of a file, and what it imports as (dots in front, module, names)."""

    code: str
    imports: tuple[tuple[int, str, tuple[str, ...]], ...]

    def modules(self, package: str) -> Iterator[str]:
        """Yield names of what may be modules, as imported inside of a package."""
        for level, module, names in self.imports:
            above = package.split(".") if package else []
            above = above[: len(above) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            if base:
                yield base
            yield from (f"{base}.{name}" if base else name for name in names)


@lru_cache(maxsize=1024)
def _parsed(content: bytes) -> _Parsed | None:
    """Return what Python makes of a file, None if it makes nothing of it."""
    try:
        tree = ast.parse(content)
        return _Parsed(_hash_of(tree), tuple(_imports(tree)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(a.name for a in node.names)
        elif isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in _IMPORTERS and isinstance(first, ast.Constant):
                text = str(first.value)
                yield len(text) - len(text.lstrip(".")), text.lstrip("."), ()


def _hash_of(node: ast.AST) -> str:
    return hashlib.sha256(_text(node).encode(errors="surrogatepass")).hexdigest()


def _text(value: Any) -> str:
    """Return code without positions; what is empty is left out, as Python versions differ in it."""
    if isinstance(value, ast.AST):
        fields = (f"{n}={_text(v)}" for n, v in ast.iter_fields(value) if v is not None and v != [])
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return repr(value)


@dataclass(slots=True)
class _Definitions:
    """Definitions of a running program, gathered along the names that they refer to."""

    modules: _Modules
    home: str
    _seen: set[int] = field(default_factory=set)

    def add(self, name: str, value: Any) -> None:
        """Take in what a name stands for, and all that this refers to."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, FunctionType | type) and not self._is_near(value.__module__):
            return
        if isinstance(value, partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.add(f"{name}()", part)
        elif isinstance(value, MethodType):
            self.add(name, value.__func__)
            self.add(f"{name}.self", value.__self__)
        elif isinstance(value, ModuleType):
            self._add_module(value)
        elif isinstance(value, FunctionType):
            inner = inspect.unwrap(value)
            if inner is not value:
                self.add(f"{name}.wrapped", inner)
            self._add_definition(name, value, _nodes_of(value.__code__), _names_of(value))
        elif isinstance(value, type):
            self._add_class(name, value)
        elif type(value).__module__ == "__main__" or callable(value):
            self.add(f"{name}.type", type(value))
        else:
            self.modules.codes[f"{_VALUE}{name}"] = stable_text(value)

    def _is_near(self, module: str | None) -> bool:
        """Tell whether a module is the program's, and no library."""
        if module in (None, "__main__", self.home):
            return module is not None
        return any(self.modules.find(str(module)))

    def _add_module(self, module: ModuleType) -> None:
        for name, path in self.modules.find(module.__name__):
            self.modules.add_module(name, path)

    def _add_class(self, name: str, kind: type) -> None:
        functions = [f for f in vars(kind).values() if isinstance(f, FunctionType)]
        nodes: list[ast.AST] = []
        for function in functions:
            tree = _tree_of(function.__code__.co_filename)
            nodes += (
                [
                    n
                    for n in ast.walk(tree)
                    if isinstance(n, ast.ClassDef) and n.name == kind.__name__
                ]
                if tree
                else []
            )
        names: dict[str, Any] = {}
        for function in functions:
            names |= _names_of(function)
        if functions or kind.__module__ != "builtins":
            self._add_definition(name, kind, nodes, names)

    def _add_definition(
        self, name: str, value: Any, nodes: list[ast.AST], names: Mapping[str, Any]
    ) -> None:
        """Take in code that was defined here; of an imported module, the module as a whole."""
        home = getattr(value, "__module__", None) or "__main__"
        here = list(self.modules.find(home)) if home != "__main__" else []
        if here:
            for module, path in here:
                self.modules.add_module(module, path)
        elif nodes:
            self.modules.codes[f"definition {name}"] = "".join(map(_hash_of, nodes))
            for node in nodes:
                self._add_imports(node)
                self._add_names(node, names)

    def _add_imports(self, node: ast.AST) -> None:
        parsed = _Parsed("", tuple(_imports(node)))
        for imported in parsed.modules(""):
            for module, path in self.modules.find(imported):
                self.modules.add_module(module, path)

    def _add_names(self, node: ast.AST, names: Mapping[str, Any]) -> None:
        for below in ast.walk(node):
            found = _value_of(below, names)
            if found is not _Unknown:
                self.add(ast.unparse(below), found)


class _Unknown:
    """What a name stands for that is none of the program's."""


def _value_of(node: ast.AST, names: Mapping[str, Any]) -> Any:
    """Return what a name, or a name in a module, stands for."""
    if isinstance(node, ast.Name):
        return names.get(node.id, _Unknown)
    if isinstance(node, ast.Attribute):
        owner = _value_of(node.value, names)
        if isinstance(owner, ModuleType):
            return getattr(owner, node.attr, _Unknown)
    return _Unknown


def _names_of(function: FunctionType) -> dict[str, Any]:
    """Return what the names in a function stand for: its globals, and what it closes over."""
    names = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return names


def _nodes_of(code: CodeType) -> list[ast.AST]:
    """Return the definitions that a function's code may come from; more than one for lambdas."""
    tree = _tree_of(code.co_filename)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return [
        node
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, kinds)
        and getattr(node, "name", "<lambda>") == code.co_name
        and code.co_firstlineno
        == min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    ]


def _tree_of(file: str) -> ast.Module | None:
    try:
        return _parsed_text("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@lru_cache(maxsize=64)
def _parsed_text(text: str) -> ast.Module:
    return ast.parse(text)
