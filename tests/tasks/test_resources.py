from __future__ import annotations

from typing import Any

import pytest

from snakemake_blocks.tasks.resources import amount_problem, as_number, grows


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        *[("runtime", text, 120) for text in ("120", "120m", "2h", "2 hours", "2.0 H", "120min")],
        *[("runtime", text, 1) for text in ("10s", "1.5", "1m", "61 seconds")],
        ("runtime", "1 d", 1440),
        ("runtime", "1w", 10080),
        *[("mem", text, 4000) for text in ("4000", "4GB", "4 g", "4000 MB", "0.004TB")],
        *[("mem", text, 1) for text in ("1.2", "3KiB")],
        ("mem", "4GiB", 4295),
        ("disk", "1T", 1000000),
    ],
)
def test_texts_mean_what_snakemake_takes_them_for(name: str, text: str, number: int) -> None:
    from snakemake.resources import Resource

    assert as_number(name, text) == number
    assert amount_problem(name, text) == ""
    if not text.isdecimal():  # Snakemake 9.19 takes these for seconds and bytes
        assert Resource.parse_human_friendly(name, text) == number


@pytest.mark.parametrize(
    ("name", "value"),
    [("runtime", 90), ("runtime", 1.5), ("mem", "lots"), ("mem_mb", "1GB"), ("queue", "1h")],
)
def test_everything_else_stays(name: str, value: Any) -> None:
    assert as_number(name, value) == value


def test_what_is_no_amount_is_named() -> None:
    assert amount_problem("mem", "lots") == "'lots' is no amount; write e.g. 2GB"
    assert amount_problem("runtime", "1d 2h").startswith("'1d 2h' is no amount")
    assert amount_problem("queue", "lots") == amount_problem("mem", 3) == ""


@pytest.mark.parametrize(
    ("name", "value", "does"),
    [
        ("mem_mb", 100, True),
        ("mem", 100, True),
        ("runtime", 1.5, True),
        ("mem_mb", "auto", False),
        ("disk_mb", 100, False),
        ("gpu", 1, False),
    ],
)
def test_what_grows(name: str, value: Any, does: bool) -> None:
    assert grows(name, value) is does


# faults: kind 12
@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 5000 + "h", "9" * 400 + "GB", "\u00b2", "\u0663"]
)
@pytest.mark.parametrize("name", ["mem", "disk", "runtime", "mem_mb", "disk_mb"])
def test_numbers_that_no_float_holds_are_none(name: str, text: str) -> None:
    assert "; write " in amount_problem(name, text)
    assert len(amount_problem(name, text)) < 200
    assert as_number(name, text) == text
