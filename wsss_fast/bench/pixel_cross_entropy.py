"""Benchmark of pixel_cross_entropy: AMN's per-pixel classification loss, and DeepLab's."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast.bench.roofline import copy
from wsss_fast.bench.suite import Implementation, Input, Suite, differentiated, of_op

IGNORE = 255


@dataclasses.dataclass(frozen=True)
class Loss:
    """Shapes and options of a loss, AMN's unless said otherwise; logits [B, K, h, w], labels uint8 [B, H, W]."""

    logits: tuple[int, int, int, int]
    labels: tuple[int, int]
    smoothing: float = 0.4
    balance: bool = True
    resize: str = "labels"


ROWS = {
    "pcl32": ("PCL 16x21x32x32", Loss((16, 21, 32, 32), (512, 512))),
    "pcl512": ("PCL 16x21x512x512", Loss((16, 21, 32, 32), (512, 512), resize="logits")),
    "seg41": (
        "plain 10x21x41x41",
        Loss((10, 21, 41, 41), (321, 321), smoothing=0.0, balance=False),
    ),
}


def suite() -> Suite:
    """pixel_cross_entropy, forward and backward, against eager and compiled PyTorch and F.cross_entropy.

    PCL 16x21x32x32 reduces labels of 512x512 to the logits, 16x21x512x512 upsamples logits of 32x32 to the labels; plain is
    DeepLab's loss, without smoothing and balance. torch is interpolation and F.cross_entropy. The roofline reads labels
    (those that count) and logits once and writes the gradient.
    """
    return Suite(
        name="pixel_cross_entropy",
        op="pixel_cross_entropy",
        title="Per-pixel cross-entropy and its gradient, float32",
        quick=("pcl32", "seg41"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, which: make(ROWS[key][1], which),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 21, 5, 5), labels=(9, 9)), 0
        ),
        implementations=lambda key: implementations(ROWS[key][1]),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def make(loss: Loss, which: int) -> Input:
    """Logits, labels in patches with some to ignore, and the gradient 1 of the loss."""
    batch, num_labels, _, _ = loss.logits
    generator = torch.Generator().manual_seed(which)
    logits = 3 * torch.randn(loss.logits, generator=generator)
    patches = torch.randint(0, num_labels + 1, (batch, 1, 8, 8), generator=generator).float()
    labels = torch.nn.functional.interpolate(patches, loss.labels, mode="nearest")[:, 0].to(
        torch.uint8
    )
    return logits, labels.masked_fill_(labels == num_labels, IGNORE), torch.ones(())


def implementations(loss: Loss) -> dict[str, Implementation]:
    """Ours, the eager and the compiled reference, and what torch offers for it."""
    options = {"smoothing": loss.smoothing, "balance": loss.balance, "resize": loss.resize}
    peer = Implementation(
        differentiated(lambda logits, labels: torch_loss(logits, labels, loss), 1)
    )
    return {
        **of_op("pixel_cross_entropy", gradients=1, ignore_index=IGNORE, **options),
        "torch": peer,
    }


def torch_loss(logits: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """The same loss from torch's own functions, whose smoothing spreads over all K labels, the true one among them."""
    logits, labels = same_size(logits, labels, loss)
    num_labels = logits.shape[1]
    smoothing = loss.smoothing * num_labels / (num_labels - 1)
    options = {"ignore_index": IGNORE, "label_smoothing": smoothing}
    if not loss.balance:
        return torch.nn.functional.cross_entropy(logits, labels, **options)
    return balanced(
        torch.nn.functional.cross_entropy(logits, labels, reduction="none", **options), labels
    )


def same_size(logits: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Both at the size that the loss is taken at, by torch's own resizing; labels int64."""
    if loss.resize == "labels":
        labels = torch.nn.functional.interpolate(
            labels[:, None].float(), logits.shape[-2:], mode="nearest-exact"
        )[:, 0]
    else:
        logits = torch.nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return logits, labels.long()


def balanced(each: Tensor, labels: Tensor) -> Tensor:
    """Mean over background and mean over foreground, of equal weight."""
    groups = labels == 0, (labels != 0) & (labels != IGNORE)
    return sum((each * group).sum() / group.sum() for group in groups) / 2


def least_bytes(loss: Loss) -> int:
    """Labels at the finer or the logits' size, one byte each, and logits and gradient in float32."""
    batch, num_labels, height, width = loss.logits
    rows, columns = (height, width) if loss.resize == "labels" else loss.labels
    return batch * (rows * columns + 2 * 4 * num_labels * height * width)
