"""The VOC12 layout.

Folders: JPEGImages, Annotations (image tags), SegmentationClass or SegmentationClassAug (masks, for
evaluation only), ImageSets (id lists), saliency.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import class_list, clean_name, read_classes, unknown_class
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import find_pngs, read_ids, saliency_folder, unused_pngs
from wsss_fast.data.names import Folders, KnownIds
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

    A photo may have another suffix than .jpg. The mask of an image is in SegmentationClassAug, else
    in SegmentationClass, with a remark.

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
    fixed = class_list(root)
    classes = VOC_CLASSES if fixed is None else read_classes(fixed)
    photos, annotations = Folders(root / "JPEGImages"), Folders(root / "Annotations")
    known = KnownIds(photos.stems())

    def missing(id: str) -> str:
        return f"id {id!r} has no image {root / 'JPEGImages' / id}.jpg"

    listed = read_ids(_split_file(root, split) if ids is None else ids, known, missing)
    images, tags = {}, np.zeros((len(listed.ids), len(classes)), np.uint8)
    for n, (id, place) in enumerate(zip(listed.ids, listed.places, strict=True)):
        # A folder or a dangling link counts as a broken image, not as an error in the list.
        image = photos.find_image(id)
        if image is None:
            raise InputError(f"{place}: id {id!r} has several images{photos.near(id)}; keep one")
        images[id] = image
        annotation = annotations.find(f"{id}.xml") or root / "Annotations" / f"{id}.xml"
        tags[n] = _read_tags(annotation, classes, fixed)
    masks = [root / folder for folder in _MASK_FOLDERS]
    return Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else listed.source,
        classes=classes,
        ids=listed.ids,
        tags=tags,
        images=images,
        masks=find_pngs(masks, listed.ids),
        saliencies=find_pngs([saliency_folder(root, saliency)], listed.ids),
        unused_masks=unused_pngs(masks, photos.stems()),
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


def _read_tags(path: Path, classes: tuple[str, ...], fixed: Path | None) -> np.ndarray:
    """Tags uint8 [C] of an annotation; `fixed` lists the classes, if they are not VOC's."""
    try:
        names = [
            clean_name(e.findtext("name") or "")
            for e in ElementTree.parse(path).getroot().iter("object")
        ]
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation; image tags are read from it") from None
    except (OSError, ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise InputError(f"{path}: not a readable VOC annotation ({error})") from None
    tags = np.zeros(len(classes), np.uint8)
    for name in names:
        if name not in classes:
            if fixed is not None:
                raise InputError(f"{path}: {unknown_class(name, classes, fixed)}")
            raise InputError(
                f"{path}: tag {name!r} is not in the class list ({', '.join(classes)}); other "
                "classes than VOC's are listed in classes.txt"
            )
        tags[classes.index(name)] = 1
    return tags
