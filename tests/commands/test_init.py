from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from project import Project

from snakemake_blocks import load_pipeline
from snakemake_blocks.commands.generate import check_pipeline, generate
from snakemake_blocks.commands.init import init_pipeline
from snakemake_blocks.errors import InputError
from snakemake_blocks.work.job import work_sentinel


def run(project: Project) -> None:
    plan, _ = generate(project.pipeline)
    for job in plan.jobs("process"):
        assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0


@pytest.mark.parametrize(
    "attributes, shape",
    [
        ({}, (40, 30)),
        ({"voxel_size": [4, 2], "offset": [-8, 6], "units": ["nm", "nm"]}, (40, 30)),
        ({"voxel_size": [0.5, 0.25], "units": ["um", "um"]}, (40, 30)),
        ({"voxel_size": [2, 2]}, (3, 40, 30)),
    ],
)
@pytest.mark.parametrize("name", ["raw", "it is: [a] #name", "0"])
def test_what_it_writes_runs_and_copies_the_array(
    project: Project, attributes: dict[str, Any], shape: tuple[int, ...], name: str
) -> None:
    values = np.random.default_rng(1).integers(0, 99, shape, np.uint16)
    project.array(f"s.zarr/{name}", values, chunks=(8,) * len(shape), **attributes)
    told = init_pipeline([f"s.zarr/{name}"], project.pipeline)
    assert len(told) == 2 and check_pipeline(project.pipeline)[1].holds
    run(project)
    np.testing.assert_array_equal(project.read(f"s_processed.zarr/{name}"), values)


def test_a_level_of_an_image_and_what_lies_beside_it(project: Project) -> None:
    project.array("a.ome.zarr/0", np.zeros((8, 8)), voxel_size=[2, 2])
    project.array("a.ome.zarr/labels/nuclei/0", np.zeros((8, 8), np.uint32), voxel_size=[2, 2])
    init_pipeline(["a.ome.zarr/0", "a.ome.zarr/labels/nuclei/0"], project.pipeline)
    (task,) = load_pipeline(project.pipeline).tasks
    assert list(task.operation.reads) == ["a", "nuclei"]
    assert [array.path for array in task.operation.written] == ["a_processed.ome.zarr/0"]


def test_arrays_in_several_units(project: Project) -> None:
    project.array("s.zarr/nm", np.zeros((20, 30)), voxel_size=[100, 100], units=["nm", "nm"])
    project.array("s.zarr/um", np.zeros((2, 3)), voxel_size=[1, 1], units=["um", "um"])
    init_pipeline(["s.zarr/nm", "s.zarr/um"], project.pipeline)
    assert "unit: nanometer" in project.pipeline.read_text()
    (task,) = load_pipeline(project.pipeline).tasks
    assert [a.voxel_size for a in task.operation.inputs] == [(100, 100), (1000, 1000)]
    assert check_pipeline(project.pipeline)[1].holds


def test_several_units_in_which_nothing_is_whole(project: Project) -> None:
    project.array("s.zarr/nm", np.zeros((20, 30)), voxel_size=[0.5, 0.5], units=["nm", "nm"])
    project.array("s.zarr/um", np.zeros((2, 3)), voxel_size=[0.005, 0.005], units=["um", "um"])
    init_pipeline(["s.zarr/nm", "s.zarr/um"], project.pipeline)
    assert "unit: nanometer" in project.pipeline.read_text()
    assert check_pipeline(project.pipeline)[1].holds


def test_a_movie_is_cut_at_every_point_in_time(project: Project) -> None:
    values = np.random.default_rng(1).integers(0, 99, (5, 2, 40, 30), np.uint16)
    project.array("m.zarr/raw", values, chunks=(1, 1, 8, 8), resolution=[1 / 3, 1 / 3])
    attributes = {"axis_names": list("tcyx"), "types": ["channel"] * 2 + ["space"] * 2}
    zarr.open_array(project.folder / "m.zarr/raw", mode="r+").attrs.update(attributes)
    init_pipeline(["m.zarr/raw"], project.pipeline)
    assert "block_size: {voxels: {t: 1, y: " in project.pipeline.read_text()
    (task,) = load_pipeline(project.pipeline).tasks
    assert task.grid.shape[0] == 5
    run(project)
    np.testing.assert_array_equal(project.read("m_processed.zarr/raw"), values)


def test_a_word_of_python_is_no_argument(project: Project) -> None:
    project.array("s.zarr/class", np.zeros((8, 8)))
    init_pipeline(["s.zarr/class"], project.pipeline)
    compile((project.folder / "functions.py").read_text(), "functions.py", "exec")
    run(project)


@pytest.mark.parametrize("chunk", [16, 64, 300])
def test_blocks_are_whole_chunks_of_a_handy_size(project: Project, chunk: int) -> None:
    project.array("s.zarr/raw", np.zeros((512, 400, 300), np.uint8), chunks=(chunk,) * 3)
    init_pipeline(["s.zarr/raw"], project.pipeline)
    size = load_pipeline(project.pipeline).tasks[0].grid.block_size
    assert all(n % chunk == 0 for n in size)
    assert 2**23 <= math.prod(size) <= 2**26


def test_from_elsewhere_paths_lead_from_the_pipeline(project: Project) -> None:
    project.array("s.zarr/raw", np.zeros((8, 8)))
    (project.folder / "sub").mkdir()
    init_pipeline(["s.zarr/raw"], Path("sub/pipeline.yaml"))
    assert "array: ../s.zarr/raw" in Path("sub/pipeline.yaml").read_text()
    assert check_pipeline(Path("sub/pipeline.yaml"))[1].holds


def test_a_path_cannot_write_into_the_text(project: Project) -> None:
    project.array("s.zarr/a\nunit: foot", np.zeros((8, 8)))
    init_pipeline(["s.zarr/a\nunit: foot"], project.pipeline)
    assert "\nunit: foot" not in project.pipeline.read_text()


def test_nothing_is_overwritten(project: Project) -> None:
    project.array("s.zarr/raw", np.zeros((8, 8)))
    project.functions("mine = 1")
    told = init_pipeline(["s.zarr/raw"], project.pipeline)
    assert told[1].endswith("is there already; write `process(raw)` into it")
    assert (project.folder / "functions.py").read_text() == "mine = 1"
    before = project.pipeline.read_text()
    with pytest.raises(InputError, match="is there already; choose another path with -o"):
        init_pipeline(["s.zarr/raw"], project.pipeline)
    assert project.pipeline.read_text() == before


@pytest.mark.parametrize(
    "path, problem",
    [("s.zarr/row", "s.zarr/row: there is no array"), ("s.zarr", "is a group, not an array")],
)
def test_what_is_no_array_is_named_and_nothing_written(
    project: Project, path: str, problem: str
) -> None:
    project.array("s.zarr/raw", np.zeros((8, 8)))
    before = project.files()
    with pytest.raises(InputError, match=problem):
        init_pipeline([path], project.pipeline)
    assert project.files() == before
