"""Networks: constructors by name, and weights from anywhere."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from wsss_fast.errors import InputError
from wsss_fast.nets.heads import PAPER_DILATIONS, AmnNet, CamNet
from wsss_fast.nets.resnet import ResNet50
from wsss_fast.nets.small import SmallResNet
from wsss_fast.nets.weights import fingerprint, load_weights, save_weights

__all__ = ["AmnNet", "BACKBONES", "CamNet", "amn_resnet50", "cam_resnet50", "check", "fingerprint", "load_weights",
           "save_weights"]

SMALL_DILATIONS = (1, 2, 4, 6)  # a 128 px image has 16 cells a side at stride 8: the paper's would leave the map
BACKBONES = {"resnet50": ResNet50, "small": SmallResNet}


def check(backbone: str, weights: str | Path | None) -> None:
    """Refuse an unknown backbone or a missing weights file, before a run is begun.

    Raises:
        InputError: naming what it got.
    """
    if backbone not in BACKBONES:
        raise InputError(f"backbone: got {backbone!r}, must be one of {', '.join(BACKBONES)}")
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"weights: {weights}: no such weights file")


def _backbone(name: str) -> nn.Module:
    check(name, None)
    return BACKBONES[name]()


def cam_resnet50(num_classes: int, *, backbone: str = "resnet50") -> CamNet:
    """The CAM classifier: forward(images [B,3,H,W]) -> scores [B,C]; `.maps(images)` -> ReLU CAM [B,C,h,w].

    Args:
        num_classes: C, without background.
        backbone: "resnet50" (stride 16; no gradient before layer3), or "small" (stride 8, trained from scratch).
    """
    return CamNet(_backbone(backbone), num_classes, detach_after="layer2" if backbone == "resnet50" else None)


def amn_resnet50(num_classes: int, *, backbone: str = "resnet50", condition_at: str | None = "layer4") -> AmnNet:
    """The activation manipulation network: forward(images [B,3,H,W], labels [B,C]) -> logits [B,C+1,h,w], background first.

    Args:
        num_classes: C, without background.
        backbone: "resnet50" (dilations 6, 12, 18, 24) or "small" (dilations 1, 2, 4, 6).
        condition_at: where the label scale acts; "layer4" as published, an earlier stage, or None.
    """
    if backbone == "resnet50":
        return AmnNet(_backbone(backbone), num_classes, PAPER_DILATIONS, condition_at)
    # On 96 channels a random start cost 2 mIoU points of AMN+CRF on Shapes (benchmarks/RESULTS.md).
    return AmnNet(_backbone(backbone), num_classes, SMALL_DILATIONS, condition_at, neutral_scale=True)
