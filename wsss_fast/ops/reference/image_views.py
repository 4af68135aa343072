"""Scaled, mirrored, normalised views of images in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .bicubic import PASS_ORDER, resize_bicubic

__all__ = ["image_views"]


def image_views(
    image: Tensor,
    scales: Sequence[float],
    *,
    mirror: bool = True,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    dtype: torch.dtype = torch.float32,
    order: int = PASS_ORDER,
) -> list[Tensor]:
    """The definition of `wsss_fast.ops.image_views`: same arguments, without checks.

    `order` is as for `bicubic.resize_bicubic`.
    """
    images = image if image.dim() == 4 else image.unsqueeze(0)
    levels = _normalised_levels(mean, std).to(dtype).to(image.device)
    channels = torch.arange(3, device=image.device)
    views = []
    for scale in scales:
        height, width = (scaled_side(side, scale) for side in images.shape[1:3])
        pixels = resize_bicubic(images, height, width, order).long()
        view = levels[channels, pixels]  # [B, h, w, 3]
        both = torch.cat([view, view.flip(2)]) if mirror else view
        views.append(both.permute(0, 3, 1, 2))
    return views


def scaled_side(side: int, scale: float) -> int:
    """A side times a scale, rounded half to even as by numpy, at least one pixel."""
    return max(1, round(side * scale))


def _normalised_levels(mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(level / 255 - mean) / std of the 256 levels of a channel, float32 [3, 256]."""
    centre, spread = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (mean, std))
    return ((torch.arange(256, dtype=torch.float64) / 255 - centre) / spread).float()
