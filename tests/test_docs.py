"""The commands of README and docs, page by page, as a reader would type them.

A page's fenced blocks run in order, in a folder that holds the demo's pipeline: ```sh by bash,
```python as a script. ``<!-- file: NAME -->`` before a block: it is the content of a file;
``<!-- not run: REASON -->``: it is not run, and why. The tutorial is executed by `make docs`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from project import BIN

import snakemake_blocks
from snakemake_blocks.demo import write_demo

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LANGUAGES = {"sh", "python", "yaml", "text"}

_FENCE = re.compile(
    r"(?:^[ ]*<!-- (?P<marker>[^\n]*?) -->\n\n?)?"
    r"^(?P<indent>[ ]*)(?P<ticks>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)\s]*)?\)")


@dataclass(frozen=True, slots=True)
class Fence:
    """One fenced block."""

    line: int
    language: str
    text: str
    marker: str = ""

    def after(self, word: str) -> str:
        """Return what the marker says behind ``word:``, empty if it says something else."""
        start, _, rest = self.marker.partition(":")
        return rest.strip() if start == word else ""


def fences(text: str) -> Iterator[Fence]:
    """Yield the fenced blocks of a page that are no directives."""
    for found in _FENCE.finditer(text):
        if not found["info"].startswith("{"):
            line = text.count("\n", 0, found.start("ticks")) + 1
            body = textwrap.dedent(found["text"])
            yield Fence(line, found["info"].strip(), body, found["marker"] or "")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def is_run(fence: Fence) -> bool:
    return fence.language in ("sh", "python") and not fence.marker


class TestFences:
    def test_are_found_with_their_markers(self) -> None:
        page = "a\n<!-- not run: b -->\n```sh\nc\n```\n- d\n  ```yaml\n  e: 1\n  ```\n```{f}\n```\n"
        assert list(fences(page)) == [
            Fence(3, "sh", "c\n", "not run: b"),
            Fence(7, "yaml", "e: 1\n"),
        ]

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_are_run_or_say_why_not(self, page: Path) -> None:
        for fence in fences(page.read_text()):
            place = f"{name(page)}:{fence.line}"
            assert fence.language in LANGUAGES, f"{place}: name the language, of {LANGUAGES}"
            if fence.marker:
                known = fence.after("file") or len(fence.after("not run")) > 5
                assert known, f"{place}: {fence.marker!r} is neither a file nor a reason"
            if fence.language == "yaml":
                assert yaml.safe_load(fence.text), place


@pytest.mark.e2e
@pytest.mark.timeout(1200)  # a page has up to a dozen commands
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(map(is_run, fences(p.read_text())))], ids=name
)
def test_what_a_page_says_works(page: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_demo(folder)
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "COLUMNS": "120"}
    for fence in fences(page.read_text()):
        if file := fence.after("file"):
            (folder / file).write_text(fence.text)
        if not is_run(fence):
            continue
        shell = ["bash", "-euo", "pipefail", "-c"]
        command = shell if fence.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, fence.text], cwd=folder, env=environment, capture_output=True, text=True
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, f"{name(page)}:{fence.line}\n{fence.text}\n{said}"


@pytest.mark.parametrize(
    "page", [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("profiles/*/*.md")], ids=name
)
def test_links_lead_to_files(page: Path) -> None:
    for target in _LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)):
        assert (page.parent / target).exists(), f"{name(page)}: {target}"


def test_every_public_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    told = set(re.findall(r"^\s*\.\. (?:auto|py:)\w+:: (\w+)", text, re.MULTILINE))
    assert told >= set(snakemake_blocks.__all__)
