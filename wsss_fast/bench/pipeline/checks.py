"""Checks of what a stage wrote: every file, of the right size, with plausible values."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.errors import RunError
from wsss_fast.evaluation.curves import Curve
from wsss_fast.evaluation.metrics import Metrics
from wsss_fast.maps import check_maps, load_maps, strided_size
from wsss_fast.readers.label_maps import IGNORE, read_labels

_FLAT = 1e-3  # random weights of a deep network give ranges of 0.005


def maps(folder: Path, data: Dataset, *, background: bool = False) -> None:
    """Class maps of all tags of every image, finite, of the image's size, not all of them flat.

    Args:
        folder: folder of the maps.
        data: images and tags.
        background: whether row 0 scores the background.

    Raises:
        RunError: they are not so.
        InputError: a file is missing or cannot be read.
    """
    check_maps(folder, data)
    largest_range = 0.0
    for id in data.ids:
        found, size = load_maps(folder, id, data), data.size(id)
        tags = np.flatnonzero(data.tags_of(id)) + 1
        _require(found.keys.tolist() == [0] * background + tags.tolist(), folder, id, "its classes")
        for scores, wanted in ((found.strided, strided_size(*size)), (found.high_res, size)):
            assert scores is not None
            _require(scores.shape[1:] == wanted, folder, id, "its size")
            _require(bool(np.isfinite(scores).all()), folder, id, "finite scores")
            largest_range = max(largest_range, float(np.ptp(scores)))
    if largest_range < _FLAT:
        raise RunError(f"{folder}: all maps are flat, with scores within {largest_range:.2g}")


def labels(folder: Path, data: Dataset, *, unsure: bool = False, tags: bool = True) -> None:
    """Label maps of every image, of its size, with possible labels, not all of them of one label.

    Args:
        folder: folder of the label PNGs.
        data: images and tags.
        unsure: whether pixels may be 255.
        tags: whether only tags of the image are possible.

    Raises:
        RunError: they are not so.
        InputError: a file is missing or cannot be read.
    """
    all_found: set[int] = set()
    for id in data.ids:
        path = folder / f"{id}.png"
        _require(path.is_file(), folder, id, "a file")
        found = read_labels(path, len(data.classes))
        _require(found.shape == data.size(id), folder, id, "its size")
        possible = np.flatnonzero(data.tags_of(id)) + 1 if tags else np.arange(IGNORE)
        values = {*np.unique(found).tolist()}
        _require(values <= {0, *possible.tolist(), *[IGNORE] * unsure}, folder, id, "its labels")
        all_found |= values
    if len(all_found) < 2:
        raise RunError(f"{folder}: all pixels of all images have the label {all_found}")


def score(found: Metrics | Curve, data: Dataset) -> None:
    """A score over all images; RunError if it is none."""
    metrics = found.metrics if isinstance(found, Curve) else found
    if metrics.images != len(data) or not 0 <= metrics.miou <= 1:
        raise RunError(f"mIoU {metrics.miou} over {metrics.images} of {len(data)} images")
    pixels = sum(np.prod(data.size(id)) for id in data.ids)
    if not 0.5 * pixels < metrics.confusion.sum() <= pixels:
        raise RunError(f"{metrics.confusion.sum()} of {pixels} pixels were scored")


def seed_score(found: dict[str, float]) -> None:
    """A score of seeds; RunError if it is none."""
    if not (0 <= found["miou"] <= 1 and 0 < found["coverage"] <= 1):
        raise RunError(f"scores of seeds: {found}")


def _require(right: bool, folder: Path, id: str, what: str) -> None:
    if not right:
        raise RunError(f"{folder}: the result of {id} does not have {what}")
