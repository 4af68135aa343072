"""pixel_bce, forward and backward, against PyTorch and F.binary_cross_entropy_with_logits.

PyTorch is eager and compiled. 16x21x32x32 resizes labels of 512x512 to the logits, 16x21x512x512
resizes logits of 32x32 to the labels. torch is interpolation, one-hot labels and its own loss. The
roofline is pixel_cross_entropy's.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import (
    Implementation,
    Suite,
    op_implementations,
    with_gradients,
)
from wsss_fast.bench.pixel_cross_entropy import IGNORE, Loss, balanced, least_bytes, make, same_size

ROWS = {
    "bce32": ("16x21x32x32", Loss((16, 21, 32, 32), (512, 512))),
    "bce512": ("16x21x512x512", Loss((16, 21, 32, 32), (512, 512), resize="logits")),
    "bce41": (
        "plain 10x21x41x41",
        Loss((10, 21, 41, 41), (321, 321), smoothing=0.0, balance="none"),
    ),
}


def suite() -> Suite:
    return Suite(
        name="pixel_bce",
        op="pixel_bce",
        title="Per-pixel binary cross-entropy and its gradient, float32",
        quick=("bce32", "bce41"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 21, 5, 5), labels=(9, 9)), 0
        ),
        implementations=lambda key: implementations(ROWS[key][1]),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def implementations(loss: Loss) -> dict[str, Implementation]:
    """Ours, the eager and the compiled reference, and torch's own loss."""
    options = {"smoothing": loss.smoothing, "balance": loss.balance, "resize": loss.resize}
    by_torch = with_gradients(lambda logits, labels: torch_loss(logits, labels, loss), 1)
    return {
        **op_implementations("pixel_bce", gradients=1, ignore_index=IGNORE, **options),
        "torch": Implementation(by_torch),
    }


def torch_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The same loss from torch's functions."""
    logits, labels = same_size(logits, labels, loss)
    known, num_labels = labels != IGNORE, logits.shape[1]
    own = torch.nn.functional.one_hot(labels * known, num_labels).movedim(-1, 1).to(logits.dtype)
    other = loss.smoothing / (num_labels - 1)
    target = own * (1 - loss.smoothing - other) + other
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target, reduction="none"
    ).mean(1)
    if loss.balance == "none":
        return (each * known).sum() / known.sum()
    return balanced(each, labels, loss.balance)
