"""Targets of `fuzz.py`: operators with random shapes, dtypes and values."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from wsss_fast import ops

Case = Callable[[random.Random], None]


def _size(rng: random.Random, most: int = 9) -> int:
    return rng.choice((0, 1, 1, 2, 3, 5, most))


def _tensor(
    rng: random.Random,
    *shape: int,
    low: float = -3.0,
    high: float = 3.0,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Mostly valid; sometimes of another rank or dtype, with extreme values, or not contiguous."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    if rng.random() < 0.05:
        shape = shape[:-1] if rng.random() < 0.5 else (*shape, _size(rng))
    values = torch.rand(shape, generator=generator) * (high - low) + low
    if values.numel() and rng.random() < 0.1:
        values.view(-1)[rng.randrange(values.numel())] = rng.choice(
            (float("nan"), float("inf"), float("-inf"), 1e30)
        )
    if dtype is not None or rng.random() < 0.1:
        finite = values.nan_to_num(0, 0, 0).clamp(-1e4, 1e4)
        values = finite.to(dtype or rng.choice((torch.float64, torch.float16, torch.int64)))
    if values.dim() > 1 and rng.random() < 0.2:
        values = values.transpose(0, -1).contiguous().transpose(0, -1)
    return values


def _read(*tensors: torch.Tensor) -> None:
    """Read every value, so that a wrong size is detected."""
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.sum().item()


def _dense_crf(rng: random.Random) -> None:
    b, labels, h, w = rng.choice((1, 2)), rng.choice((1, 2, 3, 21)), _size(rng, 17), _size(rng, 19)
    channels, dtype = rng.choice((1, 3, 3, 4)), rng.choice((torch.uint8, None))
    image = _tensor(rng, b, channels, h, w, low=0, high=255, dtype=dtype)
    _read(
        ops.dense_crf(
            image,
            _tensor(rng, b, labels, h, w),
            gaussian=rng.choice((None, (3.0, 3.0), (0.1, -1.0))),
            bilateral=rng.choice((None, (50.0, 5.0, 10.0), (1e-3, 5.0, 1.0))),
            iterations=rng.choice((0, 1, 3)),
        )
    )


def _permutohedral(rng: random.Random) -> None:
    n, d, c = _size(rng, 50), rng.choice((1, 2, 5, 9)), _size(rng)
    _read(ops.permutohedral_filter(_tensor(rng, n, d), _tensor(rng, n, c)))


def _head(rng: random.Random) -> None:
    b, c, k = _size(rng, 2), rng.choice((1, 7, 32)), rng.choice((1, 2, 21))
    h, w = _size(rng), _size(rng)
    dilations = rng.choice(((1,), (1, 2), (6, 12, 18, 24), ()))
    given = (
        _tensor(rng, b, c, h, w),
        _tensor(rng, b, c),
        _tensor(rng, len(dilations), k, c, 3, 3),
        _tensor(rng, len(dilations), k),
    )
    _read(ops.label_conditioned_logits(*given, dilations))
    _read(
        ops.label_conditioned_activation(
            *given,
            dilations,
            size=rng.choice((None, (7, 11))),
            activation=rng.choice(("softmax", "sigmoid", "none")),
        )
    )


def _pixel(op: Callable[..., torch.Tensor]) -> Case:
    def case(rng: random.Random) -> None:
        b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
        labels = torch.from_numpy(
            np.random.default_rng(rng.randrange(2**31)).choice(
                [*range(k), 255] if rng.random() < 0.9 else [k, 300, -7],
                (b, _size(rng, 23), _size(rng, 23)),
            )
        )
        logits = _tensor(rng, b, k, h, w).requires_grad_(False)
        if logits.is_floating_point():
            logits.requires_grad_()
        loss = op(
            logits,
            labels.to(rng.choice((torch.int64, torch.uint8))),
            smoothing=rng.choice((0.0, 0.4, 1.5)),
            balance=rng.random() < 0.5,
            resize=rng.choice(("labels", "logits")),
        )
        _read(*torch.autograd.grad(loss, logits))

    return case


def _saliency(rng: random.Random) -> None:
    b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
    logits = _tensor(rng, b, k + 1, h, w).float().requires_grad_()
    loss = ops.saliency_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1),
        _tensor(rng, b, k) > 0,
        tau=rng.choice((0.4, -1.0)),
        lam=rng.choice((0.5, 2.0)),
        strategy=rng.choice(("adaptive", "naive", "none")),
    ).loss
    _read(*torch.autograd.grad(loss, logits))


def _aamr(rng: random.Random) -> None:
    b, k, h, w = _size(rng, 2), rng.choice((1, 2, 21)), _size(rng), _size(rng)
    logits = _tensor(rng, b, k + 1, h, w).float().requires_grad_()
    loss = ops.aamr_loss(
        logits,
        _tensor(rng, b, 1, _size(rng, 20), _size(rng, 20), low=0, high=1),
        _tensor(rng, b, k, _size(rng, 20), _size(rng, 20), low=0, high=1),
    )
    _read(*torch.autograd.grad(loss, logits))


def _walk(rng: random.Random) -> None:
    k, h, w = _size(rng), _size(rng, 20), _size(rng, 20)
    _read(
        ops.random_walk(
            _tensor(rng, k, h, w, low=0, high=1),
            _tensor(rng, h, w, low=0, high=1),
            radius=rng.choice((1, 2, 5, 0)),
            beta=rng.choice((1.0, 10.0, -1.0)),
            steps=rng.choice((0, 1, 8)),
        )
    )


OPERATORS: dict[str, Case] = {
    "dense_crf": _dense_crf,
    "permutohedral_filter": _permutohedral,
    "label_conditioned": _head,
    "pixel_cross_entropy": _pixel(ops.pixel_cross_entropy),
    "pixel_bce": _pixel(ops.pixel_bce),
    "saliency_loss": _saliency,
    "aamr_loss": _aamr,
    "random_walk": _walk,
}
