"""The COCO14 layout: train2014 and val2014 photos, image tags from the instances json, masks as PNGs of 0..80."""

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
# Polygons are nearly all of a file of hundreds of megabytes; what stays of an object are these.
_KEPT = (
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
    """Read one split of COCO14: `train2014/*.jpg` (or below JPEGImages/, images/) and `annotations/instances_train2014.json`.

    An image's id is its file's name without extension (COCO_train2014_000000000009), so that files made of train and val
    images never meet. Labels 1..C follow the category ids in ascending order: COCO's 80 categories have ids up to 90 with
    gaps, and public 81-class masks number them so. Every annotation tags its image, crowds too. Images without annotation
    stay, without tags, as in the public lists.

    Args:
        root: the folder that holds train2014 and val2014.
        split: "train" or "val": which folder, json and masks.
        ids: the images of that split to use, in this order: numbers (9 or 000000000009), file names or paths of images; or a
            text file with one a line. By default all images of the json, in the order of their numbers.
        saliency: folder of `<id>.png`; default `root/saliency`, or `root/saliency/train2014`.

    Raises:
        InputError: an unknown split, a json that is missing, truncated, without categories or at odds with itself, an id that
            is not in it or of the other split, a missing image; with the name.
    """
    if split not in _SPLITS:
        raise InputError(
            f"data: {root} has COCO14's layout, whose splits are {' and '.join(_SPLITS)}; got split {split!r}"
        )
    folder = _SPLITS[split]
    photos = _photo_folder(root, folder)
    if photos is None:
        raise InputError(f"data: {root} has no folder {folder} for split {split!r}")
    path = next(
        (
            p
            for p in (root / parent / f"instances_{folder}.json" for parent in _JSON_PARENTS)
            if p.is_file()
        ),
        None,
    )
    if path is None:
        raise InputError(
            f"{root / 'annotations' / f'instances_{folder}.json'}: no such file; image tags are read from it"
        )
    classes, names, tags_by_number = _read_instances(path)
    numbers = sorted(names) if ids is None else _listed(ids, names, path, folder)
    images = {names[n]: photos / f"{names[n]}.jpg" for n in numbers}
    present = {p.name for p in photos.iterdir()}
    missing = [p for p in images.values() if p.name not in present]
    if missing:
        raise InputError(
            f"{missing[0]}: no such image ({len(missing)} of the {len(images)} listed by "
            f"{path if ids is None else 'ids'} are missing)"
        )
    tags = np.stack([tags_by_number[n] for n in numbers])
    return Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else f"{split}: {ids if isinstance(ids, Path) else 'ids'}",
        classes=classes,
        ids=tuple(images),
        tags=tags,
        images=images,
        masks=_pngs(
            [root / p for p in _MASK_PARENTS], folder, dict(zip(images, numbers, strict=True))
        ),
        saliencies=_pngs(
            [saliency_folder(root, saliency)], folder, dict(zip(images, numbers, strict=True))
        ),
    )


def _photo_folder(root: Path, folder: str) -> Path | None:
    return next(
        (p for p in (root / parent / folder for parent in _PHOTO_PARENTS) if p.is_dir()), None
    )


def _read_instances(path: Path) -> tuple[tuple[str, ...], dict[int, str], dict[int, np.ndarray]]:
    """Class names, image number -> id, and image number -> tags, uint8 [C]."""
    try:
        content = json.loads(
            read_text(path),
            object_hook=lambda item: {key: item[key] for key in _KEPT if key in item},
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole JSON file, perhaps truncated ({error})") from None
    images, annotations, categories = (
        _items(path, content, part, keys)
        for part, keys in (
            ("images", {"id": int, "file_name": str}),
            ("annotations", {"image_id": int, "category_id": int}),
            ("categories", {"id": int, "name": str}),
        )
    )
    categories.sort(key=lambda category: category["id"])
    classes = check_classes([c["name"] for c in categories], path)
    place = {c["id"]: k for k, c in enumerate(categories)}
    if len(place) != len(categories):
        raise InputError(f"{path}: two categories have the same id")
    names: dict[int, str] = {}
    for image in images:
        name = image["file_name"]
        check_id(Path(name).stem, f"{path}, image {image['id']}")
        if not name.endswith(".jpg") or "/" in name:
            raise InputError(
                f"{path}: image {image['id']} has file name {name!r}; expected a plain name that ends in .jpg"
            )
        if image["id"] in names:
            raise InputError(f"{path}: image {image['id']} stands there more than once")
        names[image["id"]] = name.removesuffix(".jpg")
    if len(set(names.values())) != len(names):
        raise InputError(f"{path}: two images have the same file name")
    tags = {number: np.zeros(len(classes), np.uint8) for number in names}
    for annotation in annotations:
        number, category = annotation["image_id"], annotation["category_id"]
        if number not in tags or category not in place:
            unknown = f"image {number}" if number not in tags else f"category {category}"
            raise InputError(
                f"{path}: annotation {annotation.get('id')} names {unknown}, which is not in the file"
            )
        tags[number][place[category]] = 1
    return classes, names, tags


def _items(path: Path, content: Any, part: str, keys: dict[str, type]) -> list[dict[str, Any]]:
    """The list called `part`, every item of which has `keys` of these types."""
    items = content.get(part) if isinstance(content, dict) else None
    if not isinstance(items, list) or (not items and part != "annotations"):
        raise InputError(
            f"{path}: has no {part}; expected COCO's instances json with images, annotations and categories"
        )
    for n, item in enumerate(items):
        for key, kind in keys.items():
            if not isinstance(item, dict) or type(item.get(key)) is not kind:
                raise InputError(f"{path}: {part}[{n}] needs {key!r} ({kind.__name__})")
    return items


def _listed(ids: Sequence[str] | Path, names: dict[int, str], path: Path, folder: str) -> list[int]:
    """Image numbers of an id list, each of them in the json `path` of `folder`."""

    def number_of(entry: str) -> str:
        match = _NUMBER.fullmatch(entry.removesuffix(".jpg"))
        if match is None:
            raise ValueError(
                f"{entry!r} is no COCO14 image; expected its number or COCO_{folder}_<12 digits>"
            )
        if match[1] not in (None, folder):
            raise ValueError(f"{entry!r} is of {match[1]}, but the split asked for is {folder}'s")
        return str(int(match[2]))

    listed = read_ids(ids, number_of)
    for number, place in zip(listed.ids, listed.places, strict=True):
        if int(number) not in names:
            raise InputError(f"{place}: image {number} is not in {path}; is it of the other split?")
    return [int(number) for number in listed.ids]


def _pngs(parents: Sequence[Path], folder: str, numbers: dict[str, int]) -> dict[str, Path]:
    """PNG of each id in the first folder that is there: `parent/train2014`, or `parent` itself.

    A PNG is called as its image, or by the image's number with 12 digits as in public mask archives; the latter only in a
    folder of one split, since train and val are told apart by it.
    """
    for parent in parents:
        for place in (parent / folder, parent):
            if place.is_dir():
                present = {p.name for p in place.iterdir()}
                found = {}
                for id, number in numbers.items():
                    names = (
                        (f"{id}.png", f"{number:012d}.png") if place != parent else (f"{id}.png",)
                    )
                    name = next((n for n in names if n in present), None)
                    if name is not None:
                        found[id] = place / name
                return found
    return {}
