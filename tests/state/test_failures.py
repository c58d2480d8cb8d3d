from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from snakemake_blocks.errors import InputError
from snakemake_blocks.state.failures import (
    BlockFailedError,
    Failure,
    ScriptError,
    append_failure,
    failure_of,
    grouped,
    read_failures,
)

CODE = """
import json

def fails(text):
    raise ValueError(text)

def fails_too(text):
    raise ValueError(text)

def fails_in_a_library():
    json.loads("{")

def fails_badly():
    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")
    raise Bad()
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "functions_of_a_user.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    import functions_of_a_user  # type: ignore[import-not-found]

    yield functions_of_a_user
    del sys.modules["functions_of_a_user"]


def failure(call: object, *arguments: object) -> Failure:
    try:
        call(*arguments)  # type: ignore[operator]
    except Exception as error:
        return failure_of(error, (1, 2), 3, "some.log")
    raise AssertionError


class TestCauses:
    def test_exception_and_line(self, user: ModuleType) -> None:
        found = failure(user.fails, "block 7 is bad")
        assert found.cause == "ValueError at functions_of_a_user.py:5"
        assert found.message == "ValueError: block 7 is bad"
        assert "in fails\n    raise ValueError(text)" in found.trace
        assert (found.index, found.attempt, found.log) == ((1, 2), 3, "some.log")

    def test_the_text_makes_no_other_cause_but_the_line_does(self, user: ModuleType) -> None:
        causes = [failure(user.fails, "a").cause, failure(user.fails, "b").cause]
        causes.append(failure(user.fails_too, "a").cause)
        assert causes[0] == causes[1] != causes[2]

    def test_the_users_line_not_the_librarys(self, user: ModuleType) -> None:
        found = failure(user.fails_in_a_library)
        assert found.cause.startswith("JSONDecodeError at ")

    def test_an_exception_that_cannot_be_shown(self, user: ModuleType) -> None:
        assert "Bad" in failure(user.fails_badly).cause

    def test_our_refusals_are_their_own_cause(self) -> None:
        found = failure_of(BlockFailedError("not done"), (0,), 1, "")
        assert found.cause == found.message
        assert found.cause.endswith("BlockFailedError: not done")
        assert "InputError: no" in failure_of(InputError("no"), (0,), 1, "").cause

    def test_what_another_process_said(self) -> None:
        error = ScriptError("ValueError at script.py:3", "ValueError: x", "Traceback ...")
        found = failure_of(error, (0,), 2, "log")
        assert found == Failure((0,), 2, "ValueError at script.py:3", "ValueError: x",
                                "Traceback ...", "log")  # fmt: skip


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "logs" / "0.failures.jsonl"
        wanted = [Failure((n, 0), 1, "cause", "größe\nline 2", "trace") for n in range(3)]
        for one in wanted:
            append_failure(path, one)
        assert list(read_failures(path)) == wanted

    def test_damaged_lines_are_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "0.failures.jsonl"
        append_failure(path, Failure((0,), 1, "a", ""))
        with path.open("ab") as file:
            file.write(b'{"index": [1], "attempt"\n\xff\xfe\n[]\n3\n{}\n')
        append_failure(path, Failure((2,), 1, "a", ""))
        assert [f.index for f in read_failures(path)] == [(0,), (2,)]
        assert list(read_failures(tmp_path / "none")) == []

    def test_where_it_cannot_be_written_the_log_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        append_failure(tmp_path / "file" / "x.jsonl", Failure((0,), 1, "a", ""))
        assert "could not be written down" in capsys.readouterr().err


def test_the_most_frequent_cause_comes_first() -> None:
    causes = ["b", "a", "c", "c", "b", "c"]
    found = grouped(Failure((n,), 1, cause, "") for n, cause in enumerate(causes))
    assert list(found) == ["c", "b", "a"]
    assert [f.index for f in found["b"]] == [(0,), (4,)]


# faults: kind 9
class TestHostileText:
    @pytest.mark.parametrize("text", ["x" * 5_000_000, "\udcff" * 50_000, "\n\x1b[2J\0\r\u2028"])
    def test_is_read_as_it_was_written_and_bounded(
        self, user: ModuleType, tmp_path: Path, text: str
    ) -> None:
        found = failure(user.fails, text)
        append_failure(tmp_path / "f", found)
        append_failure(tmp_path / "f", found)
        assert list(read_failures(tmp_path / "f")) == [found, found]
        assert len(found.message) < 100_000 and len(found.trace) < 700_000
        assert found.cause.startswith("ValueError at functions_of_a_user.py:")
        assert (found.message + found.trace).encode()

    def test_a_cause_is_one_printable_line(self) -> None:
        error = BlockFailedError("\x1b[31m red \0 " + "y" * 9_000)
        cause = failure_of(error, (0,), 1, "").cause
        assert cause.isprintable() and len(cause) < 600


# faults: kind 12
def test_lines_that_are_no_failures_are_passed_over(tmp_path: Path) -> None:
    one, path = Failure((1, 2), 3, "bad", "so"), tmp_path / "f"
    wrong = ({"cause": ["bad"]}, {"index": ["1"]}, {"index": 1}, {"attempt": "3"}, {"trace": None})
    lines = [json.dumps({**asdict(one), **change}) for change in wrong]
    path.write_text("\n".join([*lines, "[" * 100_000, "[]", "null", "{", ""]))
    append_failure(path, one)
    assert grouped(read_failures(path)) == {"bad": [one]}
