"""Each example as its README has it: the commands typed one after the other, in a copy."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
import yaml
import zarr
from numpy.typing import NDArray
from project import BIN
from scipy.ndimage import gaussian_filter

EXAMPLES = Path(__file__).parents[2] / "examples"
_COMMANDS = re.compile(r"(<!-- not run: [^\n]+ -->\n)?^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(readme: Path) -> Iterator[str]:
    """Yield the fenced commands that say nothing against being run."""
    for reason, text in _COMMANDS.findall(readme.read_text()):
        if not reason:
            yield text


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Return the folder of examples that were never run."""
    made = ("*.zarr", "*.hdf", "*.png", "*.csv", "blocks", "envs", "Snakefile", ".snakemake")
    ignored = shutil.ignore_patterns(*made, "__pycache__")
    return shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=ignored)


def follow(folder: Path) -> str:
    """Type what the README says; return what was said."""
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(folder), "COLUMNS": "120"}
    said, begin = "", time.monotonic()
    for command in commands(folder / "README.md"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    print(f"examples/{folder.name}: {time.monotonic() - begin:.1f} s")
    return said


def read(path: Path) -> NDArray[np.float32]:
    return np.asarray(zarr.open_array(path, mode="r")[...])


def picture(path: Path) -> None:
    from skimage.io import imread

    assert imread(path)[..., :3].std() > 20


def test_every_folder_is_listed_and_has_commands() -> None:
    folders = {path.parent.name for path in EXAMPLES.glob("*/README.md")}
    listed = set(re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert folders == listed
    assert all(list(commands(EXAMPLES / name / "README.md")) for name in folders)


@pytest.mark.e2e
def test_hdf5_to_zarr(copies: Path) -> None:
    import h5py

    said = follow(copies / "hdf5_to_zarr")
    array = zarr.open_array(copies / "hdf5_to_zarr/sample.zarr/raw", mode="r")
    with h5py.File(copies / "hdf5_to_zarr/sample.hdf") as file:
        assert np.array_equal(np.asarray(array[...]), file["volumes/raw"][...])
    assert array.chunks == (20, 128, 128)
    assert "12" in said


@pytest.mark.e2e
def test_smoothing(copies: Path) -> None:
    folder = copies / "smoothing"
    said = follow(folder)
    assert "a context of 2 x 8 x 8 is NOT enough" in said
    assert "a context of 8 is enough" in said
    whole = gaussian_filter(read(folder / "sample.zarr/raw"), sigma=2, mode="constant")
    smoothed = read(folder / "sample.zarr/smoothed")
    np.testing.assert_allclose(smoothed, whole, atol=1e-6)
    picture(folder / "smooth.png")
    from skimage.io import imread

    assert not np.array_equal(imread(folder / "smooth.png"), imread(folder / "dark-lines.png"))


@pytest.mark.e2e
def test_resuming(copies: Path) -> None:
    said = follow(copies / "resuming")
    assert "smooth: 48 blocks" in said
    assert "blocks that were done twice: 0" in said


@pytest.mark.e2e
def test_workers_by_hand(copies: Path) -> None:
    folder = copies / "workers_by_hand"
    follow(folder)
    whole = gaussian_filter(read(folder / "sample.zarr/raw"), sigma=2, mode="constant")
    np.testing.assert_allclose(read(folder / "sample.zarr/smoothed"), whole, atol=1e-6)
    assert not (folder / ".snakemake").exists()


@pytest.mark.e2e
def test_chaining(copies: Path) -> None:
    folder = copies / "chaining"
    said = follow(folder)
    assert "first: 48 blocks, from 0.00 s" in said and "second: 12 blocks" in said
    with open(folder / "attempts.csv", newline="") as file:
        spans: dict[str, list[float]] = {"first": [], "second": []}
        for row in csv.DictReader(file):
            begin = float(row["start"])
            spans[row["task"]] += [begin, begin + float(row["wall_seconds"])]
    assert min(spans["second"]) < max(spans["first"]), "block by block"
    raw = read(folder / "sample.zarr/raw")
    once = gaussian_filter(raw, sigma=2, mode="constant")
    twice = gaussian_filter(once, sigma=1, mode="constant")
    np.testing.assert_allclose(read(folder / "sample.zarr/smoothed_twice"), twice, atol=1e-6)
    for name in ("overlap.png", "slices.png"):
        picture(folder / name)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_microscope(copies: Path) -> None:
    """From planes in TIFF to a table, in less than 40 lines."""
    folder = copies / "microscope"
    assert len((folder / "pipeline.yaml").read_text().splitlines()) < 40
    follow(folder)
    planes = [tifffile.imread(folder / f"planes/plane_{z}.tif") for z in range(60)]
    image = zarr.open_group(folder / "nuclei.ome.zarr", mode="r")
    np.testing.assert_array_equal(np.asarray(image["0"][...]), planes)
    (levels,) = image.attrs["ome"]["multiscales"]
    assert [level["path"] for level in levels["datasets"]] == ["0", "1", "2"]
    assert [axis["unit"] for axis in levels["axes"]] == ["micrometer"] * 3
    scale = levels["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == [0.29, 0.26, 0.26]
    labels = np.asarray(image["labels/nuclei/0"][...])
    objects = pyarrow.parquet.read_table(folder / "nuclei.parquet").to_pandas()
    names, counts = np.unique(labels[labels > 0], return_counts=True)
    assert objects["id"].tolist() == names.tolist() == list(range(1, len(names) + 1))
    assert objects["count"].tolist() == counts.tolist()
    means = [np.mean(image["0"][...], where=labels == n) for n in (1, len(names))]
    np.testing.assert_allclose(objects["intensity_mean"].iloc[[0, -1]], means)
    np.testing.assert_allclose(objects["volume"], counts * 0.29 * 0.26 * 0.26)
    # nuclei lie across blocks, and are one
    crossing = np.intersect1d(labels[:, :, 127], labels[:, :, 128])
    assert len(crossing) > 5
    assert (folder / "nuclei.csv").read_text().count("\n") == len(names) + 1
    picture(folder / "nuclei.png")


@pytest.mark.e2e
@pytest.mark.timeout(900)  # four runs of five tasks
def test_region_graph(copies: Path) -> None:
    folder = copies / "region_graph"
    said = follow(folder).splitlines()
    _, second, third = [line for line in said if line.endswith("as in the whole volume")]
    assert second == third
    (missing,) = [line for line in said if line == "the graph is missing"]
    assert said.index(missing) < len(said) - 1


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """Start a server of PostgreSQL, if it is installed, and return its URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs or os.geteuid() != 0:
        pytest.skip("needs PostgreSQL from Debian's packages, and root to run it as its user")
    home = Path(tempfile.mkdtemp())
    shutil.chown(home, "postgres")
    user = ["runuser", "-u", "postgres", "--"]
    data, port = home / "data", 20000 + os.getpid() % 10000
    subprocess.run([*user, programs[-1] / "initdb", "-A", "trust", "-D", data], check=True)
    settings = f"-p {port} -k {home} -c listen_addresses=127.0.0.1"
    control = [*user, programs[-1] / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", settings, "start"], check=True)
    yield f"postgresql://postgres@127.0.0.1:{port}/graph"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True)
    shutil.rmtree(home)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_region_graph_in_postgresql(copies: Path, postgresql: str) -> None:
    """Rows of blocks that run again are replaced there as well."""
    import psycopg2

    folder = copies / "region_graph"
    pipeline = yaml.safe_load((folder / "pipeline.yaml").read_text())
    graph = pipeline["tasks"]["graph"]
    del graph["outputs"], graph["max_workers"]
    graph["params"]["database"] = pipeline["tasks"]["lut"]["params"]["database"] = postgresql

    def run(*before: str, threshold: float) -> None:
        pipeline["tasks"]["fragments"]["params"]["threshold"] = threshold
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
        for words in (before, ("run", "pipeline.yaml", "--cores", "2")):
            if words:
                command = [str(BIN / "snakemake-blocks"), *words]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
        fragments = np.unique(np.asarray(zarr.open_array(folder / "sample.zarr/fragments")[...]))
        with closing(psycopg2.connect(postgresql)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM nodes ORDER BY id")
            assert [row[0] for row in cursor] == fragments[fragments > 0].tolist()

    sample = [sys.executable, "../sample_data.py", "sample.zarr"]
    subprocess.run(sample, cwd=folder, check=True)
    run(threshold=0.25)
    run(threshold=0.3)
    run("reset", "blocks", "graph", "--roi", "20:40,64:128,64:128", threshold=0.3)
