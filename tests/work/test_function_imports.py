"""What functions import when they are called (`imports`)."""

from __future__ import annotations

import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snakemake_blocks.work.function_imports import Import, imports_of, perform

MODULE = """
    import os
    from functools import wraps

    def plain(block):
        import json
        from xml import dom
        return json.dumps(dom)

    def calls(block):
        return helper(block)

    def helper(block):
        def inner():
            import csv
            return csv.reader
        return inner()

    def recursive(block):
        import bisect
        return recursive(block)

    def relative(block):
        from . import sibling
        from .sibling import value
        return value

    def conditional(block):
        if os.name == "never":
            import no_such_module
        import colorsys
        return colorsys

    class Model:
        def __init__(self):
            import wave
            self.wave = wave
        def __call__(self, block):
            import uuid
            return uuid

    def wrapped(function):
        @wraps(function)
        def outer(block):
            return function(block)
        return outer

    decorated = wrapped(plain)
    nothing = lambda block: None
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    package = tmp_path / "inner_imports"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sibling.py").write_text("value = 1")
    (package / "code.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    return importlib.import_module("inner_imports.code")


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("plain", ["json", "xml", "xml.dom"]),
        ("calls", ["csv"]),
        ("recursive", ["bisect"]),
        ("relative", ["inner_imports", "inner_imports.sibling", "inner_imports.sibling.value"]),
        ("conditional", ["no_such_module", "colorsys"]),
        ("Model", ["wave", "uuid"]),
        ("decorated", ["json", "xml", "xml.dom"]),
        ("nothing", []),
    ],
)
def test_what_stands_in_the_code(module: Any, name: str, modules: list[str]) -> None:
    found = imports_of(getattr(module, name))
    assert list(dict.fromkeys(one.module for one in found)) == modules
    assert imports_of(partial(getattr(module, name), output="x")) == found


def test_of_an_object_those_of_its_class(module: Any) -> None:
    assert [one.module for one in imports_of(module.Model())] == ["wave", "uuid"]
    assert imports_of(module.Model().__call__) == imports_of(module.Model)


def test_builtins_import_nothing() -> None:
    assert imports_of(print) == []


def test_names_that_load_something_when_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As packages do that load their parts lazily."""
    (tmp_path / "lazy_parts.py").write_text(
        "touched = []\ndef __getattr__(name):\n    touched.append(name)\n    return name\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def use(block: object) -> Any:
        import lazy_parts

        return lazy_parts.big_part

    for one in imports_of(use):
        perform(one)
    assert "big_part" in sys.modules["lazy_parts"].touched


def test_what_cannot_be_imported_is_left_to_the_function() -> None:
    assert perform(Import("no_such_module")) is False
    assert perform(Import("json", ("dumps", "no_such_name"))) is True
