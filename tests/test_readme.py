"""tests/README.md names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent


def names_of(file: str) -> set[str]:
    """Return the tests of a file, with the class that they are in."""
    tree = ast.parse((HERE / file).read_text())
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            members = (m for m in node.body if isinstance(m, ast.FunctionDef))
            found |= {f"{node.name}::{member.name}" for member in members}
    return found


def test_all_that_it_names_is_there() -> None:
    text = (HERE / "README.md").read_text()
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)::([\w:]+)`", text)
    assert len(named) == text.count(".py::") > 90
    missing = [f"{file}::{name}" for file, name in named if name not in names_of(file)]
    assert missing == []
    for kind in (*range(1, 11), 12):
        assert f"\n| {kind} | " in text
