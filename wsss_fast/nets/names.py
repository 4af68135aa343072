"""The one table of renames: how the public checkpoints call our parameters, read in both directions.

Names are translated by their prefix. The first public prefix is the name; further ones repeat it, because the public
networks register a module several times and their strict loaders want every copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from wsss_fast.errors import InputError
from wsss_fast.nets.deeplab import DeepLabV2
from wsss_fast.nets.heads import AmnNet, CamNet
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50

Prefixes = dict[str, tuple[str, ...]]  # own prefix -> public prefixes


def _resnet50(copies: Mapping[str, tuple[int, int]]) -> Prefixes:
    """Backbone of the AMN repository's networks; `copies` are the stage and the place in it where a module is repeated."""
    return {f"backbone.{name}.": (f"resnet50.{name}.", f"stage{stage}.{place}.", f"backbone.{stage - 1}.{place}.")
            for name, (stage, place) in copies.items()}


_STEM_WITH_LAYER1 = _resnet50({"conv1": (1, 0), "bn1": (1, 1), "layer1": (1, 4), "layer2": (2, 0), "layer3": (3, 0),
                               "layer4": (4, 0)})
_STEM_ALONE = _resnet50({"conv1": (1, 0), "bn1": (1, 1), "layer1": (2, 0), "layer2": (3, 0), "layer3": (4, 0),
                         "layer4": (5, 0)})

_IRN_HEADS = {
    **{f"edge.{i}.": (f"fc_edge{i + 1}.", f"edge_layers.{i}.") for i in range(5)},
    "edge_out.": ("fc_edge6.", "edge_layers.5."),
    **{f"displacement.{i}.": (f"fc_dp{i + 1}.", f"dp_layers.{i}.") for i in range(5)},
    "displacement_up.": ("fc_dp6.", "dp_layers.5."),
    "displacement_out.": ("fc_dp7.", "dp_layers.6."),
    "mean_displacement": ("mean_shift.running_mean", "fc_dp7.4.running_mean", "dp_layers.6.4.running_mean"),
}

_BOTTLENECK = {"conv1": "reduce.conv", "bn1": "reduce.bn", "conv2": "conv3x3.conv", "bn2": "conv3x3.bn",
               "conv3": "increase.conv", "bn3": "increase.bn", "downsample.0": "shortcut.conv", "downsample.1": "shortcut.bn"}
_CAFFE_RESNET101 = {
    "backbone.conv1.": ("base.layer1.conv1.conv.",), "backbone.bn1.": ("base.layer1.conv1.bn.",),
    **{f"backbone.layer{stage}.{i}.{own}.": (f"base.layer{stage + 1}.block{i + 1}.{public}.",)
       for stage, blocks in enumerate((3, 4, 23, 3), 1) for i in range(blocks) for own, public in _BOTTLENECK.items()},
}

_PREFIXES: dict[type, Prefixes] = {
    CamNet: {**_STEM_WITH_LAYER1, "head.": ("classifier.", "newly_added.0.")},
    AmnNet: {**_STEM_WITH_LAYER1, "label_scale.": ("label_enc.", "newly_added.1.")},
    IrnNet: {**_STEM_ALONE, **_IRN_HEADS},
    DeepLabV2: _CAFFE_RESNET101,
}
# Ours in one tensor, theirs one convolution a dilation.
_STACKED: dict[type, Prefixes] = {
    AmnNet: {name: (f"classifier.1.c{{}}.{name}", f"newly_added.0.1.c{{}}.{name}") for name in ("weight", "bias")},
    DeepLabV2: {f"aspp.{name}": (f"base.aspp.c{{}}.{name}",) for name in ("weight", "bias")},
}
# ImageNet's or COCO's classifier, and constants that IRN's training module stores.
_UNUSED = ("resnet50.fc.", "base.fc.", "path_indices", "disp_target")
_BACKBONES = {CamNet: ResNet50, AmnNet: ResNet50, IrnNet: ResNet50, DeepLabV2: CaffeResNet101}


def from_public(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A public checkpoint under our names; a name of no network of ours stays, so that it will be named as unexpected."""
    tables = _PREFIXES.values()
    own_prefix = {public[0]: own for table in tables for own, public in table.items()}
    copies = tuple({p for table in (*tables, *_STACKED.values()) for public in table.values() for p in public[1:]})
    branches = {re.compile(re.escape(public[0]).replace(r"\{\}", r"(\d+)") + "$"): own
                for table in _STACKED.values() for own, public in table.items()}
    result, stacks = {}, {}
    for key, value in state.items():
        if key.startswith((*copies, *_UNUSED)):
            continue
        for pattern, own in branches.items():
            if found := pattern.match(key):
                stacks.setdefault(own, {})[int(found[1])] = value
                break
        else:
            prefix = next((p for p in own_prefix if key.startswith(p)), None)
            result[key if prefix is None else own_prefix[prefix] + key.removeprefix(prefix)] = value
    for own, parts in stacks.items():
        if len({part.shape for part in parts.values()}) > 1:
            raise InputError(f"the dilated convolutions of {own} differ in shape")
        result[own] = torch.stack([parts[i] for i in sorted(parts)])
    return result


def public_state_dict(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `net` under the names of the papers' repositories, with every repeated name, for their strict loaders.

    Args:
        net: `cam_resnet50`, `amn_resnet50` (conditioned at layer4), `irn_resnet50` or `deeplabv2_resnet101` with its
            published backbone.

    Returns:
        Names and tensors (shared with `net`), as `torch.save` takes them.

    Raises:
        InputError: the network has no public counterpart.
    """
    kind = type(net)
    published = kind in _PREFIXES and type(net.backbone) is _BACKBONES[kind]
    if not published or getattr(net, "condition_at", "layer4") != "layer4":
        raise InputError(f"public_state_dict: this {kind.__name__} has no public counterpart; needs the published backbone, "
                         "and for an AMN condition_at='layer4'")
    prefixes, stacked = _PREFIXES[kind], _STACKED.get(kind, {})
    result = {}
    for key, value in net.state_dict().items():
        for template in stacked.get(key, ()):
            result.update({template.format(i): part for i, part in enumerate(value)})
        own = next((p for p in prefixes if key.startswith(p)), None)
        if own is not None:
            result.update({public + key.removeprefix(own): value for public in prefixes[own]})
    return result
