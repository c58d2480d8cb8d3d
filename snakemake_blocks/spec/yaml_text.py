"""YAML texts -> values: whatever a text does wrong is one problem with its line."""

from __future__ import annotations

import math
from typing import Any

import yaml

__all__ = ["YamlError", "parse_yaml"]

# What aliases stand for is counted as often as it stands there.
_MOST_VALUES = 10**6
# Whole numbers of more digits have no use here, and Python refuses to print them.
_MOST_DIGITS = 300
_SPOILT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class YamlError(ValueError):
    """What is wrong with a text, and where."""


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says, with safe types only.

    Raises
    ------
    YamlError
        If it is not YAML, gives a key twice, or has values that refer to themselves or are too
        many.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise YamlError(f"aliases make more than {_MOST_VALUES:,} values of it; write fewer")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise YamlError(_words(error)) from None
    except RecursionError:
        raise YamlError("is nested too deeply") from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Safe loader that names the line of everything that it refuses.

    A key that is given twice is refused, where YAML would silently keep the last.
    """

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except yaml.YAMLError as error:  # characters that YAML does not allow
            raise YamlError(_words(error)) from None

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if isinstance(node, yaml.ScalarNode):
                _check_scalar(node)
            found = super().construct_object(node, deep)
            if isinstance(found, float) and math.isinf(found) and "inf" not in node.value.lower():
                raise _refused(node, f"{_shown(node)} is larger than a float can be")
            return found
        except _SPOILT:
            kind = node.tag.rpartition(":")[2]
            raise _refused(node, f"{_shown(node)} is no value of the type {kind}") from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                known = key in seen
            except TypeError:
                raise _refused(key_node, "a list or mapping cannot be a key") from None
            if known:
                raise _refused(key_node, f"{_shown(key_node)} is given twice; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Refuse what Python could take, but neither print nor write."""
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
        raise _refused(node, f"{_shown(node)} has more than {_MOST_DIGITS} digits")
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise _refused(node, "half of a surrogate pair is no text") from None


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    found = yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    found.ours = True  # type: ignore[attr-defined]
    return found


def _shown(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        return "this"
    text = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    return text if text.isprintable() else ascii(text)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for; what is on the way to itself has count 0."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    found = known.get(id(node))
    if found == 0:
        raise _refused(node, "refers to itself by an alias; write it out")
    if found is None:
        known[id(node)] = 0
        below = [n for x in node.value for n in (x if isinstance(x, tuple) else (x,))]
        found = known[id(node)] = 1 + sum(_count(n, known) for n in below)
    return found


def _words(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{problem}" if hasattr(error, "ours") else f"{where}not YAML: {problem}"
