"""Per-pixel losses: cross-entropy (AMN's classification loss, segmentation), and BCE per class."""

import torch
from torch import Tensor

from . import reference
from ._arguments import (
    FLOATING,
    argument_error,
    check_device,
    is_dense,
    is_floating,
    is_integer,
    is_number,
)
from ._library import call, define_loss, presence, refuse_gradient
from .reference.nearest import nearest

RESIZES = ("labels", "logits")
BALANCES = ("none", "batch", "image")


def _cross_entropy_reference(
    logits, labels, smoothing, balance, ignore_index, resize_logits, need_grad
):
    options = {
        "smoothing": smoothing,
        "balance": BALANCES[balance],
        "ignore_index": ignore_index,
        "resize": RESIZES[resize_logits],
    }
    return _from_reference("pixel_cross_entropy", logits, labels, need_grad, options)


def _bce_reference(
    logits, labels, present, smoothing, balance, ignore_index, resize_logits, need_grad
):
    options = {
        "smoothing": smoothing,
        "balance": BALANCES[balance],
        "ignore_index": ignore_index,
        "resize": RESIZES[resize_logits],
        "present": present,
    }
    return _from_reference("pixel_bce", logits, labels, need_grad, options)


def _from_reference(
    op: str, logits: Tensor, labels: Tensor, need_grad: bool, options: dict
) -> tuple[Tensor, Tensor]:
    ignore_index, num_labels = options["ignore_index"], logits.shape[1]
    if not labels.is_cuda and labels.numel():  # reading the values would stall a CUDA stream
        values = labels.long()
        if options["resize"] == "labels":  # those that are left out do not matter
            values = nearest(values, *logits.shape[2:])
        wrong = (values != ignore_index) & ((values >= num_labels) | (values < 0))
        if wrong.any():
            found = values[wrong][0].item()
            raise ValueError(
                f"{op}: labels holds {found}; must be 0..{num_labels - 1} or {ignore_index}"
            )
    wide = logits.to(_accumulator(logits))
    loss = getattr(reference, op)(wide, labels, **options)
    if not need_grad:
        return loss, loss.new_empty(0)
    return loss, getattr(reference, f"{op}_grad")(wide, labels, **options).contiguous()


def _fake(logits, *arguments):
    need_grad = arguments[-1]
    options = {"dtype": _accumulator(logits), "device": logits.device}
    return torch.empty((), **options), torch.empty(logits.shape if need_grad else (0,), **options)


def _accumulator(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


# logits [B, K, h, w], labels [B, H, W]
# -> loss [], d loss / d logits [B, K, h, w], empty unless need_grad
_cross_entropy = define_loss(
    "pixel_cross_entropy(Tensor logits, Tensor labels, float smoothing, int balance, "
    "int ignore_index, bool resize_logits, bool need_grad) -> (Tensor, Tensor)",
    reference=_cross_entropy_reference,
    fake=_fake,
)
# the same; present [B, K] uint8
_bce = define_loss(
    "pixel_bce(Tensor logits, Tensor labels, Tensor? present, float smoothing, int balance, "
    "int ignore_index, bool resize_logits, bool need_grad) -> (Tensor, Tensor)",
    reference=_bce_reference,
    fake=_fake,
)


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: float = 0.0,
    balance: bool | str = False,
    ignore_index: int = 255,
    resize: str = "labels",
) -> Tensor:
    """Cross-entropy of every pixel against a smoothed label, averaged over pixels.

        loss_i = -sum_k t_ik log softmax(logits_i)_k

    with t = 1 - smoothing for the label and smoothing / (K - 1) for each other class.

    Differentiable in logits, once.

    Args:
        logits: [B, K, h, w] floating point, background first, K, h and w >= 1.
        labels: [B, H, W] uint8 or int64, in 0..K-1 or `ignore_index`, at their own resolution.
        smoothing: share of the target spread over the other classes, in [0, 1).
        balance: what the loss is a mean of; a mean over no pixels is 0.
            "none" or False: all labelled pixels of the batch.
            "batch" or True: half the mean over background pixels of the batch plus half that over
            foreground pixels (AMN, whose public code gives NaN where there are none).
            "image": in each image the mean over background plus that over foreground pixels, not
            halved; then the mean over images (DSRG). Compared with "batch", that acts like twice
            the learning rate.
        ignore_index: label of the pixels that are not used.
        resize: which of the two is resized to the other's size: "labels" (nearest, as Pillow and
            the papers) or "logits" (bilinear; resized logits are never stored, except by the
            reference).

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: a wrong argument, with its name and value. On CUDA, where reading the labels
            would be a device sync, a label that is no class makes the loss NaN instead. Labels that
            resizing leaves out are not checked.

    Source: AMN (CVPR 2022), section 3.2, eq. 2; smoothing as in its public code. "image":
        BalancedSeedLossLayer of DSRG's public code (CVPR 2018).

    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> labels = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    >>> pixel_cross_entropy(logits, labels, balance=True)
    tensor(1.3863)
    >>> pixel_cross_entropy(logits, labels, balance="image")
    tensor(2.7726)
    """
    kind = _balance("pixel_cross_entropy", balance)
    _check("pixel_cross_entropy", logits, labels, smoothing, ignore_index, resize)
    return call(
        _cross_entropy,
        logits,
        labels,
        float(smoothing),
        kind,
        ignore_index,
        resize == "logits",
        _needs_gradient(logits),
    )[0]


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
    """Binary cross-entropy of every pixel's classes against a smoothed label, averaged.

        loss_i = mean over k of -(t_ik log sigmoid(z_ik) + (1 - t_ik) log(1 - sigmoid(z_ik)))

    with t as in `pixel_cross_entropy`; the mean over pixels is also as there.

    Differentiable in logits, once.

    Args:
        logits, labels, smoothing, balance, ignore_index, resize: as in `pixel_cross_entropy`.
        present: [B, K] of any dtype, 0 for the classes that do not count in an image; None: all
            count. The mean is over the classes that count; where none does, the loss is 0.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: as for `pixel_cross_entropy`.

    >>> logits = torch.zeros(1, 4, 2, 2)
    >>> pixel_bce(logits, torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8))
    tensor(0.6931)
    """
    op = "pixel_bce"
    kind = _balance(op, balance)
    _check(op, logits, labels, smoothing, ignore_index, resize)
    if present is not None:
        if not is_dense(present) or present.shape != logits.shape[:2]:
            wanted = f"{list(logits.shape[:2])} for these logits"
            raise argument_error(op, "present", present, wanted)
        check_device(op, "logits", logits, present=present)
        refuse_gradient(op, present=present)
        present = presence(present)
    return call(
        _bce,
        logits,
        labels,
        present,
        float(smoothing),
        kind,
        ignore_index,
        resize == "logits",
        _needs_gradient(logits),
    )[0]


def _needs_gradient(logits: Tensor) -> bool:
    return logits.requires_grad and torch.is_grad_enabled()


def _balance(op: str, balance: bool | str) -> int:
    """The kernels' number of a kind of balance."""
    if isinstance(balance, bool):
        return int(balance)
    if not isinstance(balance, str) or balance not in BALANCES:
        raise argument_error(op, "balance", balance, f"a bool or one of {BALANCES}")
    return BALANCES.index(balance)


def _check(
    op: str, logits: Tensor, labels: Tensor, smoothing: float, ignore_index: int, resize: str
) -> None:
    if not is_floating(logits, 4) or 0 in logits.shape[1:]:
        raise argument_error(op, "logits", logits, f"{FLOATING} [B, K, h, w] with K, h and w >= 1")
    if not is_dense(labels) or labels.dim() != 3 or labels.dtype not in (torch.uint8, torch.int64):
        raise argument_error(op, "labels", labels, "uint8 or int64 [B, H, W]")
    if logits.numel() and not labels.numel():
        raise argument_error(op, "labels", labels, "not empty")
    if logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{op}: logits is {list(logits.shape)} but labels is {list(labels.shape)}; B must match"
        )
    check_device(op, "logits", logits, labels=labels)
    if not is_number(smoothing) or not 0 <= smoothing < 1:
        raise argument_error(op, "smoothing", smoothing, "a number in [0, 1)")
    if not is_integer(ignore_index):
        raise argument_error(op, "ignore_index", ignore_index, "an integer in -2^62..2^62")
    if resize not in RESIZES:
        raise argument_error(op, "resize", resize, f"one of {RESIZES}")
