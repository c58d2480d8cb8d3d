"""The same values in other chunks, shards, compression and Zarr format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import SpecError

VALUES = np.random.default_rng(0).integers(0, 2**16, (40, 48, 56), np.uint16)


def rechunk(project: Project, **write: Any) -> Path:
    params = {"params": {"memory": write.pop("memory")}} if "memory" in write else {}
    writes = {"array": {"array": "b.zarr/raw", **write}}
    form = {"use": "rechunk", "reads": {"source": "a.zarr/raw"}, "writes": writes, **params}
    return project.write(("a", form))


@pytest.mark.parametrize("dtype", ["uint16", "float64", "bool", "complex64", ">i4"])
@pytest.mark.parametrize("formats", [(2, 3), (3, 2), (3, 3)])
def test_values_and_place(project: Project, dtype: str, formats: tuple[int, int]) -> None:
    values = VALUES.astype(dtype)
    where = {"resolution": [0.5, 0.25, 0.25], "translation": [3, 0, 0.5], "units": ["um"] * 3}
    project.array("a.zarr/raw", values, zarr_format=formats[0], chunks=(40, 8, 8), **where)
    rechunk(project, zarr_format=formats[1], chunks=[10, 16, 56], compressor="gzip")
    project.work()
    made = zarr.open_array(project.folder / "b.zarr/raw", mode="r")
    assert (made.metadata.zarr_format, made.chunks) == (formats[1], (10, 16, 56))
    assert made[...].tobytes() == values.astype(values.dtype.newbyteorder("=")).tobytes()
    assert {key: made.attrs[key] for key in where} == where


def test_shards(project: Project) -> None:
    project.array("a.zarr/raw", VALUES, chunks=(4, 16, 16), shards=(8, 48, 48))
    rechunk(project, chunks=16, shards=32)
    project.work()
    made = zarr.open_array(project.folder / "b.zarr/raw", mode="r")
    assert (made.chunks, made.shards) == ((16, 16, 16), (32, 32, 32))
    np.testing.assert_array_equal(made[...], VALUES)


def test_chunks_that_are_not_there(project: Project) -> None:
    """What a store does not hold has its fill value."""
    zarr.create_array(
        project.folder / "a.zarr/raw", shape=(32, 32), chunks=(8, 8), dtype="int16", fill_value=-7
    )[:8, :8] = 3
    rechunk(project, chunks=16)
    project.work()
    wanted = np.full((32, 32), -7)
    wanted[:8, :8] = 3
    np.testing.assert_array_equal(project.read("b.zarr/raw"), wanted)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_chunks(
    data: st.DataObject, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path_factory.mktemp("p"))
    monkeypatch.chdir(project.folder)
    shape = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=3))
    chunks = st.lists(st.integers(1, 20), min_size=len(shape), max_size=len(shape))
    values = VALUES[(0,) * (3 - len(shape))][tuple(map(slice, shape))]
    project.array("a.zarr/raw", values, chunks=data.draw(chunks))
    rechunk(project, chunks=data.draw(chunks), memory=data.draw(st.sampled_from(["1 GB", "60 kB"])))
    project.work()
    np.testing.assert_array_equal(project.read("b.zarr/raw"), values)


def test_each_chunk_is_decoded_once_where_memory_allows(project: Project) -> None:
    project.array("a.zarr/raw", np.zeros((96, 96, 96), np.uint16), chunks=(1, 96, 96))

    def block(memory: str) -> list[int]:
        rechunk(project, chunks=16, memory=memory)
        plan, _ = generate(project.pipeline)
        return list(next(iter(plan.blocks("a_copy"))).write_roi.shape)

    assert block("3 MB")[1:] == [96, 96]
    assert block("500 kB")[1:] != [96, 96]


def test_refused(project: Project) -> None:
    project.array("a.zarr/raw", VALUES)
    rechunk(project, dtype="float32")
    with pytest.raises(SpecError, match=r"writes\.array\.dtype: stays uint16; use: convert"):
        generate(project.pipeline)
    rechunk(project, chunks=64, memory="100 kB")
    with pytest.raises(SpecError, match=r"params\.memory: a worker takes 1 MB at least"):
        generate(project.pipeline)
    rechunk(project, chunks=[1, 2])
    with pytest.raises(SpecError, match=r"writes\.array\.chunks: 2 sizes for 3 axes"):
        generate(project.pipeline)
