"""Start files of the published segmentation rows: made-up weights in the layouts of public code."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from wsss_fast import InputError, nets
from wsss_fast.data.transforms import normalise, subtract_mean
from wsss_fast.nets import recognition
from wsss_fast.nets import segmentation_heads as heads
from wsss_fast.nets.names import from_public
from wsss_fast.nets.resnet import CaffeResNet101
from wsss_fast.nets.vgg16 import Vgg16
from wsss_fast.nets.wide_resnet38 import WideResNet38

# Convolutions of VGG16: name in Caffe, position in a torch sequence, in and out channels (narrow).
WIDTHS = (3, 4, 5, 6, 7)
LAYERS = [
    ("conv1_1", 0, 3, 3),
    ("conv1_2", 2, 3, 3),
    ("conv2_1", 5, 3, 4),
    ("conv2_2", 7, 4, 4),
    ("conv3_1", 10, 4, 5),
    ("conv3_2", 12, 5, 5),
    ("conv3_3", 14, 5, 5),
    ("conv4_1", 17, 5, 6),
    ("conv4_2", 19, 6, 6),
    ("conv4_3", 21, 6, 6),
    ("conv5_1", 24, 6, 7),
    ("conv5_2", 26, 7, 7),
    ("conv5_3", 28, 7, 7),
]
FC6, FC7, FC8 = ("fc6", 7, 8, 3), ("fc7", 8, 8, 1), ("fc8", 8, 3, 1)


def made_up(*layers):
    """Random weights of layers (name, in, out, kernel size)."""
    torch.manual_seed(len(layers))
    state = {}
    for name, channels, width, kernel in layers:
        state[f"{name}.weight"] = torch.randn(width, channels, kernel, kernel)
        state[f"{name}.bias"] = torch.randn(width)
    return state


def vgg16_file(kind):
    """A start file of VGG16, and the public name of each of our layers in it."""
    if kind == "vgg16_20M of psa":
        names = {name: name for name, *_ in LAYERS} | {"fc6": "fc6", "fc7": "fc7"}
    elif kind == "vgg16_20M of PoolNet":
        names = {name: str(n) for name, n, *_ in LAYERS} | {"fc6": "31", "fc7": "34"}
    elif kind == "deeplab_largeFOV":
        names = {name: f"features.{n}" for name, n, *_ in LAYERS}
        names |= {"fc6": "features.32", "fc7": "features.35", "fc8": "features.38"}
    else:
        names = {name: f"features.{n}" for name, n, *_ in LAYERS}
    sizes = {name: (channels, width, 3) for name, _, channels, width in LAYERS}
    sizes |= {name: size for name, *size in (FC6, FC7, FC8)}
    state = made_up(*((names[name], *sizes[name]) for name in names))
    if kind == "torchvision":
        for n in (0, 3, 6):
            state |= {f"classifier.{n}.weight": torch.ones(2, 2)}
    return state, names


def largefov():
    return nets.DeepLab(Vgg16(WIDTHS, 8), 2, "largefov", heads.fc8(8, 3))


def aspp():
    return nets.DeepLabV2(Vgg16(WIDTHS), 2, heads.DeepAspp(7, 3, (6, 12), width=4), ())


@pytest.mark.parametrize(
    "kind", ["vgg16_20M of psa", "vgg16_20M of PoolNet", "deeplab_largeFOV", "torchvision"]
)
@pytest.mark.parametrize("make", [largefov, aspp], ids=["largefov", "aspp"])
def test_vgg16_start_files(tmp_path, kind, make):
    """Every tensor that the network has comes from the file; all others stay."""
    state, names = vgg16_file(kind)
    net = make()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    nets.load_weights(net, tmp_path / "vgg16.pth")
    taken = {"largefov.fc8": names["fc8"]} if "fc8" in names and make is largefov else {}
    taken |= {
        f"backbone.layers.{own}": public
        for own, public in names.items()
        if f"backbone.layers.{own}.weight" in before
    }
    assert len(taken) >= 13
    for name, value in net.state_dict().items():
        layer, _, kind_of_value = name.rpartition(".")
        if kind == "torchvision" and layer.endswith("conv1_1"):
            continue  # converted, see below
        want = before[name] if layer not in taken else state[f"{taken[layer]}.{kind_of_value}"]
        assert torch.equal(value, want), name


@torch.no_grad()
def test_torchvisions_vgg16_is_converted_to_bgr_images():
    state, _ = vgg16_file("torchvision")
    net = nets.load_weights(largefov(), state)
    photo = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    for_rgb, for_bgr = (torch.from_numpy(f(photo))[None] for f in (normalise, subtract_mean))
    theirs = torch.nn.functional.conv2d(
        for_rgb, state["features.0.weight"], state["features.0.bias"]
    )
    ours = net.backbone.layers.conv1_1(for_bgr)[..., 1:-1, 1:-1]  # the padding is another colour
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def resnet101(head):
    make = {
        "aspp": lambda: heads.Aspp(32, 3, (6, 12)),
        "largefov": lambda: heads.large_fov(32, 3, 5, 12),
        "conv1x1": lambda: heads.conv1x1(32, 3),
    }[head]
    if head == "aspp":
        return nets.DeepLabV2(CaffeResNet101(width=1), 2, make(), ())
    return nets.DeepLab(CaffeResNet101(width=1), 2, head, make())


@pytest.mark.parametrize("size", [91, 1000], ids=["coco", "imagenet"])
def test_deeplabs_resnet101_start_files(size):
    """`deeplabv1_resnet101-coco.pth` and `-imagenet.pth`: names of `base`, and a classifier.

    The names in the second one are those that DeepLabV2's loader needs; the file itself was not
    available.
    """
    source = resnet101("conv1x1")
    state = {
        k.removeprefix("base."): v
        for k, v in nets.public_state_dict(source).items()
        if not k.startswith("base.fc.")
    }
    assert "layer5.block3.increase.bn.running_var" in state and "layer1.conv1.conv.weight" in state
    shape = (size, 32, 1, 1) if size == 91 else (size, 32)
    state |= {"fc.weight": torch.zeros(shape), "fc.bias": torch.zeros(size)}
    for head in ("conv1x1", "largefov", "aspp") if size == 91 else ("aspp",):
        net = resnet101(head)
        before = {k: v.clone() for k, v in net.state_dict().items() if k.startswith(head)}
        nets.load_weights(net, state)
        after = net.state_dict()
        for name, value in source.backbone.state_dict().items():
            assert torch.equal(after[f"backbone.{name}"], value), name
        assert all(torch.equal(after[k], v) for k, v in before.items()) and before
    with pytest.raises(InputError, match=r"missing: aspp\..*of a backbone alone"):
        nets.load_weights(net, state, complete=True)


def resnet38(head):
    seam = head == "seam"
    module = heads.seam(64, 3, 5, 12, 3e-4) if seam else heads.mctformer(64, 3, 5, 12)
    return nets.DeepLab(WideResNet38(width=1), 2, head, module)


ROUND_TRIPS = {
    "resnet101 aspp": (
        lambda: resnet101("aspp"),
        {"base.layer4.block23.reduce.conv.weight", "base.aspp.c1.bias"},
    ),
    "resnet101 conv1x1": (
        lambda: resnet101("conv1x1"),
        {"base.layer4.block23.reduce.conv.weight", "base.fc.weight"},
    ),
    "vgg16 largefov": (largefov, {"block_4.conv3.weight", "conv6.weight", "conv8.bias"}),
    "vgg16 aspp": (aspp, {"base.layer1.8.0.weight", "base.layer2.2.0.bias", "base.aspp.c1.6.bias"}),
    "resnet38 seam": (
        lambda: resnet38("seam"),
        {"backbone.b3_1.conv_branch2a.weight", "conv_fov2.weight", "bn_fov.running_mean"},
    ),
    "resnet38 mctformer": (
        lambda: resnet38("mctformer"),
        {"b7.bn_branch2b2.running_var", "fc8_seg_conv1.weight", "fc8_seg_conv2.bias"},
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_names_of_public_checkpoints_both_ways(name):
    make, some = ROUND_TRIPS[name]
    source, net = make(), make()
    with torch.no_grad():
        for value in source.state_dict().values():
            if value.is_floating_point():
                value.uniform_()
    public = nets.public_state_dict(source)
    assert some <= public.keys()
    assert not any(k.startswith(source.head_name) for k in public)
    nets.load_weights(net, {f"module.{k}": v for k, v in public.items()}, complete=True)
    after = net.state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(after[key], value), key


def test_largefov_on_resnet101_has_no_public_pytorch_network():
    with pytest.raises(InputError, match="has no public counterpart; it must have the published"):
        nets.public_state_dict(resnet101("largefov"))


def test_resnet38_start_files():
    """ImageNet's `.pth`, without a classifier, and a classifier of VOC, as MCTformer's start."""
    source = nets.CamNet(WideResNet38(width=1), 20)
    classifier = nets.public_state_dict(source)
    imagenet = {k: v for k, v in classifier.items() if k != "fc8.weight"}
    assert len(imagenet) == len(classifier) - 1 and "conv1a.weight" in imagenet
    for head, state in (("seam", imagenet), ("mctformer", classifier)):
        net = resnet38(head)
        before = getattr(net, head).conv1.weight.clone()
        nets.load_weights(net, state)
        after = net.backbone.stage7[0].conv3.weight
        assert torch.equal(after, source.backbone.stage7[0].conv3.weight)
        assert torch.equal(getattr(net, head).conv1.weight, before)
        with pytest.raises(InputError, match=rf"missing: {head}\."):
            nets.load_weights(net, state, complete=True)


def test_a_file_of_another_network_is_named():
    """On networks of full size without values."""
    with torch.device("meta"):
        vgg16, with_fc = Vgg16().state_dict(), Vgg16(fc_width=1024).state_dict()
        deep = nets.deeplab(20, head="conv1x1")
        largefov20 = nets.deeplab(20, backbone="vgg16", head="largefov")
        seam20, seam80 = (nets.deeplab(n, backbone="resnet38", head="seam") for n in (20, 80))
        mctformer20 = nets.deeplab(20, backbone="resnet38", head="mctformer")

    def described(state, net):
        return recognition.describe_mismatch(from_public(state), net, "problems")

    caffe = {k.removeprefix("layers."): v for k, v in with_fc.items()}
    positions = {name: f"features.{n}" for name, n, *_ in LAYERS}
    torchvision = {
        k.removeprefix("layers.").replace(name, position): v
        for k, v in vgg16.items()
        for name, position in positions.items()
        if f".{name}." in k
    }
    assert len(torchvision) == 26
    for state in (caffe, torchvision):
        assert described(state, deep).startswith(
            "their backbone is vgg16, not resnet101: use --backbone vgg16, or weights of resnet101"
        )
    state = seam20.state_dict()
    assert described(state, largefov20).startswith("their backbone is resnet38, not vgg16")
    assert described(state, mctformer20) == (
        "problems; they are of DeepLab with head seam, not of DeepLab with head mctformer"
    )
    assert described(state, seam80) == "problems: they are for 20 classes, not 80"
