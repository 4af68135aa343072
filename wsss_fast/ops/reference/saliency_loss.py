"""EPS' saliency loss in plain PyTorch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .nearest import resized

__all__ = ["saliency_loss", "saliency_loss_grad"]


class SaliencyLoss(NamedTuple):
    """The loss and the maps it is computed from, which have as many dimensions as the saliency.

    Attributes:
        loss: scalar.
        foreground: summed probabilities of the foreground classes.
        background: summed probabilities of the background and the present classes that count as
            background.
        estimate: lam * foreground + (1 - lam) * (1 - background), compared with the saliency.

    >>> SaliencyLoss(*torch.zeros(4)).estimate
    tensor(0.)
    """

    loss: Tensor
    foreground: Tensor
    background: Tensor
    estimate: Tensor


def saliency_loss(
    logits: Tensor,
    saliency: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.4,
    lam: float = 0.5,
    strategy: str = "adaptive",
    background_classes: Sequence[int] = (),
) -> SaliencyLoss:
    """The definition of `wsss_fast.ops.saliency_loss`: same arguments, any floating point dtype.

    NaN for a saliency outside 0..1.
    """
    salient = resized(saliency, logits)
    probabilities = logits.softmax(1)
    as_foreground, as_background = _roles(
        probabilities, salient, labels, tau, strategy, background_classes
    )
    foreground = torch.where(as_foreground, probabilities, 0.0).sum(1)
    background = torch.where(as_background, probabilities, 0.0).sum(1)
    estimate = lam * foreground + (1 - lam) * (1 - background)
    wrong = ~((salient >= 0) & (salient <= 1)).all()
    mean = (estimate - salient).square().sum() / max(salient.numel(), 1)
    loss = mean.masked_fill(wrong, torch.nan)
    shape = (*saliency.shape[:-2], *logits.shape[2:])
    return SaliencyLoss(loss, *(m.reshape(shape) for m in (foreground, background, estimate)))


def saliency_loss_grad(
    logits: Tensor,
    saliency: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.4,
    lam: float = 0.5,
    strategy: str = "adaptive",
    background_classes: Sequence[int] = (),
) -> Tensor:
    """d loss / d logits in closed form: an op's default kernel runs below autograd."""
    salient = resized(saliency, logits)
    probabilities = logits.softmax(1)
    roles = _roles(probabilities, salient, labels, tau, strategy, background_classes)
    foreground, background = (role.to(logits.dtype) for role in roles)
    slope = lam * foreground - (1 - lam) * background  # d estimate / d probability
    estimate = (slope * probabilities).sum(1) + 1 - lam
    outer = 2 * (estimate - salient) / max(salient.numel(), 1)  # d loss / d estimate
    return outer[:, None] * probabilities * (slope - (slope * probabilities).sum(1, keepdim=True))


def _roles(
    probabilities: Tensor,
    salient: Tensor,
    labels: Tensor,
    tau: float,
    strategy: str,
    background_classes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Which channels count as foreground and which as background, [B, K, 1, 1] bool."""
    always = torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
    present = torch.cat([~always, labels != 0], 1)  # [B, K]
    chosen = present.clone()
    if strategy == "adaptive":
        wins = probabilities.detach().round()  # 1 above one half, 0 at it
        ratio = (wins * salient.round()[:, None]).sum((2, 3)) / (wins + 1e-4).sum((2, 3))
        chosen = present & (ratio > tau)
    if strategy == "predefined":
        chosen[:, list(background_classes)] = False
    background = torch.cat([always, (present & ~chosen)[:, 1:]], 1)
    return chosen[..., None, None], background[..., None, None]
