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
from wsss_fast.nets.name_tables import (
    EPS_HEAD,
    MXNET_PREFIXES,
    MXNET_SUFFIXES,
    PREFIXES,
    READ_ONLY,
    STACKED,
    UNUSED,
    VGG16_POSITIONS,
)

# Classifiers of torchvision's VGG16 and of timm's.
_IMAGENET = ("classifier.", "pre_logits.", "head.")
# One of these begins a name in every checkpoint of the public networks.
_FIRST = ("resnet50.", "base.", "conv1a.", "backbone.conv1a.", "conv1_1.", "block_1.conv1.")


def is_public(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict has names of a public checkpoint that `from_public` knows."""
    return any(name.startswith(_FIRST) for name in state) or _vgg16_prefix(state) is not None


def is_torchvision_vgg16(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict is torchvision's VGG16, with or without its classifier."""
    return _vgg16_prefix(state) == "features." and "features.32.weight" not in state


def from_public(
    state: Mapping[str, torch.Tensor], num_classes: int | None = None
) -> dict[str, torch.Tensor]:
    """A public checkpoint under this package's names.

    Names that belong to no network here stay as they are, to be reported as unexpected.

    Args:
        state: the checkpoint's state dict.
        num_classes: number of classes of the network to fill, which tells EPS' head from a
            classifier's, and DeepLabV1's from that of COCO; both have the same name.

    Raises:
        InputError: dilated convolutions that belong together differ in shape.
    """
    state = _with_layer_names(state)
    tables = PREFIXES.values()
    own_prefix = {public[0]: own for table in tables for own, public in table.items()} | READ_ONLY
    outputs = None if num_classes is None else num_classes + 1
    unused = UNUSED
    if "base.fc.weight" not in state or len(state["base.fc.weight"]) != outputs:
        unused += ("base.fc.",)
    copies = tuple(
        {
            p
            for table in (*tables, *STACKED.values())
            for public in table.values()
            for p in public[1:]
        }
    )
    branches = {
        re.compile(re.escape(public[0]).replace(r"\{\}", r"(\d+)") + "$"): own
        for table in STACKED.values()
        for own, public in table.items()
    }
    result: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for key, value in state.items():
        if key.startswith((*copies, *unused)):
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
    if EPS_HEAD[1] in state and len(state[EPS_HEAD[1]]) == outputs:
        result[EPS_HEAD[0]] = result.pop("head.weight").roll(1, dims=0)
    return result


def _vgg16_prefix(state: Mapping[str, torch.Tensor]) -> str | None:
    """What stands before the positions of VGG16's layers in one sequence, or None."""
    return next(
        (p for p in ("features.", "") if f"{p}0.weight" in state and f"{p}28.weight" in state), None
    )


def _with_layer_names(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The state dict, with names instead of positions if it is VGG16 in one sequence."""
    prefix = _vgg16_prefix(state)
    if prefix is None:
        return state
    names = {f"{prefix}{position}.": name for position, name in VGG16_POSITIONS.items()}
    result = {}
    for key, value in state.items():
        before = next((p for p in names if key.startswith(p)), "")
        if not key.startswith(_IMAGENET):
            result[names.get(before, "") + key.removeprefix(before)] = value
    return result


def from_mxnet(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """ResNet-38's backbone from the arrays of an MXNet file, without ImageNet's classifier."""
    public = {}
    for key, value in state.items():
        name = key.removeprefix("arg:").removeprefix("aux:")
        if name.startswith("linear1000_"):
            continue
        for suffix, own in MXNET_SUFFIXES.items():
            prefix = MXNET_PREFIXES.get(name.removesuffix(f"_{suffix}"))
            if name.endswith(f"_{suffix}") and prefix is not None:
                name = f"{prefix}.{own}"
                break
        public[name] = value
    return from_public(public)


def public_state_dict(net: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of `net` under the names of the papers' repositories.

    It holds every repeated name, which their strict loaders need.

    Args:
        net: `cam_resnet50`, `amn_resnet50` (conditioned at layer4), `irn_resnet50`, `cam_resnet38`
            or `eps_resnet38` with its published backbone, or `deeplab`: resnet101 with aspp or
            conv1x1 as in deeplab-pytorch of kazuto1011, vgg16 with aspp (L2G) or largefov
            (deeplab-pytorch of rulixiang), resnet38 with seam (YudeWang's codebase) or mctformer.

    Returns:
        Tensors by name, for `torch.save`; except for EPS' head they share memory with `net`.

    Raises:
        InputError: the network has no public counterpart.
    """
    kind = type(net)
    head = getattr(net, "head_name", None)
    prefixes = PREFIXES.get((kind, type(getattr(net, "backbone", None)), head))
    if prefixes is None or getattr(net, "condition_at", "layer4") != "layer4":
        raise InputError(
            f"public_state_dict: this {kind.__name__} has no public counterpart; it must have the "
            "published backbone and head, and an AMN condition_at='layer4'"
        )
    stacked = STACKED.get(kind, {})
    result = {}
    for key, value in net.state_dict().items():
        for template in stacked.get(key, ()):
            result.update({template.format(i): part for i, part in enumerate(value)})
        own = next((p for p in prefixes if key.startswith(p)), None)
        if own is not None:
            result.update({public + key.removeprefix(own): value for public in prefixes[own]})
        if key == EPS_HEAD[0]:
            result[EPS_HEAD[1]] = value.roll(-1, dims=0)
    return result
