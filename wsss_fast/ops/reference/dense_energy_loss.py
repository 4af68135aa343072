"""The dense energy loss in plain PyTorch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .bilinear import resized_bilinear, resized_bilinear_backward
from .lattice import lattice_filter, permutohedral_lattice

__all__ = ["dense_energy_loss", "dense_energy_loss_grad"]

UNKNOWN = 255  # the label of pixels without a pseudo label

Filter = Callable[[Tensor, bool], Tensor]


def dense_energy_loss(
    image: Tensor,
    probabilities: Tensor,
    roi: Tensor,
    labels: Tensor | None,
    *,
    weight: float = 1e-7,
    sigma_rgb: float | tuple[float, ...] = 15.0,
    sigma_xy: float | tuple[float, float] = 100.0,
    scale_factor: float = 0.5,
    gradient: str = "public",
    recompute_scale_factor: bool = True,
) -> Tensor:
    """The definition of `wsss_fast.ops.dense_energy_loss`: same arguments, without checks.

    float64 probabilities give a float64 result. The lattice's weights are those of float32 in any
    case. Differentiable in probabilities, any number of times.
    """
    size, step = reduced_grid(probabilities.shape[2:], scale_factor, recompute_scale_factor)
    image, roi = reduced_nearest(image, size, step), reduced_nearest(planes(roi), size, step)
    labels = None if labels is None else reduced_nearest(planes(labels), size, step)
    share, s, gate = _inputs(probabilities, roi, labels, step)
    pixels = [sigma * scale_factor for sigma in _each(sigma_xy, 2)]
    filtered = bilateral(image, pixels + _each(sigma_rgb, image.shape[1]))
    t = gate * filtered(s, False)
    energy = (s * t).sum() if gradient == "exact" else _Symmetric.apply(s, t)
    return -weight * share * energy


def dense_energy_loss_grad(
    image: Tensor,
    probabilities: Tensor,
    roi: Tensor,
    labels: Tensor | None,
    sigmas: list[float],
    step: list[float],
    weight: float,
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Loss and d loss / d probabilities in closed form.

    An op's default kernel runs below autograd. `image`, `roi` and `labels` are reduced already.
    """
    share, s, gate = _inputs(probabilities, roi, labels, step)
    filtered = bilateral(image, sigmas)
    t = gate * filtered(s, False)
    twice = t + filtered(gate * s, True) if exact else 2 * t
    grad = -weight * share * roi.to(s.dtype)[:, None] * twice
    full = resized_bilinear_backward(grad, probabilities.shape[2:], step)
    return -weight * share * (s * t).sum(), full


def reduced_grid(
    size: torch.Size, scale_factor: float, recompute: bool
) -> tuple[list[int], list[float]]:
    """The reduced size [h, w], and the source pixels [y, x] between two reduced pixels.

    As `interpolate` for a scale factor: with `recompute` the reduced image covers all of the
    source.
    """
    reduced = [math.floor(float(n) * scale_factor) for n in size]
    if recompute:
        return reduced, [n / max(r, 1) for n, r in zip(size, reduced, strict=True)]
    return reduced, [1.0 / scale_factor] * 2


def planes(maps: Tensor) -> Tensor:
    """maps [B, H, W] or [B, 1, H, W] -> [B, H, W]."""
    return maps.reshape(maps.shape[0], *maps.shape[-2:])


def reduced_nearest(maps: Tensor, size: list[int], step: list[float]) -> Tensor:
    """maps [..., H, W] -> [..., h, w]: pixel i is source pixel floor(i * step), in float32."""
    out = maps
    for axis, new, stride in zip((-2, -1), size, step, strict=True):
        old = out.shape[axis]
        if new == old:
            continue
        if stride.is_integer():  # a view
            every = slice(None, new * int(stride), int(stride))
            out = out[..., every] if axis == -1 else out[..., every, :]
            continue
        at = torch.arange(new, dtype=torch.float32, device=maps.device) * stride
        out = out.index_select(axis, at.long().clamp_(max=old - 1))
    return out


def bilateral(image: Tensor, sigmas: list[float]) -> Filter:
    """The filter (values [B, K, h, w], transpose) -> [B, K, h, w] over the pixels of each image.

    image [B, C, h, w] levels; sigmas [sx, sy, one per channel].
    """
    *_, height, width = image.shape
    y, x = (torch.arange(n, dtype=torch.float32, device=image.device) for n in (height, width))
    positions = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    lattices = []
    for levels in image.to(torch.float32):
        features = torch.cat([positions, levels]) / levels.new_tensor(sigmas)[:, None, None]
        lattices.append(permutohedral_lattice(features.flatten(1).t()))

    def apply(values: Tensor, transpose: bool) -> Tensor:
        out = [
            lattice_filter(*lattice, each.flatten(1).t(), transpose).t()
            for lattice, each in zip(lattices, values, strict=True)
        ]
        return torch.stack(out).reshape(values.shape) if out else values

    return apply


def _each(sigmas: float | tuple[float, ...], count: int) -> list[float]:
    return list(sigmas) if isinstance(sigmas, (tuple, list)) else [sigmas] * count


def _inputs(
    probabilities: Tensor, roi: Tensor, labels: Tensor | None, step: list[float]
) -> tuple[float, Tensor, Tensor]:
    """1 / B, S = roi * reduced probabilities [B, K, h, w], and the constant gate [B, 1, h, w]."""
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    reduced = resized_bilinear(probabilities.to(dtype), roi.shape[-2:], step)
    inside = roi.to(dtype)[:, None]
    if labels is None:
        gate = torch.ones_like(inside)
    else:
        gate = (inside - reduced.detach().amax(1, keepdim=True)).clamp(min=0)
        gate = gate.masked_fill(labels[:, None] == UNKNOWN, 1.0)
    return 1.0 / max(len(probabilities), 1), inside * reduced, gate


class _Symmetric(torch.autograd.Function):
    """sum(s * t) for t = gate * A s, with the derivative 2 t as if gate * A were symmetric."""

    @staticmethod
    def forward(ctx, s, t):
        ctx.save_for_backward(t)
        return (s * t).sum()

    @staticmethod
    def backward(ctx, by):
        (t,) = ctx.saved_tensors
        return 2 * by * t, None
