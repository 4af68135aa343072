"""The COCO14 layout: photos in train2014/ and val2014/, tags from JSON, masks as PNGs of 0..80."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.class_names import check_classes, is_background
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import (
    PngNames,
    find_pngs,
    read_ids,
    saliency_folder,
    truth_folders,
    unused_pngs,
)
from wsss_fast.data.names import Folders, KnownIds, check_id, is_image
from wsss_fast.data.text import read_text
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

_SPLITS = {"train": "train2014", "val": "val2014"}
_ANNOTATED = "-annotated"  # at the end of a split's name: the images with an annotation
_LISTS = (*_SPLITS, *(split + _ANNOTATED for split in _SPLITS))
_PHOTO_PARENTS = ("", "JPEGImages", "images")
_JSON_PARENTS = ("annotations", "")
_MASK_PARENTS = ("masks", "SegmentationClass")
_NUMBER = re.compile(r"(?:COCO_(train2014|val2014)_)?([0-9]{1,18})")
# The fields of JSON objects that are kept: most of a file of hundreds of megabytes is polygons.
_KEPT_FIELDS = (
    "id",
    "file_name",
    "image_id",
    "category_id",
    "name",
    "supercategory",
    "images",
    "annotations",
    "categories",
)


def is_coco(root: Path) -> bool:
    """Whether `root` has the COCO14 layout."""
    return any(_photo_folders(root, folder) for folder in _SPLITS.values())


def has_split(root: Path, split: str) -> bool:
    """Whether `root` has the photos and the JSON file of a split."""
    folder = _SPLITS[split.removesuffix(_ANNOTATED)]
    return bool(_photo_folders(root, folder)) and any(p.is_file() for p in _json(root, folder))


def _json(root: Path, folder: str) -> list[Path]:
    """Where the JSON file of a split may be."""
    return [root / parent / f"instances_{folder}.json" for parent in _JSON_PARENTS]


def load_coco(
    root: Path,
    split: str,
    ids: Sequence[str] | Path | None,
    saliency: Path | None,
    truth: str | Path | None = None,
    score_on: str | None = None,
) -> Dataset:
    """Read one split of COCO14: photos in train2014/, tags in annotations/instances_train2014.json.

    Photos may also be below JPEGImages/ or images/. The id of an image is the name of its file
    without extension (COCO_train2014_000000000009), so ids of train and val never collide. Labels
    1..C follow the category ids in ascending order: COCO's 80 categories have ids up to 90, with
    gaps, and public 81-class masks number them so. A category of the lowest id that means the
    background, or is only the super-category of others, is not counted, with a remark. Every
    annotation tags its image, crowds too. Images without an annotation stay in "train" and "val",
    without tags, as in one kind of the public lists; "train-annotated" and "val-annotated" are the
    other kind.

    Args:
        root: the folder that holds train2014 and val2014.
        split: "train", "val", "train-annotated" or "val-annotated".
        ids: the images of that split to use, in this order: numbers (9 or 000000000009), file names
            or paths of images; or a text file with one of these per line. Default: all images of
            the JSON, in the order of their numbers.
        saliency: folder of `<id>.png`; default `root/saliency`, or `root/saliency/train2014`.
        truth: folder of true masks, by name or path: it or its train2014/ holds them; default:
            masks/ and SegmentationClass/.
        score_on: "all" (the default), or which of the images are scored: "train-annotated" for
            those of train with an annotation.

    Raises:
        InputError: an unknown split, a JSON file that is missing, truncated, without categories or
            inconsistent, an id that is not in it or belongs to the other split, or a missing image;
            the message names it.
    """
    for option, name in (("split", split), ("score_on", score_on)):
        if name not in _LISTS and (option == "split" or name not in (None, "all")):
            raise InputError(
                f"data: {root} has COCO14's layout, whose splits are {', '.join(_LISTS)}; got "
                f"{option} {name!r}"
            )
    part = split.removesuffix(_ANNOTATED)
    folder = _SPLITS[part]
    photos = Folders(*_photo_folders(root, folder))
    if not photos.folders:
        raise InputError(f"data: {root} has no folder {folder} for split {split!r}")
    candidates = _json(root, folder)
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        raise InputError(f"{candidates[0]}: no such file; image tags are read from it")
    classes, files, tags_by_number = _read_instances(path, folder)
    names = {number: Path(file).stem for number, file in files.items()}
    annotated = {number for number in names if tags_by_number[number].any()}
    listed = annotated if split.endswith(_ANNOTATED) else names
    numbers = sorted(listed) if ids is None else _image_numbers(ids, names, path, folder)
    source = path if ids is None else "ids"
    chosen = {names[n]: n for n in numbers}
    number_of = {name: n for n, name in names.items()}
    png_names = _png_names(folder, number_of)
    masks = _places(truth_folders(root, truth, _MASK_PARENTS), folder)
    saliencies = _places([saliency_folder(root, saliency)], folder)
    loaded = Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else f"{split}: {ids if isinstance(ids, Path) else 'ids'}",
        classes=classes,
        ids=tuple(chosen),
        tags=np.stack([tags_by_number[n] for n in numbers]),
        images=_find_photos(photos, {names[n]: files[n] for n in numbers}, source),
        masks=find_pngs(masks, chosen, png_names),
        saliencies=find_pngs(saliencies, chosen, png_names),
        unused_masks=unused_pngs(masks, number_of, png_names),
        layout="coco",
    )
    if score_on in (None, "all"):
        return loaded
    is_part = score_on.startswith(part)
    scored = annotated if score_on.endswith(_ANNOTATED) else names
    return loaded.score_only(score_on, [names[n] for n in scored] if is_part else [])


def _places(parents: Sequence[Path], folder: str) -> list[Path]:
    """Folders of PNGs: `parent/train2014`, and `parent` itself."""
    return [place for parent in parents for place in (parent / folder, parent)]


def _png_names(folder: str, number_of: Mapping[str, int]) -> PngNames:
    """Function to the names of an image's PNG.

    A PNG is named like its image or, as in public mask archives, by the image's number with 12
    digits. The latter counts only in a folder of one split: the number alone does not tell train
    from val.
    """

    def names(id: str, place: Path) -> list[str]:
        plain = [f"{id}.png"]
        return [*plain, f"{number_of[id]:012d}.png"] if place.name == folder else plain

    return names


def _photo_folders(root: Path, folder: str) -> list[Path]:
    candidates = (root / parent / folder for parent in _PHOTO_PARENTS)
    return [p for p in candidates if p.is_dir()]


def _find_photos(photos: Folders, files: Mapping[str, str], source: Path | str) -> dict[str, Path]:
    """The photo of each id.

    Raises:
        InputError: photos are missing; with the first one and their number.
    """
    deeper: dict[Path, Folders] = {}
    images, missing = {}, []
    for id, file in files.items():
        parent, name = Path(file).parent, Path(file).name
        where = photos
        if parent != Path():
            if parent not in deeper:
                deeper[parent] = Folders(*(folder / parent for folder in photos.folders))
            where = deeper[parent]
        found = where.find(name)
        if found is not None:
            images[id] = found
        else:
            missing.append((file, where.near(name)))
    if missing:
        file, near = missing[0]
        raise InputError(
            f"{photos.folders[0] / file}: no such image ({len(missing)} of the {len(files)} listed "
            f"by {source} are missing){near}"
        )
    return images


def _read_instances(
    path: Path, folder: str
) -> tuple[tuple[str, ...], dict[int, str], dict[int, np.ndarray]]:
    """Class names, image number -> file below `folder`, and image number -> tags, uint8 [C]."""
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
    known = {c["id"] for c in categories}
    if len(known) != len(categories):
        raise InputError(f"{path}: two categories have the same id")
    categories = _without_background(categories, {a["category_id"] for a in annotations}, path)
    places = [f"{path}, category {c['id']}" for c in categories]
    classes = check_classes([c["name"] for c in categories], path, places)
    column = {c["id"]: k for k, c in enumerate(categories)}
    files = _files(images, path, folder)
    tags = {number: np.zeros(len(classes), np.uint8) for number in files}
    for annotation in annotations:
        number, category = annotation["image_id"], annotation["category_id"]
        if number not in tags or category not in known:
            unknown = f"image {number}" if number not in tags else f"category {category}"
            raise InputError(
                f"{path}: annotation {annotation.get('id')} refers to {unknown}, "
                "which is not in the file"
            )
        if category in column:
            tags[number][column[category]] = 1
    return classes, files, tags


def _without_background(
    categories: list[dict[str, Any]], used: set[int], path: Path
) -> list[dict[str, Any]]:
    """Categories in the order of their ids, without a first one that is not a class.

    That is the background, or the super-category of others that some programs write with id 0.
    """
    categories = sorted(categories, key=lambda category: category["id"])
    first, rest = categories[0], categories[1:]
    above = {c.get("supercategory") for c in rest}
    if rest and is_background(first["name"]):
        why = "since label 0 is background"
    elif rest and first["id"] == 0 and first["id"] not in used and first["name"] in above:
        why = "since it is only the super-category of others"
    else:
        return categories
    remarks.add(
        f"category {first['id']}, {first['name']!r}, is not counted as a class, {why}; "
        f"label 1 is {rest[0]['name']!r}",
        path,
    )
    return rest


def _files(images: list[dict[str, Any]], path: Path, folder: str) -> dict[int, str]:
    """Image number -> its file below the folder of photos.

    Raises:
        InputError: a file name is no image below that folder, or an image is listed twice.
    """
    files: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for image in images:
        number, name = image["id"], image["file_name"]
        plain = name.replace("\\", "/").removeprefix("./").removeprefix(f"{folder}/")
        if not is_image(plain) or plain.startswith("/") or ".." in Path(plain).parts:
            raise InputError(
                f"{path}: image {number} has file name {name!r}; expected the name of an image "
                f"in {folder}, such as 000001.jpg"
            )
        id = Path(plain).stem
        check_id(id, f"{path}, image {number}")
        if number in files:
            raise InputError(f"{path}: image {number} is listed more than once")
        if id in number_of:
            raise InputError(
                f"{path}: two images have the same file name: {number_of[id]} and {number} are "
                f"both {id!r}"
            )
        files[number], number_of[id] = plain, number
    return files


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
            value = item.get(key) if isinstance(item, dict) else None
            if type(value) is not kind:
                got = "" if value is None else f", got {value!r}"
                raise InputError(f"{path}: {part}[{n}] needs {key!r} ({kind.__name__}){got}")
    return items


def _image_numbers(
    ids: Sequence[str] | Path, names: dict[int, str], path: Path, folder: str
) -> list[int]:
    """Image numbers of an id list, after a check that each is in the JSON `path` of `folder`."""
    known = KnownIds(names.values())
    number_of = {name: number for number, name in names.items()}

    def find(entry: str) -> str | None:
        by_name, match = known.find(entry), _NUMBER.fullmatch(entry)
        by_number = names.get(int(match[2])) if match and match[1] in (None, folder) else None
        if by_name is not None and by_number is not None and by_name != by_number:
            raise ValueError(
                f"{entry!r} is the file name of image {number_of[by_name]}, and the number of "
                f"{by_number!r}; list file names only"
            )
        return by_name if by_name is not None else by_number

    def missing(entry: str) -> str:
        match = _NUMBER.fullmatch(entry)
        if match is None:
            return (
                f"{entry!r} is not a COCO14 image; expected a number, COCO_{folder}_<12 digits>, "
                f"or a file name in {path}"
            )
        if match[1] not in (None, folder):
            return f"{entry!r} belongs to {match[1]}, but the split is {folder}'s"
        return f"image {int(match[2])} is not in {path}; does it belong to the other split?"

    listed = read_ids(ids, known, missing, find)
    return [number_of[id] for id in listed.ids]
