"""Results that wait until all that is stored with them in one file is there.

Whoever adds to a shard has to write all of it anew: block by block that is as many times as it has
blocks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.arrays import read_stored, voxels_of_file, write_stored
from snakemake_blocks.tasks.array_info import ArrayInfo
from snakemake_blocks.tasks.dtypes import fitted

__all__ = ["Held", "write_held"]


@dataclass(slots=True)
class Held:
    """What blocks have made of one array, and is not stored yet.

    Parameters
    ----------
    array : ArrayInfo
        The array.
    """

    array: ArrayInfo
    _parts: list[tuple[Box, NDArray[Any]]] = field(default_factory=list, init=False, repr=False)

    def add(self, region: Box, values: NDArray[Any]) -> str:
        """Take in what a function returned for a region; as :func:`.write_region`.

        Raises
        ------
        InputError
            If the array's type cannot hold the values.
        """
        array = self.array
        found, cut = fitted(values, array.dtype, array.path)
        wanted = array.voxels(region)
        inside = wanted.intersect(Box.from_shape(array.shape))
        if inside:
            place = inside.shift([-b for b in wanted.begin])
            part = np.expand_dims(found, array.hidden)[array.slices(place)]
            # A view would keep the context around it in memory, and may be changed by its maker.
            self._parts.append((array.stored(inside), np.array(part)))
        return cut

    def by_file(self) -> dict[tuple[Index, Index], list[tuple[Box, NDArray[Any]]]]:
        """Return the parts by the files (first and end, along all axes) that they lie in."""
        found: defaultdict[tuple[Index, Index], list[tuple[Box, NDArray[Any]]]] = defaultdict(list)
        for box, values in self._parts:
            files = self.array.files(box)
            found[files.begin, files.end].append((box, values))
        return found


def write_held(data: Any, held: Held) -> None:
    """Write what waits, each file once.

    Raises
    ------
    InputError
        If a file that holds more than is written now cannot be read.
    """
    array = held.array
    for (begin, end), parts in held.by_file().items():
        if len(parts) == 1:
            write_stored(data, array, *parts[0])
            continue
        last = tuple(e - 1 for e in end)
        first, final = voxels_of_file(array, begin), voxels_of_file(array, last)
        whole = first.union(final).intersect(Box.from_shape(array.full_shape))
        if sum(box.size for box, _ in parts) == whole.size:
            values = np.empty(whole.shape, array.dtype)
        else:  # what is not written now stays as it is
            values = np.array(read_stored(data, array, whole))
        for box, part in parts:
            values[box.slices_in(whole)] = part
        write_stored(data, array, whole, values)
