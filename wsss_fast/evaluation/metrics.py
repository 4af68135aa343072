"""Metrics: one confusion matrix over all images, and average precision of tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import check_label_folder, read_label
from wsss_fast.engine import distributed, remarks, stream
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, read_labels

# What a predicted 255 counts as: an error of the input, background (public code of IRN and AMN), or
# as a pixel that is not scored (public code of EPS).
Ignored = Literal["error", "background", "leave-out"]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Metrics of a confusion matrix.

    Attributes:
        miou: mean IoU in 0..1 over the classes that occur, background included.
        iou: IoU in 0..1 by class name; NaN for a class absent from truth and prediction.
        precision: precision in 0..1 by class name; NaN for a class that was never predicted.
        recall: recall in 0..1 by class name; NaN for a class absent from the truth.
        confusion: number of pixels, int64 [C+1, C+1]; rows are the truth, columns the prediction.
        images: number of images with a mask, which were counted.
        of: number of images of the data set.
        ignored: what predictions of 255 counted as: "background" or "leave-out"; "error" if there
            was none, since none was allowed.
        ignored_pixels: number of such pixels, without those whose truth is 255 too.
    """

    miou: float
    iou: dict[str, float]
    precision: dict[str, float]
    recall: dict[str, float]
    confusion: np.ndarray
    images: int
    of: int
    ignored: Ignored = "error"
    ignored_pixels: int = 0

    def counted(self) -> str:
        """How many images were scored, for a title: "3 images" or "3 of 4 images".

        Where predictions of 255 are allowed, also what they counted as.
        """
        of = "" if self.images == self.of else f" of {self.of}"
        text = f"{self.images}{of} images"
        if self.ignored == "error":
            return text
        as_what = "counted as background" if self.ignored == "background" else "left out"
        return f"{text}, {self.ignored_pixels} pixels predicted {IGNORE} {as_what}"

    def summary(self) -> dict[str, object]:
        """What metrics.json records."""
        found: dict[str, object] = {
            "miou": self.miou,
            "iou": self.iou,
            "precision": self.precision,
            "recall": self.recall,
            "images": self.images,
            "of_images": self.of,
        }
        if self.ignored != "error":
            found |= {"ignored": self.ignored, "ignored_pixels": self.ignored_pixels}
        return found


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Confusion matrix, int64 [L, L]: rows are the truth, columns the prediction.

    Pixels whose truth is 255 are left out.
    """
    valid = truth != IGNORE
    pairs = truth[valid].astype(np.int64) * num_labels + prediction[valid]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def metrics_of(
    confusion: np.ndarray, classes: Sequence[str], images: int, of: int | None = None
) -> Metrics:
    """Metrics of a confusion matrix [C+1, C+1].

    A class absent from truth and prediction is left out of the mean IoU.

    Args:
        confusion: number of pixels; rows are the truth, columns the prediction.
        classes: class names.
        images: number of images that were counted.
        of: number of images of the data set; default: all were counted.
    """
    hits = np.diag(confusion).astype(float)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, precision, recall = hits / (truth + predicted - hits), hits / predicted, hits / truth
    names = ("background", *classes)

    def by_name(values: np.ndarray) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=True))

    miou = float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")
    of = images if of is None else of
    return Metrics(miou, by_name(iou), by_name(precision), by_name(recall), confusion, images, of)


def evaluate(predictions: str | Path, data: Source, *, ignored: Ignored = "error") -> Metrics:
    """Score label PNGs against the masks of a data set.

    Collective: each process reads its shard of the images.

    Args:
        predictions: folder of `<id>.png` with labels 0..C.
        data: data set with masks; ids without a mask are not counted, with a remark.
        ignored: what a predicted 255 counts as: "error", since it says nothing about the pixel;
            "background", as the public code of IRN and AMN scores masks; "leave-out" to score the
            other pixels only, as that of EPS.

    Returns:
        Metrics by the VOC protocol: one confusion matrix over all images, pixels of truth 255
        ignored.

    Raises:
        InputError: there are no masks, or a prediction is missing, has another size than its mask
            or an impossible label.
    """
    if ignored not in get_args(Ignored):
        raise InputError(f"ignored: is {ignored!r}, must be {' or '.join(get_args(Ignored))}")
    whole = opened(data, tags=False)
    data = whole.with_masks()
    folder = check_label_folder(Path(predictions), data, "predictions", values=False)
    num_labels = len(data.classes) + 1
    confusion = np.zeros((num_labels, num_labels), np.int64)
    ignored_pixels = 0

    def compare(id: str) -> tuple[np.ndarray, int]:
        path = folder / f"{id}.png"
        prediction, truth = read_labels(path, len(data.classes)), data.mask(id)
        if prediction.shape != truth.shape:
            raise InputError(
                f"{path}: is {prediction.shape}, but its mask {data.masks[id]} is {truth.shape}"
            )
        unsure = prediction == IGNORE
        if unsure.any() and ignored == "error":
            binary = not (prediction % IGNORE).any()
            cure = (
                f"is {IGNORE} the object? Write the label of its class"
                if binary
                else 'ignored "background" or "leave-out" accepts them'
            )
            raise InputError(
                f"{path}: has pixels of {IGNORE} (ignore); a prediction must label every pixel; "
                f"{cure}"
            )
        count = int((unsure & (truth != IGNORE)).sum())
        if ignored == "leave-out":
            truth = np.where(unsure, IGNORE, truth)
        return confusion_matrix(truth, np.where(unsure, 0, prediction), num_labels), count

    def add(id: str, found: tuple[np.ndarray, int]) -> None:
        nonlocal confusion, ignored_pixels
        confusion += found[0]
        ignored_pixels += found[1]

    own = distributed.shard(data.ids)
    stream.scan(own, compare, add, torch.device("cpu"), f"evaluate {folder.name}", data.size)
    confusion = distributed.all_reduce_sum(confusion)
    ignored_pixels = int(distributed.all_reduce_sum(np.array([ignored_pixels]))[0])
    if not confusion[:, 1:].any():
        remarks.add("predictions show background only", folder, unit="folder")
    metrics = dataclasses.replace(
        metrics_of(confusion, data.classes, len(data), len(whole)),
        ignored=ignored,
        ignored_pixels=ignored_pixels,
    )
    remark_on_absent(metrics)
    return metrics


def remark_on_absent(metrics: Metrics) -> None:
    """Say which classes have no IoU."""
    with remarks.collected():
        for name in (name for name, iou in metrics.iou.items() if np.isnan(iou)):
            remarks.add(
                "classes are in no true mask and in no prediction, and not in the mean IoU",
                name,
                unit="class",
                of=len(metrics.iou),
            )


def evaluate_seeds(seeds: str | Path, data: Dataset) -> dict[str, float]:
    """Quality of seeds: mIoU of the pixels that are not 255, and the share of such pixels.

    `miou_as_background` counts pixels of 255 as background, as public code scores seeds.

    Collective: each process reads its shard of the images.
    """
    num_labels, data = len(data.classes) + 1, data.with_masks()
    confusion = np.zeros((2, num_labels, num_labels), np.int64)
    labelled = np.zeros(2, np.int64)  # labelled pixels, all pixels

    def compare(id: str) -> tuple[np.ndarray, int, int]:
        seed, truth = read_label(Path(seeds), data, id), data.mask(id)
        known = seed != IGNORE
        filled = np.where(known, seed, 0)
        found = [
            confusion_matrix(true, filled, num_labels)
            for true in (np.where(known, truth, IGNORE), truth)
        ]
        return np.stack(found), int(known.sum()), known.size

    def add(id: str, found: tuple[np.ndarray, int, int]) -> None:
        nonlocal confusion, labelled
        confusion += found[0]
        labelled += found[1:]

    own = distributed.shard(data.ids)
    stream.scan(own, compare, add, torch.device("cpu"), f"evaluate {Path(seeds).name}", data.size)
    labelled = distributed.all_reduce_sum(labelled)
    if not labelled[0]:
        remarks.add(
            f"seeds are {IGNORE} (unsure) everywhere, so their mIoU is undefined",
            seeds,
            unit="folder",
        )
    matrices = distributed.all_reduce_sum(confusion)
    of_known, of_all = (metrics_of(m, data.classes, len(data)).miou for m in matrices)
    return {
        "miou": of_known,
        "miou_as_background": of_all,
        "coverage": labelled[0] / labelled[1],
    }


def average_precision(scores: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Average precision of each class: the mean precision at the ranks of its positive images.

    Args:
        scores: float [N, C]; higher means that the class is present.
        tags: multi-hot tags, [N, C] of 0 and 1.

    Returns:
        float64 [C] in 0..1; NaN for a class without a positive image.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(tags, order, axis=0).astype(float)
    precision = np.cumsum(hits, axis=0) / np.arange(1, len(hits) + 1)[:, None]
    with np.errstate(invalid="ignore"):
        return (precision * hits).sum(axis=0) / hits.sum(axis=0)
