"""EPS' saliency loss in plain PyTorch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .nearest import resized


class SaliencyLoss(NamedTuple):
    """The loss, a scalar, and the maps that it compares with the saliency; these have the saliency's dimensions.

    foreground: summed probabilities of the foreground classes; background: of background and the present classes that
    joined it; estimate: lam * foreground + (1 - lam) * (1 - background).

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
    """The definition of `wsss_fast.ops.saliency_loss`: same arguments, float64-capable; NaN if saliency leaves 0..1."""
    salient = resized(saliency, logits)
    probabilities = logits.softmax(1)
    as_foreground, as_background = _roles(
        probabilities, salient, labels, tau, strategy, background_classes
    )
    foreground, background = (
        (probabilities * as_foreground).sum(1),
        (probabilities * as_background).sum(1),
    )
    estimate = lam * foreground + (1 - lam) * (1 - background)
    wrong = ~((salient >= 0) & (salient <= 1)).all()
    loss = ((estimate - salient).square().sum() / max(salient.numel(), 1)).masked_fill(
        wrong, torch.nan
    )
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
    """d loss / d logits in closed form: an op's default kernel runs below autograd, so it cannot ask autograd for this."""
    salient = resized(saliency, logits)
    probabilities = logits.softmax(1)
    roles = _roles(probabilities, salient, labels, tau, strategy, background_classes)
    slope = lam * roles[0].to(logits.dtype) - (1 - lam) * roles[1].to(
        logits.dtype
    )  # d estimate / d probability
    estimate = (slope * probabilities).sum(1) + 1 - lam
    pull = 2 * (estimate - salient) / max(salient.numel(), 1)
    return pull[:, None] * probabilities * (slope - (slope * probabilities).sum(1, keepdim=True))


def _roles(
    probabilities, salient, labels, tau, strategy, background_classes
) -> tuple[Tensor, Tensor]:
    """Which channels form the foreground and which the background, [B, K, 1, 1] bool."""
    always = torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
    present = torch.cat([~always, labels != 0], 1)  # [B, K]
    chosen = present.clone()
    if strategy == "adaptive":
        wins = probabilities.detach().round()  # 1 above a half, 0 at it
        ratio = (wins * salient.round()[:, None]).sum((2, 3)) / (wins + 1e-4).sum((2, 3))
        chosen = present & (ratio > tau)
    if strategy == "predefined":
        chosen[:, list(background_classes)] = False
    background = torch.cat([always, (present & ~chosen)[:, 1:]], 1)
    return chosen[..., None, None], background[..., None, None]
