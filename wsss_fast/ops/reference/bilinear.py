"""Bilinear resizing with half-pixel centres (align_corners False), and its transpose.

PyTorch's `interpolate` computes the same; but where a pixel's centre falls on a cell's, whether it
sees infinities and NaN of the next cell depends there on how a machine rounds, and here it does
not. An axis whose size stays the same is not touched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def resized_bilinear(
    maps: Tensor, size: Sequence[int], steps: Sequence[float | None] = (None, None)
) -> Tensor:
    """maps [..., h, w] -> [..., H, W]; half precisions are computed in float32.

    `steps` are the source pixels (along y, along x) between two pixels of the result, by default
    h / H and w / W.
    """
    out = maps.to(_wide(maps))
    for axis, new, step in zip((-2, -1), size, steps, strict=True):
        if out.shape[axis] == new:
            continue
        low, high, fraction = _sources(out, axis, new, step)
        out = (1 - fraction) * out.index_select(axis, low) + fraction * out.index_select(axis, high)
    return out.to(maps.dtype)


def resized_bilinear_backward(
    grad: Tensor, size: Sequence[int], steps: Sequence[float | None] = (None, None)
) -> Tensor:
    """grad [..., H, W] of the result -> of the maps [..., h, w], `size`."""
    out = grad.to(_wide(grad))
    for axis, old, step in zip((-2, -1), size, steps, strict=True):
        new = out.shape[axis]
        if old == new:
            continue
        shape = list(out.shape)
        shape[axis] = old
        zeros = out.new_zeros(shape)
        low, high, fraction = _sources(zeros, axis, new, step)
        out = zeros.index_add(axis, low, (1 - fraction) * out).index_add(axis, high, fraction * out)
    return out.to(grad.dtype)


def _wide(maps: Tensor) -> torch.dtype:
    return torch.float64 if maps.dtype == torch.float64 else torch.float32


def _sources(
    maps: Tensor, axis: int, new: int, step: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells of each pixel along an axis, and the share of the second one.

    Result pixel i is (1 - fraction) * maps[low] + fraction * maps[high].
    """
    old = maps.shape[axis]
    if step is None:
        stride = torch.tensor(old, dtype=maps.dtype, device=maps.device) / new
    else:
        stride = torch.tensor(step, dtype=maps.dtype, device=maps.device)
    centre = (torch.arange(new, dtype=maps.dtype, device=maps.device) + 0.5) * stride - 0.5
    at = centre.clamp(min=0)
    low = at.long().clamp(max=old - 1)
    fraction = at - low.to(at.dtype)
    return low, (low + 1).clamp(max=old - 1), fraction if axis == -1 else fraction[:, None]
