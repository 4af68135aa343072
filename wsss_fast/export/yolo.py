"""Masks as a data set for YOLO's segmentation trainings: a polygon per object."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.export.coco import check_min_area
from wsss_fast.export.masks import Masks, open_masks
from wsss_fast.export.objects import check_tolerance, find_objects, find_polygons


def to_yolo(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    min_area: int = 1,
    holes: Literal["cut", "fill"] = "cut",
    tolerance: float = 0.0,
    copy_images: bool = True,
) -> Path:
    """Write masks as a YOLO data set: `data.yaml`, `labels/<id>.txt`, and the photos in `images/`.

    Each connected region of a class is an object of its own. Ignored pixels become background,
    since the format has none. A mask that cannot be used is named and left out.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: folder to write to.
        classes: names of the classes, or a file of them; see `open_masks`.
        images: folder of the photos; see `open_masks`.
        min_area: objects of fewer pixels are left out.
        holes: "cut" joins each hole to the outline by a cut of no width, which keeps the object's
            pixels; "fill" leaves holes out.
        tolerance: outlines are simplified by at most this distance, in pixels; 0 keeps each pixel.
        copy_images: whether photos are copied to `images/`, where YOLO looks for them: its training
            may rewrite photos, so they are not linked.

    Returns:
        `out`.

    Raises:
        InputError: a folder or file is missing, `out` has labels of other images, or no mask can be
            used.
        RunError: some masks were left out.
    """
    out = Path(out)
    check_min_area(min_area)
    check_tolerance(tolerance)
    if holes not in ("cut", "fill"):
        raise InputError(f"holes: is {holes}, must be cut or fill: YOLO's files hold polygons only")
    opened = open_masks(masks, classes=classes, images=images)
    _check_out(out, opened, copy_images)
    for id, labels in opened:
        rows = _rows(labels, min_area, holes, tolerance)
        with atomic_write(out / "labels" / f"{id}.txt") as temporary:
            temporary.write_text("".join(rows))
        photo = opened.photo(id) if copy_images else None
        if photo is not None:
            _copy(photo, out / "images" / photo.name)
    with atomic_write(out / "data.yaml") as temporary:
        temporary.write_text(_description(out, opened.classes), encoding="utf-8")
    opened.check(out)
    return out


def _check_out(out: Path, masks: Masks, copy_images: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"out: {out}: is a file, but a YOLO data set is a folder")
    others = (p for p in sorted(out.glob("labels/*.txt")) if p.stem not in masks.files)
    if (other := next(others, None)) is not None:
        raise InputError(f"out: {other}: is of an image without a mask; choose another folder")
    if masks.photos is None or not copy_images:
        return
    for id in masks.files:
        photo = masks.photos.find_image(id)
        target = None if photo is None else out / "images" / photo.name
        if photo is None or target is None or not target.exists():
            continue
        if not target.is_file() or not filecmp.cmp(photo, target, shallow=False):
            raise InputError(
                f"out: {target}: is there, but not as in {photo.parent}; choose another folder"
            )


def _rows(
    labels: np.ndarray,
    min_area: int,
    holes: Literal["cut", "fill"],
    tolerance: float,
) -> Iterator[str]:
    """`class x y x y ...` for each object: class from 0, x and y as shares of width and height."""
    found = find_objects(labels, min_area=min_area)
    polygons = find_polygons(found, holes=holes, tolerance=tolerance)
    rings = [ring for ring in polygons if ring is not None]  # all: holes is not "rle"
    if not rings:
        return
    height, width = labels.shape
    x, y = np.concatenate(rings).T.tolist()
    texts = [""] * (2 * len(x))
    texts[::2], texts[1::2] = _shares(x, width), _shares(y, height)
    ends = 2 * np.cumsum([len(ring) for ring in rings])
    begin = 0
    for label, end in zip(found.labels.tolist(), ends.tolist(), strict=True):
        yield f"{label - 1} {' '.join(texts[begin:end])}\n"
        begin = end


def _shares(values: list[int], side: int) -> list[str]:
    """Values as shares of a side, with at most six digits."""
    texts = [f"{value / side:.6f}".rstrip("0").rstrip(".") for value in range(side + 1)]
    return [texts[value] for value in values]


def _copy(photo: Path, target: Path) -> None:
    """Copy a photo, unless it is there."""
    if target.exists() and target.samefile(photo):
        return
    with atomic_write(target) as temporary:
        shutil.copyfile(photo, temporary)


def _description(out: Path, classes: Sequence[str]) -> str:
    content = {
        "path": str(out.resolve()),
        "train": "images",
        "val": "images",
        "names": dict(enumerate(classes)),
    }
    note = "# YOLO needs val; set it to images that are not trained on to measure accuracy.\n"
    return note + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
