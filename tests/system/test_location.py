"""Arrays are the same if they lie at the same place, whatever they are called."""

# faults: kind 2
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project

from snakemake_blocks.commands.generate import check_pipeline, generate, make_plan
from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.registry import load_pipeline
from snakemake_blocks.system.location import Names, is_inside, is_same, place_of, way_to
from snakemake_blocks.tasks.pipeline import Pipeline


def test_links_lead_to_one_place(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/in")
    (tmp_path / "dangling").symlink_to("real/later")
    same = [("link", "real/in"), ("link/..", "real"), ("link/x/y", "real/in/x/y")]
    for one, other in [*same, ("dangling/a", "real/later/a")]:
        assert place_of(tmp_path / one) == place_of(tmp_path / other)
    assert place_of(tmp_path / "link" / ".." / "x") != place_of(tmp_path / "x")
    names = Names(tmp_path)
    assert names.of("link/a") == names.of("real/in/a") == names.of(f"{tmp_path}/link/a") == "link/a"
    assert names.of("link/../in/b", "in/b") == "link/../in/b"


@pytest.mark.parametrize("made", [True, False])
def test_the_way_between_folders_is_one_that_the_system_goes(tmp_path: Path, made: bool) -> None:
    (tmp_path / "disk" / "deep" / "home").mkdir(parents=True)
    (tmp_path / "home").symlink_to("disk/deep/home")
    if made:
        (tmp_path / "runs" / "blocks").mkdir(parents=True)
    home, root = tmp_path / "home", tmp_path / "runs" / "blocks"
    assert way_to(root, home) == "../../../runs/blocks"  # and not ../runs/blocks
    assert is_same(home / way_to(root, home), root)
    assert way_to(home / "blocks", home) == "blocks"
    assert way_to(home, root) == "../../home"


def test_what_lies_inside(tmp_path: Path) -> None:
    (tmp_path / "real" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for path in ("real/in/x/y", "link/in", "link", "real/in/.."):
        assert is_inside(tmp_path / path, tmp_path / "link")
    for path in ("link/..", "linked", "real/../x"):
        assert not is_inside(tmp_path / path, tmp_path / "link")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(InputError, match="its links lead in a circle"):
        place_of(tmp_path / "a" / "x")


def task(source: str, target: str) -> dict[str, Any]:
    return {
        "function": "functions:same",
        "call": "arrays",
        "reads": {"raw": source},
        "writes": {"out": {"array": target, "dtype": "int64"}},
        "roi": "s.zarr/raw",
        "block_size": [4],
        "conflict": False,
    }


@pytest.fixture
def linked(project: Project) -> Project:
    project.functions("def same(raw):\n    return raw\n")
    project.array("s.zarr/raw", np.arange(8), voxel_size=[1], offset=[0])
    (project.folder / "alias.zarr").symlink_to("out.zarr")  # not there yet
    return project


@pytest.fixture(params=["a link", "an absolute path through a linked home"])
def other(request: pytest.FixtureRequest, linked: Project, tmp_path: Path) -> str:
    """Another name of out.zarr/x."""
    if request.param == "a link":
        return "alias.zarr/x"
    (tmp_path / "home").symlink_to(linked.folder)
    return f"{tmp_path}/home/out.zarr/x"


def test_two_writers_by_two_names_are_refused(linked: Project, other: str) -> None:
    linked.write(("a", task("s.zarr/raw", "out.zarr/x")), ("b", task("s.zarr/raw", other)))
    _, proof = check_pipeline("pipeline.yaml")
    assert any("writes out.zarr/x, and so does" in text for text in proof.violations)


def test_a_reader_by_another_name_waits(linked: Project, other: str) -> None:
    linked.write(("a", task("s.zarr/raw", "out.zarr/x")), ("b", task(other, "t.zarr/y")))
    plan = make_plan("pipeline.yaml")
    assert plan.tasks["b"].upstream == ("a",)
    linked.write(("a", task("s.zarr/raw", "out.zarr/x")), ("b", task("out.zarr/x", "t.zarr/y")))
    plain = make_plan("pipeline.yaml")
    assert plain.tasks["b"].fingerprint == plan.tasks["b"].fingerprint


def test_a_reader_by_another_name_keeps_no_stale_input(linked: Project, other: str) -> None:
    def do() -> list[int]:
        generate(linked.pipeline)
        for name in ("a", "b"):
            assert linked.cli("work", f"blocks/{name}").exit_code == 0
        assert linked.cli("verify", "blocks").exit_code == 0
        return linked.read("t.zarr/y").tolist()  # type: ignore[no-any-return]

    first = task("s.zarr/raw", "out.zarr/x")
    first |= {"function": "functions:plus", "params": {"add": 1}}
    linked.functions("def same(raw): return raw\ndef plus(raw, add): return raw + add\n")
    linked.write(("a", first), ("b", task(other, "t.zarr/y")))
    assert do() == list(range(1, 9))
    linked.write(("a", {**first, "params": {"add": 5}}), ("b", task(other, "t.zarr/y")))
    assert do() == list(range(5, 13))


def test_tasks_in_python_wait_likewise(linked: Project) -> None:
    from dataclasses import replace

    linked.write(("a", task("s.zarr/raw", "out.zarr/x")), ("b", task("out.zarr/x", "t.zarr/y")))
    a, b = load_pipeline("pipeline.yaml").tasks
    read = b.operation.reads["raw"]
    b = replace(b, reads={"raw": replace(read, array=replace(read.array, path="alias.zarr/x"))})
    found = Pipeline.from_tasks([a, b], folder=Path.cwd(), run_directory=Path.cwd() / "blocks")
    assert found.upstream["b"] == ("a",)
