"""Arrays that go on beyond their ends: a volume in blocks is the volume in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from project import Project

from snakemake_blocks import SpecError, load_pipeline, make_plan
from snakemake_blocks.commands.generate import check_pipeline
from snakemake_blocks.commands.run import Options, run_pipeline

SCIPY = {"edge": "nearest", "reflect": "mirror", "symmetric": "reflect", "wrap": "wrap"}
SMOOTH = """
    from scipy.ndimage import gaussian_filter

    def smooth(raw):
        return gaussian_filter(raw, 2, truncate=2)

    def both(raw, own):
        return raw + own
"""


def task(source: str, target: str, fill: Any, **more: Any) -> dict[str, Any]:
    """Return a task that smooths an array, with as much context as that needs."""
    return {
        "function": "functions:smooth",
        "call": "arrays",
        "reads": {"raw": {"array": f"s.zarr/{source}", "fill": fill}},
        "writes": {"out": {"array": f"s.zarr/{target}", "dtype": "float64"}},
        "roi": "s.zarr/raw",
        "block_size": [16, 16],
        "context": 4,
        "fit": "shrink",
        "conflict": False,
        **more,
    }


@pytest.fixture
def volume(project: Project) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(5).random((45, 37))
    project.functions(SMOOTH)
    project.array("s.zarr/raw", values, chunks=(16, 16))
    return values


def run(project: Project) -> None:
    code, status = run_pipeline(project.pipeline, Options(cores=2, quiet=True))
    assert code == 0 and status.complete


@pytest.mark.e2e
def test_smoothing_in_blocks_is_scipys_of_the_whole(
    project: Project, volume: np.ndarray[Any, Any]
) -> None:
    """And so is smoothing twice, where the second task reads what the first one writes."""
    from scipy.ndimage import gaussian_filter

    project.write(
        *((fill, task("raw", fill, fill)) for fill in SCIPY),
        *((f"{fill}_2", task(fill, f"{fill}_2", fill)) for fill in SCIPY),
    )
    plan = make_plan(project.pipeline)
    assert {n for n, t in plan.tasks.items() if t.whole} == {"wrap_2"}, "only that sees from afar"
    run(project)
    for fill, mode in SCIPY.items():
        once = gaussian_filter(volume, 2, truncate=2, mode=mode)
        twice = gaussian_filter(once, 2, truncate=2, mode=mode)
        np.testing.assert_allclose(project.read(f"s.zarr/{fill}"), once, atol=1e-12)
        np.testing.assert_allclose(project.read(f"s.zarr/{fill}_2"), twice, atol=1e-12)


class TestProof:
    def test_what_is_seen_from_afar_has_to_be_written(
        self, project: Project, volume: np.ndarray[Any, Any]
    ) -> None:
        half = {"roi": {"offset": [0, 0], "shape": [32, 37]}}
        project.array("s.zarr/mid", np.zeros((45, 37)))
        project.write(
            ("up", task("raw", "mid", 0, **half)), ("down", task("mid", "out", "wrap", **half))
        )
        (text,) = check_pipeline(project.pipeline)[1].violations
        assert "(32, 0) to (45, 37) of s.zarr/mid is read by block" in text

    def test_who_waits_for_nobody_cannot_see_what_others_write(
        self, project: Project, volume: np.ndarray[Any, Any]
    ) -> None:
        late = task("raw", "mid", 0, after=["first"])
        project.array("s.zarr/mid", np.zeros((45, 37)))
        project.write(("first", task("mid", "out", "wrap")), ("late", late))
        with pytest.raises(SpecError, match="wait"):
            load_pipeline(project.pipeline)

    def test_wrapping_around_ones_own_output_is_refused(
        self, project: Project, volume: np.ndarray[Any, Any]
    ) -> None:
        reads = {
            "raw": {"array": "s.zarr/raw", "fill": "reflect"},
            "own": {"array": "s.zarr/out", "fill": "wrap"},
        }
        project.write(("grow", task("raw", "out", 0, reads=reads, function="functions:both")))
        with pytest.raises(SpecError, match=r"grow\.reads\.own\.fill: wrap would show what blocks"):
            load_pipeline(project.pipeline)

    @pytest.mark.parametrize("fill", ["mirror", "nearest", True, [1]])
    def test_other_words_are_refused(
        self, project: Project, volume: np.ndarray[Any, Any], fill: Any
    ) -> None:
        project.write(("smooth", task("raw", "out", fill)))
        words = "must be a number, or one of edge, reflect, symmetric, wrap, got"
        with pytest.raises(SpecError, match=f"smooth.reads.raw.fill: {words}"):
            load_pipeline(project.pipeline)
