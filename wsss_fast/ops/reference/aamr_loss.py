"""The activation-aware mask refinement loss in plain PyTorch."""

import torch
from torch import Tensor

from .nearest import resized


def aamr_loss(
    logits: Tensor,
    saliency: Tensor,
    response: Tensor,
    *,
    salient: float = 0.5,
    active: float = 0.2,
    overlap: float = 0.1,
    return_region: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The definition of `wsss_fast.ops.aamr_loss`: same arguments, float64-capable; NaN where that refuses the values."""
    shown, region, wrong = _region(logits, saliency, response, salient, active, overlap)
    odds = logits[:, 1:].logsumexp(1) - logits[:, 0]  # sigmoid of it is 1 - softmax(logits)[0]
    each = torch.nn.functional.binary_cross_entropy_with_logits(odds, shown, reduction="none")
    total = torch.where(region, each, 0.0).sum() / region.sum().clamp(min=1)
    loss = total.masked_fill(wrong, torch.nan)
    return (loss, region) if return_region else loss


def aamr_loss_grad(
    logits: Tensor,
    saliency: Tensor,
    response: Tensor,
    *,
    salient: float = 0.5,
    active: float = 0.2,
    overlap: float = 0.1,
) -> Tensor:
    """d loss / d logits in closed form: an op's default kernel runs below autograd, so it cannot ask autograd for this."""
    shown, region, _ = _region(logits, saliency, response, salient, active, overlap)
    foreground = logits[:, 1:]
    pull = (foreground.logsumexp(1) - logits[:, 0]).sigmoid() - shown  # d loss of a pixel / d odds
    grad = torch.cat(
        [-pull[:, None], pull[:, None] * foreground.softmax(1)], 1
    ) / region.sum().clamp(min=1)
    return torch.where(region[:, None], grad, 0.0)


def _region(logits, saliency, response, salient, active, overlap) -> tuple[Tensor, Tensor, Tensor]:
    """The saliency at the logits' size, where the loss is taken, both [B, h, w], and whether a value is wrong."""
    shown, answer = (
        resized(saliency, logits),
        resized(response.amax(1) if response.dim() == 4 else response, logits),
    )
    wrong = ~((shown >= 0) & (shown <= 1) & ~answer.isnan()).all()
    is_salient, is_active = shown >= salient, answer >= active
    names, area = _regions(is_salient).unique(return_inverse=True, return_counts=True)[1:]
    share = (
        torch.zeros_like(area)
        .index_add_(0, names.flatten(), is_active.flatten().to(area.dtype))
        .double()
        / area
    )
    return shown, torch.where(is_salient, (share >= overlap)[names], ~is_active), wrong


def _regions(mask: Tensor) -> Tensor:
    """8-connected regions of a mask [B, h, w], each by its highest pixel number from 1 on; 0 outside.

    Every pixel takes the highest number around it, until none changes.
    """
    names = (
        torch.arange(1, mask.numel() + 1, device=mask.device, dtype=torch.float64).view(mask.shape)
        * mask
    )
    while True:
        spread = torch.nn.functional.max_pool2d(names, 3, stride=1, padding=1) * mask
        if torch.equal(spread, names):
            return names
        names = spread
