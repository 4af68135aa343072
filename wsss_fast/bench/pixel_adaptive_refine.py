"""pixel_adaptive_refine (PAR, PAMR), 10 iterations and 6 dilations, against eager PyTorch.

Rows are masks of 21 classes, PAR of 3 masks at 256x256, the gradient in the masks, and the public
function that makes labels of class activation maps (two classes; PAR at half the size, with two
background scores). eager is the reference, which adds one neighbour after the other. stacked is how
the public modules compute it: all 48 neighbours of all masks in memory, by dilated convolutions; it
is left out at 512x512, where the public code took 40 to 46 s on one core. A compiled reference is
left out, too: torch.compile needs minutes for it. The roofline is the multiply-adds of all
iterations; the plain call is a matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness.roofline import Roofline, matmul
from wsss_fast.bench.harness.suite import (
    EAGER,
    OURS,
    Implementation,
    Input,
    Suite,
    relative_error,
    with_gradients,
)
from wsss_fast.compat import par
from wsss_fast.ops.reference.pixel_adaptive_refine import OFFSETS, affinities
from wsss_fast.ops.reference.pixel_adaptive_refine import pixel_adaptive_refine as reference_refine

_DILATIONS, _ITERATIONS = (1, 2, 4, 8, 12, 24), 10
_ERROR = 1e-5  # of the largest value, in float32
_LABELS = 1e-3  # share of pixels whose label may differ
_SMALL = 1 << 21  # values of masks up to which `stacked` is measured


@dataclasses.dataclass(frozen=True)
class Masks:
    """What a row computes.

    Attributes:
        shape: shape [B, K, H, W] of the masks, or of the class activation maps.
        kind: "par" or "pamr".
        backward: whether the gradient in the masks is computed, too.
        present: number of present classes, for labels of class activation maps; 0 for masks.
    """

    shape: tuple[int, int, int, int]
    kind: str = "par"
    backward: bool = False
    present: int = 0


ROWS = {
    "par128": ("PAR 21x128x128", Masks((1, 21, 128, 128))),
    "par": ("PAR 21x512x512", Masks((1, 21, 512, 512))),
    "par3": ("PAR 3x256x256", Masks((1, 3, 256, 256))),
    "pamr128": ("PAMR 21x128x128", Masks((1, 21, 128, 128), "pamr")),
    "pamr": ("PAMR 21x512x512", Masks((1, 21, 512, 512), "pamr")),
    "train128": ("PAR 128x128 grad", Masks((1, 21, 128, 128), backward=True)),
    "cams": ("2-class labels", Masks((1, 20, 512, 512), present=2)),
}


def suite() -> Suite:
    return Suite(
        name="pixel_adaptive_refine",
        op="pixel_adaptive_refine",
        title=f"PAR and PAMR, {_ITERATIONS} iterations, dilations {_DILATIONS}",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("par128", "cams"),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], shape=(1, 4, 20, 18)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        compare=compare,
        limits={"error": _ERROR, "labels": _LABELS},
        roofline=lambda key: least_products(ROWS[key][1]),
    )


def make(masks: Masks, number: int) -> Input:
    """Masks, an image of smooth regions with noise, and the gradient or the present classes."""
    batch, _, height, width = masks.shape
    generator = torch.Generator().manual_seed(number)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.randn(batch, channels, cells, cells, generator=generator)
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")

    noise = torch.randn(batch, 3, height, width, generator=generator)
    image = smooth(3, 9).sign() + 0.3 * smooth(3, 30) + 0.05 * noise
    if masks.present:
        cams = smooth(masks.shape[1], 7).clamp(0, 1)
        return cams, image, (torch.arange(masks.shape[1]) < masks.present).float()[None]
    values = smooth(masks.shape[1], 7).softmax(1)
    return (
        (values, image, torch.randn(values.shape, generator=generator))
        if masks.backward
        else (
            values,
            image,
        )
    )


def implementations(masks: Masks) -> dict[str, Implementation]:
    """Ours, the reference, and the convolutions of the public modules."""
    options: dict[str, Any] = {
        "dilations": _DILATIONS,
        "iterations": _ITERATIONS,
        "kind": masks.kind,
    }

    def ours(values: Tensor, image: Tensor) -> Tensor:
        return ops.pixel_adaptive_refine(image, values, **options)

    def reference(values: Tensor, image: Tensor) -> Tensor:
        return reference_refine(image, values, **options)

    if masks.present:
        module = par.PAR(_DILATIONS, _ITERATIONS)
        return {
            OURS: Implementation(labels(module)),
            EAGER: Implementation(labels(lambda image, values: reference(values, image))),
            "stacked": Implementation(labels(lambda image, values: stacked(values, image))),
        }
    count = int(masks.backward)
    found = {
        OURS: Implementation(with_gradients(ours, count)),
        EAGER: Implementation(with_gradients(reference, count)),
    }
    if torch.Size(masks.shape).numel() <= _SMALL:
        found["stacked"] = Implementation(
            with_gradients(lambda v, i: stacked(v, i, masks.kind), count), slow=True
        )
    return found


def labels(ref_mod: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The public function with a module that refines, of one image without padding."""

    def call(cams: Tensor, image: Tensor, present: Tensor) -> Tensor:
        box = [(0, image.shape[2], 0, image.shape[3])]
        label = par.refine_cams_with_bkg_v2(ref_mod, image, cams, present, 0.7, 0.25, 255, box)
        return label.byte()

    return call


def stacked(values: Tensor, image: Tensor, kind: str = "par") -> Tensor:
    """All neighbours of all masks in one array, by dilated convolutions."""
    weights = torch.stack(affinities(image, _DILATIONS, kind), 2)  # [B, 1, neighbours, H, W]
    filters = values.new_zeros(len(OFFSETS), 1, 3, 3)
    for n, (y, x) in enumerate(OFFSETS):
        filters[n, 0, y + 1, x + 1] = 1
    batch, count, height, width = values.shape
    for _ in range(_ITERATIONS):
        planes = values.reshape(batch * count, 1, height, width)
        around = [
            torch.nn.functional.conv2d(
                torch.nn.functional.pad(planes, [d] * 4, mode="replicate"), filters, dilation=d
            )
            for d in _DILATIONS
        ]
        values = (torch.cat(around, 1).view(batch, count, -1, height, width) * weights).sum(2)
    return values


def compare(results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """`error` of masks and gradients; `labels`, the share of pixels with another label."""
    got, want = results[0], expected[0]
    if want.dtype == torch.uint8:
        return {"error": 0.0, "labels": (got != want).double().mean().item()}
    other = (got.argmax(1) != want.argmax(1)).double().mean().item()
    return {**relative_error(results, expected), "labels": other}


def least_products(masks: Masks) -> Roofline:
    """A multiply-add for every mask, iteration, pixel and neighbour, twice with a gradient.

    For labels: of the present classes and the background, for both background scores, at half the
    size.
    """
    batch, count, height, width = masks.shape
    if masks.present:
        count, height, width = 2 * (masks.present + 1), height // 2, width // 2
    products = batch * count * height * width * _ITERATIONS * len(_DILATIONS) * len(OFFSETS)
    return dataclasses.replace(matmul(1024, 1024, 1024), work=2.0 * (1 + masks.backward) * products)
