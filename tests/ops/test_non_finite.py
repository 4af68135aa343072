"""NaN and infinite logits: what torch's own losses return, in value and gradient."""

import itertools
import random

import pytest
import torch
from op_testing import each_device
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from wsss_fast.ops import aamr_loss, pixel_bce, pixel_cross_entropy, reference, saliency_loss

NAN, INF = float("nan"), float("inf")
# The classes of one pixel.
PIXELS = [p for p in itertools.product((1.0, NAN, INF, -INF), repeat=3) if p != (1.0,) * 3]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def with_gradient(loss, logits):
    logits = logits.detach().requires_grad_()
    value = loss(logits)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_equal(ours, expected, tolerance=1e-5):
    for mine, other in zip(ours, expected, strict=True):
        other = other.to(mine.dtype)
        torch.testing.assert_close(mine, other, equal_nan=True, atol=tolerance, rtol=tolerance)


@each_device
@each_dtype
@pytest.mark.parametrize("label", [0, 2, 255])
def test_cross_entropy_is_torchs(label, dtype, device):
    """An ignored pixel leaves the loss as it is; its own gradient is torch's: NaN for a NaN."""
    for pixel in PIXELS:
        logits = torch.tensor([pixel, (0.5, 2.0, -1.0)], dtype=dtype, device=device)
        logits = logits.T.reshape(1, 3, 1, 2)
        labels = torch.tensor([[[label, 1]]], device=device)
        ours = with_gradient(lambda z, y=labels: pixel_cross_entropy(z, y), logits)
        expected = with_gradient(
            lambda z, y=labels, d=ours[0].dtype: cross_entropy(z.to(d), y, ignore_index=255), logits
        )
        assert_equal(ours, expected, 1e-5 if dtype.itemsize > 2 else 1e-2)
        if label == 255:
            assert ours[0].isfinite()


@each_device
@each_dtype
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_bce_is_torchs(smoothing, dtype, device):
    for pixel, label in itertools.product(PIXELS, (0, 2)):
        logits = torch.tensor(pixel, dtype=dtype, device=device).view(1, 3, 1, 1)
        labels = torch.full((1, 1, 1), label, device=device)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        target = torch.full_like(logits, smoothing / 2, dtype=wide)
        target[0, label] = 1 - smoothing
        ours = with_gradient(lambda z, y=labels: pixel_bce(z, y, smoothing=smoothing), logits)
        expected = with_gradient(
            lambda z, t=target: binary_cross_entropy_with_logits(z.to(t.dtype), t), logits
        )
        assert_equal(ours, expected, 1e-5 if dtype.itemsize > 2 else 1e-2)


@each_device
@pytest.mark.parametrize("op", ["pixel_cross_entropy", "pixel_bce"])
def test_unused_pixels_and_classes_change_nothing(op, device):
    loss = {"pixel_cross_entropy": pixel_cross_entropy, "pixel_bce": pixel_bce}[op]
    clean = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.ones(1, 4, 5, dtype=torch.uint8, device=device)
    labels[0, 1, 2] = 255
    options = [{"smoothing": 0.4}, {"balance": True}, {"balance": "image"}]
    for value, given in itertools.product((NAN, INF, -INF), options):
        broken = clean.clone()
        broken[0, :, 1, 2] = value
        assert torch.equal(loss(broken, labels, **given), loss(clean, labels, **given))
    if op == "pixel_bce":
        broken = clean.clone()
        broken[0, 2] = NAN
        present = torch.tensor([[1, 1, 0]], device=device)
        ours = with_gradient(lambda z: pixel_bce(z, labels, present=present), broken)
        expected = with_gradient(lambda z: pixel_bce(z, labels, present=present), clean)
        assert_equal(ours, expected, 0)


def random_case(seed):
    """Logits with some values that are not finite, and the random choices that go on from there."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = (
        draw.choice((1, 2)),
        draw.choice((2, 3, 6)),
        draw.randint(1, 6),
        draw.choice((1, 5, 70)),
    )
    dtype = draw.choice(DTYPES[:3])
    logits = torch.randn(shape, generator=generator).to(dtype)
    for _ in range(draw.randint(1, 4)):
        logits.view(-1)[draw.randrange(logits.numel())] = draw.choice((NAN, INF, -INF, 1e4))
    return logits, draw, generator


def compare_with_reference(op, definition, logits):
    """Values and gradients of a loss and of its definition."""
    wide = logits.double() if logits.dtype == torch.float64 else logits.float()
    assert_equal(
        with_gradient(op, logits),
        with_gradient(definition, wide),
        1e-5 if logits.dtype.itemsize > 2 else 5e-3,
    )


@each_device
@pytest.mark.parametrize("op", [pixel_cross_entropy, pixel_bce])
def test_pixel_losses_are_the_reference(op, device):
    definition = getattr(reference, op.__name__)
    for seed in range(60):
        logits, draw, generator = random_case(seed)
        size = (
            logits.shape[2:] if draw.random() < 0.3 else (draw.randint(1, 13), draw.randint(1, 99))
        )
        labels = torch.randint(0, logits.shape[1], (len(logits), *size), generator=generator)
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
        options = {
            "smoothing": draw.choice((0.0, 0.0, 0.4, 0.9)),
            "balance": draw.choice(("none", "none", "batch", "image")),
            "resize": draw.choice(("labels", "logits")),
        }
        on = labels.to(device)
        compare_with_reference(
            lambda z, y=on, o=options: op(z, y, **o),
            lambda z, y=on, o=options: definition(z, y, **o),
            logits.to(device),
        )


@each_device
def test_map_losses_are_the_reference(device):
    for seed in range(60):
        logits, draw, generator = random_case(seed)
        sizes = ((len(logits), draw.randint(1, 9), draw.randint(1, 40)) for _ in range(2))
        saliency, response = (torch.rand(size, generator=generator).to(device) for size in sizes)
        present = torch.randint(0, 2, (len(logits), logits.shape[1] - 1), generator=generator)
        strategy = draw.choice(("adaptive", "naive"))
        for name in ("loss", "foreground", "background", "estimate"):
            results = [
                getattr(op(z.to(device), saliency, present.to(device), strategy=strategy), name)
                for op, z in (
                    (saliency_loss, logits),
                    (
                        reference.saliency_loss,
                        logits.to(torch.promote_types(logits.dtype, torch.float32)),
                    ),
                )
            ]
            assert_equal(results[:1], results[1:])
        for op, definition in (
            (
                lambda z, s=saliency, p=present, k=strategy: (
                    saliency_loss(z, s, p.to(device), strategy=k).loss
                ),
                lambda z, s=saliency, p=present, k=strategy: (
                    reference.saliency_loss(z, s, p.to(device), strategy=k).loss
                ),
            ),
            (
                lambda z, s=saliency, r=response: aamr_loss(z, s, r, active=0.6),
                lambda z, s=saliency, r=response: reference.aamr_loss(z, s, r, active=0.6),
            ),
        ):
            compare_with_reference(op, definition, logits.to(device))
