"""Networks optimized for inference have the same outputs, with torch's and AMX convolutions."""

import copy

import pytest
import torch
from golden import filled, golden, needs_golden
from torch import nn

from wsss_fast import nets
from wsss_fast.engine.runtime import Runtime
from wsss_fast.nets import inference, segmentation_heads
from wsss_fast.nets.vgg16 import Vgg16
from wsss_fast.nets.wide_resnet38 import Unit

CPU = Runtime(torch.device("cpu"), 0, 0, torch.float32)
HALF = Runtime(torch.device("cpu"), 0, 0, torch.bfloat16)
# Allowed errors, of the largest output of a whole network, with torch's convolutions and with AMX.
TORCH, AMX = 5e-6, 5e-5


def outputs(net, images):
    with torch.inference_mode():
        if isinstance(net, nets.AmnNet):
            return [net(images, torch.eye(len(images), net.num_classes, dtype=images.dtype))]
        found = net(images)
        found = list(found) if isinstance(found, tuple) else [found]
        return found + ([net.maps(images)] if isinstance(net, nets.CamNet) else [])


def largest_error(net, images, amx=True):
    """Largest error of any output after optimization, in units of the output's largest value."""
    exact = outputs(copy.deepcopy(net).double(), images.double())
    found = outputs(nets.optimize_for_inference(copy.deepcopy(net), CPU, amx=amx), images)
    assert len(found) == len(exact)
    return max(
        ((ours - want).abs().max() / want.abs().max()).item()
        for ours, want in zip(found, exact, strict=True)
    )


def trained(net):
    """As if trained: random statistics and weights, activations near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                noise = 1 + 0.3 * noise.abs()
            elif value.dim() >= 4:
                noise /= value[..., 0, 0].numel() ** 0.5 / value.shape[-4] ** 0.5 * value.shape[-1]
            else:
                noise = name.endswith("weight") * 1.0 + 0.3 * noise
            value.copy_(noise)
    return net.eval()


NETWORKS = {
    "cam small": lambda: nets.cam_resnet50(5, backbone="small"),
    "amn small": lambda: nets.amn_resnet50(5, backbone="small"),
    "amn inside": lambda: nets.amn_resnet50(5, backbone="small", condition_at="layer2"),
    "irn small": lambda: nets.irn_resnet50(backbone="small"),
    "eps small": lambda: nets.eps_resnet38(5, backbone="small"),
    "seg small": lambda: nets.deeplabv2_resnet101(5, backbone="small"),
    "seg largefov": lambda: nets.deeplab(5, backbone="small", head="largefov", scales=()),
    "seg seam": lambda: nets.deeplab(5, backbone="small", head="seam", scales=()),
    "seg vgg16": lambda: nets.DeepLab(
        Vgg16((8, 8, 16, 32, 32), 32), 5, "largefov", segmentation_heads.fc8(32, 6)
    ),
    "cam50": lambda: nets.cam_resnet50(5),
    "eps38": lambda: nets.eps_resnet38(5),
}


@pytest.mark.parametrize("amx", [True, False], ids=["amx", "torch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_outputs(name, amx, monkeypatch):
    monkeypatch.setattr(inference, "is_profitable", lambda: True)
    images = torch.randn(2, 3, 45, 61, generator=torch.Generator().manual_seed(1))
    assert largest_error(trained(NETWORKS[name]()), images, amx) <= (AMX if amx else TORCH)


def test_which_modules_are_converted(monkeypatch):
    monkeypatch.setattr(inference, "is_profitable", lambda: True)
    for make, count in ((lambda: nets.eps_resnet38(5), 42), (lambda: nets.cam_resnet50(5), 45)):
        net = nets.optimize_for_inference(make(), CPU, amx=True)
        assert not any(
            isinstance(m, (nn.BatchNorm2d, nn.Dropout2d, nn.ReLU, Unit))
            for m in net.backbone.modules()
        )
        assert not any(p.requires_grad for p in net.parameters()) and not net.training
        assert sum(m.amx for m in net.modules() if isinstance(m, inference.Convolution)) == count
        half = nets.optimize_for_inference(make(), HALF, amx=True)
        assert not any(m.amx for m in half.modules() if isinstance(m, inference.Convolution))


def test_sequences_are_fused():
    """Nothing but convolutions is left to compute in the heads and in VGG16, and poolings."""
    for name in ("seg largefov", "seg seam", "seg vgg16"):
        net = nets.optimize_for_inference(NETWORKS[name](), CPU)
        assert not any(isinstance(m, (nn.BatchNorm2d, nn.ReLU, nn.Conv2d)) for m in net.modules())


def test_inputs_are_not_written_to():
    net = nets.optimize_for_inference(trained(nets.eps_resnet38(5, backbone="small")), CPU)
    images = torch.randn(1, 3, 32, 32)
    before = images.clone()
    first = outputs(net, images)
    assert torch.equal(images, before)
    assert all(torch.equal(a, b) for a, b in zip(first, outputs(net, images), strict=True))


def test_a_norm_cannot_be_folded_into_an_identity_shortcut():
    with pytest.raises(ValueError, match="shortcut is a convolution"):
        inference._PreActivated(Unit((32, 32, 32), (3, 3)), False, last=nn.BatchNorm2d(32))


@needs_golden
@pytest.mark.parametrize(
    ("make", "weights", "file", "images"),
    [
        (lambda: nets.eps_resnet38(20), "eps_resnet38_eps_21", "eps_net", "img"),
        (lambda: nets.cam_resnet38(20), "eps_resnet38_cls_20", "eps_net", "img"),
        (lambda: nets.cam_resnet50(20), "amn_resnet50_cam", "amn_net", "img"),
        (lambda: nets.amn_resnet50(20), "amn_resnet50_amn", "amn_net", "img"),
        (nets.irn_resnet50, "irn_resnet50_irn", "irn_net", "img"),
        (
            lambda: nets.deeplabv2_resnet101(20),
            "deeplabv2_resnet101_msc_21",
            "deeplab_net",
            "input_scaled",
        ),
    ],
    ids=["eps", "cls", "cam", "amn", "irn", "seg"],
)
def test_public_networks(make, weights, file, images):
    assert largest_error(filled(make(), weights), torch.from_numpy(golden(file)[images])) <= AMX
