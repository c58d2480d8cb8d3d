"""Tables of objects in dask: FOLDER, then ``image`` and how many objects, or ``blocks``.

``image`` is dask-image, which looks through the whole volume once for every object and number.
``blocks`` is what one would write by hand: sums per chunk by ``numpy.bincount``, merged by pandas.
"""

from __future__ import annotations

import sys

import dask
import dask.array as da
import numpy as np


def by_image(labels: da.Array, image: da.Array, count: int) -> dict[str, np.ndarray]:
    """Return the table of the first objects by dask-image."""
    from dask_image import ndmeasure

    ids = dask.compute(da.unique(labels[:128, :128, :128].ravel()))[0][1 : count + 1]
    lazy = {
        "count": ndmeasure.area(image, labels, ids),
        "centroid": ndmeasure.center_of_mass(da.ones_like(image), labels, ids),
        "intensity_mean": ndmeasure.mean(image, labels, ids),
        "intensity_std": ndmeasure.standard_deviation(image, labels, ids),
        "intensity_min": ndmeasure.minimum(image, labels, ids),
        "intensity_max": ndmeasure.maximum(image, labels, ids),
    }
    (found,) = dask.compute(lazy)
    return {"id": ids, **found}


def by_blocks(labels: da.Array, image: da.Array) -> dict[str, np.ndarray]:
    """Return the table by sums of chunks; spreads by sums of squares."""
    import pandas

    def sums(labels: np.ndarray, image: np.ndarray, begin: tuple[int, ...]) -> pandas.DataFrame:
        ids, ranks = np.unique(labels, return_inverse=True)
        ranks, values = ranks.ravel(), image.ravel().astype(float)
        found = {"id": ids, "count": np.bincount(ranks)}
        for a, axis in enumerate("zyx"):
            place = np.arange(begin[a], begin[a] + labels.shape[a])
            place = np.broadcast_to(
                np.expand_dims(place, [b for b in range(3) if b != a]), labels.shape
            )
            place = place.ravel()
            found[f"sum_{axis}"] = np.bincount(ranks, place)
            for name, function, first in (("begin", np.minimum, 2**62), ("end", np.maximum, 0)):
                found[f"{name}_{axis}"] = np.full(len(ids), first)
                function.at(found[f"{name}_{axis}"], ranks, place + (name == "end"))
        found["total"] = np.bincount(ranks, values)
        found["squares"] = np.bincount(ranks, values * values)
        found["intensity_min"] = np.full(len(ids), 65535, np.uint16)
        found["intensity_max"] = np.zeros(len(ids), np.uint16)
        np.minimum.at(found["intensity_min"], ranks, image.ravel())
        np.maximum.at(found["intensity_max"], ranks, image.ravel())
        return pandas.DataFrame(found)[ids != 0]

    pairs = zip(labels.to_delayed().ravel(), image.to_delayed().ravel(), strict=True)
    begins = np.ndindex(labels.numblocks)
    size = labels.chunksize
    parts = [
        dask.delayed(sums)(one, other, tuple(k * n for k, n in zip(index, size, strict=True)))
        for (one, other), index in zip(pairs, begins, strict=True)
    ]
    rows = pandas.concat(dask.compute(*parts))
    how = {"begin": "min", "end": "max", "intensity_min": "min", "intensity_max": "max"}
    merges = {n: how.get(n, how.get(n.split("_")[0], "sum")) for n in rows.columns if n != "id"}
    whole = rows.groupby("id", as_index=False).agg(merges)
    count = whole["count"]
    mean = whole["total"] / count
    found = {name: whole[name] for name in ("id", "count", "intensity_min", "intensity_max")}
    for axis, step in zip("zyx", (2.5, 0.5, 0.5), strict=True):
        found[f"centroid_{axis}"] = whole[f"sum_{axis}"] / count * step
        found |= {n: whole[n] for n in (f"begin_{axis}", f"end_{axis}")}
    found["intensity_mean"] = mean
    found["intensity_std"] = np.sqrt(whole["squares"] / count - mean * mean)
    return {name: np.asarray(values) for name, values in found.items()}


def main() -> None:
    """Store the table as numpy's archive."""
    folder, way, *count = sys.argv[1:]
    labels, image = (da.from_zarr(f"{folder}/volume.zarr/{name}") for name in ("labels", "image"))
    with dask.config.set(scheduler="processes" if way == "blocks" else "threads", num_workers=2):
        if way == "image":
            table = by_image(labels, image, int(count[0]))
        else:
            table = by_blocks(labels, image)
    np.savez(f"{folder}/dask_{way}.npz", **table)


if __name__ == "__main__":
    main()
