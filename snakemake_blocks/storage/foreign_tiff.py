"""TIFF, of every kind that tifffile knows, and series of files with a page each.

Values that follow one another uncompressed are mapped into memory; of others only the strips or
tiles that are wanted are decoded.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snakemake_blocks.errors import InputError
from snakemake_blocks.geometry.box import Box, Index
from snakemake_blocks.storage.foreign_header import (
    Header,
    check_regular,
    library,
    named_axes,
    native,
    rows,
    words,
)
from snakemake_blocks.storage.spatial import Place
from snakemake_blocks.storage.tiff_metadata import Described, described

__all__ = ["SeriesReader", "TiffReader"]

# What tifffile calls pages of which nothing is known, one after the other.
_PAGES = frozenset("IQ")
_NUMBER = re.compile(r"(\d+)")
# Of what tifffile says of damage: of single tags, which may be of no interest, it says it, too.
_DAMAGE = re.compile(r"invalid page|corrupt|TiffPages|missing page|failed to")


@dataclass(frozen=True, slots=True)
class TiffReader:
    """One image of a TIFF file.

    Parameters
    ----------
    path : str
        What it is called.
    file : Path
        Where the file is.
    number : str
        Which image of the file, as in the path; empty for the only one.
    """

    path: str
    file: Path
    number: str = ""
    can_fork: bool = True

    def header(self) -> Header:
        """Return what the file says."""
        with self.opened() as (tiff, series):
            _check_ends(tiff, series, self.path)
            _check_codec(series, self.path)
            found = described(tiff, series, self.path)
            return self._header(series, found)

    def source(self) -> _TiffSource:
        """Open it."""
        tiff, series = self._open()
        try:
            _check_ends(tiff, series, self.path)
        except BaseException:
            tiff.close()
            raise
        return _TiffSource(tiff, series)

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        """Open the file, and close it after what is done with it."""
        tiff, series = self._open()
        with tiff:
            yield tiff, series

    def _header(self, series: Any, found: Described) -> Header:
        names = _names(series.axes)
        lead = len(series.shape) - len(series.keyframe.shape)
        shape = tuple(map(int, series.shape))
        is_plain = series.dataoffset is not None
        chunks = rows(shape) if is_plain else ((1,) * lead + tuple(_decoded(series.keyframe)))
        return Header(
            "TIFF",
            Place(self.path, named_axes(names, found.sizes, units=found.units)),
            shape,
            tuple(min(c, n) for c, n in zip(chunks, shape, strict=True)),
            native(series.dtype),
            found.channels,
        )

    def _open(self) -> tuple[Any, Any]:
        library("tifffile", self.path)
        check_regular(self.file)
        said: list[str] = []
        try:
            with _listening(said):
                return self._opened(said)
        except InputError:
            raise
        except Exception as error:  # what damaged files raise is anybody's guess
            first = f"; {said[0]}" if said else ""
            raise InputError(
                f"{self.path}: is no TIFF file, or is damaged ({words(error)}{first}); restore it"
            ) from error

    def _opened(self, said: list[str]) -> tuple[Any, Any]:
        tiff = library("tifffile", self.path).TiffFile(self.file)
        try:
            series = self._series(tiff)
            len(tiff.pages)
            damage = next(filter(_DAMAGE.search, said), "")
            if damage:
                raise InputError(
                    f"{self.path}: is cut off or damaged after page {len(tiff.pages)} "
                    f"({damage}); restore it"
                )
        except BaseException:
            tiff.close()
            raise
        return tiff, series

    def _series(self, tiff: Any) -> Any:
        found = list(tiff.series)
        if not found:
            raise InputError(f"{self.path}: holds no image")
        if not self.number and len(found) > 1:
            images = (f"{n} {list(s.shape)}" for n, s in itertools.islice(enumerate(found), 10))
            raise InputError(
                f"{self.path}: holds {len(found)} images of different shapes or kinds "
                f"({', '.join(images)}); name one, e.g. {self.path}/0"
            )
        if self.number and not (self.number.isdecimal() and int(self.number) < len(found)):
            raise InputError(
                f"{self.path}: there is no image {self.number}; there are {len(found)}, from 0 on"
            )
        series = found[int(self.number or 0)]
        page = tuple(series.keyframe.shape)
        if series.dataoffset is None and tuple(series.shape[-len(page) :]) != page:
            raise InputError(
                f"{self.path}: its pages of {list(page)} make up no array of "
                f"{list(series.shape)}; store it anew"
            )
        return series


@contextmanager
def _listening(said: list[str]) -> Iterator[None]:
    """Take what tifffile says of errors in files, where others would print it."""
    log = logging.getLogger("tifffile")

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(re.sub(r"<tifffile\.(\w+)[^>]*>", r"\1", record.getMessage()))

    listener, level, propagates = Listener(logging.ERROR), log.level, log.propagate
    log.addHandler(listener)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
        log.propagate = propagates


def _names(axes: str) -> list[str]:
    """Return tifffile's axes as ours: pages without a meaning are sections."""
    found = ["c" if a == "S" and "C" not in axes else a.lower() for a in axes]
    unknown = [n for n, a in enumerate(axes) if a in _PAGES]
    if unknown and "z" not in found:
        found[unknown[-1]] = "z"
    return found


def _decoded(page: Any) -> Index:
    """Return what is decoded at once, per axis of a page."""
    sizes = {"depth": page.tiledepth, "length": page.tilelength, "width": page.tilewidth}
    if not page.is_tiled:
        strip = page.rowsperstrip or page.imagelength
        sizes = {"depth": 1, "length": strip, "width": page.imagewidth}
    of = {"Z": sizes["depth"], "Y": sizes["length"], "X": sizes["width"]}
    return tuple(int(of.get(a, n)) for a, n in zip(page.axes, page.shape, strict=True))


def _check_ends(tiff: Any, series: Any, path: str) -> None:
    """Refuse files that lack pages or their end.

    Raises
    ------
    InputError
        With the first.
    """
    size = os.path.getsize(tiff.filehandle.path)
    begin = series.dataoffset
    if begin is not None:
        end = begin + math.prod(series.shape) * series.dtype.itemsize
        if end > size:
            page = max(0, size - begin) // (series.keyframe.nbytes or 1)
            raise InputError(
                f"{path}: ends after {size:,} of {end:,} bytes, within page {page}; restore it"
            )
        return
    lacking = next((n for n, page in enumerate(series.pages) if page is None), None)
    if lacking is not None:
        raise InputError(
            f"{path}: page {lacking} of {len(series.pages)} is missing, or the file that it is "
            "in; restore it"
        )
    last = series.pages[len(series.pages) - 1]
    if not series.is_multifile:
        _check_page(last, len(series.pages) - 1, size, path)


def _check_codec(series: Any, path: str) -> None:
    """Refuse ways of compression that are not there: decodes a strip or tile of the first page."""
    if series.dataoffset is not None:
        return
    first = series.pages[0]
    try:
        _segment(first.aspage() if hasattr(first, "aspage") else first, 0)
    except Exception as error:
        raise InputError(f"{path}: page 0 cannot be read ({_advice(error)})") from error


def _check_page(page: Any, number: int, size: int, path: str) -> None:
    """Refuse a page of which a strip or tile lies behind the end of the file."""
    ends = zip(page.dataoffsets, page.databytecounts, strict=False)
    end = max((o + n for o, n in ends if n), default=0)
    if end > size:
        raise InputError(
            f"{path}: ends after {size:,} bytes, page {number} needs {end:,}; restore it"
        )


def _advice(error: BaseException) -> str:
    text = words(error)
    if "imagecodecs" in text or isinstance(error, ModuleNotFoundError):
        return f"{text}; pip install imagecodecs"
    return f"{text}; restore it"


def _segment(page: Any, number: int) -> Any:
    """Return what tifffile makes of a strip or tile: its values, their place, and their shape."""
    offset, count = page.dataoffsets[number], page.databytecounts[number]
    if not count:  # not stored: nothing but one value
        return page.decode(None, number)
    handle = page.parent.filehandle
    if offset + count > handle.size:
        raise ValueError(f"its strip or tile {number} ends behind the end of the file")
    handle.seek(offset)
    tables = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
    return page.decode(handle.read(count), number, **tables)


@dataclass(slots=True)
class _TiffSource:
    tiff: Any
    series: Any
    _is_plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self._is_plain = self.series.dataoffset is not None
        if self._is_plain:
            self.tiff.close()

    def _mapped(self) -> NDArray[Any]:
        """Map the values, anew for every read: what was read before would count as memory."""
        return np.memmap(
            self.tiff.filehandle.path,
            dtype=self.series.dtype.newbyteorder(self.tiff.byteorder),
            mode="r",
            offset=self.series.dataoffset,
            shape=self.series.shape,
        )

    def __del__(self) -> None:
        self.tiff.close()

    def read(self, voxels: Box) -> NDArray[Any]:
        if self._is_plain:
            return np.array(self._mapped()[voxels.slices])
        lead = len(self._counts)
        frame = Box(voxels.begin[lead:], voxels.end[lead:])
        out = np.empty(voxels.shape, self.series.dtype.newbyteorder("="))
        for at, number in self._pages(voxels):
            out[at] = _read_page(self._page(number), frame, out.dtype)
        return out

    def part(self, voxels: Box) -> str:
        if self._is_plain:
            return f"pages from {self._number(voxels.begin)} on"
        lead = len(self._counts)
        frame = Box(voxels.begin[lead:], voxels.end[lead:])
        for _, number in self._pages(voxels):
            try:
                _read_page(self._page(number), frame, self.series.dtype)
            except Exception:  # this is the one; the caller raises
                return f"page {number}"
        return "a page"

    @property
    def _counts(self) -> Index:
        shape, page = self.series.shape, self.series.keyframe.shape
        return tuple(shape[: len(shape) - len(page)])

    def _number(self, begin: Index) -> int:
        counts = self._counts
        return int(np.ravel_multi_index(begin[: len(counts)], counts)) if counts else 0

    def _pages(self, voxels: Box) -> Iterator[tuple[Index, int]]:
        """Yield the pages that hold some voxels: where they belong, and their numbers."""
        lead = len(self._counts)
        begin, end = voxels.begin[:lead], voxels.end[:lead]
        for index in itertools.product(*map(range, begin, end)):
            yield tuple(i - b for i, b in zip(index, begin, strict=True)), self._number(index)

    def _page(self, number: int) -> Any:
        page = self.series.pages[number]
        return page.aspage() if hasattr(page, "aspage") else page


def _read_page(page: Any, frame: Box, dtype: Any) -> NDArray[Any]:
    """Return a part of a page; of its strips or tiles those that it meets are decoded."""
    whole = _normalized(page, frame)
    out = np.empty(whole.shape, dtype)
    for number in _segments(page, whole):
        values, index, shape = _segment(page, number)
        here = Box(tuple(index), tuple(i + n for i, n in zip(index, (1, *shape), strict=True)))
        part = here.intersect(whole)
        if not part:
            continue
        target = part.shift([-b for b in whole.begin]).slices
        if values is None:
            out[target] = page.nodata
        else:
            inside = part.shift([-b for b in here.begin]).slices
            out[target] = values.reshape(here.shape)[inside]
    return out.reshape(frame.shape)


def _normalized(page: Any, frame: Box) -> Box:
    """Return a part of a page in the five axes that tifffile counts strips and tiles along."""
    separate, depth, _, _, contiguous = page.shaped
    sides = dict(zip(page.axes, zip(frame.begin, frame.end, strict=True), strict=True))
    samples = sides.get("S", (0, 1))
    pairs = [
        samples if separate > 1 else (0, 1),
        sides.get("Z", (0, depth)),
        sides.get("Y", (0, 1)),
        sides.get("X", (0, 1)),
        samples if contiguous > 1 else (0, 1),
    ]
    return Box(tuple(b for b, _ in pairs), tuple(e for _, e in pairs))


def _segments(page: Any, whole: Box) -> Iterator[int]:
    """Yield the numbers of the strips or tiles that meet a part of a page."""
    separate, depth, length, width, _ = page.shaped
    if page.is_tiled:
        sizes = (1, page.tiledepth, page.tilelength, page.tilewidth)
    else:
        sizes = (1, 1, page.rowsperstrip or length, width)
    extents = (separate, depth, length, width)
    counts = tuple(-(-n // s) for n, s in zip(extents, sizes, strict=True))
    begin = (b // s for b, s in zip(whole.begin, sizes, strict=False))
    end = (-(-e // s) for e, s in zip(whole.end, sizes, strict=False))
    for index in itertools.product(*map(range, begin, end)):
        yield int(np.ravel_multi_index(index, counts))


@dataclass(frozen=True, slots=True)
class SeriesReader:
    """TIFF files with a page each, one above the other, in the order of a number in their names.

    Parameters
    ----------
    path : str
        The pattern.
    files : tuple of str
        What it matches, relative to ``folder``.
    folder : Path
        Where paths begin.
    can_fork : bool
        As for all readers.
    """

    path: str
    files: tuple[str, ...]
    folder: Path
    can_fork: bool = True

    def header(self) -> Header:
        """Return what the files say, all of which are looked at."""
        names = self._sorted()
        first = self._of(names[0]).header()
        if any(axis.name == "z" for axis in first.place.axes):
            raise InputError(
                f"{self.path}: {names[0]} is a volume of {list(first.shape)} by itself; name one "
                "file, or store each as an array"
            )
        for name in names[1:]:
            with self._of(name).opened() as (_, series):
                shape, dtype = tuple(series.shape), native(series.dtype)
            if (shape, dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"{self.path}: {name} is {dtype}{list(shape)}, {names[0]} is "
                    f"{first.dtype}{list(first.shape)}; all have to be alike"
                )
        called = ["z", *(axis.name for axis in first.place.axes)]
        sizes = {a.name: a.voxel_size for a in first.place.axes if a.is_measured}
        units = {a.name: a.unit for a in first.place.axes if a.is_measured}
        if units:
            units["z"] = next(iter(units.values()))
        return Header(
            "TIFF",
            Place(self.path, named_axes(called, sizes, units=units)),
            (len(names), *first.shape),
            (1, *first.chunks),
            first.dtype,
            first.channels,
        )

    def source(self) -> _SeriesSource:
        """Open it."""
        return _SeriesSource(tuple(map(self._of, self._sorted())))

    def _of(self, name: str) -> TiffReader:
        return TiffReader(name, self.folder / name)

    def _sorted(self) -> list[str]:
        """Return the files in the order of their numbers, of which none may be missing."""
        names = sorted(self.files, key=_natural)
        column = _counting(names, self.path)
        if column is None:
            return names
        numbers = [_numbers(name)[column] for name in names]
        step = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
        for (low, high), name in zip(itertools.pairwise(numbers), names, strict=False):
            if high - low != step:
                text = _NUMBER.split(name)
                digits = text[2 * column + 1]
                text[2 * column + 1] = str(low + step).zfill(len(digits))
                raise InputError(
                    f"{self.path}: {''.join(text)} is missing, after {name}; restore it, or "
                    "rename the files so that their numbers have no gap"
                )
        return names


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which numbers in names are compared as numbers."""
    return [(int(p), p) if p.isdecimal() else (0, p) for p in _NUMBER.split(name)]


def _numbers(name: str) -> list[int]:
    return list(map(int, _NUMBER.findall(name)))


def _counting(names: Sequence[str], path: str) -> int | None:
    """Return which of the numbers in names counts the files, None if there is but one file.

    Raises
    ------
    InputError
        If none does: files of several channels, say, would lie one above the other.
    """
    if len(names) < 2:
        return None
    columns = [_numbers(name) for name in names]
    if len(set(map(len, columns))) == 1:
        for column in reversed(range(len(columns[0]))):
            found = [numbers[column] for numbers in columns]
            if all(a < b for a, b in itertools.pairwise(found)):
                return column
    raise InputError(
        f"{path}: it is not one number in the names that counts {len(names)} files "
        f"({names[0]}, {names[1]}, ...); name the files of one stack"
    )


@dataclass(slots=True)
class _SeriesSource:
    readers: tuple[TiffReader, ...]

    def read(self, voxels: Box) -> NDArray[Any]:
        frame = Box(voxels.begin[1:], voxels.end[1:])
        return np.stack([self._read(z, frame) for z in range(voxels.begin[0], voxels.end[0])])

    def _read(self, number: int, frame: Box) -> NDArray[Any]:
        reader = self.readers[number]
        source = reader.source()
        with source.tiff:
            return source.read(frame)

    def part(self, voxels: Box) -> str:
        frame = Box(voxels.begin[1:], voxels.end[1:])
        for number in range(voxels.begin[0], voxels.end[0]):
            try:
                self._read(number, frame)
            except Exception:  # this is the one; the caller raises
                return self.readers[number].path
        return "a file"
