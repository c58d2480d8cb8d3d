"""Rows on disk: what was appended whole comes back, whatever stands around it."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakemake_blocks.state.row_files import (
    Rows,
    append_rows,
    as_batch,
    entry_dtype,
    frames_in,
    schema_of,
)
from snakemake_blocks.tasks.tables import Table

TABLE = Table({"id": "uint64", "area": "float64", "box": "int32[4]", "name": "string"})
FIRST = (3, -2)


def rows(count: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return {
        "id": rng.integers(0, 2**63, count, np.uint64),
        "area": rng.random(count),
        "box": rng.integers(-9, 9, (count, 4), np.int32),
        "name": [f"\u00b5{n}" for n in range(count)],
    }


def append(path: Path, blocks: dict[tuple[int, int], int], stamp: int = 1) -> list[Rows]:
    """Append a frame of rows of some blocks; return these."""
    parts = [rows(count, sum(index) + 99) for index, count in blocks.items()]
    entries = np.zeros(len(blocks), entry_dtype(2))
    entries["index"] = [[k + f for k, f in zip(i, FIRST, strict=True)] for i in blocks]
    entries["rows"] = list(blocks.values())
    entries["stamp"] = stamp
    append_rows(path, entries, as_batch(TABLE, parts))
    return parts


def read(path: Path) -> list[tuple[list[tuple[int, ...]], pa.RecordBatch]]:
    """Return indices and rows of each sound frame."""
    schema = schema_of(TABLE)
    with frames_in(path, FIRST) as (data, frames):
        found = [(f.entries["index"].tolist(), f.batch(data, schema)) for f in frames]
    return [([tuple(i) for i in indices], batch) for indices, batch in found if batch is not None]


def test_what_is_appended_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a" / "0-0"
    first = append(path, {(0, 0): 3, (0, 1): 0})
    append(path, {(5, 7): 2})
    (indices, batch), (others, _) = read(path)
    assert (indices, others) == ([(0, 0), (0, 1)], [(5, 7)])
    assert batch.schema == schema_of(TABLE)
    assert batch["id"].to_pylist() == first[0]["id"].tolist()
    assert batch["box"].to_pylist() == first[0]["box"].tolist()
    assert batch["name"].to_pylist() == ["\u00b50", "\u00b51", "\u00b52"]


def test_of_no_file_there_is_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []
    (tmp_path / "empty").touch()
    assert read(tmp_path / "empty") == []


def test_a_torn_tail_is_passed_over_wherever_it_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    append(path, {(0, 0): 2})
    begin = path.stat().st_size
    append(path, {(1, 1): 1})
    whole = path.read_bytes()
    for end in range(begin, len(whole)):
        path.write_bytes(whole[:end])
        assert [indices for indices, _ in read(path)] == [[(0, 0)]]
        append(path, {(2, 2): 1})  # whoever goes on appends behind it
        assert [indices for indices, _ in read(path)] == [[(0, 0)], [(2, 2)]]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=40), st.booleans())
def test_damage_never_makes_other_rows(at: int, noise: bytes, insert: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        for n in range(3):
            append(path, {(n, 0): 2, (n, 1): 1})
        sound = {tuple(indices): batch for indices, batch in read(path)}
        data = bytearray(path.read_bytes())
        at %= len(data)
        data[at : at + (0 if insert else len(noise))] = noise
        path.write_bytes(data)
        found = read(path)
        for indices, batch in found:
            assert batch.equals(sound[tuple(indices)])
        assert len(found) >= 1  # one place lies in two frames at most


def _append_many(path: Path, number: int) -> None:
    for n in range(50):
        append(path, {(number, n): 40}, stamp=number + 1)


def test_workers_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = [index for indices, _ in read(path) for index in indices]
    assert sorted(found) == [(w, n) for w in range(4) for n in range(50)]


def test_a_frame_that_is_not_stored_whole_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.writev", lambda descriptor, parts: sum(map(len, parts)) - 1)
    with pytest.raises(OSError, match="bytes were stored"):
        append(tmp_path / "rows", {(0, 0): 1})


@pytest.mark.parametrize("columns", [{"id": "uint64"}, {**TABLE.columns, "more": "int8"}])
def test_rows_of_other_columns_do_not_count(tmp_path: Path, columns: dict[str, Any]) -> None:
    path = tmp_path / "rows"
    append(path, {(0, 0): 2})
    schema = schema_of(Table(columns))
    with frames_in(path, FIRST) as (data, frames):
        found = [frame.batch(data, schema) for frame in frames]
    assert all(batch is None or batch.schema == schema for batch in found)
