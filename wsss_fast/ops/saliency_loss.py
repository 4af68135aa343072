"""EPS' saliency loss: schema, fake, autograd, public function."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    argument_error,
    check_device,
    is_dense,
    is_floating,
    is_integer,
    is_number,
)
from ._library import call, can_inspect_values, define_loss, presence, refuse_gradient
from .reference.saliency_loss import SaliencyLoss
from .reference.saliency_loss import saliency_loss as reference_loss
from .reference.saliency_loss import saliency_loss_grad as reference_grad

STRATEGIES = ("adaptive", "naive", "predefined")


def _reference(logits, saliency, present, tau, lam, adaptive, background_classes):
    # Without background classes, "predefined" is "naive".
    options = {
        "tau": tau,
        "lam": lam,
        "strategy": STRATEGIES[0 if adaptive else 2],
        "background_classes": background_classes,
    }
    wide = logits.to(saliency.dtype)
    result = reference_loss(wide, saliency, present, **options)
    grad = reference_grad(wide, saliency, present, **options)
    return *(t.contiguous() for t in result), grad.contiguous()


def _fake(logits, saliency, present, tau, lam, adaptive, background_classes):
    maps = (saliency.new_empty(*saliency.shape[:-2], *logits.shape[2:]) for _ in range(3))
    return saliency.new_empty(()), *maps, saliency.new_empty(logits.shape)


# logits [B, K, h, w]; saliency [B, H, W] or [B, 1, H, W] float32, or float64 for float64 logits;
# present [B, K - 1] uint8 -> loss []; foreground, background and estimate with the saliency's
# dimensions at the logits' size; d loss / d logits [B, K, h, w]; all of the saliency's dtype
_op = define_loss(
    "saliency_loss(Tensor logits, Tensor saliency, Tensor present, float tau, float lam, "
    "bool adaptive, int[] background_classes) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
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
    """Mean squared difference between a saliency map and the one that class probabilities imply.

    With p = softmax over channels, F = sum of p_k over the foreground classes and G = p_0 + sum of
    p_k over the other present classes:

        estimate = lam F + (1 - lam) (1 - G),  loss = mean (estimate - saliency)^2

    The saliency is resized to the logits' size by nearest with indices rounded down. Absent classes
    are in neither map.

    Differentiable in logits through the loss, once; the maps carry no gradient. Saliency and
    labels that require a gradient are an error.

    Args:
        logits: [B, C+1, h, w] floating point, background first, h and w >= 1.
        saliency: [B, 1, H, W] or [B, H, W] floating point, in 0..1.
        labels: [B, C] of any dtype, not 0 for the classes that are present.
        tau: overlap ratio above which a class is foreground, in 0..1.
        lam: weight of the foreground map, in 0..1.
        strategy: which present classes are foreground. "adaptive": those whose ratio
            sum(round(p_k) round(saliency)) / sum(round(p_k) + 1e-4) is above tau, without a
            gradient; 1/2 is rounded down, so a class that exceeds it nowhere is background.
            "naive": all. "predefined": all but `background_classes`.
        background_classes: labels in 1..C, only for "predefined".

    Returns:
        SaliencyLoss(loss, foreground, background, estimate): the loss a scalar, the maps
        [B, 1, h, w] or [B, h, w] like the saliency; float32 (float64 for float64 logits).

    Raises:
        ValueError: a wrong argument, with its name and value. Saliency out of range makes the loss
            NaN instead where reading the values would cost time: on other devices than the CPU and
            in compiled graphs.

    Source: EPS (Lee, Lee, Lee and Shim, CVPR 2021), section 3.2, eqs. 2 to 5, and its public code.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # background, then class 1
    >>> out = saliency_loss(logits, torch.tensor([[[0.0, 1.0]]]), torch.tensor([[1]]))
    >>> out.loss, out.estimate
    (tensor(0.0142), tensor([[[0.1192, 0.8808]]]))
    """
    _check_tensors(logits, saliency, labels)
    _check_options(tau, lam, strategy, background_classes, logits.shape[1])
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss, foreground, background, estimate, *_ = call(
        _op,
        logits,
        saliency.to(dtype),
        presence(labels),
        float(tau),
        float(lam),
        strategy == "adaptive",
        list(background_classes),
    )
    if can_inspect_values(loss) and math.isnan(loss.item()):
        _check_values(saliency)
    return SaliencyLoss(loss, foreground, background, estimate)


def _check_tensors(logits: Tensor, saliency: Tensor, labels: Tensor) -> None:
    op = "saliency_loss"
    if not is_floating(logits, 4) or 0 in logits.shape[1:]:
        raise argument_error(op, "logits", logits, f"{FLOATING} [B, C+1, h, w] with h and w >= 1")
    if not is_floating(saliency, 3, 4) or saliency.dim() == 4 and saliency.shape[1] != 1:
        raise argument_error(op, "saliency", saliency, f"{FLOATING} [B, 1, H, W] or [B, H, W]")
    if saliency.shape[0] != logits.shape[0] or 0 in saliency.shape[1:]:
        raise ValueError(
            f"{op}: logits is {list(logits.shape)} but saliency is {list(saliency.shape)}; "
            "B must match, the other sizes must be >= 1"
        )
    batch, channels = logits.shape[:2]
    if not is_dense(labels) or labels.shape != (batch, channels - 1):
        wanted = f"[{batch}, {channels - 1}] for these logits"
        raise argument_error(op, "labels", labels, wanted)
    check_device(op, "logits", logits, saliency=saliency, labels=labels)
    refuse_gradient(op, saliency=saliency, labels=labels)


def _check_options(
    tau: float, lam: float, strategy: str, background_classes: Sequence[int], channels: int
) -> None:
    op = "saliency_loss"
    for name, value in (("tau", tau), ("lam", lam)):
        if not is_number(value) or not 0 <= value <= 1:
            raise argument_error(op, name, value, "a number in 0..1")
    if strategy not in STRATEGIES:
        raise argument_error(op, "strategy", strategy, f"one of {STRATEGIES}")
    if not isinstance(background_classes, Sequence):
        raise argument_error(op, "background_classes", background_classes, "a sequence of labels")
    if background_classes and strategy != "predefined":
        wanted = "empty, unless strategy is 'predefined'"
        raise argument_error(op, "background_classes", background_classes, wanted)
    for label in background_classes:
        if not is_integer(label) or not 1 <= label < channels:
            raise ValueError(
                f"{op}: background_classes holds {label!r}; must be in 1..{channels - 1}"
            )


def _check_values(saliency: Tensor) -> None:
    """Raise for wrong values; reads all of them, so it is called only if the loss is NaN."""
    low, high = (v.item() for v in saliency.detach().aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"saliency_loss: saliency spans {low:g}..{high:g}; must be within 0..1")
