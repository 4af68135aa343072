"""Fully connected CRF: schema, fake, autograd, public function."""

import math

import torch
from torch import Tensor

from . import reference
from ._library import call, define, has_data
from .lattice import MAX_DIMENSIONS, check_sigmas, coordinates_fit
from .mean_field import mean_field_gradient

MAX_LABELS = 256
MAX_CHANNELS = MAX_DIMENSIONS - 2


def _reference(image, unary, gaussian, bilateral, levels, iterations):
    _check_unary(unary)
    if (
        bilateral
        and image.numel()
        and not (image.amin() >= levels[0] and image.amax() <= levels[1])
    ):
        raise ValueError("dense_crf: image has NaN or values outside its levels")
    terms = {
        "gaussian": (tuple(gaussian[:2]), gaussian[-1]) if gaussian else None,
        "bilateral": (tuple(bilateral[:2]), tuple(bilateral[2:-1]), bilateral[-1])
        if bilateral
        else None,
    }
    return reference.dense_crf(image, unary, **terms, iterations=iterations).to(unary.dtype)


def _gradient(grad, image, unary, gaussian, bilateral, levels, iterations):
    return mean_field_gradient(grad, image, unary, gaussian, bilateral, iterations)


def _fake(image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


def _fake_backward(grad, image, unary, *args):
    return torch.empty(unary.shape, dtype=unary.dtype, device=unary.device)


_PARAMETERS = "float[] gaussian, float[] bilateral, float[] levels, int iterations"
_backward_op = define(
    f"dense_crf_backward(Tensor grad, Tensor image, Tensor unary, {_PARAMETERS}) -> Tensor",
    reference=_gradient,
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
        raise NotImplementedError(
            "dense_crf is differentiable once; its gradient cannot be differentiated"
        )
    image, unary = ctx.saved_tensors
    return None, _backward_op(grad, image, unary, *ctx.parameters), *[None] * 4


# image [B, C, H, W] float32 levels within `levels` (lowest, highest), unary [B, S, L, H, W] float32 energies -> Q, the
# shape of unary; gaussian [sx, sy, weight] or []; bilateral [sx, sy, a deviation per channel, weight] or []
_op = define(
    f"dense_crf(Tensor image, Tensor unary, {_PARAMETERS}) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def dense_crf(
    image: Tensor | None,
    unary: Tensor,
    *,
    gaussian: tuple | None = (3.0, 3.0),
    bilateral: tuple | None = (50.0, 5.0, 10.0),
    iterations: int = 10,
) -> Tensor:
    """Refine per-pixel label energies with a fully connected CRF (mean field, Potts model).

    Q_0 = softmax_L(-unary);  Q <- softmax_L(-unary + sum_m w_m n_m (K_m (n_m Q))), repeated `iterations` times, with
    K_g(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2),  K_b(i,j) = exp(-|p_i-p_j|^2 / 2 sxy^2 - |I_i-I_j|^2 / 2 srgb^2) and
    n_m(i) = (sum_j K_m(i,j))^(-1/2). K is applied through a permutohedral lattice; the numbers are pydensecrf's with
    its defaults (diagonal kernel, symmetric normalisation). One lattice serves all S unaries of an image.

    Args:
        image: [B, C, H, W] uint8 or floating levels, finite; 1 <= C <= 14 (gray, RGB, multi-spectral). None, where
            bilateral is None: there is no image. Without a bilateral term it is not read.
        unary: [B, L, H, W] or [B, S, L, H, W], floating, energies -log p, finite; 1 <= L <= 256.
        gaussian: (sxy, weight), or None for no spatial term. sxy: standard deviation in pixels > 0, or (along x,
            along y). weight >= 0.
        bilateral: (sxy, srgb, weight), or None for no appearance term. srgb: standard deviation in levels > 0, or one
            per channel.
        iterations: number of mean field steps, >= 0.

    Returns:
        Q: float32, the shape of `unary`, sums to 1 over L.

    Differentiable in `unary`, once; not in `image`. The backward pass computes the mean field again and unrolls it
    over the same lattices; for one image at a time it holds iterations + 1 copies of its unaries.
    On CUDA, the CPU kernel computes what lattice keys of 64 bits cannot name, with copies: images of more than 6 channels,
    and deviations that are very small for the image. Such a call cannot be captured in a CUDA graph.
    Raises ValueError, naming the argument and what it got. Inside torch.compile and CUDA graphs, where values cannot be
    looked at, levels must be within 0..255, and what the kernel refuses is a RuntimeError.
    Source: Kraehenbuehl and Koltun 2011; lattice: Adams, Baek and Davis 2010.

    >>> image = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    >>> unary = unary_from_labels(torch.tensor([[[0, 0, 1, 0]]]), 2)
    >>> dense_crf(image, unary, iterations=1).argmax(1)
    tensor([[[0, 0, 0, 0]]])
    """
    _check_tensors(image, unary, bilateral)
    if image is None or bilateral is None:
        image = unary.new_empty(unary.shape[0], 0, *unary.shape[-2:])
    g = _term("gaussian", gaussian, ("sxy", "weight"), (2,))
    b = _term("bilateral", bilateral, ("sxy", "srgb", "weight"), (2, image.shape[1]))
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"dense_crf: iterations is {iterations!r}; must be an integer >= 0")
    levels = _levels(image) if b else [0.0, 255.0]
    if not torch.compiler.is_compiling():
        _check_range("gaussian", gaussian, g, levels, unary.shape)
        _check_range("bilateral", bilateral, b, levels, unary.shape)
        # The CPU kernel looks while it reads them.
        if unary.device.type != "cpu" and has_data(unary) and not _is_capturing(unary):
            _check_unary(unary)
    energies = unary.to(torch.float32)
    if unary.dim() == 4:
        energies = energies.unsqueeze(1)
    q = call(_op, image.to(torch.float32), energies, g, b, levels, iterations)  # [B, S, L, H, W]
    return q.reshape(unary.shape)


def _check_tensors(image: Tensor | None, unary: Tensor, bilateral) -> None:
    if unary.dim() not in (4, 5):
        raise ValueError(
            f"dense_crf: unary is {list(unary.shape)}; must be [B, L, H, W] or [B, S, L, H, W]"
        )
    if not 1 <= unary.shape[-3] <= MAX_LABELS:
        raise ValueError(f"dense_crf: unary is {list(unary.shape)}; needs 1..{MAX_LABELS} labels")
    if not unary.is_floating_point():
        raise ValueError(f"dense_crf: unary is {unary.dtype}; must be floating energies")
    if image is None:
        if bilateral is not None:
            raise ValueError(
                f"dense_crf: image is None, but bilateral is {bilateral!r}; it must be None, too"
            )
        return
    if image.dim() != 4:
        raise ValueError(f"dense_crf: image is {list(image.shape)}; must be [B, C, H, W]")
    if not 1 <= image.shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"dense_crf: image is {list(image.shape)}; needs 1..{MAX_CHANNELS} channels"
        )
    got = f"dense_crf: image is {list(image.shape)} but unary is {list(unary.shape)}"
    if image.shape[0] != unary.shape[0]:
        raise ValueError(f"{got}; B must match")
    if image.shape[-2:] != unary.shape[-2:]:
        raise ValueError(f"{got}; H and W must match")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"dense_crf: image is {image.dtype}; must be uint8 or floating levels")
    if image.device != unary.device:
        raise ValueError(f"dense_crf: image is on {image.device} but unary is on {unary.device}")


def _term(name: str, term, fields: tuple[str, ...], counts: tuple[int, ...]) -> list[float]:
    """A pairwise term as the schema's list; [] where there is none or its weight is 0."""
    if term is None:
        return []
    if not isinstance(term, (tuple, list)) or len(term) != len(fields):
        raise ValueError(f"dense_crf: {name} is {term!r}; must be ({', '.join(fields)}) or None")
    sigmas = []
    for field, value, count in zip(fields, term, counts):  # noqa: B905 -- the weight is not a deviation
        sigmas.extend(check_sigmas(f"dense_crf: {name} {field}", value, count))
    try:
        weight = float(term[-1])
    except (TypeError, ValueError):
        weight = math.nan
    if not 0.0 <= weight < math.inf:
        raise ValueError(f"dense_crf: {name} weight is {term[-1]!r}; must be a finite number >= 0")
    return [*sigmas, weight] if weight else []


def _is_capturing(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being recorded: values are not there to look at."""
    return tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _levels(image: Tensor) -> list[float]:
    """Bounds of the image's values, from which the lattice's key layout follows; they hold 0, the lattice's origin."""
    unseen = not has_data(image) or torch.compiler.is_compiling() or _is_capturing(image)
    if image.dtype == torch.uint8 or not image.numel() or unseen:
        return [0.0, 255.0]
    low, high = (v.item() for v in image.detach().to(torch.float32).aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"dense_crf: image spans {low:g}..{high:g}; must be finite")
    return [0.0, 255.0] if low >= 0.0 and high <= 255.0 else [min(low, 0.0), max(high, 0.0)]


def _check_range(name: str, given, term: list[float], levels: list[float], shape) -> None:
    """Refuse deviations so small that lattice coordinates leave their keys."""
    height, width = shape[-2:]
    if not term or not height or not width:
        return
    sx, sy, *channels, _ = term
    bounds = [(0.0, (width - 1) / sx), (0.0, (height - 1) / sy)] + [
        (levels[0] / s, levels[1] / s) for s in channels
    ]
    if not coordinates_fit(bounds):
        raise ValueError(
            f"dense_crf: {name} sigmas {tuple(given[:-1])} are too small for a {height}x{width} image"
        )


def _check_unary(unary: Tensor) -> None:
    # A float64 sum of finite float32 values is finite, and costs one pass without a mask.
    if not math.isfinite(unary.detach().sum(dtype=torch.float64).item()):
        raise ValueError(
            "dense_crf: unary has NaN or infinite values; clip probabilities before the logarithm"
        )
