"""Pillow's bicubic resizing of 8-bit images, bit for bit, in plain PyTorch."""

import math

import PIL
import torch
from torch import Tensor

# Which images Pillow begins with the vertical pass: it changes the result, which is rounded to
# uint8 after each pass, and differs between releases. The same as in csrc/math/bicubic.h.
HORIZONTAL_FIRST = 0  # none
TALL_FIRST = 1  # those more than 100 times as high as wide, if they shrink
SHRINKING_FIRST = 2  # where the height shrinks by more than twice as many pixels as the width


def pass_order(release: str) -> int:
    """The order of the passes in a release of Pillow, such as "12.3.0"."""
    major, minor = (int(number) for number in release.split(".")[:2])
    if (major, minor) >= (13, 0):
        return SHRINKING_FIRST
    return TALL_FIRST if (major, minor) >= (12, 2) else HORIZONTAL_FIRST


PASS_ORDER = pass_order(PIL.__version__)
_BITS = 22  # of the fixed-point weights: 8 bits of a pixel and 2 of overshoot remain of an int32


def resize_bicubic(image: Tensor, height: int, width: int, order: int = PASS_ORDER) -> Tensor:
    """Resize images as Pillow's BICUBIC does.

    Args:
        image: uint8 [..., H, W, C].
        height, width: the new size in pixels.
        order: which images begin with the vertical pass; the default is that of the installed
            Pillow.

    Returns:
        uint8 [..., height, width, C].
    """
    return resize_window(image, height, width, slice(None), slice(None), order)


def resize_window(
    image: Tensor,
    height: int,
    width: int,
    rows: slice,
    columns: slice,
    order: int = PASS_ORDER,
) -> Tensor:
    """The rows and columns of an image resized by `resize_bicubic`; the others are not computed."""
    source = image.shape[-3], image.shape[-2]
    if _begins_vertically(source, (height, width), order):
        return _resize_side(_resize_side(image, -3, height, rows), -2, width, columns)
    return _resize_side(_resize_side(image, -2, width, columns), -3, height, rows)


def _begins_vertically(source: tuple[int, int], size: tuple[int, int], order: int) -> bool:
    less, narrower = source[0] - size[0], source[1] - size[1]
    if order == TALL_FIRST:
        return less > 0 and source[0] > 100 * source[1]
    return order == SHRINKING_FIRST and less > max(0, 2 * narrower)


def _resize_side(image: Tensor, dim: int, size: int, part: slice) -> Tensor:
    """Part of an image resized along one dimension, rounded to uint8.

    A dimension that keeps its size is not filtered.
    """
    source = image.shape[dim]
    if source == size:
        return image.transpose(0, dim)[part].transpose(0, dim)
    first, weights = (t[..., part].to(image.device) for t in bicubic_taps(source, size))
    along = [1] * image.dim()
    along[dim] = len(first)
    total = torch.full((), 1 << (_BITS - 1), dtype=torch.int32, device=image.device)
    for tap, weight in enumerate(weights):
        pixels = image.index_select(dim, (first + tap).clamp_(max=source - 1))
        total = total + weight.view(along) * pixels
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


def bicubic_taps(source: int, size: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of a resized side read the source, and their weights.

    The weights of the taps are added one by one, as the last bit of their sum decides how some of
    them are rounded.

    Args:
        source: length of the side.
        size: its length after resizing.

    Returns:
        The first source pixel of each pixel, int64 [size], and weights in units of 2^-22,
        int32 [taps, size], which are 0 beyond the source.
    """
    scale = source / size
    stretch = max(scale, 1.0)  # the filter is widened for shrinking
    reach = 2.0 * stretch
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    first = (centre - reach + 0.5).long().clamp_(min=0)
    last = (centre + reach + 0.5).long().clamp_(max=source)
    weights, total = [], torch.zeros(size, dtype=torch.float64)
    for tap in range(2 * math.ceil(reach) + 1):
        weight = _bicubic(((first + tap) - centre + 0.5) * (1.0 / stretch))
        weights.append(weight.where(first + tap < last, 0.0))
        total += weights[-1]
    fixed = torch.stack(weights) / total * (1 << _BITS)
    return first, (fixed + torch.where(fixed < 0, -0.5, 0.5)).int()


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
