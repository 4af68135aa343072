"""Where a folder has COCO's JSON files, photos and masks, whatever program wrote it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from wsss_fast.data.names import is_image
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

ANNOTATED = "-annotated"  # at the end of a split's name: the images with an annotation
MASK_PARENTS = ("masks", "mask", "SegmentationClass", "coco_seg_anno")

_OFFICIAL = re.compile(r"(train|val|test)(2014|2015|2017)")
_PHOTO_PARENTS = ("", "JPEGImages", "images", "data", "photos")
_JSON_PARENTS = ("annotations", "")
_ROBOFLOW = "_annotations.coco.json"
_UNTAGGED = "image_info_"  # COCO's lists of test images, which have no annotations
# JSON files of COCO that are no instances.
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_")
_SAME_SPLIT = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_SPLIT_WORDS = ("train", "val", "test")
_TOP_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_ITEM_KEYS = re.compile(rb'"(file_name|image_id|category_id|bbox|segmentation|iscrowd)"\s*:')
_MOST_FILES = 200
_LOOKED_AT = 1 << 17  # bytes at the beginning and at the end of a file


@dataclasses.dataclass(frozen=True)
class Part:
    """One JSON file and the folders of its photos.

    Attributes:
        name: of the split, without `ANNOTATED`.
        json: the file; where it is expected, if `has_json` is false.
        photos: folders that may hold its photos, the best first.
        folder: name of the folder of its photos and masks, such as train2014; "" for none.
        annotated: whether the file has annotations.
        has_json: whether there is the file.
    """

    name: str
    json: Path
    photos: tuple[Path, ...]
    folder: str
    annotated: bool = True
    has_json: bool = True


def is_coco(root: Path) -> bool:
    """Whether `root` has COCO's layout: train2014/ and the like, or an instances JSON."""
    if _official_folders(root):
        return True
    if any((root / folder).is_dir() for folder in ("Annotations", "ImageSets")):  # VOC's
        return False
    return bool(_json_files(root))


def is_coco14(root: Path) -> bool:
    """Whether `root` has the photos of COCO14."""
    return any(name.endswith("2014") for name in _official_folders(root))


def has_split(root: Path, split: str) -> bool:
    """Whether `root` has the photos and the JSON file of a split of COCO14."""
    folder = f"{split.removesuffix(ANNOTATED)}2014"
    return bool(_photo_folders(root, [folder])) and _official_json(root, folder) is not None


def find_part(root: Path, split: str, option: str = "split") -> Part:
    """The part of `root` that a split names.

    Args:
        root: a folder for which `is_coco` is true.
        split: name of a split, also with `ANNOTATED`.
        option: name of the argument, for messages.

    Raises:
        InputError: there is no such split, or several; with those that there are.
    """
    name = split.removesuffix(ANNOTATED)
    there = _official_folders(root)
    wanted = [name] if _OFFICIAL.fullmatch(name) else [name + year for year in ("2014", "2017")]
    present = [folder for folder in wanted if folder in there]
    if present:
        if len(present) > 1:
            text = f"split {name!r} is read as {present[0]}; {present[1]} names the other one"
            remarks.add(text, root, unit="folder")
        return _official_part(root, name, present[0])
    files = {path: _split_of(path, root) for path in _json_files(root)}
    found = _matching(files, name)
    if not found:
        raise InputError(_unknown(root, option, split, [*there], [*files.values()]))
    if len(found) > 1:
        names = " and ".join(str(path.relative_to(root)) for path in found)
        stems = {files[path] for path in found}
        cure = f"use {' or '.join(sorted(stems))}" if len(stems) > 1 else "rename all but one"
        raise InputError(f"data: {root}: {option} {split!r} may mean {names}; {cure}")
    return _other_part(root, name, found[0], files[found[0]])


def _official_part(root: Path, name: str, folder: str) -> Part:
    path, photos = _official_json(root, folder), tuple(_photo_folders(root, [folder]))
    if path is None:
        expected = root / _JSON_PARENTS[0] / f"instances_{folder}.json"
        return Part(name, expected, photos, folder, annotated=False, has_json=False)
    return Part(name, path, photos, folder, not path.name.startswith(_UNTAGGED))


def _other_part(root: Path, name: str, path: Path, stem: str) -> Part:
    """A part whose photos may be in many places."""
    if path.name == _ROBOFLOW:
        folder = "" if path.parent == root else path.parent.name
        return Part(name, path, (path.parent,), folder)
    names = list(
        dict.fromkeys([stem, name, *(w for w, same in _SAME_SPLIT.items() if same == name)])
    )
    photos = [*_photo_folders(root, names), *_photo_folders(root, [""]), path.parent]
    folder = next((n for n in names if _photo_folders(root, [n])), "")
    if _OFFICIAL.fullmatch(stem) and not folder and not any(map(_has_images, photos)):
        raise InputError(f"data: {root} has no folder {stem} for split {name!r}")
    photos += _photo_folders(root, _official_folders(root))  # such as those of minival2014
    is_annotated = not path.name.startswith(_UNTAGGED)
    return Part(name, path, tuple(dict.fromkeys(photos)), folder, is_annotated)


def _has_images(folder: Path) -> bool:
    return any(is_image(path.name) for path in folder.iterdir())


def _official_folders(root: Path) -> list[str]:
    """Names of the folders of photos that are COCO's own."""
    names = [f"{part}{year}" for year in ("2014", "2017") for part in ("train", "val", "test")]
    return [name for name in names if _photo_folders(root, [name])]


def _official_json(root: Path, folder: str) -> Path | None:
    kinds = ("instances_", _UNTAGGED) if folder.startswith("test") else ("instances_",)
    files = (root / parent / f"{kind}{folder}.json" for kind in kinds for parent in _JSON_PARENTS)
    return next((path for path in files if path.is_file()), None)


def _photo_folders(root: Path, names: Sequence[str]) -> list[Path]:
    """Folders of these names that exist; the name "" for the parents themselves."""
    candidates = (root / parent / name for name in names for parent in _PHOTO_PARENTS)
    return [path for path in candidates if path.is_dir()]


def _json_files(root: Path) -> list[Path]:
    """The JSON files of `root` that may be COCO's, without those of other tasks."""
    found = [
        path for path in (root / _ROBOFLOW, *sorted(root.glob(f"*/{_ROBOFLOW}"))) if path.is_file()
    ]
    for parent in _JSON_PARENTS:
        files = sorted((root / parent).glob("*.json"))
        if len(files) > _MOST_FILES:  # one per image
            files = [path for path in files if path.name.startswith(("instances_", _UNTAGGED))]
        found += [p for p in files if p not in found and p.is_file() and _looks_like_coco(p)]
    of_task = [path for path in found if not path.name.startswith(_OTHER_TASKS)]
    return of_task or found


def _looks_like_coco(path: Path) -> bool:
    """Whether the beginning or the end of a file has names that COCO's JSON has."""
    if path.name.startswith("."):
        return False
    if path.name.startswith(("instances_", _UNTAGGED)):
        return True
    try:
        with path.open("rb") as file:
            text = file.read(_LOOKED_AT)
            file.seek(max(file.tell(), file.seek(0, 2) - _LOOKED_AT))
            text += file.read()
    except OSError:
        return False
    top = set(_TOP_KEYS.findall(text))
    return bool(top) and len(top | set(_ITEM_KEYS.findall(text))) >= 3


def _split_of(path: Path, root: Path) -> str:
    """The name of the split that a JSON file stands for."""
    if path.name == _ROBOFLOW:
        return "train" if path.parent == root else path.parent.name
    return path.stem.removeprefix("instances_").removeprefix(_UNTAGGED)


def _words(name: str) -> set[str]:
    """The words of a name, without years: "voc_Train2017" -> voc, train."""
    words = (re.sub(r"[0-9]+$", "", word) for word in re.split(r"[^A-Za-z0-9]+", name.lower()))
    return {_SAME_SPLIT.get(word, word) for word in words}


def _matching(files: dict[Path, str], name: str) -> list[Path]:
    """The files that a split may mean: of its name, else with this word in their name."""
    exact = [path for path, stem in files.items() if stem == name]
    if exact:
        return exact
    wanted = _SAME_SPLIT.get(name, name)
    found = [path for path, stem in files.items() if wanted in _words(stem)]
    if found or len(files) != 1:
        return found
    # A single file of another name holds all images, which are then the training images.
    (stem,) = files.values()
    return [*files] if name == "train" and not _words(stem) & set(_SPLIT_WORDS) else []


def _unknown(
    root: Path, option: str, split: str, folders: Sequence[str], stems: Sequence[str]
) -> str:
    """The text of the error for a split that is not there."""
    year = next((name[-4:] for name in folders), "")
    names = [name[:-4] for name in folders if name.endswith(year)]
    names += [stem for stem in stems if stem not in folders]
    names += [name + ANNOTATED for name in names]
    title = f"COCO{year[-2:]}'s" if year else "COCO's"
    return (
        f"data: {root} has {title} layout, whose splits are {', '.join(dict.fromkeys(names))}; "
        f"got {option} {split!r}"
    )


def png_folders(parents: Sequence[Path], part: Part) -> list[Path]:
    """Folders of PNGs: `parent/train2014`, and `parent` itself."""
    names = [part.folder, ""] if part.folder else [""]
    return list(dict.fromkeys(parent / name for parent in parents for name in names))
