"""Networks and their weights."""

import pytest
import torch

from wsss_fast import InputError, RunError, nets


@pytest.fixture(scope="module")
def small_cam():
    torch.manual_seed(0)
    return nets.cam_resnet50(4, backbone="small").eval()


@torch.inference_mode()
def test_shapes(small_cam):
    images = torch.randn(2, 3, 64, 48)
    assert small_cam(images).shape == (2, 4) and small_cam.maps(images).shape == (2, 4, 8, 6)
    assert (small_cam.maps(images) >= 0).all()
    amn = nets.amn_resnet50(4, backbone="small").eval()
    assert amn(images, torch.ones(2, 4)).shape == (2, 5, 8, 6)
    assert sum(p.numel() for p in small_cam.parameters()) < 530_000


@torch.inference_mode()
def test_scores_are_the_mean_of_the_maps_before_relu(small_cam):
    images = torch.randn(1, 3, 32, 32)
    maps = small_cam.head(small_cam.features(images))
    torch.testing.assert_close(small_cam(images), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_resnet50_is_the_papers():
    with torch.device("meta"):
        cam, amn = nets.cam_resnet50(20), nets.amn_resnet50(20)
    assert cam.maps(torch.zeros(1, 3, 97, 129, device="meta")).shape == (1, 20, 7, 9)
    images, labels = torch.zeros(1, 3, 97, 129, device="meta"), torch.zeros(1, 20, device="meta")
    assert amn(images, labels).shape == (1, 21, 7, 9)
    # torchvision's ResNet-50 without fc
    assert sum(p.numel() for p in cam.backbone.parameters()) == 23_508_032
    frozen = {name for name, p in cam.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1.weight", "bn1.weight", "bn1.bias"} and amn.dilations == (6, 12, 18, 24)


def statistics_change(net, *inputs):
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    net.train()
    net(*inputs)
    return any(not torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_batch_norm_statistics():
    images = torch.randn(2, 3, 32, 32)
    assert statistics_change(nets.cam_resnet50(4, backbone="small"), images)
    assert not statistics_change(nets.amn_resnet50(4, backbone="small"), images, torch.ones(2, 4))
    assert not statistics_change(nets.cam_resnet50(2), images)


@torch.inference_mode()
def test_label_conditioning_and_its_ablations():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    a, b = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 0]])
    for place in ("layer1", "layer2", "layer4"):
        net = nets.amn_resnet50(3, backbone="small", condition_at=place).eval()
        # The scale is initialised to 1 for every label.
        torch.testing.assert_close(net(images, a), net(images, b))
        torch.nn.init.normal_(net.label_scale.weight)
        assert not torch.allclose(net(images, a), net(images, b), atol=1e-7), place
        assert not any(m._forward_hooks for m in net.modules())
    net = nets.amn_resnet50(3, backbone="small", condition_at=None).eval()
    torch.testing.assert_close(net(images, a), net(images, b))
    with pytest.raises(ValueError, match="condition_at: got 'layer9'"):
        nets.amn_resnet50(3, backbone="small", condition_at="layer9")


def test_inference_is_deterministic_and_training_is_not():
    net = nets.amn_resnet50(3, backbone="small").eval()
    images, labels = torch.randn(1, 3, 32, 32), torch.ones(1, 3)
    assert torch.equal(net(images, labels), net(images, labels))
    net.train()
    assert not torch.equal(net(images, labels), net(images, labels))


def test_files_of_this_package(small_cam, tmp_path):
    nets.save_weights(small_cam, tmp_path / "w.pth")
    again = nets.load_weights(nets.cam_resnet50(4, backbone="small"), tmp_path / "w.pth")
    for key, value in small_cam.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert nets.fingerprint(tmp_path / "w.pth") and nets.fingerprint(None) is None


def test_an_amn_is_initialised_from_a_classifier(small_cam):
    amn = nets.load_weights(nets.amn_resnet50(4, backbone="small"), small_cam.state_dict())
    assert torch.equal(amn.backbone.conv1.weight, small_cam.backbone.conv1.weight)


def test_public_and_torchvision_names():
    net = nets.cam_resnet50(3)
    state = {
        ("module.resnet50." + k.removeprefix("backbone."))
        if k.startswith("backbone.")
        else "module.classifier.weight": v
        for k, v in net.state_dict().items()
    }
    state["module.stage1.0.weight"] = state["module.resnet50.conv1.weight"]
    loaded = nets.load_weights(nets.cam_resnet50(3), state)
    assert torch.equal(loaded.head.weight, net.head.weight)
    torchvision = {
        k.removeprefix("backbone."): v
        for k, v in net.state_dict().items()
        if k.startswith("backbone.")
    }
    torchvision["fc.weight"] = torch.zeros(1000, 2048)
    fresh = nets.cam_resnet50(7)
    head = fresh.head.weight.clone()
    nets.load_weights(fresh, torchvision)
    assert torch.equal(fresh.backbone.layer4[2].conv3.weight, net.backbone.layer4[2].conv3.weight)
    assert torch.equal(fresh.head.weight, head)


def test_errors_of_weights_list_what_is_wrong(small_cam, tmp_path):
    state = dict(small_cam.state_dict())
    with pytest.raises(
        InputError, match=r"wrong shape: head\.weight is \(4, 96, 1, 1\), needs \(5, 96, 1, 1\)"
    ):
        nets.load_weights(nets.cam_resnet50(5, backbone="small"), state)
    del state["backbone.conv1.weight"]
    with pytest.raises(InputError, match=r"missing: backbone\.conv1\.weight"):
        nets.load_weights(nets.cam_resnet50(4, backbone="small"), state)
    with pytest.raises(InputError, match="unexpected: x"):
        nets.load_weights(
            nets.cam_resnet50(4, backbone="small"), {**small_cam.state_dict(), "x": torch.zeros(1)}
        )
    headless = {k: v for k, v in small_cam.state_dict().items() if not k.startswith("head.")}
    with pytest.raises(InputError, match=r"missing: head\.weight"):
        nets.load_weights(nets.cam_resnet50(4, backbone="small"), headless)
    for source, message in (
        (small_cam, r"weights: is a CamNet, must be .*; pass its state_dict\(\)"),
        (3, "weights: is a int, must be a file or a state dict$"),
    ):
        with pytest.raises(InputError, match=message):
            nets.load_weights(small_cam, source)
    with pytest.raises(InputError, match=r"nowhere\.pth: no such weights file"):
        nets.load_weights(small_cam, tmp_path / "nowhere.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pth: not a file of weights only"):
        nets.load_weights(small_cam, tmp_path / "text.pth")
    torch.save({"a": object}, tmp_path / "pickle.pth")
    with pytest.raises(InputError, match=r"pickle\.pth"):
        nets.load_weights(small_cam, tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="backbone: got 'resnet51'"):
        nets.cam_resnet50(4, backbone="resnet51")


def test_weights_of_another_network_are_recognised(small_cam, tmp_path):
    def message(net, state, **options):
        with pytest.raises(InputError) as raised:
            nets.load_weights(net, state, **options)
        return str(raised.value)

    small = small_cam.state_dict()
    text = message(nets.cam_resnet50(4), small)
    assert text.endswith(
        "do not fit CamNet (their backbone is small, not resnet50: "
        "use --backbone small, or weights of resnet50)"
    )
    assert "backbone is resnet50, not small: use --backbone resnet50" in message(
        nets.cam_resnet50(4, backbone="small"), nets.cam_resnet50(4).state_dict()
    )
    assert "needs (5, 96, 1, 1): they are for 4 classes, not 5" in message(
        nets.cam_resnet50(5, backbone="small"), small
    )
    amn = nets.amn_resnet50(4, backbone="small").state_dict()
    assert "label_scale.bias; they are of an AMN, not of a classifier" in message(
        nets.cam_resnet50(4, backbone="small"), amn, complete=True
    )
    assert "missing: head.weight; they are of a backbone alone" in message(
        nets.cam_resnet50(4, backbone="small"), small_cam.backbone.state_dict(), complete=True
    )
    with torch.device("meta"):
        deep = nets.cam_resnet50(4).backbone.state_dict()
    shallow = {
        k: torch.zeros(v.shape) for k, v in deep.items() if not k.startswith(("layer3.5", "fc"))
    }
    assert "ResNet" not in message(nets.cam_resnet50(4), shallow)  # of no known network
    nets.save_weights(small_cam, tmp_path / "w.pth")
    nets.check("small", tmp_path / "w.pth")
    for backbones, backbone in (
        (nets.BACKBONES, "resnet50"),
        (nets.SALIENCY_BACKBONES, "resnet38"),
    ):
        with pytest.raises(InputError, match=f"w.pth: .*backbone is small, not {backbone}"):
            nets.check(backbone, tmp_path / "w.pth", backbones)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    net = nets.cam_resnet50(2, backbone="small")
    with torch.no_grad():
        net.head.weight[0] = torch.nan
    with pytest.raises(
        RunError, match=r"w\.pth: not written: head\.weight has values that are NaN"
    ):
        nets.save_weights(net, tmp_path / "w.pth")
    assert not list(tmp_path.iterdir())
