"""What TIFF files say of sizes and channels: in OME-XML, in words of ImageJ, or in tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any
from xml.etree import ElementTree

from snakemake_blocks.errors import InputError
from snakemake_blocks.tasks.units import exact, unit_name

__all__ = ["Described", "described"]

_RGB = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
# Pixels per inch that programs write who know nothing of the size of pixels.
_MEANINGLESS = (1, 72, 96)
_MANY_DIGITS = 10**5
_INCH, _CENTIMETER = 2, 3
_PER_UNIT = {_INCH: 25_400, _CENTIMETER: 10_000}  # micrometers


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of one image.

    Parameters
    ----------
    sizes : mapping of str to Fraction
        Of voxels, by axis.
    units : mapping of str to str
        Of these.
    channels : tuple of (str, str)
        Name and color.
    """

    sizes: Mapping[str, Fraction] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[tuple[str, str], ...] = ()


def described(tiff: Any, series: Any, path: str) -> Described:
    """Return what a file says of an image.

    Parameters
    ----------
    tiff, series : tifffile.TiffFile, tifffile.TiffPageSeries
        The file, and which of its images.
    path : str
        The file, for messages.

    Raises
    ------
    InputError
        If OME-XML is damaged.
    """
    if series.kind == "ome" and tiff.ome_metadata:
        return _of_ome(tiff.ome_metadata, list(tiff.series).index(series), path)
    words: Mapping[str, Any] = tiff.imagej_metadata or (tiff.shaped_metadata or ({},))[0]
    channels = _RGB if _is_rgb(series) else ()
    if series.kind == "imagej" or words.get("unit"):
        return _of_words(words, series.keyframe, channels)
    return _of_tags(series.keyframe, channels)


def _is_rgb(series: Any) -> bool:
    page = series.keyframe
    is_rgb = page.photometric is not None and int(page.photometric) == 2
    return is_rgb and page.samplesperpixel == 3 and "S" in series.axes and "C" not in series.axes


def _of_ome(text: str, number: int, path: str) -> Described:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: its OME-XML is damaged ({error}); restore it") from None
    images = [p for p in root.iter() if p.tag.rpartition("}")[2] == "Pixels"]
    pixels = images[number] if number < len(images) else images[0]
    sizes, units = {}, {}
    for axis in "zyx":
        size = pixels.get(f"PhysicalSize{axis.upper()}")
        unit = pixels.get(f"PhysicalSize{axis.upper()}Unit", "\u00b5m")
        if size is not None and unit_name(unit) and (found := _positive(size)):
            sizes[axis], units[axis] = found, unit_name(unit)
    channels = [p for p in pixels if p.tag.rpartition("}")[2] == "Channel"]
    names = tuple((p.get("Name", ""), _color(p.get("Color"))) for p in channels)
    if len(channels) == 1 and channels[0].get("SamplesPerPixel") == "3":
        names = _RGB
    return Described(sizes, _all(units), names if any(name for name, _ in names) else ())


def _color(text: str | None) -> str:
    """Return RRGGBB of OME's signed RGBA, empty for none."""
    try:
        return f"{int(text or '') & 0xFFFFFFFF:08X}"[:6]
    except ValueError:
        return ""


def _of_words(words: Mapping[str, Any], page: Any, channels: Any) -> Described:
    """Return what ImageJ says: the unit in words, its pixels in tags, its sections in words."""
    unit = str(words.get("unit") or "")
    try:
        unit = unit.encode("latin-1").decode("unicode_escape") if "\\u" in unit else unit
    except ValueError:
        unit = ""
    name = unit_name(unit)
    if not name:
        return Described(channels=channels)
    sizes = {a: s for a, s in (("y", _per_pixel(page, "Y")), ("x", _per_pixel(page, "X"))) if s}
    depth = _positive(words.get("spacing"))
    sizes |= {"z": depth} if depth else {}
    return Described(sizes, _all(dict.fromkeys("zyx", name)), channels)


def _of_tags(page: Any, channels: Any) -> Described:
    """Return what the tags for printers say, unless that is what they say of all images."""
    unit = int(page.resolutionunit or 1)
    factor = _PER_UNIT.get(unit)
    sizes = {a: s for a, s in (("y", _per_pixel(page, "Y")), ("x", _per_pixel(page, "X"))) if s}
    meaningless = [Fraction(1, n) for n in _MEANINGLESS] if unit == _INCH else [Fraction(1)]
    if factor is None or len(sizes) < 2 or any(size in meaningless for size in sizes.values()):
        return Described(channels=channels)
    microns = {axis: size * factor for axis, size in sizes.items()}
    return Described(microns, _all(dict.fromkeys("zyx", "micrometer")), channels)


def _per_pixel(page: Any, axis: str) -> Fraction | None:
    """Return the size of a pixel by a tag that says how many there are per unit."""
    tag = page.tags.get(f"{axis}Resolution")
    value = None if tag is None else tag.value
    if not isinstance(value, tuple) or len(value) != 2 or min(value) <= 0:
        return None
    count, units = map(int, value)
    # Of many digits it is what a writer made of a shorter number.
    for digits in range(1, 17) if count >= _MANY_DIGITS else ():
        short = float(f"{units / count:.{digits}g}")
        if round(units / short) == count:
            return exact(short)
    return Fraction(units, count)


def _positive(value: Any) -> Fraction | None:
    """Return a size, None for what is none."""
    try:
        found = exact(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return found if found > 0 else None


def _all(units: Mapping[str, str]) -> Mapping[str, str]:
    """Return a unit for each axis of space: where none is told, another's."""
    known = next(iter(units.values()), "")
    return {axis: units.get(axis, known) for axis in "zyx"} if known else {}
