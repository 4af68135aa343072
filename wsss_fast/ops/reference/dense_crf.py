"""Dense CRF mean field in plain PyTorch: the definition, and the fallback without a compiler."""

from collections.abc import Callable

import torch
from torch import Tensor

from .lattice import lattice_filter, permutohedral_lattice

__all__ = ["dense_crf"]


def _normalised(features: Tensor, weight: float) -> Callable[[Tensor], Tensor]:
    """weight * n_i * n_j * k(f_i, f_j) with n = 1 / sqrt(sum_j k): the symmetric normalisation."""
    lattice = permutohedral_lattice(features)
    ones = features.new_ones(features.shape[0], 1)
    norm = (lattice_filter(*lattice, ones, False) + 1e-20).rsqrt()  # [N, 1]
    return lambda values: weight * norm * lattice_filter(*lattice, norm * values, False)


def _coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Pixel positions [H*W, 2] as (x, y), row by row."""
    y = torch.arange(height, device=like.device, dtype=like.dtype)
    x = torch.arange(width, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(
        -1, 2
    )


def _mean_field(energies: Tensor, filters: list, iterations: int) -> Tensor:
    """Mean field of one image: `energies` [S, L, N] -> Q [S, L, N]."""
    s, labels, points = energies.shape
    q = torch.softmax(-energies, 1)
    for _ in range(iterations):
        channels = q.reshape(s * labels, points).t()  # [N, S*L]
        message = sum(f(channels) for f in filters).t().reshape(s, labels, points)
        q = torch.softmax(message - energies, 1)
    return q


def dense_crf(
    image: Tensor | None,
    unary: Tensor,
    *,
    gaussian: tuple | None = (3.0, 3.0),
    bilateral: tuple | None = (50.0, 5.0, 10.0),
    iterations: int = 10,
) -> Tensor:
    """The definition of `wsss_fast.ops.dense_crf`: same arguments, without checks.

    float64 unaries give a float64 result.

    Q <- softmax_L(-unary + sum_m w_m n_m * K_m (n_m * Q)), Q_0 = softmax(-unary). Differentiable in
    `unary`.
    """
    dtype = torch.float64 if unary.dtype == torch.float64 else torch.float32
    height, width = unary.shape[-2:]
    energies = unary.to(dtype)
    terms = [term for term in (gaussian, bilateral) if term is not None and term[-1] != 0]
    if not terms or iterations == 0 or unary.numel() == 0:
        return torch.softmax(-energies, -3)
    stacked = energies.reshape(unary.shape[0], -1, unary.shape[-3], height * width)
    xy = _coordinates(height, width, energies)  # [N, 2]
    spatial = []
    if gaussian is not None and gaussian in terms:
        spatial = [_normalised(xy / energies.new_tensor(gaussian[0]), gaussian[1])]
    out = []
    for b in range(unary.shape[0]):
        filters = list(spatial)
        if bilateral is not None and bilateral in terms and image is not None:
            sxy, srgb, weight = bilateral
            levels = image[b].reshape(image.shape[1], -1).t().to(dtype)  # [N, C]
            features = torch.cat(
                [xy / energies.new_tensor(sxy), levels / energies.new_tensor(srgb)], 1
            )
            filters.append(_normalised(features, weight))
        out.append(_mean_field(stacked[b], filters, iterations))
    return torch.stack(out).reshape(unary.shape)
