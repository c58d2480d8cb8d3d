"""What is made keeps the conventions of its store; other libraries open it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from project import Project
from yaozarrs import v04, v05
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec

from snakemake_blocks.commands.generate import generate
from snakemake_blocks.geometry.box import Box
from snakemake_blocks.storage import creation
from snakemake_blocks.storage.arrays import describe
from snakemake_blocks.storage.creation import create, create_all
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.work.job import work_sentinel

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def to_be_made(path: str, **more: Any) -> ArrayInfo:
    values: dict[str, Any] = {
        "offset": (0, 0), "voxel_size": (4, 2), "shape": (6, 8), "channels": (),
        "dtype": "float32", "chunks": (3, 4), "units": ("nm", "nm"),
    }  # fmt: skip
    return ArrayInfo(**{"path": path, **values, **more}, exists=False)


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def described(project: Project, path: str, unit: str = "") -> ArrayInfo:
    found = describe(path, project.folder, unit=unit)
    assert found is not None
    return found


def other(project: Project, path: str, **how: Any) -> zarr.Array[Any]:
    """Store an array as its store keeps arrays."""
    values = {"shape": (6, 8), "chunks": (6, 8), "dtype": "uint16", "overwrite": True}
    return zarr.create_array(project.folder / path, **{**values, **how})


# faults: kind 4


class TestLikeTheStore:
    @pytest.mark.parametrize("separator", [".", "/"])
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("compressor", [None, numcodecs.Zlib(5), numcodecs.Blosc("lz4hc", 7)])
    def test_format_2(self, project: Project, separator: str, order: Any, compressor: Any) -> None:
        zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=2)
        keys: Any = {"name": "v2", "separator": separator}
        other(project, "s.zarr/raw", zarr_format=2, chunk_key_encoding=keys, order=order,
              compressors=compressor)  # fmt: skip
        create(to_be_made("s.zarr/a"), project.folder)
        made, raw = (
            json_of(project.folder / "s.zarr/a/.zarray"),
            json_of(project.folder / "s.zarr/raw/.zarray"),
        )
        for key in ("zarr_format", "dimension_separator", "order", "compressor", "filters"):
            assert made[key] == raw[key]
        assert made["dtype"] == "<f4"
        values = np.arange(48, dtype=np.float32).reshape(6, 8)
        zarr.open_array(project.folder / "s.zarr/a")[...] = values
        assert (project.folder / f"s.zarr/a/0{separator}0").exists()
        np.testing.assert_array_equal(project.read("s.zarr/a"), values)

    @pytest.mark.parametrize("name", ["default", "v2"])
    @pytest.mark.parametrize("separator", [".", "/"])
    @pytest.mark.parametrize("shards", [None, (6, 8)])
    def test_format_3(self, project: Project, name: str, separator: str, shards: Any) -> None:
        zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=3)
        keys: Any = {"name": name, "separator": separator}
        codec = BloscCodec(cname="zstd", clevel=7, shuffle="bitshuffle", typesize=2)
        other(project, "s.zarr/g/raw", chunk_key_encoding=keys, shards=shards, chunks=(3, 4),
              compressors=[codec], filters=[TransposeCodec(order=(1, 0))])  # fmt: skip
        zarr.open_group(project.folder / "s.zarr/g", mode="a", zarr_format=3)
        create(to_be_made("s.zarr/h/a", channels=(2,), chunks=(2, 3, 4)), project.folder)
        made = json_of(project.folder / "s.zarr/h/a/zarr.json")
        assert made["chunk_key_encoding"]["name"] == name
        assert made["chunk_key_encoding"]["configuration"]["separator"] == separator
        transpose, _, blosc = made["codecs"]
        assert transpose["configuration"]["order"] == [2, 1, 0]
        assert (blosc["name"], blosc["configuration"]["clevel"]) == ("blosc", 7)
        assert blosc["configuration"]["typesize"] == 4, "of the new array's numbers"
        values = np.arange(96, dtype=np.float32).reshape(2, 6, 8)
        zarr.open_array(project.folder / "s.zarr/h/a")[...] = values
        np.testing.assert_array_equal(project.read("s.zarr/h/a"), values)

    def test_a_sibling_comes_before_others_and_those_with_as_many_axes_first(
        self, project: Project
    ) -> None:
        zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=3)
        zarr.open_group(project.folder / "s.zarr/g", mode="w", zarr_format=3)
        other(project, "s.zarr/a", compressors=[GzipCodec(level=1)])
        other(project, "s.zarr/g/a", shape=(6,), chunks=(6,), compressors=[GzipCodec(level=2)])
        other(project, "s.zarr/g/b", compressors=[GzipCodec(level=3)])
        create(to_be_made("s.zarr/g/new"), project.folder)
        codecs = json_of(project.folder / "s.zarr/g/new/zarr.json")["codecs"]
        assert codecs[-1]["configuration"]["level"] == 3

    def test_codecs_that_might_change_values_are_not_taken(self, project: Project) -> None:
        zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=2)
        scale = numcodecs.FixedScaleOffset(offset=0, scale=0.1, dtype="<u2", astype="u1")
        other(project, "s.zarr/raw", zarr_format=2, filters=[scale], fill_value=None,
              compressors=numcodecs.LZMA())  # fmt: skip
        create(to_be_made("s.zarr/a"), project.folder)
        made = json_of(project.folder / "s.zarr/a/.zarray")
        assert made["filters"] is None
        assert made["compressor"]["id"] == "lzma"
        assert made["fill_value"] is None, "xarray would take every 0 for a missing value"
        assert creation._lossless([numcodecs.Quantize(2, "<f4")]) is None

    @FORMATS
    @pytest.mark.parametrize("marked", [True, False])
    def test_folders_between_become_groups(
        self, project: Project, zarr_format: int, marked: bool
    ) -> None:
        if marked:
            zarr.open_group(project.folder / "r.zarr", mode="w", zarr_format=zarr_format)
        else:  # a folder with arrays that never was a group
            other(project, "r.zarr/raw", zarr_format=zarr_format)
        create(to_be_made("r.zarr/volumes/labels/fragments"), project.folder)
        root = zarr.open_group(project.folder / "r.zarr", mode="r")
        assert root.metadata.zarr_format == zarr_format
        volumes: Any = root["volumes"]
        assert volumes["labels"]["fragments"].shape == (6, 8)
        assert not (project.folder / "zarr.json").exists()

    @FORMATS
    @pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
    def test_consolidated_metadata_name_what_is_made(
        self, project: Project, zarr_format: int
    ) -> None:
        project.array("s.zarr/raw", np.ones((6, 8)), zarr_format=zarr_format)
        group = zarr.open_group(project.folder / "s.zarr", mode="a", zarr_format=zarr_format)
        group.create_group("g", attributes={"mine": 1})
        zarr.consolidate_metadata(project.folder / "s.zarr", path="g")
        zarr.consolidate_metadata(project.folder / "s.zarr")
        for path in ("out", "g/deep/er/out"):
            create(to_be_made(f"s.zarr/{path}"), project.folder)
        root: Any = zarr.open_consolidated(project.folder / "s.zarr")
        assert root["out"].shape == root["g/deep/er/out"].shape == (6, 8)
        assert dict(root["out"].attrs)["voxel_size"] == [4, 2]
        assert set(root.keys()) == {"raw", "out", "g"}
        assert dict(root["g"].attrs) == {"mine": 1}
        inner: Any = zarr.open_consolidated(project.folder / "s.zarr/g")
        assert inner["deep/er/out"].shape == (6, 8)
        assert root["raw"][...].sum() == 48

    @FORMATS
    @pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
    def test_a_link_into_the_middle_of_a_store_is_in_it(
        self, project: Project, zarr_format: int, tmp_path: Path
    ) -> None:
        """faults: kind 2: the root, above where the link leads, was left stale."""
        project.array("s.zarr/g/raw", np.ones((6, 8)), zarr_format=zarr_format)
        zarr.consolidate_metadata(project.folder / "s.zarr")
        (project.folder / "here").symlink_to("s.zarr/g")
        create(to_be_made("here/out"), project.folder)
        root: Any = zarr.open_consolidated(project.folder / "s.zarr")
        assert root["g/out"].shape == (6, 8)
        # And from a store to another disk: it stays an array of the store that has the link.
        (tmp_path / "disk").mkdir()
        (project.folder / "s.zarr" / "far").symlink_to(tmp_path / "disk")
        create(to_be_made("s.zarr/far/out"), project.folder)
        root = zarr.open_consolidated(project.folder / "s.zarr")
        assert root["far/out"].shape == (6, 8)

    @FORMATS
    @pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
    def test_arrays_made_in_turns_in_groups_are_all_named(
        self, project: Project, zarr_format: int
    ) -> None:
        """zarr takes only the last run of a group's members that stand together."""
        paths = [f"s.zarr/{group}/{name}" for name in "xyz" for group in ("b", "a", "a/c")]
        for path in paths[:3]:
            other(project, path, zarr_format=zarr_format)
        for group in ("a", "a/c", "b", "."):
            zarr.open_group(project.folder / "s.zarr" / group, mode="a", zarr_format=zarr_format)
        zarr.consolidate_metadata(project.folder / "s.zarr")
        for path in paths[3:]:
            create(to_be_made(path), project.folder)
        root: Any = zarr.open_consolidated(project.folder / "s.zarr")
        members = {name for name, node in root.members(max_depth=None) if hasattr(node, "shape")}
        assert members == {path.removeprefix("s.zarr/") for path in paths}

    def test_a_store_without_them_gets_none(self, project: Project) -> None:
        create(to_be_made("s.zarr/g/a"), project.folder)
        assert "consolidated_metadata" not in json_of(project.folder / "s.zarr/zarr.json")


class TestOthersOpenIt:
    @FORMATS
    @pytest.mark.parametrize("consolidated", [True, False])
    @pytest.mark.filterwarnings("ignore:.*onsolidated.*:UserWarning")
    @pytest.mark.filterwarnings("ignore:.*onsolidated.*:RuntimeWarning")
    def test_xarray(self, project: Project, zarr_format: Any, consolidated: bool) -> None:
        import xarray as xr

        folder = project.folder / "x.zarr"
        raw = np.arange(48, dtype=np.int32).reshape(6, 8)
        coordinates = {"lat": np.linspace(0, 1, 6), "lon": np.linspace(2, 3, 8)}
        xr.Dataset({"raw": (("lat", "lon"), raw)}, coords=coordinates).to_zarr(
            folder, zarr_format=zarr_format, consolidated=consolidated
        )
        origin = described(project, "x.zarr/raw")
        same = {"voxel_size": (1, 1), "units": ("", ""), "dtype": "uint32", "origin": origin}
        create(to_be_made("x.zarr/out", **same), project.folder)
        stacked = {**same, "channels": (3,), "chunks": (3, 3, 4)}
        create(to_be_made("x.zarr/features", **stacked), project.folder)
        half = {**same, "voxel_size": (2, 2), "shape": (3, 4)}
        create(to_be_made("x.zarr/half", **half), project.folder)
        create(to_be_made("x.zarr/moved", **{**same, "offset": (0, 5)}), project.folder)
        zarr.open_array(folder / "out")[...] = raw
        found = xr.open_zarr(folder, consolidated=consolidated)
        assert found["out"].dims == ("lat", "lon")
        np.testing.assert_array_equal(found["out"], raw)
        assert found["out"].dtype.kind == "u" or zarr_format == 3, "no 0 became a missing value"
        np.testing.assert_array_equal(found["out"].coords["lon"], coordinates["lon"])
        assert found["features"].dims == ("c0", "lat", "lon")
        assert found["half"].dims == ("lat_half", "lon_half")
        assert found["moved"].dims == ("lat", "lon_moved")

    @FORMATS
    def test_xarray_opens_what_nobody_named(self, project: Project, zarr_format: int) -> None:
        import xarray as xr

        zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=zarr_format)
        create(to_be_made("s.zarr/y"), project.folder)
        create(to_be_made("s.zarr/b", shape=(5, 8)), project.folder)
        found = xr.open_zarr(project.folder / "s.zarr", consolidated=False)
        assert {name: data.dims for name, data in found.items()} == {
            "y": ("y_y", "x"),
            "b": ("y_y_b", "x"),
        }

    @FORMATS
    @pytest.mark.parametrize("name", ["a.ome.zarr/0", "a.zarr/g/raw"])
    def test_funlib_persistence(self, project: Project, zarr_format: int, name: str) -> None:
        from funlib.persistence import open_ds

        zarr.open_group(project.folder / name.split("/")[0], mode="w", zarr_format=zarr_format)
        array = to_be_made(name, channels=(3,), chunks=(3, 3, 4), offset=(-8, 6))
        create(array, project.folder)
        theirs = open_ds(project.folder / name, mode="r+")
        assert Box.from_roi(theirs.roi) == array.roi
        assert tuple(theirs.voxel_size) == array.voxel_size
        assert (theirs.types, theirs.units) == (["channel", "space", "space"], ["nm", "nm"])
        theirs[:] = np.ones((3, 6, 8), np.float32)
        assert project.read(name).sum() == 144

    @FORMATS
    @pytest.mark.filterwarnings("ignore:using axis names:DeprecationWarning")
    def test_what_funlib_persistence_made_is_opened_and_is_an_example(
        self, project: Project, zarr_format: Any
    ) -> None:
        from funlib.geometry import Coordinate
        from funlib.persistence import prepare_ds

        prepare_ds(
            project.folder / "a.zarr/raw", shape=(6, 8), offset=Coordinate(-8, 6),
            voxel_size=Coordinate(4, 2), units=["nm", "nm"], chunk_shape=(3, 4), dtype=np.uint16,
            zarr_format=zarr_format,
        )  # fmt: skip
        raw = described(project, "a.zarr/raw")
        assert (raw.offset, raw.voxel_size, raw.shape) == ((-8, 6), (4, 2), (6, 8))
        create(to_be_made("a.zarr/out", offset=raw.offset, origin=raw), project.folder)
        assert described(project, "a.zarr/out").roi == raw.roi
        kind = ".zarray" if zarr_format == 2 else "zarr.json"
        assert (project.folder / "a.zarr/out" / kind).exists()


# faults: kind 5
@FORMATS
def test_the_order_of_bytes_is_the_stores(project: Project, zarr_format: int) -> None:
    """It changes no value: what is declared as one is found as the other."""
    raw = np.arange(12, dtype=">u2").reshape(3, 4)
    made = zarr.create_array(project.folder / "s.zarr/there", data=raw, zarr_format=2)
    assert made.dtype == raw.dtype
    project.array("s.zarr/raw", raw, voxel_size=[1, 1], zarr_format=zarr_format)
    project.functions("def same(raw): return {'there': raw, 'new': raw}\n")
    dtypes = {"there": "uint16", "new": ">u2"}
    form = {
        "function": "functions:same",
        "call": "arrays",
        "reads": {"raw": "s.zarr/raw"},
        "writes": {n: {"array": f"s.zarr/{n}", "dtype": d} for n, d in dtypes.items()},
        "roi": "s.zarr/raw",
        "block_size": [3, 2],
    }
    project.write(("same", form))
    for _ in range(2):  # and planned again with both in place
        plan, _ = generate(project.pipeline)
        for job in plan.jobs("same"):
            assert work_sentinel(Path(job.sentinel), attempt=1, environment={}) == 0
    for name in dtypes:
        np.testing.assert_array_equal(project.read(f"s.zarr/{name}"), raw)


# --- images

KINDS = {"t": ("time", "second"), "c": ("channel", ""), "z": ("space", "micrometer"),
         "y": ("space", "micrometer"), "x": ("space", "micrometer")}  # fmt: skip
CHANNELS = [
    {"label": label, "color": "FF0000", "window": {"min": 0, "max": 9, "start": 0, "end": 9}}
    for label in ("DAPI", "GFP")
]


def an_image(
    project: Project, path: str, data: Any, axes: str, scale: list[float], *, zarr_format: int
) -> None:
    """Store an image of one level, with the names of its channels."""
    keys: Any = {"name": "default" if zarr_format == 3 else "v2", "separator": "/"}
    group = zarr.open_group(project.folder / path, mode="w", zarr_format=zarr_format)
    names = list(axes) if zarr_format == 3 else None
    group.create_array("0", data=data, chunk_key_encoding=keys, dimension_names=names)
    entry = {
        "name": "mine",
        "axes": [
            {"name": a, "type": KINDS[a][0], **({"unit": KINDS[a][1]} if KINDS[a][1] else {})}
            for a in axes
        ],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    omero = {"channels": CHANNELS}
    if zarr_format == 3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [entry], "omero": omero}
    else:
        group.attrs.update({"multiscales": [{"version": "0.4", **entry}], "omero": omero})


def ome_of(project: Project, path: str) -> dict[str, Any]:
    """Return the OME-Zarr metadata of a group, and its arrays, after others judged them."""
    group = zarr.open_group(project.folder / path, mode="r")
    attributes: Any = dict(group.attrs)
    ome: dict[str, Any] = attributes.get("ome", attributes)
    model: Any = v05 if "ome" in attributes else v04
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "image-label" in ome:
            model.LabelImage.model_validate(ome)
        elif "labels" in ome:
            model.LabelsGroup.model_validate(ome)
        else:
            model.Image.model_validate(ome)
    for entry in ome.get("multiscales", ()):
        names = [axis["name"] for axis in entry["axes"]]
        for dataset in entry["datasets"]:
            array: Any = group[dataset["path"]]
            assert array.ndim == len(names)
            if "ome" in attributes:
                assert list(array.metadata.dimension_names) == names
                assert array.metadata.chunk_key_encoding.separator == "/"
            else:
                assert array.metadata.dimension_separator == "/"
    return ome


def scales(ome: dict[str, Any]) -> list[list[float]]:
    (entry,) = ome["multiscales"]
    return [d["coordinateTransformations"][0]["scale"] for d in entry["datasets"]]


class TestImages:
    def test_scales_that_are_no_whole_numbers_are_those_of_the_array(
        self, project: Project
    ) -> None:
        place = {"resolution": [0.5, 0.25], "translation": [1.5, 0], "units": ["um", "um"]}
        project.array("a.zarr/raw", np.ones((8, 8), np.uint8), **place)
        project.functions("def f(raw): return raw")
        more = {"call": "arrays", "roi": "a.zarr/raw", "block_size": {"voxels": 8}}
        writes = {"o": {"array": "b.ome.zarr/0", "dtype": "uint8"}}
        read = {"function": "functions:f", "reads": {"raw": "a.zarr/raw"}, "writes": writes}
        generate(project.write(("f", {**read, **more})))
        (dataset,) = ome_of(project, "b.ome.zarr")["multiscales"][0]["datasets"]
        scale, shift = dataset["coordinateTransformations"]
        assert (scale["scale"], shift["translation"]) == ([0.5, 0.25], [1.5, 0])

    FUNCTIONS = """
        def half(raw):
            return raw[..., ::2, ::2]

        def first(raw):
            return raw[:, 0]

        def cells(raw):
            return raw[0, 0]
    """

    def pipeline(self, project: Project, *tasks: tuple[str, str, str, dict[str, Any]]) -> None:
        """Make what tasks write; each is (function, read array, array to write, how)."""
        project.functions(self.FUNCTIONS)
        forms = [
            (
                f"task{n}",
                {
                    "function": f"functions:{function}",
                    "call": "arrays",
                    "reads": {"raw": read},
                    "writes": {"out": {"array": write, **how}},
                    "roi": read,
                    "block_size": [20000, 20000],
                },
            )
            for n, (function, read, write, how) in enumerate(tasks)
        ]
        project.write(*forms, unit="angstrom")
        generate(project.pipeline)

    @FORMATS
    def test_units_axes_time_and_channels_are_those_of_the_image(
        self, project: Project, zarr_format: int
    ) -> None:
        data = np.zeros((3, 2, 8, 8), np.uint16)
        scale = [0.5, 1, 0.25, 0.25]
        an_image(project, "a.ome.zarr", data, "tcyx", scale, zarr_format=zarr_format)
        zarr.open_group(project.folder / "new.ome.zarr", mode="w", zarr_format=zarr_format)
        half = {"dtype": "uint16", "channels": [3, 2], "voxel_size": [5000, 5000]}
        quarter = {**half, "voxel_size": [10000, 10000]}
        coarse = {"dtype": "uint32", "voxel_size": [5000, 5000]}
        self.pipeline(
            project,
            ("half", "a.ome.zarr/0", "a.ome.zarr/1", half),
            ("half", "a.ome.zarr/0", "new.ome.zarr/0", half),
            ("half", "new.ome.zarr/0", "new.ome.zarr/1", quarter),
            ("first", "a.ome.zarr/0", "time.ome.zarr/0", {"dtype": "uint16", "channels": [3]}),
            ("cells", "a.ome.zarr/0", "a.ome.zarr/labels/nuclei/0", {"dtype": "uint32"}),
            ("half", "a.ome.zarr/labels/nuclei/0", "a.ome.zarr/labels/nuclei/1", coarse),
        )
        assert scales(ome_of(project, "a.ome.zarr")) == [scale, [0.5, 1, 0.5, 0.5]]
        new = ome_of(project, "new.ome.zarr")
        assert scales(new) == [[0.5, 1, 0.5, 0.5], [0.5, 1, 1, 1]]
        axes = new["multiscales"][0]["axes"]
        assert [(a["name"], a["type"], a.get("unit", "")) for a in axes] == [
            (a, *KINDS[a]) for a in "tcyx"
        ]
        assert [c["label"] for c in new["omero"]["channels"]] == ["DAPI", "GFP"]
        time = ome_of(project, "time.ome.zarr")
        assert [a["name"] for a in time["multiscales"][0]["axes"]] == ["t", "y", "x"]
        assert (scales(time), "omero" in time) == ([[0.5, 0.25, 0.25]], False)
        assert ome_of(project, "a.ome.zarr/labels")["labels"] == ["nuclei"]
        label = ome_of(project, "a.ome.zarr/labels/nuclei")
        assert label["image-label"]["source"] == {"image": "../../"}
        assert scales(label) == [[0.25, 0.25], [0.5, 0.5]]
        assert {a["unit"] for a in label["multiscales"][0]["axes"]} == {"micrometer"}
        assert described(project, "new.ome.zarr/1", "angstrom").voxel_size == (10000, 10000)

    @FORMATS
    @pytest.mark.parametrize("store", ["a.ome.zarr", "a.zarr"])
    def test_labels_are_found_by_viewers(
        self, project: Project, zarr_format: int, store: str
    ) -> None:
        an_image(project, store, np.zeros((8, 8)), "yx", [1, 1], zarr_format=zarr_format)
        origin = described(project, f"{store}/0")
        create(to_be_made(f"{store}/1", voxel_size=(2, 2), origin=origin), project.folder)
        for name, dtype in (("nuclei", "uint32"), ("deep/er", "int16"), ("chance", "float32")):
            for level, size in ((0, (1, 1)), (1, (2, 2))):
                path = f"{store}/labels/{name}/{level}"
                create(
                    to_be_made(path, dtype=dtype, voxel_size=size, origin=origin), project.folder
                )
        assert ome_of(project, f"{store}/labels")["labels"] == ["nuclei", "deep/er"]
        nuclei = ome_of(project, f"{store}/labels/nuclei")
        assert scales(nuclei) == [[1, 1], [2, 2]]
        assert nuclei["image-label"]["source"] == {"image": "../../"}
        deep = ome_of(project, f"{store}/labels/deep/er")
        assert deep["image-label"]["source"] == {"image": "../../../"}
        assert "image-label" not in ome_of(project, f"{store}/labels/chance")

    @FORMATS
    def test_labels_have_as_many_levels_as_their_image(
        self, project: Project, zarr_format: int
    ) -> None:
        """Else readers of 0.5 refuse the image, and so the plate that it lies in."""
        an_image(project, "a.zarr", np.zeros((8, 8)), "yx", [1, 1], zarr_format=zarr_format)
        origin = described(project, "a.zarr/0")

        def make(*paths: str) -> list[str]:
            """Make levels, labels first."""
            arrays = (
                to_be_made(path, dtype="uint8", voxel_size=(2 ** int(path[-1]),) * 2, origin=origin)
                for path in paths
            )
            return list(create_all(arrays, project.folder))

        def listed() -> list[str]:
            attributes: Any = dict(zarr.open_group("a.zarr/labels", mode="r").attrs)
            found: list[str] = attributes.get("ome", attributes)["labels"]
            return found

        said = make("a.zarr/labels/cells/0", "a.zarr/1", "a.zarr/2")
        assert len(scales(ome_of(project, "a.zarr"))) == 3
        assert len(scales(ome_of(project, "a.zarr/labels/cells"))) == 1
        if zarr_format == 2:  # who reads 0.4 takes fewer
            assert (listed(), said) == (["cells"], [])
            return
        assert (listed(), said) == (
            [],
            [
                "a.zarr/labels/cells/0: viewers find cells when it has as many levels as its "
                "image, 3; write 2 more, each reduced from the one before"
            ],
        )
        (said_of_1,) = make("a.zarr/labels/cells/1")
        assert "write 1 more" in said_of_1
        assert listed() == []
        assert make("a.zarr/labels/cells/2") == []
        assert listed() == ["cells"]
        assert make("a.zarr/labels/cells/3") == [
            "a.zarr/labels/cells/3: is no level of cells, whose image has only 3"
        ]
        assert scales(ome_of(project, "a.zarr/labels/cells")) == [[1, 1], [2, 2], [4, 4]]

    @FORMATS
    def test_a_new_field_of_a_well_is_listed(self, project: Project, zarr_format: int) -> None:
        an_image(project, "p.zarr/A/1/0", np.zeros((8, 8)), "yx", [1, 1], zarr_format=zarr_format)
        well: dict[str, Any] = {"images": [{"path": "0", "acquisition": 7}]}
        for group in ("p.zarr", "p.zarr/A", "p.zarr/A/1"):
            zarr.open_group(project.folder / group, mode="a", zarr_format=zarr_format)
        group = zarr.open_group(project.folder / "p.zarr/A/1", mode="a")
        group.attrs.update(
            {"well": {**well, "version": "0.4"}}
            if zarr_format == 2
            else {"ome": {"version": "0.5", "well": well}}
        )
        origin = described(project, "p.zarr/A/1/0/0")
        for path in ("1/0", "1/1", "0/1", "0/labels/cells/0"):
            size = (2 ** int(path[-1]),) * 2
            array = to_be_made(f"p.zarr/A/1/{path}", dtype="uint8", voxel_size=size, origin=origin)
            create(array, project.folder)
        attributes: Any = dict(zarr.open_group(project.folder / "p.zarr/A/1", mode="r").attrs)
        found = attributes.get("ome", attributes)["well"]["images"]
        assert found == [{"path": "0", "acquisition": 7}, {"path": "1"}]
        assert len(scales(ome_of(project, "p.zarr/A/1/1"))) == 2

    def test_levels_that_are_there_stay_as_they_are(self, project: Project) -> None:
        scale = [0.30000000000000004, 0.29898804047838085]
        an_image(project, "a.zarr", np.zeros((8, 8)), "yx", scale, zarr_format=3)
        zarr.open_array(project.folder / "a.zarr/0").attrs.update(
            {"voxel_size": [1, 1], "offset": [0, 0]}
        )
        before = ome_of(project, "a.zarr")["multiscales"][0]["datasets"]
        origin = described(project, "a.zarr/0")
        create(
            to_be_made("a.zarr/1", voxel_size=(2, 2), units=("", ""), origin=origin),
            project.folder,
        )
        after = ome_of(project, "a.zarr")["multiscales"][0]["datasets"]
        assert after[:1] == before
        scale_of_1 = after[1]["coordinateTransformations"][0]["scale"]
        assert scale_of_1 == [0.6000000000000001, 0.5979760809567617]

    @FORMATS
    @pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
    def test_a_consolidated_image_names_its_new_levels(
        self, project: Project, zarr_format: int
    ) -> None:
        an_image(project, "a.zarr", np.zeros((8, 8)), "yx", [1, 1], zarr_format=zarr_format)
        zarr.consolidate_metadata(project.folder / "a.zarr")
        origin = described(project, "a.zarr/0")
        create(to_be_made("a.zarr/1", voxel_size=(2, 2), origin=origin), project.folder)
        labels = {"dtype": "uint8", "voxel_size": (1, 1), "origin": origin}
        create(to_be_made("a.zarr/labels/cells/0", **labels), project.folder)
        root: Any = zarr.open_consolidated(project.folder / "a.zarr")
        for group in (root, root["labels"], root["labels/cells"]):
            attributes = dict(group.attrs)
            path = project.folder / "a.zarr" / group.path
            assert attributes == dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)
        assert root["1"].shape == (6, 8)


@FORMATS
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
@pytest.mark.parametrize("step", ["list_level", "enter", "Group.make", "Group.put", "rename"])
def test_who_is_killed_while_making_leaves_what_the_next_one_mends(
    project: Project, monkeypatch: pytest.MonkeyPatch, zarr_format: int, step: str
) -> None:
    an_image(project, "a.zarr", np.zeros((8, 8)), "yx", [1, 1], zarr_format=zarr_format)
    zarr.consolidate_metadata(project.folder / "a.zarr")
    array = to_be_made(
        "a.zarr/labels/cells/0", voxel_size=(1, 1), dtype="uint8",
        origin=described(project, "a.zarr/0"),
    )  # fmt: skip

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner: Any = {"rename": Path}.get(step, creation)
        if step.startswith("Group."):
            owner, step = creation.Group, step.removeprefix("Group.")
        patch.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            create(array, project.folder)
    assert describe(array.path, project.folder) is None
    create(array, project.folder)
    assert described(project, array.path).to_json() == array.to_json()
    assert ome_of(project, "a.zarr/labels")["labels"] == ["cells"]
    assert scales(ome_of(project, "a.zarr/labels/cells")) == [[1, 1]]
    root: Any = zarr.open_consolidated(project.folder / "a.zarr")
    assert list(root["labels/cells"].keys()) == ["0"]
    assert sorted(p.name for p in (project.folder / "a.zarr/labels/cells").iterdir()) == (
        [".zattrs", ".zgroup", "0"] if zarr_format == 2 else ["0", "zarr.json"]
    )
