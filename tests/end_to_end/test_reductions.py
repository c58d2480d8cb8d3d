"""Measurements of objects that cross blocks, merged: as scikit-image finds in the whole volume."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from project import Project
from scipy.ndimage import gaussian_filter, label
from skimage.measure import regionprops_table

import snakemake_blocks as sb

pytestmark = pytest.mark.e2e

SHAPE = (17, 23, 19)
FUNCTIONS = """
    import numpy as np

    def measure(labels, raw, block):
        ids, inverse = np.unique(labels, return_inverse=True)
        inverse = inverse.reshape(labels.shape)
        found = {"id": [], "area": [], "place": [], "begin": [], "end": [], "total": []}
        for number, id in enumerate(ids):
            where = np.argwhere(inverse == number)
            if id:
                found["id"].append(id)
                found["area"].append(len(where))
                found["total"].append(raw[inverse == number].sum(dtype=np.float64))
                where += np.array(block.write_roi.begin)
                found["place"].append(where.sum(axis=0))
                found["begin"].append(where.min(axis=0))
                found["end"].append(where.max(axis=0) + 1)
        return found

    def of_both(a, b):
        import pyarrow as pa
        return of_all(pa.concat_tables([a, b]))

    def of_all(rows):
        ids, inverse = np.unique(rows["id"].to_numpy(), return_inverse=True)
        groups = [inverse == number for number in range(len(ids))]
        def merged(name, merge):
            values = rows[name].combine_chunks()
            if hasattr(values, "flatten"):
                values = values.flatten().to_numpy().reshape(len(rows), -1)
            else:
                values = values.to_numpy()
            return [merge(values[group], axis=0) for group in groups]
        sums = {name: merged(name, np.sum) for name in ("area", "place", "total")}
        return {"id": ids, **sums, "begin": merged("begin", np.min), "end": merged("end", np.max)}
"""
COLUMNS = {
    "id": "int64",
    "area": "int64",
    "place": "int64[3]",
    "begin": "int64[3]",
    "end": "int64[3]",
    "total": "float64",
}


def volume(seed: int) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Return objects that are larger than most blocks, and whole numbers as their intensities."""
    chance = np.random.default_rng(seed)
    noise = gaussian_filter(chance.normal(size=SHAPE), 1.5)
    labels, _ = label(noise > np.quantile(noise, 0.6))
    return labels.astype(np.int64), chance.integers(0, 999, SHAPE, np.uint16)


def wanted(labels: NDArray[np.int64], raw: NDArray[np.uint16]) -> dict[str, NDArray[Any]]:
    """Return the table by scikit-image."""
    names = ("label", "area", "centroid", "bbox", "mean_intensity")
    found: dict[str, NDArray[Any]] = regionprops_table(labels, raw, properties=names)
    return found


def prove(table: Any, labels: NDArray[np.int64], raw: NDArray[np.uint16]) -> None:
    found = {name: np.array(table[name].to_pylist()) for name in COLUMNS}
    right = wanted(labels, raw)
    assert found["id"].tolist() == right["label"].tolist()
    if not len(found["id"]):
        return
    np.testing.assert_array_equal(found["area"], right["area"])
    for axis in range(3):
        centroid = found["place"][:, axis] / found["area"]
        np.testing.assert_allclose(centroid, right[f"centroid-{axis}"], rtol=1e-12)
        np.testing.assert_array_equal(found["begin"][:, axis], right[f"bbox-{axis}"])
        np.testing.assert_array_equal(found["end"][:, axis], right[f"bbox-{axis + 3}"])
    np.testing.assert_allclose(found["total"] / found["area"], right["mean_intensity"], rtol=1e-12)


def form(**more: Any) -> dict[str, Any]:
    return {
        "call": "reduce",
        "map": "functions:measure",
        "merge": "functions:of_all",
        "reads": {"labels": "s.zarr/labels", "raw": "s.zarr/raw"},
        "tables": {"objects": {"columns": COLUMNS}},
        "roi": "s.zarr/labels",
        "fit": "shrink",
        **more,
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    block_size=st.tuples(*(st.integers(5, n) for n in SHAPE)),
    batch=st.tuples(*(st.integers(2, 4) for _ in SHAPE)),
    is_masked=st.booleans(),
    merge=st.sampled_from(["of_all", "of_both"]),
    workers=st.integers(1, 2),
)
def test_objects_of_blocks_of_any_size(
    seed: int,
    block_size: tuple[int, ...],
    batch: tuple[int, ...],
    is_masked: bool,
    merge: str,
    workers: int,
) -> None:
    labels, raw = volume(seed)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            project = Project(Path(folder))
            project.functions(FUNCTIONS)
            for name, values in (("labels", labels), ("raw", raw)):
                project.array(f"s.zarr/{name}", values, chunks=(8, 8, 8))
            more: dict[str, Any] = {}
            if is_masked:  # blocks are left out in which there is nothing
                project.array("s.zarr/mask", (labels > 0).astype(np.uint8), chunks=(8, 8, 8))
                more["mask"] = "s.zarr/mask"
            sizes = {"block_size": list(block_size), "blocks_per_job": list(batch)}
            project.write(
                ("all", form(**sizes, **more, merge=f"functions:{merge}", workers=workers))
            )
            project.work()
            prove(sb.read_table("blocks", "all", "objects"), labels, raw)
        finally:
            os.chdir(before)


@pytest.mark.parametrize("executor", ["blocks", "local"])
def test_with_snakemake(project: Project, executor: str) -> None:
    project.functions(FUNCTIONS)
    labels, raw = volume(7)
    for name, values in (("labels", labels), ("raw", raw)):
        project.array(f"s.zarr/{name}", values, chunks=(8, 8, 8))
    project.write(("all", form(block_size=[6, 5, 7], blocks_per_job=4)))
    words = ("--", "--executor", executor)
    done = project.blocks("run", "pipeline.yaml", "--cores", "2", *words)
    assert done.returncode == 0, done.stderr
    table = sb.read_table("blocks", "all", "objects")
    prove(table, labels, raw)
    project.cli("reset", "blocks", "all_map", "--roi", "0:6,0:5,0:7")
    assert project.blocks("run", "pipeline.yaml", "--cores", "2", *words).returncode == 0
    assert sb.read_table("blocks", "all", "objects").equals(table)
