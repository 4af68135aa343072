"""aamr_loss, forward and backward, against eager PyTorch, and with regions by scipy.

Rows are DeepLab's training batch at stride 8, and two images at full size. eager finds regions by
spreading numbers until none changes, an unknown number of steps, which torch.compile cannot capture
as one graph; scipy is the same loss with scipy.ndimage.label on the CPU for the regions. The
roofline reads the logits and the used pixels of both maps, and writes the gradient.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import (
    COMPILED,
    EAGER,
    Implementation,
    Input,
    Suite,
    op_implementations,
    with_gradients,
)

try:
    from scipy import ndimage
except ImportError:  # optional; a note below the table says so
    ndimage = None


@dataclasses.dataclass(frozen=True)
class Maps:
    """Shape of the logits [B, K, h, w], and size (H, W) of saliency and response."""

    logits: tuple[int, int, int, int]
    maps: tuple[int, int]


ROWS = {
    "seg41": ("DeepLab 10x21x41x41", Maps((10, 21, 41, 41), (321, 321))),
    "seg321": ("full size 2x21x321x321", Maps((2, 21, 321, 321), (321, 321))),
}


def suite() -> Suite:
    notes: tuple[str, ...] = ()
    if ndimage is None:
        notes = ("scipy is not installed, so eager is the only other implementation.",)
    return Suite(
        name="aamr_loss",
        op="aamr_loss",
        title="Mask refinement loss (AAMR) and its gradient, float32",
        quick=("seg41",),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(
            dataclasses.replace(ROWS[key][1], logits=(2, 5, 6, 6), maps=(12, 12)), 0
        ),
        implementations=lambda key: implementations(),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
        notes=notes,
    )


def make(shape: Maps, number: int) -> Input:
    """Logits, blobs of saliency and response that overlap in part, and the loss's gradient, 1."""
    generator = torch.Generator().manual_seed(number)
    logits = 3 * torch.randn(shape.logits, generator=generator)
    coarse = torch.randn(2, shape.logits[0], 1, 9, 9, generator=generator)
    mixed = coarse[1] + coarse[0] / 5 - 0.7
    saliency, response = (
        torch.sigmoid(factor * torch.nn.functional.interpolate(low, shape.maps, mode="bilinear"))
        for factor, low in ((6, coarse[0]), (4, mixed))
    )
    return logits, saliency, response[:, 0].contiguous(), torch.ones(())


def implementations() -> dict[str, Implementation]:
    """Ours, the eager reference, and the loss with scipy's regions if scipy is installed."""
    found = op_implementations("aamr_loss", gradients=1)
    del found[COMPILED]
    found[EAGER] = dataclasses.replace(found[EAGER], slow=False)
    if ndimage is not None:
        found["scipy"] = Implementation(with_gradients(by_scipy, 1), on_cpu=True)
    return found


def by_scipy(logits: Tensor, saliency: Tensor, response: Tensor) -> Tensor:
    """The loss with its default thresholds, written with torch's and scipy's functions."""
    size = logits.shape[-2:]
    target = torch.nn.functional.interpolate(saliency, size)[:, 0]
    active = torch.nn.functional.interpolate(response[:, None], size)[:, 0] >= 0.2
    region = ~active
    for image, salient, is_active in zip(region, target >= 0.5, active, strict=True):
        labelled, count = ndimage.label(salient.numpy(), structure=[[1] * 3] * 3)
        names = torch.from_numpy(labelled).long()
        areas = torch.bincount(names.flatten(), minlength=count + 1).double()
        kept = torch.bincount(names[is_active], minlength=count + 1) / areas >= 0.1
        image[salient] = kept[names[salient]]
    odds = logits[:, 1:].logsumexp(1) - logits[:, 0]
    return torch.nn.functional.binary_cross_entropy_with_logits(odds[region], target[region])


def least_bytes(shape: Maps) -> int:
    """Logits, gradient, and both maps at the logits' size, in float32."""
    batch, channels, height, width = shape.logits
    return 4 * batch * height * width * (2 * channels + 2)
