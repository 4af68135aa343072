"""Parameter names of public checkpoints and of this package: one table, used in both directions.

Names are translated by their prefix. The first public prefix is the one that is read; the others
repeat it, because the public networks register a module several times and their strict loaders
need every copy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from wsss_fast.errors import InputError
from wsss_fast.nets.deeplab import DeepLabV2
from wsss_fast.nets.heads import AmnNet, CamNet, EpsNet
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50
from wsss_fast.nets.wide_resnet38 import WideResNet38

Prefixes = dict[str, tuple[str, ...]]  # own prefix -> public prefixes


def _resnet50(copies: Mapping[str, tuple[int, int]]) -> Prefixes:
    """Backbone of the AMN repository's networks.

    `copies` maps a module to the stage and the position in it where the module is repeated.
    """
    return {
        f"backbone.{name}.": (
            f"resnet50.{name}.",
            f"stage{stage}.{position}.",
            f"backbone.{stage - 1}.{position}.",
        )
        for name, (stage, position) in copies.items()
    }


_STEM_WITH_LAYER1 = _resnet50(
    {
        "conv1": (1, 0),
        "bn1": (1, 1),
        "layer1": (1, 4),
        "layer2": (2, 0),
        "layer3": (3, 0),
        "layer4": (4, 0),
    }
)
_STEM_ALONE = _resnet50(
    {
        "conv1": (1, 0),
        "bn1": (1, 1),
        "layer1": (2, 0),
        "layer2": (3, 0),
        "layer3": (4, 0),
        "layer4": (5, 0),
    }
)

_IRN_HEADS = {
    **{f"edge.{i}.": (f"fc_edge{i + 1}.", f"edge_layers.{i}.") for i in range(5)},
    "edge_out.": ("fc_edge6.", "edge_layers.5."),
    **{f"displacement.{i}.": (f"fc_dp{i + 1}.", f"dp_layers.{i}.") for i in range(5)},
    "displacement_up.": ("fc_dp6.", "dp_layers.5."),
    "displacement_out.": ("fc_dp7.", "dp_layers.6."),
    "mean_displacement": (
        "mean_shift.running_mean",
        "fc_dp7.4.running_mean",
        "dp_layers.6.4.running_mean",
    ),
}

_BOTTLENECK = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "conv3x3.conv",
    "bn2": "conv3x3.bn",
    "conv3": "increase.conv",
    "bn3": "increase.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}
_CAFFE_RESNET101: Prefixes = {
    "backbone.conv1.": ("base.layer1.conv1.conv.",),
    "backbone.bn1.": ("base.layer1.conv1.bn.",),
    **{
        f"backbone.layer{stage}.{i}.{own}.": (f"base.layer{stage + 1}.block{i + 1}.{public}.",)
        for stage, blocks in enumerate((3, 4, 23, 3), 1)
        for i in range(blocks)
        for own, public in _BOTTLENECK.items()
    },
}

_UNITS = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}  # residual units of each stage of ResNet-38
_BRANCHES = {2: ("2a", "2b1"), 3: ("2a", "2b1", "2b2")}  # names of their convolutions
_RESNET38_UNITS = [(stage, i) for stage, count in _UNITS.items() for i in range(count)]
_RESNET38: Prefixes = {
    "backbone.conv1.": ("conv1a.",),
    "backbone.bn.": ("bn7.",),
    **{
        f"backbone.stage{stage}.{i}.{own}.": (f"b{stage}{f'_{i}' if i else ''}.{public}.",)
        for stage, i in _RESNET38_UNITS
        for own, public in (
            ("shortcut", "conv_branch1"),
            *(
                (f"{kind}{n}", f"{kind}_branch{branch}")
                for kind in ("bn", "conv")
                for n, branch in enumerate(_BRANCHES[2 if stage < 6 else 3], 1)
            ),
        )
    },
}

# By network and backbone.
_PREFIXES: dict[tuple[type, type], Prefixes] = {
    (CamNet, ResNet50): {**_STEM_WITH_LAYER1, "head.": ("classifier.", "newly_added.0.")},
    (CamNet, WideResNet38): {**_RESNET38, "head.": ("fc8.",)},
    (EpsNet, WideResNet38): _RESNET38,
    (AmnNet, ResNet50): {**_STEM_WITH_LAYER1, "label_scale.": ("label_enc.", "newly_added.1.")},
    (IrnNet, ResNet50): {**_STEM_ALONE, **_IRN_HEADS},
    (DeepLabV2, CaffeResNet101): _CAFFE_RESNET101,
}
# EPS' head has the name of a classifier's, but one map more: the background's, which is the last
# one in public checkpoints and the first one here.
_EPS_HEAD = ("map_head.weight", "fc8.weight")
# MXNet's names for the same ResNet-38, trained on ImageNet.
_MXNET_SUFFIXES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
_MXNET_PREFIXES = {
    "conv1a": "conv1a",
    "bn7": "bn7",
    **{
        f"{kind}{stage}{f'b{i}' if i else 'a'}_branch{branch}": (
            f"b{stage}{f'_{i}' if i else ''}.{public}_branch{branch}"
        )
        for stage, i in _RESNET38_UNITS
        for kind, public in (("res", "conv"), ("bn", "bn"))
        for branch in ("1", *_BRANCHES[2 if stage < 6 else 3])
    },
}
# One tensor here, one convolution for each dilation in public checkpoints.
_STACKED: dict[type, Prefixes] = {
    AmnNet: {
        name: (f"classifier.1.c{{}}.{name}", f"newly_added.0.1.c{{}}.{name}")
        for name in ("weight", "bias")
    },
    DeepLabV2: {f"aspp.{name}": (f"base.aspp.c{{}}.{name}",) for name in ("weight", "bias")},
}
# Classifiers of ImageNet and COCO, and constants stored by IRN's training module.
_UNUSED = ("resnet50.fc.", "base.fc.", "path_indices", "disp_target")


def from_public(
    state: Mapping[str, torch.Tensor], num_classes: int | None = None
) -> dict[str, torch.Tensor]:
    """A public checkpoint under this package's names.

    Names that belong to no network here stay as they are, to be reported as unexpected.

    Args:
        state: the checkpoint's state dict.
        num_classes: number of classes of the network to fill, which tells EPS' head from a
            classifier's; both have the same name.

    Raises:
        InputError: dilated convolutions that belong together differ in shape.
    """
    tables = _PREFIXES.values()
    own_prefix = {public[0]: own for table in tables for own, public in table.items()}
    copies = tuple(
        {
            p
            for table in (*tables, *_STACKED.values())
            for public in table.values()
            for p in public[1:]
        }
    )
    branches = {
        re.compile(re.escape(public[0]).replace(r"\{\}", r"(\d+)") + "$"): own
        for table in _STACKED.values()
        for own, public in table.items()
    }
    result: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
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
    if (
        _EPS_HEAD[1] in state
        and num_classes is not None
        and len(state[_EPS_HEAD[1]]) == num_classes + 1
    ):
        result[_EPS_HEAD[0]] = result.pop("head.weight").roll(1, dims=0)
    return result


def from_mxnet(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """ResNet-38's backbone from the arrays of an MXNet file, without ImageNet's classifier."""
    public = {}
    for key, value in state.items():
        name = key.removeprefix("arg:").removeprefix("aux:")
        if name.startswith("linear1000_"):
            continue
        for suffix, own in _MXNET_SUFFIXES.items():
            prefix = _MXNET_PREFIXES.get(name.removesuffix(f"_{suffix}"))
            if name.endswith(f"_{suffix}") and prefix is not None:
                name = f"{prefix}.{own}"
                break
        public[name] = value
    return from_public(public)


def public_state_dict(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `net` under the names of the papers' repositories.

    It holds every repeated name, which their strict loaders need.

    Args:
        net: `cam_resnet50`, `amn_resnet50` (conditioned at layer4), `irn_resnet50`,
            `deeplabv2_resnet101`, `cam_resnet38` or `eps_resnet38` with its published backbone.

    Returns:
        Tensors by name, for `torch.save`; except for EPS' head they share memory with `net`.

    Raises:
        InputError: the network has no public counterpart.
    """
    kind = type(net)
    prefixes = _PREFIXES.get((kind, type(getattr(net, "backbone", None))))
    if prefixes is None or getattr(net, "condition_at", "layer4") != "layer4":
        raise InputError(
            f"public_state_dict: this {kind.__name__} has no public counterpart; it must have the "
            "published backbone, and an AMN condition_at='layer4'"
        )
    stacked = _STACKED.get(kind, {})
    result = {}
    for key, value in net.state_dict().items():
        for template in stacked.get(key, ()):
            result.update({template.format(i): part for i, part in enumerate(value)})
        own = next((p for p in prefixes if key.startswith(p)), None)
        if own is not None:
            result.update({public + key.removeprefix(own): value for public in prefixes[own]})
        if key == _EPS_HEAD[0]:
            result[_EPS_HEAD[1]] = value.roll(-1, dims=0)
    return result
