# faults: text that becomes code
from __future__ import annotations

import ast
from dataclasses import replace

import pytest
from declared import line, plan_of
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.engine.snakefile import explicit_snakefile, snakefile
from snakemake_blocks.system.quoting import comment, literal

HOSTILE = [
    "a\nimport os; os.abort()",
    "a\rraise SystemExit",
    "a\x0craise SystemExit",
    "a\u2028raise SystemExit",
    "a\x85raise SystemExit",
    "\"'\\",
    "'''\"\"\"",
    "{x} # $(touch x) `touch x`",
    "\N{PILE OF POO}",
    "n" * 5000,
]


@given(st.text())
def test_a_literal_is_the_text_on_one_line(text: str) -> None:
    written = literal(text)
    assert written.isprintable() and ast.literal_eval(written) == text


@given(st.text())
def test_a_comment_stays_one(text: str) -> None:
    assert len(f"# {comment(text)}".splitlines()) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("layout", [snakefile, explicit_snakefile])
def test_no_name_is_code(text: str, layout: object) -> None:
    """With a hostile name the Snakefile has the lines that it has with a plain one."""
    # Control characters in resources are refused before that.
    value = "".join(c for c in text if c.isprintable())
    resources = {"queue": value}
    made = replace(plan_of(line(text, resources=resources)), name=text)
    hostile = layout(made, version="1")  # type: ignore[operator]
    plain = layout(plan_of(line("plain", resources=resources)), version="1")  # type: ignore[operator]
    lines = hostile.splitlines()
    assert len(lines) == len(plain.splitlines()) == hostile.count("\n")
    (queue,) = {row.strip() for row in lines if row.strip().startswith("queue=")}
    assert ast.literal_eval(queue.removeprefix("queue=").removesuffix(",")) == value
