"""label_conditioned_logits and label_conditioned_activation against eager and compiled PyTorch.

Features are Bx2048x32x32 for AMN (3x3, dilations 6 12 18 24) and CAM (1x1), and 10x2048x41x41 for
DeepLab (AMN's kernels, no scale); K is 21 (CAM: 20) unless the row says otherwise. train is
forward, and backward for every input. The roofline is the product of the features with each
distinct tap of the kernels where the tap stays on the map, three times as much with the backward
pass.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from wsss_fast.bench.harness.roofline import Roofline, matmul
from wsss_fast.bench.harness.suite import Implementation, Input, Suite, op_implementations


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the label_conditioned benchmark.

    Attributes:
        dtype: dtype of all tensors; half precisions may differ by four roundings, since eager
            rounds every branch.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclasses.dataclass(frozen=True)
class Head:
    """Shapes of a head; the defaults are AMN's.

    Attributes:
        features: shape of the features.
        labels: K.
        dilations: dilations of the branches.
        kernel: 3 or 1.
        scaled: whether there is a scale.
        size: size (H, W) of the activation; None: logits.
        backward: whether gradients are computed.
    """

    features: tuple[int, int, int, int]
    labels: int = 21
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    kernel: int = 3
    scaled: bool = True
    size: tuple[int, int] | None = None
    backward: bool = False


_DEEPLAB = Head((10, 2048, 41, 41), scaled=False)
_CAM = Head((16, 2048, 32, 32), labels=20, dilations=(1,), kernel=1, scaled=False)
# The papers' shapes, and AMN's with batches of 4 for machines with two cores.
ROWS = {
    "amn4": ("AMN B=4", Head((4, 2048, 32, 32))),
    "amn4-train": ("AMN B=4, train", Head((4, 2048, 32, 32), backward=True)),
    "amn4-81": ("AMN B=4 K=81", Head((4, 2048, 32, 32), 81)),
    "amn4-81-train": ("AMN B=4 K=81, train", Head((4, 2048, 32, 32), 81, backward=True)),
    "amn16-train": ("AMN B=16, train", Head((16, 2048, 32, 32), backward=True)),
    "amn16-81-train": ("AMN B=16 K=81, train", Head((16, 2048, 32, 32), 81, backward=True)),
    "amn-inference": ("AMN B=1, to 512x512", Head((1, 2048, 32, 32), size=(512, 512))),
    "deeplab": ("DeepLab B=10", _DEEPLAB),
    "deeplab-train": ("DeepLab B=10, train", dataclasses.replace(_DEEPLAB, backward=True)),
    "cam": ("CAM B=16", _CAM),
    "cam-train": ("CAM B=16, train", dataclasses.replace(_CAM, backward=True)),
}
_TINY = (2, 8, 9, 9)
_ERROR = 2e-5  # of the largest value, in float32


def suite(options: Options = Options()) -> Suite:
    dtype: torch.dtype = getattr(torch, options.dtype)
    return Suite(
        name="label_conditioned",
        op="label_conditioned_logits",
        variant="" if options.dtype == "float32" else options.dtype,
        title=(
            f"Label-conditioned head, {options.dtype}; 2048x32x32, DeepLab 2048x41x41; K=21, CAM 20"
        ),
        options=dataclasses.asdict(options),
        quick=("amn4", "amn4-train", "cam", "cam-train"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: make(ROWS[key][1], number, dtype),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], features=_TINY), 0, dtype),
        implementations=lambda key: implementations(ROWS[key][1]),
        limits={"error": max(_ERROR, 4 * torch.finfo(dtype).eps)},
        roofline=lambda key: least_products(ROWS[key][1], dtype),
    )


def make(head: Head, number: int, dtype: torch.dtype) -> Input:
    """Features, scale or None, weight and bias; with a backward also the gradient of the result."""
    b, c, h, w = head.features
    r, k = len(head.dilations), head.kernel
    generator = torch.Generator().manual_seed(number)
    shapes = [
        head.features,
        (b, c),
        (r, head.labels, c, k, k),
        (r, head.labels),
        (b, head.labels, *(head.size or (h, w))),
    ]
    features, scale, weight, bias, upstream = (
        torch.randn(s, generator=generator).to(dtype) for s in shapes
    )
    tensors = features, scale if head.scaled else None, 0.01 * weight, bias
    return (*tensors, upstream) if head.backward else tensors


def implementations(head: Head) -> dict[str, Implementation]:
    """Logits, or their activation at another size, with all gradients if there is a backward."""
    gradients = 4 if head.backward else 0
    if head.size is None:
        return op_implementations(
            "label_conditioned_logits", gradients=gradients, dilations=head.dilations
        )
    return op_implementations(
        "label_conditioned_activation",
        gradients=gradients,
        dilations=head.dilations,
        size=head.size,
    )


def least_products(head: Head, dtype: torch.dtype) -> Roofline:
    """One product [labels x taps, C] x [C, cells].

    The cells are those of all images that a tap reaches on average.
    """
    b, c, h, w = head.features
    steps = range(-(head.kernel // 2), head.kernel // 2 + 1)
    taps = {
        (dilation * y, dilation * x) for dilation in head.dilations for y in steps for x in steps
    }
    reached = [(h - abs(y)) * (w - abs(x)) for y, x in taps if abs(y) < h and abs(x) < w]
    return matmul(
        head.labels * len(reached),
        c,
        round(b * sum(reached) / len(reached)),
        products=3 if head.backward else 1,
        dtype=dtype,
    )
