"""The segmentation network as one graph of plain torch operators, from image to probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast import nets
from wsss_fast.data.transforms import MEAN, MEAN_BGR, STD, normalise, subtract_mean
from wsss_fast.errors import InputError
from wsss_fast.nets.segmentation_heads import Aspp

ToInput = Callable[[np.ndarray], np.ndarray]


class SegmentationGraph(nn.Module):
    """forward(image [N, 3, H, W]) -> probabilities [N, C+1, H, W], background first.

    The image is float32, RGB / 255 minus ImageNet's mean, divided by its standard deviation, as
    torchvision's networks take it. Networks that were trained on BGR images convert it themselves.
    The logits are resized bilinearly to the image's size; softmax follows. Mirror images, other
    sizes of the image and the dense CRF, which `seg infer` may add, are not part of it.

    Args:
        net: the network; it is copied.
        to_input: the function that prepared the images in training, `data.transforms.normalise` or
            `subtract_mean`.
        align_corners: whether the centres of the corner pixels of logits and image coincide, as for
            a recipe with `resize` "aligned".

    Raises:
        InputError: another function prepared the images.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, net: nets.DeepLab, to_input: ToInput, align_corners: bool = False) -> None:
        super().__init__()
        if to_input not in (normalise, subtract_mean):
            name = getattr(to_input, "__qualname__", to_input)
            raise InputError(
                f"recipe.augment.to_input: is {name}, which cannot be part of a graph; it must be "
                "normalise or subtract_mean of wsss_fast.data.transforms"
            )
        self.net, self.align_corners = _with_plain_operators(net).eval(), align_corners
        self.takes_bgr = to_input is subtract_mean
        # BGR levels of a normalised image: 255 (x std + mean), channels reversed, minus the mean.
        scale, shift = 255 * STD[::-1], 255 * MEAN[::-1] - MEAN_BGR
        for name, values in (("scale", scale), ("shift", shift)):
            tensor = torch.tensor(values.copy(), dtype=torch.float32).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)

    @property
    def least_size(self) -> int:
        """The least H and W: at every scale, the features have more than one row and column."""
        smallest = min(1.0, *self.net.scales) if self.net.scales else 1.0
        return max(32, math.ceil((self.net.backbone.stride + 1) / smallest))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, H, W] -> float32 [N, C+1, H, W], see the class."""
        images = image.flip(1) * self.scale + self.shift if self.takes_bgr else image
        logits = F.interpolate(
            self._highest(images),
            image.shape[-2:],
            mode="bilinear",
            align_corners=self.align_corners,
        )
        return logits.softmax(dim=1)

    def _highest(self, images: torch.Tensor) -> torch.Tensor:
        """`DeepLab.forward`, without Python's numbers, which would fix the size of the image."""
        full = self.net.logits(images)
        highest = full
        for scale in self.net.scales:
            smaller = F.interpolate(
                images, scale_factor=scale, mode="bilinear", align_corners=False
            )
            logits = F.interpolate(
                self.net.logits(smaller), full.shape[-2:], mode="bilinear", align_corners=False
            )
            highest = torch.maximum(highest, logits)
        return highest


def _with_plain_operators(net: nets.DeepLab) -> nets.DeepLab:
    """A copy without this package's operators, and without what works for some sizes only."""
    net = copy.deepcopy(net)
    for name, module in [*net.named_modules()]:
        if isinstance(module, Aspp):
            net.set_submodule(name, _PlainAspp(module))
        elif isinstance(module, nn.MaxPool2d) and module.ceil_mode:
            net.set_submodule(name, _CeilMaxPool(module))
    return net


class _CeilMaxPool(nn.Module):
    """`MaxPool2d` with `ceil_mode`, by padding.

    torch asks whether the last window begins outside of the image, which a program for any size
    cannot. No window does, since the padding is at most kernel - stride.
    """

    def __init__(self, pool: nn.MaxPool2d):
        super().__init__()
        kernel, stride, padding = (_int(n) for n in (pool.kernel_size, pool.stride, pool.padding))
        assert padding <= kernel - stride and pool.dilation == 1
        self.kernel, self.stride = kernel, stride
        self.pads = [padding, padding + stride - 1] * 2

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        padded = F.pad(features, self.pads, value=-math.inf)
        return F.max_pool2d(padded, self.kernel, self.stride)


def _int(value: int | tuple[int, ...]) -> int:
    """The size of a square window, which torch allows to be written twice."""
    sides = {value} if isinstance(value, int) else set(value)
    (side,) = sides
    return side


class _PlainAspp(nn.Module):
    """`Aspp` as a sum of torch's convolutions."""

    def __init__(self, pyramid: Aspp):
        super().__init__()
        _, outputs, channels, *_ = pyramid.weight.shape
        for i, dilation in enumerate(pyramid.dilations):
            conv = nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)
            conv.weight, conv.bias = (
                nn.Parameter(values[i].detach().clone())
                for values in (pyramid.weight, pyramid.bias)
            )
            self.add_module(f"branch{i}", conv)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        first, *others = (conv(features) for conv in self.children())
        return sum(others, start=first)
