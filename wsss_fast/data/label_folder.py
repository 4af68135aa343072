"""A folder with one label PNG per image: seeds, pseudo-masks or predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.files import write_json
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, read_labels

LABEL_NAMES = "classes.json"


def check_label_folder(folder: Path, data: Dataset, what: str) -> Path:
    """`folder`, after a check that it has the PNG of every id of `data`.

    Args:
        folder: folder of `<id>.png`.
        data: data set whose ids are needed.
        what: name of the argument, for the message.

    Raises:
        InputError: PNGs are missing; with the first id and their number.
    """
    missing = [i for i in data.ids if not (folder / f"{i}.png").is_file()]
    if missing:
        raise InputError(
            f"{what}: {folder} has no PNG for {len(missing)} of {len(data)} ids, "
            f"first {missing[0]!r}"
        )
    return folder


def label_files(data: Dataset) -> list[str]:
    """Names of the label PNGs of a data set."""
    return [f"{id}.png" for id in data.ids]


def write_label_names(folder: Path, data: Dataset) -> None:
    """Write which label means which class, as `LABEL_NAMES` beside the label PNGs."""
    named = {0: "background", **dict(enumerate(data.classes, 1)), IGNORE: "ignore"}
    write_json(folder / LABEL_NAMES, named)


def read_label(folder: Path, data: Dataset, id: str) -> np.ndarray:
    """Labels of one image, uint8 [H, W] of 0..C and 255.

    Raises:
        InputError: the file cannot be read, has an impossible label or another size than its image.
    """
    path = folder / f"{id}.png"
    labels = read_labels(path, len(data.classes))
    if labels.shape != data.size(id):
        raise InputError(
            f"{path}: is {labels.shape}, but its image {data.images[id]} is {data.size(id)}"
        )
    return labels
