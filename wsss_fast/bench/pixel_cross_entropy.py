"""pixel_cross_entropy, forward and backward, against PyTorch and F.cross_entropy.

PyTorch is eager and compiled. PCL is AMN's loss: 16x21x32x32 resizes labels of 512x512 to the
logits, 16x21x512x512 resizes logits of 32x32 to the labels. plain is DeepLab's loss, without
smoothing and balance; per image is the same with background and foreground balanced in each image,
as DSRG's. torch is interpolation and F.cross_entropy. The roofline reads the used
labels and the logits once, and writes the gradient.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import (
    Implementation,
    Input,
    Suite,
    op_implementations,
    with_gradients,
)

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Loss:
    """Shapes and options of a loss; the defaults are AMN's.

    Attributes:
        logits: shape [B, K, h, w].
        labels: size (H, W) of the labels, uint8 [B, H, W].
        smoothing, balance, resize: as for the op.
    """

    logits: tuple[int, int, int, int]
    labels: tuple[int, int]
    smoothing: float = 0.4
    balance: str = "batch"
    resize: str = "labels"


ROWS = {
    "pcl32": ("PCL 16x21x32x32", Loss((16, 21, 32, 32), (512, 512))),
    "pcl512": ("PCL 16x21x512x512", Loss((16, 21, 32, 32), (512, 512), resize="logits")),
    "seg41": (
        "plain 10x21x41x41",
        Loss((10, 21, 41, 41), (321, 321), smoothing=0.0, balance="none"),
    ),
    "dsrg41": (
        "per image 10x21x41x41",
        Loss((10, 21, 41, 41), (321, 321), smoothing=0.0, balance="image"),
    ),
}


def suite() -> Suite:
    return Suite(
        name="pixel_cross_entropy",
        op="pixel_cross_entropy",
        title="Per-pixel cross-entropy and its gradient, float32",
        quick=("pcl32", "seg41"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 21, 5, 5), labels=(9, 9)), 0
        ),
        implementations=lambda key: implementations(ROWS[key][1]),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def make(loss: Loss, number: int) -> Input:
    """Logits, labels in patches, some of them ignored, and the gradient of the loss, 1."""
    batch, num_labels, _, _ = loss.logits
    generator = torch.Generator().manual_seed(number)
    logits = 3 * torch.randn(loss.logits, generator=generator)
    patches = torch.randint(0, num_labels + 1, (batch, 1, 8, 8), generator=generator).float()
    labels = torch.nn.functional.interpolate(patches, loss.labels, mode="nearest")[:, 0].to(
        torch.uint8
    )
    return logits, labels.masked_fill_(labels == num_labels, IGNORE), torch.ones(())


def implementations(loss: Loss) -> dict[str, Implementation]:
    """Ours, the eager and the compiled reference, and torch's own loss."""
    options = {"smoothing": loss.smoothing, "balance": loss.balance, "resize": loss.resize}
    by_torch = with_gradients(lambda logits, labels: torch_loss(logits, labels, loss), 1)
    return {
        **op_implementations("pixel_cross_entropy", gradients=1, ignore_index=IGNORE, **options),
        "torch": Implementation(by_torch),
    }


def torch_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The same loss from torch's functions, whose smoothing includes the true label."""
    logits, labels = same_size(logits, labels, loss)
    num_labels = logits.shape[1]
    each = torch.nn.functional.cross_entropy(
        logits,
        labels,
        ignore_index=IGNORE,
        reduction="mean" if loss.balance == "none" else "none",
        label_smoothing=loss.smoothing * num_labels / (num_labels - 1),
    )
    return each if loss.balance == "none" else balanced(each, labels, loss.balance)


def same_size(logits: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Logits and labels (int64) at the same size, by torch's resizing."""
    if loss.resize == "labels":
        labels = torch.nn.functional.interpolate(
            labels[:, None].float(), logits.shape[-2:], mode="nearest-exact"
        )[:, 0]
    else:
        logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return logits, labels.long()


def balanced(each: Tensor, labels: Tensor, balance: str) -> Tensor:
    """Mean over background and mean over foreground, with equal weights."""
    dims = (1, 2) if balance == "image" else (0, 1, 2)
    background, foreground = (
        (each * group).sum(dims) / group.sum(dims).clamp(min=1)
        for group in (labels == 0, (labels != 0) & (labels != IGNORE))
    )
    total = background + foreground
    return total.mean() if balance == "image" else total / 2


def least_bytes(loss: Loss) -> int:
    """Labels at the size of the loss, one byte each, and logits and gradient in float32."""
    batch, num_labels, height, width = loss.logits
    rows, columns = (height, width) if loss.resize == "labels" else loss.labels
    return batch * (rows * columns + 2 * 4 * num_labels * height * width)
