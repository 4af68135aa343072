"""PAR and PAMR, local refinement of masks by colour: schema, fake, autograd, public function."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    FLOATING_DTYPES,
    argument_error,
    check_device,
    is_dense,
    is_floating,
    is_integer,
    mismatch_error,
)
from ._library import call, can_inspect_values, define, refuse_gradient
from .reference.pixel_adaptive_refine import pixel_adaptive_refine as reference_refine
from .reference.pixel_adaptive_refine import pixel_adaptive_refine_grad as reference_grad

KINDS = ("par", "pamr")
DILATIONS = (1, 2, 4, 8, 12, 24)
MAX_ITERATIONS = 1_000_000
MAX_DILATION = 1_000_000  # the same as in csrc/math/pixel_adaptive_refine.h

_PARAMETERS = "int[] dilations, int iterations, bool pamr"


def _options(dilations, iterations, pamr):
    return {"dilations": tuple(dilations), "iterations": iterations, "kind": KINDS[pamr]}


def _reference(masks, image, *parameters):
    if not masks.numel():
        return masks.new_empty(masks.shape)
    out = reference_refine(image, masks, **_options(*parameters)).contiguous()
    return out.clone() if out.data_ptr() == masks.data_ptr() else out  # without iterations


def _reference_backward(grad, image, *parameters):
    if not grad.numel():
        return grad.new_empty(grad.shape)
    out = reference_grad(grad, image, **_options(*parameters)).contiguous()
    return out.clone() if out.data_ptr() == grad.data_ptr() else out


def _fake(masks, image, dilations, iterations, pamr):
    return masks.new_empty(masks.shape)


# grad [B, K, H, W] float32, image [B, C, H, W] float32 -> [B, K, H, W]
_backward_op = define(
    f"pixel_adaptive_refine_backward(Tensor grad, Tensor image, {_PARAMETERS}) -> Tensor",
    reference=_reference_backward,
    fake=_fake,
)


def _setup_context(ctx, inputs, output):
    _, image, *ctx.parameters = inputs
    ctx.save_for_backward(image)


def _backward(ctx, grad):
    if ctx.needs_input_grad[1]:
        raise NotImplementedError(
            "pixel_adaptive_refine is differentiable in masks only; pass image.detach()"
        )
    (image,) = ctx.saved_tensors
    return call(_backward_op, grad, image, *ctx.parameters), *[None] * 4


# masks [B, K, H, W] float32, image [B, C, H, W] float32 -> [B, K, H, W]
_op = define(
    f"pixel_adaptive_refine(Tensor masks, Tensor image, {_PARAMETERS}) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def pixel_adaptive_refine(
    image: Tensor,
    masks: Tensor,
    *,
    dilations: Sequence[int] = DILATIONS,
    iterations: int = 10,
    kind: str = "par",
) -> Tensor:
    """Refine masks by repeated averages over neighbours of similar colour.

    A pixel has 8 neighbours n for each dilation d, at distances d and d sqrt(2); outside of the
    image the border is repeated. In each iteration

        masks <- sum_n w_n masks_n

    kind "par", with the standard deviations s_c of a channel and s of the distance over all n:

        w = softmax_n(-mean_c (|I_n - I| / s_c / 0.3)^2) + 0.01 softmax_n(-(distance / s / 0.3)^2)

    kind "pamr", with s_c also over the pixel itself, counted once per dilation:

        w = softmax_n(-mean_c |I_n - I| / (0.1 s_c))

    PAR's weights sum to 1.01, so each iteration enlarges masks by 1 %; PAMR's sum to 1. Neither
    depends on the scale or the offset of an image's channels.

    Differentiable in masks, once. An image that requires a gradient is an error. The CPU kernel
    gives the same bits for any number of threads.

    Args:
        image: [B, C, H, W] uint8 or floating point of any range, C, H and W >= 1, finite.
        masks: [B, K, h, w] floating point of any range; resized to H x W bilinearly with
            align_corners True. A NaN spreads to the pixels around it.
        dilations: distances of the neighbours in pixels, at least one, each in 1..1,000,000.
        iterations: number of iterations, 0..1,000,000; 0 only resizes.
        kind: "par" or "pamr".

    Returns:
        [B, K, H, W] float32.

    Raises:
        ValueError: a wrong argument, with its name and value. NaN and infinity in image are only
            found on the CPU, outside of compiled graphs; elsewhere they make the pixels around
            them NaN.

    Source: PAR (Ru, Zhan, Yu and Du, CVPR 2022) and PAMR (Araslanov and Roth, CVPR 2020), and
    their public code.

    >>> image = torch.tensor([[[[0.0, 1.0, 0.0, 9.0, 8.0, 9.0]]]])
    >>> masks = torch.tensor([[[[1.0, 0.5, 0.6, 0.4, 0.0, 0.5]]]])
    >>> pixel_adaptive_refine(image, masks, dilations=[1, 2], iterations=5)
    tensor([[[[0.8716, 0.8607, 0.8612, 0.4315, 0.4267, 0.4405]]]])
    """
    _check(image, masks, dilations, iterations, kind)
    size = image.shape[2:]
    masks = masks.to(torch.float32)
    if masks.shape[2:] != size:
        masks = _resized(masks, size)
    return call(_op, masks, image.to(torch.float32), list(dilations), iterations, kind == "pamr")


def _resized(masks: Tensor, size: torch.Size) -> Tensor:
    if not masks.numel():  # torch refuses to resize no channels
        return masks.sum((2, 3), keepdim=True).expand(-1, -1, *size)
    return torch.nn.functional.interpolate(masks, size, mode="bilinear", align_corners=True)


def _check(
    image: Tensor, masks: Tensor, dilations: Sequence[int], iterations: int, kind: str
) -> None:
    op = "pixel_adaptive_refine"
    known = is_dense(image) and image.dtype in (torch.uint8, *FLOATING_DTYPES)
    if not known or image.dim() != 4 or 0 in image.shape[1:]:
        wanted = f"uint8, {FLOATING} [B, C, H, W] with C, H and W >= 1"
        raise argument_error(op, "image", image, wanted)
    if not is_floating(masks, 4) or 0 in masks.shape[2:]:
        wanted = f"{FLOATING} [B, K, h, w] with h and w >= 1"
        raise argument_error(op, "masks", masks, wanted)
    if masks.shape[0] != image.shape[0]:
        raise mismatch_error(op, "B must match", image=image, masks=masks)
    check_device(op, "image", image, masks=masks)
    refuse_gradient(op, image=image)
    _check_dilations(dilations)
    if not is_integer(iterations) or not 0 <= iterations <= MAX_ITERATIONS:
        wanted = f"an integer >= 0, at most {MAX_ITERATIONS}"
        raise argument_error(op, "iterations", iterations, wanted)
    if kind not in KINDS:
        raise argument_error(op, "kind", kind, f"one of {KINDS}")
    if image.dtype == torch.uint8 or not image.numel() or not can_inspect_values(image):
        return
    low, high = (v.item() for v in image.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{op}: image spans {low:g}..{high:g}; must be finite")


def _check_dilations(dilations: Sequence[int]) -> None:
    op, wanted = "pixel_adaptive_refine", f"a sequence of integers in 1..{MAX_DILATION}"
    if not isinstance(dilations, Sequence) or isinstance(dilations, str) or not len(dilations):
        raise argument_error(op, "dilations", dilations, wanted)
    for dilation in dilations:
        if not is_integer(dilation) or not 1 <= dilation <= MAX_DILATION:
            raise argument_error(op, "dilations", dilations, wanted)
