"""Networks: constructors by name, and weights from this package's and public files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from wsss_fast.errors import InputError
from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.deeplab import DeepLabV2
from wsss_fast.nets.heads import PAPER_DILATIONS, AmnNet, CamNet, EpsNet
from wsss_fast.nets.inference import optimize_for_inference
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.names import public_state_dict
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50
from wsss_fast.nets.small import SmallResNet
from wsss_fast.nets.weights import check_backbone, fingerprint, load_weights, save_weights
from wsss_fast.nets.wide_resnet38 import WideResNet38

__all__ = [
    "AmnNet",
    "BACKBONES",
    "CamNet",
    "DeepLabV2",
    "EpsNet",
    "IrnNet",
    "SALIENCY_BACKBONES",
    "SEGMENTATION_BACKBONES",
    "amn_resnet50",
    "cam_resnet38",
    "cam_resnet50",
    "check",
    "check_file",
    "deeplabv2_resnet101",
    "eps_resnet38",
    "fingerprint",
    "irn_resnet50",
    "load_weights",
    "optimize_for_inference",
    "public_state_dict",
    "save_weights",
]

# An image of 128 pixels is 16 cells wide at stride 8: the paper's dilations would leave the map.
SMALL_DILATIONS = (1, 2, 4, 6)
SMALL_WIDTHS = (32, 32, 64, 64)
Backbones = Mapping[str, type[Backbone]]
BACKBONES: Backbones = {"resnet50": ResNet50, "small": SmallResNet}
# Of EPS and its classifier baseline.
SALIENCY_BACKBONES: Backbones = {"resnet38": WideResNet38, "small": SmallResNet}
SEGMENTATION_BACKBONES: Backbones = {"resnet101": CaffeResNet101, "small": SmallResNet}


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
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"{name}: {weights}: no such weights file")


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


def deeplabv2_resnet101(
    num_classes: int, *, backbone: str = "resnet101", scales: Sequence[float] = (0.5, 0.75)
) -> DeepLabV2:
    """DeepLabV2: forward(images [B,3,H,W]) -> logits [B,C+1,h,w] at stride 8, background first.

    The logits are the maximum over image scales. In train mode the result is a list: the logits of
    the full size, those of each scale at their own size, and the maximum.

    Args:
        num_classes: number of classes C, without background.
        backbone: "resnet101" (Caffe's layout; images are BGR in 0..255 minus the mean colour, see
            `data.transforms.subtract_mean`; dilations 6, 12, 18, 24) or "small" (images as for the
            other networks, `normalise`; dilations 1, 2, 4, 6).
        scales: image scales in addition to the full size, each > 0.
    """
    if not all(0 < s < float("inf") for s in scales):
        raise InputError(f"scales: got {tuple(scales)}, must be finite numbers > 0")
    dilations = PAPER_DILATIONS if backbone == "resnet101" else SMALL_DILATIONS
    return DeepLabV2(_backbone(backbone, SEGMENTATION_BACKBONES), num_classes, dilations, scales)
