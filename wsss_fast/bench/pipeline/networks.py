"""Networks with random weights, and networks that return ready maps and cost nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from wsss_fast import nets

Kind = Literal["none", "small", "published"]
CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a stage.

    Attributes:
        backbone: the published backbone.
        build: function from the name of a backbone to the network with random weights.
    """

    backbone: str
    build: Callable[..., torch.nn.Module]


NETWORKS = {
    "cam": Network("resnet50", functools.partial(nets.cam_resnet50, CLASSES)),
    "amn": Network("resnet50", functools.partial(nets.amn_resnet50, CLASSES)),
    "irn": Network("resnet50", nets.irn_resnet50),
    "eps": Network("resnet38", functools.partial(nets.eps_resnet38, CLASSES)),
    "ccr": Network("resnet38", functools.partial(nets.cam_resnet38, CLASSES)),
    "seg": Network("resnet101", functools.partial(nets.deeplabv2_resnet101, CLASSES)),
}


def backbone_of(method: str, kind: Kind) -> str:
    """Name of the backbone; networks that cost nothing are small ones without their layers."""
    return NETWORKS[method].backbone if kind == "published" else "small"


def weights_file(folder: Path, method: str, kind: Kind) -> Path:
    """Weights of a network, random but always the same; written to `folder` once."""
    path = folder / f"{method}.pth"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = NETWORKS[method].build(backbone=backbone_of(method, kind))
        nets.save_weights(net, path)
    return path


@contextlib.contextmanager
def ready_maps() -> Iterator[None]:
    """Replace the forward passes of all networks: they return random maps of the right shapes.

    Strides are those of the published networks. The maps are made once for each shape.
    """
    replaced: list[tuple[type, str, Any]] = [
        (nets.CamNet, "maps", lambda net, x: _maps(x, net.num_classes, 16).relu_()),
        (nets.AmnNet, "forward", lambda net, x, labels: _maps(x, net.num_classes + 1, 16)),
        (nets.EpsNet, "forward", lambda net, x: (None, _maps(x, net.num_classes + 1, 8))),
        (nets.IrnNet, "forward", lambda net, x: (_maps(x, 1, 4), None)),
        (nets.DeepLab, "forward", lambda net, x: _maps(x, net.num_classes + 1, 8)),
    ]
    before = [getattr(owner, name) for owner, name, _ in replaced]
    try:
        for owner, name, function in replaced:
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name, _), function in zip(replaced, before, strict=True):
            setattr(owner, name, function)
        _smooth.cache_clear()


def _maps(images: torch.Tensor, channels: int, stride: int) -> torch.Tensor:
    """Random maps [B, channels, H / stride, W / stride] for images [B, 3, H, W]."""
    count, (height, width) = len(images), images.shape[-2:]
    size = -(-height // stride), -(-width // stride)
    return _smooth(count, channels, size, images.device).clone()


@functools.cache
def _smooth(count: int, channels: int, size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Smooth noise, float32 [count, channels, *size]."""
    generator = torch.Generator().manual_seed(count + channels)
    low = torch.randn(count, channels, 5, 6, generator=generator)
    return 2 * torch.nn.functional.interpolate(low, size, mode="bicubic").to(device)
