"""Every read with a context of its own: what is seen, waited for, and made anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from project import Project

from snakemake_blocks import SpecError, load_pipeline
from snakemake_blocks.commands.run import Options, run_pipeline
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.state.judgement import Judge

SIZE = 16
FUNCTIONS = """
    import numpy as np
    from scipy.ndimage import gaussian_filter

    def double(raw):
        return 2 * raw

    def mix(raw, coarse, double):
        assert raw.shape[0] > double.shape[0], "each has its own size"
        smooth = gaussian_filter(raw, 2, truncate=2, mode="constant")
        low = [(r - d) // 2 for r, d in zip(raw.shape, double.shape)]
        part = smooth[tuple(slice(b, b + n) for b, n in zip(low, double.shape))]
        return part + np.kron(coarse, np.ones((4, 4))) + double
"""


@pytest.fixture
def two(project: Project) -> Project:
    rng = np.random.default_rng(7)
    project.functions(FUNCTIONS)
    project.array("s.zarr/raw", rng.random((64, 64)), chunks=(16, 16), voxel_size=[1, 1])
    project.array("s.zarr/coarse", rng.random((16, 16)), chunks=(4, 4), voxel_size=[4, 4])
    base = {"call": "arrays", "roi": "s.zarr/raw", "block_size": [SIZE, SIZE]}
    project.write(
        (
            "double",
            {
                **base,
                "function": "functions:double",
                "reads": {"raw": "s.zarr/raw"},
                "writes": {"out": {"array": "s.zarr/double", "dtype": "float64"}},
            },
        ),
        (
            "mix",
            {
                **base,
                "function": "functions:mix",
                "reads": {
                    "raw": {"array": "s.zarr/raw", "fill": 0, "context": 5},
                    "coarse": "s.zarr/coarse",
                    "double": {"array": "s.zarr/double", "context": {"lower": 0}},
                },
                "writes": {"out": {"array": "s.zarr/out", "dtype": "float64"}},
            },
        ),
    )
    return project


@pytest.mark.e2e
def test_each_is_seen_waited_for_and_judged_by_its_own(two: Project) -> None:
    from scipy.ndimage import gaussian_filter

    code, status = run_pipeline(two.pipeline, Options(cores=2, quiet=True))
    assert code == 0 and status.complete
    raw, coarse = two.read("s.zarr/raw"), two.read("s.zarr/coarse")
    whole = gaussian_filter(raw, 2, truncate=2, mode="constant")
    whole += np.kron(coarse, np.ones((4, 4))) + 2 * raw
    np.testing.assert_allclose(two.read("s.zarr/out"), whole, atol=1e-12)

    plan = Plan.load(Path("blocks"))
    mix = plan.tasks["mix"]
    assert mix.grid.lower == (5, 5) and mix.num_phases == 1
    assert {len(job.upstream) for job in plan.jobs("mix")} == {1}, "of double a block reads itself"

    assert two.cli("reset", "blocks", "double", "--roi", "16:32,32:48").exit_code == 0
    todo = Judge(plan, Path("blocks")).judge_all(mix).todo
    assert np.argwhere(todo).tolist() == [[1, 2]], "only the block that read it is stale"


def test_what_does_not_fit_is_said_of_the_read(two: Project) -> None:
    text = two.pipeline.read_text()
    for context, problem in (
        ("5", r"context \(5, 5\) is not a multiple of the voxel size \(4, 4\)"),
        ("[4]", "1 size for a 2-D roi; give one per axis"),
        ("{lower: 0, uper: 4}", "uper: is not a known key; did you mean upper?"),
        ("-4", "must be at least 0"),
    ):
        read = f"{{array: s.zarr/coarse, context: {context}}}"
        two.pipeline.write_text(text.replace("coarse: s.zarr/coarse", f"coarse: {read}"))
        with pytest.raises(SpecError, match=rf"tasks\.mix\.reads\.coarse\.context.*{problem}"):
            load_pipeline(two.pipeline)
