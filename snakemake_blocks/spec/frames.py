"""What an operation knows of its main input when it is expanded."""

from __future__ import annotations

import math
from collections.abc import Sequence

from snakemake_blocks.geometry.box import Index
from snakemake_blocks.spec.catalogue import Catalogue
from snakemake_blocks.spec.measures import Measures
from snakemake_blocks.spec.operation_form import Frame, OperationModel
from snakemake_blocks.spec.region import Region
from snakemake_blocks.spec.schema import TableReadModel
from snakemake_blocks.tasks.array_info import ArrayInfo

__all__ = ["frame_of"]

# Voxels that a block has at least where no block size is given, whole chunks of the input.
_LEAST = 1 << 21


def frame_of(arrays: Catalogue, name: str, model: OperationModel) -> Frame | None:
    """Return what is known; None, and why noted, if there is something wrong."""
    before, place = len(arrays.problems), f"tasks.{name}"
    frame = Frame(
        task=name,
        folder=arrays.folder,
        look=lambda path, key: arrays.array(path, f"{place}.{key}"),
        say=lambda key, text: arrays.say(f"{place}.{key}", text),
    )
    if not model.main:
        return frame
    region = Region(arrays, name, place, model.roi or model.main_path)
    main = arrays.array(model.main_path, f"{place}.reads.{model.main}")
    ruler = region.ruler({} if main is None else {model.main: main})
    measures = region.measures(ruler)
    roi = region.written(measures) if measures else None
    if main is None or ruler is None or measures is None or roi is None:
        return None
    counted = measures.ruler
    if counted is None:
        frame.say("roi", measures.no_ruler)
        return None
    info = measures.info(main, f"reads.{model.main}", model.select_of(model.main))
    size = roi.shape
    if model.block_size is not None:
        size = measures.sizes(model.block_size, "block_size", roi.shape)
    if info is None or len(arrays.problems) > before:
        return None
    seen = _seen(arrays, place, model, measures)
    if len(arrays.problems) > before:
        return None
    step = counted.steps
    shape = tuple(-(-n // v) for n, v in zip(roi.shape, step, strict=True))
    block = tuple(max(1, n // v) for n, v in zip(size, step, strict=True))
    if model.block_size is None:
        chunk = [info.chunks[p] if p >= 0 else 1 for p in info.places]
        block = _usual(chunk, shape, _LEAST // max(1, math.prod(info.seen_channels)))
    world = [measures.world(a, v) - measures.world(a, 0) for a, v in enumerate(step)]
    return Frame(
        task=name,
        folder=arrays.folder,
        look=frame.look,
        say=frame.say,
        array=main,
        axes=tuple(axis.name for axis in measures.axes),
        offset=tuple((b - o) // v for b, o, v in zip(roi.begin, counted.offset, step, strict=True)),
        shape=shape,
        block=block,
        voxel_size=tuple(map(float, world)),
        units=counted.units or ("",) * len(shape),
        channels=info.seen_channels,
        begin=tuple(float(measures.world(a, n)) for a, n in enumerate(roi.begin)),
        seen=seen,
    )


def _seen(
    arrays: Catalogue, place: str, model: OperationModel, measures: Measures
) -> dict[str, ArrayInfo]:
    """Return the arrays that are read as blocks see them; of those that do not fit it is noted."""
    found = {}
    for name, read in model.reads.items():
        if isinstance(read, TableReadModel) or name in model.aside:
            continue
        path = read if isinstance(read, str) else read.array
        stored = arrays.array(path, f"{place}.reads.{name}")
        info = measures.info(stored, f"reads.{name}", model.select_of(name))
        if info is not None:
            found[name] = info
    return found


def _usual(chunk: Sequence[int], shape: Index, least: int) -> Index:
    """Return a near-cubic box of whole chunks with some voxels, no larger than what there is."""
    found = [min(c, n) for c, n in zip(chunk, shape, strict=True)]
    while math.prod(found) < least:
        free = [a for a, n in enumerate(found) if n < shape[a]]
        if not free:
            break
        shortest = min(free, key=lambda a: (found[a], a))
        found[shortest] = min(found[shortest] + chunk[shortest], shape[shortest])
    return tuple(found)
