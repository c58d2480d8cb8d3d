from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import Project
from scipy.ndimage import gaussian_filter

from snakemake_blocks.commands.run import check_task_context
from snakemake_blocks.demo import write_demo
from snakemake_blocks.errors import InputError
from snakemake_blocks.state.failures import BlockFailedError
from snakemake_blocks.view.report import context_text
from snakemake_blocks.work.context_check import ContextReport

SHAPE = (24, 24)

FUNCTIONS = """
    import numpy as np
    from scipy.ndimage import gaussian_filter, uniform_filter

    def mean(raw, sizes):
        return uniform_filter(raw.astype(float), size=sizes, mode="constant")

    def smooth(raw, sigma):
        return gaussian_filter(raw.astype(float), sigma=sigma, mode="constant")

    def above(raw, sizes):
        return (mean(raw, sizes) > 0.5).astype("uint8")

    def whole(raw):
        return raw * 0 + raw.mean()

    def place(raw, block):
        return raw + block.read_roi.size

    def own(raw, before):
        return raw + before

    def cut(raw):
        return raw[1:]

    def misnamed(raw):
        return {"into": raw}

    class Mean:
        def __init__(self, sizes):
            self.sizes = sizes

        def __call__(self, raw):
            return mean(raw, self.sizes)
"""


def task(project: Project, function: str, **more: Any) -> tuple[Path, str]:
    """Write a pipeline of blocks of 6 x 6 over random numbers, most of them large."""
    shape = more.pop("shape", SHAPE)
    fill = more.pop("fill", 0)
    voxels = more.pop("voxel_size", [1] * len(shape))
    rng = np.random.default_rng(1)
    project.array("s.zarr/raw", rng.random(shape), voxel_size=voxels, offset=[0] * len(shape))
    project.functions(FUNCTIONS)
    raw = {"array": "s.zarr/raw", **({} if fill is None else {"fill": fill})}
    known = {
        "function": f"functions:{function}",
        "call": "arrays",
        "reads": {"raw": raw, **more.pop("reads", {})},
        "writes": {"out": {"array": "s.zarr/out", "dtype": more.pop("dtype", "float64")}},
        "roi": "s.zarr/raw",
        "block_size": [6 * v for v in voxels],
        "conflict": False,
    }
    return project.write(("t", {**known, **more})), "t"


def check(project: Project, function: str, *context: int, **more: Any) -> ContextReport:
    samples = more.pop("samples", 100)
    return check_task_context(*task(project, function, **more), context=context, samples=samples)


class TestWhatIsEnough:
    @pytest.mark.parametrize("radius", [(0, 0), (1, 3), (4, 2)])
    def test_is_the_reach_of_the_function_on_each_axis(
        self, project: Project, radius: tuple[int, int]
    ) -> None:
        sizes = [2 * r + 1 for r in radius]
        report = check(project, "mean", 5, params={"sizes": sizes})
        assert report.enough == radius
        assert report.is_enough and report.difference == pytest.approx(0, abs=1e-12)
        for axis, r in enumerate(radius):
            less = [5, 5]
            less[axis] = r - 1
            if r:
                report = check(project, "mean", *less, params={"sizes": sizes})
                assert not report.is_enough and report.enough == radius

    def test_is_found_from_the_declared_context(self, project: Project) -> None:
        report = check(project, "mean", params={"sizes": 5}, context=[1, 2])
        assert (report.context, report.enough) == ((1, 2), (2, 2))
        assert not report.is_enough

    def test_is_in_world_units_and_whole_voxels(self, project: Project) -> None:
        report = check(project, "mean", params={"sizes": 5}, voxel_size=[4, 10])
        assert report.enough == (8, 20)
        with pytest.raises(InputError, match=r"\(4, 15\) is not a multiple of the voxel size"):
            check(project, "mean", 4, 15, params={"sizes": 5}, voxel_size=[4, 10])

    def test_is_nothing_if_results_keep_changing(self, project: Project) -> None:
        report = check(project, "whole", 2)
        assert report.enough is None and not report.is_enough
        assert context_text(report).endswith("so no context in reach is enough")

    def test_also_where_small_differences_of_axes_add_up(self, project: Project) -> None:
        path, name = task(project, "smooth", params={"sigma": 1.5})
        report = check_task_context(path, name, context=[8], samples=100, tolerance=2e-3)
        assert report.enough is not None
        again = check_task_context(path, name, context=report.enough, samples=100, tolerance=2e-3)
        assert again.is_enough


class TestDifference:
    def test_of_integers_is_the_share_of_voxels(self, project: Project) -> None:
        report = check(project, "above", 0, params={"sizes": 5}, dtype="uint8")
        assert 0.01 < report.difference < 1
        assert report.tolerance == 1e-5
        assert report.enough == (2, 2)

    def test_of_all_blocks_is_at_least_that_of_some(self, project: Project) -> None:
        few = check(project, "smooth", 2, params={"sigma": 2}, samples=2)
        every = check(project, "smooth", 2, params={"sigma": 2})
        assert (few.samples, every.samples) == (2, 16)
        assert few.blocks == every.blocks == 16
        assert few.difference <= every.difference


class TestSamples:
    def test_are_spread_over_rows_and_columns(self, project: Project) -> None:
        """Every fourth of 8 x 8 blocks would be in two columns."""
        from snakemake_blocks.commands.generate import make_plan
        from snakemake_blocks.work.context_check import _samples

        path, _ = task(project, "mean", params={"sizes": 1}, shape=(48, 48))
        planned = make_plan(path).tasks["t"]
        found = _samples(planned, 16)
        assert len(set(found)) == 16
        assert (4, 0) in found, "the middle one"
        assert {i for i, _ in found} == {j for _, j in found} == set(range(8))

    def test_are_blocks_that_the_mask_keeps(self, project: Project) -> None:
        from snakemake_blocks.commands.generate import make_plan
        from snakemake_blocks.work.context_check import _samples

        mask = np.zeros(SHAPE, "uint8")
        mask[0, 0] = mask[-1, -1] = mask[0, -1] = 1
        project.array("s.zarr/mask", mask, voxel_size=[1, 1], offset=[0, 0])
        path, _ = task(project, "mean", params={"sizes": 1}, mask="s.zarr/mask")
        assert sorted(_samples(make_plan(path).tasks["t"], 16)) == [(0, 0), (0, 3), (3, 3)]


class TestReads:
    def test_end_with_an_array_that_has_no_fill(self, project: Project) -> None:
        region = {"offset": [6, 6], "shape": [12, 12]}
        report = check(
            project, "mean", params={"sizes": 5}, fill=None, context=4, **{"roi": region}
        )
        assert report.enough == (2, 2)

    def test_of_its_own_output_see_the_fill(self, project: Project) -> None:
        before = {"before": {"array": "s.zarr/out", "fill": 7}}
        assert check(project, "own", 1, reads=before).enough == (0, 0)

    def test_come_with_the_block(self, project: Project) -> None:
        assert check(project, "place", 1).enough is None, "it tells its read Roi's size"

    def test_go_to_a_class_that_is_built_first(self, project: Project) -> None:
        assert check(project, "Mean", 1, params={"sizes": [3, 5]}).enough == (1, 2)


# faults: kind 8
class TestSetUp:
    """The function is set up, called and closed as in a worker."""

    MANAGED = """
        import numpy as np
        from pathlib import Path

        class Managed:
            scale = None

            def __init__(self, factor):
                self.factor = factor

            def __enter__(self):
                Path("entered").touch()
                self.scale = self.factor
                return self

            def __exit__(self, *error):
                Path("left").touch()
                self.scale = None

            def __call__(self, raw):
                return raw * self.scale

        class Other:
            def __enter__(self):
                return lambda raw: raw + 1

            def __exit__(self, *error):
                Path("left").touch()

        class Closed:
            def __call__(self, raw):
                return raw + 1

            def close(self):
                Path("left").touch()

        def wrong(raw):
            raise ZeroDivisionError("here")

        class Wrong(Closed):
            def __call__(self, raw):
                raise ZeroDivisionError("here")

        def says_failed(raw, block):
            block.status = type(block.status).FAILED
            return raw
    """

    @pytest.fixture(autouse=True)
    def _here(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(project.folder)

    def ask(self, project: Project, function: str, **more: Any) -> ContextReport:
        pipeline, name = task(project, function, **more)
        project.functions(self.MANAGED)
        return check_task_context(pipeline, name, samples=2)

    @pytest.mark.parametrize(
        ("function", "more"),
        [("Managed", {"params": {"factor": 2.0}}), ("Other", {}), ("Closed", {})],
    )
    def test_a_class_is_entered_and_closed(
        self, project: Project, function: str, more: dict[str, Any]
    ) -> None:
        report = self.ask(project, function, **more)
        assert report.enough == (0, 0)
        assert report.difference == 0
        assert (project.folder / "left").exists()

    def test_it_is_closed_after_an_exception(self, project: Project) -> None:
        with pytest.raises(ZeroDivisionError, match="here"):
            self.ask(project, "Wrong")
        assert (project.folder / "left").exists()

    def test_a_block_that_says_it_failed_is_no_result(self, project: Project) -> None:
        with pytest.raises(BlockFailedError, match=r"set block\.status to FAILED"):
            self.ask(project, "says_failed")

    def test_the_array_to_write_need_not_be_there(self, project: Project) -> None:
        self.ask(project, "Closed")
        assert not (project.folder / "s.zarr/out").exists()


class TestRefusals:
    def test(self, project: Project) -> None:
        path, name = task(project, "mean", params={"sizes": 3})
        with pytest.raises(InputError, match="there is no task 'u'; known are t"):
            check_task_context(path, "u")
        with pytest.raises(InputError, match="3 contexts for 2 axes; give one per axis"):
            check_task_context(path, name, context=[1, 2, 3])
        project.functions("def f(block): ...")
        geometry = {"roi": "s.zarr/raw", "block_size": [6, 6]}
        path = project.write(("b", {"function": "functions:f", **geometry}))
        with pytest.raises(InputError, match="task b: check-context needs call: arrays"):
            check_task_context(path, "b")

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("cut", r"functions:cut: out has shape \(\d+, \d+\); expected \("),
            ("misnamed", r"functions:misnamed: returned \['into'\], writes \['out'\]"),
        ],
    )
    def test_what_is_no_result(self, project: Project, function: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            check(project, function)

    # faults: kind 12
    @pytest.mark.parametrize(
        ("samples", "tolerance"), [(0, 1e-5), (-1, 1e-5), (1, -1.0), (1, np.nan), (1, np.inf)]
    )
    def test_numbers_that_make_no_sense(
        self, project: Project, samples: int, tolerance: float
    ) -> None:
        path, name = task(project, "mean", params={"sizes": 3})
        with pytest.raises(InputError, match="look at one block or more"):
            check_task_context(path, name, samples=samples, tolerance=tolerance)

    # faults: kind 12
    @pytest.mark.parametrize("context", [10**7, 10**15])
    def test_a_context_that_fills_the_memory(self, project: Project, context: int) -> None:
        path, name = task(project, "smooth", params={"sigma": 1}, context=context)
        with pytest.raises(InputError, match=r"s\.zarr/raw: reading .* takes more memory than"):
            check_task_context(path, name)


class TestLessonsAboutSeams:
    def test_the_demo_needs_four_sigma_and_two_are_not_enough(self, project: Project) -> None:
        write_demo(Path("demo"))
        few = project.cli("check-context", "demo/pipeline.yaml", "smooth", "--context", "10")
        assert few.exit_code == 1 and "a context of 10 is NOT enough" in few.output
        found = re.search(r"differ by (\S+) at most", few.output)
        assert found and 7e-3 < float(found[1]) < 9e-3
        enough = project.cli("check-context", "demo/pipeline.yaml", "smooth")
        assert enough.exit_code == 0
        assert "a context of 20 is enough" in enough.output
        every = project.cli("check-context", "demo/pipeline.yaml", "smooth", "--samples", "64")
        assert "64 of 64 blocks" in every.output
        assert "the smallest that is enough for them is 19 x 20" in every.output

    def test_dark_lines_across_one_axis_of_a_volume(self, project: Project) -> None:
        """Blocks that are thin along z, with too little context there, are dark at their ends."""
        how: dict[str, Any] = {"params": {"sigma": 1}, "block_size": [3, 6, 6], "fill": 0}
        report = check(project, "smooth", 1, 4, 4, shape=(9, 12, 12), **how)
        assert not report.is_enough and report.enough == (4, 4, 4)
        raw = project.read("s.zarr/raw")
        whole = gaussian_filter(raw, sigma=1, mode="constant")
        thin = gaussian_filter(raw[2:7], sigma=1, mode="constant")[1:-1]
        dark = (whole[3:6] - thin).max(axis=(1, 2))
        assert dark.max() > 0.03 > 3 * dark[1], "at an end of the block"
        assert report.difference >= dark.max() - 1e-9
        assert check(project, "smooth", 4, shape=(9, 12, 12), **how).is_enough
