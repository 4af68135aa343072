"""IRN's and DeepLabV2's networks, and weights of other projects; without golden data."""

import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from wsss_fast import InputError, nets
from wsss_fast.data.transforms import normalise, subtract_mean


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(64, 48), (61, 47), (33, 50)])
@pytest.mark.parametrize("backbone", ["resnet50", "small"])
def test_irn_is_at_stride_4(backbone, height, width):
    net = nets.irn_resnet50(backbone=backbone).eval()
    edge, displacement = net(torch.randn(2, 3, height, width))
    size = ((height - 1) // 4 + 1, (width - 1) // 4 + 1)
    assert edge.shape == (2, 1, *size) and displacement.shape == (2, 2, *size)


def test_irn_trains_its_branches_only():
    net = nets.irn_resnet50(backbone="small").train()
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    edge, displacement = net(torch.randn(2, 3, 32, 32))
    (edge.sum() + displacement.square().sum()).backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    branches = [*net.edge_parameters(), *net.displacement_parameters()]
    assert all(p.grad is not None for p in branches)
    assert {id(p) for p in branches} == {
        id(p) for name, p in net.named_parameters() if not name.startswith("backbone.")
    }
    assert all(torch.equal(v, net.backbone.state_dict()[k]) for k, v in before.items())


@torch.no_grad()
def test_mean_displacement_is_subtracted_at_inference_only():
    net = nets.irn_resnet50(backbone="small").eval()
    images = torch.randn(1, 3, 32, 32)
    plain = net(images)[1]
    net.mean_displacement.copy_(torch.tensor([1.0, -2.0]))
    assert_close(net(images)[1], plain - torch.tensor([1.0, -2.0])[:, None, None])
    assert_close(net.train()(images)[1], plain)


@torch.no_grad()
def test_deeplab_is_the_maximum_over_scales():
    net = nets.deeplabv2_resnet101(4, backbone="small").eval()
    images = torch.randn(2, 3, 64, 48)
    full, half, three_quarters, highest = _in_train_mode(net, images)
    assert full.shape == highest.shape == (2, 5, 8, 6)
    assert half.shape == (2, 5, 4, 3) and three_quarters.shape == (2, 5, 6, 5)
    resized = [
        torch.nn.functional.interpolate(x, (8, 6), mode="bilinear") for x in (half, three_quarters)
    ]
    assert_close(net.eval()(images), torch.maximum(full, torch.maximum(*resized)))
    assert_close(highest, net(images))


def _in_train_mode(net, images):
    """The list of train mode, with batch-norm on stored statistics, so that the modes agree."""
    net.train()
    net.backbone.eval()
    return net(images)


def test_deeplab_trains_convolutions_but_no_batch_norm():
    with torch.device("meta"):
        net = nets.deeplabv2_resnet101(20)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {
        name for name, _ in net.named_parameters() if "bn" in name or "downsample.1" in name
    }
    assert net.backbone.conv1.weight.requires_grad and not net.train().backbone.bn1.training
    # torchvision's ResNet-101 without fc
    assert sum(p.numel() for p in net.backbone.parameters()) == 42_500_160


@torch.no_grad()
def test_torchvisions_resnet101_is_converted_to_bgr_images():
    torch.manual_seed(0)
    rgb, bgr = nets.deeplabv2_resnet101(2).backbone, nets.deeplabv2_resnet101(2)
    rgb.bn1.running_mean.normal_()
    rgb.bn1.running_var.uniform_(0.5, 2)
    state = {**rgb.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    head = bgr.aspp.weight.clone()
    nets.load_weights(bgr, state)
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for_rgb, for_bgr = (torch.from_numpy(f(photo))[None] for f in (normalise, subtract_mean))
    theirs, ours = (
        net.bn1(net.conv1(x)) for net, x in ((rgb.eval(), for_rgb), (bgr.eval().backbone, for_bgr))
    )
    # The border is padded with another colour.
    assert_close(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=1e-4, atol=1e-4)
    assert torch.equal(bgr.aspp.weight, head)
    assert torch.equal(bgr.backbone.layer4[2].conv3.weight, rgb.layer4[2].conv3.weight)


def test_deeplabs_initialisation_from_coco():
    source, net = nets.deeplabv2_resnet101(2), nets.deeplabv2_resnet101(3)
    state = {
        k.removeprefix("base."): v
        for k, v in nets.public_state_dict(source).items()
        if ".aspp." not in k
    }
    state["fc.weight"] = torch.zeros(91, 2048, 1, 1)
    head = net.aspp.weight.clone()
    nets.load_weights(net, state)
    assert torch.equal(
        net.backbone.layer3[22].conv2.weight, source.backbone.layer3[22].conv2.weight
    )
    assert torch.equal(net.aspp.weight, head)
    with pytest.raises(InputError, match=r"missing: aspp\.weight, aspp\.bias"):
        nets.load_weights(net, state, complete=True)
    del state["layer4.block23.reduce.conv.weight"]
    with pytest.raises(InputError, match=r"missing: backbone\.layer3\.22\.conv1\.weight"):
        nets.load_weights(net, state)


def test_a_classifiers_weights_initialise_other_networks_but_are_not_complete():
    classifier = nets.cam_resnet50(4, backbone="small")
    for net in (nets.irn_resnet50(backbone="small"), nets.deeplabv2_resnet101(4, backbone="small")):
        nets.load_weights(net, classifier.state_dict())
        assert torch.equal(net.backbone.conv1.weight, classifier.backbone.conv1.weight)
        with pytest.raises(InputError, match="do not fit .*missing: .*unexpected: head.weight"):
            nets.load_weights(net, classifier.state_dict(), complete=True)


def test_public_names_need_the_published_network():
    for net in (
        nets.cam_resnet50(4, backbone="small"),
        nets.deeplabv2_resnet101(4, backbone="small"),
        nets.amn_resnet50(2, condition_at="layer3"),
        nets.amn_resnet50(2, condition_at=None),
        torch.nn.Linear(2, 2),
    ):
        with pytest.raises(InputError, match="has no public counterpart"):
            nets.public_state_dict(net)


def test_a_file_of_public_names_is_not_larger(tmp_path):
    net = nets.amn_resnet50(20)
    nets.save_weights(net, tmp_path / "ours.pth")
    torch.save(nets.public_state_dict(net), tmp_path / "public.pth")
    own, public = ((tmp_path / name).stat().st_size for name in ("ours.pth", "public.pth"))
    assert public < 1.02 * own  # copies share storage


class Code:
    """Content of a malicious file: unpickling it would call print."""

    def __reduce__(self):
        return print, ("this code must not run",)


def test_files_without_weights_are_an_error_of_one_line(tmp_path, capsys):
    net = nets.irn_resnet50(backbone="small")
    torch.save({"backbone.conv1.weight": Code()}, tmp_path / "code.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    nets.save_weights(net, tmp_path / "whole.pth")
    (tmp_path / "short.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:5000])
    for name in ("code.pth", "bare.pth", "short.pth"):
        with pytest.raises(InputError, match=rf"{name}: not a file of weights only") as raised:
            nets.load_weights(net, tmp_path / name)
        assert "\n" not in str(raised.value)
    assert "must not run" not in capsys.readouterr().out
    with pytest.raises(InputError, match="the dilated convolutions of aspp.weight differ in shape"):
        nets.load_weights(
            net,
            {"base.aspp.c0.weight": torch.zeros(2, 3), "base.aspp.c1.weight": torch.zeros(2, 4)},
        )
