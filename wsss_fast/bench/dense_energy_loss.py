"""dense_energy_loss, forward and backward, against public code and the eager reference, on photos.

Rows are images of 512x512 at the scale factor of public code, 1/2, and at 1, with the constants of
public code; "exact" has the derivative as its gradient, which public code has not. The baseline is
the loss around the public module `bilateralfilter` (meng-tang/rloss, pytorch/wrapper) if that can
be imported; it filters one class after the other, on one core of the CPU for each image, and sums
the loss in float32. The roofline reads the probabilities and writes the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wsss_fast import ops
from wsss_fast.bench.harness import photos
from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import (
    EAGER,
    OURS,
    Implementation,
    Input,
    Suite,
    relative_error,
    with_gradients,
)
from wsss_fast.ops.reference.dense_energy_loss import dense_energy_loss as reference_loss

try:
    import bilateralfilter as public_module
except ImportError:  # optional; a note below the table says so
    public_module = None

PUBLIC = "public"
WEIGHT, SIGMA_RGB, SIGMA_XY = 1e-7, 15.0, 100.0
# Relative to the largest value; public code sums the loss in float32.
LIMITS = {"loss": 1e-4, "gradient": 2e-5}


@dataclasses.dataclass(frozen=True)
class Call:
    """What a row computes.

    Attributes:
        shape: shape [B, K, H, W] of the probabilities.
        scale_factor: of the image on which the loss is computed.
        gradient: "public" or "exact".
    """

    shape: tuple[int, int, int, int]
    scale_factor: float = 0.5
    gradient: str = "public"


ROWS = {
    "half": ("21 classes, half size", Call((1, 21, 512, 512))),
    "full": ("21 classes, full size", Call((1, 21, 512, 512), 1.0)),
    "2": ("2 classes, half size", Call((1, 2, 512, 512))),
    "81": ("81 classes, half size", Call((1, 81, 512, 512))),
    "batch4": ("batch of 4, 21, half", Call((4, 21, 512, 512))),
    "exact": ("21 classes, half, exact", Call((1, 21, 512, 512), gradient="exact")),
}


def suite() -> Suite:
    notes: tuple[str, ...] = ()
    if public_module is None:
        notes = ("The module bilateralfilter is not installed; the baseline is eager.",)
    return Suite(
        name="dense_energy_loss",
        op="dense_energy_loss",
        title=f"dense energy loss and its gradient, 512x512, float32; {photos.source()}",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("half", "2"),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], shape=(1, 3, 24, 32)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        baselines=(PUBLIC, EAGER),
        compare=compare,
        limits=LIMITS,
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
        notes=notes,
    )


def make(call: Call, number: int) -> Input:
    """Smooth probabilities, photos, a box as roi, and pseudo labels, of which 30 % are unknown."""
    batch, classes, height, width = call.shape
    generator = torch.Generator().manual_seed(1000 * classes + number)
    low = torch.randn(batch, classes, 9, 12, generator=generator)
    probabilities = (4 * interpolate(low, (height, width), mode="bicubic")).softmax(1)
    roi = torch.zeros(batch, height, width)
    roi[:, height // 16 :, : width - width // 16] = 1
    unknown = torch.rand(batch, height, width, generator=generator) < 0.3
    labels = torch.where(unknown, 255, probabilities.argmax(1)).byte()
    image = photos.batch(number * batch, batch, height, width)
    return probabilities, image, roi, labels, torch.ones(())


def implementations(call: Call) -> dict[str, Implementation]:
    """Ours, the eager and the compiled reference, and the public loss, which has one gradient."""
    options: dict[str, Any] = {
        "weight": WEIGHT,
        "sigma_rgb": SIGMA_RGB,
        "sigma_xy": SIGMA_XY,
        "scale_factor": call.scale_factor,
        "gradient": call.gradient,
    }

    def ours(probabilities: Tensor, image: Tensor, roi: Tensor, labels: Tensor) -> Tensor:
        return ops.dense_energy_loss(image, probabilities, roi, labels, **options)

    def eager(probabilities: Tensor, image: Tensor, roi: Tensor, labels: Tensor) -> Tensor:
        return reference_loss(image, probabilities, roi, labels, **options)

    found = {OURS: Implementation(with_gradients(ours, 1))}
    found[EAGER] = Implementation(with_gradients(eager, 1), slow=public_module is not None)
    if public_module is not None and call.gradient == "public":
        by_public_code = with_gradients(public_loss(call.scale_factor), 1)
        found[PUBLIC] = Implementation(by_public_code, on_cpu=True)
    return found


def compare(results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """The relative errors of the loss and of its gradient."""
    pairs = zip(LIMITS, results, expected, strict=True)
    return {name: relative_error([got], [want])["error"] for name, got, want in pairs}


def least_bytes(call: Call) -> int:
    """Probabilities and gradient, in float32."""
    batch, classes, height, width = call.shape
    return 2 * 4 * batch * classes * height * width


class _PublicEnergy(torch.autograd.Function):
    """- sum S gate A(S) / B and the gradient of public code, by the public module."""

    @staticmethod
    def forward(ctx, probabilities, image, roi, unknown, sigma_xy):
        batch, classes, height, width = probabilities.shape
        gate = (roi - probabilities.amax(1)).clamp(min=0).masked_fill(unknown, 1)
        inside = probabilities * roi[:, None]
        out = np.zeros(inside.numel(), np.float32)
        flat = (image.numpy().reshape(-1), inside.numpy().reshape(-1), out)
        if batch == 1:  # its batched function would leave torch with one thread
            public_module.bilateralfilter(*flat, height, width, SIGMA_RGB, sigma_xy)
        else:
            sizes = (batch, classes, height, width)
            public_module.bilateralfilter_batch(*flat, *sizes, SIGMA_RGB, sigma_xy)
        filtered = gate[:, None] * torch.from_numpy(out).view(inside.shape)
        ctx.save_for_backward(filtered, roi)
        return -torch.dot(inside.flatten(), filtered.flatten()) / batch

    @staticmethod
    def backward(ctx, by):
        filtered, roi = ctx.saved_tensors
        return -2 * by / len(roi) * filtered * roi[:, None], None, None, None, None


def public_loss(scale_factor: float) -> Callable[..., Tensor]:
    """The loss as public code computes it: resized by PyTorch, filtered by the public module."""
    by: dict[str, Any] = {"scale_factor": scale_factor, "recompute_scale_factor": True}

    def loss(probabilities: Tensor, image: Tensor, roi: Tensor, labels: Tensor) -> Tensor:
        reduced = interpolate(probabilities, mode="bilinear", align_corners=False, **by)
        image, roi = interpolate(image.float(), **by), interpolate(roi[:, None], **by)[:, 0]
        unknown = interpolate(labels[:, None], **by)[:, 0] == 255
        energy = _PublicEnergy.apply(reduced, image, roi, unknown, SIGMA_XY * scale_factor)
        return WEIGHT * energy

    return loss
