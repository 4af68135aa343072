"""Fully connected CRF: schema, fake, autograd, public function."""

import math

import torch
from torch import Tensor

from . import reference
from ._library import define

MAX_LABELS = 256
# A lattice key holds, for each of d dimensions, the coordinate's quotient, and the common remainder (3 bits).
KEY_BITS = 63 - 3


def _terms(gaussian, bilateral) -> dict:
    """Schema lists back to the public arguments."""
    return {"gaussian": tuple(gaussian[1:]) if gaussian else None, "bilateral": tuple(bilateral[1:3] + bilateral[-1:]) if bilateral else None}


def _reference(image, unary, *args):
    return reference.dense_crf(image, unary, **_terms(*args[:2]), iterations=args[3]).to(unary.dtype)


def _reference_backward(grad, image, unary, *args):
    with torch.enable_grad():
        leaf = unary.detach().requires_grad_()
        q = _reference(image.detach(), leaf, *args)
        return torch.autograd.grad(q, leaf, grad)[0].contiguous()


def _fake(image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


def _fake_backward(grad, image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


_PARAMETERS = "float[] gaussian, float[] bilateral, float[] levels, int iterations"
# The gradient recomputes the mean field and unrolls it through the reference.
_backward_op = define(
    f"dense_crf_backward(Tensor grad, Tensor image, Tensor unary, {_PARAMETERS}) -> Tensor",
    reference=_reference_backward,
    fake=_fake_backward,
    gradient_op=True,
)


def _setup_context(ctx, inputs, output):
    image, unary, *ctx.parameters = inputs
    ctx.save_for_backward(image, unary)


def _backward(ctx, grad):
    if ctx.needs_input_grad[0]:
        raise NotImplementedError("dense_crf is differentiable in unary only; pass image.detach()")
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise NotImplementedError("dense_crf is differentiable once; its gradient cannot be differentiated")
    image, unary = ctx.saved_tensors
    return None, _backward_op(grad, image, unary, *ctx.parameters), *[None] * 4


# image [B, 3, H, W] float32 levels, unary [B, S, L, H, W] float32 energies -> Q, shape of unary
_op = define(
    f"dense_crf(Tensor image, Tensor unary, {_PARAMETERS}) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def dense_crf(
    image: Tensor,
    unary: Tensor,
    *,
    gaussian: tuple[float, float] | None = (3.0, 3.0),
    bilateral: tuple[float, float, float] | None = (50.0, 5.0, 10.0),
    iterations: int = 10,
) -> Tensor:
    """Refine per-pixel label energies with a fully connected CRF (mean field, Potts model).

    Q_0 = softmax_L(-unary);  Q <- softmax_L(-unary + sum_m w_m n_m (K_m (n_m Q))), repeated `iterations` times, with
    K_g(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2),  K_b(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2 - |I_i-I_j|^2 / 2 srgb^2) and
    n_m(i) = (sum_j K_m(i,j))^(-1/2). K is applied through a permutohedral lattice; the numbers are pydensecrf's with
    its defaults (diagonal kernel, symmetric normalisation). One lattice serves all S unaries of an image.

    Args:
        image: [B, 3, H, W] uint8, or floating in 0..255 levels.
        unary: [B, L, H, W] or [B, S, L, H, W], floating, energies -log p, finite; 1 <= L <= 256.
        gaussian: (sxy in pixels > 0, weight >= 0), or None for no spatial term.
        bilateral: (sxy in pixels > 0, srgb in levels > 0, weight >= 0), or None for no appearance term.
        iterations: number of mean field steps, >= 0.

    Returns:
        Q: float32, the shape of `unary`, sums to 1 over L.

    Differentiable in `unary`, once (the backward pass unrolls the reference); not in `image`.
    Raises ValueError, naming the argument and what it got.
    Source: Kraehenbuehl and Koltun 2011; lattice: Adams, Baek and Davis 2010.

    >>> image = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    >>> unary = unary_from_labels(torch.tensor([[[0, 0, 1, 0]]]), 2)
    >>> dense_crf(image, unary, iterations=1).argmax(1)
    tensor([[[0, 0, 0, 0]]])
    """
    _check_tensors(image, unary)
    gaussian = _check_term("gaussian", gaussian, ("sxy", "weight"))
    bilateral = _check_term("bilateral", bilateral, ("sxy", "srgb", "weight"))
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"dense_crf: iterations is {iterations!r}; must be an integer >= 0")
    if not torch.compiler.is_compiling():  # the kernel repeats these two checks
        _check_key_range(unary.shape, gaussian, bilateral)
        _check_values(image, unary)
    energies = unary.to(torch.float32)
    if unary.dim() == 4:
        energies = energies.unsqueeze(1)
    g = [gaussian[0], *gaussian] if gaussian[-1] else []
    b = [bilateral[0], bilateral[0], *[bilateral[1]] * 3, bilateral[2]] if bilateral[-1] else []
    q = _op(image.to(torch.float32), energies, g, b, [0.0, 255.0], iterations)  # [B, S, L, H, W]
    return q.reshape(unary.shape)


def _check_tensors(image: Tensor, unary: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"dense_crf: image is {list(image.shape)}; must be [B, 3, H, W]")
    if unary.dim() not in (4, 5):
        raise ValueError(f"dense_crf: unary is {list(unary.shape)}; must be [B, L, H, W] or [B, S, L, H, W]")
    got = f"dense_crf: image is {list(image.shape)} but unary is {list(unary.shape)}"
    if image.shape[0] != unary.shape[0]:
        raise ValueError(f"{got}; B must match")
    if image.shape[-2:] != unary.shape[-2:]:
        raise ValueError(f"{got}; H and W must match")
    if not 1 <= unary.shape[-3] <= MAX_LABELS:
        raise ValueError(f"dense_crf: unary is {list(unary.shape)}; needs 1..{MAX_LABELS} labels")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"dense_crf: image is {image.dtype}; must be uint8 or floating in 0..255")
    if not unary.is_floating_point():
        raise ValueError(f"dense_crf: unary is {unary.dtype}; must be floating energies")
    if image.device != unary.device:
        raise ValueError(f"dense_crf: image is on {image.device} but unary is on {unary.device}")


def _check_term(name: str, term, fields: tuple[str, ...]) -> tuple[float, ...]:
    """A pairwise term as floats; None becomes weight 0."""
    if term is None:
        return (1.0,) * (len(fields) - 1) + (0.0,)
    if not isinstance(term, (tuple, list)) or len(term) != len(fields):
        raise ValueError(f"dense_crf: {name} is {term!r}; must be ({', '.join(fields)}) or None")
    values = tuple(float(v) for v in term)
    for field, value in zip(fields, values, strict=True):
        # Comparisons only: torch.compile may pass symbolic floats.
        good = 0.0 <= value < math.inf if field == "weight" else 0.0 < value < math.inf
        if not good:
            bound = ">= 0" if field == "weight" else "> 0"
            raise ValueError(f"dense_crf: {name} {field} is {value}; must be finite and {bound}")
    return values


def _check_key_range(shape, gaussian: tuple[float, ...], bilateral: tuple[float, ...]) -> None:
    """Refuse sigmas so small that lattice coordinates leave their 64-bit key (csrc/math/lattice.h lays it out)."""
    height, width = shape[-2:]
    for name, (*sigmas, weight) in (("gaussian", gaussian), ("bilateral", bilateral)):
        sxy = sigmas[0]
        spans = [width / sxy, height / sxy] + [255.0 / sigma for sigma in sigmas[1:] for _ in range(3)]
        d = len(spans)
        span = [s * math.sqrt(2.0 / 3.0) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i, s in enumerate(spans)]
        bits = 0
        for j in range(d):
            low = -j * span[j - 1] if j else 0.0
            bits += math.ceil(math.log2((sum(span[j:]) - low) / (d + 1) + 11.0))
        if weight and (bits > KEY_BITS or max(span) * d >= 2**22):
            raise ValueError(f"dense_crf: {name} sigmas {tuple(sigmas)} are too small for a {height}x{width} image")


def _check_values(image: Tensor, unary: Tensor) -> None:
    # A float64 sum of finite float32 values is finite, and costs one pass without a mask.
    if not math.isfinite(unary.detach().sum(dtype=torch.float64).item()):
        raise ValueError("dense_crf: unary has NaN or infinite values; clip probabilities before the logarithm")
    if image.is_floating_point() and image.numel():
        low, high = (v.item() for v in image.detach().aminmax())
        if not (low >= 0.0 and high <= 255.0):
            raise ValueError(f"dense_crf: image spans {low:g}..{high:g}; must be finite and within 0..255")
