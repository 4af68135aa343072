"""Class maps from a network's outputs of scaled and mirrored views, in plain PyTorch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["merge_maps"]

EPSILON = 1e-5  # added to the divisors


class MergedMaps(NamedTuple):
    """Maps of K channels of an image of H x W pixels.

    Attributes:
        strided: at a quarter of the size, [K, (H-1)//4+1, (W-1)//4+1], or None.
        full: at the image's size, [K, H, W].

    >>> MergedMaps(None, torch.zeros(1, 1, 2)).full
    tensor([[[0., 0.]]])
    """

    strided: Tensor | None
    full: Tensor


def strided_size(height: int, width: int) -> tuple[int, int]:
    """Size of maps at stride 4, as IRN and AMN store them."""
    return (height - 1) // 4 + 1, (width - 1) // 4 + 1


def merge_maps(
    views: Sequence[Tensor],
    channels: Sequence[Sequence[int]],
    size: tuple[int, int],
    *,
    kind: str = "relative",
    align: int = 1,
    strided: bool = True,
    foreground: tuple[Tensor | None, Tensor] | None = None,
    present_only: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[MergedMaps]:
    """Maps of each image; the arguments are those of `ops.merge_maps`."""
    masks = (None, None) if foreground is None else foreground
    results = []
    for image, wanted in enumerate(channels):
        maps: list[Tensor | None] = []
        for to, mask in zip((strided_size(*size), size), masks, strict=True):
            if to is not size and not strided:
                maps.append(None)
            elif not len(wanted):
                maps.append(views[0].new_empty(0, *to, dtype=dtype))
            elif kind == "softmax":
                own = None if mask is None else mask[image] != 0
                maps.append(_softmax(views, image, wanted, to, own, present_only).to(dtype))
            else:
                multiple = align if to is size else 1
                maps.append(_sum(views, image, wanted, to, multiple, kind == "relative").to(dtype))
        small, full = maps
        assert full is not None
        results.append(MergedMaps(small, full))
    return results


def _sum(
    views: Sequence[Tensor],
    image: int,
    wanted: Sequence[int],
    size: tuple[int, int],
    align: int,
    relative: bool,
) -> Tensor:
    """Sum of the views at `size`, each map divided by its maximum if `relative`."""
    height, width = size
    aligned = -(-height // align) * align, -(-width // align) * align
    pairs = [_both_sides(view, image, wanted) for view in views]
    total = _resized_sum(pairs, aligned)[:, :height, :width]
    return total / (total.amax((1, 2), keepdim=True) + EPSILON) if relative else total


def _softmax(
    views: Sequence[Tensor],
    image: int,
    wanted: Sequence[int],
    size: tuple[int, int],
    foreground: Tensor | None,
    present_only: bool,
) -> Tensor:
    """Softmax of the views' mean at `size`, rescaled to 0..1 where `foreground`."""
    used = wanted if present_only else range(views[0].shape[1])
    pairs = [_both_sides(view, image, used) / 2 for view in views]
    scores = _resized_sum(pairs, size).div_(len(views)).softmax(0)
    if not present_only:
        scores = scores[list(wanted)]
    if foreground is None:
        return scores
    low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
    return torch.where(foreground, (scores - low) / (high - low + EPSILON), scores)


def _both_sides(view: Tensor, image: int, wanted: Sequence[int]) -> Tensor:
    """Sum of an image's channels [K, h, w] and its mirror image's, mirrored back; wide."""
    wide, rows = torch.promote_types(view.dtype, torch.float32), list(wanted)
    images, mirrored = (half[image][rows].to(wide) for half in view.chunk(2))
    return images + mirrored.flip(-1)


def _resized_sum(views: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of maps [K, h_i, w_i], each resized bilinearly to `size`."""
    first, *others = (view[None] for view in views)
    total = interpolate(first, size, mode="bilinear")
    if len(others) > 3:  # torch's sum does not add more than four terms one after another
        resized = [interpolate(view, size, mode="bilinear") for view in others]
        return torch.stack([total, *resized]).sum(0)[0]
    total += 0  # a sum that torch computes is not -0
    buffer = torch.empty_like(total)
    for view in others:
        total += torch.ops.aten.upsample_bilinear2d.out(view, size, False, out=buffer)
    return total[0]
