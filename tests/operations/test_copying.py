"""Which blocks a copy is made of."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.operations.copying import Side, best_block, bytes_of, cubic

MB = 10**6


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("500 MB", 500 * MB), ("1.5GB", 1500 * MB), ("2 GiB", 2 << 30), ("7", 0), ("x MB", 0),
        ("MB", 0), ("-1 MB", -MB), ("1e999 MB", 0), ("5 TB", 0),
    ],
)  # fmt: skip
def test_bytes(text: str, wanted: int) -> None:
    assert bytes_of(text) == wanted


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1000, 1000, 1000), (64, 64, 64)),
        ((1000, 1000), (512, 512)),
        ((16, 1000, 1000), (16, 128, 128)),
        ((3, 5), (3, 5)),
        ((1, 10**6), (1, 1 << 18)),
    ],
)
def test_cubic(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert cubic(shape) == wanted


def decoded(side: Side, block: int) -> float:
    """Return how often what is decoded at once is, by walking through it."""
    found = 0
    for low in range(side.begin, side.begin + side.size, block):
        high = min(low + block, side.begin + side.size)
        found += len({n // side.source for n in range(low, high)})
    return found / len({n // side.source for n in range(side.begin, side.begin + side.size)})


SIDES = st.builds(
    Side, st.integers(1, 200), st.integers(0, 30), st.integers(1, 70), st.integers(1, 40)
)


@given(side=SIDES, block=st.integers(1, 220))
def test_repeats(side: Side, block: int) -> None:
    assert side.repeats(block) == pytest.approx(decoded(side, block))


@given(sides=st.lists(SIDES, min_size=1, max_size=3), memory=st.integers(1, 10**7))
def test_best_block(sides: list[Side], memory: int) -> None:
    """No files are shared, memory is kept, and no other candidate decodes less."""
    sides = [Side(s.size, s.begin, s.source, min(s.target, s.size)) for s in sides]
    found = best_block(sides, itemsize=2, memory=memory)
    options = list(itertools.product(*(side.candidates for side in sides)))
    fitting = [block for block in options if math.prod(block) * 2 * 2 <= memory]
    if found is None:
        assert not fitting
        return
    assert math.prod(found) * 4 <= memory
    for side, block in zip(sides, found, strict=True):
        assert block % side.target == 0 or block == side.size

    def cost(block: tuple[int, ...]) -> float:
        return math.prod(decoded(side, n) for side, n in zip(sides, block, strict=True))

    assert cost(found) <= min(map(cost, fitting)) + 0.01


def test_whole_pages() -> None:
    """Of pages that are decoded whole, blocks have as many as a layer of chunks."""
    pages = Side(1000, 0, 1, 64), Side(2000, 0, 2000, 64), Side(3000, 0, 3000, 64)
    assert best_block(pages, itemsize=1, memory=800 * MB) == (64, 2000, 3000)
    # Less memory: pages are decoded twice, in halves.
    assert best_block(pages, itemsize=1, memory=400 * MB) == (64, 1024, 3000)


def test_strips_need_no_whole_pages() -> None:
    strips = Side(1000, 0, 1, 64), Side(2000, 0, 1, 64), Side(3000, 0, 3000, 64)
    found = best_block(strips, itemsize=1, memory=1200 * MB)
    assert found == (64, 64, 3000)


def test_other_chunks() -> None:
    """64 to 96: with 192 nothing is decoded twice, where there is the memory for it."""
    sides = (Side(960, 0, 64, 96),) * 3
    assert best_block(sides, itemsize=2, memory=1000 * MB) == (192, 192, 192)
    found = best_block(sides, itemsize=2, memory=20 * MB)
    assert found is not None and all(n % 96 == 0 for n in found)
    assert math.prod(found) * 4 <= 20 * MB
    assert best_block(sides, itemsize=2, memory=1 * MB) is None
