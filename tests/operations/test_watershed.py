"""Basins, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from project import Project
from scipy import ndimage
from skimage.segmentation import watershed

from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.watershed import basins


def balls(shape: tuple[int, ...], radius: float, seed: int = 0) -> NDArray[np.bool_]:
    """Return balls on a jittered grid, some of which touch."""
    random = np.random.default_rng(seed)
    centres = np.stack(np.meshgrid(*(np.arange(8, n, 14) for n in shape), indexing="ij"), -1)
    centres = centres.reshape(-1, len(shape)) + random.integers(-2, 3, (centres[..., 0].size, 1))
    grid = np.stack(np.indices(shape), -1)
    return np.asarray(np.min([np.linalg.norm(grid - c, axis=-1) for c in centres], axis=0) < radius)


def test_balls_that_touch_are_parted() -> None:
    mask = balls((40, 40), 7.6)
    found = basins(mask=mask, by_distance=True, min_distance=4)
    assert ndimage.label(mask)[1] < found.max() == 9
    np.testing.assert_array_equal(found > 0, mask)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_every_piece_of_the_mask_is_covered(seed: int, ndim: int) -> None:
    mask = np.random.default_rng(seed).random((9,) * ndim) < 0.4
    found = basins(mask=mask, by_distance=True)
    np.testing.assert_array_equal(found > 0, mask)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_where_nothing_is_there_is_nothing(ndim: int) -> None:
    found = basins(mask=np.zeros((5,) * ndim, bool), by_distance=True)
    np.testing.assert_array_equal(found, np.zeros((5,) * ndim))


def test_seeds_that_are_given_grow_as_in_scikit_image() -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((30, 30)), 2)
    seeds = np.zeros((30, 30), np.uint32)
    seeds[5, 5], seeds[20, 25] = 7, 900
    np.testing.assert_array_equal(basins(image, seeds=seeds), watershed(image, seeds))
    low = basins(image, seeds=seeds, threshold=float(np.median(image)))
    assert not low[image > np.median(image)].any()


def test_neither_an_image_nor_a_mask_is_an_error() -> None:
    with pytest.raises(InputError, match="by_distance needs a mask"):
        basins(np.zeros((4, 4)), by_distance=True)
    with pytest.raises(InputError, match="watershed needs an image"):
        basins(mask=np.ones((4, 4)))


class TestTasks:
    def form(self, **more: Any) -> dict[str, Any]:
        return {
            "use": "watershed",
            "reads": {"mask": {"array": "s.zarr/mask", "fill": 0}},
            "writes": {"labels": "s.zarr/parts"},
            "block_size": {"voxels": 20},
            "context": {"voxels": 6},
            "params": {"by_distance": True, "min_distance": 4},
            **more,
        }

    def test_ids_are_unique_over_blocks(self, project: Project) -> None:
        mask = project.array("s.zarr/mask", balls((50, 60), 6), chunks=(10, 10))
        project.write(("parts", self.form()))
        project.work()
        found = project.read("s.zarr/parts")
        np.testing.assert_array_equal(found > 0, mask)
        blocks: dict[int, set[tuple[int, int]]] = {}
        for place in np.argwhere(found):
            blocks.setdefault(int(found[tuple(place)]), set()).add(tuple(place // 20))
        assert all(len(where) == 1 for where in blocks.values())

    def test_stitched_by_what_blocks_saw(self, project: Project) -> None:
        """Balls that do not touch are whole objects again."""
        mask = project.array("s.zarr/mask", balls((50, 60), 5), chunks=(10, 10))
        task = {
            **self.form(use="stitch", writes={"labels": "s.zarr/cells"}, params={}),
            "function": "snakemake_blocks.operations.watershed:basins",
            "arguments": {"by_distance": True, "min_distance": 4},
        }
        project.write(("cells", task))
        project.work()
        expected, count = ndimage.label(mask)
        found = project.read("s.zarr/cells")
        both = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
        assert both.shape[1] == count + 1 == len(np.unique(found))

    def test_seeds_of_a_task(self, project: Project) -> None:
        image = ndimage.gaussian_filter(np.random.default_rng(1).random((40, 40)), 3)
        project.array("s.zarr/image", image, chunks=(10, 10))
        seeds = np.zeros((40, 40), np.uint16)
        seeds[4::12, 4::12] = np.arange(1, 10).reshape(3, 3) if seeds[4::12, 4::12].size == 9 else 1
        project.array("s.zarr/seeds", seeds, chunks=(10, 10))
        reads = {
            n: {"array": f"s.zarr/{n}", "fill": "edge" if n == "image" else 0}
            for n in ("image", "seeds")
        }
        project.write(("parts", self.form(reads=reads, context={"voxels": 40}, params={})))
        project.work()
        whole = np.pad(image, 0)
        found = project.read("s.zarr/parts")
        agreed = np.mean(found == watershed(whole, seeds))
        assert agreed > 0.99

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"params": {}}, "watershed reads an image, or a mask with"),
            ({"params": {"by_distance": True, "connectivity": 3}}, "at most the number of axes, 2"),
            ({"params": {"min_distance": 0}}, "must be at least 1"),
        ],
    )
    def test_what_is_wrong(self, project: Project, change: dict[str, Any], problem: str) -> None:
        project.array("s.zarr/mask", balls((50, 60), 6))
        project.write(("parts", self.form(**change)))
        said = project.cli("plan", str(project.pipeline))
        assert said.exit_code == 2
        assert problem in " ".join(said.output.split())
