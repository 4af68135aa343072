"""ResNet-50 as used by IRN and AMN, and ResNet-101 in Caffe's layout as used by DeepLabV2.

He et al. 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from wsss_fast.nets.backbone import Backbone

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut.

    The stride is in the 3x3 convolution (torchvision) or, with `caffe`, in the first 1x1.
    """

    expansion = 4

    def __init__(
        self, channels: int, width: int, stride: int, dilation: int = 1, caffe: bool = False
    ):
        super().__init__()
        out = width * self.expansion
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, second, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(Backbone):
    """Bottleneck ResNet without its classifier. Parameter names are torchvision's.

    Args:
        blocks: number of bottlenecks of each of the four stages.
        strides: stride of the first bottleneck of each stage.
        dilations: dilation of the 3x3 convolutions of each stage.
        caffe: stride in the first 1x1 convolution, and a pooling that rounds sizes up.
        width: channels of the first convolution, of which those of the others are multiples.
    """

    frozen_statistics = True

    def __init__(
        self,
        blocks: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int] = (1, 1, 1, 1),
        caffe: bool = False,
        width: int = 64,
    ):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stage_channels = {
            "stem": width,
            **{name: w * Bottleneck.expansion for name, w in zip(STAGES, widths, strict=True)},
        }
        self.out_channels = self.stage_channels[STAGES[-1]]
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1, ceil_mode=caffe)
        channels = width
        for name, inner, count, stride, dilation in zip(
            STAGES, widths, blocks, strides, dilations, strict=True
        ):
            stage = [
                Bottleneck(
                    channels if i == 0 else self.stage_channels[name],
                    inner,
                    stride if i == 0 else 1,
                    dilation,
                    caffe,
                )
                for i in range(count)
            ]
            setattr(self, name, nn.Sequential(*stage))
            channels = self.stage_channels[name]

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> [B, width, H/4, W/4]."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images [B, 3, H, W] -> the maps of the stem and of each stage, as in `stage_channels`."""
        maps = [self.stem(images)]
        for name in STAGES:
            maps.append(getattr(self, name)(maps[-1]))
        return maps

    def forward(self, images: torch.Tensor, detach_after: str | None = None) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, 32 width, h, w].

        No gradient reaches the stage `detach_after` and those before it.
        """
        x = self.stem(images)
        for name in STAGES:
            x = getattr(self, name)(x)
            if name == detach_after:
                x = x.detach()
        return x


class ResNet50(ResNet):
    """ResNet-50 of output stride 16: without the last stage's stride, as in IRN (CVPR 2019).

    The stem (conv1, bn1) is frozen; of the other batch-norms only the affine part is trained.
    """

    stride = 16
    stage_strides = (4, 4, 8, 16, 16)

    def __init__(self):
        super().__init__((3, 4, 6, 3), (1, 2, 2, 1))
        for parameter in (*self.conv1.parameters(), *self.bn1.parameters()):
            parameter.requires_grad_(False)


class CaffeResNet101(ResNet):
    """ResNet-101 of DeepLabV2 (Chen et al. 2018), of output stride 8, with frozen batch-norm.

    The last stages have dilations 2 and 4. Images are BGR in 0..255 minus the mean colour, see
    `data.transforms.subtract_mean`.

    Args:
        width: as for `ResNet`.
    """

    stride = 8
    stage_strides = (4, 4, 8, 8, 8)

    def __init__(self, width: int = 64):
        super().__init__((3, 4, 23, 3), (1, 2, 1, 1), (1, 1, 2, 4), caffe=True, width=width)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for parameter in module.parameters():
                    parameter.requires_grad_(False)
