"""Data sets whose tags come from a file of their own instead of their layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.coco import load_coco
from wsss_fast.data.coco_folders import ANNOTATED
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.folder import load_folder
from wsss_fast.data.plain_images import read_plain
from wsss_fast.data.tag_file import TagFile
from wsss_fast.data.voc import load_voc
from wsss_fast.engine import remarks

Ids = Sequence[str] | Path | None


def load_tagged(
    root: Path,
    load_layout: Callable[..., Dataset] | None,
    split: str,
    ids: Ids,
    saliency: Path | None,
    truth: str | Path | None,
    score_on: str | None,
    tags: TagFile,
) -> tuple[Dataset, dict[str, str]]:
    """Read a folder with the tags of a file.

    Args:
        root: the folder.
        load_layout: reads its layout; None for a folder of images without one.
        split, ids, saliency, truth, score_on: as `data.load`.
        tags: the file.

    Returns:
        The data set, and by file name why other files cannot be images of it.

    Raises:
        InputError: as `data.load`, or the tags do not fit.
    """
    if tags.kind == "csv" and load_layout in (None, load_folder):
        return load_folder(root, split, ids, saliency, truth, score_on, tags.path), {}
    if load_layout is None:
        return read_plain(root, split, ids, saliency, truth, score_on, tags)
    if load_layout is load_voc:
        loaded = load_voc(root, split, ids, saliency, truth, score_on, annotations=False)
    else:
        loaded = load_layout(root, split, ids, saliency, truth, score_on)
    order = loaded.ids
    if tags.kind == "array" and len(tags) != len(loaded) and load_layout is load_coco:
        # Public arrays have a row for every image of the JSON file, in the order of their numbers.
        order = load_layout(root, split.removesuffix(ANNOTATED), None, None, None, None).ids
    return _retagged(loaded, tags.of_all(loaded.ids, loaded.classes, order), tags.path), {}


def tags_for_validation(tags: str | Path | None) -> str | Path | None:
    """The file that tags the validation images where another list has `tags`.

    That is the same file, but for an array, which has the rows of one list only.
    """
    return None if not tags or TagFile(Path(tags)).kind == "array" else tags


def _retagged(loaded: Dataset, tags: np.ndarray, path: Path) -> Dataset:
    """The data set with other tags; a remark counts the images whose tags differ."""
    if loaded.tagged:
        for n in np.flatnonzero((loaded.tags != tags).any(1)):
            text = f"tags in {path.name} are not those of the data's own annotations"
            remarks.add(text, loaded.ids[n], unit="image", of=len(loaded))
    return dataclasses.replace(loaded, tags=tags, tagged=True, untagged="")
