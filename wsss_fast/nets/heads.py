"""The CAM classifier, the activation manipulation network and EPS' network."""

from __future__ import annotations

import torch
from torch import nn

from wsss_fast.nets.backbone import Backbone
from wsss_fast.ops import label_conditioned_logits

PAPER_DILATIONS = (6, 12, 18, 24)


class CamNet(nn.Module):
    """Image classifier whose head, a 1x1 convolution, also turns features into activation maps.

    Zhou et al. 2016, in the variant of IRN (CVPR 2019): the head is applied to the globally
    averaged features and has no bias.

    Args:
        backbone: the backbone; its features have D channels.
        num_classes: number of classes without background.
        detach_after: stage after which the gradient stops (ResNet-50: "layer2"), or None.
        dropout: probability that a channel of the features is dropped before the head
            (ResNet-38: 0.5).
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        detach_after: str | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.backbone, self.num_classes, self.detach_after = backbone, num_classes, detach_after
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(backbone.out_channels, num_classes, 1, bias=False)

    def train(self, mode: bool = True) -> CamNet:
        super().train(mode)
        if getattr(self.backbone, "frozen_statistics", False):
            freeze_statistics(self.backbone)
        return self

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, D, h, w]."""
        if self.detach_after is None:
            return self.backbone(images)
        return self.backbone(images, detach_after=self.detach_after)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> class scores (logits) [B, C]."""
        pooled = self.dropout(self.features(images)).mean(dim=(2, 3), keepdim=True)  # [B, D, 1, 1]
        return self.head(pooled).flatten(1)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> class activation maps, ReLU(W f), [B, C, h, w]."""
        return torch.relu(self.head(self.features(images)))


class EpsNet(nn.Module):
    """EPS' network (CVPR 2021, section 3.1): one map for each class and one for the background.

    The maps have neither a bias nor a ReLU.

    Args:
        backbone: the backbone.
        num_classes: number of classes without background.
    """

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.map_head = nn.Conv2d(backbone.out_channels, num_classes + 1, 1, bias=False)

    def train(self, mode: bool = True) -> EpsNet:
        super().train(mode)
        if self.backbone.frozen_statistics:
            freeze_statistics(self.backbone)
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """images [B, 3, H, W] -> class scores [B, C] and maps [B, C+1, h, w], both logits.

        The background's map comes first. A class's score is the mean of its map, so a loss on the
        scores does not reach the background's map.
        """
        maps = self.map_head(self.backbone(images))
        return maps[:, 1:].mean(dim=(2, 3)), maps


class AmnNet(nn.Module):
    """Activation manipulation network: per-pixel class scores conditioned on the image labels.

    AMN (CVPR 2022), eq. 3-4: logits = sum_r conv3x3_{dilation r}(dropout(f(x) * h(y))), where h is
    a linear map from the multi-hot labels to one factor for each channel. Batch-norm always uses
    its stored statistics.

    Args:
        backbone: the backbone.
        num_classes: classes without background; the logits have one channel more, background first.
        dilations: dilations of the summed 3x3 convolutions, in cells of the feature map.
        condition_at: stage whose output h multiplies: "layer4" (the last feature map, as
            published), "layer3", "layer2", or None for no conditioning.
        neutral_scale: initialise h to 1 for every label; otherwise as torch initialises a linear
            layer, as published.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        dilations: tuple[int, ...] = PAPER_DILATIONS,
        condition_at: str | None = "layer4",
        neutral_scale: bool = False,
    ):
        super().__init__()
        stages = {name: width for name, width in backbone.stage_channels.items() if name != "stem"}
        channels = {**stages, "layer4": backbone.out_channels}
        if condition_at is not None and condition_at not in channels:
            raise ValueError(
                f"condition_at: got {condition_at!r}, must be one of {', '.join(channels)}, or None"
            )
        self.backbone, self.num_classes = backbone, num_classes
        self.dilations, self.condition_at = tuple(dilations), condition_at
        # h has a bias, so that features pass where all labels are zero (no tag).
        self.label_scale: nn.Linear | None = None
        if condition_at is not None:
            self.label_scale = nn.Linear(num_classes, channels[condition_at])
            if neutral_scale:
                nn.init.zeros_(self.label_scale.weight)
                nn.init.ones_(self.label_scale.bias)
        self.dropout = nn.Dropout(0.1)
        self.weight = nn.Parameter(
            torch.empty(len(self.dilations), num_classes + 1, backbone.out_channels, 3, 3)
        )
        self.bias = nn.Parameter(torch.zeros(len(self.dilations), num_classes + 1))
        nn.init.normal_(self.weight, std=0.01)

    def train(self, mode: bool = True) -> AmnNet:
        super().train(mode)
        freeze_statistics(self.backbone)
        return self

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters outside of the backbone: the label scale and the dilated convolutions."""
        return [p for name, p in self.named_parameters() if not name.startswith("backbone.")]

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W], labels [B, C] (multi-hot) -> logits [B, C+1, h, w]."""
        scale = None
        if self.label_scale is not None:
            scale = self.label_scale(labels.to(self.label_scale.weight.dtype))
        if scale is None or self.condition_at in (None, "layer4"):
            features = self.backbone(images)
        else:
            features, scale = self._condition_inside(images, scale, self.condition_at), None
        if self.training:
            # The op multiplies by `scale` after dropout, which commutes: both scale elements.
            features = self.dropout(features)
        return label_conditioned_logits(features, scale, self.weight, self.bias, self.dilations)

    def _condition_inside(
        self, images: torch.Tensor, scale: torch.Tensor, stage: str
    ) -> torch.Tensor:
        """Ablation: scale the output of an earlier stage."""
        handle = getattr(self.backbone, stage).register_forward_hook(
            lambda module, inputs, output: output * scale[:, :, None, None]
        )
        try:
            return self.backbone(images)
        finally:
            handle.remove()


def freeze_statistics(module: nn.Module) -> None:
    """Make every batch-norm use its stored statistics; affine parameters are still trained."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eval()
