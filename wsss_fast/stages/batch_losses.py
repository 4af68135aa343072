"""Losses that are means over the pixels of the whole batch, over all processes.

Several processes then train as one process would on the whole batch.
"""

from __future__ import annotations

import torch

from wsss_fast.engine import distributed
from wsss_fast.engine.ddp import global_mean
from wsss_fast.ops import aamr_loss, pixel_cross_entropy
from wsss_fast.ops.reference.pixel_loss import nearest
from wsss_fast.readers.label_maps import IGNORE


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    resize: str = "labels",
) -> torch.Tensor:
    """`ops.pixel_cross_entropy` over the whole batch, with its arguments and errors.

    Collective.
    """
    # "image": all processes have equally many images, and their means are averaged.
    if distributed.world_size() == 1 or balance not in (False, True, "none", "batch"):
        return pixel_cross_entropy(
            logits, labels, smoothing=smoothing, balance=balance, resize=resize
        )

    def mean(selected: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The mean loss of the selected labels, of which `pixels` remain after resizing."""
        loss = pixel_cross_entropy(logits, selected, smoothing=smoothing, resize=resize)
        return global_mean(loss, pixels.sum())

    resized = nearest(labels, *logits.shape[-2:]) if resize == "labels" else labels
    known, background = resized != IGNORE, resized == 0
    if balance in (False, "none"):
        return mean(labels, known)
    of_background = mean(torch.where(labels == 0, labels, IGNORE), background)
    of_classes = mean(torch.where(labels != 0, labels, IGNORE), known & ~background)
    return (of_background + of_classes) / 2


def aamr(
    logits: torch.Tensor,
    saliency: torch.Tensor,
    response: torch.Tensor,
    *,
    salient: float = 0.5,
    active: float = 0.2,
    overlap: float = 0.1,
) -> torch.Tensor:
    """`ops.aamr_loss` over the whole batch, with its arguments and errors.

    Collective.
    """
    alone = distributed.world_size() == 1
    result = aamr_loss(
        logits,
        saliency,
        response,
        salient=salient,
        active=active,
        overlap=overlap,
        return_region=not alone,
    )
    if isinstance(result, torch.Tensor):
        return result
    loss, region = result
    return global_mean(loss, region.sum())
