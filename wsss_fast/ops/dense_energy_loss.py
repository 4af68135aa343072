"""Dense energy loss: schema, fake, autograd, public function."""

import math
import warnings

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
from .bilateral import (
    BilateralLattice,
    ImageInputs,
    Sigmas,
    check_image,
    check_maps,
    image_and_lattice,
)
from .lattice import check_sigmas, pixel_keys_fit
from .reference.dense_energy_loss import (
    UNKNOWN,
    dense_energy_loss_grad,
    planes,
    reduced_grid,
    reduced_nearest,
)

GRADIENTS = ("public", "exact")
TOLERANCE = 1e-3  # of roi, and of the sum of probabilities
_OP = "dense_energy_loss"


def _reference(
    probabilities, image, roi, labels, lattice, sigmas, levels, step, weight, exact, needs_gradient
):
    on_host = not probabilities.is_cuda and probabilities.numel()  # a CUDA stream would stall
    if on_host and not 0 <= probabilities.amin() <= probabilities.amax() < torch.inf:
        raise ValueError(f"{_OP}: probabilities has values that are NaN, infinite or below 0")
    loss, gradient = dense_energy_loss_grad(
        image, probabilities, roi, labels, sigmas, step, weight, exact
    )
    return loss, gradient.contiguous() if needs_gradient else loss.new_empty(0)


def _fake(probabilities, *arguments):
    shape = probabilities.shape if arguments[-1] else (0,)
    return probabilities.new_empty(()), probabilities.new_empty(shape)


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
    image: Tensor | BilateralLattice,
    probabilities: Tensor,
    roi: Tensor,
    labels: Tensor | None,
    *,
    weight: float = 1e-7,
    sigma_rgb: Sigmas = 15.0,
    sigma_xy: Sigmas = 100.0,
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
    anything, loss and gradient are 0.

    Args:
        image: [B, C, H, W] uint8 or floating point levels, usually in 0..255, 1 <= C <= 14. Or the
            `BilateralLattice` of the reduced images, whose sxy is sigma_xy times scale_factor.
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
            that are NaN, infinite or below 0, such as logits; for roi outside 0..1; and for
            normalised images. On other devices and in compiled graphs levels are clamped to 0..255.

    Warns:
        UserWarning: on the CPU, if loss and gradient are 0, or all levels are within 0..1.

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
    refuse_gradient(_OP, roi=regions["roi"])
    inside = reduced_nearest(regions["roi"], size, step).to(torch.float32)
    inspect = can_inspect_values(probabilities) or check and has_data(probabilities)
    inspect = inspect and probabilities.numel() > 0
    if inspect:
        _check_range("roi", inside, 0, 1)
    inputs = _image_inputs(
        image, probabilities, (size, step), (sigma_xy, sigma_rgb, float(scale_factor)), inspect
    )
    if check and inspect:
        sums = probabilities.detach().to(torch.float32).sum(1)
        rounding = 4 * torch.finfo(probabilities.dtype).eps
        _check_range("the sum of probabilities", sums, 1, 1, max(TOLERANCE, rounding))
    loss = call(
        _op,
        probabilities.to(torch.float32),
        inputs.image,
        inside,
        _unknown(regions.get("labels"), size, step),
        inputs.lattice,
        inputs.sigmas,
        inputs.levels,
        step,
        float(weight),
        gradient == "exact",
        probabilities.requires_grad and torch.is_grad_enabled(),
    )[0]
    if inspect and weight and loss.item() == 0:
        cause = "no pixel of roi has a gate above 0" if inside.any() else "roi is 0 everywhere"
        text = f"{_OP}: {cause}; loss and gradient are 0"
        warnings.warn(text, UserWarning, stacklevel=2)
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
        if value.shape not in ((batch, height, width), (batch, 1, height, width)):
            wanted = f"must be [{batch}, {height}, {width}] or [{batch}, 1, {height}, {width}]"
            raise mismatch_error(_OP, wanted, probabilities=probabilities, **{name: value})
        found[name] = planes(value)
    return found


def _unknown(labels: Tensor | None, size: list[int], step: list[float]) -> Tensor | None:
    """The reduced labels as uint8, of which only `UNKNOWN` matters."""
    if labels is None:
        return None
    reduced = reduced_nearest(labels, size, step)
    return reduced if reduced.dtype == torch.uint8 else (reduced == UNKNOWN).byte() * UNKNOWN


def _image_inputs(
    image: Tensor | BilateralLattice,
    probabilities: Tensor,
    grid: tuple[list[int], list[float]],
    sigmas: tuple[Sigmas, Sigmas, float],
    inspect: bool,
) -> ImageInputs:
    """The reduced image, or the one of a lattice, with what the kernels need to know of it."""
    (size, step), (sigma_xy, sigma_rgb, scale_factor) = grid, sigmas
    pixels = [s * scale_factor for s in check_sigmas(f"{_OP}: sigma_xy", sigma_xy, 2)]
    if isinstance(image, BilateralLattice):
        names = ("sigma_xy times scale_factor", "sigma_rgb")
        inputs = image_and_lattice(_OP, image, pixels, sigma_rgb, names)
        batch, _, *own_size = inputs.image.shape
        if batch != len(probabilities) or own_size != size:
            wanted = f"a BilateralLattice must be of {len(probabilities)} images {size}"
            raise mismatch_error(_OP, wanted, image=inputs.image, probabilities=probabilities)
        check_device(_OP, "image", inputs.image, probabilities=probabilities)
        return inputs
    check_image(_OP, image)
    check_maps(_OP, image, probabilities=probabilities)
    refuse_gradient(_OP, image=image)
    channels = check_sigmas(f"{_OP}: sigma_rgb", sigma_rgb, image.shape[1])
    reduced = reduced_nearest(image, size, step).to(torch.float32)
    levels = [0.0, 255.0]
    if image.dtype != torch.uint8:
        if inspect:
            levels = _check_levels(reduced)
        else:  # the lattice can only name vertices of these levels
            reduced = reduced.clamp(0, 255)
    every = [*pixels, *channels]
    if not torch.compiler.is_compiling() and not pixel_keys_fit(size[0], size[1], every, levels):
        raise ValueError(
            f"{_OP}: sigma_xy is {sigma_xy!r} and sigma_rgb is {sigma_rgb!r}; "
            "too small for this image"
        )
    return ImageInputs(reduced, None, every, levels)


def _check_levels(image: Tensor) -> list[float]:
    """Bounds of the levels, with 0 among them, for the lattice."""
    low, high = (bound.item() for bound in image.aminmax())
    spans = f"{_OP}: image spans {low:g}..{high:g}"
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{spans}; must be finite")
    if low < -0.1 and high < 10:
        raise ValueError(f"{spans}; must be levels in 0..255, not normalised")
    if 0 <= low < high <= 1:
        warnings.warn(f"{spans}; levels are usually in 0..255", UserWarning, stacklevel=4)
    return [min(low, 0.0), max(high, 255.0)]


def _check_range(
    name: str, values: Tensor, lowest: float, highest: float, tolerance: float = TOLERANCE
) -> None:
    low, high = (bound.item() for bound in values.aminmax())
    if not (low >= lowest - tolerance and high <= highest + tolerance):
        wanted = f"{highest:g}" if lowest == highest else f"within {lowest:g}..{highest:g}"
        raise ValueError(f"{_OP}: {name} spans {low:g}..{high:g}; must be {wanted}")
