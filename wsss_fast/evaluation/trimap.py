"""Boundary quality: mIoU of the pixels near a true boundary."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from wsss_fast.data.dataset import Dataset
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.evaluation.metrics import confusion_matrix, metrics_of
from wsss_fast.readers.label_maps import IGNORE


def trimap_miou(
    data: Dataset, labels: Callable[[str], np.ndarray], radii: Sequence[int] = (1, 2, 4, 8, 16)
) -> dict[int, float]:
    """mIoU within a few pixels of the true boundaries, for several distances.

    A boundary is where a pixel's true label differs from that of its right or lower neighbour,
    including 255, which surrounds VOC's objects. A pixel counts at radius r if a boundary pixel is
    at most r pixels away in both directions, and its own true label is not 255.

    Args:
        data: data set with masks; ids without a mask are not counted.
        labels: function from an id to its prediction, uint8 [H, W] of 0..C.
        radii: distances in pixels, >= 1.

    Returns:
        mIoU in 0..1 by radius; NaN where no pixel counts.

    Raises:
        InputError: a radius is below 1, or there are no masks.

    Source: Kohli, Ladicky and Torr, IJCV 2009; Chen et al., PAMI 2018, section 4.4.
    """
    if any(r < 1 for r in radii):
        raise InputError(f"trimap: radii must be >= 1 pixel, got {tuple(radii)}")
    data, num_labels = data.with_masks(), len(data.classes) + 1
    confusion = {r: np.zeros((num_labels, num_labels), np.int64) for r in radii}
    for id in track(data.ids, "trimap"):
        truth, predicted = data.mask(id), labels(id)
        edge = torch.from_numpy(boundary(truth))[None].float()
        for radius in radii:
            near = dilate(edge, radius)[0].numpy() > 0
            confusion[radius] += confusion_matrix(
                np.where(near, truth, IGNORE), predicted, num_labels
            )
    return {
        radius: metrics_of(matrix, data.classes, len(data)).miou
        for radius, matrix in confusion.items()
    }


def dilate(edge: torch.Tensor, radius: int) -> torch.Tensor:
    """Maximum over a square of side 2 radius + 1 around each pixel of [1, H, W]."""
    pool, side = torch.nn.functional.max_pool2d, 2 * radius + 1  # separable
    return pool(pool(edge, (side, 1), 1, (radius, 0)), (1, side), 1, (0, radius))


def boundary(labels: np.ndarray) -> np.ndarray:
    """Pixels on both sides of a change of label, bool [H, W]."""
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge
