"""A float32 convolution for inference whose products are made of bfloat16 parts, for processors with a matrix unit."""

import torch
from torch import Tensor

from wsss_fast import _native

from . import reference
from ._library import call, define, has_native_kernel

BLOCK = 32  # channels and filters are taken by so many, with zeros for those that are missing


def _reference(maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu):
    out = reference.amx_conv2d(
        maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu
    )
    return out.contiguous()


def _fake(maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu):
    batch, height, width, _ = maps.shape
    return maps.new_empty(
        batch, (height + stride - 1) // stride, (width + stride - 1) // stride, count
    )


# maps [B, H, W, C], filters as `pack` makes them, scale and shift [C], bias [K], residual and result [B, H', W', K],
# inside [B, 2]
_op = define(
    "amx_conv2d(Tensor maps, Tensor filters, int count, Tensor? scale, Tensor? shift, Tensor? bias, "
    "Tensor? residual, Tensor? inside, int stride, int dilation, bool relu) -> Tensor",
    reference=_reference,
    fake=_fake,
)


def pays() -> bool:
    """Whether the CPU has a matrix unit (AMX) and a kernel that uses it; elsewhere torch's own convolution is faster."""
    if not torch.cpu._is_amx_tile_supported():
        return False
    return _native.load() and has_native_kernel("amx_conv2d", torch.device("cpu"))


def fits(weight: Tensor) -> bool:
    """Whether the op knows convolutions of this weight, [K, C, k, k] or that of a group."""
    return (
        weight.dim() == 4 and weight.shape[:2].numel() > 0 and weight.shape[2:] in ((1, 1), (3, 3))
    )


def pack(weight: Tensor, parts: int = 2) -> Tensor:
    """Weight [K, C, k, k], float32 or float64, as bfloat16 parts in the order in which the kernel reads them.

    Each part is what the ones before leave, rounded: two hold 16 bits of a float32's significand, three all of it.

    Returns:
        bfloat16 [ceil(K / 32), ceil(C / 32), k * k, parts, 2, 16, 16, 2], zero beyond the last filter and channel:
        filter = ((block, half), column), channel = ((block, pair), i).

    Raises ValueError where `fits` says no, or `parts` is neither 2 nor 3.
    """
    if not fits(weight):
        raise ValueError(
            f"amx_conv2d: weight is {list(weight.shape)}; must be [K, C, k, k], K and C >= 1, k 1 or 3"
        )
    if parts not in (2, 3):
        raise ValueError(f"amx_conv2d: parts is {parts}; must be 2 or 3")
    filters, channels = weight.shape[:2]
    rest, found = (
        torch.nn.functional.pad(
            weight.detach(), (0, 0, 0, 0, 0, -channels % BLOCK, 0, -filters % BLOCK)
        ),
        [],
    )
    for _ in range(parts):
        found.append(rest.bfloat16())
        rest = rest - found[-1].to(rest.dtype)
    filters, channels = rest.shape[:2]
    blocks = torch.stack(found).reshape(
        parts, filters // BLOCK, 2, 16, channels // BLOCK, 16, 2, -1
    )
    return blocks.permute(1, 4, 7, 0, 2, 5, 3, 6).contiguous()


def amx_conv2d(
    maps: Tensor,
    filters: Tensor,
    count: int | None = None,
    *,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    inside: Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
    relu: bool = False,
) -> Tensor:
    """relu( conv( relu(maps * scale + shift), weight ) + bias + residual ), zero padding dilation * (k // 2).

    Numbers are taken as sums of bfloat16 parts: of the maps x0 + x1, 16 bits of significand, of the weight w0 + w1 (+ w2).
    x0 w0 + x0 w1 (+ x0 w2) + x1 w0 are added up in float32; each product is so off by less than 2^-15 of itself, a
    result by about 3e-6 of the largest one (float32's own roundings: 1e-7 to 2e-6).

    Args:
        maps: float32 [B, C, H, W], finite; channels_last saves a copy.
        filters: what `pack` makes of the weight [K, C, k, k].
        count: K; default: all that `filters` has room for, the next multiple of 32.
        scale: float32 [C], with `shift`: a batch-norm and a ReLU before the convolution; None for neither.
        shift: float32 [C].
        bias: float32 [K], or None.
        residual: float32 [B, K, H', W'], or None.
        inside: int64 [B, 2], the height and width of each image in its upper left corner: what is convolved is zero beyond
            it, behind `scale` and `shift`; None for the whole maps.
        stride: >= 1.
        dilation: >= 1.
        relu: whether a ReLU ends it.

    Returns:
        float32 [B, K, H', W'] in channels_last, H' = (H - 1) // stride + 1.

    Not differentiable. On devices without a native kernel torch's convolution serves, with the parts added up.
    Raises ValueError, naming the argument and what it got.
    Source: of the sums of parts, Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
    Higher-Precision Computations", ARITH 2019.
    """
    count = filters.shape[0] * BLOCK if count is None and filters.dim() == 8 else count
    _check(maps, filters, count, scale, shift, inside, stride, dilation)
    lines = maps.permute(0, 2, 3, 1)
    added = None if residual is None else residual.permute(0, 2, 3, 1)
    return call(
        _op, lines, filters, count, scale, shift, bias, added, inside, stride, dilation, relu
    ).permute(0, 3, 1, 2)


def _check(
    maps: Tensor,
    filters: Tensor,
    count: int,
    scale: Tensor | None,
    shift: Tensor | None,
    inside: Tensor | None,
    stride: int,
    dilation: int,
) -> None:
    op = "amx_conv2d"
    if maps.dim() != 4 or maps.dtype != torch.float32:
        raise ValueError(
            f"{op}: maps is {maps.dtype} {list(maps.shape)}; must be float32 [B, C, H, W]"
        )
    if filters.dim() != 8 or filters.dtype != torch.bfloat16:
        raise ValueError(
            f"{op}: filters is {filters.dtype} {list(filters.shape)}; must be what pack makes"
        )
    blocks, planes = filters.shape[:2]
    if planes != -(-maps.shape[1] // BLOCK):
        raise ValueError(
            f"{op}: maps is {list(maps.shape)} but filters are for {planes * BLOCK} channels"
        )
    if blocks != -(-count // BLOCK):
        raise ValueError(f"{op}: count is {count} but filters are {blocks} blocks of {BLOCK}")
    if (scale is None) != (shift is None):
        raise ValueError(
            f"{op}: scale and shift come together, got {'shift' if scale is None else 'scale'} only"
        )
    if inside is not None and (inside.dtype != torch.int64 or inside.shape != (maps.shape[0], 2)):
        raise ValueError(
            f"{op}: inside is {inside.dtype} {list(inside.shape)}; must be int64 [{maps.shape[0]}, 2]"
        )
    if stride < 1 or dilation < 1:
        raise ValueError(f"{op}: stride is {stride} and dilation {dilation}; must be >= 1")
