from __future__ import annotations

import io

import pytest

from snakemake_blocks.progress import Count, ProgressView, Tracker


def test_a_notebook_gets_lines_and_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says FORCE_COLOR, but is no terminal on which a bar could be drawn again."""
    monkeypatch.setenv("FORCE_COLOR", "1")

    class Two(Tracker):
        def __init__(self) -> None: ...

        def poll(self) -> dict[str, Count]:
            return {"one": Count(done=3, failed=1, total=4)}

    stream = io.StringIO()
    view = ProgressView(Two(), stream)
    view.start()
    view.stop()
    assert "\x1b[?25l" not in stream.getvalue()
    assert "one: 3 of 4 blocks done, 1 failed" in stream.getvalue()
