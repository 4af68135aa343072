"""Losses that are means over the pixels of the whole batch, over all processes.

Several processes then train as one process would on the whole batch.
"""

from __future__ import annotations

import torch

from wsss_fast.data.images import IGNORE
from wsss_fast.engine import distributed
from wsss_fast.engine.ddp import global_mean
from wsss_fast.ops import aamr_loss, pixel_cross_entropy
from wsss_fast.ops.reference.pixel_loss import nearest


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool = False,
    resize: str = "labels",
) -> torch.Tensor:
    """`ops.pixel_cross_entropy` over the whole batch; arguments and errors as there.

    Collective.
    """
    options = {"smoothing": smoothing, "resize": resize}
    if distributed.world_size() == 1:
        return pixel_cross_entropy(logits, labels, balance=balance, **options)
    counted = nearest(labels, *logits.shape[-2:]) if resize == "labels" else labels
    known, background = counted != IGNORE, counted == 0
    if not balance:
        return global_mean(pixel_cross_entropy(logits, labels, **options), known.sum())
    losses = [
        global_mean(
            pixel_cross_entropy(logits, torch.where(group, labels, IGNORE), **options),
            counted_group.sum(),
        )
        for group, counted_group in (
            (labels == 0, background),
            (labels != 0, known & ~background),
        )
    ]
    return sum(losses) / 2


def aamr(
    logits: torch.Tensor, saliency: torch.Tensor, response: torch.Tensor, **options: float
) -> torch.Tensor:
    """`ops.aamr_loss` over the whole batch; arguments and errors as there.

    Collective.
    """
    if distributed.world_size() == 1:
        return aamr_loss(logits, saliency, response, **options)
    loss, region = aamr_loss(logits, saliency, response, return_region=True, **options)
    return global_mean(loss, region.sum())
