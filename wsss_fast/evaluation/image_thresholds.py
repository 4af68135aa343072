"""How much a common threshold costs: the best threshold of each image alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wsss_fast.data import Source, opened
from wsss_fast.engine import distributed, stream
from wsss_fast.evaluation.curves import THRESHOLDS, by_threshold, scores_and_truth
from wsss_fast.evaluation.metrics import Metrics, metrics_of
from wsss_fast.maps import check_maps
from wsss_fast.thresholds import add_counts


@dataclasses.dataclass(frozen=True)
class ImageThresholds:
    """Best thresholds of single images.

    Attributes:
        best: best threshold by id.
        metrics: metrics of all images together, each at its own best threshold.
    """

    best: dict[str, float]
    metrics: Metrics

    @property
    def spread(self) -> float:
        """Standard deviation of the images' best thresholds."""
        return float(np.std(list(self.best.values())))


def image_thresholds(
    maps: str | Path,
    data: Source,
    *,
    around: float,
    thresholds: Sequence[float] = THRESHOLDS,
) -> ImageThresholds:
    """Best background score of each image, by the mIoU of its own labels.

    An image's mIoU is the mean IoU over the labels in its true mask or prediction, background
    included. Of equally good thresholds, the one nearest to `around` counts, so that an image for
    which the threshold does not matter adds nothing to the spread.

    Collective: each process reads its shard of the maps.

    Args:
        maps: folder of maps.
        data: data set with masks; ids without a mask are not counted.
        around: the best common threshold, 0..1.
        thresholds: background scores to choose from, ascending, 0..1.

    Raises:
        InputError: there are no masks, or maps are missing or of another size.
    """
    folder, whole, cpu = Path(maps), opened(data, tags=False), torch.device("cpu")
    data = whole.with_masks()
    check_maps(folder, data)
    num_labels, bounds = len(data.classes) + 1, torch.tensor(thresholds, dtype=torch.float32)
    nearest = np.argsort(np.abs(np.asarray(thresholds) - around), kind="stable")
    total = np.zeros((num_labels, num_labels), np.int64)
    best: dict[str, float] = {}

    def choose(id: str, loaded: tuple[torch.Tensor, ...]) -> None:
        scores, keys, truth = loaded
        counts = torch.zeros((len(thresholds) + 1, num_labels, num_labels), dtype=torch.int64)
        add_counts(counts, scores.float(), keys, truth, bounds)
        matrices = by_threshold(counts.numpy())
        if not matrices.any():
            return  # the true mask is 255 everywhere
        chosen = nearest[int(_miou(matrices)[nearest].argmax())]
        best[id] = float(thresholds[chosen])
        total[...] += matrices[chosen]

    own, load = distributed.shard(data.ids), scores_and_truth(folder, data, cpu)
    stream.scan(own, load, choose, cpu, f"thresholds {folder.parent.name}", data.size)
    found = {id: t for part in distributed.all_gather_objects(best) for id, t in part.items()}
    confusion = distributed.all_reduce_sum(total)
    return ImageThresholds(found, metrics_of(confusion, data.classes, len(data), len(whole)))


def _miou(matrices: np.ndarray) -> np.ndarray:
    """Mean IoU of each confusion matrix [T, L, L], over the labels that occur in it."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(axis=1) + matrices.sum(axis=2) - hits
    iou = np.divide(hits, union, out=np.zeros(union.shape), where=union > 0)
    return iou.sum(axis=1) / (union > 0).sum(axis=1)
