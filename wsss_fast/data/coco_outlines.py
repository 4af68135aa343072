"""Outlines of COCO's annotations, polygons or run lengths, as masks."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

_MOST_PIXELS = 1 << 28
_MOST_COUNTS = 1 << 24


def pycocotools_mask(what: str) -> ModuleType:
    """The module `pycocotools.mask`.

    Args:
        what: what needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pycocotools.mask
    except ImportError:
        raise InputError(f"{what} needs pycocotools: pip install pycocotools") from None
    return pycocotools.mask


def image_size(image: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of an image of the JSON.

    Raises:
        ValueError: it has none, or an impossible one.
    """
    sizes = []
    for name in ("height", "width"):
        value = image.get(name)
        if not isinstance(value, (int, float)) or not 1 <= value <= _MOST_PIXELS or value % 1:
            raise ValueError(f"its {name} is {value!r}; a whole number of pixels is needed")
        sizes.append(int(value))
    if sizes[0] * sizes[1] > _MOST_PIXELS:
        raise ValueError(f"its size is {sizes[0]}x{sizes[1]}, which is too large")
    return sizes[0], sizes[1]


def plain_outline(
    outline: Any, size: tuple[int, int], place: str
) -> list[list[float]] | dict[str, Any]:
    """An annotation's outline, checked: polygons, or run lengths that are not compressed.

    pycocotools leaves pixels undefined where run lengths do not fill the image, and takes any
    amount of memory for coordinates far outside: both are rejected here.

    Args:
        outline: polygons [[x, y, x, y, ...], ...], or {"size": [H, W], "counts": list or text}.
        size: (H, W) of the image.
        place: of the annotation, for a remark.

    Raises:
        ValueError: it is neither, or damaged.
    """
    if isinstance(outline, dict):
        return {"size": list(size), "counts": _counts(outline, size)}
    if not isinstance(outline, list) or not outline:
        raise ValueError("it has no outline" if outline else "it has no outline, only a box")
    if not isinstance(outline[0], list):
        outline = [outline]  # one polygon without the list around it
    polygons = [_polygon(one, size) for one in outline]
    filled = [one for one in polygons if len(one) >= 6]
    if len(filled) < len(polygons):
        remarks.add("polygons of fewer than three points cover no pixel", place, unit="annotation")
    return filled or {"size": list(size), "counts": [size[0] * size[1]]}


def encoded(outline: Any, size: tuple[int, int], tools: ModuleType, place: str) -> dict[str, Any]:
    """An outline as pycocotools' run lengths.

    Args:
        outline, size, place: as `plain_outline`.
        tools: `pycocotools.mask`.

    Raises:
        ValueError: as `plain_outline`.
    """
    plain = plain_outline(outline, size, place)
    runs = tools.frPyObjects(plain, *size)
    return tools.merge(runs) if isinstance(plain, list) else runs


def _polygon(points: Any, size: tuple[int, int]) -> list[float]:
    if not isinstance(points, list) or any(type(p) not in (int, float) for p in points):
        raise ValueError("a polygon is not a list of numbers")
    if len(points) % 2:
        raise ValueError(f"a polygon has {len(points)} numbers, which are no pairs of x and y")
    for n, value in enumerate(points):
        extent = size[1 - n % 2]
        if not -extent <= value <= 2 * extent:
            raise ValueError(
                f"a polygon has {'xy'[n % 2]} {str(value)[:20]}, far outside the image"
            )
    return [float(value) for value in points]


def _counts(outline: dict[str, Any], size: tuple[int, int]) -> list[int]:
    """The run lengths of an outline, which fill the image."""
    counts, given = outline.get("counts"), outline.get("size")
    if given is not None and given != list(size):
        raise ValueError(f"its run lengths are of size {given}, its image is {list(size)}")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or any(type(c) is not int or c < 0 for c in counts):
        raise ValueError("its run lengths are not whole numbers from 0")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"its run lengths cover {sum(counts)} pixels, its image has {size[0] * size[1]}"
        )
    return counts


def _decompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Five bits a character, the lowest first; from the fourth count on, differences from the count
    two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60 or len(counts) > _MOST_COUNTS:
            raise ValueError("its compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and (1 << shift)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("its compressed run lengths are cut off")
    return counts
