"""image_views of photos, with mirror images, against Pillow and against the eager reference.

375x500 is a photo of VOC, 480x640 one of COCO; 4 scales are 0.5, 1, 1.5 and 2. pillow resizes on
the CPU with one thread, then numpy normalises and torch mirrors. All implementations must give the
same bits. The roofline reads the photo once and writes the views.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import (
    EAGER,
    OURS,
    Implementation,
    Input,
    Suite,
)
from wsss_fast.data.transforms import normalise
from wsss_fast.ops.reference.image_views import image_views as reference_views

_PILLOW = "pillow"


@dataclasses.dataclass(frozen=True)
class Views:
    """Size (H, W) of a photo, and scales and dtype of its views."""

    size: tuple[int, int]
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    dtype: torch.dtype = torch.float32


ROWS = {
    "voc": ("375x500, 4 scales", Views((375, 500))),
    "bf16": ("375x500, 4, bfloat16", Views((375, 500), dtype=torch.bfloat16)),
    "half": ("375x500, scale 0.5", Views((375, 500), (0.5,))),
    "larger": ("375x500, scale 1.5", Views((375, 500), (1.5,))),
    "twice": ("375x500, scale 2", Views((375, 500), (2.0,))),
    "coco": ("480x640, 4 scales", Views((480, 640))),
}


def suite() -> Suite:
    return Suite(
        name="image_views",
        op="image_views",
        title="Scaled, mirrored, normalised views of a photo",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("voc", "half"),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], size=(9, 12)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        baselines=(_PILLOW,),
        limits={"error": 0.0},
        roofline=lambda key: copy(least_bytes(ROWS[key][1])),
    )


def make(views: Views, number: int) -> Input:
    """A photo of smooth areas, edges and noise, uint8 [H, W, 3]."""
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, views.size, mode="bicubic")[0]
    edges = (smooth[:1] > 0.5) * 0.3
    noise = torch.rand(3, *views.size, generator=generator) * 0.1
    image = ((smooth + edges + noise).clamp(0, 1) * 255).to(torch.uint8)
    return (image.permute(1, 2, 0).contiguous(),)


def implementations(views: Views) -> dict[str, Implementation]:
    """Ours, the reference in PyTorch, and Pillow with numpy."""
    scales, dtype = views.scales, views.dtype
    return {
        OURS: Implementation(lambda image: ops.image_views(image, scales, dtype=dtype)),
        EAGER: Implementation(lambda image: reference_views(image, scales, dtype=dtype)),
        _PILLOW: Implementation(lambda image: by_pillow(image, views), on_cpu=True),
    }


def by_pillow(image: Tensor, views: Views) -> list[Tensor]:
    """The views made one by one with Pillow, numpy and torch."""
    photo, found = Image.fromarray(image.numpy()), []
    for scale in views.scales:
        height, width = (max(1, int(np.round(side * scale))) for side in image.shape[:2])
        resized = np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC))
        view = torch.from_numpy(normalise(resized))[None]
        both = torch.cat([view, view.flip(-1)]).contiguous(memory_format=torch.channels_last)
        found.append(both.to(views.dtype))
    return found


def least_bytes(views: Views) -> int:
    """The photo, and two images of three channels per scale."""
    height, width = views.size
    pixels = sum(round(height * scale) * round(width * scale) for scale in views.scales)
    return 3 * height * width + 2 * 3 * pixels * views.dtype.itemsize
