"""The VOC12 layout: JPEGImages, Annotations (image tags), SegmentationClass[Aug] (evaluation), ImageSets, saliency."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.errors import InputError

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
_MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def is_voc(root: Path) -> bool:
    """Whether `root` has the VOC12 layout."""
    return (root / "JPEGImages").is_dir()


def load_voc(root: Path, split: str, ids: Sequence[str] | Path | None, saliency: Path | None) -> Dataset:
    """Read a folder in VOC12 layout; `classes.txt` (one name a line) replaces VOC's 20 classes where it exists.

    Args:
        root: the folder that holds JPEGImages.
        split: list in ImageSets/Segmentation, or one of `train_aug`'s usual names beside it.
        ids: instead of a split: ids, or a text file with one a line (VOC's image/mask path pairs are understood too).
        saliency: folder of `<id>.png`; default `root/saliency`.

    Raises:
        InputError: a missing folder, list, image or annotation, an empty list, a tag that is no class; with its name.
    """
    classes = _read_classes(root)
    names, source = _read_ids(root, split, ids)
    images = {}
    for name in names:
        images[name] = root / "JPEGImages" / f"{name}.jpg"
        if not images[name].is_file():
            raise InputError(f"{source}: id {name!r} has no image {images[name]}")
    tags = np.stack([_read_tags(root / "Annotations" / f"{name}.xml", classes) for name in names])
    mask_folder = next((root / f for f in _MASK_FOLDERS if (root / f).is_dir()), root / _MASK_FOLDERS[0])
    saliency_folder = _saliency_folder(root, saliency)
    return Dataset(
        name=root.name, root=root, split=split if ids is None else str(source), classes=classes, ids=tuple(names),
        tags=tags, images=images, masks=_existing(mask_folder, names), saliencies=_existing(saliency_folder, names))


def _read_classes(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    if not path.exists():
        return VOC_CLASSES
    classes = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not 1 <= len(classes) <= 254 or len(set(classes)) != len(classes):
        raise InputError(f"{path}: needs 1 to 254 different class names, one a line; got {len(classes)}")
    return classes


def _read_ids(root: Path, split: str, ids: Sequence[str] | Path | None) -> tuple[list[str], Path | str]:
    if ids is not None and not isinstance(ids, (str, Path)):
        names, source = [str(i) for i in ids], "ids"
    else:
        path = Path(ids) if ids is not None else root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            known = sorted(p.stem for p in (root / "ImageSets" / "Segmentation").glob("*.txt"))
            raise InputError(f"{path}: no such id list; {root} has the splits: {', '.join(known) or 'none'}")
        names, source = [_id_of(line) for line in path.read_text().splitlines() if line.strip()], path
    if not names:
        raise InputError(f"{source}: the id list is empty")
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise InputError(f"{source}: id {twice!r} stands there more than once")
    for name in names:  # an id becomes a file name in the run folder and must stay inside it
        if not name or name != Path(name).name or name.startswith("."):
            raise InputError(f"{source}: {name!r} cannot be an id; ids are plain file names without extension")
    return names, source


def _id_of(line: str) -> str:
    """The id in a line of an id list: the line itself, or the stem of its first path ('/JPEGImages/x.jpg /…/x.png')."""
    first = line.split()[0]
    return Path(first).stem if "/" in first and first.lower().endswith((".jpg", ".png")) else first


def _read_tags(path: Path, classes: tuple[str, ...]) -> np.ndarray:
    try:
        names = [(e.findtext("name") or "").strip() for e in ElementTree.parse(path).getroot().iter("object")]
    except FileNotFoundError:
        raise InputError(f"{path}: no such annotation; image tags are read from it") from None
    except (ElementTree.ParseError, UnicodeDecodeError, LookupError) as error:
        raise InputError(f"{path}: not a readable VOC annotation ({error})") from None
    tags = np.zeros(len(classes), np.uint8)
    for name in names:
        if name not in classes:
            raise InputError(f"{path}: tag {name!r} is not in the class list ({', '.join(classes)})")
        tags[classes.index(name)] = 1
    return tags


def _saliency_folder(root: Path, saliency: Path | None) -> Path:
    if saliency is None:
        return root / "saliency"
    if not Path(saliency).is_dir():
        raise InputError(f"saliency: {saliency} is no folder")
    return Path(saliency)


def _existing(folder: Path, names: list[str]) -> dict[str, Path]:
    """`<folder>/<id>.png` for the ids that have it; one listing of the folder instead of a stat an id."""
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return {name: folder / f"{name}.png" for name in names if f"{name}.png" in present}
