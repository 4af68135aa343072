"""A float32 convolution for inference from products of bfloat16 parts, for CPUs with AMX tiles."""

import torch
from torch import Tensor

from wsss_fast import _native

from ._arguments import argument_error, check_device, describe, is_dense, is_integer
from ._library import call, define, has_native_kernel
from .reference.amx_conv2d import amx_conv2d as reference_conv2d

BLOCK = 32  # channels and filters are processed in blocks of this size, padded with zeros
MAX_DILATION = 1024  # the kernel pads its copy of the maps by as many cells


def _reference(maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu):
    out = reference_conv2d(
        maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu
    )
    return out.contiguous()


def _fake(maps, filters, count, scale, shift, bias, residual, inside, stride, dilation, relu):
    batch, height, width, _ = maps.shape
    return maps.new_empty(
        batch, (height + stride - 1) // stride, (width + stride - 1) // stride, count
    )


# maps [B, H, W, C], filters as `pack` returns them, scale and shift [C], bias [K],
# residual and result [B, H', W', K], inside [B, 2]
_op = define(
    "amx_conv2d(Tensor maps, Tensor filters, int count, Tensor? scale, Tensor? shift, "
    "Tensor? bias, Tensor? residual, Tensor? inside, int stride, int dilation, bool relu) "
    "-> Tensor",
    reference=_reference,
    fake=_fake,
)


def is_profitable() -> bool:
    """Whether this CPU has AMX tiles and a kernel uses them; elsewhere torch's conv2d is faster."""
    if not torch.cpu._is_amx_tile_supported():
        return False
    return _native.load() and has_native_kernel("amx_conv2d", torch.device("cpu"))


def is_supported(weight: Tensor) -> bool:
    """Whether the op computes convolutions with a weight of this shape, [K, C, k, k]."""
    return (
        weight.dim() == 4 and weight.shape[:2].numel() > 0 and weight.shape[2:] in ((1, 1), (3, 3))
    )


def pack(weight: Tensor, parts: int = 2) -> Tensor:
    """Split a weight into bfloat16 parts, in the order in which the kernel reads them.

    Each part is the rounded remainder of the parts before: two hold 16 bits of a float32's
    significand, three all of it.

    Args:
        weight: [K, C, k, k] float32 or float64, K and C >= 1, k 1 or 3.
        parts: 2 or 3.

    Returns:
        bfloat16 [ceil(K / 32), ceil(C / 32), k * k, parts, 2, 16, 16, 2], zero beyond the last
        filter and channel: filter = ((block, half), column), channel = ((block, pair), i).

    Raises:
        ValueError: another shape, dtype or number of parts.
    """
    if (
        not is_dense(weight)
        or weight.dtype not in (torch.float32, torch.float64)
        or not is_supported(weight)
    ):
        wanted = "float32 or float64 [K, C, k, k], K and C >= 1, k 1 or 3"
        raise argument_error("amx_conv2d", "weight", weight, wanted)
    if parts not in (2, 3):
        raise argument_error("amx_conv2d", "parts", parts, "2 or 3")
    filters, channels = weight.shape[:2]
    rest = torch.nn.functional.pad(
        weight.detach(), (0, 0, 0, 0, 0, -channels % BLOCK, 0, -filters % BLOCK)
    )
    found = []
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
    """relu(conv(relu(maps * scale + shift), weight) + bias + residual).

    The convolution is padded by dilation * (k // 2) zeros on each side.

    Numbers are approximated by sums of bfloat16 parts: the maps by x0 + x1, 16 bits of
    significand, the weight by w0 + w1 (+ w2). x0 w0 + x0 w1 (+ x0 w2) + x1 w0 are added up in
    float32. The relative error of a product is below 2^-15, the error of a result about 3e-6 of the
    largest one (float32's own rounding: 1e-7 to 2e-6).

    Not differentiable. Devices without a native kernel use torch's convolution with the sum of the
    parts.

    Args:
        maps: float32 [B, C, H, W], finite; channels_last saves a copy.
        filters: the weight [K, C, k, k] as returned by `pack`.
        count: K; default: as many as `filters` has room for, the next multiple of 32.
        scale: float32 [C], contiguous; with `shift`, a batch-norm and a ReLU before the
            convolution. None for neither.
        shift: float32 [C], contiguous.
        bias: float32 [K], contiguous, or None.
        residual: float32 [B, K, H', W'], or None.
        inside: int64 [B, 2], contiguous: height and width of each image, which lies in the upper
            left corner of its map. The convolution's input, after `scale` and `shift`, is zero
            outside of it. None: the images fill their maps.
        stride: step of the convolution in cells, >= 1.
        dilation: distance between taps in cells, 1..1024.
        relu: apply a ReLU to the result.

    Returns:
        float32 [B, K, H', W'] in channels_last, H' = (H - 1) // stride + 1.

    Raises:
        ValueError: a wrong shape, dtype, device or number, with the argument's name and value.

    Source: the sums of parts are those of Henry, Tang and Heinecke, "Leveraging the bfloat16
    Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019.
    """
    _check_maps(maps, filters)
    count = filters.shape[0] * BLOCK if count is None else count
    _check_sizes(maps, filters, count, stride, dilation)
    _check_vectors(maps, count, scale, shift, bias, inside)
    shape = (maps.shape[0], count, *((side - 1) // stride + 1 for side in maps.shape[2:]))
    if residual is not None and not (
        is_dense(residual) and residual.dtype == torch.float32 and residual.shape == shape
    ):
        raise argument_error("amx_conv2d", "residual", residual, f"float32 {list(shape)}")
    check_device(
        "amx_conv2d",
        "maps",
        maps,
        filters=filters,
        scale=scale,
        shift=shift,
        bias=bias,
        residual=residual,
        inside=inside,
    )
    rows = maps.permute(0, 2, 3, 1)
    added = None if residual is None else residual.permute(0, 2, 3, 1)
    return call(
        _op, rows, filters, count, scale, shift, bias, added, inside, stride, dilation, bool(relu)
    ).permute(0, 3, 1, 2)


def _check_maps(maps: Tensor, filters: Tensor) -> None:
    op = "amx_conv2d"
    if not is_dense(maps) or maps.dim() != 4 or maps.dtype != torch.float32:
        raise argument_error(op, "maps", maps, "float32 [B, C, H, W]")
    if (
        not is_dense(filters)
        or filters.dtype != torch.bfloat16
        or filters.dim() != 8
        or filters.shape[2] not in (1, 9)
        or filters.shape[3] not in (2, 3)
        or filters.shape[4:] != (2, 16, 16, 2)
        or 0 in filters.shape
        or not filters.is_contiguous()
    ):
        raise argument_error(op, "filters", filters, "as returned by pack")


def _check_sizes(maps: Tensor, filters: Tensor, count: int, stride: int, dilation: int) -> None:
    op = "amx_conv2d"
    blocks, planes = filters.shape[:2]
    if planes != -(-maps.shape[1] // BLOCK):
        raise ValueError(
            f"{op}: maps is {list(maps.shape)} but filters are for {planes * BLOCK} channels"
        )
    if not is_integer(count) or count < 1 or blocks != -(-count // BLOCK):
        raise ValueError(
            f"{op}: count is {describe(count)} but filters are {blocks} blocks of {BLOCK}"
        )
    if not is_integer(stride) or stride < 1:
        raise argument_error(op, "stride", stride, "an integer >= 1")
    if not is_integer(dilation) or not 1 <= dilation <= MAX_DILATION:
        raise argument_error(op, "dilation", dilation, f"an integer in 1..{MAX_DILATION}")


def _check_vectors(
    maps: Tensor,
    count: int,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
    inside: Tensor | None,
) -> None:
    op = "amx_conv2d"
    if (scale is None) != (shift is None):
        given = "shift" if scale is None else "scale"
        raise ValueError(f"{op}: scale and shift must be given together, got only {given}")
    for name, tensor, dtype, shape in (
        ("scale", scale, torch.float32, (maps.shape[1],)),
        ("shift", shift, torch.float32, (maps.shape[1],)),
        ("bias", bias, torch.float32, (count,)),
        ("inside", inside, torch.int64, (maps.shape[0], 2)),
    ):
        if tensor is not None and not (
            is_dense(tensor)
            and tensor.dtype == dtype
            and tensor.shape == shape
            and tensor.is_contiguous()
        ):
            kind = str(dtype).removeprefix("torch.")
            raise argument_error(op, name, tensor, f"contiguous {kind} {list(shape)}")
