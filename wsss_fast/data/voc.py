"""The VOC12 layout.

Folders: JPEGImages, Annotations (image tags), SegmentationClass or SegmentationClassAug (masks, for
evaluation only), ImageSets (id lists), saliency.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import find_pngs, read_classes, read_ids, saliency_folder
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
    """Read a folder in VOC12 layout; a `classes.txt` (one name per line) replaces the 20 classes.

    Args:
        root: the folder that holds JPEGImages.
        split: name of the id list in ImageSets/Segmentation, without ".txt".
        ids: instead of a split, ids or a text file with one per line, which may also have VOC's
            pairs of image and mask paths.
        saliency: folder of `<id>.png`; default `root/saliency`.

    Raises:
        InputError: a missing folder, list, image or annotation, an empty list, or a tag that is not
            a class; the message names it.
    """
    classes = read_classes(root / "classes.txt") if (root / "classes.txt").exists() else VOC_CLASSES
    listed = read_ids(_split_file(root, split) if ids is None else ids)
    images = {}
    for id, place in zip(listed.ids, listed.places, strict=True):
        images[id] = root / "JPEGImages" / f"{id}.jpg"
        # A folder or a dangling link counts as a broken image, not as an error in the list.
        if not os.path.lexists(images[id]):
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
        masks=find_pngs(masks, listed.ids),
        saliencies=find_pngs(saliency_folder(root, saliency), listed.ids),
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
