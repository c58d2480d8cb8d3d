from __future__ import annotations

import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from project import Project

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Fit, Grid
from snakemake_blocks.plan.paths import RunPaths
from snakemake_blocks.storage.arrays import block_presence, describe
from snakemake_blocks.storage.metadata import check_metadata, is_array, read_metadata
from snakemake_blocks.tasks.array_info import ArrayInfo

TASK: dict[str, Any] = {
    "function": "functions:smooth",
    "call": "arrays",
    "reads": {"raw": "s.zarr/raw"},
    "writes": {"out": {"array": "s.zarr/out", "dtype": "uint8"}},
    "roi": "s.zarr/raw",
    "block_size": [8, 8],
}


# faults: kind 12
class TestMetadata:
    @pytest.mark.parametrize(
        "content", ["", "[]", "3", '"x"', "{", "\udcff", "[" * 100_000], ids=range(7)
    )
    def test_what_is_no_mapping_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "zarr.json").write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=r"zarr\.json: is (not JSON|no mapping)"):
            read_metadata(tmp_path / "zarr.json")
        assert not is_array(tmp_path)

    @pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs", ".zgroup"])
    def test_a_pipe_is_not_waited_for(self, tmp_path: Path, name: str) -> None:
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="is a pipe, not a file"):
            check_metadata(tmp_path)

    @pytest.mark.parametrize("shape", [None, 3, [1.5], [True], [-1], [10**30], ["3"], {"0": 3}])
    def test_extents_are_whole_numbers(self, tmp_path: Path, shape: Any) -> None:
        (tmp_path / ".zarray").write_text(json.dumps({"shape": shape, "chunks": [1]}))
        with pytest.raises(InputError, match=r"\.zarray: shape must be a list of whole numbers"):
            check_metadata(tmp_path)

    @pytest.mark.parametrize("attributes", [[], ["x"], "x", 3])
    def test_attributes_of_format_2_are_a_mapping(self, project: Project, attributes: Any) -> None:
        project.array("s.zarr/raw", np.zeros((16, 16), np.uint8), zarr_format=2)
        (project.folder / "s.zarr/raw/.zattrs").write_text(json.dumps(attributes))
        project.functions("def smooth(raw):\n    return raw\n")
        project.write(("smooth", TASK))
        for verb in ("check", "plan", "generate"):
            done = project.cli(verb, "pipeline.yaml")
            assert done.exit_code == 2
            assert "s.zarr/raw/.zattrs: is no mapping" in done.output

    @pytest.mark.parametrize("attributes", [[], "x", 3, None])
    def test_attributes_are_a_mapping(self, tmp_path: Path, attributes: Any) -> None:
        (tmp_path / "zarr.json").write_text(json.dumps({"attributes": attributes}))
        with pytest.raises(InputError, match=r"zarr\.json: attributes must be a mapping"):
            check_metadata(tmp_path)


def _mask(project: Project, *, fill: int = 0, shape: int = 10**6, chunk: int = 64) -> Any:
    group = zarr.open_group(project.folder / "s.zarr", mode="a")
    mask = group.create_array(
        "mask", shape=(shape, shape), chunks=(chunk, chunk), dtype="uint8", fill_value=fill
    )
    found = describe("s.zarr/mask", project.folder)
    assert found is not None
    none = (0, 0)
    grid = Grid.from_write_extent(
        Box(none, (shape, shape)), block_size=(1000, 1000), lower=none, upper=none, fit=Fit.SHRINK
    )
    return mask, found, grid


# faults: kind 12
@pytest.mark.timeout(20)
class TestMask:
    def test_of_a_terabyte_with_few_chunks(self, project: Project) -> None:
        data, mask, grid = _mask(project)
        data[5, 999_999] = 1
        data[2999:3001, 2999:3001] = 1
        present = block_presence(mask, grid, project.folder)
        assert sorted(map(tuple, np.argwhere(present).tolist())) == [
            (0, 999),
            (2, 2),
            (2, 3),
            (3, 2),
            (3, 3),
        ]

    def test_of_tiny_chunks_is_read_where_there_are_some(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """zarr takes its time for each chunk, also for those that are not there."""
        data, mask, grid = _mask(project, shape=4000, chunk=4)
        data[3999, 3999] = 1
        read: list[int] = []

        def stored_values(data: Any, mask: ArrayInfo, part: Box) -> Any:
            read.append(part.size)
            return data[tuple(map(slice, part.begin, part.end))]

        monkeypatch.setattr("snakemake_blocks.storage.arrays.read_stored", stored_values)
        present = block_presence(mask, grid, project.folder)
        assert np.argwhere(present).tolist() == [[3, 3]]
        assert sum(read) <= 256 * 4 * 4

    def test_what_is_not_stored_is_its_fill_value(self, project: Project) -> None:
        data, mask, grid = _mask(project, fill=1, shape=64_000, chunk=1024)
        assert block_presence(mask, grid, project.folder).all()
        data[:8192, :8192] = 0
        present = block_presence(mask, grid, project.folder)
        assert not present[:8, :8].any()
        assert present[8:].all() and present[:, 8:].all()

    def test_a_chunk_that_fills_the_memory_is_refused(self, project: Project) -> None:
        _, mask, grid = _mask(project, chunk=10**6)
        with pytest.raises(InputError, match=r"s\.zarr/mask: has chunks of .* 256 MiB"):
            block_presence(mask, grid, project.folder)

    @pytest.mark.parametrize("kind", ["pipe", "folder", "sparse", "noise"])
    def test_a_chunk_that_is_none(self, project: Project, kind: str) -> None:
        data, mask, grid = _mask(project)
        data[0, 0] = 1
        chunk = project.folder / "s.zarr/mask/c/0/0"
        chunk.unlink()
        if kind == "pipe":
            os.mkfifo(chunk)
        elif kind == "folder":
            chunk.mkdir()
        else:
            chunk.write_bytes(b"noise")
            os.truncate(chunk, 1 << 40 if kind == "sparse" else 5)
        with pytest.raises(InputError, match=r"is no chunk of this array|cannot be read"):
            block_presence(mask, grid, project.folder)


# faults: kind 12
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [[4, 8], [16, 16], [0, 8], [8], [10**12, 10**12]])
def test_a_mask_whose_chunks_lie(project: Project, zarr_format: int, chunks: list[int]) -> None:
    project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
    project.array("m.zarr/mask", np.ones((16, 16)), chunks=(8, 8), zarr_format=zarr_format)
    path = project.folder / "m.zarr/mask" / (".zarray" if zarr_format == 2 else "zarr.json")
    told = json.loads(path.read_text())
    if zarr_format == 2:
        told["chunks"] = chunks
    else:
        told["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    path.write_text(json.dumps(told))
    project.functions("def smooth(raw):\n    return raw\n")
    project.write(("smooth", {**TASK, "mask": "m.zarr/mask"}))
    for verb in ("check", "plan", "generate"):
        done = project.cli(verb, "pipeline.yaml")
        assert done.exit_code == 2
        (line,) = done.output.splitlines()
        assert "m.zarr/mask: " in line


# faults: kind 12
@pytest.mark.timeout(60)
@pytest.mark.parametrize("masked", [True, False])
def test_ten_million_million_blocks(project: Project, masked: bool) -> None:
    """Planned like few; a mask, of which something is kept for each, is refused."""
    project.array("s.zarr/mask", np.ones((16, 16), np.uint8))
    project.functions("def f(block):\n    pass\n")
    roi = {"offset": [0, 0], "shape": [10**8, 10**7]}
    task = {"function": "functions:f", "roi": roi, "block_size": [10, 10], "conflict": False}
    project.write(("t", {**task, **({"mask": "s.zarr/mask"} if masked else {})}))
    tracemalloc.start()
    for verb in ("check", "plan", "generate"):
        done = project.cli(verb, "pipeline.yaml")
        assert done.exit_code == (2 if masked else 0), done.output
        words = "would be kept for each of 10,000,000,000,000 blocks, at most 10,000,000 can be;"
        assert (words in done.output) is masked
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


# faults: kind 12
class TestOneInsideOfAnother:
    @pytest.mark.parametrize(
        ("writes", "run_directory", "said"),
        [
            (["s.zarr/out"], "s.zarr/raw/blocks", r"run_directory: lies inside of .*s\.zarr/raw"),
            (["s.zarr/out"], "s.zarr/out/blocks", r"run_directory: lies inside of .*s\.zarr/out"),
            (["blocks/out"], "blocks", r"blocks/out: lies inside of .*run_directory"),
            (["s.zarr/a", "s.zarr/a/b"], "blocks", r"s\.zarr/a/b: lies inside of s\.zarr/a;"),
            (["s.zarr/a", "link/a/b"], "blocks", r"link/a/b: lies inside of s\.zarr/a;"),
            (["s.zarr/out"], "s.zarr/other/x/blocks", r"run_directory: lies inside of .*other"),
        ],
    )
    def test_is_refused(
        self, project: Project, writes: list[str], run_directory: str, said: str
    ) -> None:
        project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
        project.array("s.zarr/other", np.zeros((16, 16), np.uint8))
        (project.folder / "link").symlink_to("s.zarr")
        project.functions("def smooth(raw):\n    return raw\n")
        outputs = {f"o{n}": {"array": p, "dtype": "uint8"} for n, p in enumerate(writes)}
        project.write(("smooth", {**TASK, "writes": outputs}), run_directory=run_directory)
        before = project.files()
        for verb in ("check", "plan", "generate"):
            done = project.cli(verb, "pipeline.yaml")
            assert done.exit_code == 2
            assert re.search(said, done.output), done.output
        assert project.files() == before


# faults: kind 12
@pytest.mark.parametrize("path", ["smooth/ledger/0-0/0-0", "smooth/done.json", "masks/x.npz"])
def test_a_folder_in_place_of_a_file_is_refused_before_anything_moves(
    project: Project, path: str
) -> None:
    project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
    project.functions("def smooth(raw):\n    return raw\n")
    project.write(("smooth", TASK))
    assert project.cli("generate", "pipeline.yaml").exit_code == 0
    (project.folder / "blocks" / path).mkdir(parents=True)
    project.write(("smooth", {**TASK, "blocks_per_job": 1}))
    plan = (project.folder / "blocks/plan.json").read_bytes()
    before = project.files()
    done = project.cli("generate", "pipeline.yaml")
    assert done.exit_code == 2
    assert f"{path}: is no file; move it away" in done.output
    assert project.files() == before
    assert (project.folder / "blocks/plan.json").read_bytes() == plan


# faults: kind 12
@pytest.mark.parametrize("damage", ["text", "folder"])
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["generate", "pipeline.yaml"], "moving.json: is no lock; if nothing runs here, remove it"),
        (["reset", "blocks", "smooth"], "moving.json: is no lock; if nothing runs here, remove it"),
        (["block", "blocks", "smooth", "0-0"], "moving.json, which cannot be read (if nothing run"),
        (["work", "blocks/smooth"], "moving.json, which cannot be read (if nothing runs here, rem"),
        (["status", "blocks"], ""),
        (["verify", "blocks"], ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_moving_json_that_is_no_lock(
    project: Project, monkeypatch: pytest.MonkeyPatch, verb: list[str], words: str, damage: str
) -> None:
    monkeypatch.setattr("snakemake_blocks.system.locks.TIMING.idle", 0.1)
    monkeypatch.setattr("snakemake_blocks.system.locks.TIMING.unreadable", 0.1)
    project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
    project.functions("def smooth(raw):\n    return raw\n")
    project.write(("smooth", TASK))
    assert project.cli("generate", "pipeline.yaml").exit_code == 0
    moving = RunPaths(project.folder / "blocks").moving
    moving.mkdir(parents=True) if damage == "folder" else moving.write_text("no JSON")
    done = project.cli(*verb)
    assert words in done.output, done.output
    assert done.exit_code == (2 if verb[0] in ("generate", "reset", "block") else 1)


# faults: kind 12
@pytest.mark.parametrize(
    "verb",
    [
        ["generate", "pipeline.yaml"],
        ["work", "SENTINEL"],
        ["work", "blocks/smooth"],
        ["reset", "blocks", "smooth"],
        ["work", "blocks/smooth/done.json"],
    ],
    ids=lambda verb: verb[-1],
)
def test_a_folder_in_place_of_a_sentinel(project: Project, verb: list[str]) -> None:
    project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
    project.functions("def smooth(raw):\n    return raw\n")
    project.write(("smooth", TASK))
    plan, _ = generate(project.pipeline)
    sentinel = next(iter(plan.jobs("smooth"))).sentinel
    Path(sentinel, "inside").mkdir(parents=True)
    done = project.cli(*(sentinel if word == "SENTINEL" else word for word in verb))
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith(f"{sentinel}: ") and line.endswith("; move it away")
    assert project.cli("verify", "blocks").exit_code in (1, 2)


# faults: kind 12
def test_mem_and_mem_mb_are_one(project: Project) -> None:
    project.array("s.zarr/raw", np.zeros((16, 16), np.uint8))
    project.functions("def smooth(raw):\n    return raw\n")
    resources = yaml.safe_load("{mem: 2GB, mem_mb: 2000}")
    project.write(("smooth", {**TASK, "resources": resources}))
    done = project.cli("check", "pipeline.yaml")
    assert done.exit_code == 2
    assert "resources.mem: and mem_mb are the same; give one of them" in done.output
