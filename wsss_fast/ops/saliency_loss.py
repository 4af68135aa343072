"""EPS' saliency loss: schema, fake, autograd, public function."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._library import can_inspect_values, define, scaled_gradient
from .reference.saliency_loss import SaliencyLoss

STRATEGIES = ("adaptive", "naive", "predefined")


def _reference(logits, saliency, present, tau, lam, adaptive, background_classes):
    # Without classes for the background, "predefined" is "naive".
    options = {
        "tau": tau,
        "lam": lam,
        "strategy": STRATEGIES[0 if adaptive else 2],
        "background_classes": background_classes,
    }
    wide = logits.to(saliency.dtype)
    result = reference.saliency_loss(wide, saliency, present, **options)
    grad = reference.saliency_loss_grad(wide, saliency, present, **options)
    return *(t.contiguous() for t in result), grad.contiguous()


def _fake(logits, saliency, present, tau, lam, adaptive, background_classes):
    maps = (saliency.new_empty(*saliency.shape[:-2], *logits.shape[2:]) for _ in range(3))
    return saliency.new_empty(()), *maps, saliency.new_empty(logits.shape)


def _setup_context(ctx, inputs, output):
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[4])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, grad_loss, *_):
    (grad,) = ctx.saved_tensors
    return None if grad_loss is None else scaled_gradient(grad, grad_loss).to(ctx.dtype), *[
        None
    ] * 6


# logits [B, K, h, w], saliency [B, H, W] or [B, 1, H, W] float32 (float64 for float64 logits), present [B, K - 1] uint8
# -> loss [], foreground, background and estimate like the saliency at the logits' size, d loss / d logits [B, K, h, w],
# all of the saliency's dtype
_op = define(
    "saliency_loss(Tensor logits, Tensor saliency, Tensor present, float tau, float lam, bool adaptive, "
    "int[] background_classes) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


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
    """Mean squared difference between a saliency map and what class probabilities say is salient.

    With p = softmax over channels: F = sum of p_k over the classes of the foreground, G = p_0 + sum of p_k over the other
    present classes, estimate = lam F + (1 - lam) (1 - G), loss = mean (estimate - saliency)^2. The saliency is read at
    the logits' size by nearest, its indices rounded down. Absent classes are in neither map.

    Args:
        logits: [B, C+1, h, w] floating, background first.
        saliency: [B, 1, H, W] or [B, H, W] floating, in 0..1.
        labels: [B, C], not 0 for the classes that are present, any dtype.
        tau: the overlap ratio from which a class is foreground.
        lam: in 0..1, weight of the foreground map.
        strategy: which present classes are the foreground. "adaptive": those of ratio > tau, where the ratio is
            sum(round(p_k) round(saliency)) / sum(round(p_k) + 1e-4), half rounded down, without a gradient; a class that
            exceeds 1/2 nowhere is background. "naive": all. "predefined": all but `background_classes`.
        background_classes: labels, 1..C, only for "predefined".

    Returns:
        SaliencyLoss(loss, foreground, background, estimate): loss a scalar, the maps [B, 1, h, w] or [B, h, w] like the
        saliency; float32 (float64 for float64 logits).

    Differentiable in logits through the loss, once; the maps carry no gradient.
    Raises ValueError, naming the argument and what it got. Saliency out of range makes the loss NaN where a look at the
    values would cost time: on other devices than the CPU and in compiled graphs.
    Source: EPS (Lee, Lee, Lee and Shim, CVPR 2021), section 3.2, eqs. 2 to 5, and its public code.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # background on the left, class 1 on the right
    >>> out = saliency_loss(logits, torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1]]))
    >>> out.loss, out.estimate
    (tensor(0.0142), tensor([[[0.1192, 0.8808]]]))
    """
    _check(logits, saliency, labels, tau, lam, strategy, background_classes)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss, *maps, _ = _op(
        logits,
        saliency.detach().to(dtype),
        (labels != 0).view(torch.uint8),
        float(tau),
        float(lam),
        strategy == "adaptive",
        list(background_classes),
    )
    if can_inspect_values(loss) and math.isnan(loss.item()):
        _check_values(saliency)
    return SaliencyLoss(loss, *maps)


def _check(logits, saliency, labels, tau, lam, strategy, background_classes) -> None:
    op = "saliency_loss"
    if logits.dim() != 4 or not logits.is_floating_point() or 0 in logits.shape[1:]:
        raise ValueError(
            f"{op}: logits is {logits.dtype} {list(logits.shape)}; must be floating [B, C+1, h, w], none empty"
        )
    batch, channels = logits.shape[:2]
    if (
        saliency.dim() not in (3, 4)
        or saliency.dim() == 4
        and saliency.shape[1] != 1
        or not saliency.is_floating_point()
    ):
        wanted = "floating [B, 1, H, W] or [B, H, W]"
        raise ValueError(
            f"{op}: saliency is {saliency.dtype} {list(saliency.shape)}; must be {wanted}"
        )
    if saliency.shape[0] != batch or 0 in saliency.shape[1:]:
        raise ValueError(
            f"{op}: logits is {list(logits.shape)} but saliency is {list(saliency.shape)}; B must match"
        )
    if labels.shape != (batch, channels - 1):
        raise ValueError(
            f"{op}: labels is {list(labels.shape)}; must be [{batch}, {channels - 1}] for these logits"
        )
    for name, tensor in (("saliency", saliency), ("labels", labels)):
        if tensor.device != logits.device:
            raise ValueError(f"{op}: logits is on {logits.device} but {name} is on {tensor.device}")
    for name, value in (("tau", tau), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"{op}: {name} is {value}; must be in [0, 1]")
    if strategy not in STRATEGIES:
        raise ValueError(f"{op}: strategy is {strategy!r}; must be one of {STRATEGIES}")
    if background_classes and strategy != "predefined":
        raise ValueError(
            f"{op}: background_classes is {background_classes}; only strategy='predefined' takes them"
        )
    for label in background_classes:
        if not 1 <= label < channels:
            raise ValueError(
                f"{op}: background_classes holds {label}; must be in 1..{channels - 1}"
            )


def _check_values(saliency: Tensor) -> None:
    """Wrong values make the loss NaN. Only then, and where it does not wait for a device, are they looked for."""
    low, high = (v.item() for v in saliency.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"saliency_loss: saliency spans {low:g}..{high:g}; must be within 0..1")
