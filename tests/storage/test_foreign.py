"""Arrays of other formats: their values, their metadata, and what is said of damaged ones."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstores
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from project import Project

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage import foreign_header
from snakemake_blocks.storage.arrays import block_presence, open_array, stored_array
from snakemake_blocks.storage.foreign import (
    Correction,
    ForeignArray,
    channels_of,
    format_meant,
    open_foreign,
    zarr_beside,
)
from snakemake_blocks.storage.lattice import Lattice, StoredArray

VOLUME = np.random.default_rng(0).integers(0, 2**16, (10, 48, 56), np.uint16)
RGB = np.random.default_rng(1).integers(0, 255, (5, 48, 56, 3), np.uint8)


def stored(folder: Path, path: str, **more: Any) -> StoredArray:
    found = stored_array(path, folder, **more)
    assert found is not None
    return found


def opened(folder: Path, path: str) -> ForeignArray:
    found = open_foreign(path, folder, stored(folder, path).order)
    assert found is not None
    return found


def axes(array: StoredArray) -> str:
    return "".join(axis.name or "?" for axis in array.place.axes)


def sizes(array: StoredArray) -> list[float]:
    return [float(axis.voxel_size) for axis in array.place.axes if axis.is_measured]


def offsets(array: StoredArray) -> list[float]:
    return [float(axis.offset) for axis in array.place.axes if axis.is_measured]


def units(array: StoredArray) -> set[str]:
    return {axis.unit for axis in array.place.axes if axis.is_measured}


def assert_values(folder: Path, path: str, wanted: NDArray[Any]) -> None:
    """Compare all values, and some boxes of them."""
    found, array = opened(folder, path), stored(folder, path)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert (array.shape, array.dtype) == (wanted.shape, str(wanted.dtype))
    assert len(array.chunks) == wanted.ndim
    np.testing.assert_array_equal(found[...], wanted)
    for where in (np.s_[..., 7:41, 5:-9], np.s_[-1], np.s_[..., ::-3], np.s_[0, ..., 4]):
        np.testing.assert_array_equal(found[where], wanted[where])


def said(folder: Path, path: str) -> str:
    with pytest.raises(InputError) as caught:
        stored_array(path, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TIFFS: dict[str, dict[str, Any]] = {
    "plain": {"metadata": None},
    "shaped": {},
    "rows": {"rowsperstrip": 7, "compression": "zlib", "metadata": None},
    "tiles": {"tile": (16, 32), "compression": "zlib"},
    "lzma": {"compression": "lzma"},
    "predictor": {"compression": "zlib", "predictor": True},
    "bigtiff": {"bigtiff": True, "compression": "zlib"},
    "big-endian": {"byteorder": ">"},
    "big-endian tiles": {"byteorder": ">", "tile": (16, 16), "compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
}


class TestTiff:
    @pytest.mark.parametrize("how", TIFFS)
    def test_stacks(self, tmp_path: Path, how: str) -> None:
        tifffile.imwrite(tmp_path / "a.tif", VOLUME, **TIFFS[how])
        assert_values(tmp_path, "a.tif", VOLUME)
        assert axes(stored(tmp_path, "a.tif")) == "zyx"

    @pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "float32", "float64", "bool"])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_types(self, tmp_path: Path, dtype: str, compression: str | None) -> None:
        values = VOLUME.astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", values, compression=compression)
        assert_values(tmp_path, "a.tif", values)

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize(
        "how", [{}, {"compression": "zlib", "rowsperstrip": 9}, {"tile": (16, 16)}]
    )
    def test_colors_lead(self, tmp_path: Path, planar: Any, how: dict[str, Any]) -> None:
        first = np.moveaxis(RGB, -1, 1)
        given = RGB if planar == "contig" else first
        tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", planarconfig=planar, **how)
        assert_values(tmp_path, "a.tif", np.moveaxis(RGB, -1, 0))
        assert axes(stored(tmp_path, "a.tif")) == "czyx"
        names = [c["label"] for c in channels_of("a.tif", tmp_path)]
        assert names == ["red", "green", "blue"]

    def test_one_page(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", VOLUME[0])
        assert_values(tmp_path, "a.tif", VOLUME[0])

    def test_ome(self, tmp_path: Path) -> None:
        values = VOLUME[:8].reshape(2, 2, 2, 48, 56)  # t, z, c
        told = {
            "axes": "TZCYX",
            **{"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "\u00b5m"},
            **{"PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"},
            **{"PhysicalSizeZ": 1.5, "PhysicalSizeZUnit": "\u00b5m"},
            "Channel": {"Name": ["DAPI", "GFP"], "Color": [-16776961, 16711935]},
        }
        tifffile.imwrite(tmp_path / "a.ome.tif", values, metadata=told, compression="zlib")
        assert_values(tmp_path, "a.ome.tif", values.swapaxes(1, 2))
        found = stored(tmp_path, "a.ome.tif")
        assert (axes(found), sizes(found)) == ("tczyx", [1.5, 250, 0.25])
        assert [a.unit for a in found.place.axes[2:]] == ["micrometer", "nanometer", "micrometer"]
        channels = channels_of("a.ome.tif", tmp_path)
        assert [(c["label"], c["color"]) for c in channels] == [
            ("DAPI", "FF0000"), ("GFP", "00FF00"),
        ]  # fmt: skip

    @pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
    def test_imagej(self, tmp_path: Path, unit: str) -> None:
        told = {"axes": "ZCYX", "spacing": 3.5, "unit": unit}
        values = VOLUME.reshape(5, 2, 48, 56)
        pixels = (round(1e6 / 0.1725), 10**6)  # as ImageJ writes them, per unit
        resolution = (pixels, pixels)
        tifffile.imwrite(
            tmp_path / "a.tif", values, imagej=True, resolution=resolution, metadata=told
        )
        assert_values(tmp_path, "a.tif", values.swapaxes(0, 1))
        found = stored(tmp_path, "a.tif")
        assert (axes(found), units(found)) == ("czyx", {"micrometer"})
        assert [a.voxel_size for a in found.place.axes[1:]] == [
            Fraction("3.5"), Fraction("0.1725"), Fraction("0.1725"),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("resolution", "unit", "wanted"),
        [
            ((20_000, 40_000), "CENTIMETER", [1, 0.25, 0.5]),
            ((254, 254), "INCH", [1, 100, 100]),
            ((72, 72), "INCH", [1, 1, 1]),  # nobody has measured that
            ((1, 1), "NONE", [1, 1, 1]),
            ((5, 5), "NONE", [1, 1, 1]),
        ],
    )
    def test_tags(self, tmp_path: Path, resolution: Any, unit: str, wanted: list[float]) -> None:
        how = {"resolution": resolution, "resolutionunit": unit, "metadata": None}
        tifffile.imwrite(tmp_path / "a.tif", VOLUME, **how)
        found = stored(tmp_path, "a.tif")
        assert sizes(found) == wanted
        assert units(found) == ({"micrometer"} if wanted[2] != 1 else {""})

    def test_several_images(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(VOLUME)
            file.write(RGB[0], photometric="rgb")
        text = said(tmp_path, "a.tif")
        assert text == (
            "a.tif: holds 2 images of different shapes or kinds (0 [10, 48, 56], 1 [48, 56, 3]); "
            "name one, e.g. a.tif/0"
        )
        assert_values(tmp_path, "a.tif/0", VOLUME)
        assert_values(tmp_path, "a.tif/1", np.moveaxis(RGB[0], -1, 0))
        assert "there is no image 2; there are 2" in said(tmp_path, "a.tif/2")
        assert "there is no image x; there are 2" in said(tmp_path, "a.tif/x")

    def test_levels_of_a_pyramid_are_not_several_images(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as file:
            file.write(VOLUME[0], subifds=1, tile=(16, 16))
            file.write(VOLUME[0, ::2, ::2], subfiletype=1, tile=(16, 16))
        assert_values(tmp_path, "a.tif", VOLUME[0])

    @pytest.mark.parametrize("how", ["tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate"])
    def test_compressions(self, tmp_path: Path, how: str) -> None:
        """Without imagecodecs few can be read, and of others it is said what to install."""
        values = VOLUME[0].astype(np.uint8)
        Image.fromarray(values).save(tmp_path / "a.tif", compression=how)
        if how in ("tiff_lzw", "jpeg") and importlib.util.find_spec("imagecodecs") is None:
            text = said(tmp_path, "a.tif")
            assert text.startswith("a.tif: page 0 cannot be read (")
            assert text.endswith("requires the 'imagecodecs' package; pip install imagecodecs)")
        elif how != "jpeg":  # which changes values
            assert_values(tmp_path, "a.tif", values)

    @pytest.mark.parametrize("how", TIFFS)
    @pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
    def test_cut_off(self, tmp_path: Path, how: str, kept: float) -> None:
        """None is taken for a shorter stack."""
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, VOLUME, **TIFFS[how])
        os.truncate(file, int(file.stat().st_size * kept))
        assert said(tmp_path, "a.tif").startswith("a.tif: ")

    def test_cut_off_while_it_is_open(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, VOLUME, compression="zlib", metadata=None)
        data = opened(tmp_path, "a.tif")
        assert data[0].any()
        with open(file, "r+b") as damaged:
            with tifffile.TiffFile(file) as tiff:
                damaged.seek(tiff.pages[7].dataoffsets[0] + 40)  # type: ignore[union-attr]
            damaged.write(b"\xff" * 400)
        with pytest.raises(InputError, match=r"^a\.tif: page 7 cannot be read \(error: Error -3"):
            data[5:9]
        assert data[8].any()

    @pytest.mark.parametrize("content", [b"", b"II*\0", b"no TIFF at all", b"II*\0\x08\0\0\0\xff"])
    def test_no_tiff(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.tif").write_bytes(content)
        assert said(tmp_path, "a.tif").startswith("a.tif: is no TIFF file, or is damaged (")

    def test_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.tif")
        assert stored_or_said(tmp_path, "a.tif").endswith(
            ("is a pipe, not a file", "is a file, not a Zarr array")
        )

    def test_page_of_ome_that_is_elsewhere(self, tmp_path: Path) -> None:
        file = tmp_path / "a.ome.tif"
        tifffile.imwrite(file, VOLUME[:4], metadata={"axes": "ZYX"}, compression="zlib")
        text = tifffile.tiffcomment(file)
        assert text is not None
        tifffile.tiffcomment(file, text.replace('SizeZ="4"', 'SizeZ="6"'))
        assert said(tmp_path, "a.ome.tif") == (
            "a.ome.tif: page 4 of 6 is missing, or the file that it is in; restore it"
        )


def stored_or_said(folder: Path, path: str) -> str:
    with pytest.raises(InputError) as caught:
        stored_array(path, folder)
    return str(caught.value)


class TestSeries:
    def write(self, folder: Path, count: int = 12, **how: Any) -> NDArray[Any]:
        values = np.stack([VOLUME[n % 10] + n for n in range(count)])
        (folder / "s").mkdir()
        for number, page in enumerate(values):
            tifffile.imwrite(folder / f"s/slice_{number}.tif", page, **how)
        return values

    @pytest.mark.parametrize("how", [{}, {"compression": "zlib", "rowsperstrip": 7}])
    def test_natural_order(self, tmp_path: Path, how: dict[str, Any]) -> None:
        values = self.write(tmp_path, **how)
        assert_values(tmp_path, "s/*.tif", values)
        assert_values(tmp_path, "s/slice_?.tif", values[:10])
        assert axes(stored(tmp_path, "s/*.tif")) == "zyx"

    def test_colors(self, tmp_path: Path) -> None:
        for number, page in enumerate(RGB):
            tifffile.imwrite(tmp_path / f"{number:03}.tif", page, photometric="rgb")
        assert_values(tmp_path, "*.tif", np.moveaxis(RGB, -1, 0))

    def test_sizes_are_those_of_the_first(self, tmp_path: Path) -> None:
        self.write(tmp_path, resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
        found = stored(tmp_path, "s/*.tif")
        assert (sizes(found), units(found)) == ([1, 0.5, 0.5], {"micrometer"})

    @pytest.mark.parametrize("lost", [[3], [10], [1, 2], [5, 8]])
    def test_missing(self, tmp_path: Path, lost: list[int]) -> None:
        self.write(tmp_path)
        for number in lost:
            (tmp_path / f"s/slice_{number}.tif").unlink()
        text = said(tmp_path, "s/*.tif")
        assert text.startswith(f"s/*.tif: s/slice_{lost[0]}.tif is missing, after ")

    def test_every_fifth_is_no_gap(self, tmp_path: Path) -> None:
        for number in (95, 100, 105):
            tifffile.imwrite(tmp_path / f"{number:04}.tif", VOLUME[number % 10])
        assert_values(tmp_path, "*.tif", VOLUME[[5, 0, 5]])
        tifffile.imwrite(tmp_path / "0115.tif", VOLUME[0])
        assert "0110.tif is missing, after 0105.tif" in said(tmp_path, "*.tif")

    def test_others(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        tifffile.imwrite(tmp_path / "s/slice_4.tif", VOLUME[0, 1:])
        assert said(tmp_path, "s/*.tif") == (
            "s/*.tif: s/slice_4.tif is uint16[47, 56], s/slice_0.tif is uint16[48, 56]; all have "
            "to be alike"
        )
        tifffile.imwrite(tmp_path / "s/slice_4.tif", VOLUME[0].astype(np.uint8))
        assert "s/slice_4.tif is uint8[48, 56]" in said(tmp_path, "s/*.tif")
        (tmp_path / "s/slice_4.tif").write_bytes(b"")
        assert said(tmp_path, "s/*.tif").startswith("s/slice_4.tif: is no TIFF file")

    def test_damaged_file_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        data = opened(tmp_path, "s/*.tif")
        os.truncate(tmp_path / "s/slice_4.tif", 3000)
        with pytest.raises(InputError, match=r"^s/slice_4\.tif: ends after 3,000 of"):
            data[...]
        (tmp_path / "s/slice_4.tif").unlink()
        with pytest.raises(InputError, match=r"s/slice_4\.tif"):
            data[...]

    def test_channels_are_not_taken_for_sections(self, tmp_path: Path) -> None:
        for channel, z in np.ndindex(2, 3):
            tifffile.imwrite(tmp_path / f"c{channel}_z{z}.tif", VOLUME[z])
        assert said(tmp_path, "*.tif") == (
            "*.tif: it is not one number in the names that counts 6 files (c0_z0.tif, "
            "c0_z1.tif, ...); name the files of one stack"
        )
        assert_values(tmp_path, "c1_z*.tif", VOLUME[:3])

    def test_volumes(self, tmp_path: Path) -> None:
        for number in range(2):
            tifffile.imwrite(tmp_path / f"{number}.tif", VOLUME)
        assert "0.tif is a volume of [10, 48, 56] by itself" in said(tmp_path, "*.tif")

    def test_nothing(self, tmp_path: Path) -> None:
        assert said(tmp_path, "s/*.tif") == "s/*.tif: no file matches; mend the pattern"


def dataset(folder: Path, values: NDArray[Any] = VOLUME, **attributes: Any) -> h5py.Dataset:
    with h5py.File(folder / "a.h5", "w") as file:
        made = file.create_dataset("g/raw", data=values, chunks=True, compression="gzip")
        made.attrs.update(attributes)
        return made


def tags(names: str) -> str:
    found = [{"key": name, "typeFlags": 2, "resolution": 0, "description": ""} for name in names]
    return json.dumps({"axes": found})


class TestHdf5:
    @pytest.mark.parametrize("dtype", ["uint8", ">i2", "float32", "bool", "complex64"])
    def test_values(self, tmp_path: Path, dtype: str) -> None:
        values = VOLUME.astype(dtype)
        dataset(tmp_path, values)
        wanted = values.astype(values.dtype.newbyteorder("="))
        assert_values(tmp_path, "a.h5/g/raw", wanted)

    def test_a_file_without_its_suffix(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        (tmp_path / "a.h5").rename(tmp_path / "volume")
        assert_values(tmp_path, "volume/g/raw", VOLUME)

    def test_without_chunks(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw"] = VOLUME
        assert_values(tmp_path, "a.h5/raw", VOLUME)

    @pytest.mark.parametrize(
        ("attributes", "wanted"),
        [
            ({}, ([1, 1, 1], [0, 0, 0], "")),
            ({"resolution": [40, 4, 4], "offset": [80, 8, 0]}, ([40, 4, 4], [80, 8, 0], "")),
            ({"voxel_size": [40, 4, 4], "units": ["nm"] * 3}, ([40, 4, 4], [0, 0, 0], "nm")),
            ({"resolution": [0.5, 0.25, 0.1], "unit": "um"}, ([0.5, 0.25, 0.1], [0, 0, 0], "um")),
            ({"element_size_um": [3, 0.5, 0.1]}, ([3, 0.5, 0.1], [0, 0, 0], "um")),
            ({"element_size_um": np.float32([3, 1, 1])}, ([3, 1, 1], [0, 0, 0], "um")),
            (
                {"axistags": tags("zyx"), "resolution": [4, 2, 1], "unit": b"nm"},
                ([4, 2, 1], [0, 0, 0], "nm"),
            ),
        ],
    )
    def test_attributes(
        self, tmp_path: Path, attributes: dict[str, Any], wanted: tuple[Any, ...]
    ) -> None:
        dataset(tmp_path, **attributes)
        found = stored(tmp_path, "a.h5/g/raw")
        assert (sizes(found), offsets(found), units(found)) == (*wanted[:2], {wanted[2]})

    @pytest.mark.parametrize(
        ("names", "shown"),
        [("zyxc", "czyx"), ("tzyxc", "tczyx"), ("xyz", "zyx"), ("ctzyx", "tczyx")],
    )
    def test_ilastik(self, tmp_path: Path, names: str, shown: str) -> None:
        values = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.uint16).reshape(2, 3, 4, 5, 6)
        values = values[(0,) * (5 - len(names))]
        microns = {"z": 3.0, "y": 2.0, "x": 0.5}
        sizes_of_all = [microns.get(name, 1) for name in names]
        dataset(tmp_path, values, axistags=tags(names), element_size_um=sizes_of_all)
        found = stored(tmp_path, "a.h5/g/raw")
        assert (axes(found), sizes(found)) == (shown, [3, 2, 0.5])
        wanted = values.transpose([names.index(name) for name in shown])
        np.testing.assert_array_equal(opened(tmp_path, "a.h5/g/raw")[...], wanted)

    def test_labels_of_dimensions(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        with h5py.File(tmp_path / "a.h5", "a") as file:
            for dimension, name in zip(file["g/raw"].dims, "cyx", strict=True):
                dimension.label = name
        assert axes(stored(tmp_path, "a.h5/g/raw")) == "cyx"

    def test_what_is_there(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        inside = "it holds g/raw"
        assert said(tmp_path, "a.h5") == f"a.h5: there is many datasets, name one; {inside}"
        assert said(tmp_path, "a.h5/raw") == f"a.h5/raw: there is no dataset raw; {inside}"
        assert said(tmp_path, "a.h5/g") == f"a.h5/g: is a group, not a dataset; {inside}"

    @pytest.mark.parametrize("kept", [0, 10, 500, 5000])
    def test_cut_off(self, tmp_path: Path, kept: int) -> None:
        dataset(tmp_path)
        os.truncate(tmp_path / "a.h5", kept)
        text = "a.h5/g/raw: a.h5 is no HDF5 file, or is damaged ("
        assert said(tmp_path, "a.h5/g/raw").startswith(text)

    def test_corrupt_chunk(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        with h5py.File(tmp_path / "a.h5") as file:
            chunk = file["g/raw"].id.get_chunk_info(1)
        with open(tmp_path / "a.h5", "r+b") as damaged:
            damaged.seek(chunk.byte_offset)
            damaged.write(b"\xff" * chunk.size)
        with pytest.raises(InputError, match=r"^a\.h5/g/raw: dataset g/raw, voxels .* cannot be"):
            opened(tmp_path, "a.h5/g/raw")[...]

    def test_wrong_attributes(self, tmp_path: Path) -> None:
        dataset(tmp_path, axistags=tags("zyxc"))
        assert "its axistags name 4 axes, it has 3; mend them" in said(tmp_path, "a.h5/g/raw")
        dataset(tmp_path, axistags="zyx")
        assert "its axistags cannot be understood" in said(tmp_path, "a.h5/g/raw")
        dataset(tmp_path, axistags=tags("zyx"), resolution=[1, 2])
        assert "voxel_size [1, 2] has 2 entries for 3 axes" in said(tmp_path, "a.h5/g/raw")
        dataset(tmp_path, resolution=[4, 0, 4])
        assert "is not positive" in said(tmp_path, "a.h5/g/raw")

    def test_part_of_a_virtual_dataset_that_is_lost(self, tmp_path: Path) -> None:
        dataset(tmp_path)
        layout = h5py.VirtualLayout(VOLUME.shape, VOLUME.dtype)
        layout[...] = h5py.VirtualSource("a.h5", "g/raw", VOLUME.shape)
        with h5py.File(tmp_path / "v.h5", "w") as file:
            file.create_virtual_dataset("raw", layout)
        assert_values(tmp_path, "v.h5/raw", VOLUME)
        (tmp_path / "a.h5").unlink()
        assert "is put together from a.h5, which is missing" in said(tmp_path, "v.h5/raw")


class TestNpy:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_values(self, tmp_path: Path, order: Any) -> None:
        values = np.asarray(VOLUME.astype(">u2"), order=order)
        np.save(tmp_path / "a.npy", values)
        assert_values(tmp_path, "a.npy", VOLUME)

    @pytest.mark.parametrize("kept", [0, 5, 100, 5000])
    def test_cut_off(self, tmp_path: Path, kept: int) -> None:
        np.save(tmp_path / "a.npy", VOLUME)
        os.truncate(tmp_path / "a.npy", kept)
        assert said(tmp_path, "a.npy").startswith("a.npy: is no .npy file of numbers, or is cut")

    def test_others(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        assert "is no .npy file of numbers" in said(tmp_path, "a.npy")
        np.save(tmp_path / "a.npy", np.array(["text"]))
        assert said(tmp_path, "a.npy") == "a.npy: holds <U4, not numbers"


class TestN5:
    @pytest.mark.parametrize(
        ("attributes", "wanted"),
        [
            ({}, ([1, 1, 1], [0, 0, 0], "")),
            (
                {"resolution": [4, 8, 40], "offset": [1, 2, 3], "units": ["nm"] * 3},
                ([40, 8, 4], [3, 2, 1], "nm"),
            ),
            ({"pixelResolution": [0.5, 0.5, 3]}, ([3, 0.5, 0.5], [0, 0, 0], "")),
            (
                {
                    "pixelResolution": {"unit": "um", "dimensions": [0.5, 0.5, 3]},
                    "downsamplingFactors": [4, 4, 1],
                },
                ([3, 2, 2], [0, 0, 0], "um"),
            ),
            (
                {
                    "transform": {
                        "axes": ["z", "y", "x"], "scale": [5, 4, 3], "translate": [9, 8, 7],
                        "units": ["nm"] * 3,
                    }
                },
                ([5, 4, 3], [9, 8, 7], "nm"),
            ),
        ],
    )  # fmt: skip
    def test_attributes(
        self, tmp_path: Path, attributes: dict[str, Any], wanted: tuple[Any, ...]
    ) -> None:
        n5_metadata(tmp_path, **attributes)
        found = stored(tmp_path, "a.n5/raw")
        assert (found.shape, found.chunks, axes(found)) == ((20, 30, 40), (8, 16, 32), "zyx")
        assert (sizes(found), offsets(found), units(found)) == (*wanted[:2], {wanted[2]})

    def test_level_takes_the_size_of_the_group(self, tmp_path: Path) -> None:
        n5_metadata(tmp_path, downsamplingFactors=[2, 2, 1])
        (tmp_path / "a.n5/attributes.json").write_text(json.dumps({"resolution": [4, 4, 40]}))
        assert sizes(stored(tmp_path, "a.n5/raw")) == [40, 8, 8]

    @pytest.mark.parametrize(
        ("more", "text"),
        [
            ({"dimensions": [1, "a"]}, "attributes.json: dimensions must be a list of whole"),
            ({"dimensions": []}, "attributes.json: dimensions must be a list of whole"),
            ({"blockSize": [16]}, "attributes.json: blockSize must be a list of 3 whole numbers"),
            ({"dataType": "text"}, "attributes.json: dataType 'text' is no type of numbers"),
            ({"resolution": [1]}, "resolution must be a list of 3 numbers; mend it"),
        ],
    )
    def test_wrong_attributes(self, tmp_path: Path, more: dict[str, Any], text: str) -> None:
        n5_metadata(tmp_path, **more)
        assert text in said(tmp_path, "a.n5/raw")

    def test_group(self, tmp_path: Path) -> None:
        n5_metadata(tmp_path)
        assert said(tmp_path, "a.n5") == "a.n5: is a group of N5, not an array; it holds raw"

    def test_values(self, tmp_path: Path) -> None:
        values = VOLUME[:, :40, :40]
        tensorstores.write_n5(tmp_path, "a.n5/raw", values, resolution=[4, 8, 40])
        found, part = tensorstores.read(tmp_path, "a.n5/raw")
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(part, values[..., 1:-1, 2:7])


def n5_metadata(folder: Path, **more: Any) -> None:
    metadata = {"dimensions": [40, 30, 20], "blockSize": [32, 16, 8], "dataType": "uint16"}
    (folder / "a.n5/raw").mkdir(parents=True)
    text = json.dumps({**metadata, "compression": {"type": "raw"}, **more})
    (folder / "a.n5/raw/attributes.json").write_text(text)


class TestPrecomputed:
    def write_info(self, folder: Path, scale: dict[str, Any] | None = None, **more: Any) -> None:
        one = {
            "key": "4_4_40", "size": [40, 30, 20], "resolution": [4, 4, 40], "encoding": "raw",
            "voxel_offset": [10, 20, 30], "chunk_sizes": [[32, 16, 8]],
        }  # fmt: skip
        two = {**one, "key": "8_8_40", "size": [20, 15, 20], "resolution": [8, 8, 40]}
        info = {"type": "image", "data_type": "uint8", "num_channels": 1}
        (folder / "v.precomputed").mkdir()
        text = json.dumps({**info, "scales": [{**one, **(scale or {})}, two], **more})
        (folder / "v.precomputed/info").write_text(text)

    def test_info(self, tmp_path: Path) -> None:
        self.write_info(tmp_path)
        found = stored(tmp_path, "v.precomputed")
        assert (found.shape, found.chunks, axes(found)) == ((20, 30, 40), (8, 16, 32), "zyx")
        assert (sizes(found), offsets(found)) == ([40, 4, 4], [1200, 80, 40])
        assert units(found) == {"nanometer"}
        coarse = stored(tmp_path, "v.precomputed/8_8_40")
        assert (coarse.shape, sizes(coarse)) == ((20, 15, 20), [40, 8, 8])
        assert "there is no scale 9; known are 4_4_40, 8_8_40" in said(tmp_path, "v.precomputed/9")

    def test_channels_lead(self, tmp_path: Path) -> None:
        self.write_info(tmp_path, num_channels=3)
        found = stored(tmp_path, "v.precomputed")
        assert (found.shape, axes(found)) == ((3, 20, 30, 40), "czyx")

    @pytest.mark.parametrize(
        ("scale", "more", "text"),
        [
            ({"size": [1, 2]}, {}, "info: size must be a list of 3 whole numbers"),
            ({"chunk_sizes": []}, {}, "info: chunk_sizes must be a list of 3 whole numbers"),
            ({"resolution": [0, 4, 4]}, {}, "is not positive"),
            ({"resolution": "4"}, {}, "info: resolution must be a list of 3 numbers"),
            ({"encoding": 3}, {}, "info: a scale lacks its key or encoding"),
            ({}, {"scales": []}, "info lists no scales; restore it"),
            ({}, {"data_type": 5}, "info: data_type 5 is no type of numbers"),
            ({}, {"num_channels": 0}, "info: num_channels must be a whole number"),
        ],
    )
    def test_wrong_info(
        self, tmp_path: Path, scale: dict[str, Any], more: dict[str, Any], text: str
    ) -> None:
        self.write_info(tmp_path, scale, **more)
        assert text in said(tmp_path, "v.precomputed")

    def test_info_that_is_no_json(self, tmp_path: Path) -> None:
        self.write_info(tmp_path)
        (tmp_path / "v.precomputed/info").write_text("{")
        assert "info: is not JSON" in said(tmp_path, "v.precomputed")

    @pytest.mark.parametrize("channels", [1, 2])
    def test_values(self, tmp_path: Path, channels: int) -> None:
        values = VOLUME[:8].reshape(channels, -1, 48, 56) if channels > 1 else VOLUME
        scale = {"resolution": [4, 4, 40], "voxel_offset": [10, 20, 30]}
        tensorstores.write_precomputed(tmp_path, "v", values, **scale)
        for path in ("v", "v/4_4_40"):
            found, part = tensorstores.read(tmp_path, path)
            np.testing.assert_array_equal(found, values)
            np.testing.assert_array_equal(part, values[..., 1:-1, 2:7])


class TestAsOtherArrays:
    def test_a_library_that_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dataset(tmp_path)
        tifffile.imwrite(tmp_path / "a.tif", VOLUME)

        def without(name: str) -> Any:
            raise ImportError(f"No module named {name!r}")

        monkeypatch.setattr(foreign_header.importlib, "import_module", without)
        for path, name in (("a.h5/g/raw", "h5py"), ("a.tif", "tifffile")):
            assert said(tmp_path, path) == (
                f"{path}: is read with {name}, which is not installed (No module named '{name}'); "
                "pip install 'snakemake-blocks[formats]'"
            )

    def test_libraries_are_imported_only_when_they_are_needed(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", VOLUME)
        code = (
            "import sys\nfrom pathlib import Path\n"
            "from snakemake_blocks.storage.arrays import stored_array\n"
            f"stored_array('a.npy', Path({str(tmp_path)!r}))\n"
            "print({'tifffile', 'h5py', 'tensorstore', 'zarr'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == "set()\n"

    def test_what_the_plan_says_is_checked(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", VOLUME)
        info = stored(tmp_path, "a.npy").info(Lattice())
        np.testing.assert_array_equal(open_array(info, tmp_path, writable=False)[...], VOLUME)
        with pytest.raises(InputError, match="only that is written"):
            open_array(info, tmp_path, writable=True)
        np.save(tmp_path / "a.npy", VOLUME[1:])
        with pytest.raises(InputError, match=r"the plan says uint16\[10, 48, 56\]; plan again"):
            open_array(info, tmp_path, writable=False)

    def test_masks(self, project: Project) -> None:
        mask = np.zeros((8, 8), np.uint8)
        mask[5, 1] = 1
        tifffile.imwrite(project.folder / "mask.tif", mask)
        project.array("d.zarr/raw", np.ones((8, 8), np.uint8), chunks=(4, 4))
        project.functions("def f(raw): return raw + 1")
        writes = {"out": {"array": "d.zarr/out", "dtype": "uint8"}}
        more = {"call": "arrays", "roi": "d.zarr/raw", "block_size": 4, "mask": "mask.tif"}
        project.write(("f", {"function": "functions:f", "reads": {"raw": "d.zarr/raw"}, **more,
                             "writes": writes}))  # fmt: skip
        project.work()
        wanted = np.zeros((8, 8))
        wanted[4:, :4] = 2
        np.testing.assert_array_equal(project.read("d.zarr/out"), wanted)

    def test_masks_that_who_plans_cannot_read(self, tmp_path: Path) -> None:
        n5_metadata(tmp_path)
        info = stored(tmp_path, "a.n5/raw").info(Lattice())
        with pytest.raises(InputError, match="masks in N5 or precomputed volumes cannot be read"):
            block_presence(info, None, tmp_path)  # type: ignore[arg-type]

    @given(data=st.data())
    def test_selections(self, data: st.DataObject, tmp_path_factory: Any) -> None:
        values = np.arange(3 * 4 * 5).reshape(3, 4, 5)
        folder = tmp_path_factory.mktemp("npy")
        np.save(folder / "a.npy", values)
        found = opened(folder, "a.npy")
        index = data.draw(st.lists(
            st.integers(-3, 2) | st.slices(5) | st.just(...), max_size=3,
        ).filter(lambda i: i.count(...) < 2))  # fmt: skip
        np.testing.assert_array_equal(found[tuple(index)], values[tuple(index)])
        with pytest.raises(IndexError):
            found[7]
        with pytest.raises(IndexError):
            found[0, 0, 0, 0]


class TestCorrections:
    def test_names_put_axes_in_order(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", RGB)
        correction = Correction(axes=("x", "y", "z", "c"))
        found = stored(tmp_path, "a.npy", correction=correction)
        assert (axes(found), found.shape, found.order) == ("czyx", (3, 56, 48, 5), (3, 2, 1, 0))

    def test_sizes(self, tmp_path: Path) -> None:
        dataset(tmp_path, element_size_um=[3, 1, 2])
        path, half = "a.h5/g/raw", Fraction(1, 2)
        found = stored(tmp_path, path, correction=Correction(voxel_size=(half, half, half)))
        assert (sizes(found), units(found)) == ([0.5] * 3, {"um"})
        found = stored(tmp_path, path, correction=Correction(unit="nanometer"))
        assert (sizes(found), units(found)) == ([3, 1, 2], {"nanometer"})
        found = stored(tmp_path, path, correction=Correction(axes=("y", "z", "x")))
        assert (axes(found), sizes(found), found.shape) == ("zyx", [1, 3, 2], (48, 10, 56))

    @pytest.mark.parametrize(
        ("correction", "text"),
        [
            (Correction(axes=("y", "x")), "a.npy: 2 axes are named, it has 3"),
            (Correction(axes=("a", "b", "c")), "a.npy: has no spatial axis"),
            (Correction(offset=(Fraction(1),)), "a.npy: offset has 1 entries for 3 axes of space"),
        ],
    )
    def test_that_do_not_fit(self, tmp_path: Path, correction: Correction, text: str) -> None:
        np.save(tmp_path / "a.npy", VOLUME)
        with pytest.raises(InputError) as caught:
            stored(tmp_path, "a.npy", correction=correction)
        assert str(caught.value) == text


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("d/a.ome.tif", "d/a_new.ome.zarr/0"),
        ("d/a.h5/g/raw", "d/a_new.ome.zarr/0"),
        ("slices/slice_*.tif", "slices/slice_new.ome.zarr/0"),
        ("slices/*.tif", "slices/stack_new.ome.zarr/0"),
        ("a.n5/raw", "a_new.ome.zarr/0"),
        ("v.precomputed/8_8_40", "v_new.ome.zarr/0"),
    ],
)
def test_zarr_beside(path: str, wanted: str) -> None:
    assert zarr_beside(path, "_new") == wanted
    assert format_meant(path) and not format_meant(wanted)
