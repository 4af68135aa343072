"""Masks as a COCO annotation file, each region as run lengths."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.export import rle
from wsss_fast.export.masks import Masks, open_masks, output_file
from wsss_fast.export.objects import find_objects
from wsss_fast.readers.label_maps import IGNORE

Per = Literal["object", "class"]

_json = json.JSONEncoder(separators=(",", ":")).encode
# Numbers, and COCO's own file names, which end with the number that COCO's files have.
_NUMBERED = re.compile(r"(?:COCO_\w+_)?([0-9]{1,15})")


def to_coco(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    per: Per = "object",
    min_area: int = 1,
) -> Path:
    """Write masks as a COCO annotation file: exact, since regions are run lengths, not polygons.

    Each image is listed, also one without an annotation. Ids of categories are the labels. Ids of
    images are the numbers in their names where all names are numbers or COCO's own
    (COCO_train2014_000000000009), otherwise 1, 2, ... in the order of the names. A mask that cannot
    be used is named and left out.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: JSON file to write.
        classes: names of the classes, or a file of them; see `open_masks`.
        images: folder of the photos; see `open_masks`.
        per: what an annotation is: an object (pixels of a class that are connected by their sides),
            or all pixels of a class in an image.
        min_area: pixels; smaller annotations are left out.

    Returns:
        `out`.

    Raises:
        InputError: a folder or file is missing, or no mask can be used.
        RunError: some masks were left out.
    """
    check_min_area(min_area)

    def annotate(labels: np.ndarray) -> Iterable[dict[str, Any]]:
        by_class = np.where(labels == IGNORE, 0, labels)
        values = by_class if per == "class" else find_objects(labels).region
        for region in rle.encode_regions(values):
            if region.area >= min_area:
                yield {
                    "category_id": int(labels[region.first]),
                    "segmentation": {"size": list(labels.shape), "counts": region.counts},
                    "area": region.area,
                    "bbox": list(region.bbox),
                }

    return write_coco(open_masks(masks, classes=classes, images=images), out, annotate)


def check_min_area(min_area: int) -> None:
    """Raise InputError unless `min_area` is a number of pixels."""
    if min_area < 1:
        raise InputError(f"min_area: is {min_area}, must be at least 1 pixel")


def write_coco(
    masks: Masks,
    out: str | Path,
    annotate: Callable[[np.ndarray], Iterable[Mapping[str, Any]]],
) -> Path:
    """Write a COCO annotation file.

    Args:
        masks: to write.
        out: JSON file.
        annotate: labels uint8 [H, W] -> the annotations of an image: category_id, segmentation,
            area and bbox.

    Returns:
        `out`.

    Raises:
        InputError: no mask can be used.
        RunError: some masks were left out.
    """
    path = output_file(out, ".json")
    numbers = _numbers_with_remark(masks)
    head = {
        "info": {"description": f"label maps of {masks.folder.name}"},
        "licenses": [],
        "categories": [
            {"id": label, "name": name, "supercategory": name}
            for label, name in enumerate(masks.classes, 1)
        ],
    }
    listed: list[dict[str, Any]] = []
    count = 0
    with atomic_write(path) as temporary, temporary.open("w") as file:
        file.write(_json(head)[:-1] + ',"annotations":[')
        for id, labels in masks:  # written one by one: all annotations may not fit into memory
            height, width = labels.shape
            photo = {"id": numbers[id], "file_name": masks.file_name(id)}
            listed.append({**photo, "height": height, "width": width})
            for annotation in annotate(labels):
                count += 1
                own = {"id": count, "image_id": numbers[id], "iscrowd": 0, **annotation}
                file.write("," + _json(own) if count > 1 else _json(own))
        file.write('],"images":' + _json(listed) + "}\n")
    masks.check(path)
    return path


@remarks.collected()
def _numbers_with_remark(masks: Masks) -> dict[str, int]:
    """`image_numbers`; a remark names masks that keep those of the others from being used."""
    numbers = image_numbers(list(masks.files))
    odd = [id for id in masks.files if not _NUMBERED.fullmatch(id)]
    if len(odd) < len(masks):
        text = "has no number as its name, so that all image ids are 1, 2, ..."
        for id in odd:
            remarks.add(text, masks.files[id], unit="mask", of=len(masks))
    return numbers


def image_numbers(ids: Sequence[str]) -> dict[str, int]:
    """The image ids of COCO's files; see `to_coco`.

    >>> image_numbers(["COCO_val2014_000000000042", "COCO_val2014_000000000073"])
    {'COCO_val2014_000000000042': 42, 'COCO_val2014_000000000073': 73}
    >>> image_numbers(["2007_000032", "2007_000033"])
    {'2007_000032': 1, '2007_000033': 2}
    """
    found = [_NUMBERED.fullmatch(id) for id in ids]
    numbers = [int(match[1]) for match in found if match is not None]
    if len(set(numbers)) < len(ids):
        numbers = list(range(1, len(ids) + 1))
    return dict(zip(ids, numbers, strict=True))
