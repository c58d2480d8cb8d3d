"""Changing values in a YAML text; comments, order and layout of everything else stay.

The text is cut at the places that PyYAML's parser tells, and the result is parsed again: it has to
hold the old values and the new ones, or the change is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from snakemake_blocks.errors import InputError
from snakemake_blocks.spec.yaml_text import YamlError, parse_yaml

__all__ = ["with_values"]


def with_values(text: str, changes: Mapping[tuple[str, ...], int]) -> str:
    """Return a YAML text in which numbers stand at places.

    Parameters
    ----------
    text : str
        Mappings of mappings.
    changes : mapping of tuple of str to int
        New values by the keys that lead to them. The last two may be missing in the text.

    Raises
    ------
    InputError
        If that cannot be done without changing anything else, e.g. where mappings are shared by
        anchors.
    """
    try:
        wanted = _unshared(parse_yaml(text))
    except YamlError as error:
        raise InputError(str(error)) from None
    for path, value in changes.items():
        _put(wanted, path, value)
        text = _changed(text, path, value)
    try:
        found = parse_yaml(text)
    except YamlError:
        found = None
    if found != wanted:
        raise _refusal()
    return text


def _refusal() -> InputError:
    return InputError("the file is written in a way that cannot be edited without harm")


def _unshared(data: Any) -> Any:
    """Return a copy in which what anchors share is there several times."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    return [_unshared(value) for value in data] if isinstance(data, list) else data


def _put(data: Any, path: Sequence[str], value: int) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {}) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        raise _refusal()
    data[path[-1]] = value


def _changed(text: str, path: tuple[str, ...], value: int) -> str:
    """Return the text with one value."""
    mapping = yaml.compose(text, yaml.SafeLoader)
    for depth, key in enumerate(path):
        entry = _entry(mapping, key)
        if entry is None:
            rest = f"{value}"
            for inner in reversed(path[depth + 1 :]):
                rest = f"{{{inner}: {rest}}}"
            return _inserted(text, mapping, f"{key}: {rest}")
        name, node = entry
        mapping = node
    begin, end = name.end_mark.index, _end(text, node)
    return f"{text[:begin]}: {value}{text[end:]}"


def _entry(mapping: Any, key: str) -> tuple[Any, Any] | None:
    """Return the nodes of a key and its value, None if the mapping has no such key."""
    if not isinstance(mapping, yaml.MappingNode):
        return None
    return next(((k, v) for k, v in mapping.value if k.value == key), None)


def _inserted(text: str, mapping: Any, entry: str) -> str:
    """Return the text with a new entry at the end of a mapping."""
    assert isinstance(mapping, yaml.MappingNode)  # else _put would have refused
    if mapping.flow_style or not mapping.value:
        place = text.rindex("}", 0, mapping.end_mark.index)
        inside = text[:place].rstrip()
        comma = "" if inside.endswith(("{", ",")) else ","
        return f"{inside}{comma}{'' if inside.endswith('{') else ' '}{entry}{text[place:]}"
    line_end = text.find("\n", _end(text, mapping))
    line_end = len(text) if line_end < 0 else line_end
    indent = " " * mapping.value[0][0].start_mark.column
    return f"{text[:line_end]}\n{indent}{entry}{text[line_end:]}"


def _end(text: str, node: Any) -> int:
    """Return where a value ends; of collections in block style, the marks stand further on."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    begin, end = int(node.start_mark.index), int(node.end_mark.index)
    return begin + len(text[begin:end].rstrip())
