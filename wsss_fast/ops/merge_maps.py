"""Class maps from a network's outputs of views: schema, fake, public function."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    FLOATING_DTYPES,
    argument_error,
    describe,
    is_dense,
    is_floating,
    is_integer,
)
from ._library import call, define
from .reference.merge_maps import MergedMaps, strided_size
from .reference.merge_maps import merge_maps as reference_merge

KINDS = ("relative", "softmax", "sum")
MOST_VIEWS = 32  # their shapes are arguments of a CUDA kernel
_OP = "merge_maps"


def _packed(
    views: list[Tensor],
    channels: list[int],
    counts: list[int],
    size: list[int],
    *,
    dtype: int,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The reference's maps of all images, as the ops return them."""
    rest = iter(channels)
    images = reference_merge(
        views,
        [[next(rest) for _ in range(count)] for count in counts],
        (size[0], size[1]),
        dtype=FLOATING_DTYPES[dtype],
        **options,
    )
    like: dict[str, Any] = {"dtype": FLOATING_DTYPES[dtype], "device": views[0].device}
    full = [maps.full for maps in images] or [torch.empty(0, *size, **like)]
    small = [maps.strided for maps in images if maps.strided is not None]
    small = small or [torch.empty(0, *strided_size(*size), **like)]
    both = (torch.cat(maps) if len(maps) > 1 else maps[0].contiguous() for maps in (small, full))
    return next(both), next(both)


def _reference(views, channels, counts, size, align, relative, strided, dtype):
    kind = "relative" if relative else "sum"
    return _packed(
        *(views, channels, counts, size), kind=kind, align=align, strided=strided, dtype=dtype
    )


def _softmax_reference(
    views, channels, counts, size, strided, present_only, small_mask, full_mask, dtype
):
    return _packed(
        *(views, channels, counts, size),
        kind="softmax",
        strided=strided,
        foreground=None if full_mask is None else (small_mask, full_mask),
        present_only=present_only,
        dtype=dtype,
    )


def _empty(views, channels, size, strided, dtype):
    rows, like = len(channels), {"dtype": FLOATING_DTYPES[dtype]}
    small_rows = rows if strided else 0
    return (
        views[0].new_empty(small_rows, *strided_size(*size), **like),
        views[0].new_empty(rows, *size, **like),
    )


def _fake(views, channels, counts, size, align, relative, strided, dtype):
    return _empty(views, channels, size, strided, dtype)


def _softmax_fake(views, channels, counts, size, strided, present, small, full, dtype):
    return _empty(views, channels, size, strided, dtype)


# views [2B, C, h_s, w_s] of any strides; channels [T] of one image after the other, counts [B] of
# them; dtype is a place in FLOATING_DTYPES; masks uint8 [B, h, w] and [B, H, W]
# -> maps [T, h, w] (without `strided` [0, h, w]) and [T, H, W]
_op = define(
    "merge_maps(Tensor[] views, int[] channels, int[] counts, int[] size, int align, "
    "bool relative, bool strided, int dtype) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
)
# An op of its own, because only it has a kernel for the CPU.
_softmax_op = define(
    "merge_maps_softmax(Tensor[] views, int[] channels, int[] counts, int[] size, bool strided, "
    "bool present_only, Tensor? small_mask, Tensor? full_mask, int dtype) -> (Tensor, Tensor)",
    reference=_softmax_reference,
    fake=_softmax_fake,
)


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
    """Class maps of B images of one size from a network's outputs of their scaled views.

    The outputs of mirror images are mirrored back and added to those of the images. All are resized
    bilinearly (align_corners False) to a quarter of the images' size and to the size itself. With
    the sum s and the mean m over all views, the map of channel k is, at each of the two sizes,

        "relative": s_k / (max s_k + 1e-5), with the maximum over the image
        "softmax":  p_k, or where `foreground` (p_k - min p_k) / (max p_k - min p_k + 1e-5), with
                    p = softmax(m) over all channels, and minimum and maximum over the image
        "sum":      s_k

    Computed in float32 (float64 for float64 views); not differentiable. On CUDA a batch takes four
    kernels, one more per 480 maps, whatever the number of views; it does not wait for the device,
    can be captured in a graph, and two runs give the same bits. On the CPU there is a kernel for
    "softmax", with the same bits for any number of threads; "relative" and "sum" are plain PyTorch,
    whose bits they keep.

    Args:
        views: one floating point tensor per scale, [2B, C, h_s, w_s]: the images', then the mirror
            images'; at most 32, of one dtype. Any strides.
        channels: for each image the channels in 0..C-1 whose maps are wanted, possibly none.
        size: (H, W) of the images.
        kind: "relative" (CAM, EPS), "softmax" (AMN) or "sum" (CCR).
        align: for the maps at full size, views are resized to H and W rounded up to multiples of
            this number of pixels, then cropped; 1 for "softmax".
        strided: whether to compute the maps at a quarter of the size.
        foreground: only for "softmax": bool or uint8 masks [B, (H-1)//4+1, (W-1)//4+1] (None
            without `strided`) and [B, H, W], not 0 where maps are rescaled to 0..1.
        present_only: only for "softmax": whether it is over an image's `channels` alone.
        dtype: of the maps: float16, bfloat16, float32 or float64.

    Returns:
        For each image MergedMaps(strided, full), [K, (H-1)//4+1, (W-1)//4+1] and [K, H, W] for its
        K channels, in their order. Those of a batch may share memory.

    Raises:
        ValueError: a wrong argument, with its name and value.

    Source: IRN's, AMN's, EPS' and CCR's public code.

    >>> view = torch.tensor([0.0, 1.0, 3.0]).expand(2, 2, 1, 3)  # the mirror image sees the same
    >>> merge_maps([view], [[1]], (1, 3))[0].full
    tensor([[[1.0000, 0.6667, 1.0000]]])
    """
    _check_views(views)
    batch, count = views[0].shape[0] // 2, views[0].shape[1]
    rows = _check_channels(channels, batch, count)
    size = _check_size(size)
    _check_options(kind, align, present_only, foreground, dtype)
    counts = [len(own) for own in rows]
    common = list(views), [channel for own in rows for channel in own], counts, list(size)
    place = FLOATING_DTYPES.index(dtype)
    if kind == "softmax":
        masks = _check_foreground(foreground, strided, batch, size, views[0])
        maps = call(_softmax_op, *common, bool(strided), bool(present_only), *masks, place)
    else:
        maps = call(_op, *common, int(align), kind == "relative", bool(strided), place)
    of_full = maps[1].split(counts)
    of_small = maps[0].split(counts) if strided else [None] * batch
    return [MergedMaps(*pair) for pair in zip(of_small, of_full, strict=True)]


def _check_views(views: Sequence[Tensor]) -> None:
    wanted = f"{FLOATING} [2B, C, h, w] with C, h and w >= 1"
    if not isinstance(views, (list, tuple)) or not 1 <= len(views) <= MOST_VIEWS:
        raise argument_error(_OP, "views", views, f"a list of 1..{MOST_VIEWS} tensors")
    first = views[0]
    for number, view in enumerate(views):
        if not is_floating(view, 4) or 0 in view.shape[1:] or view.shape[0] % 2:
            raise argument_error(_OP, f"views[{number}]", view, wanted)
        own = view.dtype, view.device, view.shape[:2]
        if own != (first.dtype, first.device, first.shape[:2]):
            raise ValueError(
                f"{_OP}: views[0] is {describe(first)} on {first.device} but views[{number}] is "
                f"{describe(view)} on {view.device}; dtype, device, 2B and C must match"
            )


def _check_channels(channels: Sequence[Sequence[int]], batch: int, count: int) -> list[list[int]]:
    if isinstance(channels, (str, Tensor)) or not isinstance(channels, Sequence):
        raise argument_error(_OP, "channels", channels, "a list of channels for each image")
    if len(channels) != batch:
        raise ValueError(
            f"{_OP}: channels has {len(channels)} lists but views are of {batch} images; "
            "both must match"
        )
    for image, own in enumerate(channels):
        if isinstance(own, str) or not isinstance(own, Sequence):
            raise argument_error(_OP, f"channels[{image}]", own, "a list of integers")
        for channel in own:
            if not is_integer(channel) or not 0 <= channel < count:
                raise ValueError(
                    f"{_OP}: channels[{image}] holds {describe(channel)}; must be in 0..{count - 1}"
                )
    return [[int(channel) for channel in own] for own in channels]


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
        raise argument_error(_OP, "size", size, "(H, W)")
    if not all(is_integer(side) and 1 <= side < 2**31 for side in size):
        raise argument_error(_OP, "size", size, "two integers >= 1")
    return int(size[0]), int(size[1])


def _check_options(
    kind: str, align: int, present_only: bool, foreground: object, dtype: torch.dtype
) -> None:
    if kind not in KINDS:
        raise argument_error(_OP, "kind", kind, f"one of {KINDS}")
    if not is_integer(align) or not 1 <= align < 2**16:
        raise argument_error(_OP, "align", align, "an integer in 1..65535")
    if align > 1 and kind == "softmax":
        raise argument_error(_OP, "align", align, "1 for kind 'softmax'")
    if present_only and kind != "softmax":
        raise argument_error(_OP, "present_only", present_only, f"False for kind {kind!r}")
    if foreground is not None and kind != "softmax":
        raise argument_error(_OP, "foreground", foreground, f"None for kind {kind!r}")
    if dtype not in FLOATING_DTYPES:
        raise argument_error(_OP, "dtype", dtype, FLOATING)


def _check_foreground(
    foreground: tuple[Tensor | None, Tensor] | None,
    strided: bool,
    batch: int,
    size: tuple[int, int],
    view: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """The masks as uint8, or None."""
    if foreground is None:
        return None, None
    if not isinstance(foreground, (list, tuple)) or len(foreground) != 2:
        raise argument_error(_OP, "foreground", foreground, "two masks, at both sizes")
    masks: list[Tensor | None] = []
    for number, (mask, to) in enumerate(zip(foreground, (strided_size(*size), size), strict=True)):
        if number == 0 and not strided:
            masks.append(None)
            continue
        name = f"foreground[{number}]"
        if not is_dense(mask) or mask.dtype not in (torch.bool, torch.uint8):
            raise argument_error(_OP, name, mask, f"bool or uint8 {[batch, *to]}")
        if mask.shape != (batch, *to):
            raise argument_error(_OP, name, mask, f"{[batch, *to]}")
        if mask.device != view.device:
            raise ValueError(f"{_OP}: views are on {view.device} but {name} is on {mask.device}")
        masks.append(mask.view(torch.uint8) if mask.dtype == torch.bool else mask)
    return masks[0], masks[1]
