"""Part of an image resized by Pillow's bicubic filter, as training crops need it."""

import torch
from torch import Tensor

from ._arguments import argument_error, is_dense, is_integer
from ._library import call, define
from .image_views import MAX_SIDE
from .reference.bicubic import PASS_ORDER
from .reference.bicubic import resize_window as reference_window


def _reference(image, height, width, top, left, rows, columns, order):
    part = slice(top, top + rows), slice(left, left + columns)
    return reference_window(image, height, width, *part, order).clone(
        memory_format=torch.contiguous_format
    )


def _fake(image, height, width, top, left, rows, columns, order):
    return image.new_empty(rows, columns, image.shape[2])


# image [H, W, C] uint8, C 1 or 3 -> [rows, columns, C]
_op = define(
    "resize_window(Tensor image, int height, int width, int top, int left, int rows, int columns, "
    "int order) -> Tensor",
    reference=_reference,
    fake=_fake,
)


def resize_window(
    image: Tensor, height: int, width: int, top: int, left: int, rows: int, columns: int
) -> Tensor:
    """A window of an image resized with Pillow's bicubic filter; the rest is not computed.

    Equal, bit for bit, to the window of the result of `Image.resize` of the installed Pillow.

    Not differentiable. The CPU has a kernel; other devices use the reference.

    Args:
        image: [H, W, 3] or [H, W], uint8.
        height, width: size of the whole resized image in pixels.
        top, left: first row and column of the window.
        rows, columns: size of the window, which must lie within the resized image.

    Returns:
        uint8 [rows, columns, 3] or [rows, columns].

    Raises:
        ValueError: a wrong argument, with its name and value.

    >>> image = torch.tensor([[0, 255]], dtype=torch.uint8)
    >>> resize_window(image, 2, 4, 0, 1, 2, 2)
    tensor([[ 53, 202],
            [ 53, 202]], dtype=torch.uint8)
    """
    op = "resize_window"
    if not (
        is_dense(image)
        and image.dtype == torch.uint8
        and (image.dim() == 2 or (image.dim() == 3 and image.shape[2] == 3))
        and 1 <= min(image.shape[:2]) <= max(image.shape[:2]) <= MAX_SIDE
    ):
        wanted = f"uint8 [H, W, 3] or [H, W], H and W in 1..{MAX_SIDE}"
        raise argument_error(op, "image", image, wanted)
    for name, value in (("height", height), ("width", width)):
        if not is_integer(value) or not 1 <= value <= MAX_SIDE:
            raise argument_error(op, name, value, f"an integer in 1..{MAX_SIDE}")
    places = (("top", "rows", top, rows, height), ("left", "columns", left, columns, width))
    for first, count, start, length, side in places:
        if not is_integer(start) or not 0 <= start < side:
            raise argument_error(op, first, start, f"an integer in 0..{side - 1}")
        if not is_integer(length) or not 1 <= length <= side - start:
            raise argument_error(op, count, length, f"an integer in 1..{side - start}")
    planes = image if image.dim() == 3 else image.unsqueeze(2)
    window = call(_op, planes, height, width, top, left, rows, columns, PASS_ORDER)
    return window if image.dim() == 3 else window.squeeze(2)
