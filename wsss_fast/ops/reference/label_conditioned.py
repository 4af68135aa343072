"""Label-conditioned logits in plain PyTorch: dilated convolutions of scaled features, summed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .bilinear import resized_bilinear

__all__ = [
    "label_conditioned_activation",
    "label_conditioned_logits",
    "label_conditioned_logits_backward",
    "resized_activation",
]


def label_conditioned_logits(
    features: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dilations: Sequence[int],
    *,
    classes: Tensor | None = None,
) -> Tensor:
    """The definition of `wsss_fast.ops.label_conditioned_logits`: same arguments, no checks."""
    if classes is not None:
        weight, bias = weight[:, classes], bias[:, classes]
    scaled = features if scale is None else features * scale[:, :, None, None]  # [B, C, h, w]
    reach = weight.shape[-1] // 2  # taps on each side of the centre
    branches = [
        torch.nn.functional.conv2d(scaled, w, b, padding=reach * step, dilation=step)
        for w, b, step in zip(weight, bias, _steps(features, dilations), strict=True)
    ]
    return torch.stack(branches).sum(0)  # [B, K, h, w]


def _steps(features: Tensor, dilations: Sequence[int]) -> list[int]:
    """Dilations, at most the map's size: from there on only the centre tap is on the map."""
    return [min(dilation, max(features.shape[2:])) for dilation in dilations]


def label_conditioned_logits_backward(
    grad: Tensor, features: Tensor, scale: Tensor | None, weight: Tensor, dilations: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for features, scale (empty without one), weight and bias in closed form.

    An op's default kernel runs below autograd.
    """
    scaled = features if scale is None else features * scale[:, :, None, None]
    reach, num_labels = weight.shape[-1] // 2, weight.shape[1]
    of_scaled, of_weight = torch.zeros_like(scaled), []
    for w, dilation in zip(weight, _steps(features, dilations), strict=True):
        around, step = [reach * dilation] * 2, [dilation] * 2
        into, own, _ = torch.ops.aten.convolution_backward(
            grad,
            scaled,
            w,
            [num_labels],
            [1, 1],
            around,
            step,
            False,
            [0, 0],
            1,
            [True, True, False],
        )
        of_scaled = of_scaled + into
        of_weight.append(own)
    of_bias = grad.sum(dim=(0, 2, 3)).expand(len(dilations), -1)
    if scale is None:
        parts = of_scaled, features.new_empty(0), torch.stack(of_weight), of_bias
    else:
        parts = (
            of_scaled * scale[:, :, None, None],
            (of_scaled * features).sum(dim=(2, 3)),
            torch.stack(of_weight),
            of_bias,
        )
    of_features, of_scale, of_stacked, of_bias = (p.contiguous() for p in parts)
    return of_features, of_scale, of_stacked, of_bias


def resized_activation(logits: Tensor, size: tuple[int, int], activation: str) -> Tensor:
    """logits [B, K, h, w] -> softmax over K, or sigmoid, after bilinear resizing: [B, K, H, W]."""
    large = resized_bilinear(logits, size)
    return large.softmax(1) if activation == "softmax" else large.sigmoid()


def label_conditioned_activation(
    features: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dilations: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    classes: Tensor | None = None,
    activation: str = "softmax",
) -> Tensor:
    """The definition of `wsss_fast.ops.label_conditioned_activation`: same arguments, no checks."""
    logits = label_conditioned_logits(features, scale, weight, bias, dilations, classes=classes)
    height, width = logits.shape[2:] if size is None else size
    return resized_activation(logits, (height, width), activation)
