from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies  # noqa: F401 - sets the Hypothesis profile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from project import Project
from yaozarrs import v04, v05

from snakemake_blocks.errors import InputError
from snakemake_blocks.storage.arrays import describe
from snakemake_blocks.storage.creation import create
from snakemake_blocks.tasks.array_info import ArrayInfo

VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
TCZYX = ["t", "c", "z", "y", "x"]


def image(
    datasets: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str] = "zyx", **more: Any
) -> dict[str, Any]:
    """Return an entry of ``multiscales``; datasets map a path to its transformations."""
    kinds = {"t": ("time", "second"), "c": ("channel", None)}
    axes = [(n, *kinds.get(n, ("space", more.get("unit", "micrometer")))) for n in names]
    return {
        "name": "sample",
        "axes": [{"name": n, "type": t, **({"unit": u} if u else {})} for n, t, u in axes],
        "datasets": [
            {
                "path": path,
                "coordinateTransformations": [{"type": k, k: v} for k, v in transforms.items()],
            }
            for path, transforms in datasets.items()
        ],
        **more.get("entry", {}),
    }


def store(project: Project, version: str, entry: dict[str, Any], group: str = "") -> None:
    """Store the arrays' metadata in ``s.zarr``, as a version of OME-Zarr has them."""
    zarr_format = 3 if version == "0.5" else 2
    node = zarr.open_group(project.folder / "s.zarr" / group, mode="a", zarr_format=zarr_format)
    if version == "0.5":
        node.attrs["ome"] = {"version": version, "multiscales": [entry]}
    else:
        node.attrs["multiscales"] = [{"version": version, **entry}]


def stored(project: Project, version: str, path: str, shape: Sequence[int], **more: Any) -> None:
    project.array(
        path, np.zeros(shape, np.uint16), zarr_format=3 if version == "0.5" else 2, **more
    )


def described(project: Project, path: str, unit: str = "") -> ArrayInfo:
    found = describe(path, project.folder, unit=unit)
    assert found is not None
    return found


@VERSIONS
class TestLevel:
    def test_time_and_channels_are_channels(self, project: Project, version: str) -> None:
        transforms = {"scale": [0.5, 1, 40, 8, 4], "translation": [3, 0, 80, -8, 0]}
        stored(project, version, "s.zarr/0", (2, 3, 4, 5, 6))
        store(project, version, image({"0": transforms}, TCZYX))
        array = described(project, "s.zarr/0")
        assert (array.channels, array.shape) == ((2, 3), (4, 5, 6))
        assert (array.offset, array.voxel_size) == ((80, -8, 0), (40, 8, 4))
        assert array.units == ("micrometer",) * 3

    def test_fractions_are_converted_exactly_to_the_unit(
        self, project: Project, version: str
    ) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        transforms = {"scale": [0.1 + 0.2, 0.325], "translation": [1.5, -0.65]}
        store(project, version, image({"0": transforms}, "yx"))
        array = described(project, "s.zarr/0", "nanometer")
        assert (array.offset, array.voxel_size) == ((1500, -650), (300, 325))
        assert array.units == ("nanometer", "nanometer")

    def test_fractions_are_counted_in_voxels_but_for_a_unit_that_makes_them_whole(
        self, project: Project, version: str
    ) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        store(project, version, image({"0": {"scale": [0.2, 0.1625]}}, "yx"))
        for unit in ("", "micrometer"):
            assert described(project, "s.zarr/0", unit).voxel_size == (1, 1)
        assert described(project, "s.zarr/0", "nanometer").voxel_size == (200, 1)
        assert described(project, "s.zarr/0", "angstrom").voxel_size == (2000, 1625)

    @pytest.mark.parametrize("scale", [[0, 1], [1, -2]])
    def test_voxels_without_extent_are_refused(
        self, project: Project, version: str, scale: list[float]
    ) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        store(project, version, image({"0": {"scale": scale}}, "yx"))
        with pytest.raises(InputError, match=r"^s\.zarr/0: voxel_size .* is not positive$"):
            describe("s.zarr/0", project.folder, unit="nanometer")

    def test_transformations_of_all_levels_come_on_top(
        self, project: Project, version: str
    ) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        common = [
            {"type": "scale", "scale": [10, 100]},
            {"type": "translation", "translation": [1, 2]},
        ]
        entry = image(
            {"0": {"scale": [2, 3], "translation": [5, 7]}},
            "yx",
            entry={"coordinateTransformations": common},
        )
        store(project, version, entry)
        array = described(project, "s.zarr/0")
        assert (array.offset, array.voxel_size) == ((51, 702), (20, 300))

    @pytest.mark.parametrize(
        ("shift", "offset"),
        [([8, 20], (8, 20)), ([10, 26], (8, 20)), ([12, 20], (12, 20))],
        ids=["none", "centres of merged voxels", "another"],
    )
    def test_levels_begin_where_the_first_one_does(
        self, project: Project, version: str, shift: list[float], offset: tuple[int, int]
    ) -> None:
        entry = image(
            {
                "0": {"scale": [4, 4], "translation": [8, 20]},
                "1": {"scale": [8, 16], "translation": shift},
            },
            "yx",
        )
        stored(project, version, "s.zarr/0", (8, 16))
        stored(project, version, "s.zarr/1", (4, 4))
        store(project, version, entry)
        assert described(project, "s.zarr/1").offset == offset
        assert described(project, "s.zarr/0").offset == (8, 20)

    def test_an_image_may_lie_deep_and_name_levels_below(
        self, project: Project, version: str
    ) -> None:
        for group in ("", "well", "well/field"):
            store(project, version, image({"other": {"scale": [1, 1]}}, "yx"), group)
        store(project, version, image({"scale0/image": {"scale": [3, 5]}}, "yx"), "well")
        zarr.open_group(
            project.folder / "s.zarr/well/scale0",
            mode="a",
            zarr_format=3 if version == "0.5" else 2,
        )
        stored(project, version, "s.zarr/well/scale0/image", (4, 6))
        assert described(project, "s.zarr/well/scale0/image").voxel_size == (3, 5)

    def test_a_level_may_be_a_link_or_be_reached_by_one(
        self, project: Project, version: str, tmp_path: Path
    ) -> None:
        """faults: kind 2: by a link it had voxels of size 1."""
        stored(project, version, "s.zarr/0", (4, 6))
        store(project, version, image({"0": {"scale": [3, 5]}}, "yx"))
        (project.folder / "raw").symlink_to(project.folder / "s.zarr" / "0")
        assert described(project, "raw").voxel_size == (3, 5)
        (project.folder / "s.zarr" / "0").rename(tmp_path / "elsewhere")
        (project.folder / "s.zarr" / "0").symlink_to(tmp_path / "elsewhere")
        assert described(project, "s.zarr/0").voxel_size == (3, 5)

    def test_an_arrays_own_attributes_come_first(self, project: Project, version: str) -> None:
        stored(project, version, "s.zarr/0", (4, 6), voxel_size=[7, 7])
        store(project, version, image({"0": {"scale": [2, 2]}}, "yx"))
        assert described(project, "s.zarr/0").voxel_size == (7, 7)

    def test_an_array_that_no_image_names_has_no_place_of_it(
        self, project: Project, version: str
    ) -> None:
        stored(project, version, "s.zarr/mask", (4, 6))
        store(project, version, image({"0": {"scale": [2, 2]}}, "yx"))
        assert described(project, "s.zarr/mask").voxel_size == (1, 1)

    def test_wrong_metadata_are_an_error_of_ours(self, project: Project, version: str) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        good = image({"0": {"scale": [2, 2]}}, "yx")
        no_scale = image({"0": {"translation": [0, 0]}}, "yx")
        for entry, text in (
            (good | {"axes": ["y", "x"]}, "has wrong OME-Zarr metadata, multiscales.axes"),
            (good | {"axes": good["axes"][:1]}, "has wrong OME-Zarr metadata, multiscales"),
            (no_scale, r"multiscales\.datasets\.0\.coordinateTransformations"),
            (image({"0": {"scale": [2, 2, 2]}}), "name 3 axes, the array has 2"),
            (image({"0": {"scale": [float("nan"), 2]}}, "yx"), "OME-Zarr"),
            (image({"0": {"scale": [float("inf"), 2]}}, "yx"), "OME-Zarr"),
        ):
            store(project, version, entry)
            with pytest.raises(InputError, match=rf"^s\.zarr/0: .*{text}"):
                describe("s.zarr/0", project.folder)
        for entry in ({}, {"datasets": 3}, {"datasets": [7]}):
            store(project, version, entry)
            assert described(project, "s.zarr/0").voxel_size == (1, 1)

    def test_other_versions_are_refused(self, project: Project, version: str) -> None:
        stored(project, version, "s.zarr/0", (4, 6))
        store(project, version, image({"0": {"scale": [2, 2]}}, "yx"))
        other = {"0.5": "0.6", "0.4": "0.3"}[version]
        metadata = project.folder / "s.zarr" / ("zarr.json" if version == "0.5" else ".zattrs")
        metadata.write_text(metadata.read_text().replace(f'"{version}"', f'"{other}"'))
        with pytest.raises(InputError, match=rf"is OME-Zarr {other}, understood are 0\.4 and 0\.5"):
            describe("s.zarr/0", project.folder)


def to_be_made(path: str, **more: Any) -> ArrayInfo:
    values: dict[str, Any] = {
        "offset": (-40, 10), "voxel_size": (4, 2), "shape": (6, 8), "channels": (3,),
        "dtype": "float32", "chunks": (3, 2, 4), "units": ("nanometer", "nanometer"),
    }  # fmt: skip
    return ArrayInfo(**{"path": path, **values, **more}, exists=False)


def metadata(folder: Path, group: str) -> dict[str, Any]:
    """Return the image of a group, validated by the library."""
    attributes = dict(zarr.open_group(folder / group, mode="r").attrs)
    ome: Any = attributes.get("ome", attributes)
    if "ome" in attributes:
        v05.Image.model_validate(ome)
    else:
        v04.Image.model_validate(ome)
    (entry,) = ome["multiscales"]
    return dict(entry)


def forget_own_attributes(folder: Path, path: str) -> None:
    """Let an array be described by the group above it alone."""
    array = zarr.open_array(folder / path, mode="r+")
    array.attrs.put({})


@VERSIONS
class TestAddLevel:
    def test_what_is_made_is_an_image_of_its_store(self, project: Project, version: str) -> None:
        zarr.open_group(
            project.folder / "out.ome.zarr", mode="w", zarr_format=3 if version == "0.5" else 2
        )
        fine = to_be_made("out.ome.zarr/0")
        coarse = to_be_made("out.ome.zarr/1", voxel_size=(8, 8), shape=(3, 2))
        for array in (coarse, fine):  # whatever comes first
            create(array, project.folder)
        entry = metadata(project.folder, "out.ome.zarr")
        assert [d["path"] for d in entry["datasets"]] == ["0", "1"]
        assert [a["name"] for a in entry["axes"]] == ["c", "y", "x"]
        assert entry["name"] == "out"
        shifts = [d["coordinateTransformations"][1]["translation"] for d in entry["datasets"]]
        assert shifts == [[0, -40, 10], [0, -38, 13]]
        for array in (fine, coarse):
            forget_own_attributes(project.folder, array.path)
            assert described(project, array.path).to_json() == array.to_json()

    def test_a_level_joins_an_image_in_its_unit(self, project: Project, version: str) -> None:
        zarr_format = 3 if version == "0.5" else 2
        group = zarr.open_group(project.folder / "out.ome.zarr", mode="w", zarr_format=zarr_format)
        entry = image({"0": {"scale": [2, 0.004, 0.002]}}, "cyx")
        if version == "0.5":
            group.attrs["ome"] = {
                "version": "0.5",
                "multiscales": [entry],
                "omero": {"channels": []},
            }
        else:
            group.attrs["multiscales"] = [{"version": "0.4", **entry}]
        create(to_be_made("out.ome.zarr/1", offset=(0, 0), voxel_size=(8, 4)), project.folder)
        (_, added) = metadata(project.folder, "out.ome.zarr")["datasets"]
        scale, shift = added["coordinateTransformations"]
        assert (scale["scale"], shift["translation"]) == ([2, 0.008, 0.004], [0, 0.002, 0.001])
        if version == "0.5":
            attributes: Any = dict(zarr.open_group(project.folder / "out.ome.zarr").attrs)
            assert attributes["ome"]["omero"] == {"channels": []}


class TestNoLevel:
    @pytest.mark.parametrize(
        "array",
        [
            to_be_made("out.zarr/0"),
            to_be_made("out.ome.zarr/smoothed"),
            to_be_made("out.ome.zarr/0", channels=(1, 1, 2), chunks=(1, 1, 2, 2, 4)),
            to_be_made(
                "out.ome.zarr/0",
                offset=(0,),
                voxel_size=(4,),
                shape=(6,),
                chunks=(3, 2),
                units=("",),
            ),
        ],
        ids=["another store", "another name", "too many channels", "one axis"],
    )
    def test_is_what_has_no_place_in_an_image(self, project: Project, array: ArrayInfo) -> None:
        create(array, project.folder)
        group = project.folder / array.path.split("/")[0] / "zarr.json"
        assert not json.loads(group.read_text()).get("attributes")
        assert described(project, array.path).to_json() == array.to_json()

    @VERSIONS
    @pytest.mark.parametrize(
        "entry",
        [
            image({"0": {"scale": [2, 2]}}, "yx"),
            image({"0": {"scale": [1, 4e-3, 2e-3]}}, "cyx"),
            image({"0": {"scale": [1, 1, 1]}}, "cyx") | {"axes": ["c", "y", "x"]},
            image({"0": {}}, "cyx"),
            {"datasets": 3},
        ],
        ids=["other axes", "same voxel size", "old axes", "no scale", "nonsense"],
    )
    def test_leaves_the_metadata_as_they_are(
        self, project: Project, version: str, entry: dict[str, Any]
    ) -> None:
        store(project, version, entry)
        before = dict(zarr.open_group(project.folder / "s.zarr", mode="r").attrs)
        array = to_be_made("s.zarr/1")
        create(array, project.folder)
        after = dict(zarr.open_group(project.folder / "s.zarr", mode="r").attrs)
        assert after == before
        assert described(project, "s.zarr/1").to_json() == array.to_json()

    def test_a_new_image_in_an_old_store_is_of_its_format(self, project: Project) -> None:
        zarr.open_group(project.folder / "out.ome.zarr", mode="w", zarr_format=2)
        create(to_be_made("out.ome.zarr/labels/cells/s0"), project.folder)
        assert metadata(project.folder, "out.ome.zarr/labels/cells")["version"] == "0.4"


# --- whatever stands there


SCALARS = st.sampled_from([None, True, -1, 0, 2, 0.5, float("nan"), float("inf"), "", "0", "scale"])
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "type", "scale", "name", "unit"]), inner)
    ),
    max_leaves=6,
)
NUMBERS = st.lists(st.sampled_from([1, 2, 0.5, 0, -3, float("nan")]), min_size=3, max_size=3)
AXES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from("tczyx"), "type": st.sampled_from(["space", "time", "channel"])}
    )
    | ANYTHING,
    min_size=2,
    max_size=3,
)
TRANSFORMS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["scale", "translation", "identity"]),
            "scale": NUMBERS | ANYTHING,
            "translation": NUMBERS | ANYTHING,
        }
    )
    | ANYTHING,
    max_size=2,
)
DATASETS = st.lists(
    st.fixed_dictionaries(
        {"path": st.sampled_from(["0", "./0", "1"]), "coordinateTransformations": TRANSFORMS}
    )
    | ANYTHING,
    max_size=2,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"axes": AXES | ANYTHING, "datasets": DATASETS | ANYTHING},
        optional={"version": SCALARS, "coordinateTransformations": TRANSFORMS | ANYTHING},
    )
    | ANYTHING,
    max_size=2,
)
OME = st.fixed_dictionaries({"multiscales": ENTRIES | ANYTHING}, optional={"version": SCALARS})
GROUPS = st.fixed_dictionaries(
    {}, optional={"multiscales": ENTRIES | ANYTHING, "ome": OME | ANYTHING}
)
OWN = st.dictionaries(
    st.sampled_from(["offset", "voxel_size", "units", "types", "axis_names"]),
    ANYTHING | NUMBERS,
    max_size=2,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OWN, GROUPS, st.sampled_from(["", "nanometer"]))
def test_any_metadata_are_understood_or_refused(
    project: Project, own: dict[str, Any], group: dict[str, Any], unit: str
) -> None:
    zarr.open_group(project.folder / "s.zarr", mode="w", zarr_format=3)
    project.array("s.zarr/0", np.zeros((2, 4, 4), np.uint8))
    for path, attributes in (("s.zarr/0", own), ("s.zarr", group)):
        file = project.folder / path / "zarr.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "attributes": attributes}))
    try:
        array = described(project, "s.zarr/0", unit)
    except InputError as error:
        assert str(error).startswith("s.zarr/0: ")
    else:
        assert len(array.offset) == len(array.voxel_size) == len(array.shape) == len(array.units)
        assert all(size > 0 for size in array.voxel_size)
    create(to_be_made("s.zarr/1", channels=(2,), chunks=(2, 2, 4)), project.folder)
    assert described(project, "s.zarr/1").channels == (2,)
