"""The activation-aware mask refinement loss in plain PyTorch."""

import torch
from torch import Tensor

from .nearest import resized

__all__ = ["aamr_loss", "aamr_loss_grad"]


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
    """The definition of `wsss_fast.ops.aamr_loss`: same arguments, any floating point dtype.

    NaN for values of saliency or response that the op rejects.
    """
    target, region, wrong = _region(logits, saliency, response, salient, active, overlap)
    used = torch.where(region[:, None], logits, 0.0)
    odds = _log_odds(used)
    each = torch.nn.functional.binary_cross_entropy_with_logits(odds, target, reduction="none")
    mean = torch.where(region, each, 0.0).sum() / region.sum().clamp(min=1)
    loss = mean.masked_fill(wrong, torch.nan)
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
    """d loss / d logits in closed form: an op's default kernel runs below autograd."""
    target, region, _ = _region(logits, saliency, response, salient, active, overlap)
    foreground = logits[:, 1:]
    # d loss of a pixel / d odds
    slope = _log_odds(logits).sigmoid() - target
    grad = torch.cat(
        [-slope[:, None], slope[:, None] * foreground.softmax(1)], 1
    ) / region.sum().clamp(min=1)
    return torch.where(region[:, None], grad, 0.0)


def _log_odds(logits: Tensor) -> Tensor:
    """The logit of 1 - softmax(logits)[0]; NaN where the largest foreground logit is infinite."""
    foreground = logits[:, 1:]
    top = foreground.detach().amax(1)
    return top - logits[:, 0] + (foreground - top[:, None]).exp().sum(1).log()


def _region(
    logits: Tensor,
    saliency: Tensor,
    response: Tensor,
    salient: float,
    active: float,
    overlap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The target, the region of the loss, both [B, h, w], and whether a value is out of range.

    The target is the saliency at the logits' size.
    """
    target = resized(saliency, logits)
    largest = resized(response.amax(1) if response.dim() == 4 else response, logits)
    wrong = ~((target >= 0) & (target <= 1) & ~largest.isnan()).all()
    is_salient, is_active = target >= salient, largest >= active
    names, area = _regions(is_salient).unique(return_inverse=True, return_counts=True)[1:]
    active_pixels = torch.zeros_like(area).index_add_(
        0, names.flatten(), is_active.flatten().to(area.dtype)
    )
    share = active_pixels.double() / area
    return target, torch.where(is_salient, (share >= overlap)[names], ~is_active), wrong


def _regions(mask: Tensor) -> Tensor:
    """The 8-connected regions of a mask [B, h, w], numbered by their highest pixel; 0 outside.

    Pixels are numbered from 1 on. Every pixel takes the highest number among its neighbours, until
    none changes.
    """
    numbers = torch.arange(1, mask.numel() + 1, device=mask.device, dtype=torch.float64)
    names = numbers.view(mask.shape) * mask
    while mask.numel():
        spread = torch.nn.functional.max_pool2d(names, 3, stride=1, padding=1) * mask
        if torch.equal(spread, names):
            break
        names = spread
    return names
