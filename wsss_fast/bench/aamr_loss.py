"""Benchmark of aamr_loss: CCR's mask refinement loss beside a segmentation network."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast.bench.roofline import copy
from wsss_fast.bench.suite import (
    COMPILED,
    EAGER,
    Implementation,
    Input,
    Suite,
    differentiated,
    of_op,
)

try:
    from scipy import ndimage
except ImportError:  # an optional peer; the table says that it is missing
    ndimage = None


@dataclasses.dataclass(frozen=True)
class Maps:
    """logits [B, K, h, w]; saliency [B, 1, H, W] and response [B, H, W] share their size."""

    logits: tuple[int, int, int, int]
    maps: tuple[int, int]


ROWS = {
    "seg41": ("DeepLab 10x21x41x41", Maps((10, 21, 41, 41), (321, 321))),
    "seg321": ("full size 2x21x321x321", Maps((2, 21, 321, 321), (321, 321))),
}


def suite() -> Suite:
    """aamr_loss, forward and backward, against eager PyTorch, and with regions by scipy.

    DeepLab is its training batch at stride 8, full size two images without stride. eager finds regions by spreading numbers
    until none changes, an unknown number of steps that torch.compile cannot capture as one graph; scipy is the same loss
    with scipy.ndimage.label on the CPU for the regions. The roofline reads the logits and the pixels of both maps that count,
    and writes the gradient.
    """
    return Suite(
        name="aamr_loss",
        op="aamr_loss",
        title="Mask refinement loss (AAMR) and its gradient, float32",
        quick=("seg41",),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, which: make(ROWS[key][1], which),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 5, 6, 6), maps=(12, 12)), 0
        ),
        implementations=lambda key: implementations(),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
        notes=()
        if ndimage
        else ("scipy is not installed, so eager is the only other implementation.",),
    )


def make(shape: Maps, which: int) -> Input:
    """Logits, soft saliency and response in blobs, some of which only one of the two has, and the gradient 1 of the loss."""
    generator = torch.Generator().manual_seed(which)
    logits = 3 * torch.randn(shape.logits, generator=generator)
    coarse = torch.randn(2, shape.logits[0], 1, 9, 9, generator=generator)
    saliency = torch.sigmoid(
        6 * torch.nn.functional.interpolate(coarse[0], shape.maps, mode="bilinear")
    )
    response = torch.sigmoid(
        4
        * torch.nn.functional.interpolate(
            coarse[1] + coarse[0] / 5 - 0.7, shape.maps, mode="bilinear"
        )
    )
    return logits, saliency, response[:, 0].contiguous(), torch.ones(())


def implementations() -> dict[str, Implementation]:
    """Ours, the eager reference, and the same with scipy's regions where that is installed."""
    found = of_op("aamr_loss", gradients=1)
    del found[COMPILED]
    found[EAGER] = dataclasses.replace(found[EAGER], slow=False)
    return (
        {**found, "scipy": Implementation(differentiated(with_scipy, 1), on_cpu=True)}
        if ndimage
        else found
    )


def with_scipy(logits: Tensor, saliency: Tensor, response: Tensor) -> Tensor:
    """The loss with its usual thresholds, as one would write it from torch's and scipy's functions."""
    size = logits.shape[-2:]
    shown = torch.nn.functional.interpolate(saliency, size)[:, 0]
    active = torch.nn.functional.interpolate(response[:, None], size)[:, 0] >= 0.2
    region = ~active
    for image, salient, answers in zip(region, shown >= 0.5, active, strict=True):
        names, count = ndimage.label(salient.numpy(), structure=[[1] * 3] * 3)
        names = torch.from_numpy(names).long()
        areas = torch.bincount(names.flatten(), minlength=count + 1).double()
        kept = torch.bincount(names[answers], minlength=count + 1) / areas >= 0.1
        image[salient] = kept[names[salient]]
    odds = logits[:, 1:].logsumexp(1) - logits[:, 0]
    return torch.nn.functional.binary_cross_entropy_with_logits(odds[region], shown[region])


def least_bytes(shape: Maps) -> int:
    """Logits, gradient, and both maps at the logits' size, in float32."""
    batch, channels, height, width = shape.logits
    return 4 * batch * height * width * (2 * channels + 2)
