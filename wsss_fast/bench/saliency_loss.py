"""saliency_loss, forward and backward, against eager and compiled PyTorch.

Rows are EPS' batches of VOC (crops of 448 pixels with a saliency map each) and COCO (crops of 321),
with the adaptive strategy. The three maps are compared as well. The roofline reads the logits and
the used pixels of the saliency, and writes the gradient and the maps.
"""

from __future__ import annotations

import dataclasses

import torch

from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import Implementation, Input, Suite, op_implementations


@dataclasses.dataclass(frozen=True)
class Maps:
    """Shapes of an input.

    Attributes:
        logits: shape [B, K, h, w].
        saliency: size (H, W) of the saliency [B, 1, H, W].
        present: share of the K - 1 classes that is present.
    """

    logits: tuple[int, int, int, int]
    saliency: tuple[int, int]
    present: float


ROWS = {
    "voc": ("VOC 8x21x56x56", Maps((8, 21, 56, 56), (448, 448), 0.15)),
    "coco": ("COCO 16x81x41x41", Maps((16, 81, 41, 41), (321, 321), 0.05)),
}


def suite() -> Suite:
    return Suite(
        name="saliency_loss",
        op="saliency_loss",
        title="EPS' saliency loss, its maps and its gradient, float32",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("voc",),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 5, 6, 6), saliency=(12, 12)), 0
        ),
        implementations=lambda key: implementations(),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def make(maps: Maps, number: int) -> Input:
    """Logits of confident patches, a saliency that follows one class, labels, gradient 1."""
    batch, channels, height, width = maps.logits
    generator = torch.Generator().manual_seed(number)
    coarse = torch.randn(batch, channels, 7, 7, generator=generator)
    logits = 4 * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    logits += torch.randn(logits.shape, generator=generator)
    saliency = torch.sigmoid(
        6 * torch.nn.functional.interpolate(coarse[:, -1:], maps.saliency, mode="bilinear")
    )
    labels = torch.rand(batch, channels - 1, generator=generator) < maps.present
    labels[:, -1] = True  # the class that the saliency follows
    return logits, saliency, labels.long(), torch.ones(())


def implementations() -> dict[str, Implementation]:
    """Ours, the eager and the compiled reference; no public implementation can be called alone."""
    return op_implementations("saliency_loss", gradients=1)


def least_bytes(maps: Maps) -> int:
    """Logits, gradient, three maps and the saliency at the logits' size, in float32."""
    batch, channels, height, width = maps.logits
    return 4 * batch * height * width * (2 * channels + 3 + 1)
