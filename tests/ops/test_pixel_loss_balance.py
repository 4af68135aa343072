"""The kinds of balance of pixel_cross_entropy and pixel_bce: worked examples, empty groups."""

import math

import pytest
import torch
from op_testing import each_device

from wsss_fast.ops import pixel_bce, pixel_cross_entropy, reference

each_loss = pytest.mark.parametrize("loss", [pixel_cross_entropy, pixel_bce])


def losses_of(wanted):
    """Logits [1, 2, 1, n] that have these losses for label 0, and for label 1 swapped."""
    other = torch.tensor(wanted, dtype=torch.float64).expm1().log()
    return torch.stack([torch.zeros_like(other), other])[None, :, None]


@each_device
@pytest.mark.parametrize("resize", ["labels", "logits"])
@pytest.mark.parametrize(
    ("balance", "expected"),
    [("image", 5.0), ("batch", (6 / 5 + 10 / 3) / 2), (True, 34 / 15), ("none", 2.0), (False, 2.0)],
)
def test_kinds_of_balance(balance, expected, resize, device):
    """Image A: background 1, 1, 1, 1, foreground 4; B: background 2, foreground 3, 3."""
    labels = torch.tensor([[[0, 0, 0, 0, 1]], [[0, 1, 1, 255, 255]]], device=device)
    zeros = torch.cat([losses_of([1, 1, 1, 1, 4]), losses_of([2, 3, 3, 9, 9])]).to(device)
    logits = torch.where(labels[:, None] == 1, zeros.flip(1), zeros)
    found = pixel_cross_entropy(logits, labels, balance=balance, resize=resize)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    # With two classes, the two sigmoids of opposite logits have the losses of the softmax.
    halves = (logits - logits.flip(1)) / 2
    twice = pixel_bce(2 * halves, labels, balance=balance, resize=resize)
    assert twice.item() == pytest.approx(expected, rel=1e-6)


@each_device
@each_loss
def test_images_without_a_group_count_in_the_mean_over_images(loss, device):
    """The second image has no labelled pixel, the third one no foreground."""
    logits = torch.randn(3, 4, 2, 3, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.tensor([[[0, 1, 2], [0, 3, 255]], [[255] * 3] * 2, [[0, 255, 0], [0, 0, 0]]])
    labels = labels.to(device, torch.uint8)
    first = sum(
        loss(logits[:1], torch.where(group, labels[:1], 255))
        for group in (labels[:1] == 0, labels[:1] > 0)
    )
    expected = (first + loss(logits[2:], labels[2:])) / 3
    logits.requires_grad_()
    found = loss(logits, labels, balance="image")
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, logits)
    assert (gradient[1] == 0).all() and gradient[[0, 2]].abs().sum() > 0


@pytest.mark.parametrize("fill", [0, 1, 255])
@pytest.mark.parametrize("balance", ["none", "batch", "image"])
def test_an_empty_group_contributes_nothing_instead_of_nan(fill, balance):
    logits = torch.zeros(1, 4, 3, 3, requires_grad=True)
    loss = pixel_cross_entropy(
        logits, torch.full((1, 3, 3), fill, dtype=torch.uint8), balance=balance
    )
    loss.backward()
    expected = 0.0 if fill == 255 else math.log(4) * (0.5 if balance == "batch" else 1.0)
    assert loss.item() == pytest.approx(expected) and logits.grad.isfinite().all()


@each_device
@pytest.mark.parametrize("balance", ["batch", "image"])
def test_many_labels_are_counted(balance, device):
    """So many that on CUDA a kernel of its own adds up the counts."""
    logits = torch.linspace(-3, 3, 2 * 400 * 330).view(1, 2, 400, 330)
    labels = torch.arange(400 * 330).view(1, 400, 330) % 7 // 3  # 0, 1, and one in 7 is 2
    options = {"balance": balance, "ignore_index": 2}
    got = pixel_cross_entropy(logits.to(device), labels.to(device), **options)
    expected = reference.pixel_cross_entropy(logits.double(), labels, resize="labels", **options)
    assert abs(got.item() - expected.item()) < 1e-6
