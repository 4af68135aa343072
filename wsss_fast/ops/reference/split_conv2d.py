"""Reference of split_conv2d: the weights put together again, and PyTorch's convolution."""

import torch
from torch import Tensor


def unpacked(filters: Tensor) -> Tensor:
    """Filters as `ops.split_conv2d.pack` made them -> weight [K, C, k, k], the sum of their parts, float64."""
    blocks, taps, depth = filters.shape[:3]
    parts = filters.double().permute(3, 0, 4, 6, 2, 5, 7, 1)  # [parts, K / 32, 2, 16, C / 32, 16, 2, k * k]
    side = 1 if taps == 1 else 3
    return parts.sum(0).reshape(blocks * 32, depth * 32, side, side)


def split_conv2d(maps: Tensor, filters: Tensor, scale: Tensor | None, shift: Tensor | None, bias: Tensor | None,
                 residual: Tensor | None, stride: int, dilation: int, relu: bool) -> Tensor:
    """maps [B, H, W, C] -> [B, H', W', K], of the maps' dtype."""
    weight = unpacked(filters).to(maps.dtype)
    if scale is not None:
        maps = (maps * scale + shift).relu()
    padding = dilation * (weight.shape[-1] // 2)
    out = torch.nn.functional.conv2d(maps.permute(0, 3, 1, 2), weight, bias, stride, padding, dilation)
    out = out.permute(0, 2, 3, 1)
    out = out if residual is None else out + residual
    return out.relu() if relu else out
