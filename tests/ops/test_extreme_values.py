"""Logits at and beyond the range of exp, on every device and dtype, against float64."""

import pytest
import torch
from op_testing import each_device

from wsss_fast.ops import (
    aamr_loss,
    dense_crf,
    pixel_bce,
    pixel_cross_entropy,
    reference,
    saliency_loss,
)
from wsss_fast.ops.resized_activation import resized_activation

# Of the largest value.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 8e-3,
    torch.float16: 1e-3,
}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# exp overflows float32 at 88.7; its results are subnormal below -87.3 and 0 below -104. 1e-40 is
# subnormal itself.
MODERATE = [88.0, -88.0, 89.0, -89.0, 100.0, -100.0, 104.0, -104.0, 1e-40, -1e-40, 0.0, 1.0]
HUGE = [*MODERATE, 1e30, -1e30, 6e4, -6e4, 3e38, -3e38]


def draw(values, shape, dtype, device):
    """Random choices among the values that the dtype can represent."""
    values = torch.tensor(
        [v for v in values if abs(v) <= torch.finfo(dtype).max], dtype=torch.float64
    )
    picks = torch.randint(len(values), shape, generator=torch.Generator().manual_seed(0))
    return values[picks].to(device, dtype)


def uniform(shape, dtype, device):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        device, dtype
    )


def assert_close(ours, truth, dtype):
    truth = truth.to(ours.dtype).double()  # infinite beyond the range of the dtype
    assert torch.equal(ours.isnan(), truth.isnan()) and torch.equal(ours.isinf(), truth.isinf())
    finite = truth.isfinite()
    largest = truth[finite].abs().max().item() if finite.any() else 0.0
    torch.testing.assert_close(
        ours.double()[finite], truth[finite], atol=TOLERANCE[dtype] * largest, rtol=0
    )


def assert_loss_and_gradient(op, definition, logits, dtype):
    """`op` and `definition` are functions of the logits alone."""
    ours, truth = logits.clone().requires_grad_(), logits.double().requires_grad_()
    results = [(op(ours), ours), (definition(truth), truth)]
    for mine, exact in zip(
        *((loss, torch.autograd.grad(loss, x)[0]) for loss, x in results), strict=True
    ):
        assert_close(mine.detach(), exact.detach(), dtype)


@each_device
@each_dtype
@pytest.mark.parametrize("size", [(5, 6), (10, 12), (9, 7), (3, 2)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_resized_activation(activation, size, dtype, device):
    # For huge values of both signs the result depends on the order of the additions, so these are
    # only tested without resizing.
    logits = draw(HUGE if size == (5, 6) else MODERATE, (2, 4, 5, 6), dtype, device)
    weight = uniform((2, 4, *size), dtype, device)
    ours, truth = logits.clone().requires_grad_(), logits.double().requires_grad_()
    mine = resized_activation(ours, size, activation)
    exact = reference.resized_activation(truth, size, activation)
    # Absolute, since results are <= 1. Interpolated logits near 100 are rounded by 4e-6.
    torch.testing.assert_close(mine.double(), exact, atol=10 * TOLERANCE[dtype], rtol=0)
    (mine * weight).sum().backward()
    (exact * weight.double()).sum().backward()
    allowed = 20 * TOLERANCE[dtype] * truth.grad.abs().max().item()
    torch.testing.assert_close(ours.grad.double(), truth.grad, atol=allowed, rtol=0)


@each_device
@each_dtype
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_resized_activation_of_infinite_logits(activation, dtype, device):
    """Without resizing: neighbours of weight 0 do not turn an infinity into NaN."""
    logits = draw([1.0, -2.0, 0.5, 3.0, 2.5, -1.0], (2, 4, 5, 6), dtype, device)
    for place, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        logits[0, place, place + 1, 2 * place] = value
    exact = logits.double().softmax(1) if activation == "softmax" else logits.double().sigmoid()
    ours = resized_activation(logits, (5, 6), activation)
    torch.testing.assert_close(ours.double(), exact, atol=TOLERANCE[dtype], rtol=0, equal_nan=True)
    torch.testing.assert_close(
        reference.resized_activation(logits.double(), (5, 6), activation), exact, equal_nan=True
    )


@each_device
@each_dtype
@pytest.mark.parametrize(
    "options", [{}, {"smoothing": 0.1}, {"balance": "image"}, {"resize": "logits"}], ids=str
)
@pytest.mark.parametrize("op", [pixel_cross_entropy, pixel_bce])
def test_pixel_losses(op, options, dtype, device):
    definition = getattr(reference, op.__name__)
    upsampled = options.get("resize") == "logits"
    logits = draw(MODERATE if upsampled else HUGE[:-2], (2, 4, 5, 6), dtype, device)
    size = (2, 10, 12) if upsampled else (2, 5, 6)
    labels = torch.randint(
        4, size, generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    ).to(device)
    labels[:, 0, 0] = 255
    assert_loss_and_gradient(
        lambda z: op(z, labels, **options),
        lambda z: definition(z, labels, **options),
        logits,
        dtype,
    )


@each_device
@each_dtype
def test_saliency_and_aamr_loss(dtype, device):
    logits = draw(HUGE[:-2], (2, 4, 5, 6), dtype, device)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    saliency, response = uniform((2, 5, 6), wide, device), 1 - uniform((2, 5, 6), wide, device)
    labels = torch.ones(2, 3, device=device)
    assert_loss_and_gradient(
        lambda z: saliency_loss(z, saliency, labels).loss,
        lambda z: reference.saliency_loss(z, saliency.double(), labels).loss,
        logits,
        dtype,
    )
    assert_loss_and_gradient(
        lambda z: aamr_loss(z, saliency, response),
        lambda z: reference.aamr_loss(z, saliency.double(), response.double()),
        logits,
        dtype,
    )


@each_device
@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("labels", [2, 5])
def test_dense_crf(labels, iterations, device):
    # One huge energy for each pixel: next to two equal ones, messages would be below the rounding.
    unary = draw(MODERATE, (1, labels, 6, 7), torch.float32, device)
    unary[:, 0] = draw([*MODERATE, 1e30, -1e30], (1, 6, 7), torch.float32, device)
    image = uniform((1, 3, 6, 7), torch.float32, device) * 255
    q = dense_crf(image, unary, iterations=iterations)
    truth = reference.dense_crf(image.double(), unary.double(), iterations=iterations)
    torch.testing.assert_close(q.double(), truth, atol=1e-4, rtol=0)
