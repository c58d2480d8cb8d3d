"""Compare the segments and the graph with what one program finds in the whole volume."""

import sqlite3
from contextlib import closing

import numpy as np
import yaml
import zarr
from scipy.ndimage import label

with open("pipeline.yaml") as file:
    threshold = yaml.safe_load(file)["tasks"]["fragments"]["params"]["threshold"]
raw, fragments, segments = (
    zarr.open_array(f"sample.zarr/{name}", mode="r")[...]
    for name in ("raw", "fragments", "segments")
)
components, count = label(raw > threshold)
pairs = np.unique(np.stack([components.ravel(), segments.ravel()]), axis=1)
assert pairs.shape[1] == count + 1 == len(np.unique(pairs[1])), "segments are not the components"
with closing(sqlite3.connect("graph.db")) as connection:
    nodes = [number for (number,) in connection.execute("SELECT id FROM nodes ORDER BY id")]
assert nodes == np.unique(fragments[fragments > 0]).tolist(), "nodes are not the fragments"
print(f"{len(nodes)} fragments, {count} segments, as in the whole volume")
