"""User text in generated text: the only ways in which it gets there, so that none of it is code."""

from __future__ import annotations

import json

__all__ = ["comment", "literal"]


def comment(text: str) -> str:
    """Return text fit for a comment or a line: what could end a line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def literal(text: str) -> str:
    """Return a Python literal, with the quotes that snakefmt would choose: with fewer escapes.

    It holds printable characters only: some readers take U+2028 or a form feed for a new line.
    """
    double = json.dumps(text, ensure_ascii=False)
    if text.count('"') > text.count("'"):
        inner = double[1:-1].replace('\\"', '"').replace("'", "\\'")
        double = f"'{inner}'"
    # A JSON escape of two surrogates would be two characters in Python.
    return comment(double)
