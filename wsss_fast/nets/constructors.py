"""Networks by name: each constructor chooses the backbone and what is published with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsss_fast.errors import InputError
from wsss_fast.nets import segmentation_heads
from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.deeplab import DeepLab, DeepLabV2
from wsss_fast.nets.heads import PAPER_DILATIONS, AmnNet, CamNet, EpsNet
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50
from wsss_fast.nets.small import SmallResNet
from wsss_fast.nets.vgg16 import FC_WIDTH, Vgg16
from wsss_fast.nets.weights import check_backbone
from wsss_fast.nets.wide_resnet38 import BATCH_NORM_MOMENTUM, WideResNet38
from wsss_fast.readers import weight_files

# An image of 128 pixels is 16 cells wide at stride 8: the paper's dilations would leave the map.
SMALL_DILATIONS = (1, 2, 4, 6)
SMALL_WIDTHS = (32, 32, 64, 64)
Backbones = Mapping[str, type[Backbone]]
BACKBONES: Backbones = {"resnet50": ResNet50, "small": SmallResNet}
# Of EPS and its classifier baseline.
SALIENCY_BACKBONES: Backbones = {"resnet38": WideResNet38, "small": SmallResNet}
SEGMENTATION_BACKBONES: Backbones = {
    "resnet101": CaffeResNet101,
    "vgg16": Vgg16,
    "resnet38": WideResNet38,
    "small": SmallResNet,
}
# Published settings of a backbone with one of its heads.
_BACKBONE_OPTIONS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    # PengtaoJiang/L2G, deeplab_vgg_v2.py; at a crop of 321, scale 0.5 has 160 pixels.
    ("vgg16", "aspp"): {"ceil_mode": False},
    # PengtaoJiang/OAA, examples/seg/exp1/train.prototxt. rulixiang/deeplab-pytorch rounds down,
    # which is the same at a crop of 321.
    ("vgg16", "largefov"): {"fc_width": FC_WIDTH},
    # YudeWang/semantic-segmentation-codebase, seamv1-pseudovoc/train.py: it never calls train(),
    # which would freeze batch-norms and conv1.
    ("resnet38", "seam"): {"frozen": (), "batch_statistics": True},
    # xulianuwa/MCTformer, seg/network/resnet38d.py
    ("resnet38", "mctformer"): {"frozen": ("conv1",)},
}
# The published pairs; "small" has them all, with narrow layers.
SEGMENTATION_HEADS: Mapping[str, Sequence[str]] = {
    "resnet101": ("aspp", "largefov", "conv1x1"),
    "vgg16": ("aspp", "largefov"),
    "resnet38": ("seam", "mctformer"),
    "small": ("aspp", "largefov", "seam", "mctformer", "conv1x1"),
}


def check(backbone: str, weights: str | Path | None, backbones: Backbones = BACKBONES) -> None:
    """Check the name of a backbone and a weights file, before a run starts.

    Raises:
        InputError: the backbone is unknown, or the file cannot be read or is of another backbone.
    """
    if backbone not in backbones:
        raise InputError(f"backbone: got {backbone!r}, must be one of {', '.join(backbones)}")
    if weights is not None:
        with torch.device("meta"):
            wanted = backbones[backbone]()
        check_backbone(weights, wanted)


def check_file(name: str, weights: str | Path | None) -> None:
    """Raise InputError, with the name of the argument, if a weights file is given and missing."""
    if weights is not None:
        try:
            weight_files.files(Path(weights))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None


def _backbone(name: str, backbones: Backbones = BACKBONES) -> Backbone:
    check(name, None, backbones)
    return backbones[name]()


def cam_resnet50(num_classes: int, *, backbone: str = "resnet50") -> CamNet:
    """The CAM classifier: forward(images [B,3,H,W]) -> scores [B,C].

    `.maps(images)` -> class activation maps after ReLU [B,C,h,w].

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet50" (stride 16; no gradient before layer3) or "small" (stride 8, trained
            from scratch).
    """
    detach_after = "layer2" if backbone == "resnet50" else None
    return CamNet(_backbone(backbone), num_classes, detach_after=detach_after)


def cam_resnet38(num_classes: int, *, backbone: str = "resnet38") -> CamNet:
    """EPS' classifier baseline, also used by CCR: forward(images [B,3,H,W]) -> scores [B,C].

    `.maps(images)` -> class activation maps after ReLU [B,C,h,w].

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet38" (stride 8, dropout before the head) or "small" (stride 8, trained from
            scratch, no dropout).
    """
    dropout = 0.5 if backbone == "resnet38" else 0.0
    return CamNet(_backbone(backbone, SALIENCY_BACKBONES), num_classes, dropout=dropout)


def cam_classifier(num_classes: int, *, backbone: str = "resnet50") -> CamNet:
    """The classifier with any of its backbones: `cam_resnet50` or `cam_resnet38`.

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet50", "resnet38" or "small" (that of `cam_resnet50`).

    Raises:
        InputError: an unknown backbone.
    """
    check(backbone, None, {"resnet50": ResNet50, "resnet38": WideResNet38, "small": SmallResNet})
    if backbone == "resnet38":
        return cam_resnet38(num_classes)
    return cam_resnet50(num_classes, backbone=backbone)


def eps_resnet38(num_classes: int, *, backbone: str = "resnet38") -> EpsNet:
    """EPS' network: forward(images [B,3,H,W]) -> (scores [B,C], maps [B,C+1,h,w]).

    The maps have the background first and no ReLU.

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet38" or "small"; both have stride 8.
    """
    return EpsNet(_backbone(backbone, SALIENCY_BACKBONES), num_classes)


def amn_resnet50(
    num_classes: int, *, backbone: str = "resnet50", condition_at: str | None = "layer4"
) -> AmnNet:
    """The activation manipulation network: forward(images, labels [B,C]) -> logits [B,C+1,h,w].

    Images are [B,3,H,W]; the logits have the background first.

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet50" (dilations 6, 12, 18, 24) or "small" (dilations 1, 2, 4, 6).
        condition_at: stage whose output the label scale multiplies: "layer4" as published, an
            earlier stage, or None for no conditioning.
    """
    if backbone == "resnet50":
        return AmnNet(_backbone(backbone), num_classes, PAPER_DILATIONS, condition_at)
    # With 96 channels, a random initial scale costs 2 mIoU points of AMN+CRF on Shapes
    # (benchmarks/RESULTS.md).
    return AmnNet(
        _backbone(backbone), num_classes, SMALL_DILATIONS, condition_at, neutral_scale=True
    )


def irn_resnet50(*, backbone: str = "resnet50") -> IrnNet:
    """IRN's network: forward(images [B,3,H,W]) -> (boundary logits [B,1,h,w], displacements).

    Displacements are [B,2,h,w]; both are at stride 4.

    Args:
        backbone: "resnet50", or "small" (narrower displacement branch); frozen in both cases.
    """
    return IrnNet(_backbone(backbone), *(() if backbone == "resnet50" else (SMALL_WIDTHS,)))


def deeplab(
    num_classes: int,
    *,
    backbone: str = "resnet101",
    head: str = "aspp",
    scales: Sequence[float] = (0.5, 0.75),
) -> DeepLab:
    """A segmentation network: forward(images [B,3,H,W]) -> logits [B,C+1,h,w] at stride 8.

    The background comes first. The logits are the maximum over image scales. In train mode the
    result is a list: the logits of the full size, those of each scale at their own size, and the
    maximum; without scales, the logits alone.

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet101" (Caffe's layout) or "vgg16" (DeepLab-LargeFOV's), whose images are BGR
            in 0..255 minus the mean colour, see `data.transforms.subtract_mean`; "resnet38", or
            "small" (trained from scratch), whose images are those of the other networks, see
            `data.transforms.normalise`.
        head: "aspp", DeepLabV2's pyramid of dilations 6, 12, 18, 24, for resnet101 and vgg16;
            "largefov", a convolution of dilation 12, then 1x1, for the same; "conv1x1", a single
            convolution, for resnet101; "seam", LargeFOV with batch-norm as for SEAM's masks, which
            uses and learns statistics of the batch in the whole network, for resnet38; "mctformer",
            two convolutions of dilation 12, for resnet38. "small" has all of them, with smaller
            dilations and fewer channels.
        scales: image scales in addition to the full size, each > 0.

    Raises:
        InputError: a backbone, head or scale that does not exist, or a head for other backbones.

    Source: Chen et al., ICLR 2015 and PAMI 2018; the heads' code is named at their functions in
        `nets/segmentation_heads.py`.
    """
    check(backbone, None, SEGMENTATION_BACKBONES)
    if head not in SEGMENTATION_HEADS[backbone]:
        raise InputError(
            f"head: got {head!r}, must be one of {', '.join(SEGMENTATION_HEADS[backbone])} with "
            f"backbone {backbone}"
        )
    if not all(0 < s < float("inf") for s in scales):
        raise InputError(f"scales: got {tuple(scales)}, must be finite numbers > 0")
    make: Callable[..., Backbone] = SEGMENTATION_BACKBONES[backbone]
    body = make(**_BACKBONE_OPTIONS.get((backbone, head), {}))
    module = _segmentation_head(head, backbone, body.out_channels, num_classes + 1)
    if head == "aspp":
        return DeepLabV2(body, num_classes, module, scales)
    return DeepLab(body, num_classes, head, module, scales)


def _segmentation_head(head: str, backbone: str, channels: int, outputs: int) -> nn.Module:
    small = backbone == "small"
    width, dilation = (64, 4) if small else (512, 12)
    if head == "aspp":
        pyramid = segmentation_heads.DeepAspp if backbone == "vgg16" else segmentation_heads.Aspp
        return pyramid(channels, outputs, SMALL_DILATIONS if small else PAPER_DILATIONS)
    if head == "largefov":
        if backbone == "vgg16":
            return segmentation_heads.fc8(channels, outputs)
        return segmentation_heads.large_fov(channels, outputs, 64 if small else 1024, dilation)
    if head == "seam":
        # A short training from scratch would not move statistics of the published momentum.
        momentum = 0.1 if small else BATCH_NORM_MOMENTUM
        return segmentation_heads.seam(channels, outputs, width, dilation, momentum)
    if head == "mctformer":
        return segmentation_heads.mctformer(channels, outputs, width, dilation)
    return segmentation_heads.conv1x1(channels, outputs)


def deeplabv2_resnet101(
    num_classes: int, *, backbone: str = "resnet101", scales: Sequence[float] = (0.5, 0.75)
) -> DeepLabV2:
    """DeepLabV2: `deeplab` with head "aspp".

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet101", "vgg16" or "small", see `deeplab`.
        scales: image scales in addition to the full size, each > 0.
    """
    net = deeplab(num_classes, backbone=backbone, head="aspp", scales=scales)
    assert isinstance(net, DeepLabV2)
    return net
