"""A small residual network that learns the Shapes benchmark from scratch on a laptop's CPU."""

from __future__ import annotations

import torch
from torch import nn

from wsss_fast.nets.backbone import Backbone


class SmallBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (the basic block of He et al. 2016)."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class SmallResNet(Backbone):
    """Residual backbone of fewer than 0.53 M parameters and output stride 8, trained from scratch.

    Batch-norm is trained too: from scratch there are no stored statistics worth freezing.

    Args:
        widths: channels of the stem and of the three stages.
        blocks: residual blocks of each stage; the first two stages halve the resolution, the third
            keeps it.
    """

    stride = 8
    stage_strides = (2, 4, 8, 8)
    frozen_statistics = False

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 48, 64, 96),
        blocks: tuple[int, int, int] = (2, 1, 1),
    ):
        super().__init__()
        self.out_channels = widths[-1]
        self.stage_channels = {
            "stem": widths[0],
            **{f"layer{i}": width for i, width in enumerate(widths[1:], 1)},
        }
        self.conv1 = nn.Conv2d(3, widths[0], 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        channels = widths[0]
        for i, (width, count, stride) in enumerate(
            zip(widths[1:], blocks, (2, 2, 1), strict=True), 1
        ):
            stage = [
                SmallBlock(channels if j == 0 else width, width, stride if j == 0 else 1)
                for j in range(count)
            ]
            setattr(self, f"layer{i}", nn.Sequential(*stage))
            channels = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images [B, 3, H, W] -> the maps of the stem (stride 2) and of each stage (4, 8, 8)."""
        maps = [self.relu(self.bn1(self.conv1(images)))]
        for name in list(self.stage_channels)[1:]:
            maps.append(getattr(self, name)(maps[-1]))
        return maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, out_channels, ceil(H/8), ceil(W/8)]."""
        return self.stages(images)[-1]
