from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from project import BIN, Project

from snakemake_blocks.engine.profiles import (
    install_profile,
    profile_text,
    resolve_profile,
    shipped_profiles,
)
from snakemake_blocks.errors import InputError

_DAMAGES = ["pipe", "folder", "device", "dangling", "bomb", "list", "no", "flag"]
NAMES = ["local", "lsf", "slurm"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the user's profiles, which is not the developer's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))
    return tmp_path / "home" / "config" / "snakemake"


def settings(name: str, **changes: str) -> dict[str, Any]:
    changed = {key.replace("__", "-"): value for key, value in changes.items()}
    found: dict[str, Any] = yaml.safe_load(profile_text(name, changed))
    return found


def write_profile(folder: Path, name: str = "config.yaml", text: str = "jobs: 1\n") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder)


class TestShipped:
    def test_list_and_show(self, project: Project) -> None:
        assert shipped_profiles() == NAMES
        assert project.cli("profile", "list").output.split() == NAMES
        shown = project.cli("profile", "show", "slurm", "--set", "slurm_account=lab")
        assert shown.exit_code == 0
        assert shown.output == profile_text("slurm", {"slurm_account": "lab"})

    @pytest.mark.parametrize("name", NAMES)
    def test_every_setting_has_its_reason(self, name: str) -> None:
        before = ""
        for line in profile_text(name).splitlines():
            if line and not line.startswith((" ", "#")):
                assert before.startswith("#"), line
            before = line

    @pytest.mark.parametrize("name", ["no", "../profiles/lsf", ""])
    def test_unknown_names_are_told_the_known_ones(self, name: str, project: Project) -> None:
        for verb in ("show", "install"):
            result = project.cli("profile", verb, name)
            assert result.exit_code == 2
            assert "known are local, lsf, slurm" in result.output


class TestSet:
    def test_changes_a_setting(self) -> None:
        assert settings("slurm", jobs="20", latency__wait="5") == {
            **settings("slurm"),
            "jobs": 20,
            "latency-wait": 5,
        }

    def test_adds_a_setting(self) -> None:
        found = settings("slurm", slurm__status__command="squeue", cores="4")
        assert found == {**settings("slurm"), "slurm-status-command": "squeue", "cores": 4}

    @pytest.mark.parametrize(
        ("value", "means"),
        [
            ("4000", 4000),
            ("4000 * attempt", "4000 * attempt"),
            ("2h", "'2h'"),
            ("all", "'all'"),
            ('-R "select[gpu]"', "'-R \"select[gpu]\"'"),
            ("it's", '"it\'s"'),
        ],
    )
    def test_changes_or_adds_a_default_resource(self, value: str, means: object) -> None:
        for name in ("runtime", "lsf_extra"):
            found = settings("lsf", **{name: value})
            expected = settings("lsf")
            expected["default-resources"][name] = means
            assert found == expected

    @pytest.mark.parametrize(
        ("name", "key", "value"),
        [
            ("local", "slurm_account", "lab"),  # has no default resources
            ("lsf", "default-resources", "mem_mb=1"),
            ("lsf", "jobs\nexecutor", "local"),
            ("lsf", "jobs", "[1"),
            ("lsf", "jobs", "a: b"),
            ("lsf", "jobs", ""),
            ("lsf", "jobs", "!!int x"),
            ("lsf", "jobs", "9" * 5000),
            ("lsf", "mem_mb", "9" * 5000),
            ("lsf", "jobs", "[" * 3000),
        ],
    )
    def test_refuses_what_makes_no_profile(self, name: str, key: str, value: str) -> None:
        with pytest.raises(InputError):
            profile_text(name, {key: value})

    def test_needs_key_and_value(self, project: Project) -> None:
        for text in ("jobs", "=3"):
            result = project.cli("profile", "show", "lsf", "--set", text)
            assert result.exit_code == 2 and "write KEY=VALUE" in result.output


class TestInstall:
    def test_puts_the_profile_where_snakemake_looks(self, project: Project, home: Path) -> None:
        result = project.cli("profile", "install", "lsf", "--set", "lsf_queue=short")
        assert result.exit_code == 0
        assert result.output == f"{home / 'lsf'}; use it with: snakemake --profile lsf\n"
        assert (home / "lsf" / "config.yaml").read_text() == profile_text(
            "lsf", {"lsf_queue": "short"}
        )
        assert (home / "lsf" / "README.md").exists()

    def test_never_overwrites_a_changed_one_unasked(self, project: Project, home: Path) -> None:
        install_profile("lsf", {})
        assert project.cli("profile", "install", "lsf").exit_code == 0, "it is the same"
        config = home / "lsf" / "config.yaml"
        mine = config.read_text().replace("jobs: 200", "jobs: 3")
        config.write_text(mine)
        refused = project.cli("profile", "install", "lsf")
        assert refused.exit_code == 2
        assert f"{config}: exists and differs" in refused.output and "--force" in refused.output
        assert config.read_text() == mine
        assert project.cli("profile", "install", "lsf", "--force").exit_code == 0
        assert config.read_text() == profile_text("lsf")


class TestResolve:
    def test_order_is_installed_site_path_shipped(self, project: Project, home: Path) -> None:
        shipped = Path(resolve_profile("lsf", project.folder))
        assert (shipped / "config.yaml").read_text() == profile_text("lsf")
        path = write_profile(project.folder / "lsf")
        assert resolve_profile("lsf", project.folder) == path
        site = write_profile(home.parents[2] / "site" / "snakemake" / "lsf")
        assert resolve_profile("lsf", project.folder) == site
        install_profile("lsf", {})
        assert resolve_profile("lsf", project.folder) == str(home / "lsf")
        assert resolve_profile("./lsf", project.folder) == path
        assert resolve_profile(path, project.folder) == path

    @pytest.mark.parametrize("file", ["config.yaml", "profile.yaml", "config.v8+.yaml"])
    def test_takes_what_snakemake_takes(self, file: str, project: Project, tmp_path: Path) -> None:
        folder = write_profile(tmp_path / "elsewhere" / "ours", file)
        assert resolve_profile("ours", tmp_path / "elsewhere") == folder
        assert resolve_profile(f"{folder}/{file}", project.folder) == f"{folder}/{file}"

    def test_an_empty_folder_is_no_profile(self, project: Project, home: Path) -> None:
        (project.folder / "slurm").mkdir()
        assert resolve_profile("slurm", project.folder).endswith("profiles/slurm")
        (project.folder / "results").mkdir()
        write_profile(home / "ours")
        with pytest.raises(InputError, match="known are local, lsf, ours, slurm"):
            resolve_profile("results", project.folder)


def simple(project: Project) -> None:
    """Write a pipeline of four blocks."""
    project.array("s.zarr/raw", np.arange(16), voxel_size=[1], offset=[0])
    project.functions("def double(raw): return raw * 2")
    task = {
        "function": "functions:double",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "writes": {"doubled": {"array": "s.zarr/doubled", "dtype": "int64"}},
        "roi": "s.zarr/raw",
        "block_size": [4],
    }
    project.write(("double", task))


class TestRun:
    def test_unknown_profile_ends_with_2_and_writes_nothing(self, project: Project) -> None:
        simple(project)
        before = project.files()
        result = project.cli("run", "pipeline.yaml", "--profile", "sulrm")
        assert result.exit_code == 2
        assert "there is no profile 'sulrm'" in result.output
        assert "known are local, lsf, slurm" in result.output
        assert project.files() == before

    # faults: kind 12
    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("kind", _DAMAGES)
    def test_a_damaged_one_ends_with_2_and_writes_nothing(
        self, project: Project, home: Path, kind: str
    ) -> None:
        simple(project)
        path = home / "ours" / "config.yaml"
        path.parent.mkdir(parents=True)
        bomb = "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9 if n else 1}]\n" for n in range(12))
        texts = {"bomb": bomb, "list": "- jobs: 1\n", "no": "jobs: [\n", "flag": "yes: 1\n"}
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind in texts:
            path.write_text(texts[kind])
        else:
            path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
        before = project.files()
        result = project.cli("run", "pipeline.yaml", "--profile", "ours")
        assert result.exit_code == 2
        assert result.output.startswith(f"{path}: ")
        assert result.output.count("\n") == 1
        assert project.files() == before

    @pytest.mark.e2e
    def test_installed_profile_counts(self, project: Project) -> None:
        simple(project)
        install_profile("local", {"cores": "1"})
        (project.folder / "local").mkdir()  # Snakemake would look only here
        run = project.blocks("run", "pipeline.yaml", "--profile", "local")
        assert run.returncode == 0, run.stderr
        assert project.blocks("verify").returncode == 0


@pytest.mark.e2e
def test_snakemake_knows_every_setting_of_local(project: Project) -> None:
    """The other two need plugins: tests/cluster/test_blocks.py."""
    (project.folder / "Snakefile").write_text("rule all:\n    output: 'x'\n    shell: 'touch x'\n")
    install_profile("local", {})
    known = [str(BIN / "snakemake"), "-n", "--profile", "local"]
    assert subprocess.run(known, cwd=project.folder, capture_output=True).returncode == 0
    install_profile("local", {"no-such-setting": "1"}, force=True)
    unknown = subprocess.run(known, cwd=project.folder, capture_output=True, text=True)
    assert unknown.returncode != 0 and "no-such-setting" in unknown.stderr
