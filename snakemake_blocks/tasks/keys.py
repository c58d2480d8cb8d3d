"""Keys of a description: each says once what it may be, and how it is written and read.

A dataclass whose fields are made with :func:`key` is checked, written into a plan and read from
one by what its fields say; a new key is a new field, and a line in the form of pipeline.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from snakemake_blocks.tasks.forms import Check

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "InvalidKeysError",
    "Kind",
    "Problem",
    "check_keys",
    "default_of",
    "forms_of",
    "from_json",
    "key",
    "not_among",
    "to_json",
]

Problem = tuple[str, str]
"""Dotted key, and what is wrong with it."""

T = TypeVar("T", bound="DataclassInstance")


class InvalidKeysError(ValueError):
    """All that is wrong with the values of some keys.

    Parameters
    ----------
    found : sequence of Problem
        At least one.
    """

    def __init__(self, found: Iterable[Problem]) -> None:
        self.found = tuple(found)
        super().__init__("; ".join(f"{name}: {text}" for name, text in self.found))


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Kind:
    """What the values of a key are.

    Parameters
    ----------
    fits : callable
        Tells whether what JSON gave is such a value as it was written.
    problems : callable
        Returns what is wrong with a value that a user gave: (dotted part below the key, text).
    to_json, from_json : callable
        Between a value and what JSON takes and gives.
    """

    fits: Check
    problems: Callable[[Any], Iterable[Problem]] = lambda value: ()
    to_json: Callable[[Any], Any] = _same
    from_json: Callable[[Any], Any] = _same


def key(kind: Kind, default: Any = MISSING) -> Any:
    """Return a field of a kind; a mapping as default is copied."""
    if isinstance(default, Mapping):
        return field(default_factory=lambda: dict(default), metadata={"kind": kind})
    return field(default=default, metadata={"kind": kind})


def default_of(of: Field[Any]) -> Any:
    """Return the default of a field, MISSING if it has none."""
    return of.default_factory() if of.default_factory is not MISSING else of.default


def _kind(of: Field[Any]) -> Kind:
    found: Kind = of.metadata["kind"]
    return found


def not_among(kind: type[StrEnum], value: Any) -> str:
    """Return what to say of a value that is none of an enumeration's, empty if it is."""
    names = [str(member) for member in kind]
    return "" if str(value) in names else f"{value!r} is not one of {', '.join(names)}"


def check_keys(owner: DataclassInstance) -> None:
    """Raise if a value is not what its key says.

    Raises
    ------
    InvalidKeysError
        With all that is wrong.
    """
    found = [
        (f"{f.name}.{below}" if below else f.name, text)
        for f in fields(owner)
        for below, text in _kind(f).problems(getattr(owner, f.name))
    ]
    if found:
        raise InvalidKeysError(found)


def forms_of(cls: type[DataclassInstance]) -> dict[str, Check]:
    """Return how the keys look in a file, by name."""
    return {f.name: _kind(f).fits for f in fields(cls)}


def to_json(owner: DataclassInstance) -> dict[str, Any]:
    """Return the values by name, as JSON takes them."""
    return {f.name: _kind(f).to_json(getattr(owner, f.name)) for f in fields(owner)}


def from_json(cls: type[T], data: Mapping[str, Any]) -> T:
    """Return what :func:`to_json` wrote; keys that came later have their defaults."""
    return cls(**{f.name: _kind(f).from_json(data[f.name]) for f in fields(cls) if f.name in data})
