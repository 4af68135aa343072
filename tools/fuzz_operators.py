"""Targets of `fuzz.py`: operators with random shapes, dtypes, strides and values.

Every case runs twice, with the native kernels and with the reference; `difference` says where the
two disagree, in values or gradients.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import torch

from wsss_fast import ops
from wsss_fast.ops.amx_conv2d import amx_conv2d, pack

# Values and gradients of one case.
Case = Callable[[random.Random], list[torch.Tensor]]

DTYPES = (torch.float32,) * 5 + (torch.float64, torch.float16, torch.bfloat16)
ODD_VALUES = (math.nan, math.inf, -math.inf, -math.inf, 1e30, -1e30, 1e-40, 6e4)

# Largest difference, of the largest value or 1. Halves are as close as their last place.
TOLERANCE = {
    torch.float64: 1e-4,  # some operators compute in float32, whatever they are given
    torch.float32: 1e-4,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
# The mean field repeats its rounding errors; a head rounds each tap's share to the dtype.
OF_TARGET = {"dense_crf": 10.0, "label_conditioned": 3.0}
# Sums of products that may underflow to 0: whether an infinite factor gives NaN or infinity depends
# on their order.
NAN_IS_INFINITY = ("label_conditioned", "random_walk")
# Around the map, where its values are 0, the kernels do not read taps, but the reference multiplies
# infinite weights by those zeros; for gradients it is the other way round.
ZEROS_AROUND = ("label_conditioned",)


def difference(name: str, native: list[torch.Tensor], reference: list[torch.Tensor]) -> str:
    """How two results of a target disagree beyond the tolerance; "" if they do not."""
    if len(native) != len(reference):
        return f"{len(native)} results, but {len(reference)} of the reference"
    for place, (ours, theirs) in enumerate(zip(native, reference, strict=True)):
        what = f"result {place} is {_show(ours)}, but {_show(theirs)} of the reference"
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return what
        mine, other = ours.double(), theirs.double()
        finite_inputs = name not in ZEROS_AROUND or not reference[-1][1]
        places = _finite_places(name, place == 0 and finite_inputs, mine, other)
        if places is None:
            return f"{what}: NaN or infinite in other places"
        if places.any():
            scale = max(1.0, other[places].abs().max().item())
            if name in ZEROS_AROUND:
                scale = max(scale, reference[-1][0].item())  # products of extreme inputs cancel
            error = (mine - other)[places].abs().max().item() / scale
            if error > TOLERANCE.get(ours.dtype, 0.0) * OF_TARGET.get(name, 1.0):
                return f"{what}: they differ by {error:.3g}"
    return ""


def _finite_places(
    name: str, as_finite: bool, mine: torch.Tensor, other: torch.Tensor
) -> torch.Tensor | None:
    """Where both results are finite; None if NaN and infinities are not where they must be.

    Args:
        name: of the target.
        as_finite: of a target in ZEROS_AROUND: it must be finite where the reference is.
        mine, other: the results.
    """
    ours, theirs = mine.isfinite(), other.isfinite()
    if name in ZEROS_AROUND:
        return None if as_finite and (theirs & ~ours).any() else ours & theirs
    if not torch.equal(ours, theirs):
        return None
    same = torch.equal(mine.isnan(), other.isnan())
    same = same and torch.equal(mine == math.inf, other == math.inf)
    return ours if same or name in NAN_IS_INFINITY else None


def _show(tensor: torch.Tensor) -> str:
    shape = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    return f"{shape} {tensor.flatten()[:3].tolist()}"


def _size(rng: random.Random, most: int = 9) -> int:
    return rng.choice((1, 1, 2, 3, 5, most)) if rng.random() < 0.97 else 0


def _mostly(rng: random.Random, valid: tuple, wrong: object) -> Any:
    """One of the valid values, or rarely the wrong one."""
    return rng.choice(valid) if rng.random() < 0.97 else wrong


def _presence(rng: random.Random, batch: int, classes: int) -> torch.Tensor:
    return _tensor(rng, batch, classes, dtype=torch.float32, odd=0.0).real > 0


def _tensor(
    rng: random.Random,
    *shape: int,
    low: float = -3.0,
    high: float = 3.0,
    dtype: torch.dtype | None = None,
    odd: float = 0.15,
) -> torch.Tensor:
    """Mostly valid; sometimes of another rank or dtype, with odd values, or strided.

    Args:
        rng: the source of all choices.
        shape: the valid shape.
        low, high: the valid range.
        dtype: the valid dtype; None: one of the floating point dtypes.
        odd: share of the tensors with values that are extreme or not finite.
    """
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if rng.random() < 0.02:
        shape = shape[:-1] if rng.random() < 0.5 else (*shape, _size(rng))
    values = torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
    if rng.random() < 0.15:
        values = values.round()  # ties
    wanted = dtype or rng.choice(DTYPES)
    if rng.random() < 0.02:
        wanted = rng.choice((torch.int64, torch.bool, torch.int8, torch.complex64))
    if values.numel() and rng.random() < odd and wanted.is_floating_point:
        for _ in range(rng.choice((1, 1, 3))):
            values.view(-1)[rng.randrange(values.numel())] = rng.choice(ODD_VALUES)
    return _strided(rng, values.to(wanted))


def _strided(rng: random.Random, values: torch.Tensor) -> torch.Tensor:
    """The same values in memory of another order, with gaps, with an offset, or shared."""
    kind = rng.random()
    if kind < 0.6 or values.dim() < 1:
        return values
    if kind < 0.7:
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if kind < 0.8:
        return values.repeat_interleave(2, -1)[..., ::2]
    if kind < 0.9:
        return torch.cat([values, values])[len(values) :]
    return values[:1].expand_as(values) if len(values) else values


def _head_tensors(rng: random.Random) -> tuple[list[torch.Tensor], tuple[int, ...]]:
    """Features, scale, weight and bias of one dtype, and dilations."""
    b, c, k = _size(rng, 2), rng.choice((1, 7, 32)), rng.choice((1, 2, 21))
    dilations = _mostly(rng, ((1,), (1, 2), (6, 12, 18, 24), (2**40,), (1, 1)), ())
    side, dtype = rng.choice((1, 3)), rng.choice(DTYPES)
    shapes = ((b, c, _size(rng), _size(rng)), (b, c), (len(dilations), k, c, side, side))
    tensors = [
        _tensor(rng, *shape, dtype=dtype, low=-1.0, high=1.0, odd=0.03)
        for shape in (*shapes, (len(dilations), k))
    ]
    return tensors, dilations


def _gradients(output: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The output and, where its graph reaches inputs, the gradients of a weighted sum of it."""
    found = [output.detach()]
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    if output.requires_grad and needed:
        weight = torch.linspace(0.5, 1.5, max(output.numel(), 1), dtype=output.dtype)
        total = (output * weight[: output.numel()].view(output.shape)).sum()
        found += torch.autograd.grad(total, needed)
    return found


def _differentiable(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _dense_crf(rng: random.Random) -> list[torch.Tensor]:
    b, labels, h, w = (
        rng.choice((0, 1, 2)),
        rng.choice((1, 2, 3, 21)),
        _size(rng, 12),
        _size(rng, 13),
    )
    channels, dtype = rng.choice((1, 3, 3, 4)), rng.choice((torch.uint8, None))
    image = _tensor(rng, b, channels, h, w, low=0, high=255, dtype=dtype, odd=0.02)
    unary = _tensor(rng, b, labels, h, w, odd=0.05)
    unary = _differentiable(unary) if rng.random() < 0.3 else unary
    q = ops.dense_crf(
        image,
        unary,
        gaussian=_mostly(rng, (None, (3.0, 3.0), ((2.0, 5.0), 1.0)), (0.1, -1.0)),
        bilateral=_mostly(rng, (None, (50.0, 5.0, 10.0), (9.0, 30.0, 4.0)), (1e-3, 5.0, 1.0)),
        iterations=rng.choice((0, 1, 3)),
        precision=_mostly(rng, ("float32", "float16"), "half"),
    )
    return _gradients(q, unary)


def _permutohedral(rng: random.Random) -> list[torch.Tensor]:
    n, d, c = _size(rng, 50), rng.choice((1, 2, 5, 9)), _size(rng)
    values = _differentiable(_tensor(rng, n, c))
    return _gradients(ops.permutohedral_filter(_tensor(rng, n, d, odd=0.03), values), values)


def _head(rng: random.Random) -> list[torch.Tensor]:
    tensors, dilations = _head_tensors(rng)
    k = rng.choice((2, max(tensors[2].shape[1:2], default=1)))  # 2 may be one too many
    given = [_differentiable(tensor) for tensor in tensors]
    classes = None
    if rng.random() < 0.2:
        classes = torch.tensor([rng.randrange(k) for _ in range(rng.randrange(4))]).long()
    sizes = [_finite(tensor).abs().max().clamp(min=1) for tensor in tensors if tensor.numel()]
    odd = any(not tensor.isfinite().all() for tensor in tensors)
    extremes = torch.tensor([math.prod(size.item() for size in sizes), odd], dtype=torch.float64)
    if rng.random() < 0.5:
        out = ops.label_conditioned_logits(*given, dilations, classes=classes)
        return [*_gradients(out, *given), extremes]
    out = ops.label_conditioned_activation(
        *given,
        dilations,
        size=rng.choice((None, (7, 11), (1, 1), (3, 20))),
        activation=_mostly(rng, ("softmax", "sigmoid"), "none"),
        classes=classes,
    )
    return [*_gradients(out, *given), extremes]


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as float64, with zeros for NaN and infinities."""
    values = tensor.real if tensor.is_complex() else tensor
    return torch.nan_to_num(values.double(), nan=0.0, posinf=0.0, neginf=0.0)


def _labels(rng: random.Random, shape: tuple[int, ...], classes: int) -> torch.Tensor:
    """Labels of an image, some of them 255, rarely one that does not exist."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < rng.choice((0.0, 0.3, 1.0))] = 255
    if labels.numel() and rng.random() < 0.05:
        labels.view(-1)[rng.randrange(labels.numel())] = rng.choice((classes, 300, -7, 2**40))
    return _strided(rng, labels.to(rng.choice((torch.int64, torch.uint8))))


def _pixel(op: Callable[..., torch.Tensor]) -> Case:
    def case(rng: random.Random) -> list[torch.Tensor]:
        b, k, h, w = _size(rng, 2), rng.choice((1, 2, 5, 21)), _size(rng), _size(rng)
        size = (h, w) if rng.random() < 0.3 else (_size(rng, 23), _size(rng, 70))
        logits = _differentiable(_tensor(rng, b, k, h, w, odd=0.4))
        options = {
            "smoothing": _mostly(rng, (0.0, 0.0, 0.4, 0.9), 1.5),
            "balance": _mostly(rng, (False, True, "batch", "image", "image"), "each"),
            "resize": rng.choice(("labels", "logits")),
            "ignore_index": rng.choice((255, 255, 255, 0, -1, 2**40)),
        }
        if op is ops.pixel_bce and rng.random() < 0.4:
            options["present"] = _presence(rng, b, k)
        return _gradients(op(logits, _labels(rng, (b, *size), k), **options), logits)

    return case


def _saliency(rng: random.Random) -> list[torch.Tensor]:
    b, k, h, w = _size(rng, 2), rng.choice((0, 1, 2, 21)), _size(rng), _size(rng)
    logits = _differentiable(_tensor(rng, b, k + 1, h, w, odd=0.3))
    strategy = _mostly(rng, ("adaptive", "adaptive", "naive", "predefined"), "none")
    found = ops.saliency_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1, odd=0.03),
        _presence(rng, b, k),
        tau=_mostly(rng, (0.4, 0.4, 0.0, 1.0), -1.0),
        lam=_mostly(rng, (0.5, 0.5, 0.0, 1.0), 2.0),
        strategy=strategy,
        background_classes=rng.choice(((), (1,))) if strategy == "predefined" else (),
    )
    return [*_gradients(found.loss, logits), *found[1:]]


def _aamr(rng: random.Random) -> list[torch.Tensor]:
    b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
    logits = _differentiable(_tensor(rng, b, k + 1, h, w, odd=0.3))
    loss, region = ops.aamr_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1, odd=0.03),
        _tensor(rng, b, k, _size(rng, 20), _size(rng, 20), low=0, high=1, odd=0.03),
        salient=rng.choice((0.5, 0.0, 1.0)),
        active=rng.choice((0.2, 0.8, -1.0)),
        overlap=_mostly(rng, (0.1, 0.1, 0.0, 1.0), 2.0),
        return_region=True,
    )
    return [*_gradients(loss, logits), region]


def _walk(rng: random.Random) -> list[torch.Tensor]:
    k, h, w = _size(rng), _size(rng, 20), _size(rng, 20)
    return [
        ops.random_walk(
            _tensor(rng, k, h, w, low=0, high=1),
            _tensor(rng, h, w, low=0, high=1, odd=0.03),
            radius=_mostly(rng, (1, 2, 5), 0),
            beta=_mostly(rng, (1.0, 10.0, 2.5), -1.0),
            steps=_mostly(rng, (0, 1, 8), 10**12),
        )
    ]


def _views(rng: random.Random) -> list[torch.Tensor]:
    shape = (*((_size(rng, 3),) if rng.random() < 0.3 else ()), _size(rng, 60), _size(rng, 60), 3)
    seed = torch.Generator().manual_seed(rng.randrange(2**31))
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seed)
    scales = [_mostly(rng, (0.001, 0.5, 0.9, 1.0, 1.7, 4.0), -1.0) for _ in range(_size(rng, 3))]
    views = ops.image_views(
        image,
        scales,
        mirror=rng.random() < 0.8,
        std=_mostly(rng, ((0.2, 0.2, 0.2), (1.0, 2.0, 1e-3)), (1.0, 0.0, 1.0)),
        dtype=rng.choice((torch.float32, torch.bfloat16, torch.float16)),
    )
    return views


def _merged(rng: random.Random) -> list[torch.Tensor]:
    b, k, size = _size(rng, 2), rng.choice((1, 3, 21)), (_size(rng, 40), _size(rng, 40))
    dtype = rng.choice(DTYPES)
    views = [
        _tensor(rng, 2 * b, k, _size(rng), _size(rng), dtype=dtype, odd=0.03)
        for _ in range(_size(rng, 5))
    ]
    wanted = [[rng.randrange(k) for _ in range(rng.randrange(4))] for _ in range(b)]
    maps = ops.merge_maps(
        views,
        _mostly(rng, (wanted,), [[k]] * b),
        size,
        kind="softmax",
        strided=rng.random() < 0.8,
        present_only=rng.random() < 0.3,
        dtype=rng.choice(DTYPES),
    )
    # Not compared: the rounding of large logits changes probabilities, and decides on whether the
    # weight of an infinite one is 0.
    if any((view.abs() > 1e3).any() for view in views):
        return []
    return [each for image in maps for each in image if each is not None]


def _convolution(rng: random.Random) -> list[torch.Tensor]:
    b, c, k, side = (
        _size(rng, 2),
        rng.choice((1, 3, 40)),
        rng.choice((1, 5, 33)),
        rng.choice((1, 3)),
    )
    dtype = torch.float32
    maps = _tensor(rng, b, c, _size(rng), _size(rng), dtype=dtype, odd=0.0)
    filters = pack(_tensor(rng, k, c, side, side, dtype=dtype, odd=0.0), _mostly(rng, (2, 3), 4))
    bias = _tensor(rng, k, dtype=dtype, odd=0.0).contiguous() if rng.random() < 0.5 else None
    stride, dilation = _mostly(rng, (1, 2), 0), rng.choice((1, 2, 5))
    options = {"bias": bias, "stride": stride, "dilation": dilation, "relu": rng.random() < 0.5}
    return [amx_conv2d(maps, filters, k, **options)]


OPERATORS: dict[str, Case] = {
    "dense_crf": _dense_crf,
    "permutohedral_filter": _permutohedral,
    "label_conditioned": _head,
    "pixel_cross_entropy": _pixel(ops.pixel_cross_entropy),
    "pixel_bce": _pixel(ops.pixel_bce),
    "saliency_loss": _saliency,
    "aamr_loss": _aamr,
    "random_walk": _walk,
    "image_views": _views,
    "merge_maps": _merged,
    "amx_conv2d": _convolution,
}
