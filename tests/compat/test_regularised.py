"""wsss_fast.compat.regularised: what public callers pass, in other dtypes and on odd sizes."""

import copy

import pytest
import torch

from wsss_fast.compat.regularised import DenseCRFLoss, DenseEnergyLoss, get_energy_loss
from wsss_fast.ops import reference

NUMBERS = {"weight": 1e-4, "sigma_rgb": 15, "sigma_xy": 100, "scale_factor": 0.5}


def inputs(size=(13, 18)):
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator).float()
    probabilities = torch.randn(2, 4, *size, generator=generator).softmax(1)
    labels = torch.randint(0, 4, (2, 1, *size), generator=generator)
    labels[:, :, ::2] = 255
    return images, probabilities, torch.ones(2, *size), labels.byte()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    layer = DenseEnergyLoss(**NUMBERS)
    images, probabilities, rois, labels = inputs()
    given = probabilities.to(dtype).requires_grad_()
    loss = layer(images.to(dtype), given, rois.to(dtype), labels.long())
    loss.sum().backward()
    assert loss.shape == (1,) and loss.dtype == torch.float32 and given.grad.dtype == dtype
    levels = images.to(dtype).float()
    expected = layer(levels, given.detach().float(), rois, labels)
    torch.testing.assert_close(loss.detach(), expected, rtol=0, atol=0)


def test_under_autocast():
    images, _, rois, labels = inputs()
    head = torch.nn.Conv2d(3, 4, 1)
    boxes = [[0, 13, 0, 18], [2, 12, 0, 17]]
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(images / 255)
        loss = get_energy_loss(images / 58, logits, labels[:, 0], boxes, DenseEnergyLoss(**NUMBERS))
    loss.backward()
    assert loss.item() < 0 and head.weight.grad.abs().sum() > 0


def test_the_variants_are_those_of_the_reference():
    images, probabilities, rois, labels = inputs()
    for layer, given, recompute in (
        (DenseEnergyLoss(**NUMBERS), labels, True),
        (DenseEnergyLoss(**NUMBERS, recompute_scale_factor=False), labels, False),
        (DenseCRFLoss(**NUMBERS), None, False),
        (DenseCRFLoss(**NUMBERS, recompute_scale_factor=True), None, True),
    ):
        more = [] if given is None else [given]
        expected = reference.dense_energy_loss(
            images, probabilities, rois, given, **NUMBERS, recompute_scale_factor=recompute
        )
        torch.testing.assert_close(layer(images, probabilities, rois, *more)[0], expected)


def test_modules_can_be_printed_and_copied():
    for kind in (DenseEnergyLoss, DenseCRFLoss):
        layer = copy.deepcopy(kind(1e-7, 15, 100, 0.5))
        text = "sigma_rgb=15, sigma_xy=100, weight=1e-07, scale_factor=0.5"
        assert repr(layer) == f"{kind.__name__}({text})" and not layer.state_dict()


def test_wrong_arguments():
    images, probabilities, rois, labels = inputs()
    with pytest.raises(ValueError, match="probabilities .* NaN, infinite or below 0"):
        DenseEnergyLoss(**NUMBERS)(images, probabilities.log(), rois, labels)
    with pytest.raises(ValueError, match="image spans .*not normalised"):
        DenseCRFLoss(**NUMBERS)(images / 64 - 2, probabilities, rois)
    with pytest.raises(ValueError, match="labels is"):
        DenseEnergyLoss(**NUMBERS)(images, probabilities, rois, labels[..., :9])
