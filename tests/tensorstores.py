"""Arrays of N5 and precomputed volumes, written and read by tensorstore in a process of its own.

A process that has used tensorstore cannot fork any more, and tests do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WRITE = """
import json, sys
import numpy as np
import tensorstore as ts

spec, values = json.loads(sys.argv[1]), np.load(sys.argv[2])
store = ts.open(spec, create=True, open=spec["driver"] != "n5").result()
store[...] = values
"""

_READ = """
import sys
from pathlib import Path
import numpy as np
from snakemake_blocks.storage.arrays import stored_array
from snakemake_blocks.storage.foreign import open_foreign

path, folder, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
found = open_foreign(path, folder, stored_array(path, folder).order)
np.save(out, found[...])
np.save(out + ".part.npy", found[..., 1:-1, 2:7])
"""


def _run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def _write(spec: Any, values: NDArray[Any], folder: Path) -> None:
    file = folder / "values.npy"
    np.save(file, values)
    _run(_WRITE, json.dumps(spec), str(file))
    file.unlink()


def write_n5(folder: Path, path: str, values: NDArray[Any], **attributes: Any) -> None:
    """Store an array, of which N5 has the axes in the opposite order, as other tools do."""
    where = os.path.abspath(folder / path)
    metadata = {
        "dimensions": values.shape[::-1],
        "blockSize": [16] * values.ndim,
        "dataType": str(values.dtype),
        "compression": {"type": "gzip"},
    }
    kvstore = {"driver": "file", "path": where}
    _write({"driver": "n5", "kvstore": kvstore, "metadata": metadata}, values.T, folder)
    file = Path(where) / "attributes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **attributes}))


def write_precomputed(folder: Path, path: str, values: NDArray[Any], **scale: Any) -> None:
    """Store an array of z, y, x, or of channels before them, as one more scale of a volume."""
    stored = values[np.newaxis] if values.ndim == 3 else values
    made = {"size": stored.shape[:0:-1], "encoding": "raw", "chunk_size": [16, 16, 16], **scale}
    kind = {"type": "image", "data_type": str(values.dtype), "num_channels": len(stored)}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": os.path.abspath(folder / path)},
        "multiscale_metadata": kind,
        "scale_metadata": made,
    }
    _write(spec, stored.T, folder)


def read(folder: Path, path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all values of an array as ours reads them, and those of ``[..., 1:-1, 2:7]``."""
    out = folder / "read.npy"
    _run(_READ, path, str(folder), str(out))
    return np.load(out), np.load(f"{out}.part.npy")
