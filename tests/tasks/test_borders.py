from __future__ import annotations

import numpy as np
import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Axis, Fit, Grid
from snakemake_blocks.tasks.borders import Border, inner, stays_within

BORDERS = st.sampled_from(list(Border))


@pytest.mark.parametrize(
    "border, want",
    [
        (Border.EDGE, [0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3]),
        (Border.REFLECT, [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]),
        (Border.SYMMETRIC, [3, 2, 1, 0, 0, 1, 2, 3, 3, 2, 1, 0]),
        (Border.WRAP, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]),
    ],
)
def test_by_hand(border: Border, want: list[int]) -> None:
    assert inner(-4, 8, 4, border).tolist() == want


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 20), BORDERS)
def test_they_are_numpys(size: int, before: int, after: int, border: Border) -> None:
    padded = np.pad(np.arange(size), (before, after), mode=str(border))  # type: ignore[call-overload]
    assert inner(-before, size + after, size, border).tolist() == padded.tolist()


@given(
    st.integers(-6, 6), st.integers(1, 20), st.integers(1, 6), st.integers(0, 7),
    st.integers(0, 7), st.integers(1, 12), st.integers(1, 3), BORDERS,
)  # fmt: skip
def test_what_blocks_see_from_afar(
    begin: int, length: int, step: int, lower: int, upper: int, size: int, v: int, border: Border
) -> None:
    """With voxels of v world units."""
    context = {"lower": lower * v, "upper": upper * v}
    end = (begin + length) * v
    axis = Axis.from_extent(begin * v, end, step=step * v, fit=Fit.SHRINK, **context)
    reads = ((low // v, high // v) for low, high in map(axis.read, range(len(axis))))
    want = all(
        set(inner(low, high, size, border).tolist()) <= set(range(low, high)) for low, high in reads
    )
    assert stays_within(Grid((axis,)), Box((0,), (size * v,)), (v,), border) == want
