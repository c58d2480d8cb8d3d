from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["dask", "funlib.persistence", "matplotlib", "networkx", "pandas", "pulp", "pydantic"]
HEAVY += ["rich", "skimage", "snakemake", "xarray", "yaml", "zarr"]


def loaded(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after running ``code``."""
    ask = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{ask}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(result.stdout.split())


def test_the_package_loads_nothing_heavy_and_says_nothing() -> None:
    assert loaded("import snakemake_blocks") == set()


def test_names_are_loaded_when_they_are_used() -> None:
    assert "zarr" not in loaded(
        "import snakemake_blocks as sb; sb.Task; sb.Block; sb.Roi; sb.Client"
    )


@pytest.mark.parametrize("module", ["rules", "engine.snakefile"])
def test_what_a_snakefile_imports_is_light(module: str) -> None:
    """Every remote job executes the Snakefile again."""
    assert loaded(f"import snakemake_blocks.{module}") == set()


def test_a_job_loads_only_zarr() -> None:
    """Every job that is not forked from a host starts like this."""
    assert loaded("import snakemake_blocks.work.job") <= {"zarr"}
    assert loaded("import snakemake_blocks.cli") == set()


def test_every_public_name_is_there() -> None:
    import snakemake_blocks

    for name in snakemake_blocks.__all__:
        assert getattr(snakemake_blocks, name) is not None
    assert dir(snakemake_blocks) == sorted(snakemake_blocks.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = snakemake_blocks.nothing


def test_importing_writes_nothing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", "import snakemake_blocks.cli"], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
