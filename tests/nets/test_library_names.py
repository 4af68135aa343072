"""Backbones in the files of other libraries: their names, made up here, narrow."""

import copy
import re

import pytest
import torch
from safetensors.torch import save_file

from wsss_fast import InputError, nets
from wsss_fast.nets.deeplab import DeepLab
from wsss_fast.nets.heads import CamNet
from wsss_fast.nets.resnet import CaffeResNet101, ResNet
from wsss_fast.nets.segmentation_heads import conv1x1
from wsss_fast.nets.vgg16 import Vgg16

WIDTHS = (3, 4, 5, 6, 7)


def resnet():
    torch.manual_seed(1)
    return CamNet(ResNet((2, 1, 1, 2), (1, 2, 2, 1), width=4), 2)


def backbone_of(net):
    return net.backbone.state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def hugging_face_name(name):
    """Of transformers' ResNet, from torchvision's."""
    kinds = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"resnet.embedder.embedder.{kinds[stem[1]]}.{stem[2]}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
    place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}"
    if short := re.fullmatch(r"downsample\.(\d)\.(\w+)", rest):
        return f"{place}.shortcut.{kinds[short[1]]}.{short[2]}"
    kind, number, own = re.fullmatch(r"(conv|bn)(\d)\.(\w+)", rest).groups()
    return f"{place}.layer.{int(number) - 1}.{kinds[kind]}.{own}"


def hugging_face(state):
    return {hugging_face_name(name): value for name, value in state.items()}


ONES = torch.ones(1)
FILES = {
    "timm": lambda s: {**s, "fc.weight": ONES, "fc.bias": ONES},
    "smp": lambda s: {
        **prefixed("encoder.", s),
        "decoder.blocks.0.conv1.0.weight": ONES,
        "segmentation_head.0.bias": ONES,
    },
    "MMSegmentation": lambda s: {
        "meta": {"classes": ("a",)},
        "state_dict": {
            **prefixed("backbone.", s),
            "decode_head.conv_seg.weight": ONES,
            "auxiliary_head.convs.0.conv.weight": ONES,
        },
    },
    "MMPretrain": lambda s: {**prefixed("backbone.", s), "head.fc.weight": ONES},
    "MMDetection": lambda s: {**prefixed("backbone.", s), "neck.a.weight": ONES},
    "torchvision's DeepLab": lambda s: {
        **prefixed("backbone.", s),
        "classifier.0.convs.0.0.weight": ONES,
        "aux_classifier.0.weight": ONES,
    },
    "Hugging Face": lambda s: {**hugging_face(s), "classifier.1.weight": ONES},
    "Hugging Face without classifier": lambda s: {
        name.removeprefix("resnet."): value for name, value in hugging_face(s).items()
    },
    "smp in Lightning": lambda s: {
        "epoch": 3,
        "pytorch-lightning_version": "2.0",
        "state_dict": prefixed("model.", FILES["smp"](s)),
        "callbacks": {},
    },
}


@pytest.mark.parametrize("library", FILES)
def test_resnet_of_another_library(tmp_path, library):
    given, net = resnet(), resnet()
    state = {k: torch.rand_like(v) if v.is_floating_point() else v
             for k, v in backbone_of(given).items()}  # fmt: skip
    torch.save(FILES[library](state), tmp_path / "w.pth")
    head = net.head.weight.detach().clone()
    nets.load_weights(net, tmp_path / "w.pth")
    assert all(torch.equal(value, state[name]) for name, value in backbone_of(net).items())
    assert torch.equal(net.head.weight, head)
    if library == "smp":
        with pytest.raises(InputError, match=r"w\.pth: these weights do not fit CamNet"):
            nets.load_weights(net, tmp_path / "w.pth", complete=True)


def test_a_network_for_bgr_images_is_converted_as_torchvisions():
    """The first convolution, for which the layouts differ, is that of torchvision's file."""

    backbone = CaffeResNet101(width=2)
    found = DeepLab(backbone, 2, "conv1x1", conv1x1(backbone.out_channels, 3))
    wanted = copy.deepcopy(found)
    state = {k: torch.rand_like(v) if v.is_floating_point() else v
             for k, v in backbone_of(found).items()}  # fmt: skip
    nets.load_weights(found, FILES["MMSegmentation"](state))
    nets.load_weights(wanted, state | {"fc.weight": ONES})
    assert not torch.equal(found.backbone.conv1.weight, state["conv1.weight"])
    for name, value in backbone_of(wanted).items():
        assert torch.equal(value, found.backbone.state_dict()[name]), name


@pytest.mark.parametrize("library", ["torchvision", "timm", "smp", "MMPretrain"])
def test_vgg16_of_another_library(library):
    def net():
        torch.manual_seed(3)
        backbone = Vgg16(WIDTHS)
        return DeepLab(backbone, 2, "conv1x1", conv1x1(backbone.out_channels, 3))

    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    own = [n.rpartition(".")[0] for n, _ in net().backbone.named_parameters() if "weight" in n]
    torch.manual_seed(4)
    state = {}
    for position, name in zip(positions, own, strict=True):
        for kind in ("weight", "bias"):
            like = net().backbone.state_dict()[f"{name}.{kind}"]
            state[f"features.{position}.{kind}"] = torch.rand_like(like)
    files = {
        "torchvision": {**state, "classifier.0.weight": ONES},
        "timm": {**state, "pre_logits.fc1.weight": ONES, "head.fc.weight": ONES},
        "smp": {**prefixed("encoder.", state), "segmentation_head.0.weight": ONES},
        "MMPretrain": {**prefixed("backbone.", state), "head.fc.weight": ONES},
    }
    found = nets.load_weights(net(), files[library])
    for position, name in zip(positions[1:], own[1:], strict=True):
        loaded = found.backbone.state_dict()[f"{name}.weight"]
        assert torch.equal(loaded, state[f"features.{position}.weight"]), name


@pytest.mark.parametrize("name", ["backbone.stem.0", "conv1.0", "encoder.conv1.0"])
def test_a_resnet_with_another_stem_is_named(name):
    prefix = name.partition("stem")[0].partition("conv1")[0]
    state = {
        f"{name}.weight": ONES,
        f"{prefix}layer1.0.conv1.weight": ONES,
        "decode_head.a": ONES,
        "decoder.a": ONES,
    }
    with pytest.raises(InputError, match="weights: their ResNet begins with three convolutions"):
        nets.load_weights(resnet(), state)


def test_own_weights_keep_their_names(tmp_path):
    """Heads of this package next to a backbone are no other library's."""
    net, other = resnet(), resnet()
    torch.nn.init.normal_(net.head.weight)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "w.safetensors")
    nets.load_weights(other, tmp_path / "w.safetensors", complete=True)
    assert torch.equal(net.head.weight, other.head.weight)
