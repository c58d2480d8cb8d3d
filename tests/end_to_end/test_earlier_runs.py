"""Run directories that an earlier version made, before modules moved into folders, go on.

tests/golden/earlier holds two: of four blocks of an array, done; and of a function given in
Python, with two blocks to do. Its pickle refers to `Block` and `Client` where they were then.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from project import Project

EARLIER = Path(__file__).parents[1] / "golden" / "earlier"


@pytest.fixture
def earlier(project: Project, request: pytest.FixtureRequest) -> Project:
    """Return a copy of the project that the test names."""
    shutil.copytree(EARLIER / request.param, project.folder, dirs_exist_ok=True)
    return project


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.e2e
@pytest.mark.parametrize("earlier", ["arrays"], indirect=True)
def test_what_is_done_is_not_done_again(earlier: Project) -> None:
    folders = [earlier.folder / name for name in ("blocks/double/ledger", "s.zarr")]
    before = [contents(folder) for folder in folders]
    assert all(before)
    plain = earlier.snakemake("--snakefile", "blocks/Snakefile", "--cores", "1")
    assert plain.returncode == 0, plain.stderr
    run = earlier.blocks("run", "pipeline.yaml", "--cores", "1")
    assert run.returncode == 0, run.stderr
    assert earlier.blocks("verify").returncode == 0
    assert [contents(folder) for folder in folders] == before


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pickle holds code of Python 3.11")
@pytest.mark.parametrize("earlier", ["pickled"], indirect=True)
def test_a_pickled_function_finds_what_it_refers_to(earlier: Project) -> None:
    before = earlier.records("loop")
    (earlier.folder / "go").touch()
    work = earlier.blocks("work", "blocks/loop")
    assert work.returncode == 0, work.stdout + work.stderr
    after = earlier.records("loop")
    assert len(before) == 2 and len(after) == 4
    assert {index: after[index] for index in before} == before
