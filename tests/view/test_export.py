from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from faults import Scene, line
from rich.console import Console

from snakemake_blocks.state.status import read_status
from snakemake_blocks.view.export import write_csv
from snakemake_blocks.view.report import print_status

NAMES = [
    "a,b",
    "new\nline",
    "\x1b[2J\x1b]0;title\x07",
    'quo"te',
    "=1+1",
    "tab\tand\rreturn",
    "[bold]",
]


# faults: kind 9
@pytest.mark.parametrize("name", NAMES)
class TestHostileNames:
    @pytest.fixture
    def scene(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
        monkeypatch.chdir(tmp_path)
        made = Scene(tmp_path)
        made.functions("def f(block): note(block); 1 / block.index[0]")
        made.plan(line(name, "functions:f", shape=(2,)))
        made.run(name)
        return made

    def test_a_table_has_them_whole(self, scene: Scene, name: str) -> None:
        path = scene.folder / "table.csv"
        assert write_csv(scene.in_place, scene.root, path) == 2
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["task"], row["event"]) for row in rows] == [(name, "failed"), (name, "done")]

    def test_a_terminal_gets_no_orders(self, scene: Scene, name: str) -> None:
        out = io.StringIO()
        status = read_status(scene.in_place, scene.root)
        print_status(status, Console(file=out, width=200))
        assert all(c.isprintable() or c == "\n" for c in out.getvalue())
        assert "ZeroDivisionError at functions.py" in out.getvalue()
