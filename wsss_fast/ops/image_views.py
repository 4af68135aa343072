"""Scaled, mirrored, normalised views of photos for a network: schema, fake, public function."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._arguments import argument_error, is_dense, is_number
from ._library import call, define
from .reference.bicubic import PASS_ORDER
from .reference.image_views import image_views as reference_views
from .reference.image_views import scaled_side

MAX_SIDE = 1 << 20  # pixels, of images and views; the same as in csrc/bind/image_views.h
MAX_VALUES = 1 << 33  # of one result
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _reference(images, scales, mirror, mean, std, dtype, order):
    return reference_views(
        images,
        scales,
        mirror=mirror,
        mean=mean,
        std=std,
        dtype=dtype,
        order=order,
    )


def _fake(images, scales, mirror, mean, std, dtype, order):
    batch, height, width, _ = images.shape
    return [
        torch.empty(
            (batch * (1 + mirror), 3, scaled_side(height, scale), scaled_side(width, scale)),
            dtype=dtype,
            device=images.device,
            memory_format=torch.channels_last,
        )
        for scale in scales
    ]


# images [B, H, W, 3] uint8 -> for each scale [B or 2B, 3, h, w] in channels_last
_op = define(
    "image_views(Tensor images, float[] scales, bool mirror, float[] mean, float[] std, "
    "ScalarType dtype, int order) -> Tensor[]",
    reference=_reference,
    fake=_fake,
)


def image_views(
    image: Tensor,
    scales: Sequence[float],
    *,
    mirror: bool = True,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Network inputs of a photo at several scales, with their mirror images.

    An image is resized with Pillow's bicubic filter on 8-bit values, which widens for shrinking,
    then each value becomes (value / 255 - mean) / std in float64, rounded to float32, and to
    `dtype`. The CPU kernel, the CUDA kernel and the reference give the same bits; before
    normalisation they are those of `Image.resize` of the installed Pillow.

    Not differentiable.

    Args:
        image: RGB [H, W, 3], or [B, H, W, 3] for images of one size; uint8.
        scales: factors on the image's sides, > 0. Sides are rounded half to even, to at least one
            pixel.
        mirror: whether each result also holds the images mirrored left to right.
        mean: mean of each channel in 0..1.
        std: standard deviation of each channel, > 0.
        dtype: float32, bfloat16 or float16.

    Returns:
        For each scale a tensor [M, 3, h, w] of `dtype` in channels_last format, where M is 2 with
        `mirror` and otherwise 1; for a batch [M * B, 3, h, w]: all images, then all mirror images.

    Raises:
        ValueError: a wrong argument, with its name and value, or results that are too large.

    Source: multi-scale inference of the public code of AMN (Lee, Kim and Yoon, CVPR 2022), IRN and
    EPS; the filter is that of Keys (IEEE TASSP 1981) with a = -1/2.

    >>> image = torch.tensor([[[0, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    >>> (view,) = image_views(image, [2.0], mean=(0.0,) * 3, std=(1.0,) * 3)
    >>> view.shape, view[:, 0, 0]
    (torch.Size([2, 3, 2, 4]), tensor([[0.0000, 0.2078, 0.7922, 1.0000],
            [1.0000, 0.7922, 0.2078, 0.0000]]))
    """
    scales, mean, std = _check(image, scales, mean, std, dtype)
    images = image if image.dim() == 4 else image.unsqueeze(0)
    _check_sizes(images, scales, 1 + bool(mirror))
    return call(_op, images, scales, bool(mirror), mean, std, dtype, PASS_ORDER)


def _check(
    image: Tensor, scales: Any, mean: Any, std: Any, dtype: torch.dtype
) -> tuple[list[float], list[float], list[float]]:
    op = "image_views"
    if not (
        is_dense(image)
        and image.dtype == torch.uint8
        and image.dim() in (3, 4)
        and image.shape[-1] == 3
        and image.shape[-3] > 0
        and image.shape[-2] > 0
    ):
        raise argument_error(op, "image", image, "uint8 [H, W, 3] or [B, H, W, 3], H and W >= 1")
    numbers = _numbers(scales)
    if not numbers or min(numbers) <= 0 or max(numbers) > MAX_SIDE:
        raise argument_error(op, "scales", scales, f"numbers > 0, at most {MAX_SIDE}")
    means, deviations = _numbers(mean), _numbers(std)
    if len(means) != 3:
        raise argument_error(op, "mean", mean, "three finite numbers")
    if len(deviations) != 3 or min(deviations) <= 0:
        raise argument_error(op, "std", std, "three finite numbers > 0")
    if dtype not in _DTYPES:
        raise argument_error(op, "dtype", dtype, "torch.float32, torch.bfloat16 or torch.float16")
    return numbers, means, deviations


def _numbers(values: Any) -> list[float]:
    """A sequence of finite numbers as floats; an empty list for anything else."""
    if not isinstance(values, (Sequence, np.ndarray)) or not all(map(is_number, values)):
        return []
    return [float(value) for value in values]


def _check_sizes(images: Tensor, scales: list[float], copies: int) -> None:
    batch, height, width, _ = images.shape
    for scale in scales:
        size = scaled_side(height, scale), scaled_side(width, scale)
        values = copies * batch * 3 * size[0] * size[1]
        if max(height, width, *size) > MAX_SIDE or values > MAX_VALUES:
            raise ValueError(
                f"image_views: scales holds {scale:g} but image is {list(images.shape)}, which "
                f"gives {batch} x {size[0]} x {size[1]} pixels; sides must be at most {MAX_SIDE} "
                f"and values at most {MAX_VALUES}"
            )
