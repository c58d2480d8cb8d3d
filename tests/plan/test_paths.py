from __future__ import annotations

import re
from pathlib import Path

import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
from hypothesis import given
from hypothesis import strategies as st

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Index
from snakemake_blocks.plan.paths import (
    RunPaths,
    SentinelName,
    find_run_directory,
    job_name,
    shard,
    slug,
)

ROOT = RunPaths(Path("blocks"))
INDICES = st.lists(st.integers(0, 10**9), min_size=1, max_size=4).map(tuple)
TASK_IDS = (
    st.text(max_size=8) | st.text("ab_x5f:/ é", max_size=8) | st.text(min_size=20, max_size=140)
)


class TestSlug:
    @pytest.mark.parametrize("name", ["smooth", "Segment_2", "a", "xylem", "x"])
    def test_plain_names_stay(self, name: str) -> None:
        assert slug(name) == name

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("dummy_task:123", "x_dummy_5f_task_3a_123"),
            ("x_a", "x_x_5f_a"),
            ("2d", "x_2d"),
            ("", "x_"),
            ("größe", "x_gr_f6__df_e"),
            ("../up", "x__2e__2e__2f_up"),
        ],
    )
    def test_others_are_spelled_out(self, name: str, expected: str) -> None:
        assert slug(name) == expected

    @pytest.mark.parametrize("name", ["a" * 121, "ä" * 30, "x_" + "0" * 200, "\ud800" * 99])
    def test_long_names_end_in_a_hash(self, name: str) -> None:
        found = slug(name)
        assert len(found) == 121 and found[:2] in ("aa", "x_")
        others = [name + "b", name[:-1], found, found[:-1], name[:-1] + "c"]
        assert len({found, *map(slug, others)}) == 6

    def test_names_that_are_not_long_stay(self) -> None:
        assert slug("a" * 120) == "a" * 120

    def test_no_task_takes_the_place_of_another_file(self) -> None:
        """Nothing of a run directory has the name of a task's folder."""
        others = [ROOT.plan, ROOT.functions, ROOT.lock, ROOT.drain, ROOT.mask("smooth")]
        for path in others:
            first = path.relative_to(ROOT.root).parts[0]
            assert slug(first) != first

    @given(TASK_IDS, TASK_IDS)
    def test_different_tasks_have_different_slugs(self, one: str, other: str) -> None:
        assert (slug(one) == slug(other)) == (one == other)

    @given(TASK_IDS)
    def test_a_slug_is_fit_for_files_and_rules(self, name: str) -> None:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", slug(name))


class TestJobNames:
    @pytest.mark.parametrize(
        "index, expected",
        [
            ((1234,), "1/1234"),
            ((30, 31), "0-1/30-31"),
            ((9, 10, 25), "0-1-2/9-10-25"),
            ((4, 5, 9, 10), "0-1-1-2/4-5-9-10"),
        ],
    )
    def test_names(self, index: Index, expected: str) -> None:
        assert job_name(index) == expected

    @pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5])
    def test_a_folder_holds_at_most_a_thousand_jobs(self, ndim: int) -> None:
        side = next(k for k in range(2000) if shard((k,) + (0,) * (ndim - 1))[0] == "1")
        assert side**ndim <= 1000 < (side + 1) ** ndim

    @given(INDICES, INDICES)
    def test_different_jobs_have_different_names(self, one: Index, other: Index) -> None:
        assert (job_name(one) == job_name(other)) == (one == other)

    @given(INDICES, st.integers(0, 500), TASK_IDS)
    def test_a_sentinel_says_which_job_it_is_of(self, index: Index, phase: int, name: str) -> None:
        found = SentinelName.from_path(ROOT.sentinel(slug(name), phase, index))
        assert found == SentinelName(Path("blocks"), slug(name), phase, index)

    def test_a_sentinel_in_the_present_folder(self) -> None:
        found = SentinelName.from_path(Path("smooth/p0/0/7.json"))
        assert found == SentinelName(Path("."), "smooth", 0, (7,))

    @pytest.mark.parametrize(
        "path",
        [
            "blocks/smooth/done.json",
            "blocks/smooth/tree/1/0.json",
            "blocks/smooth/p0/0-0/3-4",
            "blocks/smooth/px/0-0/3-4.json",
            "blocks/smooth/p0/0-0/3-.json",
            "3-4.json",
            "p0/0-0/3-4.json",
            "",
        ],
    )
    def test_other_files_are_no_sentinels(self, path: str) -> None:
        with pytest.raises(InputError, match="is not a sentinel; one looks like blocks/"):
            SentinelName.from_path(Path(path))


class TestRunPaths:
    def test_layout(self) -> None:
        """What users and rules rely on."""
        index = (9, 10, 25)
        assert str(ROOT.plan) == "blocks/plan.json"
        assert str(ROOT.sentinel("smooth", 3, index)) == "blocks/smooth/p3/0-1-2/9-10-25.json"
        assert str(ROOT.ledger("smooth", index)) == "blocks/smooth/ledger/0-1-2/9-10-25"
        assert str(ROOT.log("smooth", index)) == "blocks/smooth/logs/0-1-2/9-10-25.log"
        assert str(ROOT.done("smooth")) == "blocks/smooth/done.json"
        assert str(ROOT.aggregate("smooth", "tree/1/7")) == "blocks/smooth/tree/1/7.json"

    def test_files_of_a_job_do_not_meet(self) -> None:
        kinds = (ROOT.ledger, ROOT.job_lock, ROOT.failures, ROOT.log)
        files = [kind("smooth", (1, 2)) for kind in kinds] + [ROOT.sentinel("smooth", 0, (1, 2))]
        assert len(set(files)) == len(files)


class TestFindRunDirectory:
    def test_nearest_folder_with_a_plan(self, tmp_path: Path) -> None:
        below = tmp_path / "blocks" / "smooth" / "p0"
        below.mkdir(parents=True)
        (tmp_path / "blocks" / "plan.json").write_text("{}")
        assert find_run_directory(below) == tmp_path / "blocks"
        assert find_run_directory(tmp_path / "blocks") == tmp_path / "blocks"

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no plan\.json here or above; run"):
            find_run_directory(tmp_path / "blocks")
