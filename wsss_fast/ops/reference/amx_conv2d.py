"""Reference of amx_conv2d: the sum of the weight's parts, and PyTorch's convolution."""

import torch
from torch import Tensor

__all__ = ["amx_conv2d"]


def unpacked(filters: Tensor, count: int, channels: int) -> Tensor:
    """Filters as returned by `ops.amx_conv2d.pack` -> weight [count, channels, k, k] float64.

    The weight is the sum of its parts.
    """
    blocks, depth, taps = filters.shape[:3]
    # [parts, K / 32, 2, 16, C / 32, 16, 2, k * k]
    parts = filters.double().permute(3, 0, 4, 6, 1, 5, 7, 2)
    side = 1 if taps == 1 else 3
    return parts.sum(0).reshape(blocks * 32, depth * 32, side, side)[:count, :channels]


def amx_conv2d(
    maps: Tensor,
    filters: Tensor,
    count: int,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    inside: Tensor | None,
    stride: int,
    dilation: int,
    relu: bool,
) -> Tensor:
    """maps [B, H, W, C] -> [B, H', W', K], of the maps' dtype."""
    weight = unpacked(filters, count, maps.shape[3]).to(maps.dtype)
    if not maps.numel():  # PyTorch's convolution rejects maps without rows or columns
        height, width = ((side + stride - 1) // stride for side in maps.shape[1:3])
        return maps.new_zeros(maps.shape[0], height, width, count)
    if scale is not None and shift is not None:
        maps = (maps * scale + shift).relu()
    if inside is not None:
        rows, columns = (
            torch.arange(side, device=maps.device) < end[:, None]
            for side, end in zip(maps.shape[1:3], inside.T, strict=True)
        )
        maps = maps.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0)
    padding = dilation * (weight.shape[-1] // 2)
    out = torch.nn.functional.conv2d(
        maps.permute(0, 3, 1, 2), weight, bias, stride, padding, dilation
    )
    out = out.permute(0, 2, 3, 1)
    out = out if residual is None else out + residual
    return out.relu() if relu else out
