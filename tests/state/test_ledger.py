from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import strategies  # noqa: F401  (its settings)
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.state.ledger import (
    Event,
    Ledger,
    LedgerReader,
    Measurement,
    first_block,
    read_records,
    record_dtype,
    write_records,
)

SIZE = record_dtype(2).itemsize


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0-0" / "3-4"


def filled(path: Path, count: int, *, first: tuple[int, ...] = (0, 0)) -> bytes:
    """Write ``count`` records, numbered by their stamp; return the file's bytes."""
    ledger = Ledger(path, first)
    for number in range(1, count + 1):
        ledger.append(
            Event.DONE,
            (number, -number),
            fingerprint=2**64 - number,
            attempt=3,
            stamp=number,
            seen=number * 7,
            cost=Measurement(1.5, 2.5, 3.5, 4, 5, 6),
        )
    ledger.close()
    return path.read_bytes()


def stamps(path: Path) -> list[int]:
    return [int(s) for s in read_records(path, (0, 0))["stamp"]]


class TestAppending:
    def test_what_is_written_is_read(self, path: Path) -> None:
        filled(path, 1)
        (record,) = read_records(path, (0, 0))
        assert record["index"].tolist() == [1, -1]
        assert (record["event"], record["attempt"]) == (Event.DONE, 3)
        assert (record["fingerprint"], record["stamp"], record["seen"]) == (2**64 - 1, 1, 7)
        assert (record["start"], record["wall"], record["cpu"]) == (1.5, 2.5, 3.5)
        assert (record["peak_kib"], record["bytes_read"], record["bytes_written"]) == (4, 5, 6)
        assert record["pid"] == os.getpid()
        assert os.uname().nodename.startswith(record["host"].decode())

    def test_nothing_there_is_no_record(self, path: Path) -> None:
        assert len(read_records(path, (0, 0))) == 0
        assert list(LedgerReader(path, (0, 0)).chunks()) == []
        filled(path, 0)
        assert len(read_records(path, (0, 0))) == 0

    def test_every_record_is_on_its_way_at_once(self, path: Path) -> None:
        """No buffer stands between a record and the file: a kill loses nothing."""
        ledger = Ledger(path, (0, 0))
        for number in range(1, 4):
            ledger.append(Event.STARTED, (0, 0), fingerprint=1)
            assert path.stat().st_size == ledger.end == number * SIZE
        ledger.close()

    def test_appenders_do_not_overwrite_each_other(self, path: Path) -> None:
        one, other = Ledger(path, (0, 0)), Ledger(path, (0, 0))
        for stamp, ledger in enumerate((one, other, one, other), start=1):
            ledger.append(Event.DONE, (0, 0), fingerprint=1, stamp=stamp)
        assert stamps(path) == [1, 2, 3, 4]
        one.close()
        other.close()

    def test_a_full_disk_is_an_error(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ledger = Ledger(path, (0, 0))
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match=r"No space left|cut off"):
            ledger.append(Event.DONE, (0, 0), fingerprint=1)
        monkeypatch.undo()
        ledger.append(Event.DONE, (0, 0), fingerprint=1, stamp=5)
        ledger.close()
        assert stamps(path) == [5]

    def test_blocks_are_numbered_from_the_origin_of_the_world(self, path: Path) -> None:
        grid = Grid((Axis(-25, 100, 10), Axis(30, 60, 10)))
        assert first_block(grid) == (-3, 3)
        filled(path, 2, first=first_block(grid))
        assert read_records(path, (-3, 3))["index"].tolist() == [[1, -1], [2, -2]]
        assert read_records(path, (0, 0))["index"].tolist() == [[-2, 2], [-1, 1]]
        assert read_records(path, (-4, 3))["index"].tolist() == [[2, -1], [3, -2]]

    def test_from_a_byte_on(self, path: Path) -> None:
        filled(path, 5)
        found = read_records(path, (0, 0), start=3 * SIZE)["stamp"]
        assert found.tolist() == [4, 5]
        assert read_records(path, (0, 0), start=3 * SIZE + 1)["stamp"].tolist() == [5]

    def test_in_chunks(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("snakemake_blocks.state.ledger._CHUNK", 3)
        filled(path, 7)
        assert [len(chunk) for chunk in LedgerReader(path, (0, 0)).chunks()] == [3, 3, 1]
        assert stamps(path) == [1, 2, 3, 4, 5, 6, 7]

    def test_rewriting(self, path: Path) -> None:
        filled(path, 3)
        write_records(path, read_records(path, (0, 0))[1:])
        assert stamps(path) == [2, 3]


class TestDamage:
    def test_truncated_at_every_byte(self, path: Path) -> None:
        data = filled(path, 4)
        for length in range(len(data) + 1):
            path.write_bytes(data[:length])
            assert stamps(path) == list(range(1, length // SIZE + 1))

    def test_appended_to_after_every_truncation(self, path: Path) -> None:
        data = filled(path, 2)
        for length in range(len(data) + 1):
            path.write_bytes(data[:length])
            ledger = Ledger(path, (0, 0))
            ledger.append(Event.DONE, (0, 0), fingerprint=1, stamp=9)
            ledger.close()
            assert stamps(path) == [*range(1, length // SIZE + 1), 9]

    def test_a_byte_changed_costs_its_record_alone(self, path: Path) -> None:
        data = filled(path, 3)
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
            assert stamps(path) == [n for n in (1, 2, 3) if (n - 1) != at // SIZE]

    def test_a_byte_lost_costs_its_record_alone(self, path: Path) -> None:
        data = filled(path, 3)
        for at in range(len(data)):
            path.write_bytes(data[:at] + data[at + 1 :])
            assert stamps(path) == [n for n in (1, 2, 3) if (n - 1) != at // SIZE]

    def test_zeros_are_no_records(self, path: Path) -> None:
        """What a file system may leave behind when the power fails."""
        data = filled(path, 2)
        path.write_bytes(data + bytes(3 * SIZE))
        assert stamps(path) == [1, 2]

    def test_noise_alone(self, path: Path) -> None:
        filled(path, 1)
        path.write_bytes(random.Random(1).randbytes(40 * SIZE + 17))
        assert stamps(path) == []

    def test_an_event_of_a_later_version_is_passed_over(self, path: Path) -> None:
        ledger = Ledger(path, (0, 0))
        ledger.append(99, (0, 0), fingerprint=1, stamp=8)  # type: ignore[arg-type]
        ledger.append(Event.DONE, (0, 0), fingerprint=1, stamp=9)
        ledger.close()
        assert stamps(path) == [9]

    def test_damage_in_a_later_chunk(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("snakemake_blocks.state.ledger._CHUNK", 2)
        data = filled(path, 9)
        path.write_bytes(data[: 4 * SIZE + 5] + b"noise" + data[5 * SIZE :])
        assert stamps(path) == [1, 2, 3, 4, 6, 7, 8, 9]

    @given(data=st.data())
    def test_law(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """Whatever is cut out, put in or overwritten: every whole record is found, in order."""
        path = tmp_path_factory.mktemp("ledger") / "0"
        content = filled(path, data.draw(st.integers(0, 8)))
        pieces = [content]
        for _ in range(data.draw(st.integers(0, 3))):
            pieces = list(damaged(data, pieces))
        path.write_bytes(b"".join(pieces))
        whole = np.frombuffer(content, record_dtype(2))
        kept = [int(r["stamp"]) for r in whole if r.tobytes() in b"".join(pieces)]
        assert stamps(path) == kept


def damaged(data: st.DataObject, pieces: list[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a file with one of them cut in two and noise, or nothing, between."""
    chosen = data.draw(st.integers(0, len(pieces) - 1))
    for number, piece in enumerate(pieces):
        if number != chosen:
            yield piece
            continue
        a = data.draw(st.integers(0, len(piece)))
        b = data.draw(st.integers(a, len(piece)))
        yield piece[:a]
        yield data.draw(st.binary(max_size=2 * SIZE))
        yield piece[b:]


# faults: kind 8
class TestFollowing:
    @given(data=st.data())
    def test_law(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """Appends, torn writes and garbage, read in any steps, give what reading at once gives."""
        path = tmp_path_factory.mktemp("ledger") / "0"
        whole = filled(path, 6)
        path.write_bytes(b"")
        records = [whole[n : n + SIZE] for n in range(0, len(whole), SIZE)]
        piece = st.one_of(
            st.sampled_from(records),
            st.tuples(st.sampled_from(records), st.integers(0, SIZE)).map(lambda p: p[0][: p[1]]),
            st.binary(max_size=3 * SIZE),
            st.integers(0, 2 * SIZE).map(bytes),
        )
        reader, followed = LedgerReader(path, (0, 0)), []
        for content in data.draw(st.lists(piece, max_size=12)):
            with path.open("ab") as file:
                file.write(content)
            if data.draw(st.booleans()):
                followed += reader.read()["stamp"].tolist()
        followed += reader.read()["stamp"].tolist()
        assert followed == stamps(path)

    def test_a_torn_tail_is_looked_at_again(self, path: Path) -> None:
        """Over a network a record may be seen piece by piece, its end before its middle."""
        data = filled(path, 3)
        reader = LedgerReader(path, (0, 0))
        path.write_bytes(data[: SIZE + 7])
        assert reader.read()["stamp"].tolist() == [1]
        path.write_bytes(data[: SIZE + 7] + bytes(2 * SIZE - 7))
        assert reader.read()["stamp"].tolist() == []
        path.write_bytes(data)
        assert reader.read()["stamp"].tolist() == [2, 3]
        assert reader.offset == len(data)

    def test_it_begins_anew_where_another_file_took_the_place(self, path: Path) -> None:
        filled(path, 3)
        reader = LedgerReader(path, (0, 0))
        assert reader.read()["stamp"].tolist() == [1, 2, 3]
        write_records(path, read_records(path, (0, 0))[2:])
        assert reader.read()["stamp"].tolist() == [3]

    @pytest.mark.parametrize("noise", [bytes(8 << 20), random.Random(2).randbytes(1 << 20)])
    def test_megabytes_that_are_no_records_cost_little(self, path: Path, noise: bytes) -> None:
        """They were read byte by byte: 20 s for 8 MB of zeros."""
        data = filled(path, 2)
        path.write_bytes(data[:SIZE] + noise + data[SIZE:])
        reader, began = LedgerReader(path, (0, 0)), time.process_time()
        assert reader.read()["stamp"].tolist() == [1, 2]
        assert time.process_time() - began < 2
        assert reader.offset == path.stat().st_size
