from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from snakemake_blocks.state.sentinel import (
    Sentinel,
    digest_of_sentinels,
    digest_of_stamps,
    read_sentinel,
)

ONE = Sentinel("smooth", "00ff", "3-4", [2, 2], [0, -1], 4, "abc")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "p0" / "0-0" / "3-4.json"
    ONE.write(path)
    assert read_sentinel(path) == ONE
    assert [p.name for p in path.parent.iterdir()] == ["3-4.json"]


def test_the_same_content_is_the_same_bytes() -> None:
    assert replace(ONE).to_bytes() == ONE.to_bytes()
    assert replace(ONE, digest="abd").to_bytes() != ONE.to_bytes()


def test_nothing_there(tmp_path: Path) -> None:
    assert read_sentinel(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{}",
        ONE.to_bytes()[:-9],
        ONE.to_bytes().replace(b"smooth", b"\xff\xfe"),
        json.dumps({"task": "smooth"}).encode(),
        ONE.to_bytes().replace(b": 4,", b': "4",'),
        ONE.to_bytes().replace(b"[2, 2]", b"2"),
        ONE.to_bytes().replace(b'"abc"', b'"abc", "more": 1'),
        random.Random(7).randbytes(200),
    ],
)
def test_damaged_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "noise.json"
    path.write_bytes(content)
    assert read_sentinel(path) is None


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    path, content = tmp_path / "cut.json", ONE.to_bytes()
    for length in range(len(content) - 2):
        path.write_bytes(content[:length])
        assert read_sentinel(path) is None


def test_digests() -> None:
    stamps = np.array([1, 2, 3], np.uint64)
    assert digest_of_stamps(stamps) == digest_of_stamps(stamps.copy())
    assert len({digest_of_stamps(stamps[order]) for order in ([0, 1, 2], [0, 2, 1], [0, 1])}) == 3
    assert digest_of_sentinels([b"a", b"b"]) == digest_of_sentinels(iter([b"a", b"b"]))
    found = [digest_of_sentinels(x) for x in ([b"a", b"b"], [b"b", b"a"], [b"ab"], [b"ab", b""])]
    assert len(set(found)) == 4


# faults: kind 12
@pytest.mark.parametrize("nest", ["[", '{"a":'])
def test_one_that_is_nested_without_end_is_damaged(tmp_path: Path, nest: str) -> None:
    (tmp_path / "x.json").write_text(nest * 100_000)
    assert read_sentinel(tmp_path / "x.json") is None
