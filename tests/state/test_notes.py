from __future__ import annotations

import os
from pathlib import Path

import pytest

from snakemake_blocks.errors import InputError
from snakemake_blocks.state.notes import note_once, read_notes

FINGERPRINT = 255
NAME = f"cut.{FINGERPRINT:016x}"


def test_is_said_once_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        note_once(tmp_path / "notes", NAME, "fractions\nare cut off")
    assert capsys.readouterr().out == "fractions\nare cut off\n"
    assert list(read_notes(tmp_path / "notes", FINGERPRINT)) == ["fractions are cut off"]
    assert not list(read_notes(tmp_path / "notes", 1))


# faults: kind 12
@pytest.mark.timeout(20)
class TestWhatIsNoNote:
    @pytest.mark.parametrize("kind", ["pipe", "device", "folder", "sparse"])
    def test_is_refused_by_name(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / NAME
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, 1 << 40)
        with pytest.raises(InputError, match=NAME):
            list(read_notes(tmp_path, FINGERPRINT))

    def test_does_not_keep_it_from_being_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "notes").touch()
        note_once(tmp_path / "notes", NAME, "fractions are cut off")
        assert capsys.readouterr().out == "fractions are cut off\n"
