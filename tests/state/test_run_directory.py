"""A run directory belongs to one pipeline, wherever links lead."""

# faults: kind 2
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from project import Project

from snakemake_blocks.commands.generate import check_pipeline, generate
from snakemake_blocks.engine.input_functions import Rules
from snakemake_blocks.errors import InputError, SpecError
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.work.job import work_sentinel


def adding(project: Project, folder: Path, number: int) -> Path:
    """Make a project that adds a number to raw, 0 to 7; return its pipeline."""
    folder.mkdir(exist_ok=True)
    there = Project(folder)
    there.functions(f"def plus(raw):\n    return raw + {number}\n")
    there.array("s.zarr/raw", np.arange(8), voxel_size=[1], offset=[0])
    return there.write(
        (
            "plus",
            {
                "function": "functions:plus",
                "call": "arrays",
                "reads": {"raw": "s.zarr/raw"},
                "writes": {"out": {"array": "s.zarr/out", "dtype": "int64"}},
                "roi": "s.zarr/raw",
                "block_size": [8],
                "conflict": False,
            },
        )
    )


def test_a_link_to_another_disk_leads_to_our_folder(project: Project, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    adding(project, scratch, 100)  # an older copy, where the parent of the link's target is
    adding(project, project.folder, 1)
    (scratch / "blocks").mkdir()
    (project.folder / "blocks").symlink_to(scratch / "blocks")
    plan, _ = generate(project.pipeline)
    assert plan.folder(Path("blocks")).resolve() == project.folder
    work_sentinel(Path("blocks/plus/p0/0/0.json"), attempt=1, environment={})
    assert project.read("s.zarr/out").tolist() == list(range(1, 9))
    assert not (scratch / "s.zarr" / "out").exists()
    assert Rules("blocks", plan=plan.fingerprint).targets == ["blocks/plus/done.json"]


@pytest.mark.e2e
def test_run_and_verify_through_such_a_link(project: Project, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    adding(project, scratch, 100)
    adding(project, project.folder, 1)
    for folder in (scratch, project.folder):
        there = Project(folder)
        there.array("s.zarr/out", np.full(8, -1), voxel_size=[1], offset=[0])
    (scratch / "blocks").mkdir()
    (project.folder / "blocks").symlink_to(scratch / "blocks")
    for verb in (["run", "pipeline.yaml"], ["verify", "blocks"]):
        done = project.blocks(*verb)
        assert done.returncode == 0, done.stderr
    assert project.read("s.zarr/out").tolist() == list(range(1, 9))
    assert Project(scratch).read("s.zarr/out").tolist() == [-1] * 8


def test_a_plain_one_can_be_moved_with_its_project(project: Project, tmp_path: Path) -> None:
    plan, _ = generate(adding(project, project.folder, 1))
    assert plan.base == ".."
    moved = tmp_path / "moved"
    shutil.copytree(project.folder, moved)
    assert generate(moved / "pipeline.yaml")[0].to_bytes() == plan.to_bytes()


def test_a_copy_whose_link_leads_to_the_others_state_is_refused(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adding(project, project.folder, 1)
    (tmp_path / "state").mkdir()
    (project.folder / "blocks").symlink_to(tmp_path / "state")
    plan, _ = generate(project.pipeline)
    copy = tmp_path / "copy"
    shutil.copytree(project.folder, copy, symlinks=True)
    before = (tmp_path / "state" / "plan.json").read_bytes()
    with pytest.raises(InputError, match=r"is the run directory of .*/project/pipeline\.yaml"):
        generate(copy / "pipeline.yaml")
    assert (tmp_path / "state" / "plan.json").read_bytes() == before
    monkeypatch.chdir(copy)
    with pytest.raises(InputError, match="give this one a run_directory of its own"):
        Rules("blocks", plan=plan.fingerprint)
    shutil.rmtree(project.folder)  # it was moved, not copied
    generate(copy / "pipeline.yaml")
    assert Plan.load(Path("blocks")).folder(Path("blocks")).resolve() == copy


def test_a_project_reached_by_a_link_finds_a_run_directory_elsewhere(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`..` from the project is the parent of where it lies, not of the link."""
    pipeline = adding(project, project.folder, 1)
    with pipeline.open("a") as file:
        file.write(f"run_directory: {tmp_path / 'runs' / 'state'}\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    link = tmp_path / "deep" / "er" / "link"
    link.symlink_to(project.folder)
    plan, _ = generate(link / "pipeline.yaml")
    monkeypatch.chdir(link)
    assert Path(plan.run_directory, "plan.json").exists()
    assert (
        Rules(plan.run_directory, plan=plan.fingerprint)
        .plan.folder(tmp_path / "runs" / "state")
        .samefile(project.folder)
    )
    generate(project.pipeline)


# faults: kind 7
@pytest.mark.parametrize("name", ["functions.py", "functions.py/state"])
def test_a_file_is_no_run_directory(project: Project, name: str) -> None:
    pipeline = adding(project, project.folder, 1)
    with pipeline.open("a") as file:
        file.write(f"run_directory: {name}\n")
    with pytest.raises(SpecError, match=r"run_directory: .*functions\.py is a file; name a folder"):
        check_pipeline(pipeline)


@pytest.mark.parametrize("name", ["a{b}", "a}"])
def test_a_folder_that_snakemake_takes_for_a_pattern_is_refused(
    project: Project, name: str
) -> None:
    """It formats the path of the file that `conda:` names, wherever that lies."""
    there = project.folder / name
    with pytest.raises(SpecError, match="Snakemake takes what is in braces for a name; rename it"):
        check_pipeline(adding(project, there, 1))


def test_a_folder_without_permission_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = adding(project, project.folder, 1)
    pipeline.write_text(pipeline.read_text().replace("s.zarr/out", "o.zarr/out"))
    for module in ("storage.arrays", "commands.generate"):
        monkeypatch.setattr(f"snakemake_blocks.{module}.is_writable", lambda _: False)
    with pytest.raises(SpecError, match=r"o\.zarr/out: cannot be made, .* is not ours to write to"):
        check_pipeline(pipeline)
    pipeline.write_text(pipeline.read_text().replace("o.zarr/out", "s.zarr/raw"))
    with pytest.raises(InputError, match=r"its folder is not ours to write to; use .* -o"):
        generate(pipeline)


def test_two_pipelines_of_a_folder_need_two(project: Project) -> None:
    adding(project, project.folder, 1)
    generate(project.pipeline)
    shutil.copy(project.pipeline, "other.yaml")
    with pytest.raises(InputError, match=r"is the run directory of .*pipeline\.yaml; name another"):
        generate("other.yaml", output=Path("other.smk"))
    Path("pipeline.yaml").unlink()  # it was renamed
    assert generate("other.yaml", output=Path("other.smk"))[0].name == "other.yaml"


def test_a_snakefile_of_another_plan_says_so(project: Project) -> None:
    adding(project, project.folder, 1)
    generate(project.pipeline)
    with pytest.raises(InputError, match="holds another plan than the Snakefile was made for"):
        Rules("blocks", plan="0" * 16)


# faults: kind 2
class TestDanglingLinks:
    """What a link names is made where its folder is there; else that it is not is said."""

    @pytest.fixture
    def writing(self, project: Project) -> Project:
        """Return a project that writes into a store which is not there yet."""
        pipeline = adding(project, project.folder, 1)
        pipeline.write_text(pipeline.read_text().replace("s.zarr/out", "out.zarr/plus"))
        return project

    @pytest.mark.parametrize("link", ["out.zarr", "out.zarr/plus"])
    def test_an_array_is_made_where_it_leads(
        self, writing: Project, tmp_path: Path, link: str
    ) -> None:
        target = tmp_path / "scratch"
        target.mkdir()
        (writing.folder / link).parent.mkdir(exist_ok=True)
        (writing.folder / link).symlink_to(target / "made.zarr")
        generate(writing.pipeline)
        assert (target / "made.zarr").is_dir() and (writing.folder / link).is_symlink()
        assert writing.read("out.zarr/plus").shape == (8,)

    def test_a_run_directory_is_made_where_it_leads(self, writing: Project, tmp_path: Path) -> None:
        (writing.folder / "blocks").symlink_to(tmp_path / "scratch")
        generate(writing.pipeline)
        assert (tmp_path / "scratch" / "plan.json").exists()

    @pytest.mark.parametrize("link", ["out.zarr", "blocks"])
    def test_what_is_not_mounted_is_refused(self, writing: Project, link: str) -> None:
        before = writing.files()
        (writing.folder / link).symlink_to("/no/such/mount/place")
        with pytest.raises(SpecError, match="is a link to /no/such/mount/place, which is not th"):
            generate(writing.pipeline)
        assert writing.files() == before | {Path(link)}
