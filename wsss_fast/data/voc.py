"""The VOC12 layout: JPEGImages, Annotations (image tags), SegmentationClass[Aug] (evaluation), ImageSets, saliency."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import existing, read_classes, read_ids, saliency_folder
from wsss_fast.errors import InputError

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
_MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def is_voc(root: Path) -> bool:
    """Whether `root` has the VOC12 layout."""
    return (root / "JPEGImages").is_dir()


def load_voc(
    root: Path, split: str, ids: Sequence[str] | Path | None, saliency: Path | None
) -> Dataset:
    """Read a folder in VOC12 layout; `classes.txt` (one name a line) replaces VOC's 20 classes where it exists.

    Args:
        root: the folder that holds JPEGImages.
        split: list in ImageSets/Segmentation.
        ids: instead of a split: ids, or a text file with one a line (VOC's image/mask path pairs are understood too).
        saliency: folder of `<id>.png`; default `root/saliency`.

    Raises:
        InputError: a missing folder, list, image or annotation, an empty list, a tag that is no class; with its name.
    """
    classes = read_classes(root / "classes.txt") if (root / "classes.txt").exists() else VOC_CLASSES
    listed = read_ids(_split_file(root, split) if ids is None else ids)
    images = {}
    for id, place in zip(listed.ids, listed.places, strict=True):
        images[id] = root / "JPEGImages" / f"{id}.jpg"
        if not os.path.lexists(
            images[id]
        ):  # a folder or a dead link there is a broken image, not a wrong list
            raise InputError(f"{place}: id {id!r} has no image {images[id]}")
    tags = np.stack([_read_tags(root / "Annotations" / f"{id}.xml", classes) for id in listed.ids])
    masks = next((root / f for f in _MASK_FOLDERS if (root / f).is_dir()), root / _MASK_FOLDERS[0])
    return Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else listed.source,
        classes=classes,
        ids=listed.ids,
        tags=tags,
        images=images,
        masks=existing(masks, listed.ids),
        saliencies=existing(saliency_folder(root, saliency), listed.ids),
    )


def _split_file(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.txt"))
        raise InputError(
            f"{path}: no such id list; {root} has the splits: {', '.join(known) or 'none'}"
        )
    return path


def _read_tags(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    try:
        names = [
            (e.findtext("name") or "").strip()
            for e in ElementTree.parse(path).getroot().iter("object")
        ]
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation; image tags are read from it") from None
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise InputError(f"{path}: not a readable VOC annotation ({error})") from None
    tags = np.zeros(len(classes), np.uint8)
    for name in names:
        if name not in classes:
            raise InputError(
                f"{path}: tag {name!r} is not in the class list ({', '.join(classes)})"
            )
        tags[classes.index(name)] = 1
    return tags
