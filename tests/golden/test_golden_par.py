"""PAR, PAMR and the functions around them against outputs of the public code."""

import pytest
import torch
from golden import cases, golden

from wsss_fast.compat.pamr import PAMR
from wsss_fast.compat.par import PAR, refine_cams_with_bkg_v2, refine_cams_with_cls_label
from wsss_fast.ops import pixel_adaptive_refine, reference

DILATIONS = (1, 2, 4, 8, 12, 24)  # of all public callers


def named(file, start):
    return [name for name in cases(file) if name.startswith(start)]


def arrays(file, name):
    """The tensors of a case; floating point ones as float32."""
    stored, prefix = golden(file), f"{name}/"
    found = {}
    for key in stored.files:
        if key.startswith(prefix) and not key.endswith("/note"):
            tensor = torch.from_numpy(stored[key])
            found[key.removeprefix(prefix)] = (
                tensor.float() if tensor.is_floating_point() else tensor
            )
    return found


def assert_near(ours, stored, tolerance):
    """`tolerance` is that of the largest stored value."""
    torch.testing.assert_close(
        ours.to(stored.dtype), stored, rtol=0, atol=tolerance * stored.abs().max().item()
    )


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("par", "pamr") for name in named(kind, "case")]
)
def test_values_and_gradients(kind, name):
    case = arrays(kind, name)
    options = {"dilations": case["dilations"].tolist(), "iterations": int(case["num_iter"])}
    mask = case["mask"].requires_grad_()
    out = pixel_adaptive_refine(case["image"], mask, kind=kind, **options)
    assert_near(out.detach(), case["out"], 1e-5)
    (grad,) = torch.autograd.grad(out, mask, case["cotangent"])
    assert_near(grad, case["grad_mask"], 1e-5)
    image = case["image"].double().requires_grad_()
    out = reference.pixel_adaptive_refine(image, mask.double(), kind=kind, **options)
    if options["iterations"]:
        (grad,) = torch.autograd.grad(out, image, case["cotangent"].double())
        assert_near(grad, case["grad_image"], 1e-4)


@pytest.mark.parametrize("name", named("par", "weclip"))
def test_par_of_weclip(name):
    case = arrays("par", name)
    out = PAR(DILATIONS, num_iter=20, resized="image")(case["image"], case["mask"])
    assert_near(out, case["out"], 1e-5)


@pytest.mark.parametrize("name", named("pamr", "caller"))
def test_pamr_of_1_stage_wseg(name):
    case = arrays("pamr", name)
    image = torch.nn.functional.interpolate(
        case["image"], case["mask"].shape[2:], mode="bilinear", align_corners=True
    )
    assert_near(PAMR(10, DILATIONS)(image, case["mask"]), case["out"], 1e-5)


def present_maps(case, values, channels):
    """Maps [B, channels, H, W] of which only the present ones are stored."""
    batch, _, height, width = case["image"].shape
    maps = torch.zeros(batch, channels, height, width)
    maps[case["present_image"], case["present_class"]] = case[values]
    return maps


@pytest.mark.parametrize("by", [PAR, lambda *given: PAR(*given).forward], ids=["par", "other"])
@pytest.mark.parametrize("name", named("par", "bkg"))
def test_refine_cams_with_bkg_v2(name, by):
    case = arrays("par", name)
    label = refine_cams_with_bkg_v2(
        by(DILATIONS, 10),
        images=case["image"],
        cams=present_maps(case, "cams_present", 20),
        cls_labels=case["cls_labels"],
        high_thre=case["high_thre"].item(),
        low_thre=case["low_thre"].item(),
        ignore_index=255,
        img_box=case["img_box"],
    )
    assert label.dtype == torch.float32
    assert (label.byte() != case["refined_label"]).float().mean() <= 1e-3


@pytest.mark.parametrize("name", named("par", "cls"))
def test_refine_cams_with_cls_label(name):
    case = arrays("par", name)
    refined = refine_cams_with_cls_label(
        PAR(DILATIONS, 10),
        images=case["image"],
        labels=case["labels"],
        cams=present_maps(case, "cams_present", 21),
        img_box=case["img_box"].tolist(),
    )
    assert_near(refined, present_maps(case, "refined_present", 21), 1e-5)
