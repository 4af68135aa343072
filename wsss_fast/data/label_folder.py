"""A folder of label PNGs, one an image: seeds, pseudo-masks or predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import read_labels
from wsss_fast.errors import InputError


def check_label_folder(folder: Path, data: Dataset, what: str) -> Path:
    """Refuse a folder that lacks the PNG of an id of `data`; `what` names the argument.

    Raises:
        InputError: with the first missing id and how many there are.
    """
    missing = [i for i in data.ids if not (folder / f"{i}.png").is_file()]
    if missing:
        raise InputError(
            f"{what}: {folder} has no PNG for {len(missing)} of {len(data)} ids, first {missing[0]!r}"
        )
    return folder


def read_label(folder: Path, data: Dataset, id: str) -> np.ndarray:
    """Labels of one image, uint8 [H, W] of 0..C and 255.

    Raises:
        InputError: unreadable, an impossible label, or another size than the image's.
    """
    path = folder / f"{id}.png"
    labels = read_labels(path, len(data.classes))
    if labels.shape != data.size(id):
        raise InputError(
            f"{path}: is {labels.shape}, but its image {data.images[id]} is {data.size(id)}"
        )
    return labels
