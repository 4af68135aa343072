"""Evaluation: one confusion matrix over the whole list, curves over the threshold, average precision of tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from wsss_fast import ranks
from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import IGNORE, read_labels
from wsss_fast.data.label_folder import check_label_folder
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, label_index, load_maps, to_labels
from wsss_fast.progress import Bar, track
from wsss_fast.stages.seeds import Crf, refined_labels

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(46))  # 0.00 .. 0.90


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
        return {"miou": self.miou, "iou": self.iou, "precision": self.precision, "recall": self.recall, "images": self.images}


@dataclasses.dataclass(frozen=True)
class Curve:
    """mIoU over the constant background score.

    Attributes:
        thresholds: background scores.
        miou: mIoU at each.
        best: the threshold of the highest mIoU.
        metrics: at the best threshold.
    """

    thresholds: tuple[float, ...]
    miou: tuple[float, ...]
    best: float
    metrics: Metrics

    def at(self, threshold: float) -> float:
        """mIoU at the threshold of the curve nearest to the given one."""
        return self.miou[int(np.abs(np.array(self.thresholds) - threshold).argmin())]


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """int64 [L, L], rows truth, columns prediction; pixels whose truth is 255 are left out."""
    valid = truth != IGNORE
    pairs = truth[valid].astype(np.int64) * num_labels + prediction[valid]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def metrics_of(confusion: np.ndarray, classes: Sequence[str], images: int) -> Metrics:
    """Metrics of a confusion matrix [C+1, C+1]; a class absent from truth and prediction is left out of the mean."""
    hits, truth, predicted = np.diag(confusion).astype(float), confusion.sum(axis=1), confusion.sum(axis=0)
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
    folder, num_labels = check_label_folder(Path(predictions), data, "predictions"), len(data.classes) + 1
    confusion = np.zeros((num_labels, num_labels), np.int64)
    for id in track(ranks.share(data.ids), f"evaluate {folder.name}"):
        path = folder / f"{id}.png"
        prediction, truth = read_labels(path, len(data.classes)), data.mask(id)
        if prediction.shape != truth.shape:
            raise InputError(f"{path}: is {prediction.shape}, but its mask {data.masks[id]} is {truth.shape}")
        if (prediction == IGNORE).any():
            raise InputError(f"{path}: holds {IGNORE} (ignore); a prediction must name a class for every pixel")
        confusion += confusion_matrix(truth, prediction, num_labels)
    return metrics_of(ranks.summed(confusion), data.classes, len(data))


def evaluate_seeds(seeds: str | Path, data: Dataset) -> dict[str, float]:
    """Quality of seeds: mIoU with 255 as not counted, and the share of pixels that got a label; both 0..1."""
    num_labels, data = len(data.classes) + 1, data.with_masks()
    confusion, labelled = np.zeros((num_labels, num_labels), np.int64), np.zeros(2, np.int64)
    for id in ranks.share(data.ids):
        seed, truth = read_labels(Path(seeds) / f"{id}.png", len(data.classes)), data.mask(id)
        known = seed != IGNORE
        confusion += confusion_matrix(np.where(known, truth, IGNORE), np.where(known, seed, 0), num_labels)
        labelled += known.sum(), known.size
    labelled = ranks.summed(labelled)
    return {"miou": metrics_of(ranks.summed(confusion), data.classes, len(data)).miou, "coverage": labelled[0] / labelled[1]}


def threshold_curve(maps: str | Path, data: Source, *, thresholds: Sequence[float] = THRESHOLDS) -> Curve:
    """mIoU of the argmax of class maps over the constant background score.

    All thresholds come from one pass: a pixel's best class and its score decide the label at every threshold.

    Args:
        maps: folder of maps.
        data: data set with masks.
        thresholds: background scores to try, ascending, 0..1.

    Raises:
        InputError: no masks, maps that are missing or of another size.
    """
    folder, data = Path(maps), opened(data).with_masks()
    num_labels, steps = len(data.classes) + 1, len(thresholds)
    check_maps(folder, data)
    bounds = np.asarray(thresholds, np.float32)
    # passed[t, g, p]: pixels of truth g whose best class p lies above exactly t of the thresholds
    passed = np.zeros((steps + 1) * num_labels * num_labels, np.int64)
    for id in track(ranks.share(data.ids), f"curve {folder.parent.name}"):
        truth = data.mask(id)
        loaded = load_maps(folder, id).foreground()
        best, score = _best(loaded.at_size(*truth.shape), loaded.keys)
        valid = truth != IGNORE
        above = np.searchsorted(bounds, score[valid], side="left")  # score > threshold, ties to the background
        passed += np.bincount((above * num_labels + truth[valid]) * num_labels + best[valid], minlength=passed.size)
    passed = ranks.summed(passed).reshape(steps + 1, num_labels, num_labels)
    total, matrices = passed.sum(axis=0), []
    below = np.cumsum(passed, axis=0)
    for t in range(steps):
        confusion = total - below[t]  # passed more than t thresholds: kept as foreground
        confusion[:, 0] += below[t].sum(axis=1)
        matrices.append(confusion)
    return _curve(thresholds, matrices, data.classes, len(data))


def labels_at(folder: Path, data: Dataset, threshold: float) -> Callable[[str], np.ndarray]:
    """id -> labels uint8 [H, W]: the argmax of its maps in `folder` against a constant background score."""
    def labels(id: str) -> np.ndarray:
        loaded = load_maps(folder, id).foreground()
        return to_labels(label_index(loaded.at_size(*data.size(id)), threshold), loaded.keys)
    return labels


def _best(scores: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(keys):
        return np.zeros(scores.shape[1:], np.int64), np.full(scores.shape[1:], -1, np.float32)
    return keys.astype(np.int64)[scores.argmax(axis=0)], scores.max(axis=0)


def crf_curve(maps: str | Path, data: Dataset, crf: Crf, *, thresholds: Sequence[float], batch_size: int = 16,
              device: str = "cpu", label: str = "CRF curve") -> Curve:
    """As `threshold_curve`, with a dense CRF behind the argmax at each threshold: the papers' "+ dCRF" rows."""
    folder, num_labels, data = Path(maps), len(data.classes) + 1, data.with_masks()
    check_maps(folder, data)
    matrices = np.zeros((len(thresholds), num_labels, num_labels), np.int64)
    own = data.only(ranks.share(data.ids))
    with Bar(label, len(own)) as bar:
        for ids, stack in refined_labels(own, folder, thresholds, crf, batch_size, device):
            for id, labels in zip(ids, stack, strict=True):
                truth = data.mask(id)
                matrices += np.stack([confusion_matrix(truth, one, num_labels) for one in labels])
            bar.advance(len(ids))
    return _curve(thresholds, list(ranks.summed(matrices)), data.classes, len(data))


def _curve(thresholds: Sequence[float], matrices: list[np.ndarray], classes: Sequence[str], images: int) -> Curve:
    metrics = [metrics_of(m, classes, images) for m in matrices]
    best = int(np.argmax([m.miou for m in metrics]))
    return Curve(tuple(thresholds), tuple(m.miou for m in metrics), thresholds[best], metrics[best])


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
