"""Label PNGs from the outlines of an instances JSON, as different public code paints them."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from wsss_fast.data.coco_json import CocoJson, by_image, in_order, read_coco
from wsss_fast.data.coco_outlines import encoded, image_size, pycocotools_mask
from wsss_fast.data.label_folder import LABEL_NAMES
from wsss_fast.engine import remarks
from wsss_fast.engine.files import write_json
from wsss_fast.engine.left_out import check_left_out
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, write_labels

_BORDER = 3  # width in pixels

# An object: its run lengths, its number of pixels, its annotation.
_Object = tuple[dict[str, Any], int, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How overlapping objects become one label map.

    Attributes:
        order: key by which objects are sorted, the one on top first; None: the last of the file is.
        crowds: whether groups of objects (`iscrowd`) are painted.
        category_ids: whether pixels have the category id, not a label of 1..C.
        empty: whether an image without annotations has a mask, of background.
    """

    order: Callable[[_Object], float] | None
    crowds: bool = False
    category_ids: bool = False
    empty: bool = True


def _pixels(object: _Object) -> float:
    return object[1]


def _stated_area(object: _Object) -> float:
    area = object[2].get("area")
    return area if isinstance(area, (int, float)) and area >= 0 else _pixels(object)


_RULES: Mapping[str, _Rule] = {
    "small-first": _Rule(_pixels),
    "annToMask": _Rule(None),
    "coco2voc": _Rule(_stated_area, crowds=True, category_ids=True, empty=False),
}


@remarks.collected()
def masks_from_coco(
    json: str | Path,
    out: str | Path,
    *,
    rule: Literal["small-first", "annToMask", "coco2voc"] = "small-first",
    border: bool = False,
) -> Path:
    """Paint the objects of COCO's instances JSON as label PNGs, `<out>/<id>.png`.

    The id is the name of the image's file without extension. Pixels of no object are 0. Names of
    the labels are written next to the PNGs as classes.json. An image whose size or outlines cannot
    be used is named and left out. Needs pycocotools.

    Args:
        json: the file, such as annotations/instances_train2014.json: polygons or run lengths.
        out: folder to write to.
        rule: "small-first": of overlapping objects the one with fewer pixels is on top; crowds are
            left out; labels 1..C in the order of the category ids. "annToMask": as in the public
            code of ReCAM, CLIMS and LPCAM, where the object that is later in the file is on top.
            "coco2voc": as in the tool that ToCo and AFA name: smaller `area` on top, crowds too,
            pixels have the category ids (1..90 of COCO, so they are no labels for `data.load`), no
            mask for an image without annotations.
        border: set the pixels around each object to 255 (ignored), 3 pixels wide, also where
            another object hides it, as coco2voc's option does.

    Returns:
        `out`.

    Raises:
        InputError: no such file, or none of its images can be used; with the first reason.
        RunError: some images were left out.
    """
    tools = pycocotools_mask("import coco")
    path, out = Path(json), Path(out)
    if rule not in _RULES:
        raise InputError(f"import coco: rule {rule!r} is unknown; known are {', '.join(_RULES)}")
    if out.exists() and not out.is_dir():
        raise InputError(f"import coco: {out} is not a directory; name another one to write to")
    found = read_coco(path, outlines=True)
    how = _RULES[rule]
    values = _values(found, how)
    annotations = by_image(found.annotations)
    numbers = [n for n in in_order(found.files) if how.empty or n in annotations]
    if not numbers:
        raise InputError(f"{path}: has no annotations, so there is nothing to paint")
    failures = []
    for number in track(numbers, "import masks", unit="img"):
        of_image = annotations.get(number, [])
        try:
            labels = _paint(found.images[number], of_image, values, how, border, tools, path)
            _write(out, Path(found.files[number]).stem, labels)
        except ValueError as error:
            failures.append(f"{path}, image {number} ({found.files[number]}): {error}")
    if len(failures) < len(numbers):
        named = {values[c]: name for c, name in zip(found.category_ids, found.classes, strict=True)}
        write_json(out / LABEL_NAMES, {0: "background", **named, IGNORE: "ignore"})
    check_left_out("import coco", failures, len(numbers), out, unit="images")
    return out


def _write(out: Path, name: str, labels: np.ndarray) -> None:
    """Write a label map; ValueError if its name is too long for a file."""
    try:
        write_labels(out / f"{name}.png", labels)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError("its name is too long") from None


def _values(found: CocoJson, rule: _Rule) -> dict[int, int]:
    """The value of the pixels of each category."""
    if not rule.category_ids:
        return {category: label for label, category in enumerate(found.category_ids, 1)}
    odd = next((c for c in found.category_ids if not 0 < c < IGNORE), None)
    if odd is not None:
        raise InputError(
            f"{found.path}: category id {odd} cannot be the value of a pixel, since 0 is "
            f"background and {IGNORE} ignored; rule small-first numbers the classes from 1"
        )
    return {category: category for category in found.category_ids}


def _paint(
    image: dict[str, Any],
    annotations: Sequence[dict[str, Any]],
    values: Mapping[int, int],
    rule: _Rule,
    border: bool,
    tools: ModuleType,
    path: Path,
) -> np.ndarray:
    """The label map of one image, uint8 [H, W].

    Raises:
        ValueError: its size or an outline cannot be used.
    """
    size = image_size(image)
    objects: list[_Object] = []
    for annotation in annotations:
        if annotation.get("iscrowd") and not rule.crowds:
            continue
        place = f"annotation {annotation.get('id')}"
        try:
            runs = encoded(annotation.get("segmentation"), size, tools, f"{path}, {place}")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        objects.append((runs, int(tools.area(runs)), annotation))
    if rule.order is not None:
        objects = sorted(objects, key=rule.order)[::-1]  # the one on top last
    labels = np.zeros(size, np.uint8, order="F")
    around = np.zeros(size, bool)
    for runs, _, annotation in objects:
        inside = tools.decode(runs)
        np.copyto(labels, values[annotation["category_id"]], where=inside.view(bool))
        if border:
            _add_border(around, inside.view(bool), tools.toBbox(runs))
    labels[around] = IGNORE
    return labels


def _add_border(around: np.ndarray, inside: np.ndarray, box: np.ndarray) -> None:
    """Set what is within `_BORDER` pixels of an object, but not of it, as in a square around each.

    Args:
        around: bool [H, W] to add to.
        inside: bool [H, W], the object.
        box: its x, y, width, height.
    """
    x, y, width, height = map(int, box)
    part = np.s_[
        max(y - _BORDER, 0) : y + height + _BORDER, max(x - _BORDER, 0) : x + width + _BORDER
    ]
    own = np.ascontiguousarray(inside[part])
    wide = own
    for _ in range(2):  # along the columns, then along the rows
        narrow, wide = wide, wide.copy()
        for shift in range(1, _BORDER + 1):
            wide[shift:] |= narrow[:-shift]
            wide[:-shift] |= narrow[shift:]
        wide = np.ascontiguousarray(wide.T)
    around[part] |= wide & ~own
