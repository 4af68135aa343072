"""DeepLabV2: the segmentation network that all three papers train on their pseudo-masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.heads import PAPER_DILATIONS, freeze_statistics
from wsss_fast.ops import label_conditioned_logits


class Aspp(nn.Module):
    """Sum of dilated 3x3 convolutions with bias (atrous spatial pyramid pooling of DeepLabV2).

    Args:
        channels: channels of the features.
        num_outputs: channels of the logits.
        dilations: dilations of the convolutions, in cells of the feature map.
    """

    def __init__(self, channels: int, num_outputs: int, dilations: Sequence[int]):
        super().__init__()
        self.dilations = tuple(dilations)
        self.weight = nn.Parameter(torch.empty(len(self.dilations), num_outputs, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(len(self.dilations), num_outputs))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [B, D, h, w] -> logits [B, K, h, w]."""
        return label_conditioned_logits(features, None, self.weight, self.bias, self.dilations)


class DeepLabV2(nn.Module):
    """Per-pixel classes at output stride 8, the maximum over image scales.

    Chen et al., PAMI 2018, in the variant that weakly supervised papers train on pseudo-masks.

    Args:
        backbone: the backbone.
        num_classes: classes without background; the logits have one channel more, background first.
        dilations: dilations of the summed 3x3 convolutions, in cells of the feature map.
        scales: image scales in addition to the full size.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dilations: Sequence[int] = PAPER_DILATIONS,
        scales: Sequence[float] = (0.5, 0.75),
    ):
        super().__init__()
        self.backbone, self.num_classes, self.scales = backbone, num_classes, tuple(scales)
        self.aspp = Aspp(backbone.out_channels, num_classes + 1, dilations)

    def train(self, mode: bool = True) -> DeepLabV2:
        super().train(mode)
        if self.backbone.frozen_statistics:
            freeze_statistics(self.backbone)
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """images [B, 3, H, W] -> logits [B, C+1, h, w], the maximum over scales, background first.

        In train mode a list: the logits of the full size, of each scale at its own size, and the
        maximum.
        """
        full = self.aspp(self.backbone(images))
        others = [self.aspp(self.backbone(_scaled(images, s))) for s in self.scales]
        same_size = [
            F.interpolate(x, full.shape[-2:], mode="bilinear", align_corners=False) for x in others
        ]
        highest = torch.stack([full, *same_size]).amax(dim=0)
        return [full, *others, highest] if self.training else highest


def _scaled(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Images [B, 3, H, W] at sizes rounded down, at least 1."""
    size = [int(n * scale) for n in images.shape[-2:]]
    if min(size) < 1:
        size = [max(1, n) for n in size]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    # The factor itself, not the ratio of the rounded sizes, defines the sampling grid, as in the
    # public code.
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
