"""The command `wsss-fast export`: one function for all formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from wsss_fast.errors import InputError
from wsss_fast.export.coco import Per, to_coco
from wsss_fast.export.coco_polygons import to_coco_polygons
from wsss_fast.export.cvat import to_cvat
from wsss_fast.export.labelstudio import to_labelstudio
from wsss_fast.export.objects import Holes
from wsss_fast.export.voc_test import to_voc_test
from wsss_fast.export.yolo import to_yolo

Format = Literal["coco", "coco-polygons", "cvat", "labelstudio", "yolo", "voc-test"]
_FORMATS: dict[str, Callable[..., Path]] = {
    "coco": to_coco,
    "coco-polygons": to_coco_polygons,
    "cvat": to_cvat,
    "labelstudio": to_labelstudio,
    "yolo": to_yolo,
    "voc-test": to_voc_test,
}


def export(
    masks: str | Path,
    out: str | Path,
    *,
    to: Format,
    classes: str | Path | None = None,
    images: str | Path | None = None,
    per: Per | None = None,
    min_area: int | None = None,
    holes: Holes | None = None,
    tolerance: float | None = None,
    copy_images: bool = True,
    url: str | None = None,
    ids: str | Path | None = None,
) -> Path:
    """Write masks in the format of an annotation tool, a training or a benchmark server.

    A mask that cannot be used is named and left out; voc-test takes all masks or none.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: what to write: a .json file (coco, coco-polygons, labelstudio), a .zip archive (cvat),
            a folder (yolo) or a .tgz archive (voc-test).
        to: the format: coco (annotation file with exact masks as run lengths), coco-polygons (the
            same with a polygon per object), cvat (archive to import as "Segmentation mask 1.1"),
            labelstudio (brush masks to import as pre-annotated tasks), yolo (data set for trainings
            of YOLO's segmentation networks), voc-test (the archive for VOC's evaluation server).
        classes: file of the class names, one per line in the order of the labels, or a
            classes.json; default: classes.json in the masks' folder; without one the classes are
            called by their labels.
        images: folder of the photos, for the names of their files, and to compare sizes.
        per: coco: whether an annotation is an object (connected pixels of a class) or all pixels of
            a class in an image; default: object.
        min_area: coco, coco-polygons, cvat, yolo: pixels of the smallest annotation; default: 1.
        holes: what becomes of an object with holes: coco-polygons: rle (the default) writes it as
            run lengths; coco-polygons, yolo: cut (yolo's default) joins each hole to the outline by
            a cut of no width, fill makes holes a part of the object.
        tolerance: coco-polygons, yolo: outlines are simplified by at most this distance, in pixels;
            default: 0, which keeps each pixel.
        copy_images: yolo: whether the photos are copied to its folder.
        url: labelstudio: address of the photos' folder, to which the name of each photo is added;
            default: /data/local-files/?d=.
        ids: voc-test: file of the ids of the test images; default:
            ImageSets/Segmentation/test.txt next to the folder of the photos.

    Returns:
        What was written.

    Raises:
        InputError: a folder or file is missing, no mask can be used, or an option belongs to
            another format.
        RunError: some masks were left out.
    """
    function = _FORMATS[to]
    known = inspect.signature(function).parameters
    given = {
        "per": per,
        "min_area": min_area,
        "holes": holes,
        "tolerance": tolerance,
        "copy_images": None if copy_images else False,
        "url": url,
        "ids": ids,
    }
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in known:
            users = [f for f, one in _FORMATS.items() if name in inspect.signature(one).parameters]
            raise InputError(
                f"--{name.replace('_', '-')}: is an option of {' and '.join(users)}, not of {to}"
            )
    return function(masks, out, classes=classes, images=images, **options)
