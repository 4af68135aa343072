"""Bilateral filter of maps over images: schemas, fakes, autograd, public functions."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._arguments import FLOATING, argument_error, check_device, is_dense, is_floating
from ._library import call, define, has_data, refuse_gradient
from .lattice import (
    MAX_DIMENSIONS,
    PermutohedralLattice,
    check_sigmas,
    pixel_features,
    pixel_keys_fit,
)
from .reference.bilateral import bilateral_filter as reference_filter

MAX_CHANNELS = MAX_DIMENSIONS - 2

Sigmas = float | Sequence[float]


def _reference_lattice(image, sigmas, levels):
    _check_levels("bilateral_lattice", image, levels)
    return image.new_empty(0, dtype=torch.int32)


def _fake_lattice(image, sigmas, levels):
    return image.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int32)


def _reference(values, image, lattice, sigmas, levels, transpose):
    _check_levels("bilateral_filter", image, levels)
    sigmas = {"sigma_xy": sigmas[:2], "sigma_rgb": sigmas[2:]}
    return reference_filter(image, values, **sigmas, transpose=transpose)


def _check_levels(op: str, image: Tensor, levels: list[float]) -> None:
    if image.numel() and not (image.amin() >= levels[0] and image.amax() <= levels[1]):
        raise ValueError(f"{op}: image has NaN or values outside its levels")


def _fake(values, *args):
    return torch.empty(values.shape, dtype=values.dtype, device=values.device)


def _setup_context(ctx, inputs, output):
    _, image, lattice, *ctx.parameters, ctx.transpose = inputs
    ctx.save_for_backward(image, lattice)


def _backward(ctx, grad):
    if ctx.needs_input_grad[1]:
        raise NotImplementedError(
            "bilateral_filter is differentiable in values only; pass image.detach()"
        )
    # The filter is linear in values, and its transpose blurs in the reverse order.
    gradient = _filter_op(grad, *ctx.saved_tensors, *ctx.parameters, not ctx.transpose)
    return gradient, *[None] * 5


_PARAMETERS = "float[] sigmas, float[] levels"
# image [B, C, h, w] float32 within `levels` (lowest, highest, 0 among them); sigmas [along x, along
# y, one for each channel] -> the lattices of all images as one int32 tensor, whose layout only the
# backend knows; empty if it stores none
_lattice_op = define(
    f"bilateral_lattice(Tensor image, {_PARAMETERS}) -> Tensor",
    reference=_reference_lattice,
    fake=_fake_lattice,
)

# values [B, K, h, w] float32 -> the same shape; `lattice` of this image, sigmas and levels, or None
# or empty: then it is built for this call
_filter_op = define(
    f"bilateral_filter(Tensor values, Tensor image, Tensor? lattice, {_PARAMETERS}, bool transpose)"
    " -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    once=False,
    setup_context=_setup_context,
)


class BilateralLattice:
    """The lattices of `bilateral_filter` for a batch of images, built once for several calls.

    `bilateral_filter`, `dense_energy_loss` and `dense_crf` accept it in place of their image; their
    standard deviations must then be its own.

    Args:
        image: [C, H, W] or [B, C, H, W] uint8 or floating point levels, finite; 1 <= C <= 14. A
            copy is kept, without gradient.
        sxy: standard deviation in pixels, or (along x, along y).
        srgb: standard deviation in levels, or one for each channel.

    Attributes:
        points: number of pixels of an image, which are numbered row by row.
        dimensions: 2 + C.
        vertices: number of vertices of all images; counted when it is first read.
        device: device of the image.

    Raises:
        ValueError: a wrong argument, with its name and value. Inside torch.compile, where values
            cannot be inspected, levels must be within 0..255.

    >>> lattice = BilateralLattice(torch.zeros(3, 1, 4), sxy=1000.0, srgb=5.0)
    >>> lattice.filter(torch.tensor([[[1.0, 0.0, 0.0, 3.0]]])).shape
    torch.Size([1, 1, 4])
    """

    def __init__(
        self, image: Tensor, sxy: float | tuple[float, float], srgb: float | tuple[float, ...]
    ):
        op = "BilateralLattice"
        levels = is_floating(image) or is_dense(image) and image.dtype == torch.uint8
        if not levels or image.dim() not in (3, 4) or not 1 <= image.shape[-3] <= MAX_CHANNELS:
            wanted = f"uint8, {FLOATING} [C, H, W] or [B, C, H, W], C in 1..{MAX_CHANNELS}"
            raise argument_error(op, "image", image, wanted)
        if image.device.type == "meta":
            raise ValueError(f"{op}: image is on meta; a lattice needs values")
        if holds_values(image) and not bool(image.isfinite().all()):
            raise ValueError(f"{op}: image has NaN or infinite values")
        refuse_gradient(op, image=image)
        self._is_batch = image.dim() == 4
        batch = image if self._is_batch else image.unsqueeze(0)
        inputs = _inspect(op, batch, sxy, srgb, ("sxy", "srgb"))
        # A copy: the image must not change while its lattice is in use.
        copy = batch.to(torch.float32, copy=True).contiguous()
        lattice = call(_lattice_op, copy, inputs.sigmas, inputs.levels)
        self._inputs = inputs._replace(image=copy, lattice=lattice)
        self._point_lattices: list[PermutohedralLattice] | None = None
        self.points = image.shape[-2] * image.shape[-1]
        self.dimensions = 2 + image.shape[-3]
        self.device = image.device

    @property
    def vertices(self) -> int:
        return sum(lattice.vertices for lattice in self._of_points())

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Filter `values` [c, H, W], or [B, c, H, W] of a batch; see `bilateral_filter`.

        `transpose` applies the transposed filter: its blur directions are in reverse order, which
        matters where vertices are missing.
        """
        op = "BilateralLattice"
        batch, _, height, width = self._inputs.image.shape
        shape = (batch, height, width) if self._is_batch else (height, width)
        given = is_floating(values, 4 if self._is_batch else 3)
        if not given or (*values.shape[:-3], *values.shape[-2:]) != shape:
            wanted = f"{FLOATING} [{f'{batch}, ' if self._is_batch else ''}c, {height}, {width}]"
            raise argument_error(op, "values", values, wanted)
        check_device(op, "image", self._inputs.image, values=values)
        if self._is_batch:
            return self._filter(values, bool(transpose))
        return self._filter(values.unsqueeze(0), bool(transpose)).squeeze(0)

    def _filter(self, values: Tensor, transpose: bool) -> Tensor:
        """`values` [B, c, H, W] -> the same."""
        if values.dtype == torch.float64:
            return _filter_columns(self._of_points(), values, transpose)
        return apply_filter(self._inputs, values, transpose)

    def _of_points(self) -> list[PermutohedralLattice]:
        if self._point_lattices is None:
            self._point_lattices = _point_lattices(self._inputs)
        return self._point_lattices


def bilateral_filter(
    image: Tensor | BilateralLattice,
    values: Tensor,
    *,
    sigma_rgb: Sigmas | None = None,
    sigma_xy: Sigmas | None = None,
) -> Tensor:
    """Filter maps over the pixels of images, by distance and by difference of colour.

        out_i = sum_j exp(-|p_i - p_j|^2 / 2 sxy^2 - |I_i - I_j|^2 / 2 srgb^2) v_j

    The sum includes j = i and is not normalised. A permutohedral lattice approximates it: values
    are spread over the vertices around their pixels, blurred with [1/2 1 1/2] along each of d + 1 =
    C + 3 directions, read at the pixels and divided by 1 + 2^-d. The blur only passes through
    vertices of simplices that hold a pixel, so results are smaller than the exact sum, about half
    of it on photos. To average, divide by the filtered ones. Where 4 does not divide H*W, the
    vertices around the origin (first pixel, colour 0) exist as well, as in the public module
    `bilateralfilter`, with which results agree. The filter is only nearly symmetric.

    Differentiable in `values`, any number of times, by the transposed filter; not in `image`.

    Args:
        image: [B, C, H, W] uint8 or floating point levels, finite, usually 0..255; 1 <= C <= 14. Or
            the `BilateralLattice` of such images.
        values: [B, K, H, W] floating point, on the device of the image.
        sigma_rgb: standard deviation in levels > 0, or one for each channel. With a
            `BilateralLattice` it may be left out, or must be the lattice's own; `sigma_xy` as well.
        sigma_xy: standard deviation in pixels > 0, or (along x, along y).

    Returns:
        [B, K, H, W]; float64 (and accumulated so) for float64 values, which takes several times as
        long, else float32.

    Raises:
        ValueError: a wrong argument, with its name and value. Inside torch.compile and CUDA graphs,
            where values cannot be inspected, levels must be within 0..255.

    Warns:
        UserWarning: all levels are within 0..1 though sigma_rgb is at least 1: they are probably
            meant to be 0..255. Not on images that cannot be inspected.

    Source: Tang, Perazzi, Djelouah, Ben Ayed, Schroers and Boykov, ECCV 2018, and its public code;
    lattice: Adams, Baek and Davis 2010.

    >>> image = torch.tensor([0.0, 0.0, 255.0, 255.0]).expand(1, 3, 1, 4)
    >>> values = torch.tensor([[[[1.0, 3.0, 5.0, 0.0]]]])
    >>> bilateral_filter(image, values, sigma_rgb=15.0, sigma_xy=100.0)
    tensor([[[[3.9226, 3.9004, 2.6535, 2.6439]]]])
    """
    op = "bilateral_filter"
    if not is_floating(values, 4):
        raise argument_error(op, "values", values, f"{FLOATING} [B, K, H, W]")
    inputs = image_and_lattice(op, image, sigma_xy, sigma_rgb)
    check_maps(op, inputs.image, values=values)
    if isinstance(image, BilateralLattice):
        return image._filter(values, False)
    refuse_gradient(op, image=image)
    if values.dtype == torch.float64:
        return _filter_columns(_point_lattices(inputs), values, False)
    if values.requires_grad and torch.is_grad_enabled():  # the backward pass uses the lattice again
        lattice = call(_lattice_op, inputs.image, inputs.sigmas, inputs.levels)
        inputs = inputs._replace(lattice=lattice)
    return apply_filter(inputs, values)


class ImageInputs(NamedTuple):
    """An image as the ops' schemas take it.

    Attributes:
        image: [B, C, H, W] float32.
        lattice: what `bilateral_lattice` returned for it, or None.
        sigmas: standard deviations along x, along y and of each channel.
        levels: bounds of the image's values.
    """

    image: Tensor
    lattice: Tensor | None
    sigmas: list[float]
    levels: list[float]


def image_and_lattice(
    op: str,
    image: Tensor | BilateralLattice,
    sxy: Sigmas | None,
    srgb: Sigmas | None,
    names: tuple[str, str] = ("sigma_xy", "sigma_rgb"),
) -> ImageInputs:
    """The image of an op that also takes a `BilateralLattice`, checked.

    Args:
        op: the op, for messages.
        image: [B, C, H, W], or a lattice.
        sxy: standard deviation in pixels; for a lattice None or the lattice's own.
        srgb: the same in levels.
        names: the op's names of `sxy` and `srgb`, for messages.

    Raises:
        ValueError: a wrong image or deviation.
    """
    if not isinstance(image, BilateralLattice):
        check_image(op, image)
        return _inspect(op, image, sxy, srgb, names)
    own = image._inputs
    channels = own.image.shape[1]
    given = [
        *check_sigmas(f"{op}: {names[0]}", own.sigmas[:2] if sxy is None else sxy, 2),
        *check_sigmas(f"{op}: {names[1]}", own.sigmas[2:] if srgb is None else srgb, channels),
    ]
    check_own_sigmas(op, own, given, names)
    return own


def apply_filter(inputs: ImageInputs, values: Tensor, transpose: bool = False) -> Tensor:
    """Filter `values` [B, K, H, W] of inputs from `image_and_lattice`, in float32."""
    return call(_filter_op, values.to(torch.float32), *inputs, transpose)


def check_own_sigmas(
    op: str, own: ImageInputs, sigmas: list[float], names: tuple[str, str]
) -> None:
    """Check that deviations (along x, along y, of each channel) are those of a lattice.

    Raises:
        ValueError: with the name of the wrong one.
    """
    for name, part in zip(names, (slice(2), slice(2, None)), strict=True):
        given, wanted = sigmas[part], own.sigmas[part]
        # The kernels compute in float32.
        if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, wanted, strict=True)):
            raise ValueError(
                f"{op}: {name} is {tuple(given)} but that of the BilateralLattice is "
                f"{tuple(wanted)}; they must be equal"
            )


def _inspect(
    op: str, image: Tensor, sxy: Sigmas | None, srgb: Sigmas | None, names: tuple[str, str]
) -> ImageInputs:
    """The inputs for an image [B, C, H, W] whose dtype and shape are right."""
    height, width = image.shape[-2:]
    deviations = check_sigmas(f"{op}: {names[0]}", sxy, 2)
    colours = check_sigmas(f"{op}: {names[1]}", srgb, image.shape[1])
    sigmas = [*deviations, *colours]
    levels = image_levels(op, image, min(colours))
    if not torch.compiler.is_compiling() and not pixel_keys_fit(height, width, sigmas, levels):
        raise ValueError(
            f"{op}: {names[0]} is {sxy!r} and {names[1]} is {srgb!r}; too small for this image"
        )
    return ImageInputs(image.to(torch.float32), None, sigmas, levels)


def check_image(op: str, image: object) -> None:
    """Raise ValueError unless `image` is [B, C, H, W] of levels."""
    if not is_dense(image) or image.dim() != 4:
        raise argument_error(op, "image", image, "[B, C, H, W]")
    if image.dtype != torch.uint8 and not is_floating(image):
        raise argument_error(op, "image", image, f"uint8, {FLOATING} levels")
    if not 1 <= image.shape[1] <= MAX_CHANNELS:
        raise ValueError(f"{op}: image is {list(image.shape)}; needs 1..{MAX_CHANNELS} channels")


def check_maps(op: str, image: Tensor, **maps: Tensor) -> None:
    """Raise ValueError unless maps [B, ..., H, W] have an image's batch, size and device."""
    for name, tensor in maps.items():
        given = f"{op}: image is {list(image.shape)} but {name} is {list(tensor.shape)}"
        if image.shape[0] != tensor.shape[0]:
            raise ValueError(f"{given}; B must match")
        if image.shape[-2:] != tensor.shape[-2:]:
            raise ValueError(f"{given}; H and W must match")
    check_device(op, "image", image, **maps)


def image_levels(op: str, image: Tensor, srgb: float | None = None) -> list[float]:
    """Bounds of the image's values, which decide the lattice's key layout.

    They include 0, the lattice's origin. With `srgb`, warns of levels that seem to be scaled down.

    Raises:
        ValueError: values that are not finite.
    """
    if image.dtype == torch.uint8 or not image.numel() or not holds_values(image):
        return [0.0, 255.0]
    low, high = (v.item() for v in image.detach().to(torch.float32).aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{op}: image spans {low:g}..{high:g}; must be finite")
    if srgb is not None and srgb >= 1.0 and 0.0 <= low < high <= 1.0:
        warnings.warn(
            f"{op}: image spans {low:g}..{high:g}, where a deviation of {srgb:g} levels has no "
            "effect; levels are usually 0..255",
            stacklevel=5,
        )
    return [0.0, 255.0] if low >= 0.0 and high <= 255.0 else [min(low, 0.0), max(high, 0.0)]


def holds_values(tensor: Tensor) -> bool:
    """Whether values can be inspected, which waits for a GPU."""
    capturing = tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return has_data(tensor) and not capturing


def _point_lattices(inputs: ImageInputs) -> list[PermutohedralLattice]:
    """The lattice of each image for `lattice_filter`, which computes in float64."""
    height, width = inputs.image.shape[-2:]
    sxy, srgb = tuple(inputs.sigmas[:2]), tuple(inputs.sigmas[2:])
    return [
        PermutohedralLattice(pixel_features(height, width, sxy, image, srgb))
        for image in inputs.image
    ]


def _filter_columns(
    lattices: list[PermutohedralLattice], values: Tensor, transpose: bool
) -> Tensor:
    """Filter `values` [B, c, H, W] image by image."""
    if not lattices:
        return torch.zeros_like(values)
    filtered = [
        lattice.filter(maps.flatten(1).t(), transpose=transpose).t().reshape(maps.shape)
        for lattice, maps in zip(lattices, values, strict=True)
    ]
    return torch.stack(filtered)
