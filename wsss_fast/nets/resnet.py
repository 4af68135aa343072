"""ResNet-50 as IRN and AMN use it: output stride 16, batch-norm on its stored statistics."""

from __future__ import annotations

import torch
from torch import nn

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Bottleneck(nn.Module):
    """1x1, 3x3 (stride here, as torchvision), 1x1 with a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 with the last stage's stride taken out (He et al. 2016, as modified by IRN, CVPR 2019).

    Parameter names are torchvision's. The stem (conv1, bn1) is frozen; the other batch-norms train their affine part only.

    Attributes:
        out_channels: channels of the features, 2048.
        stride: output stride, 16.
        stage_channels: channels behind each stage.
        frozen_statistics: batch-norm never uses batch statistics.
    """

    out_channels, stride = 2048, 16
    stage_channels = {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
    frozen_statistics = True

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for name, width, blocks, stride in zip(STAGES, (64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 2, 1), strict=True):
            stage = [Bottleneck(channels if i == 0 else width * 4, width, stride if i == 0 else 1) for i in range(blocks)]
            setattr(self, name, nn.Sequential(*stage))
            channels = width * 4
        for parameter in (*self.conv1.parameters(), *self.bn1.parameters()):
            parameter.requires_grad_(False)

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> [B, 64, H/4, W/4]."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def forward(self, images: torch.Tensor, detach_after: str | None = None) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, 2048, H/16, W/16]; no gradient reaches `detach_after` or what is before it."""
        x = self.stem(images)
        for name in STAGES:
            x = getattr(self, name)(x)
            if name == detach_after:
                x = x.detach()
        return x
