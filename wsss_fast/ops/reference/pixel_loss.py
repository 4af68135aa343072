"""Per-pixel losses in plain PyTorch."""

import torch
from torch import Tensor

from .bilinear import resized_bilinear, resized_bilinear_backward
from .nearest import nearest

__all__ = ["pixel_bce", "pixel_bce_grad", "pixel_cross_entropy", "pixel_cross_entropy_grad"]


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    ignore_index: int = 255,
    resize: str = "labels",
) -> Tensor:
    """The definition of `wsss_fast.ops.pixel_cross_entropy`: same arguments, without checks."""
    logits, labels = _same_size(logits, labels, resize)
    target, weight = _target_and_weight(labels, logits, smoothing, balance, ignore_index)
    # As in PyTorch, a class without a share of the target adds nothing, nor does a pixel that is
    # not used, whatever the logits are.
    each = -torch.where(target != 0, target * logits.log_softmax(1), 0.0).sum(1)
    return torch.where(weight != 0, weight * each, 0.0).sum()


def pixel_cross_entropy_grad(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    ignore_index: int = 255,
    resize: str = "labels",
) -> Tensor:
    """d loss / d logits in closed form: weight * (softmax - target), through the upsampling if any.

    An op's default kernel runs below autograd.
    """
    size = logits.shape
    logits, labels = _same_size(logits, labels, resize)
    target, weight = _target_and_weight(labels, logits, smoothing, balance, ignore_index)
    return _resize_backward(weight[:, None] * (logits.softmax(1) - target), size)


def pixel_bce(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    ignore_index: int = 255,
    resize: str = "labels",
    present: Tensor | None = None,
) -> Tensor:
    """The definition of `wsss_fast.ops.pixel_bce`: same arguments, without checks."""
    logits, labels = _same_size(logits, labels, resize)
    target, weight = _target_and_weight(labels, logits, smoothing, balance, ignore_index)
    counts = _class_shares(logits, present)
    counted = logits.masked_fill(counts == 0, 0.0)
    each = torch.nn.functional.binary_cross_entropy_with_logits(counted, target, reduction="none")
    mean = (each * counts).sum(1)
    return torch.where(weight != 0, weight * mean, 0.0).sum()


def pixel_bce_grad(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    ignore_index: int = 255,
    resize: str = "labels",
    present: Tensor | None = None,
) -> Tensor:
    """d loss / d logits in closed form: weight * (sigmoid - target) / number of counted classes."""
    size = logits.shape
    logits, labels = _same_size(logits, labels, resize)
    target, weight = _target_and_weight(labels, logits, smoothing, balance, ignore_index)
    counts = _class_shares(logits, present)
    return _resize_backward(
        weight[:, None] * counts * (logits.sigmoid() - target).masked_fill(counts == 0, 0.0), size
    )


def _class_shares(logits: Tensor, present: Tensor | None) -> Tensor:
    """Each class's share of a pixel's loss [B, K, 1, 1], 0 for classes that do not count."""
    counted = (
        logits.new_ones(logits.shape[:2]) if present is None else (present != 0).to(logits.dtype)
    )
    return (counted / counted.sum(1, keepdim=True).clamp(min=1))[..., None, None]


def _resize_backward(grad: Tensor, size: torch.Size) -> Tensor:
    """The gradient for logits of `size`, through the upsampling if there was one."""
    if grad.shape == size:
        return grad
    return resized_bilinear_backward(grad, size[2:])


def _same_size(logits: Tensor, labels: Tensor, resize: str) -> tuple[Tensor, Tensor]:
    if logits.shape[-2:] == labels.shape[-2:]:
        return logits, labels
    if resize == "labels":
        return logits, nearest(labels, *logits.shape[-2:])
    return resized_bilinear(logits, labels.shape[-2:]), labels


def _target_and_weight(
    labels: Tensor, logits: Tensor, smoothing: float, balance: bool | str, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Smoothed labels [B, K, h, w], which sum to 1 over K, and pixels' weights [B, h, w]."""
    num_labels = logits.shape[1]
    labels = labels.long()  # or torch would wrap an `ignore_index` above 255 for uint8 labels
    known = labels != ignore_index
    own = labels.masked_fill(~known, 0)[:, None]
    others = smoothing / (num_labels - 1) if num_labels > 1 else 0.0
    target = torch.full_like(logits, others).scatter_(
        1, own, 1.0 - smoothing if num_labels > 1 else 1.0
    )
    if balance in (False, "none"):
        return target, _share(known, logits.dtype)
    groups = known & (labels == 0), known & (labels != 0)
    if balance == "image":
        background, foreground = (_share(g, logits.dtype, (1, 2)) for g in groups)
        return target, (background + foreground) / max(len(labels), 1)
    background, foreground = (_share(g, logits.dtype) for g in groups)
    return target, (background + foreground) / 2


def _share(group: Tensor, dtype: torch.dtype, dims: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    """1 / count along `dims` on the pixels of a group [B, h, w]; an empty one contributes 0."""
    return group.to(dtype) / group.sum(dims, keepdim=True).clamp(min=1)
