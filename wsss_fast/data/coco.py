"""The COCO14 layout: photos in train2014/ and val2014/, tags from JSON, masks as PNGs of 0..80."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import check_classes, check_id, read_ids, read_text, saliency_folder
from wsss_fast.errors import InputError

_SPLITS = {"train": "train2014", "val": "val2014"}
_PHOTO_PARENTS = ("", "JPEGImages", "images")
_JSON_PARENTS = ("annotations", "")
_MASK_PARENTS = ("masks", "SegmentationClass")
_NUMBER = re.compile(r"(?:COCO_(train2014|val2014)_)?(\d+)")
# The fields of JSON objects that are kept: most of a file of hundreds of megabytes is polygons.
_KEPT_FIELDS = (
    "id",
    "file_name",
    "image_id",
    "category_id",
    "name",
    "images",
    "annotations",
    "categories",
)


def is_coco(root: Path) -> bool:
    """Whether `root` has the COCO14 layout."""
    return any(_photo_folder(root, folder) is not None for folder in _SPLITS.values())


def load_coco(
    root: Path, split: str, ids: Sequence[str] | Path | None, saliency: Path | None
) -> Dataset:
    """Read one split of COCO14: photos in train2014/, tags in annotations/instances_train2014.json.

    Photos may also be below JPEGImages/ or images/. The id of an image is the name of its file
    without extension (COCO_train2014_000000000009), so ids of train and val never collide. Labels
    1..C follow the category ids in ascending order: COCO's 80 categories have ids up to 90, with
    gaps, and public 81-class masks number them so. Every annotation tags its image, crowds too.
    Images without an annotation stay, without tags, as in the public lists.

    Args:
        root: the folder that holds train2014 and val2014.
        split: "train" or "val", for the folder of photos, the JSON and the masks.
        ids: the images of that split to use, in this order: numbers (9 or 000000000009), file names
            or paths of images; or a text file with one of these per line. Default: all images of
            the JSON, in the order of their numbers.
        saliency: folder of `<id>.png`; default `root/saliency`, or `root/saliency/train2014`.

    Raises:
        InputError: an unknown split, a JSON file that is missing, truncated, without categories or
            inconsistent, an id that is not in it or belongs to the other split, or a missing image;
            the message names it.
    """
    if split not in _SPLITS:
        raise InputError(
            f"data: {root} has COCO14's layout, whose splits are {' and '.join(_SPLITS)}; "
            f"got split {split!r}"
        )
    folder = _SPLITS[split]
    photos = _photo_folder(root, folder)
    if photos is None:
        raise InputError(f"data: {root} has no folder {folder} for split {split!r}")
    candidates = [root / parent / f"instances_{folder}.json" for parent in _JSON_PARENTS]
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise InputError(f"{candidates[0]}: no such file; image tags are read from it")
    classes, names, tags_by_number = _read_instances(path)
    numbers = sorted(names) if ids is None else _image_numbers(ids, names, path, folder)
    images = {names[n]: photos / f"{names[n]}.jpg" for n in numbers}
    present = {p.name for p in photos.iterdir()}
    missing = [p for p in images.values() if p.name not in present]
    if missing:
        raise InputError(
            f"{missing[0]}: no such image ({len(missing)} of the {len(images)} listed by "
            f"{path if ids is None else 'ids'} are missing)"
        )
    number_of_id = dict(zip(images, numbers, strict=True))
    return Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else f"{split}: {ids if isinstance(ids, Path) else 'ids'}",
        classes=classes,
        ids=tuple(images),
        tags=np.stack([tags_by_number[n] for n in numbers]),
        images=images,
        masks=_find_pngs([root / p for p in _MASK_PARENTS], folder, number_of_id),
        saliencies=_find_pngs([saliency_folder(root, saliency)], folder, number_of_id),
    )


def _photo_folder(root: Path, folder: str) -> Path | None:
    candidates = (root / parent / folder for parent in _PHOTO_PARENTS)
    return next((p for p in candidates if p.is_dir()), None)


def _read_instances(path: Path) -> tuple[tuple[str, ...], dict[int, str], dict[int, np.ndarray]]:
    """Class names, image number -> id, and image number -> tags, uint8 [C]."""
    try:
        content = json.loads(
            read_text(path),
            object_hook=lambda item: {key: item[key] for key in _KEPT_FIELDS if key in item},
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a valid JSON file, perhaps truncated ({error})") from None
    images = _items(path, content, "images", {"id": int, "file_name": str})
    annotations = _items(path, content, "annotations", {"image_id": int, "category_id": int})
    categories = _items(path, content, "categories", {"id": int, "name": str})
    categories.sort(key=lambda category: category["id"])
    classes = check_classes([c["name"] for c in categories], path)
    column = {c["id"]: k for k, c in enumerate(categories)}
    if len(column) != len(categories):
        raise InputError(f"{path}: two categories have the same id")
    names: dict[int, str] = {}
    for image in images:
        name = image["file_name"]
        check_id(Path(name).stem, f"{path}, image {image['id']}")
        if not name.endswith(".jpg") or "/" in name:
            raise InputError(
                f"{path}: image {image['id']} has file name {name!r}; "
                "expected a plain name that ends in .jpg"
            )
        if image["id"] in names:
            raise InputError(f"{path}: image {image['id']} is listed more than once")
        names[image["id"]] = name.removesuffix(".jpg")
    if len(set(names.values())) != len(names):
        raise InputError(f"{path}: two images have the same file name")
    tags = {number: np.zeros(len(classes), np.uint8) for number in names}
    for annotation in annotations:
        number, category = annotation["image_id"], annotation["category_id"]
        if number not in tags or category not in column:
            unknown = f"image {number}" if number not in tags else f"category {category}"
            raise InputError(
                f"{path}: annotation {annotation.get('id')} refers to {unknown}, "
                "which is not in the file"
            )
        tags[number][column[category]] = 1
    return classes, names, tags


def _items(path: Path, content: Any, part: str, keys: dict[str, type]) -> list[dict[str, Any]]:
    """The list `part` of the JSON, after a check that every item has `keys` of these types."""
    items = content.get(part) if isinstance(content, dict) else None
    if not isinstance(items, list) or (not items and part != "annotations"):
        raise InputError(
            f"{path}: has no {part}; expected COCO's instances JSON with images, annotations and "
            "categories"
        )
    for n, item in enumerate(items):
        for key, kind in keys.items():
            if not isinstance(item, dict) or type(item.get(key)) is not kind:
                raise InputError(f"{path}: {part}[{n}] needs {key!r} ({kind.__name__})")
    return items


def _image_numbers(
    ids: Sequence[str] | Path, names: dict[int, str], path: Path, folder: str
) -> list[int]:
    """Image numbers of an id list, after a check that each is in the JSON `path` of `folder`."""

    def number_of(entry: str) -> str:
        match = _NUMBER.fullmatch(entry.removesuffix(".jpg"))
        if match is None:
            raise ValueError(
                f"{entry!r} is not a COCO14 image; expected a number or COCO_{folder}_<12 digits>"
            )
        if match[1] not in (None, folder):
            raise ValueError(f"{entry!r} belongs to {match[1]}, but the split is {folder}'s")
        return str(int(match[2]))

    listed = read_ids(ids, number_of)
    for number, place in zip(listed.ids, listed.places, strict=True):
        if int(number) not in names:
            raise InputError(
                f"{place}: image {number} is not in {path}; does it belong to the other split?"
            )
    return [int(number) for number in listed.ids]


def _find_pngs(parents: Sequence[Path], folder: str, numbers: dict[str, int]) -> dict[str, Path]:
    """PNG of each id in the first folder that exists: `parent/train2014`, or `parent` itself.

    A PNG is named like its image or, as in public mask archives, by the image's number with 12
    digits. The latter counts only in a folder of one split: the number alone does not tell train
    from val.
    """
    candidates = [place for parent in parents for place in (parent / folder, parent)]
    place = next((p for p in candidates if p.is_dir()), None)
    if place is None:
        return {}
    present = {p.name for p in place.iterdir()}
    found = {}
    for id, number in numbers.items():
        names = [f"{id}.png"] if place in parents else [f"{id}.png", f"{number:012d}.png"]
        name = next((n for n in names if n in present), None)
        if name is not None:
            found[id] = place / name
    return found
