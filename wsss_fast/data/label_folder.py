"""A folder with one label PNG per image: seeds, pseudo-masks or predictions."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine import distributed, remarks
from wsss_fast.engine.files import write_json
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, check_folder_values, check_size, read_labels

LABEL_NAMES = "classes.json"


@remarks.collected()
def check_label_folder(folder: Path, data: Dataset, what: str, *, values: bool = True) -> Path:
    """`folder`, after a check of the PNG of every id of `data`.

    Collective if `values`: each process reads its shard of the PNGs.

    Args:
        folder: folder of `<id>.png`.
        data: data set whose ids are needed.
        what: name of the argument, for the message.
        values: whether to read all PNGs, as before a training; otherwise they need only be there.

    Raises:
        InputError: PNGs are missing (with the first id and their number), one cannot be used, or
            no PNG has a pixel of a class.
    """
    missing = [i for i in data.ids if not (folder / f"{i}.png").is_file()]
    if missing:
        raise InputError(
            f"{what}: {folder} has no PNG for {len(missing)} of {len(data)} ids, "
            f"first {missing[0]!r}"
        )
    if values:
        labels = _labels_of_files(folder, data, what)
        classes = set().union(*labels.values()) - {0, IGNORE}
        if classes or not (folder / "done.json").is_file():
            check_folder_values(labels, what)
        else:  # of an earlier stage, which no edit of a file would mend
            text = f"{what}: no pixel of a class, so nothing is learned; train longer before"
            remarks.add(text, folder, unit="folder")
        for id, (path, found) in zip(data.ids, labels.items(), strict=True):
            tags = {int(c) + 1 for c in np.flatnonzero(data.tags_of(id))}
            if set(found) - tags - {0, IGNORE}:
                text = f"{what}: labels that are not among their image's tags"
                remarks.add(text, path, unit="map", of=len(data))
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
    check_size(path, labels.shape, data.images[id], data.size(id))
    return labels


def _labels_of_files(folder: Path, data: Dataset, what: str) -> dict[Path, tuple[int, ...]]:
    """The labels that each PNG has, by file."""

    def present(id: str) -> tuple[int, ...] | str:
        try:
            return tuple(np.flatnonzero(np.bincount(read_label(folder, data, id).reshape(-1))))
        except InputError as error:
            return str(error)

    own = distributed.shard(data.ids)
    # Threads suffice, since decoding releases the interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        checks = track(readers.map(present, own), f"check {what}", total=len(own))
        parts = distributed.all_gather_objects(dict(zip(own, checks, strict=True)))
    found = {id: labels for part in parts for id, labels in part.items()}
    labels_of: dict[Path, tuple[int, ...]] = {}
    for id in data.ids:
        labels = found[id]
        if isinstance(labels, str):
            raise InputError(labels)
        labels_of[folder / f"{id}.png"] = labels
    return labels_of
