"""merge_maps on VOC-sized images against the eager reference: CAM's, AMN's and CCR's maps.

Views are a network's outputs at stride 16 for the scales 0.5, 1, 1.5 and 2 of images of 375x500. Of
each image two classes are wanted, for AMN also the background, whose softmax is over all channels.
On the CPU ours is the reference, but for the softmax. The roofline reads the used channels of the
views once and writes the maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import EAGER, OURS, Implementation, Input, Suite
from wsss_fast.ops.reference.merge_maps import merge_maps as reference_merge
from wsss_fast.ops.reference.merge_maps import strided_size

_SCALES = (0.5, 1.0, 1.5, 2.0)


@dataclasses.dataclass(frozen=True)
class Views:
    """Numbers of images, channels and wanted channels of each image, kind, size of the images."""

    images: int
    channels: int
    wanted: tuple[int, ...]
    kind: str = "relative"
    size: tuple[int, int] = (375, 500)

    @property
    def outputs(self) -> list[tuple[int, int]]:
        """Size of the outputs of each scale."""
        height, width = self.size
        return [(round(height * s / 16) or 1, round(width * s / 16) or 1) for s in _SCALES]


ROWS = {
    "cam1": ("CAM 1 image", Views(1, 20, (3, 7))),
    "cam16": ("CAM 16 images", Views(16, 20, (3, 7))),
    "amn1": ("AMN 1 image", Views(1, 21, (0, 3, 7), "softmax")),
    "amn16": ("AMN 16 images", Views(16, 21, (0, 3, 7), "softmax")),
    "amn8x81": ("AMN 8 images, 81", Views(8, 81, (0, 3, 7), "softmax")),
    "ccr16": ("CCR 16 images", Views(16, 20, (3, 7), "sum")),
}


def suite() -> Suite:
    return Suite(
        name="merge_maps",
        op="merge_maps",
        title="Class maps of 4 scales and mirror images, 375x500, float32",
        quick=("cam1", "amn1"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: make(ROWS[key][1], number),
        # Not smaller: maps of one cell are constant, and only their rounding would be compared.
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], images=1, size=(20, 36)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def make(views: Views, number: int) -> Input:
    """Outputs of each scale, >= 0 except for a softmax, and two masks; without it, empty ones."""
    generator = torch.Generator().manual_seed(number)
    softmax, shape = views.kind == "softmax", (2 * views.images, views.channels)
    outputs = [torch.randn(*shape, *size, generator=generator) for size in views.outputs]
    count = views.images if softmax else 0
    sizes = strided_size(*views.size), views.size
    masks = (torch.rand(count, *size, generator=generator) < 0.5 for size in sizes)
    return *(outputs if softmax else [output.relu() for output in outputs]), *masks


def implementations(views: Views) -> dict[str, Implementation]:
    """Ours and the eager reference."""
    softmax = views.kind == "softmax"

    def caller(function: Callable[..., list[ops.MergedMaps]]) -> Callable[..., list[Tensor]]:
        def call(*tensors: Tensor) -> list[Tensor]:
            *outputs, small, full = tensors
            images = function(
                outputs,
                [views.wanted] * (len(outputs[0]) // 2),
                (full.shape[1], full.shape[2]),
                kind=views.kind,
                align=1 if softmax else 16,
                foreground=(small, full) if softmax else None,
            )
            return [maps for image in images for maps in image if maps is not None]

        return call

    return {
        OURS: Implementation(caller(ops.merge_maps)),
        EAGER: Implementation(caller(reference_merge)),
    }


def least_bytes(views: Views) -> int:
    """The used channels of the views and the maps in float32, and a softmax' masks."""
    softmax, wanted = views.kind == "softmax", len(views.wanted)
    used = views.channels if softmax else wanted
    cells = sum(height * width for height, width in views.outputs)
    small, full = strided_size(*views.size), views.size
    pixels = small[0] * small[1] + full[0] * full[1]
    return views.images * (4 * (2 * used * cells + wanted * pixels) + softmax * pixels)
