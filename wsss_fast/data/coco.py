"""COCO's layout: photos in train2014/ and the like, tags from a JSON, masks as PNGs of 0..C."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.coco_folders import ANNOTATED, MASK_PARENTS, Part, find_part, png_folders
from wsss_fast.data.coco_json import ImageKey, in_order, photos_only, read_coco
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import PngNames, find_pngs, read_ids, truth_folders, unused_pngs
from wsss_fast.data.names import Folders, KnownIds
from wsss_fast.data.saliency_files import find_saliencies
from wsss_fast.data.true_masks import MaskChecks
from wsss_fast.errors import InputError

_NUMBER = re.compile(r"(?:COCO_((?:train|val|test)20[0-9]{2})_)?([0-9]{1,18})")


def load_coco(
    root: Path,
    split: str,
    ids: Sequence[str] | Path | None,
    saliency: Path | None,
    truth: str | Path | None = None,
    score_on: str | None = None,
) -> Dataset:
    """Read one split of a folder with COCO's JSON files.

    COCO14 and COCO17 have photos in train2014/ and tags in annotations/instances_train2014.json. A
    folder of another kind has a JSON file per split: `train/_annotations.coco.json` next to the
    photos, or `annotations/instances_train.json`, `train.json` and the like with photos in train/,
    images/train/, images/, data/ or the folder itself. A single JSON file of any name is "train".

    The id of an image is the name of its file without extension (COCO_train2014_000000000009).
    Labels 1..C follow the category ids in ascending order: COCO's 80 categories have ids up to 90,
    with gaps, and public 81-class masks number them so. Every annotation tags its image, crowds
    too. Images without an annotation stay in "train" and "val", without tags, as in one kind of the
    public lists; "train-annotated" and "val-annotated" are the other kind.

    Args:
        root: the folder.
        split: "train", "val" or another split that has a JSON file, or "train-annotated" and the
            like; "train2017" where the folder has train2014, too.
        ids: the images of that split to use, in this order: numbers (9 or 000000000009), file names
            or paths of images; or a text file with one of these per line. Default: all images of
            the JSON, in the order of their numbers.
        saliency: folder of `<id>.png`; default `root/saliency`, or `root/saliency/train2014`.
        truth: folder of true masks, by name or path: it or its train2014/ holds them; default:
            masks/, mask/, SegmentationClass/ and coco_seg_anno/.
        score_on: "all" (the default), or which of the images are scored: "train-annotated" for
            those of train with an annotation.

    Raises:
        InputError: an unknown split, a JSON file that is missing, truncated, without categories or
            inconsistent, an id that is not in it or belongs to the other split, or a missing image;
            the message names it. Without the JSON file of COCO's own photos they have no tags.
    """
    part = find_part(root, split)
    scoring = part if score_on in (None, "all") else find_part(root, str(score_on), "score_on")
    if part.has_json:
        found = read_coco(part.json, part.folder, annotated=part.annotated)
    else:
        found = photos_only(root, part.photos, part.json)
    names, tags = found.names(), found.tags()
    annotated = {number for number in names if tags[number].any()}
    listed = annotated if split.endswith(ANNOTATED) else names
    numbers = in_order(listed) if ids is None else _image_numbers(ids, names, part)
    if not numbers:
        why = "no image has an annotation" if part.has_json else "no such file"
        raise InputError(f"{part.json}: {why}, so split {split!r} is empty")
    chosen = {names[n]: n for n in numbers}
    number_of = {name: n for n, name in names.items()}
    png_names = _png_names(part.folder, number_of)
    masks, unused = _find_masks(root, truth, part, chosen, number_of, png_names)
    loaded = Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else f"{split}: {ids if isinstance(ids, Path) else 'ids'}",
        classes=found.classes,
        ids=tuple(chosen),
        tags=np.stack([tags[n] for n in numbers]),
        images=_find_photos(
            Folders(*part.photos),
            {names[n]: found.files[n] for n in numbers},
            part.json if ids is None else "ids",
        ),
        masks=masks,
        saliencies=find_saliencies(
            root, saliency, chosen, lambda p: png_folders([p], part), png_names
        ),
        unused_masks=unused,
        mask_checks=MaskChecks(found.category_ids),
        layout="coco",
        tagged=part.annotated,
        untagged=_why_untagged(part),
    )
    if score_on in (None, "all"):
        return loaded
    scored = annotated if str(score_on).endswith(ANNOTATED) else names
    is_part = scoring.json == part.json
    return loaded.score_only(str(score_on), [names[n] for n in scored] if is_part else [])


def _why_untagged(part: Part) -> str:
    if part.annotated:
        return ""
    lacks = "has no annotations" if part.has_json else "does not exist"
    return f"{part.json} {lacks}, and --tags FILE was not given"


def _find_masks(
    root: Path,
    truth: str | Path | None,
    part: Part,
    chosen: Iterable[str],
    all: Iterable[str],
    png_names: PngNames,
) -> tuple[dict[str, Path], str]:
    """The masks of the chosen images, and why no file is used, if that is so."""
    folders = png_folders(truth_folders(root, truth, MASK_PARENTS), part)
    masks = find_pngs(folders, chosen, png_names)
    unused = unused_pngs(folders, all, png_names)
    if masks or unused or truth is not None:
        return masks, unused
    return masks, _masks_elsewhere(root, part, all, png_names)


def _png_names(folder: str, number_of: Mapping[str, ImageKey]) -> PngNames:
    """Function to the names of an image's PNG.

    A PNG is named like its image or, as in public mask archives, by the image's number, with 12
    digits or without zeros. In a folder of several splits a number counts only for COCO's own
    photos, whose names end with it: no two of them have the same one.
    """

    def names(id: str, place: Path) -> list[str]:
        plain, number = [f"{id}.png"], number_of[id]
        if not isinstance(number, int):
            return plain
        padded = f"{number:012d}"
        if place.name != folder and not id.endswith(padded):
            return plain
        others = (name for name in (padded, str(number)) if name not in number_of)
        return [*plain, *(f"{name}.png" for name in others)]

    return names


def _masks_elsewhere(root: Path, part: Part, ids: Iterable[str], png_names: PngNames) -> str:
    """The text of a remark if another folder of `root` has PNGs named after images; else ""."""
    ids = list(ids)
    others = {*part.photos, root / "saliency"}
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and p not in others]
    for folder in folders:
        for place in png_folders([folder], part):
            if not place.is_dir() or place in others:
                continue
            files = Folders(place)
            if any(files.find(name) for id in ids for name in png_names(id, place)):
                return (
                    f"no true masks are read; {place} has PNGs named after images: if they are the "
                    f"masks, --truth {folder.name} reads them"
                )
    return ""


def _find_photos(photos: Folders, files: Mapping[str, str], source: Path | str) -> dict[str, Path]:
    """The photo of each id.

    A folder in a file name that does not exist here is that of another machine, and is not used.

    Raises:
        InputError: photos are missing; with the first one and their number.
    """
    deeper: dict[Path, Folders] = {}
    images, missing = {}, []
    for id, file in files.items():
        parent, name = Path(file).parent, Path(file).name
        if parent not in deeper:
            below = Folders(*(folder / parent for folder in photos.folders))
            deeper[parent] = below if below.folders else photos
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


def _image_numbers(
    ids: Sequence[str] | Path, names: dict[ImageKey, str], part: Part
) -> list[ImageKey]:
    """Image numbers of an id list, after a check that each is in the JSON of `part`."""
    known = KnownIds(names.values())
    number_of = {name: number for number, name in names.items()}

    def find(entry: str) -> str | None:
        by_name, match = known.find(entry), _NUMBER.fullmatch(entry)
        is_own = match is not None and match[1] in (None, part.folder)
        by_number = names.get(int(match[2])) if match is not None and is_own else None
        if by_name is not None and by_number is not None and by_name != by_number:
            raise ValueError(
                f"{entry!r} is the file name of image {number_of[by_name]}, and the number of "
                f"{by_number!r}; list file names only"
            )
        return by_name if by_name is not None else by_number

    def missing(entry: str) -> str:
        match = _NUMBER.fullmatch(entry)
        if match is None:
            example = f"COCO_{part.folder}_<12 digits>, " if part.folder.endswith("2014") else ""
            return (
                f"{entry!r} is not an image of {part.json}; expected a number, {example}"
                "or a file name in it"
            )
        if match[1] not in (None, part.folder):
            return f"{entry!r} belongs to {match[1]}, but the split is {part.folder or part.name}'s"
        return f"image {int(match[2])} is not in {part.json}; does it belong to the other split?"

    listed = read_ids(ids, known, missing, find)
    return [number_of[id] for id in listed.ids]
