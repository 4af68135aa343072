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
from wsss_fast.data.listing import (
    find_pngs,
    plain_ids,
    read_ids,
    truth_folders,
    unused_pngs,
)
from wsss_fast.data.lists import VOC_CLASSES
from wsss_fast.data.names import Folders, KnownIds
from wsss_fast.data.saliency_files import find_saliencies
from wsss_fast.data.voc_lists import (
    AUGMENTED_MASKS,
    TRAINAUG,
    list_file,
    read_trainaug,
    scoring_list,
)
from wsss_fast.errors import InputError

_MASK_FOLDERS = (AUGMENTED_MASKS, "SegmentationClass")


def is_voc(root: Path) -> bool:
    """Whether `root` has the VOC12 layout."""
    return (root / "JPEGImages").is_dir()


def has_voc_classes(root: Path) -> bool:
    """Whether the classes of a folder in this layout are VOC's twenty."""
    fixed = class_list(root)
    return fixed is None or read_classes(fixed) == VOC_CLASSES


def load_voc(
    root: Path,
    split: str,
    ids: Sequence[str] | Path | None,
    saliency: Path | None,
    truth: str | Path | None = None,
    score_on: str | None = None,
    *,
    annotations: bool = True,
) -> Dataset:
    """Read a folder in VOC12 layout; a `classes.txt` (one name per line) replaces the 20 classes.

    A photo may have another suffix than .jpg. The mask of an image is in SegmentationClassAug, else
    in SegmentationClass, with a remark. If an image has no annotation, as those of test, there are
    no tags.

    Args:
        root: the folder that holds JPEGImages.
        split: name of the id list in ImageSets/Segmentation or ImageSets/SegmentationAug, without
            ".txt"; "trainaug" is derived where it has no file (`read_trainaug`).
        ids: instead of a split, ids or a text file with one per line, which may also have VOC's
            pairs of image and mask paths.
        saliency: folder of `<id>.png`; default `root/saliency`.
        truth: folder of true masks, by name or path.
        score_on: name of the list whose images are scored, or "all"; default: train for trainaug
            and for a file of ids that has train's and more but none of val's, otherwise all.
        annotations: whether tags are read from Annotations/.

    Raises:
        InputError: a missing list or image, an empty list, an annotation that cannot be read, or a
            tag that is not a class; the message names it.
    """
    fixed = class_list(root)
    classes = VOC_CLASSES if fixed is None else read_classes(fixed)
    photos = Folders(root / "JPEGImages")
    known = KnownIds(photos.stems())

    def missing(id: str) -> str:
        return f"id {id!r} has no image {root / 'JPEGImages' / id}.jpg"

    if ids is None and split in TRAINAUG:
        listed = read_trainaug(root, known, missing)
    else:
        listed = read_ids(list_file(root, split) if ids is None else ids, known, missing)
    images = {}
    for id, place in zip(listed.ids, listed.places, strict=True):
        # A folder or a dangling link counts as a broken image, not as an error in the list.
        image = photos.find_image(id)
        if image is None:
            raise InputError(f"{place}: id {id!r} has several images{photos.near(id)}; keep one")
        images[id] = image
    tags, untagged = np.zeros((len(listed.ids), len(classes)), np.uint8), "they were not read"
    if annotations:
        tags, untagged = _tags_of(root, listed.ids, classes, fixed)
    masks = truth_folders(root, truth, _MASK_FOLDERS)
    loaded = Dataset(
        name=root.name,
        root=root,
        split=split if ids is None else listed.source,
        classes=classes,
        ids=listed.ids,
        tags=tags,
        images=images,
        masks=find_pngs(masks, listed.ids),
        saliencies=find_saliencies(root, saliency, listed.ids),
        unused_masks=unused_pngs(masks, photos.stems()),
        layout="voc",
        tagged=not untagged,
        untagged=untagged,
    )
    if score_on is None and (ids is None or isinstance(ids, Path)):
        score_on = scoring_list(root, split if ids is None else None, frozenset(listed.ids))
    if score_on in (None, "all", split if ids is None else None):
        return loaded
    return loaded.score_only(score_on, plain_ids(list_file(root, score_on)))


def _tags_of(
    root: Path, ids: Sequence[str], classes: tuple[str, ...], fixed: Path | None
) -> tuple[np.ndarray, str]:
    """Tags uint8 [N, C], and why there are none: the first annotation that is missing, or "".

    Raises:
        InputError: as `_read_tags`.
    """
    annotations = Folders(root / "Annotations")
    found = {id: annotations.find(f"{id}.xml") for id in ids}
    tags = np.zeros((len(ids), len(classes)), np.uint8)
    missing = [id for id, path in found.items() if path is None]
    if missing:
        return tags, (
            f"{root / 'Annotations' / missing[0]}.xml is missing ({len(missing)} of the {len(ids)} "
            "annotations are); --tags FILE reads tags from another file"
        )
    for n, path in enumerate(found.values()):
        assert path is not None
        tags[n] = _read_tags(path, classes, fixed)
    return tags, ""


def _read_tags(path: Path, classes: tuple[str, ...], fixed: Path | None) -> np.ndarray:
    """Tags uint8 [C] of an annotation; `fixed` lists the classes, if they are not VOC's."""
    try:
        names = [
            clean_name(e.findtext("name") or "")
            for e in ElementTree.parse(path).getroot().iter("object")
        ]
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
