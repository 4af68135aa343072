"""What the heads of this package expect of a backbone."""

from __future__ import annotations

import torch
from torch import nn


class Backbone(nn.Module):
    """Convolutional network from images [B, 3, H, W] to features [B, out_channels, h, w].

    Attributes:
        out_channels: channels of the features.
        stride: output stride, pixels for each cell of the features.
        frozen_statistics: batch-norm never uses batch statistics.
        stage_channels: channels of the stem and after each stage, by name.
        stage_strides: strides of the same maps.
    """

    out_channels: int
    stride: int
    frozen_statistics: bool
    stage_channels: dict[str, int]
    stage_strides: tuple[int, ...]

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images [B, 3, H, W] -> the maps of the stem and of each stage, as in `stage_channels`."""
        raise NotImplementedError
