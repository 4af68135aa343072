"""Data sets: VOC12 layout on disk, and the embedded Shapes benchmark, read by the same code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsss_fast.data.cache import shapes_folder
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import IGNORE, read_image, read_labels, write_labels
from wsss_fast.data.shapes import make_shapes
from wsss_fast.data.voc import VOC_CLASSES, is_voc, load_voc
from wsss_fast.errors import InputError

Source = Dataset | str | Path

__all__ = ["Dataset", "IGNORE", "Source", "VOC_CLASSES", "load", "make_shapes", "opened", "read_image", "read_labels",
           "write_labels"]


def load(path_or_name: str | Path, *, split: str = "train", saliency: str | Path | None = None,
         ids: Sequence[str] | str | Path | None = None) -> Dataset:
    """Open a data set: a folder in VOC12 layout, or "shapes" for the embedded benchmark (made once, then cached).

    Args:
        path_or_name: folder with JPEGImages/ and Annotations/, or "shapes" / "shapes:SEED".
        split: id list in ImageSets/Segmentation, without ".txt".
        saliency: folder of `<id>.png` saliency maps; default `<folder>/saliency`.
        ids: ids, or a text file with one id a line (train_aug, say), instead of `split`.

    Returns:
        The data set, with every image's header and end looked at.

    Raises:
        InputError: something is missing, broken or of no known layout; the message names it.

    Example:
        >>> load("VOCdevkit/VOC2012", ids="train_aug.txt")          # doctest: +SKIP
        Dataset('VOC2012', 'train_aug.txt': 10582 images, 20 classes, 10582 masks, 0 saliency maps)
    """
    if isinstance(path_or_name, str) and path_or_name.split(":")[0] == "shapes" and not Path(path_or_name).exists():
        root = shapes_folder(path_or_name)
    else:
        root = Path(path_or_name)
    if not root.is_dir():
        raise InputError(f"data: {root} is no folder (and the only built-in set is 'shapes')")
    if not is_voc(root):
        raise InputError(f"data: {root} has no JPEGImages/ folder; expected the VOC12 layout "
                         "(JPEGImages, Annotations, ImageSets/Segmentation)")
    own_ids = Path(ids) if isinstance(ids, str) else ids
    return load_voc(root, split, own_ids, Path(saliency) if saliency is not None else None).check()


def opened(source: Source) -> Dataset:
    """`source` itself if it is a data set, else `load(source)`: what every stage does with its `data`."""
    return source if isinstance(source, Dataset) else load(source)
