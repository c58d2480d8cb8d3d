# faults: kind 8
from __future__ import annotations

import functools
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from project import Project

from snakemake_blocks.tasks.functions import FunctionRef
from snakemake_blocks.tasks.sources import facts_of

FILES = {
    "functions.py": """
        import json, helper, inner.deep
        from parts import mask as m
        from . import nothing

        def f(block):
            from late import value
            return used(value)

        def used(x):
            return x + 1
        """,
    "helper.py": "from nested import *\nX = 1\n",
    "nested.py": "Y = 1\n",
    "late.py": "import importlib\nvalue = importlib.import_module('dynamic')\n",
    "dynamic.py": "Z = 1\n",
    "inner/__init__.py": "A = 1\n",
    "inner/deep.py": "from . import sibling\nfrom .. import other\nfrom .sub.leaf import b\n",
    "inner/sibling.py": "B = 1\n",
    "inner/sub/leaf.py": "b = 1\n",
    "parts/__init__.py": "",
    "parts/mask.py": "C = 1\n",
    "parts/other.py": "D = 1\n",
    "unrelated.py": "E = 1\n",
    ".venv/lib/site-packages/late2.py": "F = 1\n",
}


@pytest.fixture
def folder(project: Project) -> Path:
    for name, text in FILES.items():
        (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name == "functions.py":
            project.functions(text)
        else:
            (project.folder / name).write_text(text)
    return project.folder


def source(folder: Path) -> str:
    return facts_of(FunctionRef.of("functions:f"), folder).source


class TestModules:
    @pytest.mark.parametrize(
        "name",
        ["functions.py", "helper.py", "nested.py", "late.py", "dynamic.py", "inner/__init__.py",
         "inner/deep.py", "inner/sibling.py", "inner/sub/leaf.py", "parts/__init__.py",
         "parts/mask.py"],
    )  # fmt: skip
    def test_what_is_imported_counts_and_comments_do_not(self, folder: Path, name: str) -> None:
        before = source(folder)
        path = folder / name
        path.write_text("# a comment\n\n" + path.read_text() + "\n\n# more\n")
        assert source(folder) == before
        path.write_text(path.read_text() + "\nNEW = 2\n")
        assert source(folder) != before

    def test_what_is_a_link_in_the_folder_counts(self, folder: Path, tmp_path: Path) -> None:
        """faults: kind 2: a helper that many projects link to was edited, and nothing ran again."""
        (tmp_path / "shared").mkdir(exist_ok=True)
        for name in ("helper.py", "inner"):
            (folder / name).rename(tmp_path / "shared" / name)
            (folder / name).symlink_to(tmp_path / "shared" / name)
        first = source(folder)
        (tmp_path / "shared" / "helper.py").write_text("from nested import *\nX = 2\n")
        second = source(folder)
        (tmp_path / "shared" / "inner" / "sibling.py").write_text("B = 2\n")
        assert len({first, second, source(folder)}) == 3

    @pytest.mark.parametrize("name", ["parts/other.py", "unrelated.py"])
    def test_what_is_not_imported_does_not_count(self, folder: Path, name: str) -> None:
        before = source(folder)
        (folder / name).write_text("NEW = 2\n")
        assert source(folder) == before

    def test_layout_does_not_count_and_positions_do_not(self, folder: Path) -> None:
        before = source(folder)
        path = folder / "functions.py"
        text = path.read_text().replace("x + 1", "(\n        x  # plus\n        + 1\n    )")
        path.write_text(text)
        assert source(folder) == before

    def test_a_compiled_or_broken_module_counts_as_it_is(self, folder: Path) -> None:
        for name in ("nested.so", "sibling.py"):
            path = folder / ("inner" if name == "sibling.py" else ".") / name
            path.write_bytes(b"def (\x00")
            before = source(folder)
            assert before
            path.write_bytes(b"def (\x01")
            assert source(folder) != before

    def test_modules_that_import_each_other(self, folder: Path) -> None:
        (folder / "nested.py").write_text("import functions, helper\n")
        assert source(folder)

    def test_installed_modules_do_not_count(self, folder: Path) -> None:
        assert facts_of(FunctionRef.of("math:sin"), folder).source == ""
        assert facts_of(FunctionRef.of("scipy.ndimage:gaussian_filter"), folder).source != ""


def program(name: str, text: str) -> dict[str, Any]:
    """Run a text as a notebook does: in the module __main__, known to linecache alone."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), names)
    return names


SCRIPT = """
import functools
import helper
SIGMA = 3
OTHER = 4
def base(x):
    return x + SIGMA
def unused(x):
    return OTHER
class Model:
    def run(self, x):
        return base(x)
class Sub(Model):
    def __call__(self, block):
        return self.run(block)
def f(block):
    return Model().run(block)
def g(block):
    return helper.X
bound = functools.partial(base, 1)
anonymous = lambda block: base(block)
"""


class TestPrograms:
    @pytest.fixture(autouse=True)
    def _importable(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(folder))
        for name in ("helper", "nested"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    def of(self, folder: Path, pick: str, old: str = "", new: str = "") -> str:
        names = program(f"<cell {pick} {old} {new}>", SCRIPT.replace(old, new) if old else SCRIPT)
        value: Callable[..., Any] = names[pick]
        assert isinstance(value, FunctionType | type | functools.partial)
        return facts_of(FunctionRef.of(value), folder).source

    @pytest.mark.parametrize("pick", ["f", "bound", "anonymous", "Model"])
    def test_what_is_referred_to_counts_and_nothing_else(self, folder: Path, pick: str) -> None:
        before = self.of(folder, pick)
        assert before
        assert self.of(folder, pick, "x + SIGMA", "x - SIGMA") != before
        assert self.of(folder, pick, "SIGMA = 3", "SIGMA = 5") != before
        assert self.of(folder, pick, "OTHER = 4", "OTHER = 5") == before
        assert self.of(folder, pick, "x + SIGMA", "(x  # a comment\n    + SIGMA)") == before

    def test_a_module_of_the_folder_counts(self, folder: Path) -> None:
        before = self.of(folder, "g")
        (folder / "nested.py").write_text("Y = 2\n")
        assert self.of(folder, "g") != before

    def test_what_a_function_closes_over_counts(self, folder: Path) -> None:
        def make(number: int) -> Callable[[object], int]:
            return lambda block: number

        assert (
            facts_of(FunctionRef.of(make(1)), folder).source
            == facts_of(FunctionRef.of(make(1)), folder).source
            != ""
        )
        assert (
            facts_of(FunctionRef.of(make(1)), folder).source
            != facts_of(FunctionRef.of(make(2)), folder).source
        )

    def test_without_a_source_it_is_not_known(self, folder: Path) -> None:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec("def f(block): pass", names)
        assert facts_of(FunctionRef.of(names["f"]), folder).source == ""
