"""Bilateral filter of maps in plain PyTorch: the definition; the fallback without a compiler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .lattice import lattice_filter, permutohedral_lattice

__all__ = ["bilateral_filter"]


def bilateral_filter(
    image: Tensor,
    values: Tensor,
    *,
    sigma_rgb: float | Sequence[float],
    sigma_xy: float | Sequence[float],
    transpose: bool = False,
) -> Tensor:
    """The definition of `wsss_fast.ops.bilateral_filter`: same arguments, without checks.

    Features are float32 for any dtype, because their rounding decides which vertices exist; sums
    are in the dtype of `values`. `transpose` applies the transposed filter. Differentiable in
    `values`.
    """
    batch, channels, height, width = image.shape
    if not values.numel():
        return torch.zeros_like(values)
    y = torch.arange(height, device=image.device, dtype=torch.float32)
    x = torch.arange(width, device=image.device, dtype=torch.float32)
    position = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # [2, H, W]
    deviation = torch.cat(
        [_each(sigma_xy, 2, position), _each(sigma_rgb, channels, position)]
    )  # [2+C]
    out = []
    for b in range(batch):
        planes = torch.cat([position, image[b].to(torch.float32)])
        features = (planes / deviation[:, None, None]).flatten(1).t()  # [H*W, 2+C]
        columns = values[b].flatten(1).t()  # [H*W, K]
        filtered = lattice_filter(*permutohedral_lattice(features), columns, transpose)
        out.append(filtered.t().reshape(values[b].shape))
    return torch.stack(out)


def _each(sigma: float | Sequence[float], count: int, like: Tensor) -> Tensor:
    """`count` deviations from one, or from as many."""
    return like.new_tensor(sigma).expand(count)
