"""PAR and PAMR in plain PyTorch: masks averaged over neighbours of similar colour."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["pixel_adaptive_refine"]

# Neighbours of a pixel at dilation 1 as (y, x), row by row.
OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


def pixel_adaptive_refine(
    image: Tensor,
    masks: Tensor,
    *,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
    iterations: int = 10,
    kind: str = "par",
) -> Tensor:
    """The definition of `wsss_fast.ops.pixel_adaptive_refine`: same arguments, without checks.

    Differentiable in image, too. Returns the dtype of the masks and computes in it, but for half
    precisions in float64.
    """
    dtype = masks.dtype
    if dtype.itemsize == 2:
        masks = masks.double()
    if masks.shape[-2:] != image.shape[-2:]:
        masks = torch.nn.functional.interpolate(
            masks, image.shape[-2:], mode="bilinear", align_corners=True
        )
    weights = affinities(image.to(masks.dtype), dilations, kind)
    for _ in range(iterations):
        around = neighbours(masks, dilations)
        masks = torch.zeros_like(masks)
        for weight, neighbour in zip(weights, around, strict=True):
            masks = masks + weight * neighbour
    return masks.to(dtype)


def pixel_adaptive_refine_grad(
    grad: Tensor, image: Tensor, *, dilations: tuple[int, ...], iterations: int, kind: str
) -> Tensor:
    """d(sum(grad * result)) / d masks, for masks of the image's size: the transposed iterations."""
    weights = affinities(image.to(grad.dtype), dilations, kind)
    height, width = grad.shape[-2:]
    shifts = offsets(dilations, max(height, width))
    reach = max(y for y, _ in shifts)
    for _ in range(iterations):
        padded = grad.new_zeros(*grad.shape[:2], height + 2 * reach, width + 2 * reach)
        for weight, (y, x) in zip(weights, shifts, strict=True):
            padded[..., reach + y : reach + y + height, reach + x : reach + x + width] += (
                weight * grad
            )
        grad = _fold(_fold(padded, reach, 2), reach, 3)
    return grad


def affinities(image: Tensor, dilations: tuple[int, ...], kind: str) -> list[Tensor]:
    """The weight of each neighbour, [B, 1, H, W]."""
    around = torch.stack(list(neighbours(image, dilations)))  # [8 per dilation, B, C, H, W]
    if kind == "pamr":
        centres = image.expand(len(dilations), *image.shape)
        deviation = torch.cat([around, centres]).std(0)
        ratio = (around - image).abs() / (1e-8 + 0.1 * deviation)
        return list(torch.softmax(-ratio.mean(2, keepdim=True), 0))
    ratio = (around - image).abs() / (around.std(0) + 1e-8) / 0.3
    by_colour = torch.softmax(-ratio.square().mean(2, keepdim=True), 0)
    distances = torch.tensor(
        [d * (y * y + x * x) ** 0.5 for d in dilations for y, x in OFFSETS], dtype=torch.float64
    )
    by_position = torch.softmax(-(distances / (distances.std() + 1e-8) / 0.3).square(), 0)
    return [w + 0.01 * p for w, p in zip(by_colour, by_position, strict=True)]


def offsets(dilations: tuple[int, ...], limit: int) -> list[tuple[int, int]]:
    """Offsets (y, x) of all neighbours.

    Beyond the image the border is repeated, so no offset needs to be larger than the image.
    """
    return [(min(d, limit) * y, min(d, limit) * x) for d in dilations for y, x in OFFSETS]


def neighbours(maps: Tensor, dilations: tuple[int, ...]) -> Iterator[Tensor]:
    """For each neighbour the maps shifted by its offset, with the border repeated."""
    height, width = maps.shape[-2:]
    shifts = offsets(dilations, max(height, width))
    reach = max(y for y, _ in shifts)
    padded = torch.nn.functional.pad(maps, [reach] * 4, mode="replicate")
    for y, x in shifts:
        yield padded[..., reach + y : reach + y + height, reach + x : reach + x + width]


def _fold(padded: Tensor, reach: int, dim: int) -> Tensor:
    """The transpose of repeating the border `reach` times at both ends of a dimension."""
    size = padded.shape[dim] - 2 * reach
    before, inner, after = padded.split([reach, size, reach], dim)
    inner = inner.clone()
    inner.select(dim, 0).add_(before.sum(dim))
    inner.select(dim, -1).add_(after.sum(dim))
    return inner
