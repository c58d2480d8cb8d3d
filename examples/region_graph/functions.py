"""Functions of the pipeline: fragments, their graph in a database, a look-up table, segments."""

from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import networkx as nx
import numpy as np
from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase
from funlib.persistence.types import Vec
from scipy.ndimage import center_of_mass, label

POSITION = [f"position_{axis}" for axis in range(3)]


def fragments(raw, block, threshold):
    """Label what is bright in a block; no label is given in two blocks."""
    labels, _ = label(raw > threshold)
    return np.where(labels > 0, labels + first_id(block), 0)


def first_id(block):
    """Return the number behind which the labels of a block begin."""
    _, number = block.block_id
    return number * block.write_roi.size


def graph_in(database, mode="r+"):
    """Return the graph in a file, or at a postgresql:// URL: a node per fragment, edges between."""
    about = {
        "mode": mode,
        "node_attrs": {"position": Vec(float, 3), "size": int},
        "edge_attrs": {"contact": int},
    }
    if "://" not in database:
        return SQLiteGraphDataBase(Path(database), "position", **about)
    url = urlsplit(database)  # the password is better kept in ~/.pgpass: parameters are stored
    server = {"db_host": url.hostname, "db_user": url.username, "db_port": url.port}
    return PgSQLGraphDatabase("position", url.path.strip("/"), **server, **about)


def prepare(database):
    """Begin with an empty graph."""
    if "://" not in database:
        for path in (Path(database), Path(database).with_name(f"{Path(database).stem}-meta.json")):
            path.unlink(missing_ok=True)
    graph_in(database, "w").close()


def drop(block, database):
    """Delete what an earlier attempt of a block has left."""
    first = int(first_id(block))
    mine = f"BETWEEN {first + 1} AND {first + int(block.write_roi.size)}"
    with closing(graph_in(database)) as graph:
        graph.cur.execute(f"DELETE FROM nodes WHERE id {mine}")
        graph.cur.execute(f"DELETE FROM edges WHERE u {mine}")
        graph.cur.execute("COMMIT")


def touching(fragments, block, database):
    """Store the fragments of a block, and which others they touch at its upper faces."""
    graph = nx.Graph()
    inner = fragments[tuple(slice(0, n) for n in block.write_roi.shape)]
    ids, counts = np.unique(inner[inner > 0], return_counts=True)
    centers = center_of_mass(inner > 0, inner, ids) if len(ids) else []
    for number, size, center in zip(ids.tolist(), counts.tolist(), centers, strict=True):
        graph.add_node(number, position=np.add(center, block.write_roi.begin).tolist(), size=size)
    for axis, size in enumerate(block.write_roi.shape):
        for pair, contact in pairs(fragments, axis, size, block.write_roi.shape):
            graph.add_edge(*pair, contact=contact)
    with closing(graph_in(database)) as stored:
        mine = graph.subgraph(ids.tolist())
        stored.write_nodes(mine.nodes, fail_if_exists=True)
        stored.write_edges(graph.nodes, graph.edges, fail_if_exists=True)


def pairs(fragments, axis, size, shape):
    """Yield the pairs of fragments that touch at an upper face of a block, and how much."""
    if fragments.shape[axis] == size:
        return  # there is nothing above it
    within = [slice(0, n) for n in shape]
    below, above = (
        fragments[tuple(slice(at, at + 1) if a == axis else s for a, s in enumerate(within))]
        for at in (size - 1, size)
    )
    both = np.stack([below[(below > 0) & (above > 0)], above[(below > 0) & (above > 0)]], axis=1)
    found, counts = np.unique(both, axis=0, return_counts=True)
    yield from zip(map(tuple, found.tolist()), counts.tolist(), strict=True)


def components(database):
    """Return which segment each fragment belongs to."""
    graph = graph_in(database, "r").read_graph()
    found = [(n, min(part)) for part in nx.connected_components(graph) for n in part]
    found = np.array(sorted(found), np.uint64).reshape(-1, 2)
    return {"fragment": found[:, 0], "segment": found[:, 1]}


def relabel(fragments, lut):
    """Return the segments of some fragments."""
    known, segments = (lut[name].to_numpy() for name in ("fragment", "segment"))
    segments = np.concatenate([[0], segments])
    return segments[np.searchsorted(known, fragments, side="right")]
