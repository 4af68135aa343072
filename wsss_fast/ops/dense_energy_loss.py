"""Dense energy loss: schema, fake, autograd, public function."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    argument_error,
    check_device,
    is_dense,
    is_floating,
    is_number,
    mismatch_error,
)
from ._library import call, can_inspect_values, define_loss, has_data, refuse_gradient
from .lattice import MAX_DIMENSIONS, check_sigmas
from .reference.dense_energy_loss import (
    UNKNOWN,
    dense_energy_loss_grad,
    planes,
    reduced_grid,
    reduced_nearest,
)

GRADIENTS = ("public", "exact")
TOLERANCE = 1e-3  # of probabilities: below 0, and of their sum
_OP = "dense_energy_loss"


def _reference(
    probabilities, image, roi, labels, lattice, sigmas, levels, step, weight, exact, needs_gradient
):
    if not probabilities.is_cuda and probabilities.numel():  # else a CUDA stream would stall
        low = probabilities.amin().item()
        if not low >= -TOLERANCE:
            raise ValueError(f"{_OP}: probabilities has NaN or values below 0; {_LOGITS}")
    loss, gradient = dense_energy_loss_grad(
        image, probabilities, roi, labels, sigmas, step, weight, exact
    )
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    if not needs_gradient:
        return loss.to(dtype), loss.new_empty(0, dtype=dtype)
    return loss.to(dtype), gradient.to(dtype).contiguous()


_LOGITS = "for logits, pass logits.softmax(1)"


def _fake(probabilities, *arguments):
    dtype = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    options = {"dtype": dtype, "device": probabilities.device}
    shape = probabilities.shape if arguments[-1] else (0,)
    return torch.empty((), **options), torch.empty(shape, **options)


# probabilities [B, K, H, W] float32; reduced already: image [B, C, h, w] and roi [B, h, w] float32,
# labels [B, h, w] uint8, lattice of the image, or None; sigmas [along x, along y, one for each
# channel] at the reduced size; levels (lowest, highest) of the image; step [along y, along x]:
# pixels of H, W between two of h, w -> loss [], d loss / d probabilities [B, K, H, W], empty unless
# needs_gradient
_op = define_loss(
    "dense_energy_loss(Tensor probabilities, Tensor image, Tensor roi, Tensor? labels, "
    "Tensor? lattice, float[] sigmas, float[] levels, float[] step, float weight, bool exact, "
    "bool needs_gradient) -> (Tensor loss, Tensor gradient)",
    reference=_reference,
    fake=_fake,
)


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
    check: bool = False,
) -> Tensor:
    """Dense CRF energy of class probabilities, weighted by how uncertain each pixel is.

    At H and W times scale_factor, rounded down, with p the reduced probabilities, S = roi p, and A
    the bilateral filter (`bilateral_filter`) of the reduced image:

        T = gate A(S),  loss = -weight / B  sum over images, classes, pixels of S T
        gate = max(0, roi - max_k p_k), but 1 where labels is 255, and everywhere without labels

    The loss is negative: it is lowest where similar pixels have equal classes. A is not normalised,
    so it grows with the image. Images, roi and labels are reduced by nearest with indices rounded
    down, probabilities bilinearly (align_corners False).

    Differentiable in probabilities, once; the gate counts as a constant. gradient "public" is that
    of public implementations, -2 weight / B roi T, which takes gate A for a symmetric matrix.
    "exact" is the derivative, -weight / B roi (T + A'(gate S)), with the transposed filter A'. On
    photos the two differ by 16 to 46 % (norm); without a gate by less than 0.1 %.

    An image whose roi is 0 adds nothing to the loss, but counts in B. If no pixel of a batch adds
    anything, the loss and its gradient are 0; on the CPU that is a UserWarning.

    Args:
        image: [B, C, H, W] uint8 or floating point levels in 0..255, 1 <= C <= 14.
        probabilities: [B, K, H, W] floating point >= 0, such as logits.softmax(1).
        roi: [B, H, W] or [B, 1, H, W] in 0..1: 1 for pixels of the image, 0 for padding.
        labels: [B, H, W] or [B, 1, H, W] pseudo labels of any dtype, 255 for pixels without one; or
            None.
        weight: factor of the loss, finite.
        sigma_rgb: standard deviation in levels > 0, or one for each channel.
        sigma_xy: standard deviation in pixels of H and W > 0, or (along x, along y).
        scale_factor: in (0, 1].
        gradient: "public" or "exact".
        recompute_scale_factor: where H or W times scale_factor is no integer, whether the reduced
            pixels cover the whole image (ToCo, SeCo) or lie 1 / scale_factor pixels apart (AFA,
            RRM), as in torch.nn.functional.interpolate.
        check: whether to inspect all values on any device, which a GPU has to be waited for:
            roi and levels as on the CPU, and that probabilities sum to 1.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: a wrong argument, with its name and value. On the CPU also for probabilities
            that are NaN or below 0, such as logits; for roi outside 0..1; and for normalised
            images. A UserWarning is for images that seem to be in 0..1.

    Source: Tang, Perazzi, Djelouah, Ben Ayed, Schroers and Boykov, ECCV 2018 (without a gate);
    gate: Zhang, Xiao, Wei, Sun and Huang, AAAI 2020 (RRM), and the public code of AFA and ToCo.

    >>> image = torch.tensor([[[[0, 0, 200, 200]]]]).byte()  # two dark pixels, two bright ones
    >>> inside = torch.ones(1, 1, 4)
    >>> for line in [0, 0, 1, 1], [0, 1, 1, 0], [0.5] * 4:  # of the first of two classes
    ...     first = torch.tensor([[line]]).float()
    ...     both = torch.stack([first, 1 - first], 1)
    ...     dense_energy_loss(image, both, inside, None, weight=1.0, scale_factor=1.0)
    tensor(-6.3670)
    tensor(-3.1836)
    tensor(-3.1835)
    """
    size, step = _grid(probabilities, scale_factor, recompute_scale_factor)
    regions = _check_maps(probabilities, roi=roi, labels=labels)
    if not is_number(weight):
        raise argument_error(_OP, "weight", weight, "a finite number")
    if gradient not in GRADIENTS:
        raise argument_error(_OP, "gradient", gradient, f"one of {GRADIENTS}")
    levels_of, sigmas = _check_image(image, probabilities, sigma_rgb, sigma_xy, scale_factor)
    refuse_gradient(_OP, image=image, roi=roi)
    inside = reduced_nearest(regions["roi"], size, step).to(torch.float32)
    known = regions.get("labels")
    if known is not None:
        known = reduced_nearest(known, size, step)
        if known.dtype != torch.uint8:
            known = (known == UNKNOWN).to(torch.uint8) * UNKNOWN
    reduced = reduced_nearest(levels_of, size, step).to(torch.float32)
    inspect = can_inspect_values(probabilities) or check and has_data(probabilities)
    levels = [0.0, 255.0]
    if inspect and probabilities.numel():
        levels = _check_values(reduced, inside, image.dtype == torch.uint8)
        if check:
            _check_sums(probabilities)
    loss = call(
        _op,
        probabilities if probabilities.dtype == torch.float32 else probabilities.to(torch.float32),
        reduced,
        inside,
        known,
        None,
        sigmas,
        levels,
        step,
        float(weight),
        gradient == "exact",
        probabilities.requires_grad and torch.is_grad_enabled(),
    )[0]
    if inspect and weight and probabilities.numel() and loss.item() == 0:
        _warn_of_zero(inside)
    return loss


def _grid(
    probabilities: Tensor, scale_factor: float, recompute: bool
) -> tuple[list[int], list[float]]:
    if not is_floating(probabilities, 4) or 0 in probabilities.shape[1:]:
        wanted = f"{FLOATING} [B, K, H, W] with K, H and W >= 1"
        raise argument_error(_OP, "probabilities", probabilities, wanted)
    if not is_number(scale_factor) or not 0 < scale_factor <= 1:
        raise argument_error(_OP, "scale_factor", scale_factor, "a number in (0, 1]")
    size, step = reduced_grid(probabilities.shape[2:], float(scale_factor), bool(recompute))
    if 0 in size:
        raise ValueError(
            f"{_OP}: scale_factor is {scale_factor!r}, which reduces probabilities "
            f"{list(probabilities.shape)} to no pixel"
        )
    return size, step


def _check_maps(probabilities: Tensor, **maps: Tensor | None) -> dict[str, Tensor]:
    """The maps that are given, as [B, H, W]."""
    batch, _, height, width = probabilities.shape
    found = {}
    for name, value in maps.items():
        if name == "labels" and value is None:
            continue
        if not is_dense(value) or value.dim() not in (3, 4) or value.is_complex():
            wanted = "real numbers [B, H, W] or [B, 1, H, W]" + " or None" * (name == "labels")
            raise argument_error(_OP, name, value, wanted)
        check_device(_OP, "probabilities", probabilities, **{name: value})
        if (
            value.dim() == 4
            and value.shape[1] != 1
            or (value.shape[0] != batch or value.shape[-2:] != (height, width))
        ):
            wanted = f"must be [{batch}, {height}, {width}] or [{batch}, 1, {height}, {width}]"
            raise mismatch_error(_OP, wanted, probabilities=probabilities, **{name: value})
        found[name] = planes(value)
    return found


def _check_image(
    image: Tensor, probabilities: Tensor, sigma_rgb: Any, sigma_xy: Any, scale_factor: float
) -> tuple[Tensor, list[float]]:
    levels = is_floating(image) or is_dense(image) and image.dtype == torch.uint8
    if not levels or image.dim() != 4 or not 1 <= image.shape[1] <= MAX_DIMENSIONS - 2:
        wanted = f"uint8, {FLOATING} [B, C, H, W], C in 1..{MAX_DIMENSIONS - 2}"
        raise argument_error(_OP, "image", image, wanted)
    check_device(_OP, "probabilities", probabilities, image=image)
    if image.shape[0] != probabilities.shape[0] or image.shape[2:] != probabilities.shape[2:]:
        wanted = "B, H and W must match"
        raise mismatch_error(_OP, wanted, image=image, probabilities=probabilities)
    pixels = check_sigmas(f"{_OP}: sigma_xy", sigma_xy, 2)
    channels = check_sigmas(f"{_OP}: sigma_rgb", sigma_rgb, image.shape[1])
    return image, [*(sigma * float(scale_factor) for sigma in pixels), *channels]


def _check_values(image: Tensor, roi: Tensor, are_bytes: bool) -> list[float]:
    """Bounds of the image's levels, for the lattice; ValueError for values out of range."""
    low, high = (bound.item() for bound in roi.aminmax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{_OP}: roi spans {low:g}..{high:g}; must be within 0..1")
    if are_bytes:
        return [0.0, 255.0]
    low, high = (bound.item() for bound in image.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{_OP}: image spans {low:g}..{high:g}; must be finite")
    if low < -0.1 and high < 10:
        raise ValueError(
            f"{_OP}: image spans {low:g}..{high:g}; must be levels in 0..255, not normalised"
        )
    if low < high <= 1:
        text = f"{_OP}: image is within 0..1; levels are in 0..255"
        warnings.warn(text, UserWarning, stacklevel=3)
    return [min(low, 0.0), max(high, 255.0)]


def _check_sums(probabilities: Tensor) -> None:
    sums = probabilities.detach().to(torch.float32).sum(1)
    low, high = (bound.item() for bound in sums.aminmax())
    if not (low >= 1 - TOLERANCE and high <= 1 + TOLERANCE):
        raise ValueError(f"{_OP}: probabilities sum to {low:g}..{high:g}; {_LOGITS}")


def _warn_of_zero(roi: Tensor) -> None:
    cause = "no pixel of roi has a gate above 0" if roi.any() else "roi is 0 everywhere"
    warnings.warn(f"{_OP}: {cause}; loss and gradient are 0", UserWarning, stacklevel=3)
