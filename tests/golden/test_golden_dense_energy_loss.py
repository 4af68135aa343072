"""dense_energy_loss and the modules around it against outputs of the public code."""

import pytest
import torch
from golden import cases, golden

from wsss_fast.compat.regularised import DenseCRFLoss, DenseEnergyLoss, get_energy_loss
from wsss_fast.ops import dense_energy_loss, reference

FILE = "dense_energy_loss"
# Of ToCo and SeCo, of AFA and RRM, of rloss: what their outputs are called, and the options.
VARIANTS = {
    "": {"recompute_scale_factor": True},
    "afa_": {"recompute_scale_factor": False},
    "rloss_": {"recompute_scale_factor": False},
}


def named(start):
    return [name for name in cases(FILE) if name.startswith(start)]


def stored(name):
    """The arrays of a case; floating point ones as float32 tensors, numbers as floats."""
    file, prefix, found = golden(FILE), f"{name}/", {}
    for key in file.files:
        if not key.startswith(prefix) or key.endswith("/note"):
            continue
        value = torch.from_numpy(file[key])
        if not value.dim():
            value = value.item()
        elif value.is_floating_point():
            value = value.float()
        found[key.removeprefix(prefix)] = value
    return found


def assert_near(loss, grad, wanted_loss, wanted_grad):
    torch.testing.assert_close(loss.detach().reshape(1).float(), wanted_loss, rtol=1e-5, atol=0)
    largest = wanted_grad.abs().max().item()
    torch.testing.assert_close(grad.float(), wanted_grad, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", named("case"))
def test_loss_and_gradient(name, variant):
    case = stored(name)
    # AFA's are only stored where they are different.
    prefix = "" if f"{variant}loss" not in case else variant
    wanted = case[f"{prefix}loss"], case[f"{prefix}grad"]
    seg, labels = case["seg"].requires_grad_(), None if variant == "rloss_" else case["label"]
    numbers = {k: case[k] for k in ("weight", "sigma_rgb", "sigma_xy", "scale_factor")}
    options = {**numbers, **VARIANTS[variant]}
    loss = dense_energy_loss(case["image"], seg, case["roi"], labels, **options)
    assert_near(loss, torch.autograd.grad(loss, seg)[0], *wanted)
    exact = case["seg"].detach().double().requires_grad_()
    loss = reference.dense_energy_loss(case["image"], exact, case["roi"], labels, **options)
    assert_near(loss, torch.autograd.grad(loss, exact)[0], *wanted)


@pytest.mark.parametrize("name", named("case"))
def test_modules(name):
    case = stored(name)
    seg = case["seg"].requires_grad_()
    numbers = [case[k] for k in ("weight", "sigma_rgb", "sigma_xy", "scale_factor")]
    image = case["image"].float()  # as in public code
    loss = DenseEnergyLoss(*numbers)(image, seg, case["roi"], case["label"])
    assert loss.shape == (1,) and loss.dtype == torch.float32
    assert_near(loss, torch.autograd.grad(loss, seg)[0], case["loss"], case["grad"])
    loss = DenseCRFLoss(*numbers)(image, seg, case["roi"])
    assert_near(loss, torch.autograd.grad(loss, seg)[0], case["rloss_loss"], case["rloss_grad"])


@pytest.mark.parametrize("name", named("caller"))
def test_get_energy_loss(name):
    case = stored(name)
    layer = DenseEnergyLoss(weight=1e-7, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
    logit = case["logit"].requires_grad_()
    image, label, box = (case[k] for k in ("image_normalised", "label", "img_box"))
    loss = get_energy_loss(image, logit, label, box, layer)
    loss.backward()
    assert_near(loss, logit.grad, case["loss"], case["grad"])
