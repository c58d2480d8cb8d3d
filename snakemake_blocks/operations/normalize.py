"""``use: normalize``: intensities between two percentiles of the whole volume become 0 to 1.

Percentiles are exact for every type, and so the same however the volume is cut. Values are ordered
as whole numbers of as many bits. Counts by the leading 16 bits, which a reduction sums up, tell in
which of these parts the wanted values lie; where there are more bits, the values of these parts are
counted by the next 16. So volumes of 8 and 16 bits are read once before the result is made, those
of 32 bits twice and of 64 bits four times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from snakemake_blocks.errors import InputError
from snakemake_blocks.operations.channels import as_seen, channels_first, lie_alike
from snakemake_blocks.spec.operation_form import Frame, OperationModel, Step
from snakemake_blocks.spec.schema import refuse
from snakemake_blocks.tasks.dtypes import number_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NormalizeModel", "counts", "limits", "narrowed", "normalized", "summed"]

Volume = NDArray[Any]
Rows = dict[str, NDArray[Any]]
_HERE = "snakemake_blocks.operations.normalize"
# Bits by which values are counted at once.
_BITS = 16
_MOST_CHANNELS = 1000
_RESULTS = ("float16", "float32", "float64", "uint8", "uint16")


class NormalizeParams(BaseModel):
    """Between which values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lower: float = Field(1.0, ge=0, le=100, description="The percentile that becomes 0.")
    upper: float = Field(99.8, ge=0, le=100, description="The percentile that becomes 1.")
    per_channel: bool = Field(True, description="Each channel by its own percentiles.")
    clip: bool = Field(True, description="What lies beyond becomes 0 or 1.")

    @model_validator(mode="after")
    def _ordered(self) -> NormalizeParams:
        if self.lower >= self.upper:
            refuse(f"lower: {self.lower:g} has to be less than upper: {self.upper:g}")
        return self


class NormalizeModel(OperationModel):
    """Intensities between two percentiles of a volume, as 0 to 1 or all of a whole type."""

    inputs = ("image", "mask")
    results = ("image",)
    needed_inputs = ("image",)
    needed_results = ("image",)
    made = ("limits",)

    use: Literal["normalize"] = Field(description="Which operation.")
    params: NormalizeParams = Field(
        NormalizeParams.model_validate({}), description="Between which values."
    )

    @property
    def step_names(self) -> list[str]:
        """What may follow the task's name in those of the steps."""
        most = 64 // _BITS
        rounds = [f"{word}_{n}" for n in range(2, most + 1) for word in ("near", "count")]
        return ["count", *rounds, "limits", "image"]

    def expand(self, frame: Frame) -> dict[str, Step]:
        """Return the forms of the tasks that do it."""
        if not self._is_right(frame):
            return {}
        image, mask = frame.seen["image"], frame.seen.get("mask")
        dtype = np.dtype(image.dtype)
        many = math.prod(frame.channels) if self.params.per_channel else 1
        places = {"places": list(image.seen_places)}
        count: dict[str, Any] = {**places, "channels": many}
        if mask is not None:
            count["mask_places"] = list(mask.seen_places)
        reads = {name: self.read(name) for name in self.reads}
        percents = [self.params.lower, self.params.upper]
        steps: dict[str, Step] = {}
        last, near = "count", ""
        for number in range(1, -(-dtype.itemsize * 8 // _BITS) + 1):
            before: dict[str, Any] = {}
            if number > 1:
                near, read = f"near_{number}", self._counted(frame, last, near)
                steps[near] = self.once(
                    {
                        "function": f"{_HERE}:narrowed",
                        "params": {"percents": percents, "channels": many},
                        "reads": read,
                        "tables": {"near": {"columns": _NEAR}},
                    }
                )
                before = {"near": {"table": f"{frame.task}_{near}.near", "whole": True}}
                last = f"count_{number}"
            steps[last] = self.blockwise(
                frame,
                {
                    "call": "reduce",
                    "map": f"{_HERE}:counts",
                    "merge": f"{_HERE}:summed",
                    "params": {**count, "known": (number - 1) * _BITS},
                    "reads": {**reads, **before},
                    "tables": {"counts": {"columns": _COUNTS}},
                },
            )
        steps["limits"] = self.once(
            {
                "function": f"{_HERE}:limits",
                "params": {"percents": percents, "channels": many, "dtype": str(dtype)},
                "reads": self._counted(frame, last, near),
                "tables": {"limits": self.table("limits", _LIMITS)},
            }
        )
        given = self.outputs_of["image"].dtype or "float32"
        more = {"channels": list(frame.channels), "dtype": given}
        steps["image"] = self.blockwise(
            frame,
            {
                "function": f"{_HERE}:normalized",
                "params": {**places, "dtype": number_type(given), "clip": self.params.clip},
                "reads": {
                    "image": reads["image"],
                    "limits": {"table": f"{frame.task}_limits.limits", "whole": True},
                },
                "writes": {"image": {**self.write("image", **more), "dtype": given}},
            },
        )
        return steps

    @staticmethod
    def _counted(frame: Frame, last: str, near: str) -> Step:
        """Return the reads of a step that looks for values among those counted."""
        reads = {"counts": {"table": f"{frame.task}_{last}.counts"}}
        return {**reads, **({"near": {"table": f"{frame.task}_{near}.near"}} if near else {})}

    def _is_right(self, frame: Frame) -> bool:
        """Tell whether nothing is wrong; else a problem is noted."""
        assert frame.array is not None  # an image is needed
        image, mask = frame.seen["image"], frame.seen.get("mask")
        given = self.outputs_of["image"].dtype
        measured = [axis.is_measured for axis in frame.array.place.axes]
        behind = [n for n, place in enumerate(image.places) if place >= 0 and measured[place]]
        first = image.seen_places[behind[0]] if behind else 0
        lead = [place for n, place in enumerate(image.seen_places) if n not in behind]
        if min(image.places) < 0:
            text = f"{image.path} lacks an axis of the roi; use a roi of its axes"
            frame.say("reads.image", text)
        elif np.dtype(image.dtype).kind not in "iuf":
            frame.say("reads.image", f"{image.path} is of {image.dtype}, which has no percentiles")
        elif given and number_type(given) not in _RESULTS:
            frame.say("writes.image.dtype", f"{given} is none of {', '.join(_RESULTS)}")
        elif number_type(given or "float32")[0] == "u" and not self.params.clip:
            text = f"has to be true: {given} holds nothing beyond; write float32, or clip"
            frame.say("params.clip", text)
        elif math.prod(frame.channels) > _MOST_CHANNELS:
            text = f"has {math.prod(frame.channels):,} channels, at most {_MOST_CHANNELS:,} can be"
            frame.say("reads.image", f"{text} normalized; select one index of an axis")
        elif lead != list(range(len(lead))) or first != len(lead) + len(frame.channels):
            text = "has channels before axes that are cut; store it in the order of OME-Zarr"
            frame.say("reads.image", f"{image.path} {text}, t, c, z, y, x")
        elif mask is not None and np.dtype(mask.dtype).kind not in "bui":
            frame.say("reads.mask", f"{mask.path} is of {mask.dtype}; a mask is of whole numbers")
        elif mask is not None and mask.seen_channels not in ((), image.seen_channels):
            text = f"has channels {list(mask.seen_channels)}, the image {list(frame.channels)}"
            frame.say("reads.mask", f"{text}; give a mask for all, or one for each")
        else:
            return lie_alike(frame, self, main="image")
        return False


_COUNTS = {"channel": "uint32", "key": "uint64", "count": "uint64"}
_NEAR = dict.fromkeys(("channel", "rank", "key", "below", "total"), "uint64")
_LIMITS = {"channel": "uint32", "lower": "float64", "upper": "float64"}


def counts(
    image: Volume,
    places: Sequence[int],
    channels: int,
    known: int = 0,
    mask: Volume | None = None,
    mask_places: Sequence[int] = (),
    near: pa.Table | None = None,
) -> Rows:
    """Return how often values occur in a block, by the leading bits of their keys.

    Parameters
    ----------
    image : ndarray
        Any numbers; NaN is not counted.
    places : sequence of int
        Which of its axes are cut; others are channels.
    channels : int
        How many are counted by themselves; 1 counts all as one.
    known : int
        How many bits are known; values are counted by 16 more.
    mask : ndarray, optional
        Where it is 0, nothing is counted.
    mask_places : sequence of int
        As ``places``.
    near : pyarrow.Table, optional
        As :func:`narrowed` makes it: only what begins with these bits is counted.

    Returns
    -------
    dict
        ``channel``, ``key``: the leading bits, the known ones among them; ``count``.
    """
    seen = channels_first(image, places)
    keep = None
    if mask is not None:
        keep = np.broadcast_to(channels_first(mask, mask_places) != 0, seen.shape)
    rows: list[tuple[NDArray[np.uint32], Volume, Volume]] = []
    for c, channel in enumerate(seen):
        values = channel.ravel() if keep is None else channel[keep[c]]
        if values.dtype.kind == "f":
            values = values[~np.isnan(values)]
        number = c if channels > 1 else 0
        keys = _keys(values)
        for prefix in [0] if near is None else _prefixes(near, number):
            found, some = _counted(keys, known, prefix)
            rows.append((np.full(len(found), number, np.uint32), found, some))
    columns = zip(*rows, strict=True)
    return dict(zip(_COUNTS, map(np.concatenate, columns), strict=True))


def _prefixes(near: pa.Table, channel: int) -> list[int]:
    """Return what the keys of values that are wanted begin with."""
    rows = near.column("channel").to_numpy() == channel
    found: list[int] = np.unique(near.column("key").to_numpy()[rows]).tolist()
    return found


def _counted(keys: Volume, known: int, prefix: int) -> tuple[Volume, Volume]:
    """Return by 16 bits more than are known what keys begin with, and how many do."""
    bits = 8 * keys.dtype.itemsize
    if known:
        keys = keys[keys >> keys.dtype.type(bits - known) == prefix]
    lead = keys >> keys.dtype.type(max(0, bits - known - _BITS))
    numbers = np.bincount(lead.astype(np.uint16))
    found = np.flatnonzero(numbers)
    return found.astype(np.uint64) | np.uint64(prefix << _BITS), numbers[found].astype(np.uint64)


def summed(rows: pa.Table) -> Rows:
    """Return the sums of counts of several blocks, in the order of channels and keys."""
    channel, key, count = (rows.column(name).to_numpy() for name in _COUNTS)
    order = np.lexsort((key, channel))
    channel, key, count = channel[order], key[order], count[order]
    is_first = np.ones(len(key), bool)
    is_first[1:] = (channel[1:] != channel[:-1]) | (key[1:] != key[:-1])
    first = np.flatnonzero(is_first)
    total = np.add.reduceat(count, first) if len(first) else count
    return {"channel": channel[first], "key": key[first], "count": total}


class _Wanted(NamedTuple):
    """A value that is wanted: of a channel, how many are before it, and what is known of its key.

    ``below`` are before all that begin with ``key``; ``total`` are there.
    """

    channel: int
    rank: int
    key: int
    below: int
    total: int


def _ranks(percent: float, total: int) -> tuple[int, int, float]:
    """Return between which two of some values a percentile lies, and where there, as numpy does."""
    place = (total - 1) * (percent / 100)
    low = min(int(place), total - 1)
    return low, min(low + 1, total - 1), place - low


def _found(
    counts: pa.Table, percents: Sequence[float], channels: int, near: pa.Table | None
) -> list[_Wanted]:
    """Return of all values that are wanted what is known with some counts."""
    table = summed(counts)
    if near is None:
        before = list(_all_wanted(table, percents, channels))
    else:
        columns = (near.column(name).to_pylist() for name in _Wanted._fields)
        before = list(map(_Wanted, *columns))
    prefixes = table["key"] >> np.uint64(_BITS)
    found = []
    for wanted in before:
        here = (table["channel"] == wanted.channel) & (prefixes == wanted.key)
        keys, some = table["key"][here], table["count"][here]
        ends = wanted.below + np.cumsum(some)
        at = int(np.searchsorted(ends, wanted.rank, "right"))
        if at == len(ends):
            raise InputError("there are fewer values than were counted before: the image changed")
        found.append(wanted._replace(key=int(keys[at]), below=int(ends[at] - some[at])))
    return found


def _all_wanted(table: Rows, percents: Sequence[float], channels: int) -> Iterator[_Wanted]:
    for channel in range(channels):
        total = int(table["count"][table["channel"] == channel].sum())
        if not total:
            which = f"channel {channel} of the image" if channels > 1 else "the image"
            raise InputError(f"{which} has no values, so it has no percentiles; look at the mask")
        ranks = {rank for percent in percents for rank in _ranks(percent, total)[:2]}
        yield from (_Wanted(channel, rank, 0, 0, total) for rank in sorted(ranks))


def narrowed(
    counts: pa.Table, percents: Sequence[float], channels: int, near: pa.Table | None = None
) -> dict[str, Any]:
    """Return of the values between which percentiles lie what their keys begin with.

    Parameters
    ----------
    counts : pyarrow.Table
        As :func:`counts` makes them of all blocks.
    percents : sequence of float
        Which percentiles.
    channels : int
        How many are counted by themselves.
    near : pyarrow.Table, optional
        What was known before: counts are only of these values.

    Returns
    -------
    dict
        A row per value: ``channel``; ``rank``, how many are before it; ``key``; ``below``, how many
        are before all that begin so; ``total``.

    Raises
    ------
    InputError
        If a channel has no values, or has others than were counted before.
    """
    rows = _found(counts, percents, channels, near)
    return {name: [getattr(row, name) for row in rows] for name in _Wanted._fields}


def limits(
    counts: pa.Table,
    percents: Sequence[float],
    channels: int,
    dtype: str,
    near: pa.Table | None = None,
) -> dict[str, Any]:
    """Return the two percentiles of every channel, as ``numpy.percentile`` does by itself.

    Parameters
    ----------
    counts, percents, channels, near
        As for :func:`narrowed`; with these counts all bits are known.
    dtype : str
        Of the image.

    Returns
    -------
    dict
        A row per channel: ``channel``, ``lower``, ``upper``.

    Raises
    ------
    InputError
        As there, or if a percentile is infinite.
    """
    rows = _found(counts, percents, channels, near)
    found: dict[str, Any] = {"channel": list(range(channels)), "lower": [], "upper": []}
    for channel in range(channels):
        mine = [row for row in rows if row.channel == channel]
        values = dict(zip((r.rank for r in mine), _values(mine, np.dtype(dtype)), strict=True))
        for name, percent in zip(("lower", "upper"), percents, strict=True):
            low, high, part = _ranks(percent, mine[0].total)
            found[name].append(_between(values[low], values[high], part))
            if not math.isfinite(found[name][-1]):
                raise InputError(f"percentile {percent:g} of the image is not finite; mask such")
    return found


def _between(low: float, high: float, part: float) -> float:
    """Return what lies between two values, in the very steps of numpy."""
    if low == high:  # also where they are infinite
        return low
    apart = high - low
    return low + apart * part if part < 0.5 else high - apart * (1 - part)


def _keys(values: Volume) -> Volume:
    """Return whole numbers from 0 on, of as many bits, that have the order of values."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    bits: Volume = np.ascontiguousarray(values).view(unsigned)
    if values.dtype.kind == "u":
        return bits
    top = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    found: Volume = (
        np.where(bits & top, ~bits, bits | top) if values.dtype.kind == "f" else bits ^ top
    )
    return found


def _values(rows: Sequence[_Wanted], dtype: np.dtype[Any]) -> list[float]:
    """Return the values that keys stand for."""
    keys = np.array([row.key for row in rows], f"u{dtype.itemsize}")
    if dtype.kind == "u":
        return [float(key) for key in keys]
    top = keys.dtype.type(1 << (8 * dtype.itemsize - 1))
    bits = keys ^ top
    if dtype.kind == "f":
        bits = np.where(keys & top, bits, ~keys)
    return [float(value) for value in bits.view(dtype)]


def normalized(
    image: Volume, limits: pa.Table, places: Sequence[int], dtype: str, clip: bool = True
) -> Volume:
    """Return a block with values between its channels' limits as 0 to 1, or as all of a whole type.

    Where both limits are one value, what is above becomes 1, and all else 0.

    Parameters
    ----------
    image : ndarray
        NaN stays; in a whole type it becomes 0.
    limits : pyarrow.Table
        As :func:`limits` makes them, for each channel or one for all.
    places : sequence of int
        Which axes are cut; others are channels.
    dtype : str
        Of the result.
    clip : bool
        Whether values beyond become 0 or 1.
    """
    seen = channels_first(image, places)
    found = np.empty(seen.shape, dtype)
    lower, upper = (limits.column(name).to_pylist() for name in ("lower", "upper"))
    for c, channel in enumerate(seen):
        one = c if len(lower) > 1 else 0
        found[c] = _scaled(channel, lower[one], upper[one], dtype, is_clipped=clip)
    return as_seen(found, image.shape, places)


def _scaled(values: Volume, low: float, high: float, dtype: str, *, is_clipped: bool) -> Volume:
    kind = values.dtype
    if kind.kind in "iu" and 8 * kind.itemsize <= _BITS and values.size > 1 << 8 * kind.itemsize:
        bounds = np.iinfo(kind)
        every = np.arange(bounds.min, bounds.max + 1).astype(kind)  # in the order of keys
        table = _scaled(every, low, high, dtype, is_clipped=is_clipped)
        return np.take(table, _keys(values))
    wide = values.astype(np.float64)
    if high > low:
        wide -= low
        wide /= high - low
    else:
        wide = np.where(np.isnan(wide), wide, wide > high)
    if is_clipped:
        np.clip(wide, 0, 1, out=wide)
    if np.dtype(dtype).kind == "u":
        wide = np.rint(np.nan_to_num(wide, nan=0.0, copy=False) * np.iinfo(dtype).max)
    found: Volume = wide.astype(dtype)
    return found
