"""The id lists of the VOC12 layout: files of ImageSets, and trainaug where it must be derived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wsss_fast.data.listing import IdList, plain_ids, read_ids
from wsss_fast.data.lists import VOC_COUNTS
from wsss_fast.data.names import Folders, KnownIds
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

# Names of the list of the 10,582 training images, and of its file.
TRAINAUG = ("trainaug", "train_aug")
_FOLDERS = ("Segmentation", "SegmentationAug")
AUGMENTED_MASKS = "SegmentationClassAug"


def list_file(root: Path, split: str) -> Path:
    """The file of an id list.

    Raises:
        InputError: there is none; the message names those that exist.
    """
    path = _find_list(root, split)
    if path is None:
        known = sorted({p.stem for f in _FOLDERS for p in (root / "ImageSets" / f).glob("*.txt")})
        raise InputError(
            f"{root / 'ImageSets' / _FOLDERS[0] / split}.txt: no such id list; {root} has the "
            f"splits: {', '.join(known) or 'none'}"
        )
    return path


def has_list(root: Path, split: str) -> bool:
    """Whether there is a file of an id list."""
    return _find_list(root, split) is not None


def read_trainaug(root: Path, known: KnownIds, missing: Callable[[str], str]) -> IdList:
    """The list trainaug; where no file has it, it is derived, with a remark.

    It is then train and the images with a mask in SegmentationClassAug that are neither in val nor
    in test.

    Args:
        root: the folder that holds ImageSets.
        known: ids of all photos.
        missing: text of the error for an id without a photo.

    Raises:
        InputError: it cannot be derived, lacks an image of train, or has one of val or test.
    """
    path = _find_list(root, TRAINAUG[0])
    found = _derived(root, known, missing) if path is None else read_ids(path, known, missing)
    train, ids = _find_list(root, "train"), frozenset(found.ids)
    if train is not None:
        in_train = plain_ids(train)
        if lost := sorted(in_train - ids):
            raise InputError(
                f"{found.source}: id {lost[0]!r} of {train} is not in it; trainaug contains train"
            )
        if len(in_train) == VOC_COUNTS["train"] and len(ids) != VOC_COUNTS["trainaug"]:
            text = f"trainaug has {len(ids)} images, the published list {VOC_COUNTS['trainaug']}"
            remarks.add(text, found.source, unit="list")
    for other in (_find_list(root, "val"), _find_list(root, "test")):
        if other is not None and (both := sorted(plain_ids(other) & ids)):
            raise InputError(
                f"{found.source}: id {both[0]!r} is in {other} too; trainaug has no image of "
                f"{other.stem}"
            )
    return found


def scoring_list(root: Path, split: str | None, ids: frozenset[str]) -> str | None:
    """The list that is scored by default: train for trainaug, None for all images.

    Args:
        root: the folder that holds ImageSets.
        split: name of the list of the data set; None if it is a file of the user, which is
            trainaug if it has more than train's images and none of val's.
        ids: its ids.
    """
    train, val = _find_list(root, "train"), _find_list(root, "val")
    if split not in (None, *TRAINAUG) or train is None:
        return None
    if split is None:
        in_val = frozenset() if val is None else plain_ids(val)
        if not ids > plain_ids(train) or ids & in_val:
            return None
    return "train"


def _find_list(root: Path, split: str) -> Path | None:
    """The file of a list in ImageSets, in Segmentation if there is one; trainaug has two names."""
    names = TRAINAUG if split in TRAINAUG else (split,)
    paths = (root / "ImageSets" / f / f"{name}.txt" for f in _FOLDERS for name in names)
    return next((path for path in paths if path.is_file()), None)


def _derived(root: Path, known: KnownIds, missing: Callable[[str], str]) -> IdList:
    """Trainaug from train and the folder of masks.

    Raises:
        InputError: train, val or the folder is missing.
    """
    lists, masks = root / "ImageSets" / "Segmentation", root / AUGMENTED_MASKS
    train, val, test = (lists / f"{name}.txt" for name in ("train", "val", "test"))
    lacks = [
        str(p) for p, is_there in ((train, train.is_file()), (val, val.is_file())) if not is_there
    ]
    lacks += [] if masks.is_dir() else [f"{masks}/"]
    if lacks:
        raise InputError(
            f"{lists / TRAINAUG[0]}.txt: no such id list, nor {TRAINAUG[1]}.txt, nor one in "
            f"ImageSets/{_FOLDERS[1]}; to derive it, {' and '.join(lacks)} would be needed; "
            "--split train uses the images of train"
        )
    own = read_ids(train, known, missing)
    excluded = plain_ids(val) | (plain_ids(test) if test.is_file() else frozenset())
    masked = {id for stem in Folders(masks).stems() if (id := known.find(stem)) is not None}
    more = sorted(masked - excluded - frozenset(own.ids))
    ids = (*own.ids, *more)
    remarks.add(
        f"there is no list trainaug, so it is derived: the {len(own.ids)} images of train and "
        f"{len(more)} with a mask in {AUGMENTED_MASKS} that are neither in val nor in test, "
        f"{len(ids)} in all",
        root,
        unit="folder",
    )
    return IdList(
        ids, "trainaug (derived)", (*own.places, *(str(masks / f"{id}.png") for id in more))
    )
