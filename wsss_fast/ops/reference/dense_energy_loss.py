"""The dense energy loss in plain PyTorch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .bilateral import bilateral_filter
from .bilinear import resized_bilinear, resized_bilinear_backward

__all__ = ["dense_energy_loss", "dense_energy_loss_grad"]

UNKNOWN = 255  # the label of pixels without a pseudo label


def dense_energy_loss(
    image: Tensor,
    probabilities: Tensor,
    roi: Tensor,
    labels: Tensor | None,
    *,
    weight: float = 1e-7,
    sigma_rgb: float | Sequence[float] = 15.0,
    sigma_xy: float | Sequence[float] = 100.0,
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
    given = sigma_xy if isinstance(sigma_xy, Sequence) else [sigma_xy] * 2
    pixels = [sigma * scale_factor for sigma in given]
    t = gate * bilateral_filter(image, s, sigma_xy=pixels, sigma_rgb=sigma_rgb)
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
    sigma_xy, sigma_rgb = sigmas[:2], sigmas[2:]
    t = gate * bilateral_filter(image, s, sigma_xy=sigma_xy, sigma_rgb=sigma_rgb)
    other = t
    if exact:
        gated = gate * s
        other = bilateral_filter(
            image, gated, sigma_xy=sigma_xy, sigma_rgb=sigma_rgb, transpose=True
        )
    grad = -weight * share * roi.to(s.dtype)[:, None] * (t + other)
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
