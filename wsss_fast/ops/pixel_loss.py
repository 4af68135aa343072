"""Per-pixel cross-entropy: AMN's per-pixel classification loss and plain segmentation cross-entropy."""

import torch
from torch import Tensor

from . import reference
from ._library import define, scaled_gradient

RESIZES = ("labels", "logits")


def _reference(logits, labels, smoothing, balance, ignore_index, resize_logits, need_grad):
    options = {"smoothing": smoothing, "balance": balance, "ignore_index": ignore_index, "resize": RESIZES[resize_logits]}
    wide = logits.to(_accumulator(logits))
    loss = reference.pixel_cross_entropy(wide, labels, **options)
    grad = reference.pixel_cross_entropy_grad(wide, labels, **options) if need_grad else loss.new_empty(0)
    return loss, grad.contiguous()


def _fake(logits, labels, smoothing, balance, ignore_index, resize_logits, need_grad):
    options = {"dtype": _accumulator(logits), "device": logits.device}
    return torch.empty((), **options), torch.empty(logits.shape if need_grad else (0,), **options)


def _accumulator(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _setup_context(ctx, inputs, output):
    ctx.dtype = inputs[0].dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_loss, _):
    (grad,) = ctx.saved_tensors
    return None if grad_loss is None else scaled_gradient(grad, grad_loss).to(ctx.dtype), *[None] * 6


# logits [B, K, h, w], labels [B, H, W] -> (loss [], d loss / d logits [B, K, h, w], empty unless asked for)
_op = define(
    "pixel_cross_entropy(Tensor logits, Tensor labels, float smoothing, bool balance, int ignore_index, "
    "bool resize_logits, bool need_grad) -> (Tensor, Tensor)",
    reference=_reference, fake=_fake, backward=_backward, setup_context=_setup_context,
)


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, balance: bool = False, ignore_index: int = 255,
    resize: str = "labels",
) -> Tensor:
    """Cross-entropy of every pixel against a smoothed label, averaged over all pixels or over two balanced groups.

    loss_i = -sum_k t_ik log softmax(logits_i)_k,  t = 1 - smoothing for the label, smoothing / (K - 1) for each other.
    balance: (mean over background pixels + mean over foreground pixels) / 2, over the whole batch; an empty group
    contributes 0 (the public code gives NaN). Otherwise: the mean over all labelled pixels, 0 if there are none.

    Args:
        logits: [B, K, h, w] floating, background first.
        labels: [B, H, W] uint8 or int64, 0..K-1 or `ignore_index`, at their own resolution.
        smoothing: in [0, 1).
        balance: see above.
        ignore_index: pixels of this label count nowhere.
        resize: what follows the other's size: "labels" (nearest, as Pillow and the papers) or "logits" (bilinear).

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Differentiable in logits, once.
    Raises ValueError, naming the argument and what it got.
    Source: AMN (CVPR 2022), section 3.2, eq. 2; smoothing as in its public code.

    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> pixel_cross_entropy(logits, torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8), balance=True)
    tensor(1.3863)
    """
    _check(logits, labels, smoothing, ignore_index, resize)
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    return _op(logits, labels, float(smoothing), balance, ignore_index, resize == "logits", need_grad)[0]


def _check(logits: Tensor, labels: Tensor, smoothing: float, ignore_index: int, resize: str) -> None:
    op = "pixel_cross_entropy"
    if logits.dim() != 4 or not logits.is_floating_point():
        raise ValueError(f"{op}: logits is {logits.dtype} {list(logits.shape)}; must be floating [B, K, h, w]")
    if labels.dim() != 3 or labels.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"{op}: labels is {labels.dtype} {list(labels.shape)}; must be uint8 or int64 [B, H, W]")
    if logits.shape[0] != labels.shape[0]:
        raise ValueError(f"{op}: logits is {list(logits.shape)} but labels is {list(labels.shape)}; B must match")
    if logits.device != labels.device:
        raise ValueError(f"{op}: logits is on {logits.device} but labels is on {labels.device}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"{op}: smoothing is {smoothing}; must be in [0, 1)")
    if resize not in RESIZES:
        raise ValueError(f"{op}: resize is {resize!r}; must be one of {RESIZES}")
    if labels.is_cuda or torch.compiler.is_compiling() or not labels.numel():
        return  # a look at the values would stall the stream or break the graph
    wrong = (labels != ignore_index) & ((labels >= logits.shape[1]) | (labels < 0))
    if wrong.any():
        raise ValueError(f"{op}: labels holds {labels[wrong][0].item()}; must be 0..{logits.shape[1] - 1} or {ignore_index}")
