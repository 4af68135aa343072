"""Fully connected CRF: schema, fake, gradient, autograd, public function."""

import math

import torch
from torch import Tensor

from ._arguments import (
    FLOATING,
    argument_error,
    describe,
    is_floating,
    is_integer,
    is_number,
)
from ._library import call, define
from .bilateral import (
    BilateralLattice,
    check_image,
    check_maps,
    check_own_sigmas,
    holds_values,
    image_and_lattice,
    image_levels,
)
from .lattice import PermutohedralLattice, check_sigmas, pixel_features, pixel_keys_fit
from .reference.dense_crf import dense_crf as reference_crf

MAX_LABELS = 256
MAX_ITERATIONS = 100_000
PRECISIONS = ("float32", "float16")
_BAD_UNARY = "dense_crf: unary has NaN or infinite values"


def _reference(
    image, unary, gaussian, bilateral, levels, iterations, half_precision=False, lattice=None
):
    _check_finite(unary)
    if (
        bilateral
        and image.numel()
        and not (image.amin() >= levels[0] and image.amax() <= levels[1])
    ):
        raise ValueError("dense_crf: image has NaN or values outside its levels")
    spatial = appearance = None
    if gaussian:
        spatial = tuple(gaussian[:2]), gaussian[-1]
    if bilateral:
        appearance = tuple(bilateral[:2]), tuple(bilateral[2:-1]), bilateral[-1]
    q = reference_crf(image, unary, gaussian=spatial, bilateral=appearance, iterations=iterations)
    return q.to(unary.dtype)


def _fake(image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


def _fake_backward(grad, image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


class _Term:
    """q [N, c] -> weight * n * K (n * q), n = (K 1)^(-1/2), in the dtype of `like`."""

    def __init__(self, features: Tensor, weight: float, like: Tensor):
        self.lattice = PermutohedralLattice(features)
        self.weight = weight
        ones = like.new_ones(features.shape[0], 1)
        self.norm = (self.lattice.filter(ones) + 1e-20).rsqrt()  # [N, 1]

    def __call__(self, q: Tensor, transpose: bool) -> Tensor:
        return self.weight * self.norm * self.lattice.filter(self.norm * q, transpose=transpose)


def mean_field_gradient(
    grad: Tensor,
    image: Tensor,
    unary: Tensor,
    gaussian: list[float],
    bilateral: list[float],
    levels: list[float],
    iterations: int,
) -> Tensor:
    """d(sum(grad * Q)) / d unary for the Q of `dense_crf`; the arguments are its schema's.

    With Q_t = softmax(Z_t), Z_0 = -U and Z_t = -U + A Q_(t-1), where A = sum_m w_m n_m K_m n_m, the
    reverse recursion is

        g_T = grad,  h_t = Q_t (g_t - sum_L g_t Q_t),  g_(t-1) = A^T h_t,  dU = -(h_0 + ... + h_T)

    A^T filters with the transposed lattices. The forward pass stores nothing for this: image by
    image, all Q_t are computed again and kept while that image is processed, iterations + 1 times
    the size of its unaries.
    """
    batch, sets, labels, height, width = unary.shape
    out = torch.empty_like(unary, memory_format=torch.contiguous_format)
    if not unary.numel():
        return out
    spatial = []
    if gaussian:
        positions = image.new_empty(0, height, width)
        features = pixel_features(height, width, tuple(gaussian[:2]), positions, ())
        spatial = [_Term(features, gaussian[-1], unary)]
    for b in range(batch):
        terms = list(spatial)
        if bilateral:
            features = pixel_features(
                height, width, tuple(bilateral[:2]), image[b], tuple(bilateral[2:-1])
            )
            terms.append(_Term(features, bilateral[-1], unary))

        def message(q, transpose=False, terms=terms):
            if not terms:
                return torch.zeros_like(q)
            columns = q.reshape(height * width, sets * labels)
            return sum(term(columns, transpose) for term in terms).reshape(q.shape)

        energies = _pixels_first(unary[b])  # [N, S, L]
        steps = [torch.softmax(-energies, -1)]
        for _ in range(iterations):
            steps.append(torch.softmax(message(steps[-1]) - energies, -1))
        g = _pixels_first(grad[b])
        total = torch.zeros_like(energies)
        while steps:
            q = steps.pop()
            h = q * (g - (g * q).sum(-1, keepdim=True))
            total -= h
            if steps:
                g = message(h, transpose=True)
        out[b] = total.permute(1, 2, 0).reshape(out[b].shape)
    return out


def _pixels_first(maps: Tensor) -> Tensor:
    """[S, L, H, W] -> [H*W, S, L]."""
    return maps.flatten(2).permute(2, 0, 1)


_PARAMETERS = "float[] gaussian, float[] bilateral, float[] levels, int iterations"
_backward_op = define(
    f"dense_crf_backward(Tensor grad, Tensor image, Tensor unary, {_PARAMETERS}) -> Tensor",
    reference=mean_field_gradient,
    fake=_fake_backward,
    gradient_op=True,
)


def _setup_context(ctx, inputs, output):
    image, unary, *ctx.parameters, _, _ = inputs
    ctx.save_for_backward(image, unary)


def _backward(ctx, grad):
    if ctx.needs_input_grad[0]:
        raise NotImplementedError("dense_crf is differentiable in unary only; pass image.detach()")
    image, unary = ctx.saved_tensors
    return None, _backward_op(grad, image, unary, *ctx.parameters), *[None] * 6


# image [B, C, H, W] float32 within `levels` (lowest, highest), unary [B, S, L, H, W] float32
# energies -> Q, the shape of unary; gaussian [sx, sy, weight] or []; bilateral [sx, sy, a deviation
# for each channel, weight] or []; half_precision: of the lattices' values, on CUDA; lattice: what
# bilateral_lattice returned for the image, the deviations and the levels
_op = define(
    f"dense_crf(Tensor image, Tensor unary, {_PARAMETERS}, bool half_precision=False, "
    "Tensor? lattice=None) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def dense_crf(
    image: Tensor | BilateralLattice | None,
    unary: Tensor,
    *,
    gaussian: tuple | None = (3.0, 3.0),
    bilateral: tuple | None = (50.0, 5.0, 10.0),
    iterations: int = 10,
    precision: str = "float32",
    check: bool = True,
) -> Tensor:
    """Refine per-pixel label energies with a fully connected CRF (mean field, Potts model).

        Q_0 = softmax_L(-unary)
        Q <- softmax_L(-unary + sum_m w_m n_m (K_m (n_m Q))), repeated `iterations` times

    with K_g(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2), K_b(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2 -
    |I_i-I_j|^2 / 2 srgb^2) and n_m(i) = (sum_j K_m(i,j))^(-1/2). K is applied through a
    permutohedral lattice; results agree with pydensecrf's at its defaults (diagonal kernel,
    symmetric normalisation). One lattice serves all S unaries of an image.

    Differentiable in `unary`, once; not in `image`. The backward pass computes the mean field again
    and unrolls it over the same lattices; for one image at a time it holds iterations + 1 copies of
    its unaries.

    On CUDA, inputs whose lattice vertices 64-bit keys cannot name are computed by the CPU kernel,
    with copies: images of more than 6 channels, and deviations that are very small for the image.
    Such a call cannot be captured in a CUDA graph.

    Args:
        image: [B, C, H, W] uint8 or floating point levels, finite; 1 <= C <= 14 (gray, RGB,
            multi-spectral). Without a bilateral term it is not read and may be None. Or the
            `BilateralLattice` of such images with the deviations of `bilateral`, which is then not
            built again, except by the backward pass.
        unary: [B, L, H, W] or [B, S, L, H, W], floating point, energies -log p, finite;
            1 <= L <= 256.
        gaussian: (sxy, weight), or None for no spatial term. sxy: standard deviation in pixels > 0,
            or (along x, along y). weight >= 0.
        bilateral: (sxy, srgb, weight), or None for no appearance term. srgb: standard deviation in
            levels > 0, or one for each channel.
        iterations: number of mean field steps, 0..100,000.
        precision: "float32" or "float16", which on CUDA stores Q and the values on the lattices in
            half the memory and sums them in float32. On photos, 99.99 % of Q then differs by at
            most 0.02, and 2 in 10,000 pixels have another most probable label; at single pixels
            whose labels are nearly tied Q can differ by 0.1. The CPU and the backward pass always
            compute in float32.
        check: whether to look for energies that are not finite on a GPU, which has to be waited
            for; without it the result for them is undefined. On the CPU they are always found.

    Returns:
        Q: float32, the shape of `unary`, sums to 1 over L.

    Raises:
        ValueError: a wrong argument, with its name and value. Inside torch.compile and CUDA graphs,
            where values cannot be inspected, levels must be within 0..255.

    Source: Kraehenbuehl and Koltun 2011; lattice: Adams, Baek and Davis 2010.

    >>> image = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    >>> unary = unary_from_labels(torch.tensor([[[0, 0, 1, 0]]]), 2)
    >>> dense_crf(image, unary, iterations=1).argmax(1)
    tensor([[[0, 0, 0, 0]]])
    """
    _check_unary(unary)
    stored = None
    if isinstance(image, BilateralLattice):
        stored = image_and_lattice("dense_crf", image, None, None)
        image = stored.image
    _check_image(image, unary, bilateral)
    if image is None or bilateral is None:
        image = unary.new_empty(unary.shape[0], 0, *unary.shape[-2:])
    g = _term("gaussian", gaussian, ("sxy", "weight"), (2,))
    b = _term("bilateral", bilateral, ("sxy", "srgb", "weight"), (2, image.shape[1]))
    if not is_integer(iterations) or not 0 <= iterations <= MAX_ITERATIONS:
        wanted = f"an integer >= 0, at most {MAX_ITERATIONS}"
        raise argument_error("dense_crf", "iterations", iterations, wanted)
    if precision not in PRECISIONS:
        raise argument_error("dense_crf", "precision", precision, "float32 or float16")
    levels, lattice = [0.0, 255.0], None
    if b and stored is not None:
        check_own_sigmas("dense_crf", stored, b[:-1], ("bilateral sxy", "bilateral srgb"))
        b[:-1], levels, lattice = stored.sigmas, stored.levels, stored.lattice
    elif b:
        levels = image_levels("dense_crf", image)
    if not torch.compiler.is_compiling():
        _check_range("gaussian", gaussian, g, levels, unary.shape)
        _check_range("bilateral", bilateral, b, levels, unary.shape)
        # The CPU kernel checks the energies while it reads them.
        if check and unary.device.type != "cpu" and holds_values(unary):
            _check_finite(unary)
    energies = unary.to(torch.float32)
    if unary.dim() == 4:
        energies = energies.unsqueeze(1)
    half = precision == "float16"
    q = call(_op, image.to(torch.float32), energies, g, b, levels, iterations, half, lattice)
    return q.reshape(unary.shape)


def _check_unary(unary: Tensor) -> None:
    if not is_floating(unary, 4, 5):
        wanted = f"{FLOATING} [B, L, H, W] or [B, S, L, H, W]"
        raise argument_error("dense_crf", "unary", unary, wanted)
    if not 1 <= unary.shape[-3] <= MAX_LABELS:
        raise ValueError(f"dense_crf: unary is {list(unary.shape)}; needs 1..{MAX_LABELS} labels")


def _check_image(image: Tensor | None, unary: Tensor, bilateral: tuple | None) -> None:
    op = "dense_crf"
    if image is None:
        if bilateral is not None:
            raise ValueError(
                f"{op}: image is None, but bilateral is {describe(bilateral)}; "
                "it must be None as well"
            )
        return
    check_image(op, image)
    check_maps(op, image, unary=unary)


def _term(
    name: str, term: tuple | None, fields: tuple[str, ...], counts: tuple[int, ...]
) -> list[float]:
    """A pairwise term as the schema's list; [] if there is none or its weight is 0."""
    if term is None:
        return []
    if not isinstance(term, (tuple, list)) or len(term) != len(fields):
        raise argument_error("dense_crf", name, term, f"({', '.join(fields)}) or None")
    sigmas: list[float] = []
    for field, value, count in zip(fields[:-1], term[:-1], counts, strict=True):
        sigmas.extend(check_sigmas(f"dense_crf: {name} {field}", value, count))
    weight = term[-1]
    if not is_number(weight) or weight < 0.0:
        raise argument_error("dense_crf", f"{name} weight", weight, "a finite number >= 0")
    return [*sigmas, float(weight)] if weight else []


def _check_range(
    name: str, given: tuple | None, term: list[float], levels: list[float], shape: torch.Size
) -> None:
    """Reject deviations so small that the lattice's keys cannot name all vertices."""
    height, width = shape[-2:]
    if given is not None and term and not pixel_keys_fit(height, width, term[:-1], levels):
        raise ValueError(
            f"dense_crf: {name} sigmas {tuple(given[:-1])} are too small "
            f"for a {height}x{width} image"
        )


def _check_finite(unary: Tensor) -> None:
    # A float64 sum of finite float32 values is finite, and costs one pass without a mask.
    if not math.isfinite(unary.detach().sum(dtype=torch.float64).item()):
        raise ValueError(_BAD_UNARY)
