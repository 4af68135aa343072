"""Class maps and constant background scores: labels at several, pixels counted at many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_CELLS = 2048  # a power of two, so that a score times it is exact


def label_index(scores: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Argmax of the scores against each of S constant background scores; background wins ties.

    Among classes of one score the first wins. Nothing is copied to the host.

    Args:
        scores: [..., K, H, W] float32, without a background row; at most 254 rows.
        thresholds: S scores of the background; compared as float32.

    Returns:
        uint8 [..., S, H, W] in 0..K: 0 for background, otherwise 1 + the row.
    """
    lead, count, size = scores.shape[:-3], scores.shape[-3], scores.shape[-2:]
    out = scores.new_empty((*lead, len(thresholds), *size), dtype=torch.uint8)
    if not count:
        return out.zero_()
    row, best = best_row(scores)
    row += 1
    for labels, threshold in zip(out.unbind(-3), thresholds, strict=True):
        above = best > np.float32(threshold).item()
        torch.mul(above.view(torch.uint8), row, out=labels)
    return out


def add_counts(
    counts: Tensor, scores: Tensor, keys: Tensor, truth: Tensor, thresholds: Tensor
) -> None:
    """Count the pixels of an image by best class, true label and number of thresholds exceeded.

    One pass serves all thresholds. All tensors are on one device; nothing is copied to the host
    from a GPU.

    Args:
        counts: [T + 1, L, L] int64, added to in place: `counts[t, g, p]` is the number of pixels of
            true label g whose best class has label p and a score above exactly t thresholds.
        scores: [K, H, W] float32, finite. Without any class, the best label is 0 and exceeds no
            threshold.
        keys: labels of the rows of `scores`, int64 [K] in 0..L-1.
        truth: true labels, uint8 [H, W]; pixels of labels that are not below L, such as 255, are
            not counted.
        thresholds: [T] float32, ascending.
    """
    steps, labels = len(thresholds) + 1, counts.shape[1]
    rows = max(1, len(keys))
    if len(keys):
        row, best = best_row(scores)
        index = _number_below(best, thresholds).mul_(256).add_(truth).mul_(rows).add_(row)
    else:
        index, keys = truth.to(torch.int32), keys.new_zeros(1)
    bins = steps * 256 * rows
    if index.is_cuda:  # bincount would read the largest index on the host
        where = index.flatten().long()
        found = counts.new_zeros(bins).scatter_add_(0, where, torch.ones_like(where))
    else:
        found = torch.bincount(index.flatten(), minlength=bins)
    counts.index_add_(2, keys, found.view(steps, 256, rows)[:, :labels])


def best_row(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Row of each pixel's largest score, the first one of ties, uint8; and the score.

    Args:
        scores: [..., K, H, W], 1 <= K <= 256.

    Returns:
        uint8 and the dtype of `scores`, both [..., H, W].
    """
    if scores.is_cuda:
        best, index = scores.max(dim=-3)
        return index.to(torch.uint8), best
    # Reductions over an outer dimension are slow on the CPU, comparisons of planes are not.
    best, *others = scores.unbind(-3)
    row = torch.zeros(best.shape, dtype=torch.uint8)
    for number, plane in enumerate(others, 1):
        larger = torch.gt(plane, best).view(torch.uint8)
        row = torch.maximum(row, larger.mul_(number))
        best = torch.maximum(best, plane)
    return row, best


def _number_below(scores: Tensor, thresholds: Tensor) -> Tensor:
    """Number of thresholds below each score, int32: a pixel at the threshold is background."""
    if scores.is_cuda:
        return torch.bucketize(scores, thresholds, out_int32=True)
    # A table over cells of scores instead of a binary search: where no cell holds two thresholds,
    # the number is that below the cell, and one more if the score exceeds the next threshold.
    edges = torch.arange(_CELLS + 1, dtype=torch.float32) / _CELLS
    below = torch.bucketize(edges, thresholds, out_int32=True)
    in_cell = torch.diff(below, append=below.new_tensor([len(thresholds)]))
    if below[0] > 0 or in_cell.max() > 1:
        return torch.bucketize(scores, thresholds, out_int32=True)
    after = torch.cat([thresholds, thresholds.new_tensor([torch.inf])]).index_select(0, below)
    cell = scores.mul(_CELLS).clamp_(0, _CELLS).to(torch.int32).flatten()
    larger = scores.flatten() > after.index_select(0, cell)
    return below.index_select(0, cell).add_(larger).view(scores.shape)
