"""``run_blockwise`` in a notebook: functions of its cells, a running event loop, a resume."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from project import BIN, Project, stamps

CELLS = [
    """
    import asyncio
    from functools import partial
    from pathlib import Path

    import snakemake_blocks as sb

    asyncio.get_running_loop()  # raises where there is none
    line = sb.Roi((0,), (10,))
    """,
    """
    def note(name, block):
        with open(name, "a") as file:
            file.write(f"{block.index[0] * scale}\\n")

    def fail_at_first(block):
        if block.index[0] == 2 and not Path("repaired").exists():
            raise RuntimeError("not repaired")
        note("second.txt", block)

    def task(name, function, **more):
        return sb.Task(name, sb.Roi((0,), (40,)), line, line, function,
                       read_write_conflict=False, max_retries=0, num_workers=2, **more)

    scale = 3
    """,
    """
    first = task("first", partial(note, "first.txt"))
    print("first:", bool(sb.run_blockwise([first])))
    """,
    """
    second = task("second", fail_at_first)
    print("second:", bool(sb.run_blockwise([second], run_directory="blocks")))
    """,
    """
    Path("repaired").touch()
    result = sb.run_blockwise([second], run_directory="blocks")
    print("resumed:", bool(result), result["second"].completed_count)
    """,
]


def cell(text: str) -> dict[str, Any]:
    lines = [line.removeprefix("    ") for line in text.strip("\n").splitlines()]
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": "\n".join(lines).strip(),
    }


def execute(path: Path) -> list[str]:
    """Execute a notebook and return what its cells show."""
    notebook = {
        "cells": [cell(text) for text in CELLS],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    path.write_text(json.dumps(notebook))
    home = {name: str(path.parent) for name in ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
    # Under pytest a kernel would not show what processes write that it starts.
    here = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [BIN / "jupyter-execute", "--inplace", path.name],
        cwd=path.parent,
        env={**here, **home, "PATH": "/usr/bin:/bin", "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return ["".join(_texts(c["outputs"])) for c in json.loads(path.read_text())["cells"]]


def _texts(outputs: list[dict[str, Any]]) -> list[str]:
    found = [output.get("text") or output["data"]["text/plain"] for output in outputs]
    return ["".join(text) for text in found]


@pytest.mark.e2e
def test_runs_twice_in_a_row_and_resumes(project: Project) -> None:
    _, _, first, second, resumed = execute(project.folder / "notebook.ipynb")
    assert "first: True" in first
    assert "first: 4 of 4 blocks done" in first, "progress, from another process"
    assert "total" in first, "the summary"
    notes = (project.folder / "first.txt").read_text().split()
    assert sorted(notes) == ["0", "3", "6", "9"]
    assert "second: False" in second and "RuntimeError: not repaired" in second
    assert "resumed: True 4" in resumed
    lines = (project.folder / "second.txt").read_text().split()
    assert sorted(lines) == ["0", "3", "6", "9"], "no block twice"
    assert len(stamps(project.records("second"))) == 4
