"""Per-pixel losses: AMN's per-pixel classification loss, plain segmentation cross-entropy, and a sigmoid for each class."""

import torch
from torch import Tensor

from . import reference
from ._library import call, define, scaled_gradient

RESIZES = ("labels", "logits")


def _cross_entropy_reference(
    logits, labels, smoothing, balance, ignore_index, resize_logits, need_grad
):
    options = {
        "smoothing": smoothing,
        "balance": balance,
        "ignore_index": ignore_index,
        "resize": RESIZES[resize_logits],
    }
    return _from_reference("pixel_cross_entropy", logits, labels, need_grad, options)


def _bce_reference(
    logits, labels, present, smoothing, balance, ignore_index, resize_logits, need_grad
):
    options = {
        "smoothing": smoothing,
        "balance": balance,
        "ignore_index": ignore_index,
        "resize": RESIZES[resize_logits],
        "present": present,
    }
    return _from_reference("pixel_bce", logits, labels, need_grad, options)


def _from_reference(
    op: str, logits: Tensor, labels: Tensor, need_grad: bool, options: dict
) -> tuple[Tensor, Tensor]:
    ignore_index = options["ignore_index"]
    if not labels.is_cuda and labels.numel():  # a look at the values would stall a CUDA stream
        wrong = (labels != ignore_index) & ((labels >= logits.shape[1]) | (labels < 0))
        if wrong.any():
            found = labels[wrong][0].item()
            raise ValueError(
                f"{op}: labels holds {found}; must be 0..{logits.shape[1] - 1} or {ignore_index}"
            )
    wide = logits.to(_accumulator(logits))
    loss = getattr(reference, op)(wide, labels, **options)
    grad = (
        getattr(reference, f"{op}_grad")(wide, labels, **options)
        if need_grad
        else loss.new_empty(0)
    )
    return loss, grad.contiguous()


def _fake(logits, *arguments):
    need_grad = arguments[-1]
    options = {"dtype": _accumulator(logits), "device": logits.device}
    return torch.empty((), **options), torch.empty(logits.shape if need_grad else (0,), **options)


def _accumulator(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _setup_context(ctx, inputs, output):
    ctx.dtype, ctx.inputs = inputs[0].dtype, len(inputs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_loss, _):
    (grad,) = ctx.saved_tensors
    return None if grad_loss is None else scaled_gradient(grad, grad_loss).to(ctx.dtype), *[
        None
    ] * (ctx.inputs - 1)


# logits [B, K, h, w], labels [B, H, W] -> (loss [], d loss / d logits [B, K, h, w], empty unless asked for)
_cross_entropy = define(
    "pixel_cross_entropy(Tensor logits, Tensor labels, float smoothing, bool balance, int ignore_index, "
    "bool resize_logits, bool need_grad) -> (Tensor, Tensor)",
    reference=_cross_entropy_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)
# likewise; present [B, K] uint8
_bce = define(
    "pixel_bce(Tensor logits, Tensor labels, Tensor? present, float smoothing, bool balance, int ignore_index, "
    "bool resize_logits, bool need_grad) -> (Tensor, Tensor)",
    reference=_bce_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool = False,
    ignore_index: int = 255,
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
        resize: what follows the other's size: "labels" (nearest, as Pillow and the papers) or "logits" (bilinear;
            at that size they are never in memory, except in the reference).

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Differentiable in logits, once.
    Raises ValueError, naming the argument and what it got. On CUDA, where a look at the labels would wait for the device, a
    label that is no class makes the loss NaN instead. Labels that resizing leaves out are not looked at.
    Source: AMN (CVPR 2022), section 3.2, eq. 2; smoothing as in its public code.

    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> pixel_cross_entropy(logits, torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8), balance=True)
    tensor(1.3863)
    """
    _check("pixel_cross_entropy", logits, labels, smoothing, ignore_index, resize)
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    return call(
        _cross_entropy,
        logits,
        labels,
        float(smoothing),
        balance,
        ignore_index,
        resize == "logits",
        need_grad,
    )[0]


def pixel_bce(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool = False,
    ignore_index: int = 255,
    resize: str = "labels",
    present: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of every pixel's classes against a smoothed label, averaged over classes and pixels.

    loss_i = mean over k of -(t_ik log sigmoid(z_ik) + (1 - t_ik) log(1 - sigmoid(z_ik))),  t as in `pixel_cross_entropy`.

    Args:
        logits, labels, smoothing, balance, ignore_index, resize: as in `pixel_cross_entropy`.
        present: [B, K], 0 for the classes that do not count in an image, any dtype; None: all count. The mean is over
            those that count; where none does the loss is 0.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Differentiable in logits, once.
    Raises ValueError, naming the argument and what it got; on CUDA see `pixel_cross_entropy`.

    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> pixel_bce(logits, torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8))
    tensor(0.6931)
    """
    _check("pixel_bce", logits, labels, smoothing, ignore_index, resize)
    if present is not None:
        if present.shape != logits.shape[:2]:
            raise ValueError(
                f"pixel_bce: present is {list(present.shape)}; must be {list(logits.shape[:2])} for these logits"
            )
        if present.device != logits.device:
            raise ValueError(
                f"pixel_bce: logits is on {logits.device} but present is on {present.device}"
            )
        present = (present != 0).to(torch.uint8)
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    return call(
        _bce,
        logits,
        labels,
        present,
        float(smoothing),
        balance,
        ignore_index,
        resize == "logits",
        need_grad,
    )[0]


def _check(
    op: str, logits: Tensor, labels: Tensor, smoothing: float, ignore_index: int, resize: str
) -> None:
    if logits.dim() != 4 or not logits.is_floating_point() or 0 in logits.shape[1:]:
        raise ValueError(
            f"{op}: logits is {logits.dtype} {list(logits.shape)}; must be floating [B, K, h, w], none empty"
        )
    if labels.dim() != 3 or labels.dtype not in (torch.uint8, torch.int64):
        raise ValueError(
            f"{op}: labels is {labels.dtype} {list(labels.shape)}; must be uint8 or int64 [B, H, W]"
        )
    if logits.numel() and not labels.numel():
        raise ValueError(f"{op}: labels is {list(labels.shape)}; must not be empty")
    if logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{op}: logits is {list(logits.shape)} but labels is {list(labels.shape)}; B must match"
        )
    if logits.device != labels.device:
        raise ValueError(f"{op}: logits is on {logits.device} but labels is on {labels.device}")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise ValueError(f"{op}: ignore_index is {ignore_index!r}; must be an integer")
    if not 0 <= smoothing < 1:
        raise ValueError(f"{op}: smoothing is {smoothing}; must be in [0, 1)")
    if resize not in RESIZES:
        raise ValueError(f"{op}: resize is {resize!r}; must be one of {RESIZES}")
