"""Evaluation: one confusion matrix over the whole list, curves over the threshold, average precision of tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import IGNORE, read_labels
from wsss_fast.data.label_folder import check_label_folder
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What a confusion matrix says.

    Attributes:
        miou: mean IoU over the classes that occur, background included, in 0..1.
        iou: IoU by class name; NaN for a class absent from truth and prediction.
        precision: by class name.
        recall: by class name.
        confusion: int64 [C+1, C+1], rows truth, columns prediction.
        images: how many images with a mask were counted.
    """

    miou: float
    iou: dict[str, float]
    precision: dict[str, float]
    recall: dict[str, float]
    confusion: np.ndarray
    images: int

    def summary(self) -> dict[str, object]:
        """What metrics.json keeps."""
        return {
            "miou": self.miou,
            "iou": self.iou,
            "precision": self.precision,
            "recall": self.recall,
            "images": self.images,
        }


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """int64 [L, L], rows truth, columns prediction; pixels whose truth is 255 are left out."""
    valid = truth != IGNORE
    pairs = truth[valid].astype(np.int64) * num_labels + prediction[valid]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def metrics_of(confusion: np.ndarray, classes: Sequence[str], images: int) -> Metrics:
    """Metrics of a confusion matrix [C+1, C+1]; a class absent from truth and prediction is left out of the mean."""
    hits, truth, predicted = (
        np.diag(confusion).astype(float),
        confusion.sum(axis=1),
        confusion.sum(axis=0),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, precision, recall = hits / (truth + predicted - hits), hits / predicted, hits / truth
    names = ("background", *classes)
    named = [dict(zip(names, values.tolist(), strict=True)) for values in (iou, precision, recall)]
    miou = float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")
    return Metrics(miou, *named, confusion, images)


def evaluate(predictions: str | Path, data: Source) -> Metrics:
    """Score label PNGs against the masks of a data set.

    Args:
        predictions: folder of `<id>.png` with labels 0..C; 255 in a prediction is an error, since it hides pixels.
        data: data set with masks; ids without a mask are not counted.

    Returns:
        Metrics: mIoU over the C+1 classes from one confusion matrix, truth 255 ignored (VOC protocol).

    Raises:
        InputError: no masks at all, a missing prediction, another size than its mask, an impossible label.
    """
    data = opened(data).with_masks()
    folder, num_labels = (
        check_label_folder(Path(predictions), data, "predictions"),
        len(data.classes) + 1,
    )
    confusion = np.zeros((num_labels, num_labels), np.int64)
    for id in track(distributed.shard(data.ids), f"evaluate {folder.name}"):
        path = folder / f"{id}.png"
        prediction, truth = read_labels(path, len(data.classes)), data.mask(id)
        if prediction.shape != truth.shape:
            raise InputError(
                f"{path}: is {prediction.shape}, but its mask {data.masks[id]} is {truth.shape}"
            )
        if (prediction == IGNORE).any():
            raise InputError(
                f"{path}: holds {IGNORE} (ignore); a prediction must name a class for every pixel"
            )
        confusion += confusion_matrix(truth, prediction, num_labels)
    return metrics_of(distributed.all_reduce_sum(confusion), data.classes, len(data))


def evaluate_seeds(seeds: str | Path, data: Dataset) -> dict[str, float]:
    """Quality of seeds: mIoU with 255 as not counted, and the share of pixels that got a label; both 0..1."""
    num_labels, data = len(data.classes) + 1, data.with_masks()
    confusion, labelled = np.zeros((num_labels, num_labels), np.int64), np.zeros(2, np.int64)
    for id in distributed.shard(data.ids):
        seed, truth = read_labels(Path(seeds) / f"{id}.png", len(data.classes)), data.mask(id)
        known = seed != IGNORE
        confusion += confusion_matrix(
            np.where(known, truth, IGNORE), np.where(known, seed, 0), num_labels
        )
        labelled += known.sum(), known.size
    labelled = distributed.all_reduce_sum(labelled)
    return {
        "miou": metrics_of(distributed.all_reduce_sum(confusion), data.classes, len(data)).miou,
        "coverage": labelled[0] / labelled[1],
    }


def average_precision(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Average precision of each class (area under precision over recall at each hit).

    Args:
        scores: float [N, C]; higher means present.
        tags: [N, C] of 0 and 1.

    Returns:
        float64 [C] in 0..1; NaN for a class without a positive image.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(tags, order, axis=0).astype(float)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    with np.errstate(invalid="ignore"):
        return (precision * hits).sum(axis=0) / hits.sum(axis=0)
