"""Names of ResNets and VGG16 in the files of other libraries, as torchvision calls them.

Read are backbones inside of networks of MMSegmentation and its kin, segmentation-models-pytorch and
torchvision, and Hugging Face's ResNet; timm has torchvision's names. Their heads are other modules
than the ones here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from wsss_fast.errors import InputError

State = Mapping[str, torch.Tensor]

# What stands before a backbone's names, and before those of the other parts of such a network.
_PARTS = (
    (
        "backbone.",
        (
            "decode_head.",  # MMSegmentation
            "auxiliary_head.",
            "head.fc.",  # MMPretrain
            "neck.",  # MMDetection
            "rpn_head.",
            "roi_head.",
            "bbox_head.",
            "classifier.",  # torchvision
            "aux_classifier.",
        ),
    ),
    ("encoder.", ("decoder.", "segmentation_head.", "classification_head.")),  # smp
)
# First layers of the backbones that are known here.
_FIRST = ("conv1.weight", "features.0.weight", "stem.0.weight", "conv1.0.weight")
# Hugging Face's names: of the first convolution, of those of a block, of its shortcut.
_EMBEDDER = re.compile(r"(?:resnet\.)?embedder\.embedder\.(convolution|normalization)\.(\w+)")
_LAYER = re.compile(
    r"(?:resnet\.)?encoder\.stages\.(\d)\.layers\.(\d+)\."
    r"(?:layer\.(\d)|shortcut)\.(convolution|normalization)\.(\w+)"
)


def to_torchvision(state: State) -> State:
    """A state dict of another library under torchvision's names, its backbone alone.

    Others are returned as they are.

    Raises:
        InputError: the backbone is a ResNet of another kind.
    """
    state = _from_hugging_face(state)
    for prefix, others in _PARTS:
        has_backbone = any(f"{prefix}{first}" in state for first in _FIRST)
        if has_backbone and any(name.startswith(others) for name in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if "layer1.0.conv1.weight" in state and ("stem.0.weight" in state or "conv1.0.weight" in state):
        raise InputError(
            "their ResNet begins with three convolutions (MMSegmentation's ResNetV1c, timm's "
            "resnet50d); the ones here have a single 7x7 convolution: use weights of the plain "
            "ResNet"
        )
    return state


def _from_hugging_face(state: State) -> State:
    """transformers' ResNet, with or without its classifier; others as they are."""
    if not any(_EMBEDDER.fullmatch(name) for name in state):
        return state
    result = {}
    for name, value in state.items():
        if found := _EMBEDDER.fullmatch(name):
            module = "conv1" if found[1] == "convolution" else "bn1"
            name = f"{module}.{found[2]}"
        elif found := _LAYER.fullmatch(name):
            stage, block, layer, kind, own = found.groups()
            if layer is None:
                module = f"downsample.{int(kind == 'normalization')}"
            else:
                module = f"{'conv' if kind == 'convolution' else 'bn'}{int(layer) + 1}"
            name = f"layer{int(stage) + 1}.{block}.{module}.{own}"
        elif name.startswith("classifier."):  # of ImageNet
            continue
        result[name] = value
    return result
