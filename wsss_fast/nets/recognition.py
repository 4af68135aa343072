"""Which network weights are of, where they do not fit the one to fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

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


class _Head(NamedTuple):
    """What only the weights of one kind of network have.

    Attributes:
        tensor: its name.
        text: the network, in words.
        network: the network, as the options of commands call it.
        head: of a segmentation network.
        axis: dimension of the tensor that counts the classes.
        background: what it has there beside the classes; None where it counts no classes.
    """

    tensor: str
    text: str
    network: str
    head: str | None = None
    axis: int = 0
    background: int | None = 1


_HEADS = (
    _Head("map_head.weight", "EPS' network", "eps"),
    _Head("label_scale.weight", "an AMN", "amn", axis=1, background=0),
    _Head("displacement_up.0.weight", "IRN's network", "irn", background=None),
    _Head("aspp.weight", "DeepLabV2", "seg", "aspp", axis=1),
    _Head("aspp.c0.6.weight", "DeepLabV2", "seg", "aspp"),
    _Head("largefov.fc8.weight", "DeepLab with head largefov", "seg", "largefov"),
    _Head("seam.conv3.weight", "DeepLab with head seam", "seg", "seam"),
    _Head("mctformer.conv2.weight", "DeepLab with head mctformer", "seg", "mctformer"),
    _Head("conv1x1.fc.weight", "DeepLab with head conv1x1", "seg", "conv1x1"),
    _Head("head.weight", "a classifier", "cam", background=0),
    _Head("weight", "an AMN without conditioning", "amn", axis=1),
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
    return next((one.text for one in _HEADS if one.tensor in state), None)


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
    for name, *_, axis, background in _HEADS:
        if background is not None and name in given and hasattr(net, "state_dict"):
            own = net.state_dict().get(name)
            if own is not None and given[name].dim() == own.dim():
                has, needs = (len(x.movedim(axis, 0)) - background for x in (given[name], own))
                return f": they are for {has} classes, not {needs}" if has != needs else ""
    return ""


class Recognised(NamedTuple):
    """What weights are of, as far as their names and shapes tell.

    Attributes:
        network: "cam", "amn", "eps", "irn" or "seg", or None.
        backbone: its name, or None.
        head: of a segmentation network, or None.
        num_classes: without background, or None.
        conditioned: whether an AMN has label conditioning.
    """

    network: str | None
    backbone: str | None
    head: str | None = None
    num_classes: int | None = None
    conditioned: bool = False


def recognise(given: State) -> Recognised:
    """The network that weights under this package's names are of."""
    backbone = _backbone(given)
    backbone = backbone if backbone in _BACKBONES else None
    found = next((one for one in _HEADS if one.tensor in given), None)
    if found is None:
        return Recognised(None, backbone)
    shape, count = given[found.tensor].shape, None
    if found.background is not None and len(shape) > found.axis:
        count = shape[found.axis] - found.background
    conditioned = "label_scale.weight" in given
    return Recognised(found.network, backbone, found.head, count, conditioned)
