"""Data sets: folders in VOC12 or COCO14 layout or with a labels.csv, and the embedded Shapes benchmark (VOC12 layout)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsss_fast.data.coco import is_coco, load_coco
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.folder import is_folder, load_folder
from wsss_fast.data.images import IGNORE, read_image, read_labels, write_labels
from wsss_fast.data.shapes.cache import BUILT_IN, is_built_in, shapes_folder
from wsss_fast.data.shapes.make import make_shapes
from wsss_fast.data.voc import VOC_CLASSES, is_voc, load_voc
from wsss_fast.errors import InputError

Source = Dataset | str | Path
# The first that recognises the folder reads it: labels.csv is the user's own word, and COCO may lie below JPEGImages/ too.
_LAYOUTS = ((is_folder, load_folder), (is_coco, load_coco), (is_voc, load_voc))

__all__ = [
    "Dataset",
    "IGNORE",
    "Source",
    "VOC_CLASSES",
    "load",
    "make_shapes",
    "opened",
    "read_image",
    "read_labels",
    "write_labels",
]


def load(
    path_or_name: str | Path,
    *,
    split: str = "train",
    saliency: str | Path | None = None,
    ids: Sequence[str] | str | Path | None = None,
    strict: bool = True,
) -> Dataset:
    """Open a data set: a folder whose layout is recognised, or "shapes" for the embedded benchmark (made once, then cached).

    A folder with `labels.csv` is read as such (`data/folder.py`), one with train2014/ or val2014/ as COCO14
    (`data/coco.py`), one with JPEGImages/ as VOC12 (`data/voc.py`). Tags come from labels.csv, from the instances json, or
    from Annotations/; masks (0 background, 1..C, 255 ignore) are for evaluation only and may be missing.

    Args:
        path_or_name: the folder, or "shapes" / "shapes:SEED", or "shapes-sparse" / "shapes-sparse:SEED" (`make_shapes`'
            presets standard and sparse).
        split: VOC12: id list in ImageSets/Segmentation, without ".txt"; COCO14: train or val; labels.csv: `<split>.txt`.
        saliency: folder of `<id>.png` saliency maps; default `<folder>/saliency`.
        ids: ids, or a text file with one id a line (train_aug, say), instead of the whole split; blank lines are skipped.
        strict: refuse broken images (every header and end is looked at); otherwise every image is decoded, and what cannot
            be is left out and listed in the data set's `broken`.

    Returns:
        The data set.

    Raises:
        InputError: something is missing, broken or of no known layout; the message names it.

    Example:
        >>> load("VOCdevkit/VOC2012", ids="train_aug.txt")          # doctest: +SKIP
        Dataset('VOC2012', 'train_aug.txt': 10582 images, 20 classes, 10582 masks, 0 saliency maps)
    """
    root = shapes_folder(path_or_name) if is_built_in(path_or_name) else Path(path_or_name)
    if not root.is_dir():
        raise InputError(
            f"data: {root} is no folder (and the only built-in sets are {', '.join(BUILT_IN)})"
        )
    load_layout = next((load for recognises, load in _LAYOUTS if recognises(root)), None)
    if load_layout is None:
        raise InputError(
            f"data: {root} has none of the known layouts: VOC12 has JPEGImages/, COCO14 train2014/ or val2014/, "
            "any other folder of images a labels.csv"
        )
    own_ids = Path(ids) if isinstance(ids, str) else ids
    found = load_layout(root, split, own_ids, Path(saliency) if saliency is not None else None)
    found.source = _source(path_or_name, split, saliency, ids, strict)
    return found.check() if strict else found.without_broken()


def _source(
    path_or_name: str | Path,
    split: str,
    saliency: str | Path | None,
    ids: Sequence[str] | str | Path | None,
    strict: bool,
) -> dict[str, object]:
    """The arguments of `load`, with absolute paths."""
    built_in = is_built_in(path_or_name)
    listed = ids if ids is None or isinstance(ids, (str, Path)) else list(ids)
    return {
        "data": str(path_or_name) if built_in else str(Path(path_or_name).absolute()),
        "split": split,
        "ids": str(Path(listed).absolute()) if isinstance(listed, (str, Path)) else listed,
        "saliency": None if saliency is None else str(Path(saliency).absolute()),
        "strict": strict,
    }


def opened(source: Source) -> Dataset:
    """`source` itself if it is a data set, else `load(source)`: what every stage does with its `data`."""
    return source if isinstance(source, Dataset) else load(source)
