from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from project import Project

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.geometry.tiling import Axis, Grid
from snakemake_blocks.storage.arrays import describe, open_array, write_region
from snakemake_blocks.storage.creation import create
from snakemake_blocks.storage.presence import ChunkKeys, Stored, chunks_of, losses
from snakemake_blocks.tasks.array_info import ArrayInfo

# faults: what is done is there


def described(project: Project, path: str = "s.zarr/a") -> ArrayInfo:
    found = describe(path, project.folder)
    assert found is not None
    return found


def one_block(array: ArrayInfo, region: Box) -> Grid:
    axes = (Axis(b, e, e - b, 0, 0) for b, e in zip(region.begin, region.end, strict=True))
    return Grid(tuple(axes))


def lost_in(array: ArrayInfo, folder: Path, region: Box | None = None) -> tuple[Any, int]:
    """Return the chunks of a region that are lost, and how many were looked for."""
    grid = one_block(array, region or array.roi)
    done = np.ones(grid.shape, bool)
    (loss,) = losses([array], grid, folder, done=done, absent=done.astype(np.uint64) * 0)
    assert loss.blocks.any() == bool(loss.keys)
    return list(loss.keys), loss.wanted


class TestKeys:
    @pytest.mark.parametrize("shards", [None, (4, 4)])
    @pytest.mark.parametrize(
        "encoding",
        [None, *({"name": n, "separator": s} for n in ("default", "v2") for s in "./")],
    )
    def test_they_are_those_of_zarr_3(self, tmp_path: Path, encoding: Any, shards: Any) -> None:
        made = zarr.create_array(
            tmp_path / "a", shape=(8, 8), chunks=(2, 2), shards=shards, dtype="u1",
            chunk_key_encoding=encoding,
        )  # fmt: skip
        self.compare(made, tmp_path)

    @pytest.mark.parametrize("separator", [".", "/"])
    def test_they_are_those_of_zarr_2(self, tmp_path: Path, separator: str) -> None:
        encoding: Any = {"name": "v2", "separator": separator}
        made = zarr.create_array(
            tmp_path / "a", shape=(8, 8), chunks=(2, 2), dtype="u1", zarr_format=2,
            chunk_key_encoding=encoding,
        )  # fmt: skip
        self.compare(made, tmp_path)

    def compare(self, made: Any, folder: Path) -> None:
        array = describe("a", folder)
        assert array is not None
        keys = ChunkKeys.of(array, folder)
        assert keys.key((1, 0)) == made.metadata.encode_chunk_key((1, 0))
        made[...] = 1
        assert lost_in(array, folder) == ([], 4 if array.chunks == (4, 4) else 16)
        (folder / "a" / keys.key((1, 1))).unlink()
        assert lost_in(array, folder)[0] == [keys.key((1, 1))]

    def test_an_array_that_is_gone(self, project: Project) -> None:
        project.array("s.zarr/a", np.ones(8))
        array = described(project)
        (project.folder / "s.zarr/a/zarr.json").write_text("{")
        with pytest.raises(InputError, match=r"s\.zarr/a: its metadata cannot be read"):
            ChunkKeys.of(array, project.folder)
        (project.folder / "s.zarr/a/zarr.json").unlink()
        with pytest.raises(InputError, match=r"s\.zarr/a: is missing; "):
            ChunkKeys.of(array, project.folder)


class TestLosses:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_chunks_of_fill_values_are_stored_too(self, project: Project, zarr_format: int) -> None:
        project.array("s.zarr/other", np.zeros(3), zarr_format=zarr_format)
        array = ArrayInfo("s.zarr/a", (-8, 4), (4, 2), (6, 8), (3,), "float32", (3, 2, 4))
        create(array, project.folder)
        assert len(lost_in(array, project.folder)[0]) == 6
        data = open_array(array, project.folder, writable=True)
        write_region(data, array, array.roi, np.zeros((3, 6, 8), np.float32))
        assert lost_in(array, project.folder) == ([], 6)
        assert lost_in(array, project.folder, Box((-8, 4), (0, 20))) == ([], 2)

    def test_shards_count_once(self, project: Project) -> None:
        project.array("s.zarr/a", np.ones((16, 16)), chunks=(2, 2), shards=(8, 8))
        array = described(project)
        assert lost_in(array, project.folder) == ([], 4)
        (project.folder / "s.zarr/a/c/1/0").unlink()
        assert lost_in(array, project.folder) == (["c/1/0"], 4)

    @given(data=st.data())
    def test_law(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
        """Blocks and chunks that do not fit, channels, two arrays, some chunks left out."""
        folder = tmp_path_factory.mktemp("stored")
        ndim = data.draw(st.integers(1, 2))
        small = st.integers(1, 7)
        arrays = [self.array(data, folder, f"a{n}", ndim) for n in range(2)]
        axes = []
        for _ in range(ndim):
            begin = data.draw(st.integers(-6, 6))
            axes.append(Axis(begin, begin + data.draw(st.integers(1, 20)), data.draw(small), 1, 2))
        grid = Grid(tuple(axes))
        done = np.zeros(grid.shape, bool)
        absent = np.zeros(grid.shape, np.uint64)
        there: dict[int, set[Any]] = {0: set(), 1: set()}
        for index in grid:
            for n, array in enumerate(arrays):
                for chunk in chunks_of(array, grid.write(index)):
                    if data.draw(st.booleans()):
                        there[n].add(chunk)
                        path = folder / array.path / ChunkKeys.of(array, folder).key(chunk)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(b"x")
            done[index] = data.draw(st.booleans())
            absent[index] = Stored(arrays, folder).settle(grid.write(index))
        gone = {n: {c for c in sorted(there[n]) if data.draw(st.booleans())} for n in there}
        for n, array in enumerate(arrays):
            for chunk in gone[n]:
                (folder / array.path / ChunkKeys.of(array, folder).key(chunk)).write_bytes(b"")
        found = list(losses(arrays, grid, folder, done=done, absent=absent))
        for n, (array, loss) in enumerate(zip(arrays, found, strict=True)):
            demanded = self.demanded(arrays, n, grid, done, absent)
            wanted = set().union(*demanded.values())
            keys = ChunkKeys.of(array, folder)
            missing = wanted - (there[n] - gone[n])
            assert set(loss.keys) == {keys.key(chunk) for chunk in missing}
            assert (loss.wanted, loss.array) == (len(wanted), array)
            blocks = {tuple(i.tolist()) for i in np.argwhere(loss.blocks)}
            assert blocks == {index for index, chunks in demanded.items() if chunks & missing}

    def array(self, data: st.DataObject, folder: Path, path: str, ndim: int) -> ArrayInfo:
        drawn = [data.draw(st.integers(1, 3)) for _ in range(3 * ndim + 3)]
        channels = (drawn[0],) if drawn[1] > 1 else ()
        array = ArrayInfo(
            path,
            tuple(2 - n for n in drawn[3 : 3 + ndim]),
            tuple(drawn[3 + ndim : 3 + 2 * ndim]),
            tuple(data.draw(st.integers(1, 12)) for _ in range(ndim)),
            channels,
            "uint8",
            (*drawn[2:3][: len(channels)], *drawn[3 + 2 * ndim :]),
        )
        zarr.create_array(
            folder / path, shape=array.full_shape, chunks=array.chunks, dtype="u1",
            zarr_format=data.draw(st.sampled_from([2, 3])),
        )  # fmt: skip
        return array

    def demanded(
        self, arrays: list[ArrayInfo], n: int, grid: Grid, done: Any, absent: Any
    ) -> dict[Any, set[Any]]:
        """Return what each done block demands of an array, chunk by chunk."""
        found = {}
        for index in grid:
            counted = [(k, c) for k in range(2) for c in chunks_of(arrays[k], grid.write(index))]
            if done[index]:
                found[index] = {
                    chunk
                    for number, (k, chunk) in enumerate(counted)
                    if k == n and not int(absent[index]) >> number % 64 & 1
                }
        return found

    def test_more_chunks_than_bits(self, project: Project) -> None:
        """Of more than 64 chunks those are excused whose bit an absent one has set."""
        project.array("s.zarr/a", np.ones(200, np.uint8), chunks=(1,))
        array = described(project)
        (project.folder / "s.zarr/a/c/70").unlink()
        absent = Stored([array], project.folder).settle(array.roi)
        assert absent == 1 << 6
        for k in (6, 7, 134, 199):
            (project.folder / f"s.zarr/a/c/{k}").unlink()
        grid = one_block(array, array.roi)
        done = np.ones((1,), bool)
        (loss,) = losses(
            [array], grid, project.folder, done=done, absent=np.array([absent], np.uint64)
        )
        assert (loss.keys, loss.wanted) == (("c/7", "c/199"), 196)


class TestSettle:
    def test_an_empty_file_is_not_left_out(self, project: Project) -> None:
        """No store writes one, and none can read it: it is missing from the beginning."""
        project.array("s.zarr/a", np.ones(4), chunks=(2,))
        (project.folder / "s.zarr/a/c/1").write_bytes(b"")
        array = described(project)
        assert Stored([array], project.folder).settle(array.roi) == 0
        assert lost_in(array, project.folder) == (["c/1"], 2)

    @pytest.mark.parametrize("separator", [".", "/"])
    @pytest.mark.parametrize("size", [4, 40])
    def test_what_is_no_file_is_no_chunk(self, project: Project, separator: str, size: int) -> None:
        """A folder, or a link to nothing; the chunks beside it are there."""
        group = zarr.open_group(project.folder / "s.zarr", mode="w")
        keys: Any = {"name": "v2", "separator": separator}
        group.create_array("a", data=np.ones((2, size)), chunks=(2, 1), chunk_key_encoding=keys)
        root, wrong = project.folder / "s.zarr/a", f"0{separator}1"
        array = described(project)
        for make in (Path.mkdir, lambda path: path.symlink_to("nowhere")):
            (root / wrong).unlink()
            make(root / wrong)
            assert lost_in(array, project.folder) == ([wrong], size)
            if make is Path.mkdir:
                with pytest.raises(InputError, match="is a folder, not a file; move it away"):
                    Stored([array], project.folder).settle(array.roi)
                (root / wrong).rmdir()
                (root / wrong).touch()

    def test_files_and_names_are_on_disk(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each chunk, each folder that holds one, and those above that hold a new one."""
        project.array("s.zarr/a", np.ones((4, 4)), chunks=(2, 2))
        synced: list[str] = []
        root = project.folder / "s.zarr/a"

        def fsync(handle: int) -> None:
            synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), root))

        monkeypatch.setattr(os, "fsync", fsync)
        store = Stored([described(project)], project.folder)
        assert store.settle(Box((0, 0), (2, 4))) == 0
        assert synced[:2] == ["c/0/0", "c/0/1"]
        assert sorted(synced[2:]) == [".", "c", "c/0"]
        synced.clear()
        assert store.settle(Box((0, 0), (2, 2))) == 0
        assert synced == ["c/0/0", "c/0"]
        synced.clear()
        assert store.settle(Box((2, 0), (4, 4))) == 0
        assert sorted(synced) == ["c", "c/1", "c/1/0", "c/1/1"]

    def test_a_disk_that_cannot_keep_it(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.array("s.zarr/a", np.ones(4))

        def fsync(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            Stored([described(project)], project.folder).settle(Box((0,), (4,)))


def test_numbers_count_through_the_arrays(project: Project) -> None:
    for name in "ab":
        project.array(f"s.zarr/{name}", np.ones(3), chunks=(1,))
    arrays = [described(project, f"s.zarr/{name}") for name in "ab"]
    for name, k in itertools.product("ab", (1, 2)):
        (project.folder / f"s.zarr/{name}/c/{k}").unlink()
    assert Stored(arrays, project.folder).settle(Box((0,), (3,))) == 0b110110


# faults: kind 12
@pytest.mark.timeout(20)
class TestWhatIsNoChunk:
    @pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling"])
    @pytest.mark.parametrize("number", [4, 32])  # looked at one by one, or listed
    def test_is_missing_and_hides_no_other(self, project: Project, kind: str, number: int) -> None:
        project.array("s.zarr/a", np.ones(number), chunks=(1,))
        array = described(project)
        path = project.folder / "s.zarr/a/c/2"
        replace_by(path, kind)
        assert lost_in(array, project.folder) == (["c/2"], number)

    def test_is_not_waited_for(self, project: Project) -> None:
        project.array("s.zarr/a", np.ones(4), chunks=(1,))
        array = described(project)
        replace_by(project.folder / "s.zarr/a/c/2", "pipe")
        with pytest.raises(InputError, match="a/c/2: is a pipe"):
            Stored([array], project.folder).settle(array.roi)

    @pytest.mark.parametrize("kind", ["pipe", "folder", "device", "sparse", "nested"])
    def test_nor_are_metadata(self, project: Project, kind: str) -> None:
        project.array("s.zarr/a", np.ones(4))
        array = described(project)
        replace_by(project.folder / "s.zarr/a/zarr.json", kind)
        with pytest.raises(InputError, match=r"s\.zarr/a: its metadata cannot be read"):
            ChunkKeys.of(array, project.folder)


def replace_by(path: Path, kind: str) -> None:
    """Put what is no file, or none of ours, in the place of a file."""
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "dangling"):
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    else:
        path.write_text("[" * 100_000 if kind == "nested" else "")
        os.truncate(path, 1 << 40 if kind == "sparse" else 100_000)
