"""DeepLab: the segmentation networks that are trained on pseudo-masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.heads import freeze_statistics

Self = TypeVar("Self", bound="DeepLab")


class DeepLab(nn.Module):
    """Per-pixel classes at output stride 8, the maximum over image scales.

    Args:
        backbone: the backbone.
        num_classes: classes without background; the logits have one channel more, background first.
        head_name: name of the head, under which its parameters are found.
        head: module from features [B, D, h, w] to logits [B, C+1, h, w].
        scales: image scales in addition to the full size; () for a network of a single scale.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        head_name: str,
        head: nn.Module,
        scales: Sequence[float] = (),
    ):
        super().__init__()
        self.backbone, self.num_classes, self.scales = backbone, num_classes, tuple(scales)
        self.head_name = head_name
        self.add_module(head_name, head)

    def train(self: Self, mode: bool = True) -> Self:
        super().train(mode)
        if self.backbone.frozen_statistics:
            freeze_statistics(self.backbone)
        return self

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> logits of this size alone [B, C+1, h, w]."""
        return getattr(self, self.head_name)(self.backbone(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """images [B, 3, H, W] -> logits [B, C+1, h, w], the maximum over scales, background first.

        In train mode a list: the logits of the full size, of each scale at its own size, and the
        maximum; without other scales, only the logits.
        """
        full = self.logits(images)
        if not self.scales:
            return [full] if self.training else full
        others = [self.logits(_scaled(images, s)) for s in self.scales]
        same_size = [
            F.interpolate(x, full.shape[-2:], mode="bilinear", align_corners=False) for x in others
        ]
        highest = torch.stack([full, *same_size]).amax(dim=0)
        return [full, *others, highest] if self.training else highest


class DeepLabV2(DeepLab):
    """DeepLab with a pyramid of dilated convolutions.

    Chen et al., PAMI 2018, in the variant that weakly supervised papers train on pseudo-masks.

    Args:
        backbone: the backbone.
        num_classes: classes without background; the logits have one channel more, background first.
        aspp: the pyramid.
        scales: image scales in addition to the full size.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, aspp: nn.Module, scales: Sequence[float]
    ):
        super().__init__(backbone, num_classes, "aspp", aspp, scales)


def _scaled(images: torch.Tensor, scale: float) -> torch.Tensor:
    """Images [B, 3, H, W] at sizes rounded down, at least 1."""
    size = [int(n * scale) for n in images.shape[-2:]]
    if min(size) < 1:
        size = [max(1, n) for n in size]
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    # The factor itself, not the ratio of the rounded sizes, defines the sampling grid, as in the
    # public code.
    return F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
