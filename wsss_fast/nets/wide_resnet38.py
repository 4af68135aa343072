"""Wide ResNet-38, model A1 (Wu, Shen and van den Hengel 2016), as used by EPS, CCR and PSA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.nets.backbone import Backbone

STAGES = ("stage2", "stage3", "stage4", "stage5", "stage6", "stage7")
FROZEN = ("conv1", "stage2")
BATCH_NORM_MOMENTUM = 3e-4  # YudeWang/semantic-segmentation-codebase, seamv1-pseudovoc


class Unit(nn.Module):
    """Pre-activated residual unit: batch-norm and ReLU before each convolution, none after the sum.

    Args:
        widths: channels of the input and after each convolution.
        kernels: kernel sizes of the convolutions, 3 or 1.
        stride: stride of the first convolution and of the shortcut.
        dilations: dilations of the convolutions.
        dropout: probability that a channel is dropped before the second and later convolutions.
    """

    bn1: nn.BatchNorm2d
    conv1: nn.Conv2d

    def __init__(
        self,
        widths: tuple[int, ...],
        kernels: tuple[int, ...],
        stride: int = 1,
        dilations: tuple[int, ...] = (1, 1),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.count = len(kernels)
        for i, (channels, width, kernel, dilation) in enumerate(
            zip(widths, widths[1:], kernels, dilations, strict=False), 1
        ):
            setattr(self, f"bn{i}", nn.BatchNorm2d(channels))
            setattr(
                self,
                f"conv{i}",
                nn.Conv2d(
                    channels,
                    width,
                    kernel,
                    stride if i == 1 else 1,
                    bias=False,
                    padding=dilation * (kernel // 2),
                    dilation=dilation,
                ),
            )
        self.dropout = nn.Dropout2d(dropout)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or widths[0] != widths[-1]:
            self.shortcut = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        x = self.conv1(activated)
        for i in range(2, self.count + 1):
            x = F.relu(getattr(self, f"bn{i}")(x))
            x = getattr(self, f"conv{i}")(self.dropout(x))
        return shortcut + x


class WideResNet38(Backbone):
    """Wide ResNet-38 without its classifier, of output stride 8.

    The affine parameters of batch-norms are never trained, as published.

    Args:
        frozen: convolutions and stages that are not trained either.
        batch_statistics: batch-norms use the statistics of the batch in train mode, and the stored
            ones follow; otherwise they always use the stored ones.
        width: channels of the first convolution, of which those of the others are multiples.
    """

    stride = 8

    def __init__(
        self, frozen: Sequence[str] = FROZEN, batch_statistics: bool = False, width: int = 64
    ):
        super().__init__()
        self.frozen_statistics, self.out_channels = not batch_statistics, 64 * width
        w = width
        self.conv1 = nn.Conv2d(3, w, 3, padding=1, bias=False)
        self.stage2 = _stage(3, (w, 2 * w, 2 * w), 2)
        self.stage3 = _stage(3, (2 * w, 4 * w, 4 * w), 2)
        self.stage4 = _stage(6, (4 * w, 8 * w, 8 * w), 2)
        self.stage5 = _stage(3, (8 * w, 8 * w, 16 * w), 1, 2)
        self.stage6 = nn.Sequential(_bottleneck(16 * w, 32 * w, dropout=0.3))
        self.stage7 = nn.Sequential(_bottleneck(32 * w, 64 * w, dropout=0.5))
        self.bn = nn.BatchNorm2d(64 * w)
        self.relu = nn.ReLU(inplace=True)
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) or name in frozen:
                module.requires_grad_(False)
            if isinstance(module, nn.BatchNorm2d) and batch_statistics:
                module.momentum = BATCH_NORM_MOMENTUM

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, 64 width, ceil(H/8), ceil(W/8)]."""
        x = self.conv1(images)
        for name in STAGES:
            x = getattr(self, name)(x)
        return self.relu(self.bn(x))


def _stage(
    count: int, widths: tuple[int, int, int], stride: int, dilation: int = 1
) -> nn.Sequential:
    """Units of two 3x3 convolutions; the first convolution has the stride and no dilation."""
    first = Unit(widths, (3, 3), stride, (1, dilation))
    return nn.Sequential(
        first,
        *(
            Unit((widths[2], *widths[1:]), (3, 3), 1, (dilation, dilation))
            for _ in range(count - 1)
        ),
    )


def _bottleneck(channels: int, width: int, dropout: float) -> Unit:
    return Unit((channels, width // 4, width // 2, width), (1, 3, 1), 1, (1, 4, 1), dropout)
