"""Which network weights are of, where they do not fit the one to fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50
from wsss_fast.nets.small import SmallResNet
from wsss_fast.nets.vgg16 import FC_WIDTH, Vgg16
from wsss_fast.nets.wide_resnet38 import WideResNet38

State = Mapping[str, torch.Tensor]

_BACKBONES: dict[str, type[Backbone]] = {
    "resnet50": ResNet50,
    "small": SmallResNet,
    "resnet38": WideResNet38,
    "resnet101": CaffeResNet101,
    "vgg16": Vgg16,
}
# What only the weights of one kind of network have: a tensor, the network, and what its first
# dimension has beside the classes.
_HEADS = (
    ("map_head.weight", "EPS' network", 1),
    ("label_scale.weight", "an AMN", None),
    ("displacement_up.0.weight", "IRN's network", None),
    ("aspp.weight", "DeepLabV2", None),
    ("aspp.c0.6.weight", "DeepLabV2", 1),
    ("largefov.fc8.weight", "DeepLab with head largefov", 1),
    ("seam.conv3.weight", "DeepLab with head seam", 1),
    ("mctformer.conv2.weight", "DeepLab with head mctformer", 1),
    ("conv1x1.fc.weight", "DeepLab with head conv1x1", 1),
    ("head.weight", "a classifier", 0),
)
# Blocks of torchvision's third stage, with and without a third convolution in each.
_TORCHVISION = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}


def describe_mismatch(given: State, net: Any, problems: str) -> str:
    """In which way weights are of another network than `net`, and what to do.

    Args:
        given: the weights, under this package's names.
        net: the network to fill; it has a `backbone`.
        problems: names and shapes that differ.

    Returns:
        One line; it has the problems, unless all names differ as with another backbone.
    """
    wanted = next((name for name, kind in _BACKBONES.items() if type(net.backbone) is kind), "?")
    if not any(name.startswith("backbone.") for name in given):
        names = ", ".join(list(given)[:3])
        return f"none of its {len(given)} names is known here; the first are {names}"
    found = _backbone(given)
    if found is not None and found.lower().replace("-", "") == wanted:
        found = wanted
    if found is not None and found != wanted:
        option = f"--backbone {found}, or " if found in _BACKBONES else ""
        return f"their backbone is {found}, not {wanted}: use {option}weights of {wanted}"
    if found is None:
        return problems
    kind = _kind(given)
    own = _kind(net.state_dict()) if hasattr(net, "state_dict") else None
    if kind is not None and own is not None and kind != own:
        return f"{problems}; they are of {kind}, not of {own}"
    return f"{problems}{_other_classes(given, net)}"


def _kind(state: State) -> str | None:
    """The network that weights are of, by its head; None for a backbone alone."""
    return next((kind for name, kind, _ in _HEADS if name in state), None)


def _backbone(given: State) -> str | None:
    """The name of the backbone whose tensors all are in `given` with their shapes, or None."""
    shapes = {
        k.removeprefix("backbone."): v.shape
        for k, v in given.items()
        if k.startswith("backbone.") and not k.endswith("num_batches_tracked")
    }
    kinds: list[tuple[str, Callable[[], Backbone]]] = [*_BACKBONES.items()]
    kinds.append(("vgg16", partial(Vgg16, fc_width=FC_WIDTH)))
    for name, make in kinds:
        with torch.device("meta"):
            own = {
                k: v.shape
                for k, v in make().state_dict().items()
                if not k.endswith("num_batches_tracked")
            }
        if own == shapes:
            return name
    blocks = {k.split(".")[1] for k in shapes if k.startswith("layer3.")}
    deep = "layer1.0.conv3.weight" in shapes
    depth = _TORCHVISION.get((len(blocks), deep))
    return f"ResNet-{depth}" if depth and "layer4.0.conv1.weight" in shapes else None


def _other_classes(given: State, net: Any) -> str:
    """How the numbers of classes differ, if the heads do; otherwise ""."""
    for name, _, background in _HEADS:
        if background is not None and name in given and hasattr(net, "state_dict"):
            own = net.state_dict().get(name)
            if own is not None and given[name].shape[1:] == own.shape[1:]:
                has, needs = len(given[name]) - background, len(own) - background
                return f": they are for {has} classes, not {needs}" if has != needs else ""
    return ""
