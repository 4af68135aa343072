"""Optimizers as data: frozen dataclasses, called with the parameter groups of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from wsss_fast.engine.ranges import NOT_NEGATIVE, SHARE


class ParameterGroup(NamedTuple):
    """Parameters that share a peak learning rate.

    Attributes:
        parameters: (name, parameter) pairs; those that require no gradient are left out.
        lr: peak learning rate.
    """

    parameters: Iterable[tuple[str, nn.Parameter]]
    lr: float


def backbone_and_head(net: nn.Module, lr: float, head_lr_scale: float) -> list[ParameterGroup]:
    """The parameters below `net.backbone` at `lr`, all others at `head_lr_scale` times that."""
    named = list(net.named_parameters())
    backbone = [(name, p) for name, p in named if name.startswith("backbone.")]
    head = [(name, p) for name, p in named if not name.startswith("backbone.")]
    return [ParameterGroup(backbone, lr), ParameterGroup(head, lr * head_lr_scale)]


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent.

    The public code of IRN, AMN and EPS passes the weight decay in the position of momentum, so
    the published recipes have a momentum as small as their weight decay.

    Attributes:
        weight_decay: L2 penalty.
        momentum: 0..1.
        caffe_biases: biases learn at twice the rate of their weights, without weight decay.
    """

    ranges: ClassVar = {"weight_decay": NOT_NEGATIVE, "momentum": SHARE}

    weight_decay: float = 0.0
    momentum: float = 0.0
    caffe_biases: bool = False

    def __call__(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        found: list[dict[str, Any]] = []
        for group in groups:
            trained = [(name, p) for name, p in group.parameters if p.requires_grad]
            if not self.caffe_biases:
                found.append({"params": [p for _, p in trained], "lr": group.lr})
                continue
            weights = [p for name, p in trained if not name.endswith("bias")]
            biases = [p for name, p in trained if name.endswith("bias")]
            found.append({"params": weights, "lr": group.lr})
            found.append({"params": biases, "lr": 2 * group.lr, "weight_decay": 0.0})
        return torch.optim.SGD(
            found, lr=groups[0].lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam; `weight_decay` is an L2 penalty on the loss."""

    ranges: ClassVar = {"weight_decay": NOT_NEGATIVE}

    weight_decay: float = 0.0

    def __call__(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.Adam(_trained(groups), weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled `weight_decay` (Loshchilov and Hutter, ICLR 2019)."""

    ranges: ClassVar = {"weight_decay": NOT_NEGATIVE}

    weight_decay: float = 0.01

    def __call__(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(_trained(groups), weight_decay=self.weight_decay)


def _trained(groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    return [
        {"params": [p for _, p in group.parameters if p.requires_grad], "lr": group.lr}
        for group in groups
    ]


Optimizer = Sgd | Adam | AdamW


def use_fused(groups: Iterable[dict[str, Any]], device: torch.device) -> None:
    """Let an optimizer that can update all parameters of a GPU in one kernel do so.

    Its results differ from those of the other implementations by rounding only.

    Args:
        groups: of the optimizer, or of its state.
        device: of the parameters.
    """
    for group in groups:
        if "fused" in group:
            group["fused"] = True if device.type == "cuda" else None
