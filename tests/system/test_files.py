from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_blocks.errors import InputError
from snakemake_blocks.system.files import (
    append_to,
    open_file,
    read_file,
    read_text,
    write_atomically,
)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


_FOREIGN: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "loop": lambda path: path.symlink_to(path.name),
}


# faults: kind 12
@pytest.mark.timeout(20)
class TestWhatIsNoFile:
    @pytest.mark.parametrize("kind", _FOREIGN)
    def test_is_refused_by_name_and_not_waited_for(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "x"
        _FOREIGN[kind](path)
        for read in (read_file, read_text, lambda p: open_file(p).__enter__()):
            with pytest.raises(InputError) as caught:
                read(path)  # type: ignore[no-untyped-call]
            assert str(caught.value).startswith(f"{path}: ")
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["folder", "pipe", "device", "socket"])
    def test_is_not_appended_to(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "x"
        _FOREIGN[kind](path)
        with pytest.raises(InputError, match=r"x: is .*file; move it away"):
            append_to(path)

    def test_handles_are_not_leaked(self, tmp_path: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(9):
            with pytest.raises(InputError):
                read_file(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before


# faults: kind 12
class TestReadFile:
    def test_content_up_to_the_bound(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"12345")
        assert read_file(path) == read_file(path, most=5) == b"12345"
        with pytest.raises(InputError, match=r"x: is larger than 4 bytes"):
            read_file(path, most=4)

    def test_a_huge_file_without_content_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.touch()
        os.truncate(path, 1 << 40)
        with pytest.raises(InputError, match="is larger than 268,435,456 bytes"):
            read_file(path)

    def test_a_link_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"1")
        (tmp_path / "y").symlink_to("x")
        assert read_file(tmp_path / "y") == b"1"

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_file(tmp_path / "x")

    def test_zero_byte_in_the_name(self) -> None:
        with pytest.raises(InputError, match="cannot be the name of a file"):
            read_file(Path("a\0b"))

    def test_text_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"\xff")
        with pytest.raises(InputError, match=r"x: is not UTF-8 text \(invalid start byte\)"):
            read_text(tmp_path / "x")


class TestWriteAtomically:
    @pytest.mark.parametrize("durable", [True, False])
    def test_makes_the_folder_and_replaces_the_file(self, tmp_path: Path, durable: bool) -> None:
        path = tmp_path / "a" / "b"
        for content in (b"first, and longer", b"second"):
            write_atomically(path, content, durable=durable)
            assert path.read_bytes() == content
        assert [p.name for p in path.parent.iterdir()] == ["b"]

    def test_a_failure_leaves_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"old")
        with pytest.raises(TypeError):
            write_atomically(path, "text")  # type: ignore[arg-type]
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    # faults: kind 12
    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        with pytest.raises(InputError, match=r"a: is a folder, not a file; move it away"):
            write_atomically(tmp_path / "a", b"")
        assert [p.name for p in tmp_path.iterdir()] == ["a"]

    # faults: kind 12
    def test_a_file_in_place_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        for name in ("a/b", "a/b/c"):
            with pytest.raises(InputError, match=r"a(/b)?: is no folder; move it away"):
                write_atomically(tmp_path / name, b"")
