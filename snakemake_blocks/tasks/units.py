"""Units of length, exactly: what they are called, and how many of one make another."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

__all__ = ["conversion", "exact", "plain", "rounded", "stored", "unit_name"]

_PREFIXES = {
    "yotta": ("Y", 24), "zetta": ("Z", 21), "exa": ("E", 18), "peta": ("P", 15), "tera": ("T", 12),
    "giga": ("G", 9), "mega": ("M", 6), "kilo": ("k", 3), "hecto": ("h", 2), "": ("", 0),
    "deci": ("d", -1), "centi": ("c", -2), "milli": ("m", -3), "micro": ("u", -6),
    "nano": ("n", -9), "pico": ("p", -12), "femto": ("f", -15), "atto": ("a", -18),
    "zepto": ("z", -21), "yocto": ("y", -24),
}  # fmt: skip
_METRES = {
    **{f"{prefix}meter": Fraction(10) ** power for prefix, (_, power) in _PREFIXES.items()},
    "angstrom": Fraction(1, 10**10),
    "inch": Fraction(254, 10**4),
    "foot": Fraction(3048, 10**4),
    "yard": Fraction(9144, 10**4),
    "mile": Fraction(1609344, 10**3),
}
_SYMBOLS = {
    **{f"{symbol}m": f"{prefix}meter" for prefix, (symbol, _) in _PREFIXES.items()},
    "\u00b5m": "micrometer",  # the micro sign
    "\u03bcm": "micrometer",  # the Greek letter
    "micron": "micrometer",
    "\u00c5": "angstrom",
    "\u212b": "angstrom",
}
# Three zeros before the noise: by chance one measured number of a thousand has them.
_NOISELESS = 12


def unit_name(text: str) -> str:
    """Return the full name of a unit of length, empty if it is none that can be converted."""
    text = text.strip()
    name = _SYMBOLS.get(text, text.lower().removesuffix("s").replace("metre", "meter"))
    return name if name in _METRES else ""


def exact(number: Any) -> Fraction:
    """Return the decimal number that a float stands for, without the noise of computing it."""
    return plain(stored(number)) if isinstance(number, float) else Fraction(str(number))


def plain(number: Fraction) -> Fraction:
    """Return a number without the noise that floats leave: ``0.30000000000000004`` is 0.3.

    That is what 15 digits are when the last of them are zeros. Other numbers stay as they are: what
    they have beyond is measured, or cannot be told from it.
    """
    short = rounded(number)
    return Fraction(short) if short == rounded(number, digits=_NOISELESS) else number


def stored(number: Any) -> Fraction:
    """Return the decimal number as it is written, all digits of a float."""
    return Fraction(repr(float(number)) if isinstance(number, float) else str(number))


def rounded(number: Fraction, *, digits: int = 15) -> Decimal:
    """Return a number with so many digits, for which no float is too small or too large."""
    return Context(prec=digits).divide(Decimal(number.numerator), Decimal(number.denominator))


def conversion(unit: str, into: str) -> Fraction:
    """Return how many of the unit ``into`` make one ``unit``; both are full names."""
    return _METRES[unit] / _METRES[into]
