"""COCO's instances JSON: images, categories and annotations, checked."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.class_names import check_classes, class_list, is_background, read_classes
from wsss_fast.data.lists import COCO_CLASSES
from wsss_fast.data.names import check_id, is_image
from wsss_fast.data.text import read_text, unprintable
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

ImageKey = int | str  # some programs write names instead of numbers

_OFFICIAL = re.compile(r"(?:COCO_[a-z]+20[0-9]{2}_)?([0-9]{12})")  # names of COCO's photos
# The fields of JSON objects that are kept: most of a file of hundreds of megabytes is polygons.
_KEPT_FIELDS = frozenset(
    ["id", "file_name", "image_id", "category_id", "name", "supercategory"]
    + ["images", "annotations", "categories"]
)
_OUTLINE_FIELDS = frozenset(
    ["height", "width", "segmentation", "area", "iscrowd", "size", "counts"]
)


@dataclasses.dataclass(frozen=True)
class CocoJson:
    """What an instances JSON holds.

    Attributes:
        path: the file.
        classes: class names; class c has label c + 1.
        category_ids: category id of each class, ascending.
        images: the images as in the file, by their `id`.
        files: file of each image below the folder of photos; its stem is the image's id elsewhere.
        annotations: those of a class, as in the file.
    """

    path: Path
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: dict[ImageKey, dict[str, Any]]
    files: dict[ImageKey, str]
    annotations: list[dict[str, Any]]

    def names(self) -> dict[ImageKey, str]:
        """The name of each image's file without folder and extension."""
        return {number: Path(file).stem for number, file in self.files.items()}

    def tags(self) -> dict[ImageKey, np.ndarray]:
        """Tags of each image, uint8 [C]: the classes of its annotations, crowds too."""
        column = {category: k for k, category in enumerate(self.category_ids)}
        tags = {number: np.zeros(len(self.classes), np.uint8) for number in self.files}
        for annotation in self.annotations:
            tags[annotation["image_id"]][column[annotation["category_id"]]] = 1
        return tags


def read_coco(
    path: Path, folder: str = "", *, outlines: bool = False, annotated: bool = True
) -> CocoJson:
    """Read an instances JSON.

    Labels 1..C follow the category ids in ascending order. A category of the lowest id that means
    the background, or is only the super-category of others, is not counted, with a remark.

    Args:
        path: the file.
        folder: name of the folder of photos, with which file names may begin.
        outlines: keep the sizes of the images and the outlines of the annotations.
        annotated: whether the file has annotations; lists of test images have none.

    Raises:
        InputError: not such a file, or it is truncated or inconsistent; with the item.
    """
    kept = _KEPT_FIELDS | _OUTLINE_FIELDS if outlines else _KEPT_FIELDS
    text = read_text(path)
    try:
        content = json.loads(
            text,
            object_hook=lambda item: {key: item[key] for key in item if key in kept},
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a valid JSON file, perhaps truncated ({error})") from None
    images = _items(path, content, "images", {"id": (int, str), "file_name": (str,)})
    annotations = []
    if annotated:
        keys: dict[str, tuple[type, ...]] = {"image_id": (int, str), "category_id": (int,)}
        annotations = _items(path, content, "annotations", keys)
    categories = _items(path, content, "categories", {"id": (int,), "name": (str,)})
    known = {c["id"] for c in categories}
    if len(known) != len(categories):
        raise InputError(f"{path}: two categories have the same id")
    files = _files(images, path, folder)
    for annotation in annotations:
        _check_references(annotation, files, known, path)
    categories = _without_background(categories, {a["category_id"] for a in annotations}, path)
    places = [f"{path}, category {c['id']}" for c in categories]
    classes = check_classes([c["name"] for c in categories], path, places)
    ids = tuple(c["id"] for c in categories)
    of_classes = frozenset(ids)
    return CocoJson(
        path,
        classes,
        ids,
        {image["id"]: image for image in images},
        files,
        [a for a in annotations if a["category_id"] in of_classes],
    )


def photos_only(root: Path, folders: Sequence[Path], path: Path) -> CocoJson:
    """What there is to know without a JSON: the photos; COCO's classes, if they are its photos.

    Args:
        root: folder of the data set, whose classes.txt names other classes.
        folders: those of the photos.
        path: where the JSON is expected.

    Raises:
        InputError: there is no photo, the classes are unknown, or two photos have the same name.
    """
    names = {p.name for folder in folders for p in folder.iterdir() if is_image(p.name)}
    names = {name for name in names if not name.startswith(".")}
    if not names:
        raise InputError(f"{path}: no such file, and {folders[0]} has no images")
    fixed = class_list(root)
    matches = {name: _OFFICIAL.fullmatch(Path(name).stem) for name in names}
    if fixed is None and not all(matches.values()):
        raise InputError(
            f"{path}: no such file; image tags and names of the classes are read from it (a "
            f"classes.txt in {root} names them, too)"
        )
    images: list[dict[str, Any]] = [
        {"id": int(match[1]) if match else name, "file_name": name}
        for name, match in sorted(matches.items())
    ]
    classes = COCO_CLASSES if fixed is None else read_classes(fixed)
    of = {image["id"]: image for image in images}
    return CocoJson(path, classes, (), of, _files(images, folders[0], ""), [])


def _check_references(
    annotation: dict[str, Any], files: dict[ImageKey, str], known: set[int], path: Path
) -> None:
    """Reject an annotation of an image or a category that the file does not have."""
    number, category = annotation["image_id"], annotation["category_id"]
    if number in files and category in known:
        return
    unknown = f"category {category}" if number in files else f"image {number!r}"
    raise InputError(
        f"{path}: annotation {annotation.get('id')} refers to {unknown}, which is not in the file"
    )


def _without_background(
    categories: list[dict[str, Any]], used: set[int], path: Path
) -> list[dict[str, Any]]:
    """Categories in the order of their ids, without a first one that is not a class.

    That is the background, or the super-category of others that some programs write with id 0.
    """
    categories = sorted(categories, key=lambda category: category["id"])
    first, rest = categories[0], categories[1:]
    above = [c.get("supercategory") for c in rest]
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


def _files(images: list[dict[str, Any]], path: Path, folder: str) -> dict[ImageKey, str]:
    """Image number -> its file below the folder of photos.

    Raises:
        InputError: a file name is no image below that folder, or an image is listed twice.
    """
    files: dict[ImageKey, str] = {}
    number_of: dict[str, ImageKey] = {}
    for image in images:
        number, name = image["id"], image["file_name"]
        plain = name.replace("\\", "/").removeprefix("./")
        plain = plain.removeprefix(f"{folder}/") if folder else plain
        is_outside = plain.startswith("/") or ".." in Path(plain).parts
        if not is_image(plain) or is_outside or unprintable(plain):
            where = f"in {folder}" if folder else "below the folder of photos"
            raise InputError(
                f"{path}: image {number} has file name {name!r}; expected the name of an image "
                f"{where}, such as 000001.jpg"
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


def _items(
    path: Path, content: Any, part: str, keys: dict[str, tuple[type, ...]]
) -> list[dict[str, Any]]:
    """The list `part` of the JSON, after a check that every item has `keys` of these types."""
    items = content.get(part) if isinstance(content, dict) else None
    if not isinstance(items, list) or (not items and part != "annotations"):
        raise InputError(
            f"{path}: has no {part}; expected COCO's instances JSON with images, annotations and "
            "categories"
        )
    for n, item in enumerate(items):
        for key, kinds in keys.items():
            value = item.get(key) if isinstance(item, dict) else None
            if type(value) not in kinds:
                got = "" if value is None else f", got {value!r}"
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise InputError(f"{path}: {part}[{n}] needs {key!r} ({wanted}){got}")
    return items


def by_image(annotations: list[dict[str, Any]]) -> dict[ImageKey, list[dict[str, Any]]]:
    """Annotations of each image that has any, in the order of the file."""
    found: dict[ImageKey, list[dict[str, Any]]] = {}
    for annotation in annotations:
        found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def in_order(numbers: Iterable[ImageKey]) -> list[ImageKey]:
    """Image ids in ascending order, numbers before names."""
    return sorted(numbers, key=lambda n: (isinstance(n, str), n))
