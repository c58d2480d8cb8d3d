"""Values and files that do not belong where they are put."""

from __future__ import annotations

import copy
import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from snakemake_blocks.state.ledger import record_dtype
from snakemake_blocks.system.files import parse_json

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**53, 2**63, 10**30, 10**400, float("nan"), float("inf"), 1e308,
    "", " ", "x", "a\0b", "a\nb: c", "\N{FACE WITH TEARS OF JOY}" * 3, "../..", "/dev/zero",
    "1" * 400, "9" * 5000, "\u00b2", "9" * 400 + "h",
    [], {}, [[]], [None], [1, 2, 3], [0, 0], [2**62, 2**62], {"a": 1}, {"array": []},
    "a" * 5000, list(range(64)), "{wildcards}", "s.zarr", "s.zarr/raw", "~", "*",
)  # fmt: skip
TEXTS = (
    "!!int 1x", "!!bool maybe", "!!float x", "!!timestamp x", "!!binary x", "!!set {a, b}",
    "!!python/object:os.system x", "!!null x", "&a [*a]", "&a {x: *a}", "*b", "<<: *c", "<<: [1]",
    "\0", "\t", "\x85", "\ufeff", "? [1]", "? {a: 1}", "- ", "---", "...", "%YAML 9.9", "{", "]",
    "'", '"', "|", ">", "0x" + "f" * 5000, "9" * 5000, "1e999999", "0o777777777777777777777777",
    "1:2:3:4", "2001-13-45", "2001-01-01", "[" * 2000, "{a: " * 500, "-" * 3000, "\\ud800", "=",
    '"\\ud800"', "!!omap [a: 1]", "!!pairs x", "1_0_0", ".inf", "0b2", "~: 1", "1: 2", "&x",
)  # fmt: skip
_KINDS = (
    "cut", "flip", "empty", "gone", "folder", "full", "fifo", "dangling", "device", "sparse",
    "nested", "swap", "more", "tree", "tree", "tree", "tree",
)  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a tree, the tree itself left out."""
    items: Any = ()
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    return [p for key, value in items for p in ((*path, key), *places(value, (*path, key)))]


def mutated(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a tree in which one value is another, is gone, or stands twice; and in words what."""
    tree = copy.deepcopy(tree)
    found = places(tree)
    if not found or rng.random() < 0.02:
        value = rng.choice(VALUES)
        return value, f"all = {value!r:.60}"
    path = rng.choice(found)
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    kind, key = rng.random(), path[-1]
    if kind < 0.75:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
        return tree, f"{path} = {parent[key]!r:.60}"
    if kind < 0.87 or isinstance(parent, list):
        del parent[key]
        return tree, f"{path} removed"
    name = rng.choice([v for v in VALUES if not isinstance(v, (list, dict))])
    parent[name] = parent.pop(key) if kind < 0.93 else copy.deepcopy(parent[key])
    return tree, f"{path} renamed {name!r:.60}"


def mistyped(text: str, rng: random.Random) -> tuple[str, str]:
    """Return a YAML text with one slip in it; and in words which."""
    place, kind = rng.randrange(len(text) + 1), rng.random()
    if kind < 0.1:
        return text[:place], f"cut at {place}"
    if kind < 0.2:
        return text[:place] + chr(rng.randrange(0xD000)) + text[place + 1 :], f"{place}"
    new = rng.choice(TEXTS)
    if kind < 0.5:
        return text[:place] + new + text[place:], f"{place}: {new!r:.40}"
    end = rng.choice([i for i, c in enumerate(text) if c == "\n"] or [0])  # in place of a value
    begin = max(text.rfind(mark, 0, end) for mark in (": ", "- ", "\n")) + 1
    return f"{text[:begin]} {new}{text[end:]}", f"{begin}: {new!r:.40}"


def is_plain(path: Path) -> bool:
    """Tell whether there is a file that is not damaged too much to be read here."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20


def plain_files(folder: Path) -> list[Path]:
    """Return the files below a folder that can be damaged."""
    return sorted(p for p in folder.rglob("*") if is_plain(p))


def damaged(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Damage one file, or put something else in its place; return in words what."""
    kind, data = rng.choice(_KINDS), path.read_bytes()
    if kind == "tree":
        if words := _mutate_content(path, data, rng):
            return f"{path}: {words}"
        kind = "flip"
    if kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data) + 1)])
    elif kind == "flip":
        path.write_bytes(_flipped(data, rng))
    elif kind == "more":
        path.write_bytes(data + rng.randbytes(rng.choice((1, 64, 1000))))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "nested":
        path.write_bytes(rng.choice((b"[", b'{"a":')) * 100_000)
    elif kind == "sparse":
        os.truncate(path, 1 << rng.choice((31, 40)))
    elif kind == "swap":
        path.write_bytes(rng.choice(others).read_bytes())
    else:
        _replace(path, kind)
    return f"{path}: {kind}"


def _replace(path: Path, kind: str) -> None:
    """Put what is no file in the place of one, or nothing."""
    path.unlink()
    if kind in ("folder", "full"):
        path.mkdir()
        if kind == "full":
            (path / "x").touch()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind != "gone":
        path.symlink_to("nowhere" if kind == "dangling" else "/dev/zero")


def _flipped(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice((1, 3, 30)) if content else 0):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _mutate_content(path: Path, data: bytes, rng: random.Random) -> str:
    """Change a value of a file whose form is known, all else right; empty if it is not known."""
    try:
        if path.suffix == ".yaml":
            tree, words = mutated(yaml.safe_load(data), rng)
            path.write_text(yaml.safe_dump(tree, sort_keys=False))
        elif path.parent.parent.name == "ledger" and not path.suffix:
            path.write_bytes(_with_record(data, rng))
            words = "a record"
        else:
            *lines, last = data.splitlines(keepends=True) if path.suffix == ".jsonl" else (data,)
            tree, words = mutated(parse_json(last), rng)
            path.write_bytes(b"".join(lines) + json.dumps(tree).encode())
    except (ValueError, yaml.YAMLError, RecursionError):
        return ""
    return words


def _with_record(data: bytes, rng: random.Random) -> bytes:
    """Return a ledger with another value in a record, whose checksum is right."""
    dtype = record_dtype(2)
    records = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype).copy()
    if not len(records) or dtype.names is None:
        raise ValueError("no ledger of two axes")
    record = records[rng.randrange(len(records)) :][:1]
    name = rng.choice(dtype.names[:-1])
    record[name] = np.frombuffer(rng.randbytes(record[name].nbytes), record[name].dtype).reshape(
        record[name].shape
    )
    record["crc"] = zlib.crc32(record.tobytes()[:-4])
    return records.tobytes()
