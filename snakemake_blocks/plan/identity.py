"""What a task's fingerprint stands for, so that it can be said why results no longer count."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["differences", "fingerprint_of"]

_LONGEST_VALUE = 60


def fingerprint_of(identity: Mapping[str, Any]) -> int:
    """Return 64 bits of the hash of all that decides what the blocks of a task compute."""
    text = json.dumps(identity, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in words where two identities differ, e.g. ``params.sigma is 6.0, was 5.0``."""
    before, after = _leaves(old), _leaves(new)
    found = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            found.append(f"{key} is gone, was {_shown(before[key])}")
        elif key not in before:
            found.append(f"{key} is {_shown(after[key])}, was not there")
        elif before[key] != after[key]:
            found.append(f"{key} is {_shown(after[key])}, was {_shown(before[key])}")
    return found


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their dotted keys."""
    found: dict[str, Any] = {}
    for key, below in value.items():
        if isinstance(below, Mapping):
            found |= _leaves(below, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = below
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
